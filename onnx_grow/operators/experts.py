"""Mixtures of experts: a router chooses some experts for every token, and each is two layers.

    y = sum of chosen e: p[e] W2[e] f(W1[e] x)      W1: experts x inner x channels      W2: experts x channels x inner

The channels and the inner channels grow as those of any two layers; the router compares the experts, whose number stays. Of a gated
activation W1 has two rows for every inner channel, in turn or one half behind the other.
"""

from __future__ import annotations

from onnx_grow.axes.algebra import Dim, axis, size
from onnx_grow.axes.equations import Node, Rule, Unsupported
from onnx_grow.operators.quantization import blocked

_CHOSEN = "chooses experts by comparing all of them"


def mixture(node: Node) -> None:
    """MoE: weights and biases of up to three matrices; the third is the gate where it is one of its own."""
    node.apart()
    channels = node.input(0)[-1]
    inner = axis(node.shape(4)[2])
    rows = _rows(node, inner, node.shape(2)[1])
    _routed(node)
    node.inside(inner)
    node.role("residual", channels)
    for i, out, into in ((2, rows, channels), (4, channels, inner), (6, inner, channels)):
        if node.has(i):
            _layer(node, i, out, into)
            if node.has(i + 1):
                _vector(node, i + 1, out)
    node.set(0, node.input(0))


def quantized_mixture(node: Node) -> None:
    """QMoE: weights are packed integers. Blocks of them have scales of their own and are copied whole, their scales shared."""
    if node.attribute("quant_type", "int") != "int" or node.attribute("weights_prepacked", 0):
        raise Unsupported("its weights are packed for one machine")
    bits = int(node.attribute("expert_weight_bits", 4))
    if any(node.attribute(f"fc{k}_expert_weight_bits", bits) != bits for k in (1, 2, 3)):
        raise Unsupported("its matrices have different numbers of bits")
    node.apart()
    channels = node.input(0)[-1]
    inner = axis(node.shape(5)[2] * 8 // bits)
    rows = _rows(node, inner, node.shape(2)[1])
    _routed(node)
    node.inside(inner)
    node.role("residual", channels)
    if node.has(14):
        for dim in node.input(14):
            node.freeze(dim, _CHOSEN)
    for k, (out, into) in enumerate(((rows, channels), (channels, inner), (inner, channels))):
        if node.has(2 + 3 * k):
            _packed(node, 2 + 3 * k, 11 + k, out, into, bits)
    for i in range(15, len(node.dims)):
        if node.has(i):
            raise Unsupported("its weights have scales of several levels")
    node.set(0, node.input(0))


def _routed(node: Node) -> None:
    for dim in (*node.input(0)[:-1], *node.input(1)):
        node.freeze(dim, _CHOSEN)


def _rows(node: Node, inner: Dim, rows: int) -> Dim:
    """What the rows of the first matrix are of the inner channels."""
    if rows == size(inner):
        return inner
    two = node.frozen(2, "are what is gated and its gate")
    return (*inner, *two) if node.attribute("swiglu_fusion", 0) == 1 else (*two, *inner)


def _layer(node: Node, i: int, out: Dim, into: Dim) -> None:
    experts, rows, columns = node.input(i)
    node.freeze(experts, _CHOSEN)
    node.unify(rows, out)
    node.unify(columns, into)
    node.contract(into, (i, 2))


def _vector(node: Node, i: int, out: Dim) -> None:
    experts, rows = node.input(i)
    node.freeze(experts, _CHOSEN)
    node.unify(rows, out)


def _packed(node: Node, i: int, zeros: int, out: Dim, into: Dim, bits: int) -> None:
    """Weights at input `i`, their scales and biases behind them, and their zero points at input `zeros`."""
    experts, _, packed = node.input(i)
    _, _, *scales = node.input(i + 1)
    points = node.input(zeros)[2:] if node.has(zeros) else ()
    for k in (i, i + 1, i + 2, zeros):
        if node.has(k):
            node.unify(node.input(k)[0], experts)
    node.freeze(experts, _CHOSEN)
    for k in (i, i + 1, i + 2):
        if node.has(k):
            node.unify(node.input(k)[1], out)
    if not scales or len(points) < node.has(zeros):
        node.freeze((*out, *into, *packed), "its packed weights have no blocks that could be copied")
        for dim in node.input(zeros) if node.has(zeros) else ():
            node.freeze(dim, "has zero points of several rows in one byte")
        return
    blocks, packed_points = blocked(node, into, size(scales[0]), bits, size(points[0]) if points else None)
    node.unify(packed, (*blocks, *node.frozen(size(packed) // size(blocks), "are the bytes of one block")))
    node.unify(scales[0], blocks)
    node.contract(blocks, (i + 1, 2))
    if points:
        node.unify(node.input(zeros)[1], out)
        node.unify(points[0], packed_points)


RULES: dict[tuple[str, str], Rule] = {
    ("com.microsoft", "MoE"): Rule(mixture),
    ("com.microsoft", "QMoE"): Rule(quantized_mixture),
}
