"""Moving a scale to where it costs nothing: into the weights that produce a tensor.

A contraction of two computed tensors (attention's Q Kt, a sum over channels) has no weight to divide. The scale then moves back
through operators that pass it on, to weights and biases; only where it cannot, a Mul is inserted.

A scale is an array that broadcasts against its tensor: full size along the dimensions it varies over, 1 along all others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from onnx_grow.axes.algebra import Axis, Dim, Indices, Maps, grown_size, leaves
from onnx_grow.axes.equations import Negated
from onnx_grow.axes.inference import Analysis, Dims
from onnx_grow.growth.constants import FLOATS, Constants
from onnx_grow.growth.sizes import Sizes
from onnx_grow.operators.contraction import spelled

Factors = NDArray[np.float64]
Move = tuple[int, Factors]  # an operand, and the scale to put on it
Place = tuple[int, int]  # a node, and one of its inputs
Asked = Mapping[Place, Factors]

_BITS = {16: 8, 10: 11, 1: 24, 11: 53}  # what these types keep of a number
_MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_ADDITIVE = (
    *_MOVES,
    *(
        "Add",
        "Cast",
        "Concat",
        "Gather",
        "Neg",
        "ReduceSum",
        "RotaryEmbedding",
        "Slice",
        "Split",
        "Sub",
        "Sum",
    ),
)
_BILINEAR = ("Attention", "Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul", "Mul", "MultiHeadAttention")
_MOST_STEPS = 1024  # tried before a scale is left where it is
_ROUNDING = 1e-12  # two scales are the same if they differ by no more
_LARGEST = 1 << 24  # elements of a scale; one that varies over more is left where it is


@dataclass(frozen=True)
class Held:
    """The constant (node, input) that holds the copies of some channels along `dims`.

    `quantized` if as integers that stand for numbers, `narrow` if as numbers of fewer bits than they are used with.
    """

    node: int
    input: int
    dims: tuple[int, ...]
    quantized: bool = False
    narrow: bool = False


class Absorption:
    """Finds the constants behind an input of a node: those that hold its copies, and those that can take a scale for it."""

    def __init__(self, analysis: Analysis, maps: Maps, sizes: Sizes) -> None:
        self.analysis = analysis
        self.maps = maps
        self.sizes = sizes

    def weight(self, node: int, i: int, dim: int, over: Dim) -> Held | None:
        """The constant behind an input, if only moved on its way there, and which of its dimensions hold `over`.

        Its copies can then be told apart, which a mere scale cannot do.
        """
        topology = self.analysis.topology
        grown = {leaf for leaf in leaves(over) if leaf in self.maps}
        used = self._bits(topology.proto(node).input[i])
        places = [dim]
        while (name := topology.proto(node).input[i]) not in self.analysis.constants:
            producer = topology.producers.get(name)
            if producer is None or not self.private(name) or len(topology.consumers[name]) > 1:
                return None
            proto = topology.proto(producer)
            dims, operand = self.analysis.dims[name], self.analysis.input_dims(producer, 0)
            exact = proto.op_type == "Cast" and 0 < self._bits(proto.input[0]) <= self._bits(name)
            if not (exact or proto.op_type in (*_MOVES, "DequantizeLinear")) or operand is None:
                return None
            if proto.op_type == "Transpose":
                places = [_permutation(proto, len(dims))[place] for place in places]
            elif proto.op_type not in ("Cast", "Identity", "DequantizeLinear"):
                if _holding(dims, grown) != sorted(places):
                    return None
                places = _holding(operand, grown)
            node, i = producer, 0
        if self.analysis.shapes.dtype[name] in FLOATS:
            return Held(node, i, tuple(places), narrow=self._bits(name) < used)
        zero = self.analysis.said.zeros.get((node, i))
        return None if zero is None else Held(node, i, tuple(places), quantized=True)

    def take(self, asked: Asked, waiting: Asked | None = None) -> Asked | None:
        """Scale inputs of nodes as `asked`, by constants alone; None when it cannot be done.

        The result adds to `asked` all scales behind them, down to those of the constants. What others read stays what it is to
        them, but for the inputs `waiting`, which may be scaled as these say.
        """
        self._steps = _MOST_STEPS
        taken = all(self._accepts(place, factors) for place, factors in asked.items())
        return self._search(asked, waiting or {}, len(self.analysis.topology.nodes)) if taken else None

    def is_linear(self, places: Collection[Place]) -> bool:
        """Whether nodes are linear in these of their inputs, all others held fixed: they move, add, or multiply one of them."""
        return all(self._is_linear(node, i, (node, 1 - i) in places) for node, i in places)

    def _is_linear(self, node: int, i: int, other: bool) -> bool:
        """Whether a node is linear in an input, alone or together with the `other` one of its first two."""
        proto = self.analysis.topology.proto(node)
        if proto.op_type in _BILINEAR:
            return (i > 1 or not other) and (proto.op_type != "Einsum" or len(proto.input) == 2)
        return proto.op_type in _ADDITIVE or (proto.op_type == "Div" and i == 0)

    def shape(self, node: int, i: int) -> tuple[int, ...]:
        """The shape that an input will have."""
        return tuple(grown_size(dim, self.maps) for dim in self.analysis.input_dims(node, i) or ())

    def number(self, name: str) -> float | None:
        """The value of a constant that is one number; None for anything else."""
        if name not in self.analysis.constants or prod(self.analysis.shapes.shape[name]) != 1:
            return None
        return float(self.sizes.constants.weight(name).array().reshape(-1)[0])

    def private(self, name: str) -> bool:
        """Whether only nodes of this graph read a tensor."""
        return name not in self.analysis.topology.outputs and name not in self.analysis.topology.captured

    def _search(self, asked: Asked, waiting: Asked, below: int) -> Asked | None:
        """Move scales back through the last node before `below` whose result is to be scaled, and on from there."""
        stack: list[Iterator[tuple[Asked, int]]] = [iter([(asked, below)])]
        while stack:
            if (state := next(stack[-1], None)) is None:
                stack.pop()
                continue
            self._steps -= 1
            if self._steps < 0:
                return None
            asked, below = state
            names = {self._name(place) for place in asked} - self.analysis.constants
            producers = [self.analysis.topology.producers[name] for name in names]
            node = max((producer for producer in producers if producer < below), default=None)
            if node is None:
                return asked
            stack.append(self._moved(node, asked, waiting))
        return None

    def _moved(self, node: int, asked: Asked, waiting: Asked) -> Iterator[tuple[Asked, int]]:
        """What is asked once scales moved back through a node, for every way that its inputs accept."""
        for more in self._ways(node, asked, waiting):
            if all(self._accepts(place, factors) for place, factors in more.items()):
                yield {**asked, **more}, node

    def _name(self, place: Place) -> str:
        name: str = self.analysis.topology.proto(place[0]).input[place[1]]
        return name

    def _accepts(self, place: Place, factors: Factors) -> bool:
        """Whether an input may be scaled at all: floats that a constant or a node holds, and nobody outside sees."""
        name = self._name(place)
        known = name in self.analysis.constants or name in self.analysis.topology.producers
        fits = (
            factors.size <= _LARGEST
            and not np.isinf(factors).any()
            and self.analysis.shapes.dtype.get(name) in FLOATS
        )
        return fits and known and (name in self.analysis.constants or self.private(name))

    def _ways(self, node: int, asked: Asked, waiting: Asked) -> Iterator[dict[Place, Factors]]:
        """The ways to scale the results of a node as those who read them ask: of each addend any one alternative."""
        joined: dict[Place, Factors] = {}
        scales: list[Factors] = []
        for name in self.analysis.topology.proto(node).output:
            scale = self._agreed(name, asked, waiting, joined) if name else np.ones(())
            if scale is None:
                return
            scales.append(scale)
        if all((scale == 1).all() for scale in scales):
            yield joined
            return
        for moves in product(*self.addends(node, scales) or [()]):
            yield {**joined, **{(node, operand): scale for operand, scale in moves}}

    def _agreed(
        self, name: str, asked: Asked, waiting: Asked, joined: dict[Place, Factors]
    ) -> Factors | None:
        """The scale of a tensor that all who read it agree on; None if they do not. Those `waiting` that join are noted."""
        readers = self.analysis.topology.consumers.get(name, ())
        moves = any(place in asked for place in readers)
        total: Factors = np.full((1,) * len(self.analysis.dims[name]), np.nan)
        for place in readers:
            part = asked.get(place)
            if part is None and moves and place in waiting and not _met(place, asked, joined):
                part = joined[place] = waiting[place]
            if part is None:
                part = self._unscaled(place)
            shape = np.broadcast_shapes(total.shape, part.shape)
            if prod(shape) > _LARGEST or (np.abs(total - part) > _ROUNDING * part).any():
                return None
            total = np.where(np.isnan(total), part, total)
        return condensed(np.where(np.isnan(total), 1.0, total))

    def _unscaled(self, place: Place) -> Factors:
        """1 for what an input reads of its tensor, not a number for what it does not."""
        node, i = place
        proto = self.analysis.topology.proto(node)
        dims = self.analysis.input_dims(node, i) or ()
        if proto.op_type in ("Shape", "Size"):
            return np.full((1,) * len(dims), np.nan)
        selected = self._selected(node) if i == 0 else None
        ones: Factors = np.ones((1,) * len(dims))
        return ones if selected is None else self._part(node, ones, selected)

    def _part(self, node: int, factors: Factors, selected: Mapping[int, Indices]) -> Factors:
        """The scale of what a node selects from input 0, as one of all of it: not a number elsewhere."""
        shape = self.shape(node, 0)
        whole = [shape[k] if k in selected else n for k, n in enumerate(factors.shape)]
        index = [selected.get(k, np.arange(n)) for k, n in enumerate(whole)]
        scale: Factors = np.full(whole, np.nan)
        scale[np.ix_(*index)] = factors
        return scale

    def _selected(self, node: int) -> dict[int, Indices] | None:
        """The indices that a Gather or Slice reads of the dimensions that it selects from; None where that is not known.

        Where it reads nothing at these sizes and with these data, it may with others.
        """
        proto = self.analysis.topology.proto(node)
        if proto.op_type == "Slice" and self.analysis.rules[node] is not None:
            selected = self._sliced(node)
            return selected if all(len(index) for index in (selected or {}).values()) else None
        if proto.op_type != "Gather":
            return None
        index = self.analysis.shapes.value.get(proto.input[1])
        shape = self.shape(node, 0)
        axis = _attribute(proto, "axis", 0) % len(shape)
        unchanged = shape[axis] == self.analysis.shapes.shape[proto.input[0]][axis]
        if index is None or index.ndim > 1 or not unchanged or self.shape(node, 1) != index.shape:
            return None
        chosen = index.reshape(-1).astype(np.int64) % shape[axis]
        return {axis: chosen} if len(np.unique(chosen)) == len(chosen) else None

    def _sliced(self, node: int) -> dict[int, Indices] | None:
        said, shapes = self.analysis.said, self.analysis.shapes
        proto = self.analysis.topology.proto(node)
        stated = said.sized_inputs.get((node, 1)) or next(
            (a for a in said.attributes if a.node == node and a.name == "starts"), None
        )
        inputs = [shapes.value[name] for name in proto.input[1:] if name in shapes.value]
        literals = _attribute(proto, "starts", None) if len(inputs) < 2 else inputs[0]
        if literals is None or stated is None or len(inputs) < len(proto.input) - 1:
            return None
        axes = _attribute(proto, "axes", range(len(literals))) if len(inputs) < 3 else inputs[2]
        steps = [1] * len(literals) if len(inputs) < 4 else inputs[3]
        shape, out = (
            self.shape(node, 0),
            [grown_size(dim, self.maps) for dim in self.analysis.dims[proto.output[0]]],
        )
        selected: dict[int, Indices] = {}
        for literal, element, axis, step in zip(literals, stated.elements, axes, steps, strict=True):
            at = int(axis) % len(shape)
            start = int(literal)
            if isinstance(element, Negated):
                start = -grown_size(element.dim, self.maps)
            elif element is not None:
                start = grown_size(element, self.maps)
            start = min(max(start + shape[at] if start < 0 else start, 0), shape[at] - (step < 0))
            selected[at] = start + int(step) * np.arange(out[at])
        return selected

    def addends(self, node: int, scales: Sequence[Factors]) -> Sequence[Sequence[Move]] | None:
        """What must be scaled for results to be scaled: every addend, each through any of its alternatives.

        None when the operator does not pass the scale on.
        """
        proto = self.analysis.topology.proto(node)
        rule = self.analysis.rules[node]
        if rule is None:
            return None
        moves: Sequence[Sequence[Move | None]] | None
        if proto.op_type == "Split":
            moves = self._split(node, scales)
        elif any((scale != 1).any() for scale in scales[1:]):
            return None
        elif proto.op_type in _BACKWARD:
            moves = _BACKWARD[proto.op_type](self, node, scales[0])
        elif rule.addends is None:
            return None
        else:
            present = [k for k, operand in enumerate(proto.input) if operand]
            listed = [(k,) for k in present] if rule.addends == "each" else rule.addends
            moves = [[self._aligned(node, k, scales[0]) for k in addend if k in present] for addend in listed]
        if moves is None:
            return None
        possible = [[move for move in addend if move is not None] for addend in moves if addend]
        return None if not possible or any(not addend for addend in possible) else possible

    def _aligned(self, node: int, operand: int, factors: Factors) -> Move | None:
        """The scale for an operand that is broadcast to the result.

        A constant may be given values along a new dimension, if the file tells that dimension's size.
        """
        shape = self.shape(node, operand)
        spare = factors.ndim - len(shape)
        if any(n > 1 for n in factors.shape[: max(spare, 0)]) or spare < 0:
            return None
        scale: Factors = factors.reshape(factors.shape[spare:])
        proto = self.analysis.topology.proto(node)
        new = {k + spare for k, n in enumerate(scale.shape) if n != 1 and shape[k] == 1}
        if new and (
            proto.input[operand] not in self.analysis.constants or new & self.sizes.open(proto.output[0])
        ):
            return None
        fits = all(n in (1, size) or size == 1 for n, size in zip(scale.shape, shape, strict=True))
        return (operand, scale) if fits else None

    def _bits(self, name: str) -> int:
        """How many bits a tensor keeps of each floating-point number; 0 for other types."""
        return _BITS.get(self.analysis.shapes.dtype.get(name, 0), 0)

    # Backward rules of the operators that do not align operand and result: (node, scale of output 0) -> addends.

    def _cast(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        """Numbers of fewer bits than the result's would round the scale too much, and integers cut it off."""
        proto = self.analysis.topology.proto(node)
        before, after = self._bits(proto.input[0]), self._bits(proto.output[0])
        return [[(0, factors)]] if before >= after > 0 else None

    def _transpose(self, node: int, factors: Factors) -> list[list[Move | None]]:
        permutation = _permutation(self.analysis.topology.proto(node), factors.ndim)
        return [[(0, factors.transpose(np.argsort(permutation)))]]

    def _reshape(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        name = self.analysis.topology.proto(node).output[0]
        out = [grown_size(dim, self.maps) for dim in self.analysis.dims[name]]
        scale = _reshaped(factors, out, self.shape(node, 0))
        return None if scale is None else [[(0, scale)]]

    def _tile(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        """What is repeated has one value for all repetitions."""
        fits = all(n in (1, size) for n, size in zip(factors.shape, self.shape(node, 0), strict=True))
        return [[(0, factors)]] if fits else None

    def _split(self, node: int, scales: Sequence[Factors]) -> list[list[Move | None]] | None:
        """Of all results together. One that is empty with these data may not be with others, so that all must be scaled alike."""
        proto = self.analysis.topology.proto(node)
        axis = _attribute(proto, "axis", 0) % scales[0].ndim
        if any(0 in self.analysis.shapes.shape[name] for name in proto.output):
            alike = all(np.array_equal(scale, scales[0]) and scale.shape[axis] == 1 for scale in scales)
            return [[(0, scales[0])]] if alike else None
        whole = np.broadcast_shapes(*((*s.shape[:axis], 1, *s.shape[axis + 1 :]) for s in scales))
        parts = []
        for name, scale in zip(proto.output, scales, strict=True):
            shape = list(whole)
            shape[axis] = grown_size(self.analysis.dims[name][axis], self.maps)
            parts.append(np.broadcast_to(scale, shape))
        return [[(0, condensed(np.concatenate(parts, axis)))]]

    def _gather(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        proto = self.analysis.topology.proto(node)
        shape = self.shape(node, 0)
        axis = _attribute(proto, "axis", 0) % len(shape)
        width = factors.ndim - len(shape) + 1
        selected = self._selected(node)
        if selected is None and any(n > 1 for n in factors.shape[axis : axis + width]):
            return None
        scale = factors.reshape(*factors.shape[:axis], -1, *factors.shape[axis + width :])
        return [[(0, scale if selected is None else self._part(node, scale, selected))]]

    def _slice(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        selected = self._selected(node)
        return None if selected is None else [[(0, self._part(node, factors, selected))]]

    def _concat(self, node: int, factors: Factors) -> list[list[Move | None]]:
        proto = self.analysis.topology.proto(node)
        axis = _attribute(proto, "axis", 0) % factors.ndim
        moves: list[list[Move | None]] = []
        at = 0
        for k in range(len(proto.input)):
            length = self.shape(node, k)[axis]
            part = factors if factors.shape[axis] == 1 else factors.take(range(at, at + length), axis)
            if part.size:
                moves.append([(k, part)])
            at += length
        return moves

    def _matmul(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        ranks = [len(self.shape(node, k)) for k in (0, 1)]
        if min(ranks) < 2:
            return None
        moves: list[Move | None] = []
        for operand, contracted in (
            (1, -2),
            (0, -1),
        ):  # the last dimension comes from the right, the one before from the left
            if factors.shape[contracted] == 1:
                moves.append(self._aligned(node, operand, factors))
        return [moves]

    def _gemm(self, node: int, factors: Factors) -> list[list[Move | None]]:
        proto = self.analysis.topology.proto(node)
        moves: list[Move | None] = []
        for operand, contracted, flag in ((1, 0, "transB"), (0, 1, "transA")):
            if factors.shape[contracted] == 1:
                moves.append((operand, factors.T if _attribute(proto, flag, 0) else factors))
        bias = [self._aligned(node, 2, factors)] if len(proto.input) > 2 and proto.input[2] else []
        return [moves, bias]

    def _einsum(self, node: int, factors: Factors) -> list[list[Move | None]]:
        """Through any operand that has all letters over which the scale varies."""
        proto = self.analysis.topology.proto(node)
        shapes = [self.shape(node, k) for k in range(len(proto.input))]
        operands, result = spelled(
            _attribute(proto, "equation", b"").decode(), [len(shape) for shape in shapes]
        )
        varying = {letter: n for letter, n in zip(result, factors.shape, strict=True) if n > 1}
        moves: list[Move | None] = []
        for k, (letters, shape) in enumerate(zip(operands, shapes, strict=True)):
            sizes = dict(zip(letters, shape, strict=True))
            if varying.items() <= sizes.items() and len(sizes) == len(letters):
                order = [list(varying).index(letter) for letter in letters if letter in varying]
                scale = factors.reshape(list(varying.values())).transpose(order)
                moves.append((k, scale.reshape([varying.get(letter, 1) for letter in letters])))
        return [moves]

    def _rotary(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        """Channels turn in pairs, each of which must be scaled alike."""
        proto = self.analysis.topology.proto(node)
        half = self.shape(node, 2 if proto.domain else 1)[-1]
        if factors.shape[-1] > 1:
            if _attribute(proto, "rotary_embedding_dim", 0) or factors.shape[-1] % (2 * half):
                return None
            interleaved = _attribute(proto, "interleaved", 0)
            pairs = (
                factors.reshape(-1, half, 2) if interleaved else factors.reshape(-1, 2, half).swapaxes(1, 2)
            )
            if (pairs[..., 0] != pairs[..., 1]).any():
                return None
        return [[(0, factors)]]

    def _conv(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        proto = self.analysis.topology.proto(node)
        transposed = proto.op_type == "ConvTranspose"
        if not _only(factors, 1) or (transposed and _attribute(proto, "group", 1) != 1):
            return None
        shape = [1] * factors.ndim
        shape[1 if transposed else 0] = -1
        bias = [(2, factors.reshape(-1))] if len(proto.input) > 2 and proto.input[2] else []
        return [[(1, factors.reshape(shape))], list(bias)]

    def _parameters(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        """Normalisations whose parameters lie along dimension 1."""
        if not _only(factors, 1):
            return None
        return [[(1, factors.reshape(-1))], [(2, factors.reshape(-1))]]

    def _layer(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        present = [k for k in (1, 2) if k < len(self.analysis.topology.proto(node).input)]
        return [[self._aligned(node, k, factors)] for k in present]

    def _times(self, node: int, factors: Factors) -> list[list[Move | None]]:
        """A square takes the root on both sides."""
        first, second = self.analysis.topology.proto(node).input
        if first == second:
            return [[(0, np.sqrt(factors))], [(1, np.sqrt(factors))]]
        return [[self._aligned(node, 0, factors), self._aligned(node, 1, factors)]]

    def _quotient(self, node: int, factors: Factors) -> list[list[Move | None]]:
        with np.errstate(divide="ignore"):
            return [[self._aligned(node, 0, factors), self._aligned(node, 1, 1 / factors)]]

    def _clip(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        """Bounds move with what they bound."""
        proto = self.analysis.topology.proto(node)
        if any(_attribute(proto, bound, 0.0) for bound in ("min", "max")):
            return None
        return [[self._aligned(node, k, factors)] for k, name in enumerate(proto.input) if name]

    def _dequantize(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        """The integers stay, and stand for other numbers."""
        shape = self.shape(node, 1)
        if len(shape) == factors.ndim and len(shape) != 1:
            return [[self._aligned(node, 1, factors)]]
        axis = _attribute(self.analysis.topology.proto(node), "axis", 1) % max(factors.ndim, 1)
        if len(shape) > 1 or not _only(factors, *([axis] if shape else [])):
            return None
        scale = factors.reshape((-1,) if shape else ())
        return [[(1, scale)]] if scale.size in (1, prod(shape)) else None

    def _root(self, node: int, factors: Factors) -> list[list[Move | None]]:
        return [[(0, factors**2)]]

    def _inverse(self, node: int, factors: Factors) -> list[list[Move | None]]:
        with np.errstate(divide="ignore"):
            return [[(0, 1 / factors)]]

    def _power(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        exponent = self.number(self.analysis.topology.proto(node).input[1])
        with np.errstate(divide="ignore"):
            return [[(0, factors ** (1 / exponent))]] if exponent else None

    def _reduced(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        """What is summed, or compared, takes one scale for all."""
        proto, shape = self.analysis.topology.proto(node), self.shape(node, 0)
        if not _attribute(proto, "keepdims", 1):
            listed = _attribute(proto, "axes", None)
            if listed is None and len(proto.input) > 1 and proto.input[1]:
                listed = self.analysis.shapes.value.get(proto.input[1])
            axes = range(len(shape)) if listed is None else [int(axis) % len(shape) for axis in listed]
            factors = np.expand_dims(factors, tuple(axes))
        return [[(0, np.sqrt(factors) if proto.op_type == "ReduceSumSquare" else factors)]]

    def _in_place(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        """Padding by zeros and resampling, where the scale varies only over dimensions whose size stays."""
        proto, shape = self.analysis.topology.proto(node), self.shape(node, 0)
        out = [grown_size(dim, self.maps) for dim in self.analysis.dims[proto.output[0]]]
        if any(n > 1 and a != b for n, a, b in zip(factors.shape, shape, out, strict=True)):
            return None
        if proto.op_type == "Pad":
            filled = _attribute(proto, "value", 0.0)
            if len(proto.input) > 2 and proto.input[2]:
                filled = self.number(proto.input[2])
            if filled != 0:
                return None
        return [[(0, factors)]]

    def _pool(self, node: int, factors: Factors) -> list[list[Move | None]] | None:
        return [[(0, factors)]] if _only(factors, 0, 1) else None


_Backward = Callable[[Absorption, int, Factors], Sequence[Sequence["Move | None"]] | None]
_BACKWARD: dict[str, _Backward] = {
    "Cast": Absorption._cast,
    "Transpose": Absorption._transpose,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), Absorption._reshape),
    "Tile": Absorption._tile,
    "Gather": Absorption._gather,
    "Slice": Absorption._slice,
    "Mul": Absorption._times,
    "Div": Absorption._quotient,
    "Sqrt": Absorption._root,
    "Clip": Absorption._clip,
    "DequantizeLinear": Absorption._dequantize,
    "Reciprocal": Absorption._inverse,
    "Pow": Absorption._power,
    **dict.fromkeys(("Pad", "Resize", "Upsample"), Absorption._in_place),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"),
        Absorption._reduced,
    ),
    "Concat": Absorption._concat,
    "MatMul": Absorption._matmul,
    "Gemm": Absorption._gemm,
    "Einsum": Absorption._einsum,
    "RotaryEmbedding": Absorption._rotary,
    **dict.fromkeys(("Conv", "ConvTranspose"), Absorption._conv),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), Absorption._parameters),
    **dict.fromkeys(
        ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), Absorption._layer
    ),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), Absorption._pool),
}


def insert_scale(
    analysis: Analysis, constants: Constants, node: int, i: int, factors: Factors, operator: str = "Mul"
) -> None:
    """Insert a Mul by constant `factors`, or an Add of them, before one input of a node."""
    draft = constants.draft
    name = analysis.topology.proto(node).input[i]
    dtype = helper.tensor_dtype_to_np_dtype(analysis.shapes.dtype[name])
    factor = constants.add(f"{name}_shares", factors.astype(dtype))
    out = draft.fresh_name(f"{name}_shared")
    inputs, label = [draft.node(node).input[i], factor], draft.fresh_name(f"{out}_{operator}")
    draft.insert_before(node, helper.make_node(operator, inputs, [out], label))
    draft.node(node).input[i] = out


def insert_mean(
    analysis: Analysis, constants: Constants, node: int, dim: int, where: NDArray[np.bool_], scale: float
) -> None:
    """Insert nodes before input 0 of a node that add `scale` times its mean along `dim` to what is `where` of that dimension."""
    draft = constants.draft
    name = analysis.topology.proto(node).input[0]
    source = draft.node(node).input[0]
    mean, share, out = (draft.fresh_name(f"{name}_{what}") for what in ("mean", "mean_share", "centred"))
    dtype = helper.tensor_dtype_to_np_dtype(analysis.shapes.dtype[name])
    by = along(np.where(where, scale, 0.0), dim, len(analysis.shapes.shape[name])).astype(dtype)
    if analysis.model.opset < 18:
        reduced = helper.make_node(
            "ReduceMean", [source], [mean], draft.fresh_name(f"{mean}_ReduceMean"), axes=[dim]
        )
    else:
        axes = constants.add(f"{mean}_axes", np.array([dim], np.int64))
        reduced = helper.make_node(
            "ReduceMean", [source, axes], [mean], draft.fresh_name(f"{mean}_ReduceMean")
        )
    factor = constants.add(f"{share}_factor", by)
    draft.insert_before(node, reduced)
    draft.insert_before(
        node, helper.make_node("Mul", [mean, factor], [share], draft.fresh_name(f"{share}_Mul"))
    )
    draft.insert_before(node, helper.make_node("Add", [source, share], [out], draft.fresh_name(f"{out}_Add")))
    draft.node(node).input[0] = out


def insert_after(analysis: Analysis, constants: Constants, node: int, factor: float | Factors) -> None:
    """Insert a Mul by a constant behind output 0 of a node, which keeps its name."""
    draft = constants.draft
    proto = draft.node(node)
    name = proto.output[0]
    dtype = helper.tensor_dtype_to_np_dtype(analysis.shapes.dtype[name])
    proto.output[0] = draft.fresh_name(f"{name}_diluted")
    by = constants.add(f"{name}_factor", np.asarray(factor, dtype))
    draft.insert_after(
        node, helper.make_node("Mul", [proto.output[0], by], [name], draft.fresh_name(f"{name}_Mul"))
    )


def along(factors: NDArray[np.float64], dim: int, rank: int) -> Factors:
    """A scale of a tensor of `rank` that varies along one dimension."""
    shape = [1] * rank
    shape[dim] = -1
    return factors.reshape(shape)


def condensed(scale: Factors) -> Factors:
    """A scale with size 1 along the dimensions that it does not vary over."""
    for k in range(scale.ndim):
        first = scale.take([0], k)
        if (scale == first).all():
            scale = first
    return scale


def _reshaped(factors: Factors, out: Sequence[int], into: Sequence[int]) -> Factors | None:
    """A scale of a tensor of shape `out` as one of the same values in shape `into`; None when it would vary over too much, or nothing."""
    full = list(factors.shape)
    new = [1] * len(into)
    for outs, ins in _groups(out, into):
        if any(factors.shape[k] > 1 for k in outs):
            for k in outs:
                full[k] = out[k]
            for k in ins:
                new[k] = into[k]
    if not 0 < prod(full) <= _LARGEST or prod(full) != prod(new):
        return None
    return condensed(np.broadcast_to(factors, full).reshape(new))


def _groups(a: Sequence[int], b: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions of two shapes of equal size that hold the same elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        left: list[int] = []
        right: list[int] = []
        n = m = 1
        while True:
            if n <= m and i < len(a) and not (left and right and n == m):
                n *= a[i]
                left.append(i)
                i += 1
            elif j < len(b) and not (left and right and n == m):
                m *= b[j]
                right.append(j)
                j += 1
            else:
                break
        groups.append((left, right))
    return groups


def _met(place: Place, *asked: Asked) -> bool:
    """Whether another input of the same node is to be scaled."""
    return any(node == place[0] and i != place[1] for scales in asked for node, i in scales)


def _only(factors: Factors, *dims: int) -> bool:
    return all(n == 1 or k in dims for k, n in enumerate(factors.shape))


def _holding(dims: Dims, axes: set[Axis]) -> list[int]:
    """The positions of the dimensions in which any of `axes` occurs."""
    return [k for k, dim in enumerate(dims) if any(leaf in axes for leaf in leaves(dim))]


def _permutation(proto: NodeProto, rank: int) -> list[int]:
    return list(_attribute(proto, "perm", list(reversed(range(rank)))))


def _attribute(proto: NodeProto, name: str, default: Any) -> Any:
    found = next((attribute for attribute in proto.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
