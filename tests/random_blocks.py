"""Blocks of random graphs: common operators with their variations, and what exporters write together."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from random_graphs import (
    INT_MAX,
    MS,
    ONE,
    VOCABULARY,
    WIDTHS,
    Dim,
    Graph,
    Shape,
    Value,
    broadcast,
    fixed,
    fixed_axes,
    is_fixed,
    plus,
    small,
    times,
    with_dim,
)  # fmt: skip

# Elementwise

UNARY = {
    "Relu": 6, "Tanh": 6, "LeakyRelu": 6, "Sigmoid": 6, "Abs": 6, "Neg": 6, "Elu": 6, "Selu": 6, "Softplus": 6, "Softsign": 6,
    "HardSigmoid": 6, "Identity": 6, "Sin": 7, "Cos": 7, "Erf": 9, "Celu": 12, "HardSwish": 14, "Mish": 18, "Gelu": 20,
}  # fmt: skip


def unary(g: Graph, x: Value) -> Value:
    return g.node(g.choices.pick([op for op, since in UNARY.items() if g.opset >= since]), [x], x.shape)


def unary_with_settings(g: Graph, x: Value) -> Value:
    op = g.choices.pick(("Clip", "Dropout", "Sqrt", "Exp", "Square", "Log", "Reciprocal"))
    if op == "Clip":
        if g.opset >= 11:
            bounds = [g.constant(np.array(bound, g.dtype)) for bound in (-1.1, 0.9)]
            return g.node("Clip", [x, *bounds[: 1 + g.choices.below(2)]], x.shape)
        return g.node("Clip", [x], x.shape, min=-1.1, max=0.9)
    if op == "Dropout":
        return g.node("Dropout", [x], x.shape)
    if op == "Square":
        return g.node("Pow", [x, g.constant(np.array(2.0, g.dtype))], x.shape)
    if op == "Exp":
        return g.node("Exp", [g.node("Tanh", [x], x.shape)], x.shape)
    positive = g.node("Add", [g.node("Abs", [x], x.shape), g.constant(np.array(0.5, g.dtype))], x.shape)
    return g.node(op, [positive], x.shape)


def with_constant(g: Graph, x: Value) -> Value | None:
    """A constant of any shape that broadcasts, on either side; where it is larger, it makes channels out of one."""
    ops = ["Add", "Mul", "Sub", "Div", "PRelu"] + ["Max", "Min", "Sum", "Mean"] * (g.opset >= 8)
    op = g.choices.pick(ops)
    suffix = g.choices.below(x.rank + 1)
    shape = []
    for dim in x.shape[suffix:]:
        keep = is_fixed(dim) and not g.choices.chance(30)
        shape.append(dim[0] if keep else 1)
        if dim == ONE and g.choices.chance(30) and op != "PRelu":
            shape[-1] = g.choices.pick(WIDTHS)
    out = broadcast(x.shape, tuple(fixed(n) for n in shape))
    if out is None or not small(out):
        return None
    weight = g.weight(shape, shift=2.5 if op in ("Div", "Mul") else 0.0)
    if op not in ("Div", "PRelu") and g.choices.below(2):
        return g.node(op, [weight, x], out, kind="float")
    return g.node(op, [x, weight], out)


def with_another(g: Graph, x: Value) -> Value | None:
    other = g.partner(lambda v: v.kind == "float" and broadcast(x.shape, v.shape) is not None)
    if other is None:
        return None
    out = broadcast(x.shape, other.shape)
    if out is None or not small(out):
        return None
    op = g.choices.pick(["Add", "Mul", "Sub"] + ["Max", "Sum", "Mean", "Min"] * (g.opset >= 8))
    return g.node(op, [x, other], out)


def masked(g: Graph, x: Value) -> Value | None:
    """Where: a constant mask, or one computed by comparing."""
    if g.opset < 9:
        return None
    fits = [d[0] if is_fixed(d) and g.choices.below(2) else 1 for d in x.shape]
    if g.choices.below(2):
        mask: Value | str = g.constant(g.rng.random(fits) < 0.5)
    else:
        mask = g.node("Greater", [x, g.weight(fits)], x.shape, kind="bool")
    other = g.constant(np.array(0.1, g.dtype)) if g.choices.below(2) else g.weight(fits)
    arms: list[Value | str] = [x, other]
    if g.choices.below(2):
        arms.reverse()
    return g.node("Where", [mask, *arms], x.shape, kind="float")


# Contractions


def linear(g: Graph, x: Value) -> Value | None:
    """A matrix product along the last dimension."""
    if not x.rank or not is_fixed(x.shape[-1]):
        return None
    k, n = x.shape[-1][0], g.choices.pick(WIDTHS)
    y = g.node("MatMul", [x, g.weight((k, n), k)], with_dim(x, x.rank - 1, fixed(n)))
    if g.choices.below(2):
        bias = g.weight((n,))
        y = g.node("Add", [y, bias] if g.choices.below(2) else [bias, y], y.shape, kind="float")
    return y


def matmul_forms(g: Graph, x: Value) -> Value | None:
    """Weights on the left, with batch dimensions, of one dimension."""
    form = g.choices.below(4)
    if form == 0 and x.rank >= 2 and is_fixed(x.shape[-2]):
        k, m = x.shape[-2][0], g.choices.pick(WIDTHS)
        return g.node("MatMul", [g.weight((m, k), k), x], with_dim(x, x.rank - 2, fixed(m)), kind="float")
    if not x.rank or not is_fixed(x.shape[-1]):
        return None
    k, n = x.shape[-1][0], g.choices.pick(WIDTHS)
    if form == 1 and x.rank >= 2:
        return g.node("MatMul", [x, g.weight((k,), k)], x.shape[:-1])
    if form == 2 and x.rank >= 3:
        batch = [d[0] if is_fixed(d) and g.choices.below(2) else 1 for d in x.shape[:-2]]
        return g.node("MatMul", [x, g.weight((*batch, k, n), k)], with_dim(x, x.rank - 1, fixed(n)))
    if form == 3 and 2 <= x.rank <= 3:
        heads = g.choices.pick((2, 3))
        shape: Shape = (fixed(heads), *x.shape[-2:-1], fixed(n))
        if x.rank == 3:
            x = g.axes("Unsqueeze", x, [1], (x.shape[0], ONE, *x.shape[1:]), 13)
            shape = (x.shape[0], *shape)
        return g.node("MatMul", [x, g.weight((heads, k, n), k)], shape) if small(shape) else None
    return None


def gemm(g: Graph, x: Value) -> Value | None:
    if x.rank != 2:
        return None
    trans_a = int(g.choices.chance(20) and is_fixed(x.shape[0]))
    m, k = (x.shape[1], x.shape[0]) if trans_a else x.shape
    if not is_fixed(k):
        return None
    n, trans_b = g.choices.pick(WIDTHS), g.choices.below(2)
    inputs: list[Value | str] = [x, g.weight((n, k[0]) if trans_b else (k[0], n), k[0])]
    shapes: list[tuple[int, ...]] = [(n,), (1, n), (1,), (), (1, 1)]
    if is_fixed(m):
        shapes += [(m[0], 1), (m[0], n)]
    if g.opset < 11 or g.choices.below(2):
        inputs.append(g.weight(g.choices.pick(shapes)))
    scale = {"alpha": 0.5, "beta": 1.5} if g.choices.chance(30) else {}
    if not trans_a and not g.choices.below(2):
        return g.node("Gemm", inputs, (m, fixed(n)), transB=trans_b or None, **scale)
    return g.node("Gemm", inputs, (m, fixed(n)), transA=trans_a or None, transB=trans_b or None, **scale)


def two_at_once(g: Graph, x: Value) -> Value | None:
    """A weight with two new dimensions, and one that sums both, which may be stored flat."""
    if g.opset < 12 or not 1 <= x.rank <= 3 or not is_fixed(x.shape[-1]):
        return None
    letters = "abc"[: x.rank]
    k, y, z = x.shape[-1], fixed(g.choices.pick((2, 3))), fixed(g.choices.pick((3, 2, 4)))
    order = g.choices.pick(("yz", "zy"))
    sizes = {"y": y, "z": z}
    out = (*x.shape[:-1], *(sizes[letter] for letter in order))
    weight = g.weight((k[0], y[0], z[0]), k[0])
    both = g.node("Einsum", [x, weight], out, equation=f"{letters},{letters[-1]}yz->{letters[:-1]}{order}")
    both = unary(g, both)
    if g.choices.below(2):
        return both
    n = g.choices.pick(WIDTHS)
    last = g.weight((y[0], z[0], n), y[0] * z[0])
    if g.choices.below(2):
        flat = g.constant(g.rng.normal(0, 0.3, (y[0] * z[0], n)).astype(g.dtype))
        last = g._emit("Reshape", [flat, g.integers((y[0], z[0], n))])
    equation = f"{letters[:-1]}{order},yzn->{letters[:-1]}n"
    return g.node("Einsum", [both, last], (*x.shape[:-1], fixed(n)), equation=equation)


def einsum(g: Graph, x: Value) -> Value | None:
    """Some fixed dimensions summed with a weight, some kept on it, in any order; or with a third operand."""
    if g.opset < 12 or not 1 <= x.rank <= 4:
        return None
    letters = "abcd"[: x.rank]
    summed = [k for k in fixed_axes(x) if g.choices.below(2)][:2] or fixed_axes(x)[:1]
    if not summed:
        return None
    kept = [k for k in fixed_axes(x) if k not in summed and g.choices.chance(30)]
    n = g.choices.pick(WIDTHS)
    weight = "".join(letters[k] for k in (*summed, *kept)) + "z"
    result = "".join(letter for k, letter in enumerate(letters) if k not in summed) + "z"
    if g.choices.chance(30):
        result = result[-1] + result[:-1]
    sizes = {letter: x.shape[k] for k, letter in enumerate(letters)} | {"z": fixed(n)}
    fan_in = prod(sizes[letters[k]][0] for k in summed)
    inputs: list[Value | str] = [x, g.weight([sizes[letter][0] for letter in weight], fan_in)]
    equation = f"{letters},{weight}"
    if g.choices.chance(25):
        third = weight[g.choices.below(len(weight))]
        inputs.append(g.weight([sizes[third][0]], shift=1.0))
        equation += f",{third}"
    shape = tuple(sizes[letter] for letter in result)
    return g.node("Einsum", inputs, shape, equation=f"{equation}->{result}") if small(shape) else None


def between(g: Graph, x: Value) -> Value | None:
    """The product of two computed tensors."""
    if x.rank < 2:
        return None
    if g.choices.below(2):
        swapped = (*x.shape[:-2], x.shape[-1], x.shape[-2])
        perm = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
        other: Value | None = g.node("Transpose", [x], swapped, perm=perm)
    else:
        other = g.partner(
            lambda v: (
                v.kind == "float"
                and v.rank == x.rank
                and v.shape[-2] == x.shape[-1]
                and v.shape[:-2] == x.shape[:-2]
            )
        )
    if other is None:
        return None
    out = (*x.shape[:-1], other.shape[-1])
    if not small(out):
        return None
    y = g.node("MatMul", [x, other], out)
    return g.node("Tanh", [y], out)


def conv(g: Graph, x: Value) -> Value | None:
    if x.rank not in (3, 4) or not is_fixed(x.shape[1]):
        return None
    c = x.shape[1][0]
    groups = [group for group in range(1, c + 1) if c % group == 0]
    group = g.choices.pick((1, *groups[::-1]))
    per = g.choices.pick(WIDTHS[:4]) if group == 1 else g.choices.pick((1, 2, 3))
    spatial = x.rank - 2
    k = g.choices.pick((1, 3)) if min(min(d) for d in x.shape[2:]) >= 3 else 1
    stride = g.choices.pick((1, 2)) if k == 3 else 1
    pad = k // 2
    out = (x.shape[0], fixed(group * per), *(_strided(d, k, stride, pad) for d in x.shape[2:]))
    if not small(out):
        return None
    fan_in = c // group * k**spatial
    inputs = [x, g.weight((group * per, c // group, *[k] * spatial), fan_in)]
    if g.choices.below(2):
        inputs.append(g.weight((group * per,)))
    return g.node(
        "Conv", inputs, out,
        group=group if group > 1 or g.choices.below(2) else None, pads=[pad] * 2 * spatial, strides=[stride] * spatial,
        kernel_shape=[k] * spatial if g.choices.below(2) else None,
    )  # fmt: skip


def _strided(dim: Dim, k: int, stride: int, pad: int) -> Dim:
    return tuple((n + 2 * pad - k) // stride + 1 for n in dim)  # type: ignore[return-value]


def conv_transpose(g: Graph, x: Value) -> Value | None:
    if x.rank not in (3, 4) or not is_fixed(x.shape[1]):
        return None
    c = x.shape[1][0]
    group = g.choices.pick([1, *[group for group in range(2, c + 1) if c % group == 0]])
    per, spatial = g.choices.pick((2, 3, 1)), x.rank - 2
    out = (x.shape[0], fixed(group * per), *(plus(d, ONE) for d in x.shape[2:]))
    if not small(out):
        return None
    inputs = [x, g.weight((c, per, *[2] * spatial), c // group)]
    if g.choices.below(2):
        inputs.append(g.weight((group * per,)))
    return g.node("ConvTranspose", inputs, out, group=group)


def standardised_conv(g: Graph, x: Value) -> Value | None:
    """A convolution whose kernel is normalised in the graph."""
    if x.rank != 4 or not is_fixed(x.shape[1]) or g.opset >= 18:
        return None
    c, n = x.shape[1][0], g.choices.pick(WIDTHS)
    w = Value(g.weight((n, c, 1, 1), c), (fixed(n), fixed(c), ONE, ONE))
    mean = g.node("ReduceMean", [w], (fixed(n), ONE, ONE, ONE), axes=[1, 2, 3])
    centred = g.node("Sub", [w, mean], w.shape)
    g.values = g.values[:-2]
    out = with_dim(x, 1, fixed(n))
    return g.node("Conv", [x, centred], out) if small(out) else None


def embedding(g: Graph, x: Value) -> Value | None:
    ids = g.partner(lambda v: v.kind == "int")
    if ids is None:
        return None
    n = g.choices.pick(WIDTHS)
    out = (*ids.shape, fixed(n))
    return g.node("Gather", [g.weight((VOCABULARY, n)), ids], out, kind="float") if small(out) else None


def quantised_linear(g: Graph, x: Value) -> Value | None:
    if g.opset < 13 or not x.rank or not is_fixed(x.shape[-1]):
        return None
    k, n = x.shape[-1][0], g.choices.pick(WIDTHS)
    stored = g.constant(g.rng.integers(-100, 100, (k, n)).astype(np.int8))
    scale = g.constant(np.full(n, 0.01, np.float32))
    zero = g.constant(np.zeros(n, np.int8))
    weight = g._emit("DequantizeLinear", [stored, scale, zero], axis=1)
    if g.dtype != np.float32:
        weight = g._emit("Cast", [weight], to=TensorProto.DOUBLE)
    return g.node("MatMul", [x, weight], with_dim(x, x.rank - 1, fixed(n)))


# Normalisation, reduction, pooling


def batch_norm(g: Graph, x: Value) -> Value | None:
    if x.rank < 2 or not is_fixed(x.shape[1]):
        return None
    c = x.shape[1][0]
    parameters = [g.weight((c,), shift=shift) for shift in (1.0, 0.0, 0.0)]
    variance = g.constant(g.rng.uniform(0.5, 2.0, c).astype(g.dtype))
    return g.node("BatchNormalization", [x, *parameters, variance], x.shape)


def instance_norm(g: Graph, x: Value) -> Value | None:
    if x.rank < 3 or not is_fixed(x.shape[1]) or min(times(*x.shape[2:])) < 3:
        return None
    c = x.shape[1][0]
    return g.node(
        "InstanceNormalization", [x, g.weight((c,), shift=1.0), g.weight((c,))], x.shape, epsilon=1e-2
    )


def group_norm(g: Graph, x: Value) -> Value | None:
    if x.rank < 3 or not is_fixed(x.shape[1]) or x.shape[1][0] < 2:
        return None
    c = x.shape[1][0]
    groups = g.choices.pick([d for d in range(1, c + 1) if c % d == 0 and (d < c or x.rank > 3)])
    if g.opset >= 21 and g.choices.below(2):
        return g.node(
            "GroupNormalization",
            [x, g.weight((c,), shift=1.0), g.weight((c,))],
            x.shape,
            num_groups=groups,
            epsilon=1e-2,
        )
    flat = g.node(
        "Reshape",
        [x, g.integers([0, groups, -1])],
        (x.shape[0], fixed(groups), times(fixed(c // groups), *x.shape[2:])),
    )
    one, zero = (g.constant(np.full(groups, v, g.dtype)) for v in (1.0, 0.0))
    normed = g.node("InstanceNormalization", [flat, one, zero], flat.shape, epsilon=1e-2)
    return g.node("Reshape", [normed, shape_of(g, x)], x.shape)


def layer_norm(g: Graph, x: Value) -> Value | None:
    """LayerNormalization over one or more trailing dimensions, or spelt out over one."""
    first = x.rank - 1
    while first > 0 and is_fixed(x.shape[first - 1]) and g.choices.chance(30):
        first -= 1
    if not x.rank or not all(map(is_fixed, x.shape[first:])) or times(*x.shape[first:]) == ONE:
        return None
    shape = [d[0] for d in x.shape[first:]]
    if g.opset >= 17 and g.choices.below(2) == 0:
        inputs = [x, g.weight(shape[-1:] if g.choices.chance(20) else shape, shift=1.0)]
        if g.choices.below(2):
            inputs.append(g.weight(shape))
        axis = first - x.rank if g.choices.below(2) == 0 else first
        return g.node("LayerNormalization", inputs, x.shape, axis=axis, epsilon=1e-2)
    axes = list(range(first, x.rank))
    rms = g.choices.below(2)
    if rms and g.opset >= 23 and g.choices.below(2):
        return g.node("RMSNormalization", [x, g.weight(shape, shift=1.0)], x.shape, axis=first, epsilon=1e-2)
    centred = x
    if not rms:
        mean = reduced(g, "ReduceMean", x, axes)
        centred = g.node("Sub", [x, mean], x.shape)
    variance = reduced(g, "ReduceMean", g.node("Mul", [centred, centred], x.shape), axes)
    safe = g.node("Add", [variance, g.constant(np.array(1e-2, g.dtype))], variance.shape)
    normed = g.node("Div", [centred, g.node("Sqrt", [safe], safe.shape)], x.shape)
    return g.node("Mul", [normed, g.weight(shape, shift=1.0)], x.shape)


def lp_or_mean_variance(g: Graph, x: Value) -> Value | None:
    if not x.rank:
        return None
    op = g.choices.pick(("LpNormalization", "LRN", "MeanVarianceNormalization"))
    axis = g.choices.below(x.rank)
    if min(x.shape[axis]) < 3:
        return None
    if op == "LRN":
        return g.node("LRN", [x], x.shape, size=3, alpha=0.3, beta=0.6, bias=1.2) if x.rank == 4 else None
    safe = g.node("Add", [g.node("Abs", [x], x.shape), g.constant(np.array(0.1, g.dtype))], x.shape)
    if op == "LpNormalization":
        return g.node(op, [safe], x.shape, axis=axis, p=g.choices.pick((2, 1)))
    return g.node(op, [x], x.shape, axes=[axis]) if g.opset >= 9 and g.opset < 18 else None


REDUCTIONS = {
    "ReduceMean": 18, "ReduceMax": 18, "ReduceSum": 13, "ReduceL2": 18, "ReduceSumSquare": 18, "ReduceL1": 18, "ReduceMin": 18,
    "ReduceLogSumExp": 18, "ReduceProd": 18,
}  # fmt: skip


def reduced(g: Graph, op: str, x: Value, axes: Sequence[int], keep: bool = True) -> Value:
    out = tuple(ONE if k in axes else d for k, d in enumerate(x.shape) if keep or k not in axes)
    return g.axes(
        op,
        x,
        sorted(axes),
        out,
        REDUCTIONS[op],
        keepdims=int(keep) if not keep or g.choices.below(2) else None,
    )


def reduction(g: Graph, x: Value) -> Value | None:
    if not x.rank:
        return None
    axes = g.choices.some(range(x.rank))
    op = g.choices.pick(list(REDUCTIONS))
    y = reduced(g, op, x, axes, bool(g.choices.below(2)))
    count = max(max(times(*(x.shape[a] for a in axes))), 1)
    if op in ("ReduceSum", "ReduceL1", "ReduceSumSquare"):
        return g.node("Mul", [y, g.constant(np.array(1 / count, g.dtype))], y.shape)
    return y


def softmax(g: Graph, x: Value) -> Value | None:
    if not x.rank:
        return None
    axis = g.choices.below(x.rank)
    if g.choices.below(2) == 0:
        axis -= x.rank if g.opset >= 11 else 0
    return g.node(g.choices.pick(("Softmax", "LogSoftmax")), [x], x.shape, axis=axis)


def pooling(g: Graph, x: Value) -> Value | None:
    if x.rank != 4:
        return None
    op = g.choices.pick(
        ("MaxPool", "GlobalAveragePool", "AveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool")
    )
    if op.startswith("Global"):
        return g.node(op, [x], (*x.shape[:2], ONE, ONE))
    if min(min(d) for d in x.shape[2:]) < 2:
        return None
    out = (*x.shape[:2], *(_strided(d, 2, 2, 0) for d in x.shape[2:]))
    return g.node(op, [x], out, kernel_shape=[2, 2], strides=[2, 2])


def resize(g: Graph, x: Value) -> Value | None:
    if x.rank != 4:
        return None
    out = (*x.shape[:2], *(times(d, fixed(2)) for d in x.shape[2:]))
    if not small(out):
        return None
    scales = g.constant(np.array([1, 1, 2, 2], np.float32))
    if g.opset < 9:
        return g.node("Upsample", [x], out, scales=[1.0, 1.0, 2.0, 2.0], mode="nearest")
    if g.opset < 10:
        return g.node("Upsample", [x, scales], out, mode="nearest")
    if g.opset < 11:
        return g.node("Resize", [x, scales], out, mode="nearest")
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    roi = "" if g.opset >= 13 else g.constant(np.zeros(0, np.float32))
    form = g.choices.below(3)
    if form == 0:
        return g.node("Resize", [x, roi, scales], out, **settings)
    none = "" if g.opset >= 13 else g.constant(np.zeros(0, np.float32))
    if form == 1 and all(map(is_fixed, out)):
        return g.node("Resize", [x, roi, none, g.integers([d[0] for d in out])], out, **settings)
    full = g.node("Mul", [shape_of(g, x), g.integers([1, 1, 2, 2])], (fixed(4),), kind="int")
    g.values.pop()
    return g.node("Resize", [x, roi, none, full], out, **settings)


# Movement


def transpose(g: Graph, x: Value) -> Value | None:
    if x.rank < 2:
        return None
    rest = list(range(x.rank))
    perm = [rest.pop(-1 - g.choices.below(len(rest))) for _ in range(x.rank)]
    shape = tuple(x.shape[p] for p in perm)
    default = perm == list(reversed(range(x.rank)))
    return g.node("Transpose", [x], shape, perm=None if default and g.choices.below(2) else perm)


def shape_of(g: Graph, x: Value) -> Value:
    """Shape(x), which no block builds on."""
    g.nodes.append(helper.make_node("Shape", [x.name], [name := g.fresh("s")], name if g.named else ""))
    g.read.add(x.name)
    return Value(name, (fixed(x.rank),), "int")


def size_of(g: Graph, x: Value, k: int) -> str:
    """One element of Shape(x), as a vector of one."""
    if g.opset >= 15 and g.choices.chance(30):
        g.read.add(x.name)
        return g._emit("Shape", [x.name], start=k, end=k + 1)
    index = g.integers([k - x.rank if g.choices.below(2) else k])
    return g._emit("Gather", [shape_of(g, x).name, index], axis=0)


def reshaped(g: Graph, x: Value, shape: Shape, sources: Sequence[int | None] = ()) -> Value:
    """Reshape to `shape`, its target written down or computed; `sources[k]` is the dimension of x that element k is."""
    places = list(sources) or [None] * len(shape)
    forms: list[int | None] = []
    inferred = next((k for k, dim in enumerate(shape) if not is_fixed(dim) and places[k] is None), None)
    if inferred is None and shape and g.choices.below(2):
        inferred = g.choices.below(len(shape))
    for k, dim in enumerate(shape):
        if k == inferred:
            forms.append(-1)
        elif places[k] == k and g.choices.chance(40):
            forms.append(0)
        else:
            forms.append(dim[0] if is_fixed(dim) else None)
    computed = None in forms or g.choices.chance(20)
    if not computed:
        exact = g.opset >= 14 and 0 not in forms and g.choices.chance(10)
        return g.node("Reshape", [x, g.integers(forms)], shape, allowzero=1 if exact else None)
    pieces = []
    for form, place in zip(forms, places, strict=True):
        if form is None or (place is not None and form > 0 and g.choices.below(2)):
            assert place is not None
            pieces.append(size_of(g, x, place))
        else:
            pieces.append(g.integers([form]))
    return g.node("Reshape", [x, g._emit("Concat", pieces, axis=0)], shape)


def split_dim(g: Graph, x: Value) -> Value | None:
    axes = [k for k in fixed_axes(x, 4) if _factorings(x.shape[k][0])]
    if not axes or x.rank > 4:
        return None
    k = g.choices.pick(axes)
    a, b = g.choices.pick(_factorings(x.shape[k][0]))
    shape = (*x.shape[:k], fixed(a), fixed(b), *x.shape[k + 1 :])
    return reshaped(g, x, shape, [*range(k), None, None, *range(k + 1, x.rank)])


def _factorings(n: int) -> list[tuple[int, int]]:
    return [(a, n // a) for a in range(2, n) if n % a == 0]


def merge_dims(g: Graph, x: Value) -> Value | None:
    if x.rank < 2:
        return None
    k = g.choices.below(x.rank - 1)
    shape = (*x.shape[:k], times(*x.shape[k : k + 2]), *x.shape[k + 2 :])
    return reshaped(g, x, shape, [*range(k), None, *range(k + 2, x.rank)])


def any_reshape(g: Graph, x: Value) -> Value | None:
    """The fixed dimensions factored anew, whether that respects them or not."""
    last = x.rank
    while last and is_fixed(x.shape[last - 1]):
        last -= 1
    total = times(*x.shape[last:])[0]
    options = [(a, total // a) for a in range(1, total + 1) if total % a == 0]
    if total < 4:
        return None
    shape = (*x.shape[:last], *map(fixed, g.choices.pick(options)))
    return reshaped(g, x, shape, [*range(last), None, None])


def flatten(g: Graph, x: Value) -> Value | None:
    if not x.rank:
        return None
    axis = g.choices.pick((1, *range(x.rank + 1)))
    shape = (times(*x.shape[:axis]), times(*x.shape[axis:]))
    return g.node(
        "Flatten",
        [x],
        shape,
        axis=axis - x.rank if g.opset >= 11 and 0 < axis < x.rank and g.choices.below(2) else axis,
    )


def squeeze(g: Graph, x: Value) -> Value | None:
    ones = [k for k, dim in enumerate(x.shape) if dim == ONE]
    if not ones:
        return None
    dropped = g.choices.some(ones)
    shape = tuple(d for k, d in enumerate(x.shape) if k not in dropped)
    if len(dropped) == len(ones) and g.choices.below(2):
        return g.node("Squeeze", [x], shape)
    return g.axes("Squeeze", x, dropped, shape, 13)


def unsqueeze(g: Graph, x: Value) -> Value | None:
    if x.rank > 4:
        return None
    k = g.choices.below(x.rank + 1)
    return g.axes("Unsqueeze", x, [k], (*x.shape[:k], ONE, *x.shape[k:]), 13)


def shuffle(g: Graph, x: Value) -> Value | None:
    """ShuffleNet's channel shuffle, at any dimension."""
    axes = [k for k in fixed_axes(x, 4) if _factorings(x.shape[k][0])]
    if not axes or x.rank > 4:
        return None
    k = g.choices.pick(axes)
    a, b = g.choices.pick(_factorings(x.shape[k][0]))
    shape = (*x.shape[:k], fixed(a), fixed(b), *x.shape[k + 1 :])
    y = reshaped(g, x, shape, [*range(k), None, None, *range(k + 1, x.rank)])
    perm = [*range(k), k + 1, k, *range(k + 2, y.rank)]
    y = g.node("Transpose", [y], tuple(y.shape[p] for p in perm), perm=perm)
    return reshaped(g, y, x.shape, [*range(k), None, *range(k + 2, y.rank)])


