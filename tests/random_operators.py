"""Blocks of random graphs: operators that are rare, one or a few together, and as often as not between two that can grow."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnxruntime
from graphs import run
from onnx import TensorProto, helper
from random_blocks import linear, reduced, reshaped, shape_of, size_of
from random_graphs import (
    ML,
    MS,
    ONE,
    VOCABULARY,
    WIDTHS,
    Choices,
    Graph,
    Shape,
    Value,
    fixed,
    fixed_axes,
    is_fixed,
    plus,
    small,
    times,
    with_dim,
)  # fmt: skip
from single_operators import Computed
from test_operators_single import TABLE

# Elementwise


def _scalar(g: Graph, value: float) -> str:
    return g.constant(np.array(value, g.dtype))


def _bounded(g: Graph, x: Value) -> Value:
    """Values between -0.9 and 0.9."""
    return g.node("Mul", [g.node("Tanh", [x], x.shape), _scalar(g, 0.9)], x.shape)


def of_bounded(g: Graph, x: Value) -> Value | None:
    """Functions that are defined, or tame, between -1 and 1 only."""
    ops = {"Acos": 7, "Asin": 7, "Atan": 7, "Tan": 7, "Sinh": 9, "Cosh": 9, "Asinh": 9, "Atanh": 9}
    op = g.choices.pick([op for op, since in ops.items() if g.opset >= since])
    return g.node(op, [_bounded(g, x)], x.shape)


def with_threshold(g: Graph, x: Value) -> Value | None:
    """Functions with a jump, and others of one operand."""
    op = g.choices.pick(("Floor", "Ceil", "Round", "Sign", "ThresholdedRelu", "Acosh", "Swish", "HardSwish"))
    if op in ("Floor", "Ceil") or (op == "Round" and g.opset >= 11) or (op == "Sign" and g.opset >= 9):
        return g.node(op, [g.node("Mul", [x, _scalar(g, 3.0)], x.shape)], x.shape)
    if op == "ThresholdedRelu" and g.opset >= 10:
        return g.node(op, [x], x.shape, alpha=0.3)
    if op == "Acosh" and g.opset >= 9:
        positive = g.node("Add", [g.node("Abs", [x], x.shape), _scalar(g, 1.5)], x.shape)
        return g.node(op, [positive], x.shape)
    if op == "Swish" and g.opset >= 24:
        return g.node(op, [x], x.shape, alpha=1.25)
    return None


def compared(g: Graph, x: Value) -> Value | None:
    """Conditions, combined, that choose between two values or are counted."""
    ops = ["Greater", "Less"] + ["Equal"] * (g.opset >= 11)
    ops += (
        ["GreaterOrEqual", "LessOrEqual"] * (g.opset >= 12)
        + ["IsNaN"] * (g.opset >= 9)
        + ["IsInf"] * (g.opset >= 10)
    )
    if g.opset < 9:
        return None
    masks: list[Value] = []
    for _ in range(1 + g.choices.below(2)):
        op = g.choices.pick(ops)
        operands: list[Value | str] = [x]
        if op not in ("IsNaN", "IsInf"):
            fits = [d[0] if is_fixed(d) and g.choices.below(2) else 1 for d in x.shape]
            operands.append(g.weight(fits))
        masks.append(g.node(op, operands, x.shape, kind="bool"))
    mask = masks[0]
    if len(masks) > 1:
        mask = g.node(g.choices.pick(("And", "Or", "Xor")), masks, x.shape)
    if g.choices.below(2):
        mask = g.node("Not", [mask], x.shape)
    if g.choices.below(2):
        return g.node("Where", [mask, x, _scalar(g, 0.25)], x.shape, kind="float")
    count = g.node("Cast", [mask], x.shape, to=g.element, kind="float")
    return g.node("Add", [x, count], x.shape)


def in_integers(g: Graph, x: Value) -> Value | None:
    """Rounded to integers, changed there, and back."""
    ops = [
        ("Mod", 10, TensorProto.INT64),
        ("BitShift", 11, TensorProto.UINT64),
        ("BitwiseAnd", 18, TensorProto.INT32),
    ]
    ops += [
        ("BitwiseOr", 18, TensorProto.INT32),
        ("BitwiseXor", 18, TensorProto.INT32),
        ("BitwiseNot", 18, TensorProto.INT32),
    ]
    ops = [entry for entry in ops if g.opset >= entry[1]]
    if not ops:
        return None
    op, _, dtype = g.choices.pick(ops)
    large = g.node(
        "Add", [g.node("Mul", [_bounded(g, x), _scalar(g, 10.0)], x.shape), _scalar(g, 20.0)], x.shape
    )
    whole = g.node("Cast", [large], x.shape, to=dtype, kind="int")
    inputs: list[Value | str] = [whole]
    if op != "BitwiseNot":
        fits = [d[0] if is_fixed(d) and g.choices.below(2) else 1 for d in x.shape]
        numbers = g.rng.integers(1, 7, fits).astype(helper.tensor_dtype_to_np_dtype(dtype))
        inputs.append(g.constant(numbers))
    y = g.node(op, inputs, x.shape, kind="int", direction="RIGHT" if op == "BitShift" else None)
    g.values = [
        v for v in g.values if v not in (whole, y)
    ]  # not of the type that other blocks expect of integers
    back = g.node("Cast", [y], x.shape, to=g.element, kind="float")
    return g.node("Mul", [back, _scalar(g, 0.05)], x.shape)


def cast(g: Graph, x: Value) -> Value | None:
    """To another type of number and back."""
    other = TensorProto.FLOAT if g.dtype != np.float32 else TensorProto.DOUBLE
    y = g.node("Cast", [x], x.shape, to=other)
    g.values.pop()
    if g.opset >= 15 and g.choices.below(2):
        return g.node("CastLike", [y, x], x.shape)
    return g.node("Cast", [y], x.shape, to=g.element)


def remainder(g: Graph, x: Value) -> Value | None:
    if g.opset < 10:
        return None
    fits = [d[0] if is_fixed(d) and g.choices.below(2) else 1 for d in x.shape]
    divisor = g.constant(g.rng.uniform(0.7, 1.5, fits).astype(g.dtype))
    return g.node("Mod", [x, divisor], x.shape, fmod=1)


# Indexing


def looked_up(g: Graph, x: Value) -> Value | None:
    """Gather by computed indices."""
    ids = g.partner(lambda v: v.kind == "int")
    axes = fixed_axes(x)
    if ids is None or not axes or g.opset < 10:
        return None
    axis = g.choices.pick(axes)
    out = (*x.shape[:axis], *ids.shape, *x.shape[axis + 1 :])
    if len(out) > 5 or not small(out):
        return None
    inside = g.node("Mod", [ids, g.constant(np.array(x.shape[axis][0]))], ids.shape)
    g.values.pop()
    return g.node("Gather", [x, inside], out, axis=axis, kind="float")


def gather_nd(g: Graph, x: Value) -> Value | None:
    if x.rank < 2 or g.opset < 11:
        return None
    depth, rows = 1 + g.choices.below(min(x.rank, 2)), g.choices.pick((2, 3, 5))
    indices = np.stack([g.rng.integers(0, min(x.shape[k]), rows) for k in range(depth)], -1)
    return g.node("GatherND", [x, g.integers(indices)], (fixed(rows), *x.shape[depth:]))


def scatter_nd(g: Graph, x: Value) -> Value | None:
    """Some of its rows, changed, written to others."""
    y = gather_nd(g, x) if g.opset >= 13 else None
    if y is None:
        return None
    depth = 1 + x.rank - y.rank
    indices = np.zeros((y.shape[0][0], depth), np.int64)
    sizes = [min(d) for d in x.shape[:depth]]
    if len(indices) > np.prod(sizes):
        return None
    for k, place in enumerate(g.rng.permutation(int(np.prod(sizes)))[: len(indices)]):
        indices[k] = np.unravel_index(place, sizes)
    updates = g.node("Mul", [y, _scalar(g, 0.5)], y.shape)
    reduction = g.choices.pick((None, "add")) if g.opset >= 16 else None
    return g.node("ScatterND", [x, g.integers(indices), updates], x.shape, reduction=reduction)


def elements(g: Graph, x: Value) -> Value | None:
    """GatherElements or ScatterElements, of all or a part of the other dimensions."""
    if x.rank < 2 or g.opset < 9:
        return None
    axis = g.choices.below(x.rank)
    shape = [min(d) if not is_fixed(d) or g.choices.chance(70) else max(1, d[0] // 2) for d in x.shape]
    if g.choices.below(2) or g.opset < 11:
        length = min(min(x.shape[axis]), 3)
        shape[axis] = length
        order = np.argsort(g.rng.random([*shape[:axis], min(x.shape[axis]), *shape[axis + 1 :]]), axis)
        indices = np.take(order, range(length), axis)
        op = "ScatterElements" if g.opset >= 11 else "Scatter"
        reduction = g.choices.pick((None, "add", "mul")) if g.opset >= 16 else None
        return g.node(op, [x, g.integers(indices), g.weight(shape)], x.shape, axis=axis, reduction=reduction)
    shape[axis] = g.choices.pick((2, 1, 4))
    indices = g.rng.integers(0, min(x.shape[axis]), shape)
    return g.node("GatherElements", [x, g.integers(indices)], tuple(map(fixed, shape)), axis=axis)


def one_hot(g: Graph, x: Value) -> Value | None:
    ids = g.partner(lambda v: v.kind == "int")
    if ids is None or g.opset < 9:
        return None
    out = (*ids.shape, fixed(VOCABULARY))
    inputs = [ids, g.constant(np.array(VOCABULARY)), g.constant(np.array([0, 1], g.dtype))]
    hot = g.node("OneHot", inputs, out, kind="float", axis=-1)
    return linear(g, hot)


def compressed(g: Graph, x: Value) -> Value | None:
    if not x.rank or g.opset < 9:
        return None
    axis = g.choices.below(x.rank)
    mask = g.rng.random(min(x.shape[axis])) < 0.6
    mask[0] = True
    out = with_dim(x, axis, fixed(int(mask.sum())))
    return g.node("Compress", [x, g.constant(mask)], out, axis=axis)


def in_order(g: Graph, x: Value) -> Value | None:
    """Operators for which the order of a dimension matters."""
    ops = {
        "CumSum": 11,
        "CumProd": 26,
        "Trilu": 14,
        "ReverseSequence": 10,
        "LRN": 6,
        "TopK": 10,
        "ArgMin": 6,
        "Hardmax": 11,
    }
    op = g.choices.pick([op for op, since in ops.items() if g.opset >= since])
    if x.rank < 2:
        return None
    axis = g.choices.below(x.rank)
    if op in ("CumSum", "CumProd"):
        y = _bounded(g, x) if op == "CumProd" else x
        at = g.constant(np.array(axis - x.rank * g.choices.below(2), np.int64))
        return g.node(op, [y, at], x.shape, exclusive=g.choices.below(2), reverse=g.choices.below(2))
    if op == "Trilu":
        return g.node(
            op, [x, g.constant(np.array(g.choices.below(3) - 1))], x.shape, upper=g.choices.below(2)
        )
    if op == "ReverseSequence":
        batch, time = g.choices.pick(((0, 1), (1, 0)))
        if not is_fixed(x.shape[batch]):
            return None
        lengths = g.rng.integers(1, min(x.shape[time]) + 1, x.shape[batch][0])
        return g.node(op, [x, g.integers(lengths)], x.shape, batch_axis=batch, time_axis=time)
    if op == "LRN":
        return g.node(op, [x], x.shape, size=3, alpha=0.2) if x.rank == 4 else None
    if op == "TopK":
        k = min(min(x.shape[axis]), g.choices.pick((1, 2, 3)))
        shape = with_dim(x, axis, fixed(k))
        y = g.node(op, [x, g.integers([k])], shape, shape, axis=axis)
        g.values.pop()
        return y
    if op == "ArgMin":
        index = g.node(op, [x], x.shape[:axis] + x.shape[axis + 1 :], axis=axis, keepdims=0, kind="int")
        g.values.pop()
        return g.node("Cast", [index], index.shape, to=g.element, kind="float")
    return g.node(op, [x], x.shape, axis=axis) if g.opset >= 13 else None


def both_results(g: Graph, x: Value) -> Value | None:
    """TopK's values times its indices."""
    if x.rank < 1 or g.opset < 11:
        return None
    axis = g.choices.below(x.rank)
    shape = with_dim(x, axis, fixed(min(min(x.shape[axis]), 2)))
    largest = g.choices.below(2)
    y = g.node("TopK", [x, g.integers([shape[axis][0]])], shape, shape, axis=axis, largest=largest)
    index = g.values.pop()
    return g.node("Mul", [y, g.node("Cast", [index], shape, to=g.element, kind="float")], shape)


