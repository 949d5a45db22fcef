"""Is a growth exact as algebra? Both models in float64, where a correct one deviates by some 1e-15 and a wrong one does not.

ONNX Runtime has no float64 kernels for convolutions, pooling, Gelu and others, so that nodes run one by one: in ONNX Runtime
where it has the kernel, else by the reference implementation that ONNX itself ships. Where neither can, there is no proof,
and the reason says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnx_grow.model import Model, inlined
from onnx_grow.model.checks import captured
from onnx_grow.model.names import one_line, title
from onnx_grow.verification.comparison import NOTHING, Deviation, Difference, difference, is_exact, quotient
from onnx_grow.verification.noise import jittered
from onnx_grow.verification.pieces import Pieces
from onnx_grow.verification.promotion import doubled

__all__ = ["EXACT", "Proof", "Unprovable", "deviation", "each_in_float64", "prove", "run_in_float64"]

Array = np.ndarray[Any, Any]

EXACT = 1e-10
"""Relative deviation up to which two models are equal in float64: correct growths reach 1e-14, errors exceed it by orders of magnitude."""
PLAUSIBLE = 0.05
"""Relative deviation from ONNX Runtime's own result beyond which the evaluation in float64 is not to be believed."""
RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomUniform"})


class Unprovable(Exception):
    """A model cannot be evaluated in float64; the message names the node."""


@dataclass(frozen=True)
class Proof:
    """What float64 says: `error` is ||grown - original|| / ||original|| of the worst output, None where it could not be found.

    `ok` is false only for an error that neither float64 (`EXACT`) nor the rounding of the weights explains.
    """

    ok: bool
    error: float | None
    detail: str


def prove(
    original: Model,
    grown: Model,
    feed: Mapping[str, Array],
    *,
    expected: Mapping[str, Array] | None = None,
    tolerance: float = 3.0,
) -> Proof:
    """Compare two models in float64 on one set of inputs.

    `expected` is what ONNX Runtime computes of the original in its own type: an evaluation that is far from it counts for nothing. Where
    weights had to be rounded (a third of a float32 is none), the error may be up to `tolerance` times what moving all weights of the
    original by rounding does. Outputs that the grown model lacks are left out.
    """
    shared = {value.name for value in grown.skeleton.graph.output}
    try:
        reference = {n: array for n, array in run_in_float64(original, feed).items() if n in shared}
        if expected and (off := _implausible(reference, expected)):
            return Proof(True, None, f"proves nothing here: output {off!r} is not what ONNX Runtime computes")
        error = deviation(reference, run_in_float64(grown, feed))
        if error <= EXACT:
            return Proof(True, error, f"deviates by {error:.0e}" if error else "no deviation")
        noise = max(deviation(reference, run_in_float64(jittered(original, seed), feed)) for seed in (1, 2))
    except Unprovable as reason:
        return Proof(True, None, f"no proof: {reason}")
    told = f"deviates by {error:.0e}, {quotient(error, noise):.2g} times what rounding of the weights does ({noise:.0e})"
    return Proof(error <= tolerance * noise, error, f"{told}; {tolerance:g} times is allowed")