def concat(g: Graph, x: Value) -> Value | None:
    if not x.rank:
        return None
    axis = g.choices.pick(fixed_axes(x) or [x.rank - 1])
    rest = with_dim(x, axis, ONE)
    form = g.choices.below(3)
    if form == 1 and all(map(is_fixed, rest)):
        n = g.choices.pick((2, 1, 3))
        shape = [d[0] for d in with_dim(x, axis, fixed(n))]
        out = with_dim(x, axis, plus(x.shape[axis], fixed(n)))
        operands: list[Value | str] = [x, g.weight(shape)]
    else:
        other = x if form == 2 else g.partner(
            lambda v: v.kind == "float" and v.rank == x.rank and with_dim(v, axis, ONE) == rest
        )  # fmt: skip
        if other is None:
            return None
        operands = [x, other]
        out = with_dim(x, axis, plus(x.shape[axis], other.shape[axis]))
    if g.choices.below(2):
        operands.reverse()
    axis -= x.rank if g.opset >= 11 and g.choices.below(2) else 0
    return g.node("Concat", operands, out, axis=axis, kind="float") if small(out) else None


def split(g: Graph, x: Value) -> Value | None:
    axes = fixed_axes(x)
    if not axes:
        return None
    axis = g.choices.pick(axes)
    n = x.shape[axis][0]
    counts = [k for k in (2, 3) if n % k == 0]
    if counts and g.choices.below(2):
        k = g.choices.pick(counts)
        shapes = [with_dim(x, axis, fixed(n // k))] * k
        if g.opset >= 18:
            return g.node("Split", [x], *shapes, axis=axis, num_outputs=k)
        return g.node("Split", [x], *shapes, axis=axis)
    lengths = [cut := 1 + g.choices.below(n - 1), n - cut]
    if lengths[1] > 1 and g.choices.chance(30):
        lengths[1:] = [1, lengths[1] - 1]
    shapes = [with_dim(x, axis, fixed(k)) for k in lengths]
    if g.opset >= 13:
        return g.node("Split", [x, g.integers(lengths)], *shapes, axis=axis)
    return g.node("Split", [x], *shapes, axis=axis, split=lengths)


def listed(g: Graph, x: Value) -> Value | None:
    """Parts of a list; another one is read later, perhaps."""
    axes = fixed_axes(x)
    if not axes or g.opset < 13:
        return None
    axis = g.choices.pick(axes)
    n = x.shape[axis][0]
    lengths = [cut := 1 + g.choices.below(n - 1), n - cut]
    parts = g._emit("SplitToSequence", [x.name, g.integers(lengths)], axis=axis - x.rank * g.choices.below(2))
    chosen = [(0, 1), (1, 0), (1,)][g.choices.below(3)]
    found = [
        g.node(
            "SequenceAt",
            [parts, g._emit("Constant", [], value_int=k - 2 * g.choices.below(2))],
            with_dim(x, axis, fixed(lengths[k])),
            kind=x.kind,
        )
        for k in chosen
    ]
    return found[0]


def emptied(g: Graph, x: Value) -> Value | None:
    """Nothing of x, put before or behind it."""
    axes = fixed_axes(x)
    if not axes or g.opset < 13 or x.kind != "float":
        return None
    axis = g.choices.pick(axes)
    at = g.choices.below(x.shape[axis][0])
    nothing = g._emit("Slice", [x.name, g.integers([at]), g.integers([at]), g.integers([axis])])
    if g.choices.below(2):
        nothing = g._emit("Neg", [nothing])
    operands = [nothing, x] if g.choices.below(2) else [x, nothing]
    return g.node("Concat", operands, x.shape, axis=axis, kind="float")


def slices(g: Graph, x: Value) -> Value | None:
    axes = fixed_axes(x)
    if not axes:
        return None
    axis = g.choices.pick(axes)
    n = x.shape[axis][0]
    start = g.choices.below(n)
    stop = start + 1 + g.choices.below(n - start)
    step = 1
    if g.opset >= 10 and g.choices.chance(15):
        step = g.choices.pick((2, -1))
    length = len(range(start, stop, abs(step)))
    out = with_dim(x, axis, fixed(length))
    first, last = (stop - 1, start - 1 - n if start == 0 else start - 1) if step < 0 else (start, stop)
    if step < 0 and start == 0:
        last = -n - 1
    elif step > 0:
        if first and g.choices.below(2):
            first -= n
        last = g.choices.pick([last, *[INT_MAX] * (last == n), *[last - n] * (last < n)])
    if g.opset < 10:
        return g.node("Slice", [x], out, starts=[first], ends=[last], axes=[axis])
    inputs = [
        x,
        g.integers([first]),
        g.integers([last]),
        g.integers([axis - x.rank if g.choices.below(2) else axis]),
    ]
    if step != 1 or g.choices.below(2):
        inputs.append(g.integers([step]))
    return g.node("Slice", inputs, out)


def halved(g: Graph, x: Value) -> Value | None:
    """A slice whose end is computed from the shape: x[..., : c // 2]."""
    axes = fixed_axes(x)
    if not axes or g.opset < 10:
        return None
    axis = g.choices.pick(axes)
    half = x.shape[axis][0] // 2
    middle = g._emit("Div", [size_of(g, x, axis), g.integers([2])])
    at = g.integers([axis])
    if g.choices.below(2):
        return g.node(
            "Slice", [x, middle, g.integers([INT_MAX]), at], with_dim(x, axis, fixed(x.shape[axis][0] - half))
        )
    return g.node("Slice", [x, g.integers([0]), middle, at], with_dim(x, axis, fixed(half)))


def gather(g: Graph, x: Value) -> Value | None:
    axes = fixed_axes(x)
    if not axes:
        return None
    axis = g.choices.pick(axes)
    n = x.shape[axis][0]
    shape = g.choices.pick(((), (1,), (2,), (1, 1), (n,)))
    low = -n if g.opset >= 11 and g.choices.below(2) else 0
    indices = g.rng.integers(low, n, shape)
    out = (*x.shape[:axis], *map(fixed, shape), *x.shape[axis + 1 :])
    return g.node("Gather", [x, g.integers(indices)], out, axis=axis) if len(out) < 6 and small(out) else None


def pad(g: Graph, x: Value) -> Value | None:
    if not x.rank or x.rank > 4:
        return None
    pads = [0] * 2 * x.rank
    for k in g.choices.some(range(x.rank)):
        pads[k], pads[k + x.rank] = g.choices.below(3), g.choices.below(3)
    mode = "constant"
    if g.choices.chance(15) and min(map(min, x.shape)) > 2:
        mode = g.choices.pick(("edge", "reflect"))
    out = tuple(plus(d, fixed(pads[k] + pads[k + x.rank])) for k, d in enumerate(x.shape))
    if not small(out):
        return None
    if g.opset < 11:
        return g.node("Pad", [x], out, pads=pads, mode=mode)
    return g.node("Pad", [x, g.integers(pads)], out, mode=None if mode == "constant" else mode)


def tile(g: Graph, x: Value) -> Value | None:
    if not x.rank:
        return None
    repeats = [1] * x.rank
    k = g.choices.below(x.rank)
    repeats[k] = g.choices.pick((2, 3, 4)) if x.shape[k] == ONE else 2
    out = tuple(times(d, fixed(n)) for d, n in zip(x.shape, repeats, strict=True))
    return g.node("Tile", [x, g.integers(repeats)], out) if small(out) else None


def expand(g: Graph, x: Value) -> Value | None:
    ones = [k for k, dim in enumerate(x.shape) if dim == ONE]
    if not ones or g.opset < 8:
        return None
    k = g.choices.pick(ones)
    out = with_dim(x, k, fixed(g.choices.pick(WIDTHS)))
    if not small(out):
        return None
    target = [d[0] if is_fixed(d) and (j == k or g.choices.below(2)) else 1 for j, d in enumerate(out)]
    lead = g.choices.below(k + 1) if all(n == 1 for n in target[:k]) else 0
    return g.node("Expand", [x, g.integers(target[lead:])], out)


def space_depth(g: Graph, x: Value) -> Value | None:
    if x.rank != 4:
        return None
    n, c, h, w = x.shape
    if is_fixed(c) and c[0] % 4 == 0:
        mode = g.choices.pick(("DCR", "CRD")) if g.opset >= 11 else None
        out = (n, fixed(c[0] // 4), times(h, fixed(2)), times(w, fixed(2)))
        return g.node("DepthToSpace", [x], out, blocksize=2, mode=mode) if small(out) else None
    if is_fixed(h) and is_fixed(w) and h[0] % 2 == 0 and w[0] % 2 == 0:
        out = (n, times(c, fixed(4)), fixed(h[0] // 2), fixed(w[0] // 2))
        return g.node("SpaceToDepth", [x], out, blocksize=2)
    return None


# What exporters write together


def residual(g: Graph, x: Value) -> Value | None:
    """x + f(x), with f a bottleneck along the last dimension or the channels."""
    if x.rank in (3, 4) and is_fixed(x.shape[1]) and g.choices.below(2):
        c, h = x.shape[1][0], g.choices.pick(WIDTHS)
        kernel = [1] * (x.rank - 2)
        y = g.node("Conv", [x, g.weight((h, c, *kernel), c), g.weight((h,))], with_dim(x, 1, fixed(h)))
        y = unary(g, y)
        y = g.node("Conv", [y, g.weight((c, h, *kernel), h)], x.shape)
    elif x.rank and is_fixed(x.shape[-1]):
        c, h = x.shape[-1][0], g.choices.pick(WIDTHS)
        y = g.node("MatMul", [x, g.weight((c, h), c)], with_dim(x, x.rank - 1, fixed(h)))
        y = unary(g, y)
        y = g.node("MatMul", [y, g.weight((h, c), h)], x.shape)
    else:
        return None
    return g.node("Add", [x, y] if g.choices.below(2) else [y, x], x.shape)


def attention(g: Graph, x: Value) -> Value | None:
    """Self-attention over (batch, time, channels), heads split by Reshape; keys and values of one head on occasion."""
    if x.rank != 3 or not is_fixed(x.shape[-1]):
        return None
    n, t, c = x.shape
    heads, d = g.choices.pick((2, 3, 1)), g.choices.pick((4, 2, 3))
    shared = heads > 1 and g.choices.chance(30)
    if not small((n, fixed(heads), t, t)):
        return None

    def project(count: int) -> Value:
        y = g.node("MatMul", [x, g.weight((c[0], count * d), c[0])], (n, t, fixed(count * d)))
        if g.choices.below(2):
            y = g.node("Add", [y, g.weight((count * d,))], y.shape)
        return y

    def split_heads(y: Value, count: int, perm: Sequence[int]) -> Value:
        y = reshaped(g, y, (n, t, fixed(count), fixed(d)), [0, 1, None, None])
        return g.node("Transpose", [y], tuple(y.shape[p] for p in perm), perm=list(perm))

    few = 1 if shared else heads
    if g.choices.chance(30) and not shared:
        fused = project(3 * heads)
        parts = [with_dim(fused, 2, fixed(heads * d))] * 3
        q = g.node("Split", [fused, g.integers([heads * d] * 3)], *parts, axis=-1) if g.opset >= 13 else (
            g.node("Split", [fused], *parts, axis=2, split=[heads * d] * 3)
        )  # fmt: skip
        k, v = g.values[-2:]
    else:
        q, k, v = project(heads), project(few), project(few)
    q, k, v = (
        split_heads(q, heads, (0, 2, 1, 3)),
        split_heads(k, few, (0, 2, 3, 1)),
        split_heads(v, few, (0, 2, 1, 3)),
    )
    if g.choices.chance(30):
        q = g.node("Div", [q, root_of_size(g, q, 3)], q.shape)
    else:
        q = g.node("Mul", [q, g.constant(np.array(1 / np.sqrt(d), g.dtype))], q.shape)
    scores = g.node("MatMul", [q, k], (n, fixed(heads), t, t))
    if g.choices.chance(30):
        scores = g.node("Add", [scores, g.weight((heads, 1, 1))], scores.shape)
    weights = g.node("Softmax", [scores], scores.shape, axis=3)
    mixed = g.node("MatMul", [weights, v], (n, fixed(heads), t, fixed(d)))
    y = g.node("Transpose", [mixed], (n, t, fixed(heads), fixed(d)), perm=[0, 2, 1, 3])
    y = reshaped(g, y, (n, t, fixed(heads * d)), [0, 1, None])
    out = g.node("MatMul", [y, g.weight((heads * d, c[0]), heads * d)], x.shape)
    return g.node("Add", [x, out], x.shape)


def attention_operator(g: Graph, x: Value) -> Value | None:
    """The operator Attention, with as many heads for keys and values as for queries, or fewer."""
    if g.opset < 23 or x.rank != 3 or not is_fixed(x.shape[-1]):
        return None
    n, t, c = x.shape
    heads, few, d, e = g.choices.pick((2, 4, 3)), 1, g.choices.pick((4, 2)), g.choices.pick((3, 4))
    if g.choices.below(2):
        few = heads
    sizes = (heads * d, few * d, few * e)
    q, k, v = (g.node("MatMul", [x, g.weight((c[0], m), c[0])], (n, t, fixed(m))) for m in sizes)
    attributes = {"is_causal": g.choices.below(2), "scale": 0.4 if g.choices.below(2) else None}
    out = (n, t, fixed(heads * e))
    return g.node("Attention", [q, k, v], out, q_num_heads=heads, kv_num_heads=few, **attributes)


def contributed(g: Graph, x: Value) -> Value | None:
    """Operators of ONNX Runtime's own."""
    if not x.rank or not is_fixed(x.shape[-1]) or x.shape[-1] == ONE:
        return None
    c, n = x.shape[-1][0], g.choices.pick(WIDTHS)
    form = g.choices.below(4)
    if form == 0 and x.rank == 2:
        turned = g.choices.below(2)
        weight = g.weight((n, c) if turned else (c, n), c)
        return g.node(
            "FusedMatMul", [x, weight], with_dim(x, 1, fixed(n)), domain=MS, alpha=0.5, transB=turned
        )
    if form == 1:
        return g.node("BiasGelu", [x, g.weight((c,))], x.shape, domain=MS)
    if form == 2 and x.rank == 3:
        inputs = [x, x, g.weight((c,), shift=1.0), g.weight((c,)), *[g.weight((c,))] * g.choices.below(2)]
        return g.node("SkipLayerNormalization", inputs, x.shape, domain=MS, epsilon=1e-2)
    return g.node("QuickGelu", [x], x.shape, domain=MS, alpha=1.5)


def repeated_heads(g: Graph, x: Value) -> Value | None:
    """A dimension repeated as grouped-query attention repeats its keys: a new one expanded, and merged."""
    axes = fixed_axes(x)
    if not axes or x.rank > 4 or g.opset < 8:
        return None
    k, repeats = g.choices.pick(axes), g.choices.pick((2, 3))
    at = k + 1 if g.choices.below(2) == 0 else k
    y = g.axes("Unsqueeze", x, [at], (*x.shape[:at], ONE, *x.shape[at:]), 13)
    shape = with_dim(y, at, fixed(repeats))
    if not small(shape):
        return None
    target = [repeats if j == at else 1 for j in range(y.rank)]
    y = g.node("Expand", [y, g.integers(target)], shape)
    merged = (*shape[:k], times(*shape[k : k + 2]), *shape[k + 2 :])
    return reshaped(g, y, merged, [*range(k), None, *range(k + 2, y.rank)])


def rotary(g: Graph, x: Value) -> Value | None:
    """Rotary positions spelt out: halves swapped, one negated, both turned by constant angles."""
    axes = [k for k in fixed_axes(x) if x.shape[k][0] % 2 == 0]
    if not axes or g.opset < 10:
        return None
    k = g.choices.pick(axes)
    half = x.shape[k][0] // 2
    parts = []
    for start, stop in ((0, half), (half, INT_MAX)):
        inputs = [x, *map(g.integers, ([start], [stop], [k]))]
        parts.append(g.node("Slice", inputs, with_dim(x, k, fixed(half))))
    swapped = g.node("Concat", [g.node("Neg", [parts[1]], parts[1].shape), parts[0]], x.shape, axis=k)
    shape = [2 * half if j == k else 1 for j in range(k, x.rank)]
    cosine, sine = g.weight(shape), g.weight(shape)
    return g.node(
        "Add", [g.node("Mul", [x, cosine], x.shape), g.node("Mul", [swapped, sine], x.shape)], x.shape
    )


def channels_last(g: Graph, x: Value) -> Value | None:
    """A convolution between transposes."""
    if x.rank != 4 or not is_fixed(x.shape[3]):
        return None
    turned = g.node("Transpose", [x], tuple(x.shape[p] for p in (0, 3, 1, 2)), perm=[0, 3, 1, 2])
    y = conv(g, turned)
    return (
        None
        if y is None
        else g.node("Transpose", [y], tuple(y.shape[p] for p in (0, 2, 3, 1)), perm=[0, 2, 3, 1])
    )


def pixel_shuffle(g: Graph, x: Value) -> Value | None:
    """DepthToSpace spelt out, of pictures whose size the file tells."""
    if x.rank != 4 or not all(map(is_fixed, x.shape[1:])) or x.shape[1][0] % 4:
        return None
    n, c, h, w = x.shape
    inner, two = fixed(c[0] // 4), fixed(2)
    order, perm = g.choices.pick(
        (((n, inner, two, two, h, w), (0, 1, 4, 2, 5, 3)), ((n, two, two, inner, h, w), (0, 3, 4, 1, 5, 2)))
    )
    y = reshaped(g, x, order, [0, None, None, None, None, None])
    y = g.node("Transpose", [y], tuple(y.shape[p] for p in perm), perm=list(perm))
    shape = (n, inner, times(h, two), times(w, two))
    return reshaped(g, y, shape, [0, 1, None, None]) if small(shape) else None


def outer_product(g: Graph, x: Value) -> Value | None:
    """Every channel times every channel."""
    if not 1 <= x.rank <= 3 or not is_fixed(x.shape[-1]):
        return None
    c = x.shape[-1]
    column = g.axes("Unsqueeze", x, [x.rank], (*x.shape, ONE), 13)
    row = g.axes("Unsqueeze", x, [x.rank - 1], (*x.shape[:-1], ONE, c), 13)
    shape = (*x.shape, c)
    if not small(shape):
        return None
    y = g.node("Mul", [column, row], shape)
    if g.choices.below(2):
        return g.node("Tanh", [y], shape)
    return reshaped(g, y, (*x.shape[:-1], times(c, c)), [*range(x.rank - 1), None])


def several(g: Graph, x: Value) -> Value | None:
    """Three operands, of which one is a constant."""
    other = g.partner(lambda v: v.kind == "float" and v.shape == x.shape)
    if other is None or g.opset < 8:
        return None
    shape = [d[0] if is_fixed(d) and g.choices.below(2) else 1 for d in x.shape]
    return g.node(g.choices.pick(("Sum", "Max", "Mean", "Min")), [x, g.weight(shape), other], x.shape)


def pooled_by_weights(g: Graph, x: Value) -> Value | None:
    """Attention pooling: the mean over one dimension, weighted by scores."""
    if x.rank != 3 or not is_fixed(x.shape[-1]):
        return None
    n, t, c = x.shape
    scores = g.node("MatMul", [x, g.weight((c[0], 1), c[0])], (n, t, ONE))
    weights = (
        g.node("Softmax", [scores], scores.shape, axis=1)
        if g.opset >= 13
        else g.node("Sigmoid", [scores], scores.shape)
    )
    return reduced(g, "ReduceMean", g.node("Mul", [x, weights], x.shape), [1], bool(g.choices.below(2)))


def root_of_size(g: Graph, x: Value, axis: int) -> str:
    """sqrt(Shape(x)[axis]) as exporters compute it."""
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(g.dtype))
    size = g._emit("Cast", [size_of(g, x, axis)], to=dtype)
    return g._emit("Sqrt", [size])


def scaled_by_size(g: Graph, x: Value) -> Value | None:
    """A tensor divided by one of its sizes, or by their root."""
    if not x.rank:
        return None
    axis = g.choices.below(x.rank)
    if g.choices.below(2):
        return g.node("Div", [x, root_of_size(g, x, axis)], x.shape)
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(g.dtype))
    count = g._emit("Size", [x.name])
    g.read.add(x.name)
    return g.node("Div", [g.node("Mul", [x, x], x.shape), g._emit("Cast", [count], to=dtype)], x.shape)


def filled(g: Graph, x: Value) -> Value | None:
    """x and a tensor made in its shape: zeros added, or a vector expanded."""
    if g.opset < 9 or not x.rank:
        return None
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(g.dtype))
    if g.choices.below(2):
        value = helper.make_tensor("value", dtype, [1], [0.25])
        made = g._emit("ConstantOfShape", [shape_of(g, x).name], value=value)
    else:
        n = x.shape[-1][0] if is_fixed(x.shape[-1]) else 1
        made = g._emit("Expand", [g.weight((n,)), shape_of(g, x).name])
    return g.node("Add", [x, made], x.shape)


def positions(g: Graph, x: Value) -> Value | None:
    """A learned table, cut to the length of a dimension that the file leaves open."""
    if (
        x.rank < 2
        or g.opset < 10
        or is_fixed(x.shape[-2])
        or not is_fixed(x.shape[-1])
        or max(x.shape[-2]) > 100
    ):
        return None
    table = g.weight((128, x.shape[-1][0]))
    part = g._emit("Slice", [table, g.integers([0]), size_of(g, x, x.rank - 2), g.integers([0])])
    return g.node("Add", [x, part], x.shape)


def recurrent(g: Graph, x: Value) -> Value | None:
    if x.rank != 3 or not is_fixed(x.shape[-1]):
        return None
    t, n, i = x.shape
    op, gates = g.choices.pick((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    directions = g.choices.pick((1, 2))
    h = g.choices.pick((3, 4, 2))
    inputs: list[Value | str] = [
        x,
        g.weight((directions, gates * h, i[0]), i[0]),
        g.weight((directions, gates * h, h), h),
        g.weight((directions, 2 * gates * h)) if g.choices.below(2) else "",
    ]
    attributes: dict[str, Any] = {"hidden_size": h, "direction": "bidirectional" if directions == 2 else None}
    if op == "GRU":
        attributes["linear_before_reset"] = g.choices.below(2)
    y = g.node(
        op, inputs, (t, fixed(directions), n, fixed(h)), (fixed(directions), n, fixed(h)), **attributes
    )
    if directions == 1:
        return g.axes("Squeeze", y, [1], (t, n, fixed(h)), 13)
    y = g.node("Transpose", [y], (t, n, fixed(directions), fixed(h)), perm=[0, 2, 1, 3])
    return reshaped(g, y, (t, n, fixed(directions * h)), [0, 1, None])


def squeeze_excite(g: Graph, x: Value) -> Value | None:
    if x.rank != 4 or not is_fixed(x.shape[1]):
        return None
    c, h = x.shape[1][0], g.choices.pick(WIDTHS)
    y = g.node("GlobalAveragePool", [x], (*x.shape[:2], ONE, ONE))
    y = g.node("Conv", [y, g.weight((h, c, 1, 1), c)], (x.shape[0], fixed(h), ONE, ONE))
    y = g.node("Conv", [g.node("Relu", [y], y.shape), g.weight((c, h, 1, 1), h)], (*x.shape[:2], ONE, ONE))
    return g.node("Mul", [x, g.node("Sigmoid", [y], y.shape)], x.shape)


def without_rule(g: Graph, x: Value) -> Value | None:
    """Operators that depend on order or position, known and unknown."""
    if x.rank < 2:
        return None
    op = g.choices.pick(("CumSum", "Trilu", "TopK", "ArgMax", "ReverseSequence", "GatherElements", "Shrink"))
    axis = g.choices.below(x.rank)
    if op == "CumSum" and g.opset >= 11:
        return g.node("CumSum", [x, g.constant(np.array(axis, np.int64))], x.shape)
    if op == "Trilu" and g.opset >= 14:
        return g.node("Trilu", [x], x.shape)
    if op == "TopK" and g.opset >= 10:
        shape = with_dim(x, axis, fixed(1))
        y = g.node("TopK", [x, g.integers([1])], shape, shape, axis=axis)
        g.values.pop()
        return y
    if op == "ArgMax":
        index = g.node("ArgMax", [x], with_dim(x, axis, ONE), axis=axis, keepdims=1, kind="int")
        g.values.pop()
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(g.dtype))
        return g.node("Cast", [index], index.shape, to=dtype, kind="float")
    if op == "GatherElements" and g.opset >= 11 and all(map(is_fixed, x.shape)):
        indices = g.rng.integers(0, x.shape[axis][0], [d[0] for d in x.shape])
        return g.node("GatherElements", [x, g.integers(indices)], x.shape, axis=axis)
    if op == "Shrink" and g.opset >= 9:
        return g.node("Shrink", [x], x.shape, lambd=0.3)
    return None


def learned(g: Graph, x: Value) -> Value | None:
    """A constant tensor as a value of its own, such as learned queries."""
    shape = [g.choices.pick(WIDTHS) for _ in range(1 + g.choices.below(3))]
    value = Value(g.weight(shape), tuple(map(fixed, shape)))
    g.values.append(value)
    return value
