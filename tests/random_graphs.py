"""Random graphs, and whether widening keeps what they compute.

A graph grows from its inputs by blocks: one operator with its variations, or a handful that exporters write together (attention, a
shuffle, a norm spelt out). Every decision is a number below some bound, taken from `Choices`, and 0 is always the plainest choice; a
list of such numbers is therefore the whole graph, and a shorter or smaller list a simpler one. That is how failures shrink.

Dimensions are known at three settings of what the file leaves open, so that shapes need no symbols: a `Dim` is three sizes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_grow.axes.table import KINDS
from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth import AxisGrowth, WidenPlan, apply, history, inspect, widen
from onnx_grow.growth.plan import DEFAULT_KINDS
from onnx_grow.model import Model, load
from onnx_grow.shapes import infer as infer_shapes

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
    """A graph under construction. `choices` decides its structure; the numbers in its weights are drawn apart."""

    choices: Choices
    dtype: Any = np.float64
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[tuple[str, tuple[int | str, ...], int]] = field(default_factory=list)
    sizes: dict[str, Shape] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.opset = self.choices.pick((17, 21, 13, 11, 18, 9, 22, 20, 7, 12, 10, 8, 15, 16, 14, 19, 23))
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
                "Cast", array.astype(np.float16), to=helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
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
            else:
                out[name] = rng.normal(0, 1, shape).astype(self.dtype)
        return out

    def model(self, outputs: Sequence[Value]) -> onnx.ModelProto:
        """The finished model."""
        float_type = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        kinds = {"float": float_type, "int": TensorProto.INT64, "bool": TensorProto.BOOL}
        infos = [helper.make_tensor_value_info(name, dtype, shape) for name, shape, dtype in self.inputs]
        results = [
            helper.make_tensor_value_info(
                value.name, kinds[value.kind], [d[0] if is_fixed(d) else None for d in value.shape]
            )
            for value in outputs
        ]
        initializers = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        if self.old_ir:
            infos += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in initializers]
        graph = helper.make_graph(self.nodes, "random", infos, results, initializers)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MS, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=3 if self.old_ir else 10)


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


def branch(g: Graph, x: Value) -> Value | None:
    """An If whose branches read values and weights of the graph around it."""
    if g.opset < 11 or not small(x.shape):
        return None
    condition = g.constant(np.array(bool(g.choices.below(2))))
    weight = g.weight([x.shape[-1][0] if x.rank and is_fixed(x.shape[-1]) else 1])
    reads = [x.name, weight] if g.choices.below(2) else [x.name, x.name]
    graphs = []
    for op in ("Add", "Mul"):
        name = g.fresh("b")
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(g.dtype))
        info = helper.make_tensor_value_info(name, dtype, None)
        graphs.append(helper.make_graph([helper.make_node(op, reads, [name])], op, [], [info]))
    shape = x.shape or (ONE,) if reads[1] == weight else x.shape
    return g.node("If", [condition], shape, kind="float", then_branch=graphs[0], else_branch=graphs[1])


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
        return (
            g.node("TopK", [x, g.integers([1])], shape, axis=axis)
            if g.opset < 11 or g.choices.below(2)
            else None
        )
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


BLOCKS: tuple[Block, ...] = (
    unary, unary, unary, linear, linear, linear, linear, conv, conv, conv, conv, residual, residual, residual, with_constant,
    with_constant, with_another, with_another, unary_with_settings, masked, matmul_forms, matmul_forms, gemm, gemm, einsum,
    einsum, between, conv_transpose, standardised_conv, embedding, quantised_linear, batch_norm, batch_norm, instance_norm,
    group_norm, layer_norm, layer_norm, lp_or_mean_variance, reduction, reduction, softmax, pooling, resize, transpose, transpose,
    split_dim, split_dim, merge_dims, merge_dims, any_reshape, flatten, squeeze, unsqueeze, shuffle, concat, concat, split, split,
    slices, halved, gather, attention_operator, contributed, pad, tile, expand, space_depth, attention, attention, scaled_by_size,
    filled, positions, recurrent, squeeze_excite, branch, without_rule, learned, repeated_heads, rotary, channels_last,
    pixel_shuffle, outer_product, several, pooled_by_weights, two_at_once,
)  # fmt: skip
INPUTS: tuple[tuple[str | int, ...], ...] = (
    ("N", 4), ("N", "T", 6), ("N", 3, "H", "W"), ("N", 4, 8, 6), ("N", 6, "T"), ("T", "N", 4), ("N", "H", "W", 3), (1, 4, 6, 6),
    (4, 4), (1, "T", 8),
)  # fmt: skip


def _input(g: Graph) -> None:
    name = g.fresh("x")
    if g.choices.chance(15):
        declared: tuple[str | int, ...] = ("N", "T")
        dtype = TensorProto.INT64
    else:
        declared = g.choices.pick(INPUTS)
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(g.dtype))
    shape = tuple(OPEN[d] if isinstance(d, str) else fixed(d) for d in declared)
    g.inputs.append((name, declared, dtype))
    g.sizes[name] = shape
    g.values.append(Value(name, shape, "int" if dtype == TensorProto.INT64 else "float"))


def _stem(g: Graph, x: Value) -> Value:
    """A first layer, so that there are channels that are neither an input's nor an output's."""
    if x.kind == "int":
        return embedding(g, x) or x
    first = conv if x.rank in (3, 4) and is_fixed(x.shape[1]) and g.choices.below(2) else linear
    return first(g, x) or x


def _output(g: Graph, x: Value) -> Value:
    """A value nobody reads, as an output: mostly through a last layer, so that its channels stay inside."""
    form = g.choices.pick((0, 1, 2, 3, 0, 1, 2, 3, 4))
    if form == 0 and x.rank and is_fixed(x.shape[-1]):
        k = x.shape[-1][0]
        return g.node("MatMul", [x, g.weight((k, 2), k)], with_dim(x, x.rank - 1, fixed(2)))
    if form == 1 and x.rank in (3, 4) and is_fixed(x.shape[1]):
        c = x.shape[1][0]
        return g.node("Conv", [x, g.weight((2, c, *[1] * (x.rank - 2)), c)], with_dim(x, 1, fixed(2)))
    if form == 2 and x.rank:
        op = g.choices.pick(("ReduceMax", "ReduceMean", "ReduceSum", "ReduceL2"))
        return reduced(g, op, x, g.choices.some(range(x.rank)), False)
    if form == 3 and x.rank and all(map(is_fixed, x.shape[1:])):
        k = times(*x.shape[1:])[0]
        y = g.node("Flatten", [x], (x.shape[0], fixed(k)))
        return g.node("Gemm", [y, g.weight((k, 2), k), g.weight((2,))], (x.shape[0], fixed(2)))
    if form in (0, 1, 3) and x.rank:
        return reduced(g, "ReduceMax", x, list(range(x.rank)), False)
    return x


def random_graph(
    choices: Choices, dtype: Any = np.float64, blocks: int = 24
) -> tuple[Graph, onnx.ModelProto]:
    """A graph of at most so many blocks, and its model. The same choices give the same graph, whatever the type."""
    g = Graph(choices, dtype)
    for _ in range(1 + choices.chance(25)):
        _input(g)
    x = g.values[0]
    if choices.chance(80):
        x = _stem(g, x)
    for _ in range(1 + choices.below(blocks)):
        if choices.chance(25):
            x = choices.pick([v for v in reversed(g.values) if v.kind == "float"] or g.values)
        y = choices.pick(BLOCKS)(g, x) if x.kind == "float" else embedding(g, x)
        if y is not None:
            x = y
    unread = [v for v in g.values if v.name not in g.read and v.kind == "float" and v.name not in g.sizes]
    computed = {name for node in g.nodes for name in node.output}
    outputs = [_output(g, v) for v in unread if v.name in computed]
    if not outputs:
        outputs = [_output(g, g.node("Relu", [v], v.shape)) for v in g.values[:1] if v.kind == "float"]
    inside = [v for v in g.values if v.name in g.read and v.kind == "float" and v.name in computed]
    if inside and choices.chance(10):
        outputs.append(choices.pick(inside))
    return g, g.model(list({v.name: v for v in outputs}.values()))


# What widening must keep


class Wrong(AssertionError):
    """Widening broke a promise."""


class Inexact(Wrong):
    """Numbers differ by `ratio` times what rounding is thought to explain."""

    def __init__(self, message: str, ratio: float) -> None:
        super().__init__(message)
        self.ratio = ratio


@dataclass(frozen=True)
class Outcome:
    """What became of a graph: "grown", "nothing to grow", "unusable" (ONNX Runtime does not run the original), or "rounding":
    grown, and the same in double precision, but in single so sensitive that it proves nothing."""

    kind: str
    axes: int = 0
    dtype: str = ""


def session(proto: onnx.ModelProto, optimised: bool = False) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Request:
    """How a graph is widened.

    `share` is the percentage of growable axes that do grow, all of `kinds` when it is 100; with `more`, one axis alone grows by that
    many channels.
    """

    factor: float
    scheme: str
    kinds: tuple[str, ...]
    share: int
    more: int
    seed: int

    @classmethod
    def of(cls, choices: Choices) -> Request:
        return cls(
            choices.pick((2.0, 1.5, 3.0, 1.3)),
            choices.pick(("split", "split", "copy")),
            choices.pick((KINDS, DEFAULT_KINDS)),
            choices.pick((100, 100, 50, 20)),
            choices.pick((0, 0, 0, 0, 3)),
            choices.below(3),
        )

    def which(self, model: Model) -> dict[str, Any]:
        """The arguments of `widen` that say what grows."""
        rng = np.random.default_rng(self.seed)
        rows = inspect(model).growable
        if self.more and rows:
            row = rows[rng.integers(len(rows))]
            return {"widths": {row.name: row.size + self.more}}
        if self.share == 100:
            return {}
        return {
            "only": [row.name for row in rows if rng.integers(100) < self.share]
            or [row.name for row in rows[:1]]
        }

    def widen(self, model: Model, **which: Any) -> Model:
        return widen(model, factor=self.factor, scheme=self.scheme, kind=self.kinds, seed=self.seed, **which)


def usable(taken: Sequence[int]) -> tuple[Graph, onnx.ModelProto, Any] | None:
    """The graph of some choices in double precision where ONNX Runtime has the kernels, else in single; None if it has none."""
    for dtype in (np.float64, np.float32):
        choices = Choices.replayed(taken)
        Request.of(choices)
        graph, proto = random_graph(choices, dtype)
        try:
            onnx.checker.check_model(proto)
            return graph, proto, session(proto)
        except Exception:  # ONNX Runtime's errors are not worth telling apart: such a graph is of no use
            continue
    return None


def arrays(runner: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(array) for array in runner.run(None, feeds)]


def check(choices: Choices, repeat: bool = True) -> Outcome:
    """Draw a graph and a way to widen it, and do so. Raises Wrong where the result is not what it has to be."""
    request = Request.of(choices)
    random_graph(choices)
    found = usable(choices.taken)
    if found is None:
        return Outcome("unusable")
    graph, proto, runner = found
    model = load(proto)
    settings: list[Any] = [0, 1, 2, dict(infer_shapes(model).inputs)]
    expected = [_expected(graph, proto, runner, setting) for setting in settings]
    if expected[0] is None or expected[1] is None:
        return Outcome("unusable")
    before = model.to_proto().SerializeToString()
    which = request.which(model)
    try:
        grown = request.widen(model, **which)
    except NothingToGrowError:
        return Outcome("nothing to grow", dtype=np.dtype(graph.dtype).name)
    plan = WidenPlan.from_json(json.dumps(history(grown)[-1]["plan"]))
    result = grown.to_proto()
    _promises(model, grown, proto, result, plan.axes)
    try:
        _compare(graph, result, settings, expected, "")
        if repeat:
            _again(request, graph, grown, settings, expected)
    except Inexact as error:
        exact = False if graph.dtype == np.float64 else _exact_in_double(choices.taken, request, which)
        if exact is False or (exact is None and error.ratio > 30):
            raise
        return Outcome("rounding", len(plan.axes), "float32")
    if repeat:
        for what, same in (("run", request.widen(model, **which)), ("run of the plan", apply(model, plan))):
            if same.to_proto().SerializeToString() != result.SerializeToString():
                raise Wrong(f"a second {what} gives other bytes")
        if model.to_proto().SerializeToString() != before:
            raise Wrong("the original was changed")
    return Outcome("grown", len(plan.axes), np.dtype(graph.dtype).name)


def _exact_in_double(taken: Sequence[int], request: Request, which: dict[str, Any]) -> bool | None:
    """Whether the same growth of the same graph is exact in double precision, by onnx's own evaluator; None if it cannot tell."""
    from onnx.reference import ReferenceEvaluator

    choices = Choices.replayed(taken)
    Request.of(choices)
    graph, proto = random_graph(choices, np.float64)
    model = load(proto)
    feeds = graph.feeds(0)
    with np.errstate(all="ignore"):
        try:
            grown = request.widen(model, **which)
            wanted = ReferenceEvaluator(proto).run(None, feeds)
            others = (grown, _twice(request, grown))
            results = [ReferenceEvaluator(other.to_proto()).run(None, feeds) for other in others]
        except Exception:  # some operators exist in single precision only
            return None
        for found in results:
            for y, old in zip(found, wanted, strict=True):
                if y.shape != old.shape or not np.abs(y - old).max(initial=0) <= 1e-8 * max(
                    np.abs(old).max(initial=0), 1e-2
                ):
                    return False
    return True


