"""What an operator's rule may say: the vocabulary of `onnx_grow.operators`.

A rule is called with one `Node` and states equations between the dimensions of its inputs and outputs. It says

- which dimensions are the same (`set`, `unify`), must keep their size (`freeze`, `position`) or take statistics (`uniform`);
- over which dimensions two operands are contracted (`contract`), so that the copies' contributions still sum to the original;
- where indices are chosen by number (`choose`), and along which dimensions neighbours meet (`window`);
- which attributes and shape inputs hold sizes, and of what (`size_attribute`, `size_input`), or depend on them (`tune`);
- which attributes are weights (`listed`);
- that new indices need not be copies (`apart`), and which must be all the same (`replicate`);
- which inputs are integers that stand for numbers (`quantized`);
- what part a dimension plays (`role`), and which only weights have (`inside`).

Everything that a rule says of weights follows from their dimensions: no rule touches a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from onnx_grow.axes.algebra import Algebra, Dim, Sum, axis, resolve, size

Role = Literal["groups", "heads", "head_dim", "state", "residual", "embedding"]


class Unsupported(Exception):
    """A rule cannot describe this node; every dimension it touches freezes, for the reason given."""


def unsupported(reason: str) -> Callable[[Node], None]:
    """What to state of an operator that freezes all it touches, for a `reason`."""

    def state(node: Node) -> None:
        raise Unsupported(reason)

    return state


@dataclass(frozen=True)
class Rule:
    """How one operator treats axes.

    `state` says the equations of a node. `addends` tells how a positive scale moves from the result to the operands: the
    result is scaled when every addend is, each through any one of the inputs listed for it. A convolution's result is
    scaled through its kernel and its bias, `((1,), (2,))`; "each" means every input, None that no scale passes.
    """

    state: Callable[[Node], object]
    addends: tuple[tuple[int, ...], ...] | Literal["each"] | None = None


@dataclass(frozen=True)
class Contraction:
    """Copies of `over` are summed: scaling one of `operands` by `count ** power` keeps the result.

    `operands` are (input, position of the dimension that is or contains `over`) pairs; any one of them may take the scale.
    """

    node: int
    over: Dim
    operands: tuple[tuple[int, int], ...]
    power: float = -1.0


@dataclass(frozen=True)
class Dilution:
    """Copies dilute a result: with `count` copies of each index, output 0 comes out as 1 / `count ** power` of what it was.

    With `logits` the indices may have different numbers of copies, if those of input 0 are less by the logarithm of their number.
    """

    node: int
    position: int
    power: float
    logits: bool = False


@dataclass(frozen=True)
class Choice:
    """`channels` of `source`, the dimension at `position` of input 0, stand along `result`, that of output 0."""

    node: int
    position: int
    source: Dim
    result: Dim
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Each index of a dimension, of input 0 and output 0 alike, is computed from those up to `reach` away; beyond its ends are zeros."""

    node: int
    position: int
    reach: int


@dataclass(frozen=True)
class Negated:
    """The size of a dimension, counted from the end: an index of minus that."""

    dim: Dim


Element = Dim | Negated | None


@dataclass(frozen=True)
class SizedAttribute:
    """An attribute that holds sizes: `elements[k]` is the dimension whose size it holds, or None for what stays."""

    node: int
    name: str
    elements: tuple[Element, ...]
    scalar: bool


@dataclass(frozen=True)
class SizedInput:
    """An input that holds sizes, element by element, as `SizedAttribute` does for attributes.

    Elements that hold -1 (inferred) or 0 where `zero_copies` (taken over from the data) stay what they are. Where elements say
    where to cut, `within` are the dimensions that they cut.
    """

    node: int
    input: int
    elements: tuple[Element, ...]
    zero_copies: bool = False
    within: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class ListedAttribute:
    """An attribute that holds the numbers of a tensor of `dims`, row by row; copies of `over` are summed."""

    node: int
    name: str
    dims: tuple[Dim, ...]
    over: Dim


@dataclass(frozen=True)
class Tuned:
    """An attribute that holds `value`, or means it when absent, and becomes `value * growth ** power` when `dim` grows."""

    node: int
    name: str
    value: float
    dim: Dim
    power: float


