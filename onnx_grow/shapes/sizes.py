"""Which concrete input shapes to look at a model with."""

from __future__ import annotations

import ast
import difflib
import itertools
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnx_grow.errors import InvalidRequestError
from onnx_grow.model import Model

Symbol = str | tuple[str, int]

_SMALL = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)
_LARGE = (67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137)
_PIXELS = ((64, 96), (224, 256), (224, 224), (128, 128), (320, 320), (512, 512), (640, 640), (32, 32))
_STEPS = (8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}


def candidates(
    model: Model, overrides: Mapping[str, Sequence[int]] | None = None
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Legal-looking concrete shapes of all tensor inputs, the most telling first, each only once.

    Static dims keep their size. Dynamic dims that share a name share a size; unnamed ones are independent at
    first and tied by position later. The first candidate uses different primes that divide no static size of
    the file, so that an axis can be told by its size; later ones use sizes that networks with strides, windows
    or fixed lengths accept. `overrides` fixes the shapes of some inputs, and the sizes of the dims named there.

    Raises InvalidRequestError for an unknown input, a shape that contradicts the file, or an input of unknown
    rank.
    """
    opened = open_dims(model, overrides)
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for choice in _choices(opened.roles, _static_sizes(model)):
        shapes = opened.shapes(choice)
        key = tuple(shapes.values())
        if key not in seen:
            seen.add(key)
            yield shapes


@dataclass(frozen=True)
class Role:
    """What a dynamic dim probably counts: a batch, the channels or the pixels of images, or steps."""

    kind: str
    axis: int


@dataclass(frozen=True)
class OpenDims:
    """What a file and `overrides` leave open of the inputs: symbols, and what each probably counts."""

    inputs: Mapping[str, tuple[int | Symbol, ...]]
    fixed: Mapping[str, tuple[int, ...]]
    sizes: Mapping[Symbol, int]
    roles: Mapping[Symbol, Role]

    def shapes(self, choice: Mapping[Symbol, int]) -> dict[str, tuple[int, ...]]:
        """The shapes of all inputs at a choice of sizes."""
        known = {**choice, **self.sizes}
        return {
            name: self.fixed[name] if name in self.fixed else tuple(_size(dim, known) for dim in dims)
            for name, dims in self.inputs.items()
        }

    def groups(self) -> list[tuple[Symbol, ...]]:
        """Symbols that may have to be of one size: those of each kind together, then each alone."""
        free = {symbol: role for symbol, role in self.roles.items() if symbol not in self.sizes}
        together = [
            tuple(symbol for symbol, role in free.items() if role.kind == kind)
            for kind in dict.fromkeys(role.kind for role in free.values())
        ]
        alone = [(symbol,) for group in together if len(group) > 1 for symbol in group]
        return [*together, *alone]


def open_dims(model: Model, overrides: Mapping[str, Sequence[int]] | None = None) -> OpenDims:
    """The open dims of a model's inputs. Raises InvalidRequestError as `candidates` does."""
    inputs = declared_inputs(model)
    fixed, sizes = _check(inputs, overrides or {})
    declared: dict[str, tuple[int | Symbol, ...]] = {}
    for name, dims in inputs.items():
        if dims is None and name not in fixed:
            raise InvalidRequestError(
                f"input {name!r} declares no shape",
                hint=f"give one, such as --shape '{name}:1,3,224,224', in Python with shapes=",
            )
        declared[name] = dims or ()
    roles = _roles({name: dims for name, dims in declared.items() if name not in fixed})
    return OpenDims(declared, fixed, sizes, roles)


def enlarged(
    model: Model, inputs: Mapping[str, tuple[int, ...]], dynamic: Mapping[str, frozenset[int]]
) -> dict[str, tuple[int, ...]]:
    """Other input shapes at which every dim that the file leaves open (`dynamic`) is larger than in `inputs`.

    All larger: of sizes that only change places, the product would seem to be a constant.
    """
    places = [(name, k) for name, positions in dynamic.items() for k in positions]
    unknown = [name for name, dims in declared_inputs(model).items() if dims is None]
    doubled = {name: [2 * n for n in inputs[name]] for name in unknown}
    larger = next(
        (
            sizes
            for sizes in candidates(model, doubled)
            if all(sizes[name][k] > inputs[name][k] for name, k in places)
        ),
        None,
    )
    moved = {name: list(shape) for name, shape in inputs.items()}
    for name, k in places:
        moved[name][k] = larger[name][k] if larger else 2 * moved[name][k]
    return {name: tuple(shape) for name, shape in moved.items()}


def declared_inputs(model: Model) -> dict[str, tuple[int | Symbol, ...] | None]:
    """Dims of every real tensor input: a size, a name, or (input, axis); None if no shape is declared."""
    declared: dict[str, tuple[int | Symbol, ...] | None] = {}
    for value in model.skeleton.graph.input:
        if value.name in model.weights or not value.type.HasField("tensor_type"):
            continue
        tensor = value.type.tensor_type
        declared[value.name] = (
            tuple(_dim(value.name, axis, dim) for axis, dim in enumerate(tensor.shape.dim))
            if tensor.HasField("shape")
            else None
        )
    return declared


def dynamic_dims(model: Model) -> dict[str, frozenset[int]]:
    """Per tensor input, the positions of the dims that the file leaves open."""
    return {
        name: frozenset(axis for axis, dim in enumerate(dims or ()) if not isinstance(dim, int))
        for name, dims in declared_inputs(model).items()
    }


def _dim(name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> int | Symbol:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return dim.dim_param or (name, axis)


def _check(
    inputs: Mapping[str, tuple[int | Symbol, ...] | None], overrides: Mapping[str, Sequence[int]]
) -> tuple[dict[str, tuple[int, ...]], dict[Symbol, int]]:
    """The overrides as shapes, and the sizes that they give to named dims."""
    fixed: dict[str, tuple[int, ...]] = {}
    sizes: dict[Symbol, int] = {}
    for name, given in overrides.items():
        shape = tuple(int(size) for size in given)
        if name not in inputs:
            close = difflib.get_close_matches(name, inputs, n=1, cutoff=0.4)
            names = ", ".join(repr(known) for known in inputs) or "none"
            raise InvalidRequestError(
                f"the model has no input {name!r}",
                hint=f"did you mean {close[0]!r}?" if close else f"inputs: {names}",
            )
        dims = inputs[name]
        if any(size < 0 for size in shape):
            raise InvalidRequestError(f"shape {_text(shape)} of input {name!r} has a negative size")
        if dims is not None and (
            len(dims) != len(shape)
            or any(isinstance(dim, int) and dim != size for dim, size in zip(dims, shape, strict=True))
        ):
            raise InvalidRequestError(
                f"shape {_text(shape)} does not fit input {name!r}", hint=f"the file declares {_text(dims)}"
            )
        fixed[name] = shape
        for dim, size in zip(dims or (), shape, strict=False):
            if not isinstance(dim, int):
                sizes.setdefault(dim, size)
    return fixed, sizes


def _text(dims: Sequence[int | Symbol]) -> str:
    return "x".join("?" if isinstance(dim, tuple) else str(dim) for dim in dims) or "scalar"


def _roles(inputs: Mapping[str, tuple[int | Symbol, ...]]) -> dict[Symbol, Role]:
    batched = any(not isinstance(dims[0], int) for dims in inputs.values() if dims)
    roles: dict[Symbol, Role] = {}
    for dims in inputs.values():
        dynamic = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
        for axis in dynamic:
            # Beside an input with a batch, the first open dim is the batch also where it comes second, as in the
            # state of a recurrent layer.
            kind = "batch" if axis == dynamic[0] and (batched or axis == 0) else _kind(dims, axis)
            for symbol in _symbols(dims[axis]):
                roles.setdefault(symbol, Role(kind, axis))
    return roles


def _kind(dims: Sequence[int | Symbol], axis: int) -> str:
    if len(dims) not in (4, 5):
        return "steps"
    return "channels" if axis == 1 and not any(isinstance(dim, int) for dim in dims) else "spatial"


def _choices(roles: Mapping[Symbol, Role], static: frozenset[int]) -> Iterator[dict[Symbol, int]]:
    """Sizes for all symbols, in the order in which they should be tried."""

    def resized(base: Mapping[Symbol, int], kind: str, sizes: Sequence[int]) -> dict[Symbol, int]:
        return {**base, **{s: sizes[r.axis % len(sizes)] for s, r in roles.items() if r.kind == kind}}

    small, large = _foreign_first(_SMALL, static), _foreign_first(_LARGE, static)
    primes = {"batch": small, "steps": small, "spatial": large, "channels": [3]}
    unused = {"spatial": itertools.cycle(large), "channels": itertools.repeat(3)}
    others = itertools.cycle(small)
    distinct = {symbol: next(unused.get(role.kind, others)) for symbol, role in roles.items()}
    tied = {symbol: primes[role.kind][role.axis % len(primes[role.kind])] for symbol, role in roles.items()}
    tied = resized(tied, "batch", small[:1])
    one = resized(tied, "batch", [1])
    for base in (distinct, tied, one, resized(tied, "channels", [1]), resized(one, "channels", [1])):
        yield base
        yield from (resized(base, "spatial", pixels) for pixels in _PIXELS)
    for base in (tied, one):
        yield from (resized(base, "steps", [steps]) for steps in _STEPS)
    for size in (2, 1):
        yield dict.fromkeys(roles, size)


def _foreign_first(primes: tuple[int, ...], static: frozenset[int]) -> list[int]:
    """The primes that divide no static size before those that do."""
    return sorted(primes, key=lambda prime: any(size % prime == 0 for size in static))


def _symbols(dim: int | Symbol) -> list[Symbol]:
    """A dim of its own, or the names in an expression such as `past_length + length`."""
    if isinstance(dim, int):
        return []
    if isinstance(dim, tuple) or _tree(dim) is None:
        return [dim]
    return list(re.findall(r"[A-Za-z_]\w*", dim))


def _size(dim: int | Symbol, sizes: Mapping[Symbol, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    tree = _tree(dim) if isinstance(dim, str) else None
    return max(_value(tree, sizes), 0) if tree is not None else 1


def _tree(dim: str) -> ast.expr | None:
    """The expression that a dim's name spells, None if it is just a name."""
    if len(dim) > 200:  # no exporter writes such an expression: the parser need not see it
        return None
    try:
        tree = ast.parse(dim, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if isinstance(tree, ast.BinOp) and _is_arithmetic(tree) else None


def _is_arithmetic(tree: ast.AST) -> bool:
    return all(
        isinstance(part, ast.BinOp | ast.Name | ast.Load | ast.operator)
        or (isinstance(part, ast.Constant) and isinstance(part.value, int))
        for part in ast.walk(tree)
    ) and all(type(part.op) in _OPERATORS for part in ast.walk(tree) if isinstance(part, ast.BinOp))


def _value(tree: ast.expr, sizes: Mapping[Symbol, int]) -> int:
    if isinstance(tree, ast.BinOp):
        left, right = _value(tree.left, sizes), _value(tree.right, sizes)
        if isinstance(tree.op, ast.FloorDiv | ast.Div) and not right:
            return left
        return int(_OPERATORS[type(tree.op)](left, right))
    if isinstance(tree, ast.Name):
        return sizes.get(tree.id, 1)
    assert isinstance(tree, ast.Constant)
    assert isinstance(tree.value, int)
    return tree.value


def _static_sizes(model: Model) -> frozenset[int]:
    weights = (size for weight in model.weights.values() for size in weight.shape)
    inputs = (dim for dims in declared_inputs(model).values() for dim in dims or () if isinstance(dim, int))
    return frozenset(size for size in itertools.chain(weights, inputs) if size > 1)
