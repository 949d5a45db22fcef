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
from single_operators import Single
from test_operators_single import EXPERTS, PACKED

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
    "MoE": "r = Reshape(s, rs) g = MatMul(r, wg) y = com.microsoft.MoE <k = 2, normalize_routing_weights = 1> (x, g, ma, mb, na, nb)",
    "MoE with a gate": """r = Reshape(s, rs) g = MatMul(r, wg) m2 = Concat <axis = 1> (ma, ma) b2 = Concat <axis = 1> (mb, mb)
        y = com.microsoft.MoE <k = 2, activation_type = "swiglu", swiglu_fusion = 1, activation_alpha = 1.7, activation_beta = 1.0,
        swiglu_limit = 0.5> (x, g, m2, b2, na, nb)""",
    "FusedGemm with Softplus": 'f = Flatten <axis = 2> (x) y = com.microsoft.FusedGemm <activation = "Softplus"> (f, w, b)',
    "MaxRoiPool": "y = MaxRoiPool <pooled_shape = [2, 3], spatial_scale = 0.5> (im, boxes)",
}


@pytest.mark.parametrize("operator", FUSED)
def test_fused_operators_are_those_of_onnx_runtime(operator: str) -> None:
    model = build(
        f"""(float[2, 3, 8] x, float[2, 3, 8] s) => (float[A, B, C] y)
        <float[8, 8] w, float[8] b, float[8] c, float[8, 24] q, float[24] d, float[5, 8] v, float[3, 8] p, int32[2, 3] i,
         int64[2, 3] k, float[5, 2] ct, float[5, 2] st, float[4, 3, 3] e, float[4] f, float[3, 6, 8] ma, float[3, 6] mb,
         float[3, 8, 6] na, float[3, 8] nb, float[8, 3] wg, int64[2] rs = {{6, 8}}, float[2, 3, 9, 7] im, float[3, 5] boxes>
        {{ {FUSED[operator]} }}""",
        boxes=np.array([[0, 2, 3, 9, 15], [1, 0, 0, 30, 7], [1, 5, 5, 5, 5]], np.float32),
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


def same_as_in_onnx_runtime(model: onnx.ModelProto, tolerance: float = 1e-4) -> None:
    rng = np.random.default_rng(0)
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input]
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    with torch.no_grad():
        found = list(flat(bridge.load(og.load(model), verify=False)(*map(torch.from_numpy, inputs))))
    expected = in_onnx_runtime(model, inputs)
    assert expected is not None
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, tolerance, tolerance * np.abs(theirs).max() / 10)


GROUPED = {
    "plain": ("", ""),
    "of a window": ("local_window_size = 2", ""),
    "capped": ("softcap = 0.5, scale = 2.0", ""),
    "smooth": ("smooth_softmax = 1", ""),
    "turned": ("do_rotary = 1", "cos, sin"),
    "turned in pairs": ("do_rotary = 1, rotary_interleaved = 1", "cos, sin"),
    "with positions": ("do_rotary = 1", "cos, sin, at"),
    "with a bias": ("", ", , , bias"),
    "with a sink": ("", ", , , , sink"),
}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", GROUPED)
def test_grouped_attention_is_that_of_onnx_runtime(kind: str, steps: int) -> None:
    """One step behind a past, whose length differs from sample to sample, or several without one."""
    settings, more = GROUPED[kind]
    past = 4 if steps == 1 else 0
    model = build(
        f"""(float[2, {steps}, 64] q, float[2, {steps}, 32] k, float[2, {steps}, 32] v, float[2, 2, {past}, 16] pk,
        float[2, 2, {past}, 16] pv) => (float[2, {steps}, 64] y, float[2, 2, {past + steps}, 16] nk, float[2, 2, {past + steps}, 16] nv)
        <int32[2] last, int32[1] total = {{{past + steps}}}, float[9, 8] cos, float[9, 8] sin, int64[2, {steps}] at,
         float[2, 4, {steps}, {past + steps}] bias, float[4] sink> {{
        y, nk, nv = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2{", " * bool(settings)}{settings}>
        (q, k, v, pk, pv, last, total{", " * bool(more)}{more}) }}""",
        last=np.array([past - 2, past] if past else [2, 2], np.int32),
        at=np.arange(2 * steps).reshape(2, steps),
    ).to_proto()
    same_as_in_onnx_runtime(model)


