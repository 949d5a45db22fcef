"""Every operator in PyTorch against ONNX's own node tests, and against ONNX Runtime where the two disagree."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import build
from onnx import TensorProto, numpy_helper

import onnx_grow as og

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-grow[torch]'")
bridge = pytest.importorskip("onnx_grow.torch")
torch.set_num_threads(1)

from onnx_grow.torch.operators import TABLE  # noqa: E402
from onnx_grow.torch.values import array_of, tensor_of  # noqa: E402

RANDOM = {
    "Bernoulli",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
}
TOLERANCES = {"float16": 2e-2, "bfloat16": 2e-2}


def cases() -> dict[str, list[Any]]:
    """The node tests by operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        found: dict[str, list[Any]] = {}
        for case in load_model_tests(kind="node"):
            if case.data_sets is not None:
                operators = sorted(node.op_type for node in case.model.graph.node)
                found.setdefault(operators[0] if len(operators) == 1 else "several", []).append(case)
    return found


CASES = cases()


def flat(value: Any) -> Iterator[np.ndarray | None]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from flat(each)
    elif isinstance(value, TensorProto):
        yield numpy_helper.to_array(value)
    elif isinstance(value, torch.Tensor):
        yield array_of(value)
    else:
        yield None if value is None else np.asarray(value)


def tensors(value: Any) -> Any:
    if isinstance(value, list):
        return [tensors(each) for each in value]
    (array,) = flat(value)
    return None if array is None else tensor_of(array)


def differs(found: list[Any], expected: list[Any], case: Any) -> str:
    if len(found) != len(expected):
        return f"{len(found)} outputs instead of {len(expected)}"
    for ours, theirs in zip(found, expected, strict=True):
        if ours is None or ours.shape != theirs.shape or (ours.dtype.kind != theirs.dtype.kind != "V"):
            return f"{None if ours is None else (ours.shape, ours.dtype)} instead of {theirs.shape, theirs.dtype}"
        kind = np.complex128 if theirs.dtype.kind == "c" else np.float64
        relative = max(case.rtol, TOLERANCES.get(str(theirs.dtype), 1e-3))
        if not np.allclose(
            ours.astype(kind), theirs.astype(kind), relative, max(case.atol, 1e-6), equal_nan=True
        ):
            return f"{ours} instead of {theirs}"
    return ""


def in_onnx_runtime(model: onnx.ModelProto, inputs: list[Any]) -> list[Any] | None:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        fed = [value.name for value in session.get_inputs()]
        feed = dict(zip(fed, inputs, strict=True))
        return list(flat(session.run(None, feed)))
    except Exception:  # onnxruntime has no common error class; it lacks many types
        return None


def is_testable(case: Any) -> bool:
    """Not random, and of numbers."""
    graph = case.model.graph
    if any(node.op_type in RANDOM for node in graph.node) or "training_dropout" in case.name:
        return False
    types = (value.type for value in (*graph.input, *graph.output))
    return not any(each.tensor_type.elem_type == TensorProto.STRING for each in types)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operator", sorted(CASES))
def test_node_tests(operator: str) -> None:
    """Right, or refused with a reason: never something else. An operator that is in the table is right at least once."""
    right, refused, wrong = 0, [], []
    for case in filter(is_testable, CASES[operator]):
        try:
            network = bridge.load(og.load(case.model), verify=False)
            for inputs, outputs in case.data_sets:
                with torch.no_grad():
                    found = list(flat(network(*map(tensors, inputs))))
                told = differs(found, list(flat(outputs)), case)
                if told and (runtime := in_onnx_runtime(case.model, inputs)) is not None:
                    told = differs(found, runtime, case)
                if told:
                    wrong.append(f"{case.name}: {told}")
        except og.UnsupportedOperatorError as error:
            refused.append(str(error))
        else:
            right += 1
    assert not wrong, "\n".join(wrong)
    if refused and not right:
        assert operator not in {name for _, name in TABLE}, refused[0]
        pytest.skip(refused[0])


FUSED = {
    "Gelu": "y = com.microsoft.Gelu(x)",
    "BiasGelu": "y = com.microsoft.BiasGelu(x, b)",
    "FastGelu": "y = com.microsoft.FastGelu(x, b)",
    "QuickGelu": "y = com.microsoft.QuickGelu <alpha = 1.5> (x)",
    "FusedConv": 'y = com.microsoft.FusedConv <activation = "Relu"> (x, e, f)',
    "FusedMatMul": "y = com.microsoft.FusedMatMul <alpha = 0.5, transB = 1> (x, w)",
    "FusedGemm": 'f = Flatten <axis = 2> (x) y = com.microsoft.FusedGemm <activation = "LeakyRelu", activation_alpha = 0.3> (f, w, b)',
    "SkipLayerNormalization": "y, , , t = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (x, s, b, c, b)",
    "SkipSimplifiedLayerNormalization": "y = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.001> (x, s, b)",
    "SimplifiedLayerNormalization": "y = SimplifiedLayerNormalization <epsilon = 0.001> (x, b)",
    "EmbedLayerNormalization": "y, n = com.microsoft.EmbedLayerNormalization <epsilon = 0.001> (i, , v, p, , b, c)",
    "Attention": "y = com.microsoft.Attention <num_heads = 2, unidirectional = 1> (x, q, d)",
    "MultiHeadAttention": "y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, s, s, d)",
    "RotaryEmbedding": "y = com.microsoft.RotaryEmbedding <num_heads = 2> (x, k, ct, st)",
    "Inverse": "y = com.microsoft.Inverse(w)",
}


@pytest.mark.parametrize("operator", FUSED)
def test_fused_operators_are_those_of_onnx_runtime(operator: str) -> None:
    model = build(
        f"""(float[2, 3, 8] x, float[2, 3, 8] s) => (float[A, B, C] y)
        <float[8, 8] w, float[8] b, float[8] c, float[8, 24] q, float[24] d, float[5, 8] v, float[3, 8] p, int32[2, 3] i,
         int64[2, 3] k, float[5, 2] ct, float[5, 2] st, float[4, 3, 3] e, float[4] f> {{ {FUSED[operator]} }}""",
        i=np.array([[0, 4, 2], [1, 1, 3]], np.int32),
        k=np.array([[0, 1, 2], [2, 3, 4]]),
    ).to_proto()
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x, s = (np.random.default_rng(seed).standard_normal((2, 3, 8)).astype(np.float32) for seed in (1, 2))
    with torch.no_grad():
        (found,) = flat(bridge.load(og.load(model), verify=False)(torch.from_numpy(x), torch.from_numpy(s)))
    (expected,) = in_onnx_runtime(model, [x, s])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_table_names_functions_that_can_be_pickled() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(TABLE))
    assert again.keys() == TABLE.keys()
    for key, function in TABLE.items():
        assert getattr(again[key], "func", again[key]) is getattr(function, "func", function)
