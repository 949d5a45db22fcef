"""Random graphs under construction: the choices that make one, and its nodes, weights and shapes so far.

A graph grows from its inputs by blocks: one operator with its variations, or a handful that exporters write together (attention, a
shuffle, a norm spelt out). Every decision is a number below some bound, taken from `Choices`, and 0 is always the plainest choice; a
list of such numbers is therefore the whole graph, and a shorter or smaller list a simpler one. That is how failures shrink.

Dimensions are known at three settings of what the file leaves open, so that shapes need no symbols: a `Dim` is three sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim = tuple[int, int, int]
Shape = tuple[Dim, ...]
Block = Callable[["Graph", "Value"], "Value | None"]

OPEN: dict[str, Dim] = {"N": (3, 2, 5), "T": (5, 4, 7), "H": (8, 9, 11), "W": (7, 10, 9)}
"""The dimensions that a file may leave open, and their sizes at each setting."""
ONE: Dim = (1, 1, 1)
WIDTHS = (4, 6, 2, 8, 3, 12, 5)
LARGEST = 6000  # elements of a tensor; a graph that multiplies its dimensions stops there
VOCABULARY = 9
INT_MAX = 2**63 - 1
MS = "com.microsoft"
ML = "ai.onnx.ml"


class Choices:
    """Decisions, each a number below a bound, remembered in `taken` in order."""

    def __init__(self, decide: Callable[[int], int]) -> None:
        self._decide = decide
        self.taken: list[int] = []

    @classmethod
    def drawn(cls, seed: int | Sequence[int]) -> Choices:
        """Independent random decisions."""
        rng = np.random.default_rng(seed)
        return cls(lambda n: int(rng.integers(n)))

    @classmethod
    def replayed(cls, taken: Sequence[int]) -> Choices:
        """The decisions of a list, where they fit; after its end the plainest ones."""
        rest = iter(taken)
        return cls(lambda n: min(next(rest, 0), n - 1))

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        choice = self._decide(n) if n > 1 else 0
        if n > 1:
            self.taken.append(choice)
        return choice

    def chance(self, percent: int) -> bool:
        """True about that often."""
        return self.below(100) >= 100 - percent

    def pick(self, options: Sequence[Any]) -> Any:
        """One of some options, the first being the plainest."""
        return options[self.below(len(options))]

    def some(self, options: Sequence[Any]) -> list[Any]:
        """At least one of some options."""
        chosen = [option for option in options if self.below(2)]
        return chosen or [self.pick(options)]


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: `kind` is "float", "int" (int64) or "bool"."""

    name: str
    shape: Shape
    kind: str = "float"

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Graph:
    """A graph under construction. `choices` decides its structure; the numbers in its weights are drawn apart.

    Operators that are `avoided` do not get into it, nor whatever was to come with them.
    """

    choices: Choices
    dtype: Any = np.float64
    avoided: frozenset[str] = frozenset()
    wide: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[tuple[str, tuple[int | str, ...], int]] = field(default_factory=list)
    sizes: dict[str, Shape] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    depth: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.opset = self.choices.pick(
            (17, 21, 13, 11, 18, 9, 22, 20, 7, 12, 10, 8, 15, 16, 14, 19, 23, 24, 23, 24, 26)
        )
        self.named = not self.choices.chance(10)
        self.old_ir = self.opset < 9 and self.choices.chance(50)
        self.count = 0

    def fresh(self, base: str) -> str:
        self.count += 1
        return f"{base}{self.count}"

    def node(
        self,
        op: str,
        inputs: Sequence[Value | str],
        *shapes: Shape,
        kind: str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Value:
        """Append a node; the first of its outputs."""
        names = [entry.name if isinstance(entry, Value) else entry for entry in inputs]
        kind = kind or next((entry.kind for entry in inputs if isinstance(entry, Value)), "float")
        outputs = [Value(self.fresh("t"), shape, kind) for shape in shapes]
        name = f"{op.lower()}_{self.count}" if self.named else ""
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(
            helper.make_node(op, names, [o.name for o in outputs], name, domain=domain, **attributes)
        )
        self.read.update(names)
        self.values += outputs
        return outputs[0]

    def constant(self, array: np.ndarray) -> str:
        """An array as an initializer or a Constant node."""
        name = self.fresh("w")
        if self.choices.chance(20):
            tensor = numpy_helper.from_array(np.asarray(array), name)
            self.nodes.append(
                helper.make_node("Constant", [], [name], name if self.named else "", value=tensor)
            )
        else:
            self.weights[name] = np.asarray(array)
        return name

    def integers(self, values: Any) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, shape: Sequence[int], fan_in: int = 1, shift: float = 0.0) -> str:
        """Random numbers of a scale that keeps activations near one, in one of the forms that exporters give weights."""
        form = self.choices.below(12)
        shape = tuple(shape)
        if form == 1:
            alike = [
                name
                for name, array in self.weights.items()
                if array.shape == shape and array.dtype == self.dtype
            ]
            if alike and not shift:
                return self.choices.pick(alike)
        array = (self.rng.normal(shift, 0.7, shape) / np.sqrt(max(fan_in, 1))).astype(self.dtype)
        if form == 2 and len(shape) > 1:
            order = tuple(reversed(range(len(shape))))
            return self._folded("Transpose", array.transpose(order), perm=order)
        if form == 3:
            return self._folded("Identity", array)
        if form == 4:
            flat = self.constant(array.reshape(-1) if self.choices.below(2) else array.reshape((*shape, 1)))
            return self._emit("Reshape", [flat, self.integers(shape)])
        if form == 5:
            return self._emit("Mul", [self.constant(array * 2), self.constant(np.array(0.5, self.dtype))])
        if form == 6:
            return self._folded(
                "Cast",
                array.astype(self.dtype if self.wide else np.float16),
                to=helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)),
            )
        if form == 7 and len(shape) > 1:
            at = self.choices.below(len(shape))
            cut = shape[at] // 2
            parts = (
                [self.constant(part) for part in np.split(array, [cut], at)]
                if cut
                else [self.constant(array)]
            )
            return self._emit("Concat", parts, axis=at)
        return self.constant(array)

    def _folded(self, op: str, array: np.ndarray, **attributes: Any) -> str:
        return self._emit(op, [self.constant(np.ascontiguousarray(array))], **attributes)

    def _emit(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node on constants, whose result is a weight and no value to build on."""
        name = self.fresh("f")
        self.nodes.append(helper.make_node(op, inputs, [name], name if self.named else "", **attributes))
        return name

    def axes(
        self, op: str, x: Value, axes: Sequence[int], shape: Shape, since: int, **attributes: Any
    ) -> Value:
        """A node whose axes are an attribute in old operator sets, an input from `since` on; some counted from the end."""
        rank = len(shape) if op == "Unsqueeze" else x.rank
        if self.choices.chance(40) and (self.opset >= 11):
            axes = [a - rank for a in axes]
        if self.opset >= since:
            return self.node(op, [x, self.integers(list(axes))], shape, **attributes)
        return self.node(op, [x], shape, axes=list(axes), **attributes)

    def partner(self, fits: Callable[[Value], bool]) -> Value | None:
        """An earlier value that fits, if there is one."""
        found = [value for value in reversed(self.values) if fits(value)]
        return self.choices.pick(found) if found else None

    @property
    def element(self) -> int:
        """The ONNX type of the numbers of this graph."""
        return helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))

    def attempt(self, block: Block, x: Value) -> Value | None:
        """What a block puts behind x; nothing where it does not fit or would take an operator that is avoided."""
        nodes, values, weights = len(self.nodes), list(self.values), set(self.weights)
        inputs, read = len(self.inputs), set(self.read)
        y = block(self, x)
        if y is not None and not self.avoided.intersection(operators(self.nodes[nodes:])):
            return y
        if y is not None:
            del self.nodes[nodes:], self.inputs[inputs:]
            self.values, self.read = values, read
            for name in self.weights.keys() - weights:
                del self.weights[name]
        return None

    def body(self, inputs: Sequence[Value], build: Callable[[], Sequence[Value]]) -> onnx.GraphProto:
        """A graph inside this one, with weights of its own or not: it reads what is around it, and nobody there sees its values."""
        outer = self.nodes, self.weights, self.values
        self.nodes, self.values = [], [*self.values, *inputs]
        if self.choices.below(2):
            self.weights = {}
        self.depth += 1
        results = build()
        self.depth -= 1
        initializers = [] if self.weights is outer[1] else self._initializers()
        nodes, name = self.nodes, self.fresh("body")
        self.nodes, self.weights, self.values = outer
        return helper.make_graph(
            nodes, name, [self._info(v) for v in inputs], [self._info(v) for v in results], initializers
        )

    def _info(self, value: Value) -> onnx.ValueInfoProto:
        kinds = {"float": self.element, "int": TensorProto.INT64, "bool": TensorProto.BOOL}
        return helper.make_tensor_value_info(
            value.name, kinds[value.kind], [d[0] if is_fixed(d) else None for d in value.shape]
        )

    def _initializers(self) -> list[onnx.TensorProto]:
        return [numpy_helper.from_array(array, name) for name, array in self.weights.items()]

    def feeds(self, setting: int | dict[str, Sequence[int]], seed: int = 0) -> dict[str, np.ndarray]:
        """Random values for the inputs, at one of the three settings or of given shapes."""
        rng = np.random.default_rng([seed, 1])
        out = {}
        for name, _, dtype in self.inputs:
            shape = (
                tuple(dim[setting] for dim in self.sizes[name]) if isinstance(setting, int) else setting[name]
            )
            if dtype == TensorProto.INT64:
                out[name] = rng.integers(0, VOCABULARY, shape)
            elif dtype == TensorProto.BOOL:
                out[name] = np.asarray((rng.integers(0, 2, shape) == 1) ^ (setting == 1))
            else:
                out[name] = rng.normal(0, 1, shape).astype(self.dtype)
        return out

    def model(self, outputs: Sequence[Value]) -> onnx.ModelProto:
        """The finished model."""
        infos = [helper.make_tensor_value_info(name, dtype, shape) for name, shape, dtype in self.inputs]
        initializers = self._initializers()
        if self.old_ir:
            infos += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in initializers]
        results = [self._info(value) for value in outputs]
        graph = helper.make_graph(self.nodes, "random", infos, results, initializers)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MS, 1), helper.make_opsetid(ML, 3)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=3 if self.old_ir else 10)


def operators(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """The names of the operators of some nodes and of those in their bodies."""
    bodies = [a.g for node in nodes for a in node.attribute if a.HasField("g")]
    return {node.op_type for node in nodes}.union(*(operators(body.node) for body in bodies))


def fixed(n: int) -> Dim:
    """A dimension of a size that the file tells."""
    return (n, n, n)


def is_fixed(dim: Dim) -> bool:
    return dim[0] == dim[1] == dim[2]


def times(*dims: Dim) -> Dim:
    return tuple(map(prod, zip(*dims, strict=True))) if dims else ONE  # type: ignore[return-value]


def plus(*dims: Dim) -> Dim:
    return tuple(map(sum, zip(*dims, strict=True)))  # type: ignore[return-value]


def broadcast(a: Shape, b: Shape) -> Shape | None:
    """The shape of an elementwise result, None where shapes do not fit."""
    rank = max(len(a), len(b))
    pairs = zip((ONE,) * (rank - len(a)) + a, (ONE,) * (rank - len(b)) + b, strict=True)
    out = []
    for x, y in pairs:
        if x != y and ONE not in (x, y):
            return None
        out.append(y if x == ONE else x)
    return tuple(out)


def fixed_axes(x: Value, least: int = 2) -> list[int]:
    return [k for k in reversed(range(x.rank)) if is_fixed(x.shape[k]) and x.shape[k][0] >= least]


def with_dim(x: Value, k: int, dim: Dim) -> Shape:
    return (*x.shape[:k], dim, *x.shape[k + 1 :])


def small(shape: Shape) -> bool:
    return max(times(*shape)) <= LARGEST