def _twice(request: Request, grown: Model) -> Model:
    try:
        return request.widen(grown)
    except NothingToGrowError:
        return grown


def _again(
    request: Request, graph: Graph, grown: Model, settings: Sequence[Any], expected: Sequence[Any]
) -> None:
    twice = _twice(request, grown)
    if twice is not grown:
        _compare(graph, twice.to_proto(), settings, expected, "widened twice: ")


def _promises(
    model: Model, grown: Model, proto: onnx.ModelProto, result: onnx.ModelProto, axes: Sequence[AxisGrowth]
) -> None:
    """What holds of the file, whatever it computes."""
    try:
        onnx.checker.check_model(result)
    except onnx.checker.ValidationError as error:
        raise Wrong(f"onnx.checker: {error}") from error
    weights = set(model.weights)
    for before, after in ((proto.graph.input, result.graph.input), (proto.graph.output, result.graph.output)):
        if [i for i in before if i.name not in weights] != [i for i in after if i.name not in weights]:
            raise Wrong("inputs or outputs changed")
    if not axes or _elements(result) <= _elements(proto):
        raise Wrong(f"no weight grew for {axes}")
    inputs = infer_shapes(model).inputs
    old, new = (infer_shapes(either, inputs).shape for either in (model, grown))
    written = {node.name or node.output[0]: node.output[0] for node in proto.graph.node}
    for growth in axes:
        # An axis has the name of the node that writes it, or of a weight; the second of a node is called "...:2".
        name = written.get(growth.name.split(":")[0])
        if name is not None and prod(new[name]) <= prod(old[name]):
            raise Wrong(
                f"{growth.name} was to grow to {growth.new_size}, and '{name}' still is {list(new[name])}"
            )


