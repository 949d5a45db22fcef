"""Random networks: inputs, a first layer, up to thirty blocks, bodies of control flow in bodies, and a last layer behind all loose ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import random_operators as rare
from onnx import TensorProto
from random_blocks import (
    any_reshape,
    attention,
    attention_operator,
    batch_norm,
    between,
    channels_last,
    concat,
    contributed,
    conv,
    conv_transpose,
    einsum,
    embedding,
    emptied,
    expand,
    filled,
    flatten,
    gather,
    gemm,
    group_norm,
    halved,
    instance_norm,
    layer_norm,
    learned,
    linear,
    listed,
    lp_or_mean_variance,
    masked,
    matmul_forms,
    merge_dims,
    outer_product,
    pad,
    pixel_shuffle,
    pooled_by_weights,
    pooling,
    positions,
    quantised_linear,
    recurrent,
    reduced,
    reduction,
    repeated_heads,
    residual,
    resize,
    rotary,
    scaled_by_size,
    several,
    shuffle,
    slices,
    softmax,
    space_depth,
    split,
    split_dim,
    squeeze,
    squeeze_excite,
    standardised_conv,
    tile,
    transpose,
    two_at_once,
    unary,
    unary_with_settings,
    unsqueeze,
    with_another,
    with_constant,
    without_rule,
)  # fmt: skip
from random_graphs import OPEN, Block, Choices, Graph, Value, fixed, is_fixed, small, times, with_dim

NESTED = 3  # bodies inside of bodies, at most

INPUTS: tuple[tuple[str | int, ...], ...] = (
    ("N", 4), ("N", "T", 6), ("N", 3, "H", "W"), ("N", 4, 8, 6), ("N", 6, "T"), ("T", "N", 4), ("N", "H", "W", 3), (1, 4, 6, 6),
    (4, 4), (1, "T", 8), (2, 6, 8), ("N", 6, 6, 4), ("N", 4, 5),
)  # fmt: skip


SINGLE = frozenset((
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Attention", "AveragePool", "BiasGelu", "Celu", "Col2Im", "Conv",
    "ConvInteger", "ConvTranspose", "Cosh", "Det", "DeformConv", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "Elu",
    "EmbedLayerNormalization", "Erf", "FastGelu", "FusedConv", "FusedGemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
    "GroupQueryAttention", "HardSigmoid", "HardSwish", "Hardmax", "InstanceNormalization", "LRN", "LSTM", "GRU", "RNN", "LeakyRelu",
    "LpPool", "MatMulIntegerToFloat", "MatMulNBits", "MaxRoiPool", "Mean", "MeanVarianceNormalization", "Mish",
    "MultiHeadAttention", "NonZero", "OneHot", "PRelu", "QuantizeLinear", "QuickGelu", "Resize", "RoiAlign", "RotaryEmbedding",
    "Scaler", "Imputer", "Normalizer", "Binarizer", "LinearRegressor", "SVMRegressor", "FeatureVectorizer", "Selu",
    "SimplifiedLayerNormalization", "Sinh", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Softplus", "Softsign",
    "Tan", "ThresholdedRelu", "TransposeMatMul", "Upsample",
))  # fmt: skip
"""Operators that ONNX Runtime has no double precision of."""


def random_graph(
    choices: Choices,
    dtype: Any = np.float64,
    blocks: int = 30,
    avoided: frozenset[str] = frozenset(),
    wide: bool = False,
) -> tuple[Graph, onnx.ModelProto]:
    """A graph of at most so many blocks, without some operators, and its model. The same choices give the same graph, whatever the type.

    Some weights are stored in half precision, but none if it is to be `wide`.
    """
    g = Graph(choices, dtype, avoided, wide)
    for _ in range(1 + choices.chance(25)):
        _input(g)
    x = g.values[0]
    if not choices.chance(5):
        x = _layer(g, x)
    for _ in range(1 + choices.below(1 + choices.below(blocks))):
        if choices.chance(25):
            x = choices.pick([v for v in reversed(g.values) if v.kind == "float"] or g.values)
        x = _block(g, x)
    unread = [v for v in g.values if v.name not in g.read and v.kind == "float" and v.name not in g.sizes]
    computed = {name for node in g.nodes for name in node.output}
    outputs = [_output(g, _layer(g, v) if choices.chance(50) else v) for v in unread if v.name in computed]
    if not outputs:
        outputs = [_output(g, g.node("Relu", [v], v.shape)) for v in g.values[:1] if v.kind == "float"]
    inside = [v for v in g.values if v.name in g.read and v.kind == "float" and v.name in computed]
    if inside and choices.chance(10):
        outputs.append(choices.pick(inside))
    return g, g.model(list({v.name: v for v in outputs}.values()))


def _block(g: Graph, x: Value) -> Value:
    """Behind x one more block, or x itself where that does not fit; a rare one mostly between layers with weights."""
    chosen = g.choices.pick(BLOCKS)
    if g.choices.chance(50 if chosen in RARE else 10):
        x = _layer(g, x)
    y = g.attempt(chosen if x.kind == "float" else embedding, x)
    if y is None:
        return x
    return _layer(g, y) if chosen in RARE and g.choices.chance(60) else y


def _input(g: Graph) -> None:
    name = g.fresh("x")
    if g.choices.chance(15):
        declared: tuple[str | int, ...] = ("N", "T")
        dtype = TensorProto.INT64
    else:
        declared = g.choices.pick(INPUTS)
        dtype = g.element
    shape = tuple(OPEN[d] if isinstance(d, str) else fixed(d) for d in declared)
    g.inputs.append((name, declared, dtype))
    g.sizes[name] = shape
    g.values.append(Value(name, shape, "int" if dtype == TensorProto.INT64 else "float"))


def _layer(g: Graph, x: Value) -> Value:
    """A layer with weights, so that there are channels that are neither an input's nor an output's."""
    if x.kind == "int":
        return embedding(g, x) or x
    first = conv if x.rank in (3, 4) and is_fixed(x.shape[1]) and g.choices.below(2) else linear
    return g.attempt(first, x) or g.attempt(linear, x) or x


def _output(g: Graph, x: Value) -> Value:
    """A value nobody reads, as an output: mostly through a last layer, so that its channels stay inside."""
    form = g.choices.pick((0, 1, 2, 3, 3, 3, 0, 1, 3, 2, 3, 3, 0, 3, 3, 4))
    if form == 0 and x.rank and is_fixed(x.shape[-1]):
        k = x.shape[-1][0]
        return g.node("MatMul", [x, g.weight((k, 2), k)], with_dim(x, x.rank - 1, fixed(2)))
    if form == 1 and x.rank in (3, 4) and is_fixed(x.shape[1]) and "Conv" not in g.avoided:
        c = x.shape[1][0]
        return g.node("Conv", [x, g.weight((2, c, *[1] * (x.rank - 2)), c)], with_dim(x, 1, fixed(2)))
    if form == 2 and x.rank:
        op = g.choices.pick(("ReduceMax", "ReduceMean", "ReduceSum", "ReduceL2"))
        axes = {*g.choices.some(range(x.rank)), *(k for k in range(x.rank) if is_fixed(x.shape[k]))}
        return reduced(g, op, x, sorted(axes), False)
    if form == 3 and x.rank and all(map(is_fixed, x.shape[1:])):
        k = times(*x.shape[1:])[0]
        y = g.node("Flatten", [x], (x.shape[0], fixed(k)))
        return g.node("Gemm", [y, g.weight((k, 2), k), g.weight((2,))], (x.shape[0], fixed(2)))
    if form in (0, 1, 3) and x.rank and is_fixed(x.shape[-1]):
        k = x.shape[-1][0]
        return g.node("MatMul", [x, g.weight((k, 2), k)], with_dim(x, x.rank - 1, fixed(2)))
    if form in (0, 1, 3) and x.rank:
        return reduced(g, "ReduceMax", x, list(range(x.rank)), False)
    return x


# Control flow


def branch(g: Graph, x: Value) -> Value | None:
    """An If: each branch a few blocks that read values and weights of the graph around, and end in the same shape."""
    if g.opset < 11 or not small(x.shape) or g.depth >= NESTED:
        return None
    condition = _condition(g, x)
    then, other = (g.body([], lambda: [_blocks_back_to(g, x)]) for _ in range(2))
    return g.node("If", [condition], x.shape, kind="float", then_branch=then, else_branch=other)


def loop(g: Graph, x: Value) -> Value | None:
    """A Loop that carries a value, as often as a number says or while a condition holds, and may collect one of each turn."""
    if g.opset < 11 or not small((*x.shape, fixed(3))) or g.depth >= NESTED:
        return None
    trips = g.choices.pick((2, 3))
    collects = g.choices.below(2)
    turn, going = Value(g.fresh("i"), (), "int"), Value(g.fresh("c"), (), "bool")
    state = Value(g.fresh("s"), x.shape)
    seen: list[Value] = []

    def build() -> list[Value]:
        y = _blocks_back_to(g, state)
        seen.append(_loose(g, y) if collects else y)
        ends = [g.node("Identity", [going], (), kind="bool"), y]
        return [*ends, g.node("Identity", [seen[0]], seen[0].shape)] if collects else ends

    body = g.body([turn, going, state], build)
    shapes = [x.shape, (fixed(trips), *seen[0].shape)] if collects else [x.shape]
    inputs: list[Value | str] = [
        g.constant(np.array(trips)),
        "" if g.choices.below(2) else g.constant(np.array(True)),
        x,
    ]
    y = g.node("Loop", inputs, *shapes, kind="float", body=body)
    return g.values[-1] if collects and g.choices.below(2) else y


def scan(g: Graph, x: Value) -> Value | None:
    """A Scan over one dimension: a recurrent network spelt out, whose state starts as zeros or as weights."""
    if g.opset < 11 or x.rank < 2 or not is_fixed(x.shape[-1]) or g.depth >= NESTED:
        return None
    axis = g.choices.below(x.rank - 1)
    item_shape = x.shape[:axis] + x.shape[axis + 1 :]
    c, h = x.shape[-1][0], g.choices.pick((4, 3, 2))
    shape = (*item_shape[:-1], fixed(h))
    state, item = Value(g.fresh("s"), shape), Value(g.fresh("e"), item_shape)
    if all(map(is_fixed, shape)):
        first: Value | str = g.weight([d[0] for d in shape])
    else:
        zero = g.node("Mul", [x, g.constant(np.array(0, g.dtype))], x.shape)
        zero = reduced(g, "ReduceMax", zero, [axis], False)
        first = g.node("MatMul", [zero, g.weight((c, h), c)], shape)

    def build() -> list[Value]:
        new = g.node("MatMul", [item, g.weight((c, h), c)], shape)
        old = g.node("MatMul", [state, g.weight((h, h), h)], shape)
        y = g.node("Tanh", [g.node("Add", [new, old], shape)], shape)
        seen = g.node("MatMul", [y, g.weight((h, c), h)], item_shape)
        return [g.node("Identity", [y], shape), g.node("Identity", [_blocks_back_to(g, seen)], item_shape)]

    body = g.body([state, item], build)
    direction = [g.choices.below(2)]
    settings: dict[str, Any] = {
        "scan_input_axes": [axis],
        "scan_input_directions": direction,
        "scan_output_axes": [axis],
    }
    g.node("Scan", [first, x], shape, x.shape, kind="float", body=body, num_scan_inputs=1, **settings)
    return g.values[-1 - g.choices.below(2)]


def _condition(g: Graph, x: Value) -> Value | str:
    """A constant, an input, or what the data say."""
    form = g.choices.below(3)
    if form == 0:
        return g.constant(np.array(bool(g.choices.below(2))))
    if form == 1:
        name = next((name for name, _, dtype in g.inputs if dtype == TensorProto.BOOL), None)
        if name is None:
            name = g.fresh("when")
            g.inputs.append((name, (), TensorProto.BOOL))
            g.sizes[name] = ()
        return name
    total = g._emit("ReduceMax", [x.name], keepdims=0)
    g.read.add(x.name)
    return g._emit("Greater", [total, g.constant(np.array(0.5, g.dtype))])


def _blocks_back_to(g: Graph, x: Value) -> Value:
    """A few blocks behind x, and what leads back to its shape."""
    y = g.attempt(residual, x) or x
    for _ in range(g.choices.below(4)):
        y = _block(g, y)
    if (
        y.shape != x.shape
        and y.rank == x.rank > 0
        and y.shape[:-1] == x.shape[:-1]
        and is_fixed(y.shape[-1])
        and is_fixed(x.shape[-1])
    ):
        k, n = y.shape[-1][0], x.shape[-1][0]
        y = g.node("MatMul", [y, g.weight((k, n), k)], x.shape)
    if y.shape != x.shape or y.kind != "float":
        y = next((v for v in reversed(g.values) if v.shape == x.shape and v.kind == "float"), x)
    return g.node("Identity", [y], x.shape)


def _loose(g: Graph, y: Value) -> Value:
    """Something of each turn to collect: the value, or less of it."""
    return reduced(g, "ReduceMax", y, [0], False) if y.rank and g.choices.below(2) else y


COMMON: Sequence[Block] = (
    unary, unary, unary, linear, linear, linear, linear, linear, conv, conv, conv, conv, conv, residual, residual, residual,
    residual, with_constant, with_constant, with_another, with_another, unary_with_settings, masked, matmul_forms, matmul_forms,
    gemm, gemm, einsum, einsum, between, conv_transpose, standardised_conv, embedding, quantised_linear, batch_norm, batch_norm,
    instance_norm, group_norm, layer_norm, layer_norm, lp_or_mean_variance, reduction, reduction, softmax, pooling, resize,
    transpose, transpose, split_dim, split_dim, merge_dims, merge_dims, any_reshape, flatten, squeeze, unsqueeze, shuffle, concat,
    concat, split, split, listed, emptied, slices, halved, gather, attention_operator, contributed, pad, tile, expand, space_depth,
    attention, attention, scaled_by_size, filled, positions, recurrent, squeeze_excite, learned, repeated_heads, rotary, channels_last,
    pixel_shuffle, outer_product, several, pooled_by_weights, two_at_once, rare.gated, rare.inception, rare.bottleneck,
    rare.bottleneck, rare.patches, rare.windows, rare.repeated_keys, rare.causal, rare.tied, rare.mixture, rare.permuted_norm,
    rare.hidden_states, rare.embedded_shape, rare.selective_scan,
)  # fmt: skip
RARE: Sequence[Block] = (
    without_rule, branch, branch, loop, loop, scan, rare.of_bounded, rare.with_threshold, rare.compared, rare.in_integers, rare.cast,
    rare.remainder, rare.looked_up, rare.gather_nd, rare.scatter_nd, rare.elements, rare.one_hot, rare.compressed, rare.in_order,
    rare.both_results, rare.cropped, rare.columns, rare.deformable, rare.sampled, rare.unpooled, rare.pooled, rare.of_matrices,
    rare.windowed, rare.spectrum, rare.listed, rare.optional, rare.counted, rare.losses, rare.log_sum, rare.fake_quantised,
    rare.integer_product, rare.integer_product, rare.in_four_bits, rare.heads_of, rare.heads_of, rare.rotary_operator, rare.fused,
    rare.fused, rare.embedded_words, rare.features, rare.features, rare.alone, rare.alone, rare.alone, rare.alone, rare.written,
)  # fmt: skip
BLOCKS: Sequence[Block] = (*COMMON, *COMMON, *RARE)
