"""Small models from text, what they compute, and whether that survives widening."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from onnx_grow.axes.table import KINDS, AxisTable
from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.plan import WidenPlan
from onnx_grow.growth.provenance import history
from onnx_grow.growth.widening import inspect, widen
from onnx_grow.model import Model, load

Arrays = Mapping[str, np.ndarray]
Runtime = Callable[[Model, Arrays], list[np.ndarray]]

TOLERANCES = {
    TensorProto.DOUBLE: 1e-12,
    TensorProto.FLOAT: 1e-5,
    TensorProto.FLOAT16: 5e-3,
    TensorProto.BFLOAT16: 4e-2,
}


def build(text: str, opset: int = 17, ir: int = 8, **values: np.ndarray) -> Model:
    """The model of a graph in text. A declared value that nothing produces is a weight: given in `values`, or drawn at random.

    Where the text starts with the inputs, name, versions and imports are put before it.
    """
    if not text.lstrip().startswith("<"):
        imports = f'["" : {opset}, "com.microsoft" : 1]'
        text = f"<ir_version: {ir}, opset_import: {imports}> g {text}"
    proto = parser.parse_model(text)
    graph = proto.graph
    produced = {name for node in graph.node for name in node.output}
    produced |= {entry.name for entry in (*graph.input, *graph.initializer)}
    for info in graph.value_info:
        if info.name not in produced:
            dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            value = np.asarray(values[info.name]).astype(dtype) if info.name in values else _drawn(info)
            graph.initializer.append(numpy_helper.from_array(value, info.name))
    weights = {initializer.name for initializer in graph.initializer}
    kept = [info for info in graph.value_info if info.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return load(proto)


def between(body: str, weights: str = "", dtype: str = "double") -> str:
    """Text of a graph in which `body` computes b from a, both of N x 6 hidden channels between two matrices."""
    weights = f"{dtype}[4, 6] v, {dtype}[6, 3] w" + (f", {weights}" if weights else "")
    return (
        f"({dtype}[N, 4] x) => ({dtype}[N, 3] y) <{weights}> {{ a = MatMul(x, v) {body} y = MatMul(b, w) }}"
    )


def pictured(body: str, weights: str = "", channels: int = 6) -> str:
    """Text of a graph in which `body` computes b, of `channels` hidden channels, from a, 2 x 6 x 5 x 4, between two convolutions."""
    weights = f"float[6, 3, 1, 1] v, float[2, {channels}, 1, 1] w" + (f", {weights}" if weights else "")
    return f"(float[2, 3, 5, 4] x) => (float[N, 2, H, W] y) <{weights}> {{ a = Conv(x, v) {body} y = Conv(b, w) }}"


@dataclass(frozen=True)
class Case:
    """A graph in text, and the axes of it that grow, as `assert_grows` says it."""

    name: str
    text: str
    axes: str = "a"
    frozen: Mapping[str, str] = field(default_factory=dict)
    opset: int = 17
    n: int = 3
    tolerance: float | None = None
    values: Arrays = field(default_factory=dict)
    by: Runtime | None = None

    def __str__(self) -> str:
        return self.name

    def check(self) -> None:
        """Raise AssertionError where it is otherwise."""
        model = build(self.text, self.opset, **self.values)
        assert_grows(model, self.axes, self.frozen, n=self.n, tolerance=self.tolerance, by=self.by or run)


def feeds(model: Model, n: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for the inputs of a model; dimensions left open are `n`. Integers are small indices."""
    rng = np.random.default_rng(seed)
    weights = set(model.weights)
    out = {}
    for info in model.skeleton.graph.input:
        if info.name in weights:
            continue
        shape = [dim.dim_value or n for dim in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        integer = np.dtype(dtype).kind in "iub"
        drawn = rng.integers(0, 2, shape) if integer else rng.standard_normal(shape)
        out[info.name] = np.asarray(drawn).astype(dtype)
    return out


def run(model: Model, inputs: Arrays) -> list[np.ndarray]:
    """What ONNX Runtime computes, without optimising the graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    serialized = model.to_proto().SerializeToString()
    session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))  # type: ignore[no-any-return]


def reference(model: Model, inputs: Arrays) -> list[np.ndarray]:
    """What onnx's own evaluator computes, for what ONNX Runtime lacks."""
    return ReferenceEvaluator(model.to_proto()).run(None, dict(inputs))  # type: ignore[no-any-return]


def assert_same(
    model: Model, grown: Model, n: int = 3, tolerance: float | None = None, by: Runtime = run
) -> None:
    """Both compute the same, on two draws of inputs, to the precision of their outputs' type."""
    for seed in range(2):
        inputs = feeds(model, n, seed)
        outputs = zip(model.skeleton.graph.output, by(model, inputs), by(grown, inputs), strict=True)
        for info, old, new in outputs:
            limit = tolerance or TOLERANCES.get(info.type.tensor_type.elem_type, 0.0)
            assert old.shape == new.shape
            old, new = old.astype(np.float64), new.astype(np.float64)
            assert np.isfinite(old).all()
            assert np.ptp(old) > 0 or old.size == 1, f"output {info.name} is constant, which tests nothing"
            np.testing.assert_allclose(new, old, rtol=0, atol=limit * np.abs(old).max())


def growable(table: AxisTable) -> str:
    """The axes that can grow, in order; `~` before those that grow by whole factors."""
    return " ".join(("~" if row.constraint == "uniform" else "") + row.name for row in table.growable)


def assert_grows(
    model: Model,
    axes: str,
    frozen: Mapping[str, str] = {},
    *,
    n: int = 3,
    tolerance: float | None = None,
    by: Runtime = run,
) -> None:
    """Exactly `axes` (as `growable` writes them) can grow, each alone and all together, and nothing computed changes.

    Axes joined by + grow together only. Uniform ones grow to twice and thrice their size, others by half and to twice theirs.
    `frozen` are axes that cannot grow, each with a part of one of its reasons.
    """
    table = inspect(model)
    assert growable(table) == axes.replace("+", " "), str(table)
    for name, reason in frozen.items():
        assert not table[name].growable
        assert any(reason in given for given in table[name].reasons), table[name].reasons
    for group in axes.replace("~", "").split():
        rows = [table[name] for name in group.split("+")]
        for factor in (2, 3) if any(row.constraint == "uniform" for row in rows) else (1.5, 2):
            widths = {row.name: max(row.size + 1, round(row.size * factor)) for row in rows}
            grown = widen(model, widths=widths)
            assert {growth.name: growth.new_size for growth in planned(grown).axes} == widths
            assert_same(model, grown, n, tolerance, by)
        assert_same(model, widen(model, widths=widths, scheme="fresh"), n, tolerance, by)
    if not axes:
        with pytest.raises(NothingToGrowError):
            widen(model, kind=KINDS)
    elif len(table.growable) > 1:
        grown = widen(model, factor=2, kind=KINDS, seed=1)
        for name, reason in planned(grown).skipped:
            assert "factor of the same dimension" in reason, f"{name}: {reason}"
        assert_same(model, grown, n, tolerance, by)
        assert_same(model, widen(model, factor=2, kind=KINDS, seed=1, scheme="fresh"), n, tolerance, by)


def planned(grown: Model) -> WidenPlan:
    """The plan that a grown model tells of itself."""
    return WidenPlan.from_json(json.dumps(history(grown)[-1]["plan"]))


def operators(model: Model) -> list[str]:
    """The operators of a graph, in its order."""
    return [node.op_type for node in model.skeleton.graph.node]


def _drawn(info: ValueInfoProto) -> np.ndarray:
    """A weight at random; the same for the same name and shape. Names with "positive" in them are positive."""
    tensor = info.type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    rng = np.random.default_rng(crc32(f"{info.name}{shape}".encode()))
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    assert dtype.kind not in "iub", f"{info.name} needs a value"
    drawn = rng.uniform(0.5, 1.5, shape) if "positive" in info.name else rng.standard_normal(shape)
    return np.asarray(drawn).astype(dtype)