def _elements(proto: onnx.ModelProto) -> int:
    """How many numbers a file holds."""
    constants = [node.attribute[0].t for node in proto.graph.node if node.op_type == "Constant"]
    return sum(prod(tensor.dims) for tensor in (*proto.graph.initializer, *constants))


def _expected(
    graph: Graph, proto: onnx.ModelProto, runner: Any, setting: Any
) -> tuple[list[np.ndarray], list[float]] | None:
    """The outputs at one setting, and by how much rounding may change each; None if they are of no use."""
    feeds = graph.feeds(setting)
    eps = np.finfo(graph.dtype).eps
    moved = {name: a * (1 + 2 * eps) if a.dtype == graph.dtype else a for name, a in feeds.items()}
    try:
        plain = arrays(runner, feeds)
        others = [
            arrays(runner, {k: v.astype(feeds[k].dtype) for k, v in moved.items()}),
            arrays(session(proto, True), feeds),
        ]
    except Exception:  # sizes that this graph does not take
        return None
    # Pictures are large at the sizes of inference, and sums over all of one in single precision accordingly bad.
    floor = 1e-9 if graph.dtype == np.float64 else 1e-5 if isinstance(setting, int) else 1e-3
    tolerances = []
    for k, y in enumerate(plain):
        size = float(np.abs(y).max(initial=0))
        if not np.isfinite(size) or size > 1e6:
            return None
        noise = max(float(np.abs(other[k] - y).max(initial=0)) for other in others)
        tolerances.append(floor * max(size, 1e-2) + 20 * noise)
    return plain, tolerances


