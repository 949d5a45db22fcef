"""One operator alone: all dimensions of what it computes with are free to grow, and all that it computes is read.

    x * w + c -> operand, of any shape, all of whose dimensions are a weight's        result -> sum over all dimensions, for eight readers

Whatever `inspect` says can grow then must grow without a change in what the readers see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from graphs import Runtime, assert_same, run
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnx_grow.axes.table import KINDS
from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.widening import inspect, widen
from onnx_grow.model import Model, load

READERS = 8
_LETTERS = "abcdefgh"


@dataclass(frozen=True)
class Computed:
    """An operand that the graph computes, of this shape and type: between 0 and 1 if `positive`, and integers from 0 on `below`."""

    shape: tuple[int, ...]
    dtype: int = TensorProto.FLOAT
    positive: bool = False
    below: int = 0


Operand = Computed | np.ndarray | np.generic | None


@dataclass(frozen=True)
class Single:
    """An operator with its operands: computed ones, constants, or None where one is left out."""

    op: str
    operands: Sequence[Operand]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    domain: str = ""
    outputs: int = 1
    read: int | None = None
    by: Runtime = run
    tolerance: float = 2e-5

    def __str__(self) -> str:
        shapes = [
            "-"
            if o is None
            else f"{list(np.shape(o) if not isinstance(o, Computed) else o.shape)}{'' if isinstance(o, Computed) else ' constant'}"
            for o in self.operands
        ]
        listed = ", ".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}-{self.opset} <{listed}> ({', '.join(shapes)})"

    def model(self, rng: np.random.Generator) -> Model:
        """A model of the operator alone, whose weights are drawn from `rng`."""
        return _Builder(self, rng).model()


def check(single: Single, seed: int = 0) -> list[str]:
    """Grow each axis that can grow, and all at once by copies and by fresh channels. Raises AssertionError where the results differ.

    The axes that can, `~` before those that grow by whole factors.
    """
    model = single.model(np.random.default_rng(seed))
    table = inspect(model)
    rows = table.growable
    for row in rows:
        new = 2 * row.size if row.constraint == "uniform" else row.size + 1 + row.size // 2
        _compare(single, model, {row.name: new})
    for scheme in ("split", "fresh") if rows else ():
        _compare(single, model, {row.name: 2 * row.size for row in rows}, scheme)
    return [("~" if row.constraint == "uniform" else "") + row.name for row in rows]


def _compare(single: Single, model: Model, widths: Mapping[str, int], scheme: str = "split") -> None:
    try:
        grown = widen(model, widths=widths, kind=KINDS, scheme=scheme)
    except NothingToGrowError:
        return
    assert_same(model, grown, tolerance=single.tolerance, by=single.by)


class _Builder:
    def __init__(self, single: Single, rng: np.random.Generator) -> None:
        self.single, self.rng = single, rng
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.inputs: list[tuple[str, int]] = []
        self.declared: list[ValueInfoProto] = []  # results of operators whose shapes nobody infers

    def model(self) -> Model:
        names = [self._operand(i, operand) for i, operand in enumerate(self.single.operands)]
        outputs = [f"y{o}" for o in range(self.single.outputs)]
        self.nodes.append(
            helper.make_node(
                self.single.op, names, outputs, "tested", domain=self.single.domain, **self.single.attributes
            )
        )
        results = self.single.by(
            self._load(outputs), {name: np.full([1] * rank, 0.7, np.float32) for name, rank in self.inputs}
        )
        self.declared = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in zip(outputs, results, strict=True)
        ]
        count = self.single.read or len(outputs)
        read = [self._reader(name, value) for name, value in zip(outputs[:count], results, strict=False)]
        return self._load([self._node("Sum", read, "y") if count > 1 else read[0]])

    def _operand(self, i: int, operand: Operand) -> str:
        if operand is None:
            return ""
        if not isinstance(operand, Computed):
            self.weights[f"w{i}"] = np.asarray(operand)
            return f"w{i}"
        rank = len(operand.shape)
        self.inputs.append((f"x{i}", rank))
        self.weights[f"w{i}"] = self.rng.standard_normal(operand.shape).astype(np.float32)
        self.weights[f"c{i}"] = self.rng.standard_normal(operand.shape).astype(np.float32)
        self._node("Mul", [f"x{i}", f"w{i}"], f"m{i}")
        last = self._node("Add", [f"m{i}", f"c{i}"], f"a{i}")
        if operand.positive:
            last = self._node("Sigmoid", [last], f"s{i}")
        if operand.dtype == TensorProto.BOOL:
            self.weights[f"z{i}"] = np.float32(0)
            return self._node("Greater", [last, f"z{i}"], f"b{i}")
        if operand.dtype != TensorProto.FLOAT:
            self.weights[f"t{i}"] = np.float32(5)
            scaled = self._node("Mul", [last, f"t{i}"], f"u{i}")
            last = self._node("Cast", [scaled], f"k{i}", to=operand.dtype)
            if operand.below:
                self.weights[f"n{i}"] = np.asarray(
                    operand.below, helper.tensor_dtype_to_np_dtype(operand.dtype)
                )
                return self._node("Mod", [last, f"n{i}"], f"d{i}")
        return last

    def _reader(self, name: str, value: np.ndarray) -> str:
        """Sums over all dimensions of a result, each with weights of its own."""
        if value.dtype != np.float32:
            name = self._node("Cast", [name], f"{name}_float", to=TensorProto.FLOAT)
        weight = self.rng.uniform(0.5, 1.5, (*value.shape, READERS)).astype(np.float32)
        if self.single.opset < 12:
            self.weights[f"r_{name}"] = weight.reshape(-1, READERS)
            flat = self._node("Flatten", [name], f"{name}_flat", axis=0)
            return self._node("MatMul", [flat, f"r_{name}"], f"read_{name}")
        self.weights[f"r_{name}"] = weight
        letters = _LETTERS[: value.ndim]
        return self._node("Einsum", [name, f"r_{name}"], f"read_{name}", equation=f"{letters},{letters}z->z")

    def _node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def _load(self, outputs: Sequence[str]) -> Model:
        graph = helper.make_graph(
            self.nodes,
            "single",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1] * rank) for n, rank in self.inputs],
            [
                helper.make_value_info(name, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
                if name == "y" or name.startswith("read_")
                else helper.make_empty_tensor_value_info(name)
                for name in outputs
            ],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
            value_info=self.declared,
        )
        imports = [
            helper.make_opsetid("", self.single.opset),
            helper.make_opsetid("com.microsoft", 1),
            helper.make_opsetid("ai.onnx.ml", 3),
        ]
        proto: ModelProto = helper.make_model(graph, opset_imports=imports, ir_version=10)
        return load(proto)