@pytest.mark.parametrize("single", [row[0] for row in PACKED if row[0].op != "MatMulBnb4"], ids=str)
def test_packed_weights_are_those_of_onnx_runtime(single: Single) -> None:
    model = single.model(np.random.default_rng(0)).to_proto()
    if any(each.data_type in (TensorProto.INT4, TensorProto.UINT4) for each in model.graph.initializer):
        pytest.skip("weights of four bits are not told from whole bytes")
    same_as_in_onnx_runtime(model)


EXACT = [row[0] for row in EXPERTS if row[0].attributes.get("expert_weight_bits") != 8]
"""Of eight bits ONNX Runtime rounds what it multiplies with to eight bits, too, and deviates by a hundredth."""


@pytest.mark.parametrize("single", EXACT, ids=str)
def test_experts_are_those_of_onnx_runtime(single: Single) -> None:
    model = single.model(np.random.default_rng(0)).to_proto()
    tested = next(node for node in model.graph.node if node.op_type == single.op)
    for name in tested.input[
        :1
    ]:  # read by something else, too: ONNX Runtime writes the result over it otherwise
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    same_as_in_onnx_runtime(model, 1e-3 if single.op == "QMoE" else 1e-4)


def test_the_gradient_of_a_region_reaches_the_image_and_the_box() -> None:
    align = TABLE["", "RoiAlign"]
    image = torch.rand(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    box = torch.tensor([[1.2, 0.7, 4.4, 5.1]], dtype=torch.float64, requires_grad=True)
    inside = {"output_height": 2, "output_width": 2, "sampling_ratio": 2, "opset": 16}
    assert torch.autograd.gradcheck(lambda x, b: align(x, b, torch.tensor([0]), **inside), (image, box))


def test_rounding_on_the_way_passes_the_gradient_where_nothing_is_cut_off() -> None:
    model = build(
        """(float[2, 4] x) => (float[2, 3] y) <float[4, 3] w, float s = {0.01}, int8 z = {3}> {
        q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) y = MatMul(x, d) }""",
        w=np.array([[0.1, 0.2, 9.0], [-0.1, 0, 0], [0.5, -9.0, 0.3], [0, 0, 1.2]], np.float32),
    )
    network = bridge.load(model)
    network(torch.ones(2, 4)).sum().backward()
    (weight,) = network.parameters()
    expected = torch.full((4, 3), 2.0)
    expected[0, 2] = expected[2, 1] = 0
    assert torch.equal(weight.grad, expected)


def test_one_number_is_gathered_from_a_vector() -> None:
    found = TABLE["", "Gather"](torch.tensor([3.0, 5.0]), torch.tensor(-1))
    assert found.shape == ()
    assert found == 5


def test_texts_are_given_as_arrays() -> None:
    model = build(
        """(float[2, 3] x) => (string[1, 2] label, float[2, 3] y) <float[3, 3] w, string[3] names> {
        y = MatMul(x, w) k = ArgMax <axis = 1, keepdims = 0> (y)
        label = ai.onnx.ml.ArrayFeatureExtractor(names, k) }""",
        names=np.array(["a", "b", "c"], object),
    )
    labels, _ = bridge.load(model)(torch.randn(2, 3))
    assert set(labels.reshape(-1)) <= {"a", "b", "c"}


def test_the_table_names_functions_that_can_be_pickled() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(TABLE))
    assert again.keys() == TABLE.keys()
    for key, function in TABLE.items():
        assert getattr(again[key], "func", again[key]) is getattr(function, "func", function)
