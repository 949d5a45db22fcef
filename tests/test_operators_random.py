"""Single operators with odd attributes, drawn at random: axes counted from the end, sizes of 1, broadcasting, padding, groups, literals.

Whatever can grow must grow exactly. The draws are the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeVar

import numpy as np
import pytest
from onnx import TensorProto
from single_operators import Computed, Operand, Single, check

Rng = np.random.Generator
Shape = tuple[int, ...]
T = TypeVar("T")
DRAWS = 5


def pick(rng: Rng, *choices: T) -> T:
    return choices[int(rng.integers(len(choices)))]


def shape(rng: Rng, low: int = 1, high: int = 4) -> Shape:
    return tuple(int(n) for n in rng.choice([1, 2, 3, 4, 6], int(rng.integers(low, high + 1))))


def within(rng: Rng, full: Shape) -> Shape:
    """A shape that broadcasts to `full`."""
    sizes = [1 if rng.random() < 0.3 else n for n in full]
    return tuple(sizes[int(rng.integers(len(full) + 1)) :])


def axis(rng: Rng, rank: int) -> int:
    return int(rng.integers(-rank, rank))


def some_axes(rng: Rng, rank: int, least: int = 1) -> list[int]:
    chosen = rng.permutation(rank)[: int(rng.integers(least, rank + 1))]
    return [int(a) - (rank if rng.random() < 0.5 else 0) for a in chosen]


def floats(rng: Rng, *sizes: int) -> np.ndarray:
    return rng.uniform(0.5, 1.5, sizes).astype(np.float32)


def longs(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def operand(rng: Rng, sizes: Shape) -> Operand:
    """A weight, or something computed."""
    return floats(rng, *sizes) if rng.random() < 0.5 else Computed(sizes)


def binary(rng: Rng) -> Single:
    full = shape(rng)
    op = pick(rng, "Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu")
    operands = [Computed(full), operand(rng, within(rng, full))]
    return Single(op, operands if op == "PRelu" or rng.random() < 0.5 else operands[::-1])


def where(rng: Rng) -> Single:
    full = shape(rng)
    condition, *others = (Computed(within(rng, full)) for _ in range(3))
    return Single("Where", [Computed(condition.shape, TensorProto.BOOL), *others])


def reduction(rng: Rng) -> Single:
    op = pick(
        rng, *(f"Reduce{kind}" for kind in ("Sum", "Mean", "Max", "L1", "L2", "SumSquare", "LogSumExp"))
    )
    full, opset = shape(rng), pick(rng, 11, 13, 18)
    axes = some_axes(rng, len(full), least=0)
    attributes: dict[str, Any] = {"keepdims": int(rng.integers(2))}
    if opset == 18 or (op == "ReduceSum" and opset == 13):
        attributes["noop_with_empty_axes"] = int(rng.integers(2))
        listed = [longs(*axes)] if axes or rng.random() < 0.5 else []
        return Single(op, [Computed(full), *listed], attributes, opset)
    return Single(op, [Computed(full)], attributes | ({"axes": axes} if axes else {}), opset)


def over_axis(rng: Rng) -> Single:
    full = shape(rng)
    at = {"axis": axis(rng, len(full))}
    op = pick(rng, "Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "CumSum", "ArgMax", "TopK")
    match op:
        case "CumSum":
            reverse = {"reverse": int(rng.integers(2)), "exclusive": int(rng.integers(2))}
            return Single(op, [Computed(full), longs(at["axis"])[0]], reverse)
        case "TopK":
            count = longs(int(rng.integers(1, full[at["axis"]] + 1)))
            return Single(op, [Computed(full), count], at, outputs=2)
        case "ArgMax":
            return Single(op, [Computed(full)], at | {"keepdims": int(rng.integers(2))})
        case "LpNormalization":
            return Single(op, [Computed(full)], at | {"p": pick(rng, 1, 2)})
    return Single(op, [Computed(full)], at, pick(rng, 11, 13))


def reshape(rng: Rng) -> Single:
    full = shape(rng)
    target, rest = [], prod(full)
    while rest > 1:
        n = int(pick(rng, *(d for d in range(1, rest + 1) if rest % d == 0)))
        target.append(n)
        rest //= n
    target = target or [1]
    literal = [
        0 if k < len(full) and full[k] == n and rng.random() < 0.5 else n for k, n in enumerate(target)
    ]
    if rng.random() < 0.5:
        literal[int(rng.integers(len(literal)))] = -1
    return Single("Reshape", [Computed(full), longs(*literal)])


def moved(rng: Rng) -> Single:
    full = shape(rng)
    rank = len(full)
    match pick(rng, "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Gather"):
        case "Transpose":
            return Single("Transpose", [Computed(full)], {"perm": [int(p) for p in rng.permutation(rank)]})
        case "Flatten":
            return Single("Flatten", [Computed(full)], {"axis": int(rng.integers(-rank, rank + 1))})
        case "Squeeze":
            ones = [k - pick(rng, 0, rank) for k, n in enumerate(full) if n == 1 and rng.random() < 0.7]
            return Single("Squeeze", [Computed(full), longs(*ones)] if ones else [Computed(full)])
        case "Unsqueeze":
            places = [int(a) for a in rng.permutation(rank + 2)[:2]]
            return Single("Unsqueeze", [Computed(full), longs(places[0], places[1] - rank - 2)])
        case "Expand":
            wide = [pick(rng, 1, 3) if n == 1 else pick(rng, 1, n) for n in full]
            return Single("Expand", [Computed(full), longs(*[2] * int(rng.integers(2)), *wide)])
        case "Tile":
            return Single("Tile", [Computed(full), longs(*(int(n) for n in rng.integers(1, 4, rank)))])
        case _:
            at = axis(rng, rank)
            index = rng.integers(-full[at], full[at], shape(rng, 0, 2))
            return Single("Gather", [Computed(full), index], {"axis": at})


def joined(rng: Rng) -> Single:
    full = list(shape(rng))
    at = axis(rng, len(full))
    operands: list[Operand] = []
    for k in range(int(rng.integers(1, 4))):
        full[at] = int(rng.integers(1, 5))
        operands.append(Computed(tuple(full)) if k == 0 else operand(rng, tuple(full)))
    return Single("Concat", operands, {"axis": at})


def cut(rng: Rng) -> Single:
    full, parts = list(shape(rng)), int(rng.integers(1, 4))
    at = axis(rng, len(full))
    lengths = [int(n) for n in rng.integers(1, 4, parts)]
    full[at] = sum(lengths)
    if rng.random() < 0.5:
        return Single("Split", [Computed(tuple(full)), longs(*lengths)], {"axis": at}, outputs=parts)
    full[at] = parts * 2 - int(rng.integers(2)) if parts > 1 else 3
    return Single("Split", [Computed(tuple(full))], {"axis": at, "num_outputs": parts}, 18, outputs=parts)


def sliced(rng: Rng) -> Single:
    full = shape(rng)
    axes = some_axes(rng, len(full))
    starts, ends, steps = [], [], []
    for at in axes:
        n = full[at]
        low = int(rng.integers(n))
        high = int(rng.integers(low, n)) + 1
        step = int(rng.choice([1, 1, 1, 2, -1]))
        starts.append(-1 if step < 0 else pick(rng, low, low - n))
        ends.append(-n - 1 if step < 0 else pick(rng, high, high - n if high < n else 2**63 - 1))
        steps.append(step)
    return Single("Slice", [Computed(full), *(longs(*listed) for listed in (starts, ends, axes, steps))])


def padded(rng: Rng) -> Single:
    full = shape(rng)
    mode = pick(rng, "constant", "constant", "edge")
    pads = [int(n) for n in rng.integers(0, 3, 2 * len(full))]
    if mode == "constant" and full[0] > 1:
        pads[0] = -1
    value = [np.float32(0.7)] if mode == "constant" and rng.random() < 0.5 else []
    return Single("Pad", [Computed(full), longs(*pads), *value], {"mode": mode})


def matrices(rng: Rng) -> Single:
    k, m, n = (int(pick(rng, 1, 2, 3, 4)) for _ in range(3))
    if rng.random() < 0.5:
        a, b = int(rng.integers(2)), int(rng.integers(2))
        left, right = ((k, m) if a else (m, k)), ((n, k) if b else (k, n))
        bias = pick(rng, None, (), (1,), (n,), (1, n), (m, 1), (m, n))
        operands = [Computed(left), operand(rng, right), *([operand(rng, bias)] if bias is not None else [])]
        return Single("Gemm", operands, {"alpha": 0.7, "beta": 0.5, "transA": a, "transB": b})
    outer = shape(rng, 0, 2)
    left, right = (pick(rng, (*within(rng, outer), *pair), (k,)) for pair in ((m, k), (k, n)))
    return Single("MatMul", [Computed(left), operand(rng, right)])


def einsum(rng: Rng) -> Single:
    sizes = dict(zip("abcde", (int(n) for n in rng.choice([1, 2, 3], 5)), strict=True))
    terms = [
        "".join(rng.permutation(list(sizes))[: int(rng.integers(1, 4))])
        for _ in range(int(rng.integers(1, 4)))
    ]
    kept = "".join(letter for letter in sorted(set("".join(terms))) if rng.random() < 0.6)
    shapes = [tuple(sizes[letter] for letter in term) for term in terms]
    equation = ",".join(terms) + pick(rng, "", f"->{kept}", f"->{kept}")
    if rng.random() < 0.3:
        shapes = [(pick(rng, 1, 2), 3, *sizes) for sizes in shapes]
        equation = ",".join(f"...{term}" for term in terms) + f"->...{kept}"
    return Single(
        "Einsum", [Computed(shapes[0]), *(operand(rng, s) for s in shapes[1:])], {"equation": equation}
    )


def convolution(rng: Rng) -> Single:
    rank, groups = int(rng.integers(1, 3)), int(pick(rng, 1, 1, 2, 3))
    into, out = (int(pick(rng, 1, 2, 3)) for _ in range(2))
    kernel = [int(n) for n in rng.integers(1, 4, rank)]
    attributes: dict[str, Any] = {"group": groups} | pick(rng, {}, {"kernel_shape": kernel})
    attributes |= pick(rng, {}, {"pads": [1] * 2 * rank}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "VALID"})
    attributes |= pick(rng, {}, {"strides": [2] * rank})
    positions = [int(n) for n in rng.integers(3, 6, rank)]
    if rng.random() < 0.3:
        weight: Shape = (groups * into, out, *kernel)
        attributes.pop("pads", None)
        op = "ConvTranspose"
    else:
        weight, op = (groups * out, into, *kernel), "Conv"
    operands = [Computed((2, groups * into, *positions)), operand(rng, weight)]
    return Single(op, operands + ([operand(rng, (groups * out,))] if rng.random() < 0.5 else []), attributes)


def pooled(rng: Rng) -> Single:
    rank = int(rng.integers(1, 3))
    attributes: dict[str, Any] = {"kernel_shape": [int(n) for n in rng.integers(2, 4, rank)]}
    attributes |= pick(rng, {}, {"pads": [1] * 2 * rank}, {"auto_pad": "SAME_LOWER"})
    attributes |= pick(rng, {}, {"strides": [2] * rank})
    op = pick(rng, "AveragePool", "MaxPool")
    attributes |= pick(
        rng, {}, {"ceil_mode": 1}, {"count_include_pad": 1} if op == "AveragePool" else {"storage_order": 1}
    )
    outputs = int(rng.integers(1, 3)) if op == "MaxPool" else 1
    return Single(
        op, [Computed((2, 3, *(int(n) for n in rng.integers(3, 7, rank))))], attributes, outputs=outputs
    )


def resampled(rng: Rng) -> Single:
    how = {
        "mode": pick(rng, "nearest", "linear"),
        "coordinate_transformation_mode": pick(rng, "half_pixel", "asymmetric"),
    }
    axes = pick(rng, [0, 1, 2, 3], [2, 3], [-1, -2])
    scales = [(1.0, 1.0, 2.0, 1.0)[a] for a in axes]
    sizes = [(2, 3, 8, 3)[a] for a in axes]
    data = Computed((2, 3, 4, 3))
    attributes = how | ({"axes": axes} if len(axes) < 4 else {})
    if rng.random() < 0.5:
        return Single("Resize", [data, None, np.float32(scales)], attributes, 18)
    return Single("Resize", [data, None, None, longs(*sizes)], attributes, 18)


def normalised(rng: Rng) -> Single:
    full = (2, int(pick(rng, 2, 4, 6)), *(int(n) for n in rng.integers(2, 4, int(rng.integers(1, 3)))))
    channels = full[1]
    match pick(rng, "batch", "instance", "group", "layer", "rms", "mean and variance"):
        case "batch":
            return Single("BatchNormalization", [Computed(full), *(floats(rng, channels) for _ in range(4))])
        case "instance":
            return Single(
                "InstanceNormalization", [Computed(full), *(operand(rng, (channels,)) for _ in range(2))]
            )
        case "group":
            parameters = [operand(rng, (channels,)) for _ in range(2)]
            return Single("GroupNormalization", [Computed(full), *parameters], {"num_groups": 2}, 21)
        case "layer":
            at = axis(rng, len(full))
            return Single("LayerNormalization", [Computed(full), floats(rng, *full[at:])], {"axis": at})
        case "rms":
            at = axis(rng, len(full))
            return Single("RMSNormalization", [Computed(full), operand(rng, full[at:])], {"axis": at}, 23)
    return Single("MeanVarianceNormalization", [Computed((2, channels, 3, 2))], {"axes": some_axes(rng, 4)})


def indexed(rng: Rng) -> Single:
    full = shape(rng, 1, 3)
    at = axis(rng, len(full))
    parts = list(full)
    if rng.random() < 0.5:
        parts[at] = int(rng.integers(1, full[at] + 1))
    match pick(rng, "GatherElements", "ScatterElements", "GatherND", "ScatterND"):
        case "GatherElements":
            return Single("GatherElements", [Computed(full), rng.integers(0, full[at], parts)], {"axis": at})
        case "ScatterElements":
            order = np.argsort(rng.random(parts), axis=at)
            return Single(
                "ScatterElements", [Computed(full), order, operand(rng, tuple(parts))], {"axis": at}
            )
        case "GatherND":
            batch = int(rng.integers(len(full)))
            depth = int(rng.integers(1, len(full) - batch + 1))
            places = (*full[:batch], 2)
            index = np.stack([rng.integers(0, full[batch + k], places) for k in range(depth)], -1)
            return Single("GatherND", [Computed(full), index], {"batch_dims": batch})
        case _:
            depth = int(rng.integers(1, len(full) + 1))
            flat = rng.permutation(prod(full[:depth]))[:2]
            index = np.stack(np.unravel_index(flat, full[:depth]), -1)
            return Single("ScatterND", [Computed(full), index, operand(rng, (len(flat), *full[depth:]))])


FAMILIES: Sequence[Callable[[Rng], Single]] = (
    *(binary, where, reduction, over_axis, reshape, moved, joined, cut, sliced, padded),
    *(matrices, einsum, convolution, pooled, resampled, normalised, indexed),
)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_whatever_can_grow_grows_exactly(family: Callable[[Rng], Single]) -> None:
    grown = 0
    for draw in range(DRAWS):
        rng = np.random.default_rng([draw, len(family.__name__)])
        grown += len(check(family(rng), draw))
    assert grown