def written(g: Graph, x: Value) -> Value | None:
    """TensorScatter: one more row in a cache."""
    if x.rank < 3 or g.opset < 24 or not is_fixed(x.shape[0]):
        return None
    row = g.node("ReduceMax", [x, g.integers([-2])], with_dim(x, x.rank - 2, ONE))
    places = g.integers([0] * x.shape[0][0])
    return g.node("TensorScatter", [x, row, places], x.shape)


def cropped(g: Graph, x: Value) -> Value | None:
    axes = fixed_axes(x)
    if not axes or g.opset < 18:
        return None
    axis = g.choices.pick(axes)
    n = max(1, x.shape[axis][0] + g.choices.below(5) - 2)
    return g.node("CenterCropPad", [x, g.integers([n])], with_dim(x, axis, fixed(n)), axes=[axis])


def columns(g: Graph, x: Value) -> Value | None:
    """Col2Im: channels hold blocks of two by two."""
    if x.rank != 3 or not all(map(is_fixed, x.shape[1:])) or x.shape[1][0] % 4 or g.opset < 18:
        return None
    n, c, length = x.shape
    out = (n, fixed(c[0] // 4), fixed(2), plus(length, ONE))
    return g.node("Col2Im", [x, g.integers([2, length[0] + 1]), g.integers([2, 2])], out)


def deformable(g: Graph, x: Value) -> Value | None:
    if x.rank != 4 or not is_fixed(x.shape[1]) or g.opset < 19:
        return None
    n, c, h, w = x.shape
    groups = g.choices.pick([d for d in (1, 2) if c[0] % d == 0])
    offset_shape = (n, fixed(2), h, w)
    offset = g.node("Conv", [x, g.weight((2, c[0], 1, 1), c[0])], offset_shape)
    m = groups * g.choices.pick((2, 3, 1))
    inputs = [x, g.weight((m, c[0] // groups, 1, 1), c[0]), offset]
    if g.choices.below(2):
        inputs.append(g.weight((m,)))
    return g.node("DeformConv", inputs, (n, fixed(m), h, w), group=groups, kernel_shape=[1, 1])


def sampled(g: Graph, x: Value) -> Value | None:
    """GridSample where a convolution says, and pooling of regions."""
    if x.rank != 4 or not is_fixed(x.shape[1]):
        return None
    n, c, h, w = x.shape
    form = g.choices.below(3)
    if form == 0 and g.opset >= 16:
        grid = g.node(
            "Tanh",
            [g.node("Conv", [x, g.weight((2, c[0], 1, 1), c[0])], (n, fixed(2), h, w))],
            (n, fixed(2), h, w),
        )
        grid = g.node("Transpose", [grid], (n, h, w, fixed(2)), perm=[0, 2, 3, 1])
        mode = "linear" if g.opset >= 20 else "bilinear"
        return g.node(
            "GridSample", [x, grid], x.shape, mode=mode, padding_mode=g.choices.pick(("zeros", "border"))
        )
    rois = np.array([[0, 0, 3, 3], [1, 0, 4, 2]], g.dtype)
    out = (fixed(2), c, fixed(2), fixed(2))
    if form == 1 and g.opset >= 10:
        return g.node(
            "RoiAlign",
            [x, g.constant(rois), g.integers([0, 1])],
            out,
            output_height=2,
            output_width=2,
        )
    numbered = np.concatenate([[[0], [1]], rois], 1).astype(g.dtype)
    return g.node("MaxRoiPool", [x, g.constant(numbered)], out, pooled_shape=[2, 2])


def unpooled(g: Graph, x: Value) -> Value | None:
    """MaxPool with its indices, and MaxUnpool."""
    if x.rank != 4 or g.opset < 9 or not all(is_fixed(d) and d[0] % 2 == 0 for d in x.shape[2:]):
        return None
    out = (*x.shape[:2], *(fixed(d[0] // 2) for d in x.shape[2:]))
    y = g.node("MaxPool", [x], out, out, kernel_shape=[2, 2], strides=[2, 2])
    indices = g.values.pop()
    return g.node("MaxUnpool", [y, indices], x.shape, kernel_shape=[2, 2], strides=[2, 2])


def pooled(g: Graph, x: Value) -> Value | None:
    """Pooling with padding, dilation or rounding up."""
    if x.rank not in (3, 4) or min(min(d) for d in x.shape[2:]) < 4:
        return None
    op, spatial = g.choices.pick(("MaxPool", "AveragePool", "LpPool")), x.rank - 2
    form = g.choices.below(3)
    if form == 0:
        out = tuple(tuple((n + 2 - 3) // 2 + 1 for n in d) for d in x.shape[2:])
        count = g.choices.below(2) if op == "AveragePool" and g.opset >= 7 else None
        settings: dict[str, Any] = {
            "kernel_shape": [3] * spatial,
            "strides": [2] * spatial,
            "pads": [1] * 2 * spatial,
        }
        settings["count_include_pad"] = count
    elif form == 1 and g.opset >= 10 and op != "LpPool":
        out = tuple(tuple(-(-(n - 2) // 2) + 1 for n in d) for d in x.shape[2:])
        settings = {"kernel_shape": [2] * spatial, "strides": [2] * spatial, "ceil_mode": 1}
    else:
        out = tuple(tuple(-(-n // 2) for n in d) for d in x.shape[2:])
        settings = {"kernel_shape": [2] * spatial, "strides": [2] * spatial, "auto_pad": "SAME_UPPER"}
    return g.node(op, [x], (*x.shape[:2], *out), **settings)  # type: ignore[arg-type]


def of_matrices(g: Graph, x: Value) -> Value | None:
    """Det, EyeLike and Unique: functions of all there is."""
    form = g.choices.below(4)
    if form == 0 and x.rank >= 2 and is_fixed(x.shape[-1]) and x.shape[-1][0] <= 4 and g.opset >= 11:
        turned = (*x.shape[:-2], x.shape[-1], x.shape[-2])
        perm = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
        square = (*x.shape[:-2], x.shape[-1], x.shape[-1])
        y = g.node("MatMul", [g.node("Transpose", [_bounded(g, x)], turned, perm=perm), x], square)
        return g.node("Det", [y], x.shape[:-2])
    if form == 1 and x.rank == 2 and g.opset >= 9:
        return g.node("Add", [x, g.node("EyeLike", [x], x.shape)], x.shape)
    if form == 2 and x.rank == 2 and is_fixed(x.shape[1]) and g.opset >= 11:
        name = g._emit("Unique", [x.name])
        g.read.add(x.name)
        y = Value(name, (fixed(1),))
        return reduced(g, "ReduceMax", y, [0], False)
    if form == 3 and x.rank and g.opset >= 9:
        where = g._emit("Cast", [g._emit("NonZero", [x.name])], to=g.element)
        g.read.add(x.name)
        return reduced(g, "ReduceMax", Value(where, (fixed(x.rank), ONE)), [1], False)
    return None


# Signals and lists


def windowed(g: Graph, x: Value) -> Value | None:
    if not x.rank or not is_fixed(x.shape[-1]) or g.opset < 17 or x.shape[-1][0] < 2:
        return None
    op = g.choices.pick(("HannWindow", "HammingWindow", "BlackmanWindow"))
    window = g._emit(op, [g.constant(np.array(x.shape[-1][0]))], output_datatype=TensorProto.FLOAT)
    if g.dtype != np.float32:
        window = g._emit("Cast", [window], to=g.element)
    return g.node("Mul", [x, window], x.shape)


def spectrum(g: Graph, x: Value) -> Value | None:
    """DFT of the last dimension, STFT of the rows of a matrix, or bands of frequencies."""
    if x.rank < 2 or g.opset < 17 or x.rank > 4:
        return None
    form = g.choices.below(3)
    if form == 0:
        y = g.axes("Unsqueeze", x, [x.rank], (*x.shape, ONE), 13)
        shape = (*x.shape, fixed(2))
        if g.opset >= 20:
            return g.node("DFT", [y, "", g.constant(np.array(x.rank - 1))], shape)
        return g.node("DFT", [y], shape, axis=x.rank - 1)
    if form == 1 and x.rank == 2 and is_fixed(x.shape[1]) and x.shape[1][0] >= 4:
        frames = (x.shape[1][0] - 4) // 2 + 1
        shape = (x.shape[0], fixed(frames), fixed(3), fixed(2))
        y = g.axes("Unsqueeze", x, [2], (*x.shape, ONE), 13)
        window = g.constant(np.ones(4, g.dtype))
        return g.node("STFT", [y, g.constant(np.array(2)), window, g.constant(np.array(4))], shape)
    y = linear(g, x)
    if y is None or y.shape[-1] != fixed(5):
        return y
    inputs = [
        g.constant(np.array(v, t))
        for v, t in ((3, np.int64), (8, np.int64), (16, np.int64), (0, np.float32), (8, np.float32))
    ]
    mel = g._emit("MelWeightMatrix", inputs)
    if g.dtype != np.float32:
        mel = g._emit("Cast", [mel], to=g.element)
    return g.node("MatMul", [y, mel], with_dim(y, y.rank - 1, fixed(3)))


def listed(g: Graph, x: Value) -> Value | None:
    """Sequences: one made of tensors, or a tensor split and joined again."""
    if g.opset < 11 or not x.rank:
        return None
    if g.choices.below(2):
        items = [x.name, g.node("Neg", [x], x.shape).name]
        sequence = g._emit("SequenceConstruct", items)
        if g.choices.below(2):
            sequence = g._emit("SequenceInsert", [sequence, x.name])
        if g.choices.below(2):
            sequence = g._emit("SequenceErase", [sequence, g.constant(np.array(0))])
        g.read.update(items)
        return g.node("SequenceAt", [sequence, g.constant(np.array(-1))], x.shape, kind="float")
    axis = g.choices.below(x.rank)
    parts = g._emit("SplitToSequence", [x.name], axis=axis, keepdims=1)
    g.read.add(x.name)
    count = g._emit("Cast", [g._emit("SequenceLength", [parts])], to=g.element)
    y = g.node("ConcatFromSequence", [parts], x.shape, axis=axis, kind="float")
    return g.node("Div", [y, count], x.shape)


def optional(g: Graph, x: Value) -> Value | None:
    if g.opset < 18:
        return None
    held = g._emit("Optional", [x.name])
    g.read.add(x.name)
    return g.node("OptionalGetElement", [held], x.shape, kind="float")


def counted(g: Graph, x: Value) -> Value | None:
    """Positions, as far as a dimension is long, added to it."""
    if not x.rank or g.opset < 11:
        return None
    axis = g.choices.below(x.rank)
    size = g._emit("Squeeze", [size_of(g, x, axis)])
    numbers = g._emit("Range", [g.constant(np.array(0)), size, g.constant(np.array(1))])
    numbers = g._emit("Cast", [numbers], to=g.element)
    target = g.integers([1] * (x.rank - axis - 1))
    column = g._emit("Reshape", [numbers, g._emit("Concat", [g.integers([-1]), target], axis=0)])
    return g.node("Add", [x, g._emit("Mul", [column, _scalar(g, 0.1)])], x.shape)


def losses(g: Graph, x: Value) -> Value | None:
    """Cross entropy of (N, C) and labels taken from the largest of another."""
    if x.rank != 2 or not is_fixed(x.shape[1]) or g.opset < 12:
        return None
    labels = g.node("ArgMax", [x], (x.shape[0],), axis=1, keepdims=0, kind="int")
    g.values.pop()
    if g.choices.below(2):
        return g.node("SoftmaxCrossEntropyLoss", [x, labels], (x.shape[0],), reduction="none", kind="float")
    logs = g.node("LogSoftmax", [x], x.shape, axis=1)
    return g.node("NegativeLogLikelihoodLoss", [logs, labels], (x.shape[0],), reduction="none", kind="float")


def log_sum(g: Graph, x: Value) -> Value | None:
    if not x.rank:
        return None
    positive = g.node("Add", [g.node("Abs", [x], x.shape), _scalar(g, 0.5)], x.shape)
    axes = g.choices.some(range(x.rank))
    out = tuple(ONE if k in axes else d for k, d in enumerate(x.shape))
    return g.axes("ReduceLogSum", positive, sorted(axes), out, 18)


# Quantised


def fake_quantised(g: Graph, x: Value) -> Value | None:
    """Quantized and back, with one scale or one for each channel."""
    if g.opset < 13 or not x.rank:
        return None
    y = g.node("Cast", [x], x.shape, to=TensorProto.FLOAT) if g.dtype != np.float32 else x
    if y is not x:
        g.values.pop()
    kind = g.choices.pick((np.uint8, np.int8))
    axis = g.choices.pick(fixed_axes(x) or [0])
    per = is_fixed(x.shape[axis]) and g.choices.below(2)
    count = [x.shape[axis][0]] if per else []
    scale = g.constant(np.full(count, 0.05, np.float32) * g.rng.uniform(0.8, 1.2, count).astype(np.float32))
    zero = g.constant(np.full(count, 128 if kind is np.uint8 else 0, kind))
    quantised = g.node("QuantizeLinear", [y, scale, zero], x.shape, kind="int", axis=axis if per else None)
    g.values.pop()
    back = g.node(
        "DequantizeLinear", [quantised, scale, zero], x.shape, kind="float", axis=axis if per else None
    )
    if g.dtype == np.float32:
        return back
    g.values.pop()
    return g.node("Cast", [back], x.shape, to=g.element)


def integer_product(g: Graph, x: Value) -> Value | None:
    """Matrix products and convolutions in integers, of dynamically quantized or quantized data."""
    if g.opset < 11 or x.rank < 2:
        return None
    form = g.choices.pick(
        ("MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv", "QGemm", "MatMulIntegerToFloat")
    )
    channels = x.shape[1] if form in ("ConvInteger", "QLinearConv") else x.shape[-1]
    if (
        not is_fixed(channels)
        or (form in ("ConvInteger", "QLinearConv") and x.rank != 4)
        or (form == "QGemm" and x.rank != 2)
    ):
        return None
    c, n = channels[0], g.choices.pick(WIDTHS)
    dynamic = g.choices.below(2) == 0 and form in ("MatMulInteger", "ConvInteger", "MatMulIntegerToFloat")
    if dynamic:
        q = g.node("DynamicQuantizeLinear", [x], x.shape, (), (), kind="int")
        scale, zero = g.values[-2].name, g.values[-1].name
        g.values = g.values[:-3]
    else:
        scale, zero = g.constant(np.array(0.05, np.float32)), g.constant(np.array(128, np.uint8))
        q = g.node("QuantizeLinear", [x, scale, zero], x.shape, kind="int")
        g.values.pop()
    per = form in ("QLinearConv", "QGemm", "MatMulIntegerToFloat") and g.choices.below(2)
    kernel = (n, c, 1, 1) if "Conv" in form else (c, n)
    weight = g.constant(g.rng.integers(-90, 90, kernel).astype(np.int8))
    w_scale = g.constant(np.full([n] if per else [], 0.01, np.float32))
    w_zero = g.constant(np.full([n] if per else [], 0 if "Conv" in form else 3, np.int8))
    out = with_dim(x, 1 if "Conv" in form else x.rank - 1, fixed(n))
    y_scale, y_zero = g.constant(np.array(0.04, np.float32)), g.constant(np.array(120, np.uint8))
    if form in ("MatMulInteger", "ConvInteger"):
        total = g.node(form, [q, weight, zero, w_zero], out, kind="int")
        g.values.pop()
        y = g.node("Cast", [total], out, to=TensorProto.FLOAT, kind="float")
        return g.node("Mul", [g.node("Mul", [y, scale], out), w_scale], out)
    if form == "MatMulIntegerToFloat":
        return g.node(form, [q, weight, scale, w_scale, zero, w_zero], out, kind="float", domain=MS)
    bias = (
        g.constant(g.rng.integers(-300, 300, n).astype(np.int32))
        if form != "QLinearMatMul" and g.choices.below(2)
        else ""
    )
    if form == "QGemm":
        inputs: list[Value | str] = [q, scale, zero, weight, w_scale, w_zero, bias, y_scale, y_zero]
        y = g.node(form, inputs, out, kind="int", domain=MS, alpha=1.0)
    else:
        y = g.node(
            form,
            [q, scale, zero, weight, w_scale, w_zero, y_scale, y_zero, *[bias] * bool(bias)],
            out,
            kind="int",
        )
    g.values.pop()
    if g.choices.below(2):
        y = _quantised_next(g, y, y_scale, y_zero)
    return g.node("DequantizeLinear", [y, y_scale, y_zero], y.shape, kind="float")


def _quantised_next(g: Graph, q: Value, scale: str, zero: str) -> Value:
    """One more operator that stays in integers."""
    ops = [
        "QLinearAdd",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearLeakyRelu",
        "QLinearConcat",
        "QLinearSoftmax",
    ]
    op = g.choices.pick(ops + ["QLinearGlobalAveragePool", "QLinearAveragePool"] * (q.rank == 4))
    one, out, settings = [q, scale, zero], q.shape, {}
    if op in ("QLinearAdd", "QLinearMul"):
        fits = [d[0] if is_fixed(d) and g.choices.below(2) else 1 for d in q.shape]
        inputs: list[Value | str] = [
            *one,
            g.constant(g.rng.integers(0, 255, fits).astype(np.uint8)),
            scale,
            zero,
            scale,
            zero,
        ]
    elif op == "QLinearConcat":
        axis = 1
        inputs = [scale, zero, *one, *one]
        out, settings = with_dim(q, axis, times(q.shape[axis], fixed(2))), {"axis": axis}
    else:
        inputs = [*one, scale, zero]
        if op == "QLinearSoftmax":
            settings = {"opset": 13, "axis": -1}
        elif op == "QLinearGlobalAveragePool":
            out = (*q.shape[:2], ONE, ONE)
        elif op == "QLinearAveragePool":
            settings = {"kernel_shape": [1, 1]}
        elif op == "QLinearLeakyRelu":
            settings = {"alpha": 0.2}
    y = g.node(op, inputs, out, kind="int", domain=MS, **settings)
    g.values.pop()
    return y


def in_four_bits(g: Graph, x: Value) -> Value | None:
    """MatMulNBits and DynamicQuantizeMatMul."""
    if x.rank < 2 or not is_fixed(x.shape[-1]):
        return None
    c, n = x.shape[-1][0], g.choices.pick(WIDTHS)
    out = with_dim(x, x.rank - 1, fixed(n))
    if g.choices.below(2):
        weight = g.constant(g.rng.integers(-90, 90, (c, n)).astype(np.int8))
        count = [n] if g.choices.below(2) else [1]
        inputs = [
            x,
            weight,
            g.constant(np.full(count, 0.01, np.float32)),
            g.constant(np.zeros(count, np.int8)),
        ]
        if g.choices.below(2):
            inputs.append(g.weight((n,)))
        return g.node("DynamicQuantizeMatMul", inputs, out, domain=MS)
    blocks = -(-c // 16)
    packed = g.constant(g.rng.integers(0, 255, (n, blocks, 8)).astype(np.uint8))
    scales = g.constant(g.rng.uniform(0.02, 0.05, n * blocks).astype(np.float32))
    return g.node("MatMulNBits", [x, packed, scales], out, domain=MS, K=c, N=n, bits=4, block_size=16)


# Attention and other fused operators


def heads_of(g: Graph, x: Value) -> Value | None:
    """The operators Attention, MultiHeadAttention, GroupQueryAttention and com.microsoft's Attention, with their options."""
    if x.rank != 3 or not is_fixed(x.shape[-1]) or not small((x.shape[0], x.shape[1], x.shape[1], fixed(4))):
        return None
    n, t, c = x.shape
    heads, few = g.choices.pick(((2, 2), (4, 2), (2, 1), (3, 3)))
    form = g.choices.below(5)
    d, e = g.choices.pick((4, 8, 2)), g.choices.pick((3, 4))

    def project(m: int) -> Value:
        y = g.node("MatMul", [x, g.weight((c[0], m), c[0])], (n, t, fixed(m)))
        return g.node("Add", [y, g.weight((m,))], y.shape) if g.choices.below(2) else y

    scale = 0.4 if g.choices.below(2) else None
    if form == 0 and g.opset >= 23:
        q, k, v = (
            g.node(
                "Transpose",
                [reshaped(g, project(h * w), (n, t, fixed(h), fixed(w)), [0, 1, None, None])],
                (n, fixed(h), t, fixed(w)),
                perm=[0, 2, 1, 3],
            )
            for h, w in ((heads, d), (few, d), (few, e))
        )
        if g.choices.below(2):
            q, k = (_rotated(g, y) for y in (q, k))
        inputs: list[Value | str] = [q, k, v]
        attributes = {
            "is_causal": g.choices.below(2),
            "softcap": 2.0 if g.choices.chance(30) else None,
            "scale": scale,
        }
        y = g.node("Attention", inputs, (n, fixed(heads), t, fixed(e)), **attributes)
        y = g.node("Transpose", [y], (n, t, fixed(heads), fixed(e)), perm=[0, 2, 1, 3])
        return reshaped(g, y, (n, t, fixed(heads * e)), [0, 1, None])
    if form == 1:
        inputs = [project(heads * d), project(heads * d), project(heads * e)]
        if g.choices.below(2):
            inputs.append(g.weight((heads * (2 * d + e),)))
        out = (n, t, fixed(heads * e))
        return g.node("MultiHeadAttention", inputs, out, domain=MS, num_heads=heads, scale=scale)
    if form == 2:
        listed = [heads * d, heads * d, heads * e] if g.choices.below(2) else None
        inner = sum(listed) if listed else 3 * heads * d
        out = (n, t, fixed(listed[2] if listed else heads * d))
        inputs = [x, g.weight((c[0], inner), c[0]), g.weight((inner,))]
        return g.node(
            "Attention",
            inputs,
            out,
            domain=MS,
            num_heads=heads,
            qkv_hidden_sizes=listed,
            unidirectional=g.choices.below(2),
        )
    if form == 3 and is_fixed(n) and is_fixed(t):
        lengths = g.constant(np.full(n[0], t[0] - 1, np.int32))
        inputs = [
            project(heads * 8),
            project(few * 8),
            project(few * 8),
            "",
            "",
            lengths,
            g.constant(np.array(t[0], np.int32)),
        ]
        rotary = g.choices.below(2)
        if rotary:
            inputs += [g.constant(g.rng.uniform(-1, 1, (t[0], 4)).astype(g.dtype)) for _ in range(2)]
        shape = (n, fixed(few), t, fixed(8))
        settings = {"num_heads": heads, "kv_num_heads": few, "do_rotary": rotary, "scale": scale}
        y = g.node(
            "GroupQueryAttention", inputs, (n, t, fixed(heads * 8)), shape, shape, domain=MS, **settings
        )
        g.values = g.values[:-2]
        return y
    q, k, v = (project(count * width) for count, width in ((heads, d), (few, d), (few, e)))
    if g.opset < 23:
        return None
    mask = [g.weight((t[0], t[0]))] if is_fixed(t) and g.choices.below(2) else []
    out = (n, t, fixed(heads * e))
    return g.node("Attention", [q, k, v, *mask], out, q_num_heads=heads, kv_num_heads=few, scale=scale)


def _rotated(g: Graph, x: Value) -> Value:
    """RotaryEmbedding of (N, heads, T, d) with angles by position."""
    d = x.shape[-1][0]
    length = max(x.shape[2])
    angles = g.rng.uniform(-3, 3, (length, d // 2))
    ids = g._emit(
        "Range", [g.constant(np.array(0)), g._emit("Squeeze", [size_of(g, x, 2)]), g.constant(np.array(1))]
    )
    row = g._emit("Unsqueeze", [ids, g.integers([0])])
    target = g._emit("Concat", [size_of(g, x, 0), size_of(g, x, 2)], axis=0)
    places = g._emit("Expand", [row, target])
    tables = [g.constant(f(angles).astype(g.dtype)) for f in (np.cos, np.sin)]
    return g.node("RotaryEmbedding", [x, *tables, places], x.shape, interleaved=g.choices.below(2))


def rotary_operator(g: Graph, x: Value) -> Value | None:
    """RotaryEmbedding of (N, T, heads d), of the standard or ONNX Runtime's own."""
    if x.rank != 3 or not all(map(is_fixed, x.shape[1:])) or x.shape[2][0] % 4:
        return None
    t, c = x.shape[1][0], x.shape[2][0]
    heads = g.choices.pick([h for h in (1, 2, 3) if c % (4 * h) == 0])
    d = c // heads
    part = g.choices.pick((0, 0, d // 2)) if d % 4 == 0 else 0
    angles = g.rng.uniform(-3, 3, (t, (part or d) // 2))
    tables = [g.constant(f(angles).astype(g.dtype)) for f in (np.cos, np.sin)]
    settings = {"num_heads": heads, "rotary_embedding_dim": part or None, "interleaved": g.choices.below(2)}
    zero = g.constant(np.zeros(1, np.int64))
    if g.opset < 23 or g.choices.below(2):
        return (
            g.node("RotaryEmbedding", [x, zero, *tables], x.shape, domain=MS, **settings)
            if not part
            else None
        )
    if not is_fixed(x.shape[0]):
        return None
    places = g.integers(np.tile(np.arange(t), (x.shape[0][0], 1)))
    return g.node("RotaryEmbedding", [x, *tables, places], x.shape, **settings)


def fused(g: Graph, x: Value) -> Value | None:
    """What ONNX Runtime's optimizer writes."""
    if not x.rank or not is_fixed(x.shape[-1]) or x.shape[-1] == ONE:
        return None
    c, n = x.shape[-1][0], g.choices.pick(WIDTHS)
    out = with_dim(x, x.rank - 1, fixed(n))
    op = g.choices.pick(
        ("FastGelu", "Gelu", "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization", "FusedGemm", "FusedMatMul",
         "FusedConv", "BiasAdd", "TransposeMatMul", "GemmFastGelu", "Trilu", "GatherND")
    )  # fmt: skip
    if op == "FastGelu":
        return g.node(op, [x, g.weight((c,))] if g.choices.below(2) else [x], x.shape, domain=MS)
    if op == "Gelu":
        return g.node(op, [x], x.shape, domain=MS)
    if op == "SkipSimplifiedLayerNormalization" and x.rank == 3:
        skip = g.partner(lambda v: v.kind == "float" and v.shape == x.shape) or x
        return g.node(op, [x, skip, g.weight((c,), shift=1.0)], x.shape, domain=MS, epsilon=1e-2)
    if op == "SimplifiedLayerNormalization":
        return g.node(op, [x, g.weight((c,), shift=1.0)], x.shape, epsilon=1e-2, axis=-1)
    if op == "FusedGemm" and x.rank == 2:
        return g.node(op, [x, g.weight((c, n), c), g.weight((n,))], out, domain=MS, activation="Relu")
    if op == "FusedMatMul":
        return g.node(op, [x, g.weight((c, n), c)], out, domain=MS, alpha=0.7)
    if op == "TransposeMatMul":
        return g.node(op, [x, g.weight((c, n), c)], out, domain=MS)
    if op == "FusedConv" and x.rank == 4 and is_fixed(x.shape[1]):
        k = x.shape[1][0]
        inputs = [x, g.weight((n, k, 1, 1), k), g.weight((n,))]
        return g.node(op, inputs, with_dim(x, 1, fixed(n)), domain=MS, activation="Relu", kernel_shape=[1, 1])
    if op == "Trilu" and x.rank >= 2:
        return g.node(op, [x], x.shape, domain=MS, upper=g.choices.below(2))
    if op == "GatherND" and x.rank >= 2:
        indices = g.rng.integers(0, min(x.shape[0]), (3, 1))
        return g.node(op, [x, g.integers(indices)], (fixed(3), *x.shape[1:]), domain=MS)
    return None


def embedded_words(g: Graph, x: Value) -> Value | None:
    """EmbedLayerNormalization of token ids."""
    ids = g.partner(lambda v: v.kind == "int" and v.rank == 2)
    if ids is None:
        return None
    n = g.choices.pick(WIDTHS[:4])
    tokens = g.node("Cast", [ids], ids.shape, to=TensorProto.INT32)
    g.values.pop()
    tables = [g.weight((VOCABULARY, n)), g.constant(g.rng.normal(0, 1, (64, n)).astype(g.dtype))]
    inputs = [tokens, "", *tables, "", g.weight((n,), shift=1.0), g.weight((n,))]
    out = (*ids.shape, fixed(n))
    y = g.node("EmbedLayerNormalization", inputs, out, (ids.shape[0],), domain=MS, kind="float", epsilon=1e-2)
    g.values.pop()
    return y


# Classical models


def features(g: Graph, x: Value) -> Value | None:
    """Operators of ai.onnx.ml on (N, C)."""
    if x.rank != 2 or not is_fixed(x.shape[1]):
        return None
    c = x.shape[1][0]
    op = g.choices.pick(("Scaler", "Imputer", "Normalizer", "Binarizer", "ArrayFeatureExtractor", "LinearRegressor", "FeatureVectorizer",
                         "TreeEnsembleRegressor", "SVMRegressor"))  # fmt: skip
    per = g.choices.below(2)
    numbers = g.rng.uniform(0.5, 1.5, c).tolist()
    if op == "Scaler":
        return g.node(
            op, [x], x.shape, domain=ML, offset=numbers if per else [0.1], scale=numbers if per else [0.7]
        )
    if op == "Imputer":
        values = numbers if per else [0.3]
        return g.node(op, [x], x.shape, domain=ML, imputed_value_floats=values, replaced_value_float=9.0)
    if op == "Normalizer":
        return g.node(op, [x], x.shape, domain=ML, norm=g.choices.pick(("L2", "L1", "MAX")))
    if op == "Binarizer":
        return g.node(op, [x], x.shape, domain=ML, threshold=0.2)
    if op == "ArrayFeatureExtractor":
        indices = g.rng.integers(0, c, 2)
        return g.node(op, [x, g.integers(indices)], (x.shape[0], fixed(2)), domain=ML)
    if op == "LinearRegressor":
        weights = g.rng.normal(0, 0.5, 2 * c).tolist()
        return g.node(
            op, [x], (x.shape[0], fixed(2)), domain=ML, coefficients=weights, intercepts=[0.1, 0.2], targets=2
        )
    if op == "FeatureVectorizer":
        return g.node(op, [x], x.shape, domain=ML, inputdimensions=[c])
    if op == "SVMRegressor":
        settings = {"kernel_type": "LINEAR", "coefficients": numbers, "rho": [0.1], "n_supports": 0}
        return g.node(op, [x], (x.shape[0], ONE), domain=ML, **settings)
    settings = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [c - 1, 0, 0], "nodes_values": [0.1, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [0.5, -0.5], "n_targets": 1,
    }  # fmt: skip
    return g.node(op, [x], (x.shape[0], ONE), domain=ML, **settings)


# Operators by the table of those that are tested alone

IN_PLACE = ("MoE", "QMoE")
"""ONNX Runtime may write their results over operand 0 while the kernel still reads it, unless somebody else does, too."""


def alone(g: Graph, x: Value) -> Value | None:
    """One of the operators that are tested alone; all that it computes with is the mean of x, times weights, and weights."""
    at = g.choices.below(len(TABLE))
    single = TABLE[at][0]
    if g.avoided or g.opset < single.opset or not x.rank:
        return None
    found = _result(at)
    if found is None or not small(tuple(map(fixed, found[0]))):
        return None
    mean = g.node("Tanh", [reduced(g, "ReduceMean", x, range(x.rank), False)], ())
    names: list[Value | str] = []
    for operand in single.operands:
        if operand is None:
            names.append("")
        elif isinstance(operand, Computed):
            names.append(_computed(g, mean, operand))
        else:
            array = np.asarray(operand)
            names.append(g.constant(array.astype(g.dtype) if array.dtype == np.float32 else array))
    shape, dtype = tuple(map(fixed, found[0])), found[1]
    rest = [()] * (single.outputs - 1)
    before = list(g.values)
    y = g.node(single.op, names, shape, *rest, kind="float", domain=single.domain, **single.attributes)
    g.values = before
    if single.op in IN_PLACE:
        y = g.node("Add", [y, names[0]], shape, kind="float")
        g.values = before
    if dtype == TensorProto.FLOAT:
        g.values.append(y)
        return y
    return g.node("Cast", [y], shape, kind="float", to=g.element)


def _computed(g: Graph, mean: Value, operand: Computed) -> str:
    shape = operand.shape
    y = g._emit("Add", [g._emit("Mul", [mean.name, g.weight(shape)]), g.weight(shape)])
    g.read.add(mean.name)
    if operand.positive:
        y = g._emit("Sigmoid", [y])
    if operand.dtype == TensorProto.BOOL:
        return g._emit("Greater", [y, _scalar(g, 0.0)])
    if operand.dtype == TensorProto.FLOAT:
        return y
    y = g._emit("Cast", [g._emit("Mul", [y, _scalar(g, 5.0)])], to=operand.dtype)
    dtype = helper.tensor_dtype_to_np_dtype(operand.dtype)
    return g._emit("Mod", [y, g.constant(np.asarray(operand.below, dtype))]) if operand.below else y


@cache
def _result(at: int) -> tuple[tuple[int, ...], int] | None:
    """Shape and type of the first result of an operator in the table; None if it takes more than a plain run."""
    single = TABLE[at][0]
    if single.by is not run:
        return None
    g = Graph(Choices.replayed(()), np.float32)
    g.opset = single.opset
    g.values.append(Value("mean", ()))
    names = [
        ""
        if o is None
        else _computed(g, g.values[0], o)
        if isinstance(o, Computed)
        else g.constant(np.asarray(o))
        for o in single.operands
    ]
    g.node(single.op, names, *[()] * single.outputs, domain=single.domain, **single.attributes)
    made = helper.make_graph(
        g.nodes, "alone", [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [])],
        [helper.make_empty_tensor_value_info(g.nodes[-1].output[0])], g._initializers(),
    )  # fmt: skip
    opsets = [helper.make_opsetid(domain, n) for domain, n in (("", g.opset), (MS, 1), (ML, 3))]
    try:
        session = onnxruntime.InferenceSession(
            helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString(),
            providers=["CPUExecutionProvider"],
        )
        (y,) = session.run(None, {"mean": np.array(0.5, np.float32)})
    except Exception:  # of no use then
        return None
    return y.shape, helper.np_dtype_to_tensor_dtype(y.dtype)


# What exporters write together


def causal(g: Graph, x: Value) -> Value | None:
    """Scores of T by T, masked above the diagonal by comparing positions, and what they weigh."""
    if (
        x.rank != 3
        or not is_fixed(x.shape[-1])
        or g.opset < 13
        or not small((x.shape[0], x.shape[1], x.shape[1]))
    ):
        return None
    n, t, c = x.shape
    d = g.choices.pick((4, 3))
    q, k, v = (g.node("MatMul", [x, g.weight((c[0], d), c[0])], (n, t, fixed(d))) for _ in range(3))
    if g.choices.below(2):
        equation = {"equation": "bid,bjd->bij"}
        scores = g.node("Einsum", [q, k], (n, t, t), **equation)
    else:
        turned = g.node("Transpose", [k], (n, fixed(d), t), perm=[0, 2, 1])
        scores = g.node("MatMul", [q, turned], (n, t, t))
    size = g._emit("Squeeze", [size_of(g, x, 1)])
    row = g._emit("Range", [g.constant(np.array(0)), size, g.constant(np.array(1))])
    column = g._emit("Unsqueeze", [row, g.integers([1])])
    mask = g._emit("Less", [column, row])
    scores = g.node("Where", [mask, _scalar(g, -1e4), scores], scores.shape, kind="float")
    weights = g.node("Softmax", [scores], scores.shape, axis=-1)
    return g.node("MatMul", [weights, v], (n, t, fixed(d)))


def repeated_keys(g: Graph, x: Value) -> Value | None:
    """Grouped-query attention spelt out: keys and values repeated by Expand, channels normalised per head."""
    if (
        x.rank != 3
        or not is_fixed(x.shape[-1])
        or g.opset < 13
        or not small((x.shape[0], fixed(4), x.shape[1], x.shape[1]))
    ):
        return None
    n, t, c = x.shape
    few, repeats, d = g.choices.pick(((2, 2, 4), (1, 3, 2), (2, 3, 2)))
    heads = few * repeats

    def split(count: int) -> Value:
        y = g.node("MatMul", [x, g.weight((c[0], count * d), c[0])], (n, t, fixed(count * d)))
        y = reshaped(g, y, (n, t, fixed(count), fixed(d)), [0, 1, None, None])
        return g.node("Transpose", [y], (n, fixed(count), t, fixed(d)), perm=[0, 2, 1, 3])

    def repeat(y: Value) -> Value:
        y = g.axes("Unsqueeze", y, [2], (n, fixed(few), ONE, t, fixed(d)), 13)
        y = g.node("Expand", [y, g.integers([1, 1, repeats, 1, 1])], with_dim(y, 2, fixed(repeats)))
        return reshaped(g, y, (n, fixed(heads), t, fixed(d)), [0, None, 3, 4])

    q, k, v = split(heads), split(few), split(few)
    if g.choices.below(2):
        squared = g.node("Mul", [q, q], q.shape)
        mean = reduced(g, "ReduceMean", squared, [3])
        safe = g.node("Sqrt", [g.node("Add", [mean, _scalar(g, 1e-2)], mean.shape)], mean.shape)
        q = g.node("Mul", [g.node("Div", [q, safe], q.shape), g.weight((d,), shift=1.0)], q.shape)
    k, v = repeat(k), repeat(v)
    turned = g.node("Transpose", [k], (n, fixed(heads), fixed(d), t), perm=[0, 1, 3, 2])
    scores = g.node(
        "Mul",
        [g.node("MatMul", [q, turned], (n, fixed(heads), t, t)), _scalar(g, d**-0.5)],
        (n, fixed(heads), t, t),
    )
    weights = g.node("Softmax", [scores], scores.shape, axis=-1)
    y = g.node("MatMul", [weights, v], (n, fixed(heads), t, fixed(d)))
    y = g.node("Transpose", [y], (n, t, fixed(heads), fixed(d)), perm=[0, 2, 1, 3])
    return reshaped(g, y, (n, t, fixed(heads * d)), [0, 1, None])


def gated(g: Graph, x: Value) -> Value | None:
    """One projection split in two, of which one half gates the other."""
    if not x.rank or not is_fixed(x.shape[-1]):
        return None
    c, h = x.shape[-1][0], g.choices.pick(WIDTHS)
    both = g.node("MatMul", [x, g.weight((c, 2 * h), c)], with_dim(x, x.rank - 1, fixed(2 * h)))
    half = with_dim(x, x.rank - 1, fixed(h))
    if g.opset >= 13:
        one = g.node("Split", [both, g.integers([h, h])], half, half, axis=-1)
    else:
        one = g.node("Split", [both], half, half, axis=x.rank - 1)
    two = g.values[-1]
    gate = g.node(g.choices.pick(("Sigmoid", "Relu", "Tanh")), [two], half)
    return g.node("Mul", [one, gate], half)


def patches(g: Graph, x: Value) -> Value | None:
    """A picture in patches, as a sequence, with a token put before it and positions added."""
    if x.rank != 4 or not all(map(is_fixed, x.shape[1:])) or min(x.shape[2][0], x.shape[3][0]) < 2:
        return None
    n, c, h, w = x.shape
    d = g.choices.pick(WIDTHS[:4])
    rows, cols = h[0] // 2, w[0] // 2
    y = g.node(
        "Conv", [x, g.weight((d, c[0], 2, 2), 4 * c[0]), g.weight((d,))], (n, fixed(d), fixed(rows), fixed(cols)),
        strides=[2, 2], kernel_shape=[2, 2],
    )  # fmt: skip
    y = reshaped(g, y, (n, fixed(d), fixed(rows * cols)), [0, 1, None])
    y = g.node("Transpose", [y], (n, fixed(rows * cols), fixed(d)), perm=[0, 2, 1])
    if g.choices.below(2) and g.opset >= 8:
        target = g._emit("Concat", [size_of(g, y, 0), g.integers([1, d])], axis=0)
        token = g._emit("Expand", [g.weight((1, 1, d)), target])
        y = g.node("Concat", [token, y], (n, fixed(rows * cols + 1), fixed(d)), axis=1, kind="float")
    return g.node("Add", [y, g.weight((1, y.shape[1][0], d))], y.shape)


def windows(g: Graph, x: Value) -> Value | None:
    """Attention inside of windows of two by two, as Swin has it: partition, mix, and back."""
    if (
        x.rank != 4
        or not all(is_fixed(d) and d[0] % 2 == 0 for d in x.shape[1:3])
        or not is_fixed(x.shape[3])
    ):
        return None
    n, h, w, c = x.shape
    a, b, two = fixed(h[0] // 2), fixed(w[0] // 2), fixed(2)
    y = reshaped(g, x, (n, a, two, b, two, c), [0, None, None, None, None, 3])
    order = [0, 1, 3, 2, 4, 5]
    y = g.node("Transpose", [y], tuple(y.shape[p] for p in order), perm=order)
    flat = reshaped(g, y, (times(n, a, b), fixed(4), c), [None, None, 5])
    mixed = g.node("MatMul", [g.weight((4, 4), 4), flat], flat.shape, kind="float")
    k = g.choices.pick(WIDTHS)
    mixed = g.node("MatMul", [mixed, g.weight((c[0], k), c[0])], (*flat.shape[:2], fixed(k)))
    shape = (n, a, b, two, two, fixed(k))
    if is_fixed(n) or n == x.shape[0]:
        mixed = g.node("Reshape", [mixed, g.integers([-1, a[0], b[0], 2, 2, k])], shape)
    back = g.node("Transpose", [mixed], tuple(shape[p] for p in (0, 1, 3, 2, 4, 5)), perm=[0, 1, 3, 2, 4, 5])
    return reshaped(g, back, (n, h, w, fixed(k)), [0, None, None, 5])


def tied(g: Graph, x: Value) -> Value | None:
    """One table that embeds tokens and weighs them at the end."""
    ids = g.partner(lambda v: v.kind == "int")
    if ids is None:
        return None
    n = g.choices.pick(WIDTHS)
    table = g.weight((VOCABULARY, n))
    y = g.node("Gather", [table, ids], (*ids.shape, fixed(n)), kind="float")
    if not small(y.shape):
        return None
    h = g.choices.pick(WIDTHS)
    middle = g.node(
        "Tanh", [g.node("MatMul", [y, g.weight((n, h), n)], (*ids.shape, fixed(h)))], (*ids.shape, fixed(h))
    )
    y = g.node("Add", [y, g.node("MatMul", [middle, g.weight((h, n), h)], y.shape)], y.shape)
    turned = g._emit("Transpose", [table], perm=[1, 0])
    return g.node("MatMul", [y, turned], (*ids.shape, fixed(VOCABULARY)))


def mixture(g: Graph, x: Value) -> Value | None:
    """Experts, batched, weighed by a softmax over them."""
    if not 2 <= x.rank <= 3 or not is_fixed(x.shape[-1]) or g.opset < 13:
        return None
    experts, c, h = g.choices.pick((2, 3)), x.shape[-1][0], g.choices.pick(WIDTHS)
    gate = g.node("MatMul", [x, g.weight((c, experts), c)], with_dim(x, x.rank - 1, fixed(experts)))
    gate = g.node("Softmax", [gate], gate.shape, axis=-1)
    rows, total = "ab"[: x.rank - 1], (*x.shape[:-1], fixed(experts))
    up = g.node(
        "Einsum", [x, g.weight((experts, c, h), c)], (*total, fixed(h)), equation=f"{rows}c,ech->{rows}eh"
    )
    if not small(up.shape):
        return None
    up = g.node("Relu", [up], up.shape)
    down = g.node(
        "Einsum", [up, g.weight((experts, h, c), h)], (*total, fixed(c)), equation=f"{rows}eh,ehc->{rows}ec"
    )
    return g.node("Einsum", [down, gate], x.shape, equation=f"{rows}ec,{rows}e->{rows}c")


def bottleneck(g: Graph, x: Value) -> Value | None:
    """Depthwise between two pointwise convolutions, normalised, with a skip connection and a scale for each channel."""
    if x.rank not in (3, 4) or not is_fixed(x.shape[1]):
        return None
    c, h, ones = x.shape[1][0], g.choices.pick(WIDTHS), [1] * (x.rank - 2)
    wide = with_dim(x, 1, fixed(h))
    y = g.node("Conv", [x, g.weight((h, c, *ones), c)], wide)
    if g.choices.below(2):
        parameters = [g.weight((h,), shift=s) for s in (1.0, 0.0, 0.0)]
        variance = g.constant(g.rng.uniform(0.5, 2.0, h).astype(g.dtype))
        y = g.node("BatchNormalization", [y, *parameters, variance], wide)
    y = g.node("Relu", [y], wide)
    if min(min(d) for d in x.shape[2:]) >= 3:
        kernel = [3] * (x.rank - 2)
        y = g.node(
            "Conv",
            [y, g.weight((h, 1, *kernel), 3)],
            wide,
            group=h,
            pads=[1] * 2 * (x.rank - 2),
            kernel_shape=kernel,
        )
        y = g.node("Clip" if g.opset < 11 else "Relu", [y], wide)
    y = g.node("Conv", [y, g.weight((c, h, *ones), h), g.weight((c,))], x.shape)
    if g.choices.below(2):
        y = g.node("Mul", [y, g.weight((c, *ones), shift=0.5)], x.shape)
    return g.node("Add", [x, y], x.shape)


def permuted_norm(g: Graph, x: Value) -> Value | None:
    """ConvNeXt's: channels last, normalised, widened and narrowed, and back."""
    if x.rank != 4 or not is_fixed(x.shape[1]) or g.opset < 17 or x.shape[1] == ONE:
        return None
    n, c, h, w = x.shape
    y = g.node("Transpose", [x], (n, h, w, c), perm=[0, 2, 3, 1])
    y = g.node(
        "LayerNormalization", [y, g.weight((c[0],), shift=1.0), g.weight((c[0],))], y.shape, epsilon=1e-2
    )
    m = g.choices.pick(WIDTHS)
    wide = with_dim(y, 3, fixed(m))
    up = g.node("Add", [g.node("MatMul", [y, g.weight((c[0], m), c[0])], wide), g.weight((m,))], wide)
    up = g.node("Relu", [up], wide)
    y = g.node(
        "Mul",
        [g.node("MatMul", [up, g.weight((m, c[0]), m)], y.shape), g.weight((c[0],), shift=0.5)],
        y.shape,
    )
    return g.node("Add", [x, g.node("Transpose", [y], x.shape, perm=[0, 3, 1, 2])], x.shape)


def inception(g: Graph, x: Value) -> Value | None:
    """Branches of several widths, joined."""
    axis = 1 if x.rank in (3, 4) and is_fixed(x.shape[1]) else x.rank - 1
    if not x.rank or not is_fixed(x.shape[axis]):
        return None
    c, parts = x.shape[axis][0], []
    for _ in range(2 + g.choices.below(2)):
        n = g.choices.pick(WIDTHS)
        shape = with_dim(x, axis, fixed(n))
        if axis == 1 and x.rank in (3, 4):
            y = g.node("Conv", [x, g.weight((n, c, *[1] * (x.rank - 2)), c)], shape)
        else:
            y = g.node("MatMul", [x, g.weight((c, n), c)], shape)
        parts.append(g.node("Relu", [y], shape) if g.choices.below(2) else y)
    if g.choices.below(2):
        parts.append(x)
    out = with_dim(x, axis, plus(*(part.shape[axis] for part in parts)))
    return g.node("Concat", parts, out, axis=axis)


def selective_scan(g: Graph, x: Value) -> Value | None:
    """A depthwise convolution over time, a gate, and sums over time: the shape of a state space model."""
    if x.rank != 3 or not is_fixed(x.shape[-1]) or g.opset < 11:
        return None
    n, t, c = x.shape
    h = g.choices.pick(WIDTHS)
    y = g.node("MatMul", [x, g.weight((c[0], h), c[0])], (n, t, fixed(h)))
    y = g.node("Transpose", [y], (n, fixed(h), t), perm=[0, 2, 1])
    y = g.node(
        "Conv", [y, g.weight((h, 1, 3), 3), g.weight((h,))], y.shape, group=h, kernel_shape=[3], pads=[2, 0]
    )
    y = g.node("Transpose", [y], (n, t, fixed(h)), perm=[0, 2, 1])
    step = g.node("Softplus", [g.node("MatMul", [x, g.weight((c[0], h), c[0])], y.shape)], y.shape)
    decayed = g.node("Mul", [y, g.node("Exp", [g.node("Neg", [step], y.shape)], y.shape)], y.shape)
    total = g.node("CumSum", [decayed, g.constant(np.array(1))], y.shape)
    return g.node("MatMul", [total, g.weight((h, c[0]), h)], x.shape)


def hidden_states(g: Graph, x: Value) -> Value | None:
    """Recurrent operators with initial states, peepholes, either direction, and the last state as a result."""
    if x.rank != 3 or not all(map(is_fixed, x.shape[1:])):
        return None
    t, n, i = x.shape
    op, gates = g.choices.pick((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    h, direction = g.choices.pick((3, 4, 2)), g.choices.pick(("forward", "reverse", "bidirectional"))
    two = 2 if direction == "bidirectional" else 1
    inputs: list[Value | str] = [
        x, g.weight((two, gates * h, i[0]), i[0]), g.weight((two, gates * h, h), h), g.weight((two, 2 * gates * h)), "",
        g.weight((two, n[0], h)),
    ]  # fmt: skip
    states: list[Shape] = [(fixed(two), n, fixed(h))]
    if op == "LSTM":
        states *= 2
        inputs.append(g.weight((two, n[0], h)))
        if g.choices.below(2):
            inputs.append(g.weight((two, 3 * h)))
    settings: dict[str, Any] = {
        "hidden_size": h,
        "direction": direction,
        "clip": 2.0 if g.choices.chance(30) else None,
    }
    if op == "GRU":
        settings["linear_before_reset"] = g.choices.below(2)
    g.node(op, inputs, (t, fixed(two), n, fixed(h)), *states, **settings)
    results = g.values[-1 - len(states) :]
    last = results[1 + g.choices.below(len(states))]
    y = g.node("Transpose", [last], (n, fixed(two), fixed(h)), perm=[1, 0, 2])
    return reshaped(g, y, (n, fixed(two * h)), [0, None])


def embedded_shape(g: Graph, x: Value) -> Value | None:
    """Flattened to (N, -1) and back by a target made of sizes."""
    if x.rank < 3 or g.opset < 10:
        return None
    flat = (x.shape[0], times(*x.shape[1:]))
    y = g.node("Reshape", [x, g.integers([0, -1])], flat)
    y = g.node("Tanh", [y], flat)
    shape = shape_of(g, x)
    rest = g._emit("Slice", [shape.name, g.integers([1]), g.integers([x.rank]), g.integers([0])])
    target = g._emit("Concat", [g.integers([-1]), rest], axis=0)
    return g.node("Reshape", [y, target], x.shape)
