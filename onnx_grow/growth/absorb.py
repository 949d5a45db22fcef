"""Moving a scale to where it costs nothing: into the weights that produce a tensor.

A contraction of two computed tensors (attention's Q Kt, a sum over channels) has no weight to divide. The scale then moves back
through operators that pass it on, to weights and biases; only where it cannot, a Mul is inserted.

A scale is an array that broadcasts against its tensor: full size along the dimensions it varies over, 1 along all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from onnx_grow.axes.algebra import Axis, Dim, Maps, grown_size, leaves
from onnx_grow.axes.inference import Analysis, Dims
from onnx_grow.growth.constants import FLOATS, Constants
from onnx_grow.growth.sizes import Sizes

Factors = NDArray[np.float64]
Move = tuple[int, Factors]  # an operand, and the scale to put on it

_BITS = {16: 8, 10: 11, 1: 24, 11: 53}  # what these types keep of a number
_MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_DEEPEST = 64
_LARGEST = 1 << 24  # elements of a scale; one that varies over more is left where it is


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A constant's use (node, input), and the scale it takes."""

    node: int
    input: int
    factors: Factors


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
            if producer is None or not self._private(name) or len(topology.consumers[name]) > 1:
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

    def find(self, node: int, i: int, factors: Factors, depth: int = 0) -> list[Rescaled] | None:
        """The constants to rescale so that input `i` of a node is scaled by `factors`; None when it cannot be done."""
        topology = self.analysis.topology
        name = topology.proto(node).input[i]
        if self.analysis.shapes.dtype.get(name) not in FLOATS or depth > _DEEPEST or factors.size > _LARGEST:
            return None
        if name in self.analysis.constants:
            return [Rescaled(node, i, factors)]
        producer = topology.producers.get(name)
        if producer is None or not self._private(name) or not self._reads_alone(name, node, i):
            return None
        found: list[Rescaled] = []
        for alternatives in self._addends(producer, name, factors) or ((),):
            taken = (self.find(producer, operand, scale, depth + 1) for operand, scale in alternatives)
            best = next((rescaled for rescaled in taken if rescaled is not None), None)
            if best is None:
                return None
            found += best
        return found

    def shape(self, node: int, i: int) -> tuple[int, ...]:
        """The shape that an input will have."""
        return tuple(grown_size(dim, self.maps) for dim in self.analysis.input_dims(node, i) or ())

    def _private(self, name: str) -> bool:
        return name not in self.analysis.topology.outputs and name not in self.analysis.topology.captured

    def _reads_alone(self, name: str, node: int, i: int) -> bool:
        """Whether what a node reads of a tensor is read by nobody else."""
        topology = self.analysis.topology
        readers = topology.consumers[name]
        if len(readers) == 1:
            return True
        chosen = [self._chosen(reader) for reader, _ in readers]
        return (
            None not in chosen
            and len(set(chosen)) == len(chosen)
            and len({part[0] for part in chosen if part}) == 1
        )

    def _chosen(self, node: int) -> tuple[int, int] | None:
        """The (dimension, index) that a Gather by one known index reads."""
        proto = self.analysis.topology.proto(node)
        if proto.op_type != "Gather":
            return None
        index = self.analysis.shapes.value.get(proto.input[1])
        dims = self.analysis.input_dims(node, 0)
        if index is None or index.size != 1 or dims is None:
            return None
        axis = _attribute(proto, "axis", 0) % len(dims)
        n: int = grown_size(dims[axis], self.maps)
        unchanged = n == self.analysis.shapes.shape[proto.input[0]][axis]
        return (axis, int(index.reshape(-1)[0]) % n) if unchanged else None

    def _addends(self, node: int, name: str, factors: Factors) -> Sequence[Sequence[Move]] | None:
        """What must be scaled for a result to be scaled: every addend, each through any of its alternatives.

        None when the operator does not pass the scale on.
        """
        proto = self.analysis.topology.proto(node)
        rule = self.analysis.rules[node]
        output = list(proto.output).index(name)
        if rule is None:
            return None
        if proto.op_type in _BACKWARD:
            moves = _BACKWARD[proto.op_type](self, node, output, factors)
        else:
            if rule.addends is None or output:
                return None
            present = [k for k, operand in enumerate(proto.input) if operand]
            listed = [(k,) for k in present] if rule.addends == "each" else rule.addends
            moves = [[self._aligned(node, k, factors) for k in addend if k in present] for addend in listed]
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

    # Backward rules of the operators that do not align operand and result: (node, output, scale) -> addends.

    def _cast(self, node: int, output: int, factors: Factors) -> list[list[Move | None]] | None:
        """Numbers of fewer bits than the result's would round the scale too much."""
        proto = self.analysis.topology.proto(node)
        return None if self._bits(proto.input[0]) < self._bits(proto.output[0]) else [[(0, factors)]]

    def _transpose(self, node: int, output: int, factors: Factors) -> list[list[Move | None]]:
        permutation = _permutation(self.analysis.topology.proto(node), factors.ndim)
        return [[(0, factors.transpose(np.argsort(permutation)))]]

    def _reshape(self, node: int, output: int, factors: Factors) -> list[list[Move | None]] | None:
        name = self.analysis.topology.proto(node).output[0]
        out = [grown_size(dim, self.maps) for dim in self.analysis.dims[name]]
        scale = _reshaped(factors, out, self.shape(node, 0))
        return None if scale is None else [[(0, scale)]]

    def _tile(self, node: int, output: int, factors: Factors) -> list[list[Move | None]] | None:
        """What is repeated has one value for all repetitions."""
        fits = all(n in (1, size) for n, size in zip(factors.shape, self.shape(node, 0), strict=True))
        return [[(0, factors)]] if fits else None

    def _split(self, node: int, output: int, factors: Factors) -> list[list[Move | None]]:
        proto = self.analysis.topology.proto(node)
        axis = _attribute(proto, "axis", 0) % factors.ndim
        lengths = [grown_size(self.analysis.dims[name][axis], self.maps) for name in proto.output]
        return [[(0, _placed(factors, axis, sum(lengths[:output]), lengths[output], sum(lengths)))]]

    def _gather(self, node: int, output: int, factors: Factors) -> list[list[Move | None]] | None:
        proto = self.analysis.topology.proto(node)
        shape = self.shape(node, 0)
        axis = _attribute(proto, "axis", 0) % len(shape)
        width = len(self.analysis.input_dims(node, 1) or ())
        if any(n > 1 for n in factors.shape[axis : axis + width]):
            return None
        scale = factors.reshape(*factors.shape[:axis], 1, *factors.shape[axis + width :])
        chosen = self._chosen(node)
        if chosen is not None:
            return [[(0, _placed(scale, axis, chosen[1], 1, shape[axis]))]]
        return [[(0, scale)]] if proto.input[0] in self.analysis.constants else None

    def _concat(self, node: int, output: int, factors: Factors) -> list[list[Move | None]]:
        proto = self.analysis.topology.proto(node)
        axis = _attribute(proto, "axis", 0) % factors.ndim
        moves: list[list[Move | None]] = []
        at = 0
        for k in range(len(proto.input)):
            length = self.shape(node, k)[axis]
            part = factors if factors.shape[axis] == 1 else factors.take(range(at, at + length), axis)
            moves.append([(k, part)])
            at += length
        return moves

    def _matmul(self, node: int, output: int, factors: Factors) -> list[list[Move | None]] | None:
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

    def _gemm(self, node: int, output: int, factors: Factors) -> list[list[Move | None]]:
        proto = self.analysis.topology.proto(node)
        moves: list[Move | None] = []
        for operand, contracted, flag in ((1, 0, "transB"), (0, 1, "transA")):
            if factors.shape[contracted] == 1:
                moves.append((operand, factors.T if _attribute(proto, flag, 0) else factors))
        bias = [self._aligned(node, 2, factors)] if len(proto.input) > 2 and proto.input[2] else []
        return [moves, bias]

    def _einsum(self, node: int, output: int, factors: Factors) -> list[list[Move | None]]:
        """Through any operand that has all letters over which the scale varies."""
        equation = _attribute(self.analysis.topology.proto(node), "equation", b"").decode().replace(" ", "")
        operands, _, result = equation.partition("->")
        varying = {letter: n for letter, n in zip(result, factors.shape, strict=True) if n > 1}
        moves: list[Move | None] = []
        for k, letters in enumerate(operands.split(",")):
            sizes = dict(zip(letters, self.shape(node, k), strict=True))
            if varying.items() <= sizes.items():
                order = [list(varying).index(letter) for letter in letters if letter in varying]
                scale = factors.reshape(list(varying.values())).transpose(order)
                moves.append((k, scale.reshape([varying.get(letter, 1) for letter in letters])))
        return [moves]

    def _rotary(self, node: int, output: int, factors: Factors) -> list[list[Move | None]] | None:
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

    def _conv(self, node: int, output: int, factors: Factors) -> list[list[Move | None]] | None:
        proto = self.analysis.topology.proto(node)
        transposed = proto.op_type == "ConvTranspose"
        if not _only(factors, 1) or (transposed and _attribute(proto, "group", 1) != 1):
            return None
        shape = [1] * factors.ndim
        shape[1 if transposed else 0] = -1
        bias = [(2, factors.reshape(-1))] if len(proto.input) > 2 and proto.input[2] else []
        return [[(1, factors.reshape(shape))], list(bias)]

    def _parameters(self, node: int, output: int, factors: Factors) -> list[list[Move | None]] | None:
        """Normalisations whose parameters lie along dimension 1."""
        if output or not _only(factors, 1):
            return None
        return [[(1, factors.reshape(-1))], [(2, factors.reshape(-1))]]

    def _layer(self, node: int, output: int, factors: Factors) -> list[list[Move | None]] | None:
        present = [k for k in (1, 2) if k < len(self.analysis.topology.proto(node).input)]
        return None if output else [[self._aligned(node, k, factors)] for k in present]

    def _pool(self, node: int, output: int, factors: Factors) -> list[list[Move | None]] | None:
        return [[(0, factors)]] if not output and _only(factors, 0, 1) else None