def _compare(
    graph: Graph, result: onnx.ModelProto, settings: Sequence[Any], expected: Sequence[Any], what: str
) -> None:
    try:
        runner = session(result)
    except Exception as error:
        raise Wrong(f"{what}ONNX Runtime does not load it: {error}") from error
    for setting, known in zip(settings, expected, strict=True):
        if known is None:
            continue
        try:
            found = arrays(runner, graph.feeds(setting))
        except Exception as error:
            raise Wrong(f"{what}it does not run at {setting}: {error}") from error
        for output, y, wanted, tolerance in zip(result.graph.output, found, *known, strict=True):
            if y.shape != wanted.shape:
                raise Wrong(
                    f"{what}output '{output.name}' has shape {y.shape}, not {wanted.shape}, at {setting}"
                )
            error = float(np.abs(y - wanted).max(initial=0))
            if not error <= tolerance:
                off = f"output '{output.name}' is off by {error:.3g} (allowed {tolerance:.3g})"
                raise Inexact(f"{what}{off} at {setting}, {graph.dtype.__name__}", error / tolerance)


def shrunk(
    taken: Sequence[int], fails: Callable[[Sequence[int]], bool], tries: int = 600, seconds: float = 120.0
) -> list[int]:
    """A shorter and smaller list of choices that still fails."""
    best = list(taken)
    left, end = tries, time.monotonic() + seconds

    def better(candidate: list[int]) -> bool:
        nonlocal best, left
        if left <= 0 or time.monotonic() > end or candidate == best:
            return False
        left -= 1
        if fails(candidate):
            best = candidate
            return True
        return False

    improved = True
    while improved and left > 0 and time.monotonic() < end:
        improved = False
        length = len(best) // 2
        while length:
            at = 0
            while at < len(best):
                if better(best[:at] + best[at + length :]):
                    improved = True
                else:
                    at += length
            length //= 2
        for k in range(len(best)):
            if k < len(best) and best[k]:
                improved |= better([*best[:k], 0, *best[k + 1 :]]) or better(
                    [*best[:k], best[k] // 2, *best[k + 1 :]]
                )
    return best