@dataclass
class Statements:
    """All that the rules have said of a graph.

    `statistics` are the nodes that take some over a dimension, `positions` the dimensions along which channels repeat.
    `zeros` holds for each quantized input (node, input) the integer that stands for zero, None when there are several or it is
    not known.
    """

    algebra: Algebra = field(default_factory=Algebra)
    contractions: list[Contraction] = field(default_factory=list)
    dilutions: list[Dilution] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    attributes: list[SizedAttribute] = field(default_factory=list)
    sized_inputs: dict[tuple[int, int], SizedInput] = field(default_factory=dict)
    listed: list[ListedAttribute] = field(default_factory=list)
    tuned: list[Tuned] = field(default_factory=list)
    statistics: list[tuple[int, Dim]] = field(default_factory=list)
    zeros: dict[tuple[int, int], int | None] = field(default_factory=dict)
    roles: dict[Role, dict[Dim, None]] = field(default_factory=dict)
    positions: list[Dim] = field(default_factory=list)
    inside: list[tuple[int, Dim]] = field(default_factory=list)


@dataclass(frozen=True)
class Tensors:
    """What is known of the tensors of a graph, by name.

    `values` are those known without running the model, `jumps` which of their elements comparisons or rounding of open sizes decide.
    `origins` grows with the walk: the node that last computed a tensor anew, elementwise operators passed over; None for constants and
    what is computed from them alone. `is_read` tells whether anything reads a tensor, if only the world outside.
    """

    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, np.ndarray]
    jumps: Mapping[str, np.ndarray]
    origins: Mapping[str, int | None]
    is_read: Callable[[str], bool]