_Backward = Callable[[Absorption, int, int, Factors], Sequence[Sequence["Move | None"]] | None]
_BACKWARD: dict[str, _Backward] = {
    "Cast": Absorption._cast,
    "Transpose": Absorption._transpose,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), Absorption._reshape),
    "Tile": Absorption._tile,
    "Split": Absorption._split,
    "Gather": Absorption._gather,
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


def insert_scale(analysis: Analysis, constants: Constants, node: int, i: int, factors: Factors) -> None:
    """Insert a Mul by constant `factors` before one input of a node."""
    draft = constants.draft
    name = analysis.topology.proto(node).input[i]
    dtype = helper.tensor_dtype_to_np_dtype(analysis.shapes.dtype[name])
    factor = constants.add(f"{name}_shares", factors.astype(dtype))
    out = draft.fresh_name(f"{name}_shared")
    mul = helper.make_node("Mul", [draft.node(node).input[i], factor], [out], draft.fresh_name(f"{out}_Mul"))
    draft.insert_before(node, mul)
    draft.node(node).input[i] = out


def insert_after(analysis: Analysis, constants: Constants, node: int, factor: float) -> None:
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
    """A scale of a tensor of shape `out` as one of the same values in shape `into`; None when it would vary over too much."""
    full = list(factors.shape)
    new = [1] * len(into)
    for outs, ins in _groups(out, into):
        if any(factors.shape[k] > 1 for k in outs):
            for k in outs:
                full[k] = out[k]
            for k in ins:
                new[k] = into[k]
    if prod(full) > _LARGEST or prod(full) != prod(new):
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


def _placed(factors: Factors, axis: int, start: int, length: int, total: int) -> Factors:
    """A scale of one part of a dimension, as a scale of the whole: 1 elsewhere."""
    shape = list(factors.shape)
    shape[axis] = total
    scale = np.ones(shape)
    part = [slice(None)] * len(shape)
    part[axis] = slice(start, start + length)
    scale[tuple(part)] = factors
    return scale


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