def run_in_float64(model: Model, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a model, computed in float64 whatever its type, by name. Raises Unprovable, naming the node."""
    wanted = {value.name for value in model.skeleton.graph.output}
    found = {name: _wide(array) for name, array in feed.items() if name in wanted}
    found |= {name: _wide(weight.array()) for name, weight in model.weights.items() if name in wanted}
    for _, results in each_in_float64(model, feed):
        found |= {name: value for name, value in results.items() if name in wanted}
    return found


def each_in_float64(
    model: Model, feed: Mapping[str, Array]
) -> Iterator[tuple[onnx.NodeProto, dict[str, Any]]]:
    """The nodes of a model in their order, each with its results in float64 by name. Raises Unprovable, naming the node."""
    wide = doubled(inlined(model))
    graph = wide.skeleton.graph
    values: dict[str, Any] = {name: _wide(array) for name, array in feed.items()}
    reads = Counter(name for node in graph.node for name in _inputs(node))
    bench, pieces = _Bench(wide.skeleton.opset_import), Pieces(wide)
    for node in graph.node:
        names = _inputs(node)
        found = pieces.run(node, values)
        if found is None:
            values |= {n: wide.weights[n].array() for n in names if n not in values and n in wide.weights}
            if missing := [name for name in names if name not in values]:
                raise Unprovable(f"{title(node)} reads {missing[0]!r}, which has no value")
            found = bench.run(node, {name: values[name] for name in names})
        results = {name: _wide(value) for name, value in zip(node.output, found, strict=False) if name}
        yield node, results
        values |= results
        reads.subtract(names)
        for name in names:
            if not reads[name]:
                values.pop(name, None)


class _Bench:
    """Runs single nodes."""

    def __init__(self, opsets: Sequence[onnx.OperatorSetIdProto]) -> None:
        self.opsets = opsets
        self.lacking: set[tuple[object, ...]] = set()

    def run(self, node: onnx.NodeProto, values: Mapping[str, Any]) -> Sequence[Any]:
        if node.op_type.removesuffix("Like") in RANDOM:
            raise Unprovable(f"{title(node)} draws random numbers")
        kernel = (node.domain, node.op_type, *(str(getattr(value, "dtype", "")) for value in values.values()))
        model = self._alone(node, values)
        if model and kernel not in self.lacking:
            try:
                return _by_runtime(model, values)
            except Exception:  # onnxruntime has no common error class; most often it has no such kernel
                self.lacking.add(kernel)
        try:
            with np.errstate(all="ignore"):
                return _by_reference(model, node, self.opsets, values)
        except Exception as reason:  # the reference implementations raise whatever numpy raises
            line = one_line(reason, 120)
            raise Unprovable(f"{title(node)} has no implementation in float64 ({line})") from reason

    def _alone(self, node: onnx.NodeProto, values: Mapping[str, Any]) -> onnx.ModelProto | None:
        """A model of this node only; None where a value is no tensor."""
        if not all(isinstance(value, np.ndarray) for value in values.values()):
            return None
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in values.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "node", inputs, outputs)
        return helper.make_model(graph, opset_imports=self.opsets, ir_version=8)


def _by_runtime(model: onnx.ModelProto, values: Mapping[str, Array]) -> Sequence[Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _placed(model.graph.node[0], session.run(None, dict(values)))


def _by_reference(
    model: onnx.ModelProto | None,
    node: onnx.NodeProto,
    opsets: Sequence[onnx.OperatorSetIdProto],
    values: Mapping[str, Any],
) -> Sequence[Any]:
    from onnx.reference import ReferenceEvaluator

    from onnx_grow.verification.kernels import LRN, Conv, DequantizeLinear

    versions = {opset.domain: opset.version for opset in opsets}
    if model is None:
        evaluator = ReferenceEvaluator(node, opsets=versions)
    else:
        older = [DequantizeLinear] if versions.get("", 0) < 19 else []
        evaluator = ReferenceEvaluator(model, new_ops=[Conv, LRN, *older])
    return _placed(node, evaluator.run(None, dict(values)))


def _placed(node: onnx.NodeProto, results: Iterable[Any]) -> Sequence[Any]:
    """The results at the positions of the node's outputs, of which some may have no name."""
    found = iter(results)
    return [next(found) if name else None for name in node.output]


def _inputs(node: onnx.NodeProto) -> list[str]:
    """What a node reads, its bodies included, each name once."""
    return list(filter(None, dict.fromkeys((*node.input, *captured(node)))))


def _wide(value: Any) -> Any:
    """Half and single precision as double; everything else as it is."""
    if isinstance(value, list):
        return [_wide(item) for item in value]
    array = np.asarray(value)
    return array if is_exact(array) or array.dtype.kind == "c" else array.astype(np.float64)


def deviation(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """||b - a|| / ||a|| of the worst output; the share of differing elements where one is not floating-point."""
    return max((_deviation(a[name], b.get(name)).l2 for name in a), default=0.0)


def _deviation(a: Any, b: Any) -> Deviation:
    if isinstance(a, list):
        pairs = zip(a, b, strict=True) if isinstance(b, list) and len(a) == len(b) else [(np.zeros(0), None)]
        return reduce(or_, (_deviation(x, y) for x, y in pairs), NOTHING)
    found: Difference = difference(a, b)
    if isinstance(found, Deviation):
        return found
    share = float(np.mean(found)) if found.size else 0.0
    return Deviation(share, share)


def _implausible(reference: Mapping[str, Any], expected: Mapping[str, Array]) -> str:
    """The first floating-point output that is far from what it should be, if any."""
    for name, array in expected.items():
        found = reference.get(name)
        comparable = isinstance(found, np.ndarray) and not is_exact(array)
        if comparable and not _deviation(_wide(array), found).l2 <= PLAUSIBLE:
            return name
    return ""