class Node:
    """One node as its rule sees it.

    `dims[i]` are the dimensions of input i (None when the input is absent), `out_shapes[i]` is the concrete shape of output i (None
    when the output is left out).
    `origins[i]` is the node that last computed input i anew, elementwise operators passed over (None for constants, -1 for what is fed);
    `origin` is that of the outputs.
    """

    def __init__(
        self,
        index: int,
        op: str,
        label: str,
        version: int,
        attributes: Mapping[str, Any],
        names: tuple[Sequence[str], Sequence[str]],
        dims: Sequence[tuple[Dim, ...] | None],
        tensors: Tensors,
        statements: Statements,
    ) -> None:
        self.index = index
        self.op = op
        self.label = label
        self.version = version
        self.attributes = attributes
        self.dims = dims
        self.origin = index
        self.is_apart = False
        self._inputs, self._outputs = names
        self.origins = [tensors.origins.get(name, -1) if name else None for name in self._inputs]
        self.out_shapes = [tensors.shapes.get(name) for name in self._outputs]
        self.outputs: list[tuple[Dim, ...] | None] = [None] * len(self.out_shapes)
        self._tensors = tensors
        self._statements = statements

    @cached_property
    def values(self) -> Sequence[np.ndarray | None]:
        """The value of each input that is known without running the model."""
        known = self._tensors.values
        return [known.get(name) for name in self._inputs]

    @cached_property
    def constant(self) -> Sequence[bool]:
        """Whether each input is a weight or computed from weights only."""
        return [
            origin is None and bool(name) for origin, name in zip(self.origins, self._inputs, strict=True)
        ]

    def __repr__(self) -> str:
        return self.label

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or `default`."""
        return self.attributes.get(name, default)

    def has(self, i: int) -> bool:
        """Whether optional input `i` is there."""
        return i < len(self.dims) and self.dims[i] is not None

    def input(self, i: int) -> tuple[Dim, ...]:
        """The dimensions of an input that must be there."""
        dims = self.dims[i] if i < len(self.dims) else None
        if dims is None:
            raise Unsupported(f"input {i} is missing")
        return dims

    def shape(self, i: int) -> tuple[int, ...]:
        """The concrete shape of input `i`."""
        return tuple(size(dim) for dim in self.input(i))

    def out_shape(self, o: int = 0) -> tuple[int, ...]:
        """The concrete shape of output `o`, which must be used and known."""
        shape = self.out_shapes[o]
        if shape is None:
            raise Unsupported(f"the shape of output {o} is not known")
        return shape

    def is_read(self, o: int) -> bool:
        """Whether anything reads output `o`."""
        return self._tensors.is_read(self._outputs[o])

    def value(self, i: int) -> np.ndarray:
        """The value of input `i`, which the rule needs in order to say anything."""
        value = self.values[i] if i < len(self.values) else None
        if value is None:
            raise Unsupported(f"input {i} is not known before the model runs")
        return value

    def jumps(self, i: int) -> list[int]:
        """The elements of the known value of input `i` that comparisons or rounding of open sizes decide: others may change them."""
        mask = self._tensors.jumps.get(self._inputs[i]) if i < len(self._inputs) else None
        return [] if mask is None else [int(k) for k in np.flatnonzero(mask)]

    def integers(self, name: str, i: int) -> list[int] | None:
        """A list that is an attribute in old operator sets and input `i` in new ones; None when it is absent."""
        if name in self.attributes:
            value = self.attributes[name]
            return [value] if isinstance(value, int) else [int(v) for v in value]
        if not self.has(i):
            return None
        return [int(v) for v in self.value(i).reshape(-1)]

    def axis(self, position: int, rank: int | None = None) -> int:
        """A dimension's position, counted from the front, of input 0 or of a tensor of `rank`."""
        rank = len(self.input(0)) if rank is None else rank
        if not -rank <= position < max(rank, 1):
            raise Unsupported(f"axis {position} is out of range")
        return position + rank if position < 0 else position

    def set(self, o: int, dims: Sequence[Dim]) -> None:
        """Say what the dimensions of output `o` are; unused outputs are passed over."""
        if o >= len(self.out_shapes) or self.out_shapes[o] is None:
            return
        if tuple(size(dim) for dim in dims) != self.out_shapes[o]:
            raise Unsupported(
                f"output {o} has shape {list(self.out_shapes[o] or ())}, which its rule did not expect"
            )
        self.outputs[o] = tuple(dims)

    def unify(self, a: Dim, b: Dim) -> None:
        """Say that two dimensions are the same. Raises Unsupported when their sizes differ."""
        if a == b:
            return
        if size(a) != size(b):
            raise Unsupported(f"dimensions of {size(a)} and {size(b)} meet")
        self._statements.algebra.unify(a, b, self.label)

    def freeze(self, dim: Dim, reason: str) -> None:
        """Say that a dimension must keep its size; the node is named before the reason."""
        self._statements.algebra.freeze(dim, f"{self.label}: {reason}")

    def frozen(self, n: int, reason: str) -> Dim:
        """A fresh dimension of `n` that must keep its size."""
        dim = axis(n)
        self.freeze(dim, reason)
        return dim

    def position(self, dim: Dim, reason: str) -> None:
        """Say that a dimension holds positions, not channels, and must keep its size; the node is named before the reason."""
        self.freeze(dim, reason)
        self._statements.positions.append(dim)

    def uniform(self, dim: Dim) -> None:
        """Say that statistics are taken over a dimension: every index of it needs the same number of copies."""
        self._statements.algebra.uniform(dim, self.label)
        self._statements.statistics.append((self.index, dim))

    def apart(self) -> None:
        """Say that indices of a dimension do not meet but where the rule says so, and that finite values give finite results.

        New indices may then hold any numbers, as long as whoever sums over them does not count them. A rule that does not say so
        needs copies along all dimensions of its node.
        """
        self.is_apart = True

    def replicate(self, dim: Dim, reason: str) -> None:
        """Say that new indices of a dimension must be copies of old ones; the node is named before the reason."""
        self._statements.algebra.replicate(dim, f"{self.label}: {reason}")

    def cut(self, dim: Dim, at: int) -> tuple[Dim, Dim]:
        """Cut a dimension in two; a single channel cut off is broadcast, and does not grow."""
        halves = self._statements.algebra.cut(dim, at)
        for half in halves:
            if size(half) == 1:
                self._statements.algebra.keep_single(half)
        return halves

    def contract(self, over: Dim, *operands: tuple[int, int], power: float = -1.0) -> None:
        """Say that copies of `over` are summed, in (input, dimension) `operands`; see `Contraction`."""
        self._statements.contractions.append(Contraction(self.index, over, operands, power))

    def dilute(self, position: int, power: float, *, logits: bool = False) -> None:
        """Say that uniform copies along a dimension of output 0, or any of `logits`, dilute it; see `Dilution`."""
        self._statements.dilutions.append(Dilution(self.index, position, power, logits))

    def choose(self, position: int, channels: Iterable[int], result: Dim) -> None:
        """Say that a Gather or Slice gives these indices of a dimension of input 0, by number; see `Choice`."""
        source = self.input(0)[position]
        listed = tuple(int(channel) % size(source) for channel in channels)
        self._statements.choices.append(Choice(self.index, position, source, result, listed))

    def window(self, position: int, reach: int) -> None:
        """Say that indices along a dimension of input 0 meet their neighbours, whose order matters; see `Window`."""
        self.replicate(self.input(0)[position], "looks at neighbours, which have to be copies, too")
        self._statements.windows.append(Window(self.index, position, reach))

    def tie(self, parts: Sequence[Dim]) -> None:
        """Say that dimensions must grow by the same factor."""
        self._statements.algebra.ties.append(Sum(parts))

    def size_attribute(self, name: str, dim: Dim) -> None:
        """Say what dimension an attribute holds the size of; one that is absent is passed over."""
        if name in self.attributes:
            self._statements.attributes.append(SizedAttribute(self.index, name, (dim,), scalar=True))

    def size_input(
        self, i: int, elements: Sequence[Element], *, zero_copies: bool = False, within: Sequence[Dim] = ()
    ) -> None:
        """Say of what dimensions input `i` holds the sizes, element by element; see `SizedInput`."""
        said = SizedInput(self.index, i, tuple(elements), zero_copies, tuple(within))
        self._statements.sized_inputs[self.index, i] = said

    def sizes(self, name: str, i: int, elements: Sequence[Element], within: Sequence[Dim] = ()) -> None:
        """Say of what dimensions a list holds the sizes: attribute `name` in old operator sets, input `i` in new ones."""
        if name in self.attributes:
            said = SizedAttribute(self.index, name, tuple(elements), scalar=False)
            self._statements.attributes.append(said)
        elif self.has(i):
            self.size_input(i, elements, within=within)

    def listed(self, name: str, dims: Sequence[Dim], over: Dim = ()) -> None:
        """Say that a list attribute is a tensor of `dims`, if it is there; see `ListedAttribute`. One number is one for all."""
        length = len(self.attribute(name, ()))
        if length > 1 or over:
            if length != size(tuple(factor for dim in dims for factor in dim)):
                raise Unsupported(f"its attribute {name} has {length} numbers, which its rule did not expect")
            self._statements.listed.append(ListedAttribute(self.index, name, tuple(dims), over))

    def tune(self, name: str, value: float, dim: Dim, power: float = 0.0) -> None:
        """Say that float attribute `name` is `value` now, and what it is when `dim` grows; see `Tuned`."""
        self._statements.tuned.append(Tuned(self.index, name, value, dim, power))

    def quantized(self, i: int, zero: int) -> bool:
        """Say that input `i` holds integers that stand for numbers, input `zero` the one that stands for zero.

        Whether that is one and the same for all, and known. Raises Unsupported when there is no input `i`.
        """
        self.input(i)
        points = self.values[zero] if self.has(zero) else np.zeros(1)
        alike = points is not None and points.size > 0 and (points == points.flat[0]).all()
        self._statements.zeros[self.index, i] = int(points.flat[0]) if points is not None and alike else None
        return bool(alike)

    def inside(self, dim: Dim) -> None:
        """Say that a dimension is the operator's own: only weights have it, no tensor that is computed."""
        self._statements.inside.append((self.index, dim))

    def role(self, role: Role, dim: Dim) -> None:
        """Say what part a dimension plays; it decides the axis' kind."""
        self._statements.roles.setdefault(role, {})[resolve(dim)] = None
