"""Identity layers: they fit where they should, compute nothing new, and are connected."""

from __future__ import annotations

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np
import pytest
from deepening import assert_connected, assert_identical
from graphs import build, feeds, operators, run
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.deepening import deepen, plan_deepen
from onnx_grow.growth.initial import IdentityKernel, Zeros
from onnx_grow.model import Model

IMAGE = "(float[N, 3, 8, 7] x) => (float[N, C, H, W] y)"
SITES = {
    "conv": (f"{IMAGE} <float[4, 3, 3, 3] w> {{ a = Conv(x, w) y = Relu(a) }}", "Conv Relu Conv Relu"),
    "conv with bias and clip": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float[4] b, float low = {{0}}, float high = {{6}}> "
        "{ a = Conv(x, w, b) y = Clip(a, low, high) }",
        "Conv Clip Conv Clip",
    ),
    "clip around zero": (
        f"{IMAGE} <float[4, 3, 1, 1] w, float low = {{-1}}, float high = {{1}}> {{ a = Conv(x, w) y = Clip(a, low, high) }}",
        "Conv Clip Conv Clip",
    ),
    "clip above zero": (
        f"{IMAGE} <float[4, 3, 1, 1] w, float low = {{0.5}}> {{ a = Conv(x, w) y = Clip(a, low) }}",
        "Conv Clip Conv Clip",
    ),
    "a weight stored flat": (
        "(float[N, 3] x) => (float[N, C] y) <float[12] v, int64[2] shape = {3, 4}> "
        "{ w = Reshape(v, shape) a = MatMul(x, w) y = Relu(a) }",
        "Reshape MatMul Relu MatMul Relu",
    ),
    "abs": (f"{IMAGE} <float[4, 3, 3, 3] w> {{ a = Conv(x, w) y = Abs(a) }}", "Conv Abs Conv Abs"),
    "max and min": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float low = {{0}}, float[1, 4, 1, 1] positive> "
        "{ a = Conv(x, w) b = Max(a, low) y = Min(positive, b) }",
        "Conv Max Min Conv Max Min",
    ),
    "batch normalization": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float[4] s, float[4] b, float[4] m, float[4] positive> "
        "{ a = Conv(x, w) c = BatchNormalization <epsilon = 0.001> (a, s, b, m, positive) y = Relu(c) }",
        "Conv BatchNormalization Relu Conv BatchNormalization Relu",
    ),
    "bias added": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float[1, 4, 1, 1] b> {{ a = Conv(x, w) c = Add(b, a) y = Relu(c) }}",
        "Conv Add Relu Conv Add Relu",
    ),
    "scale and shift": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float[1, 4, 1, 1] s, float[4, 1, 1] b> "
        "{ a = Conv(x, w) c = Mul(a, s) d = Add(c, b) y = Relu(d) }",
        "Conv Mul Add Relu Conv Add Relu",
    ),
    "bias computed in the input's type": (
        f"{IMAGE} <float[4, 3, 3, 3] w, int64 zero = {{1}}, int64[1] four = {{4}}> "
        "{ z = CastLike(zero, x) b = Expand(z, four) a = Conv(x, w, b) y = Relu(a) }",
        "CastLike Expand Conv Relu Conv Relu",
    ),
    "depthwise": (
        f"{IMAGE} <float[3, 1, 3, 3] w> {{ a = Conv <group = 3> (x, w) y = Relu(a) }}",
        "Conv Relu Conv Relu",
    ),
    "grouped, several channels each": (
        f"{IMAGE} <float[6, 1, 3, 3] w> {{ a = Conv <group = 3> (x, w) y = Relu(a) }}",
        "Conv Relu Conv Relu",
    ),
    "even kernel, strides, dilations": (
        f"{IMAGE} <float[4, 3, 2, 3] w> {{ a = Conv <strides = [2, 1], dilations = [2, 1], pads = [1, 0, 1, 2]> (x, w) y = Relu(a) }}",
        "Conv Relu Conv Relu",
    ),
    "convolutions side by side": (
        f"{IMAGE} <float[4, 3, 1, 1] v, float[4, 3, 3, 3] w, float[4] s, float[4] b, float[4] m, float[4] positive, float nothing = {{0}}> "
        "{ a = Conv(x, v) c = BatchNormalization(a, s, b, m, positive) d = Conv <pads = [1, 1, 1, 1]> (x, w) e = Add(c, d) "
        "f = Add(e, nothing) y = Relu(f) }",
        "Conv BatchNormalization Conv Add Add Relu Conv Relu",
    ),
    "one dimension": (
        "(float[N, 3, 9] x) => (float[N, 4, T] y) <float[4, 3, 5] w> { a = Conv(x, w) y = Relu(a) }",
        "Conv Relu Conv Relu",
    ),
    "three dimensions": (
        "(float[N, 2, 4, 5, 6] x) => (float[N, 3, D, H, W] y) <float[3, 2, 3, 1, 3] w> { a = Conv(x, w) y = Relu(a) }",
        "Conv Relu Conv Relu",
    ),
    "transposed convolution": (
        f"{IMAGE} <float[3, 4, 4, 4] w> {{ a = ConvTranspose <strides = [2, 2]> (x, w) y = Relu(a) }}",
        "ConvTranspose Relu Conv Relu",
    ),
    "pool between": (
        f"{IMAGE} <float[4, 3, 3, 3] w> {{ a = Conv(x, w) b = MaxPool <kernel_shape = [2, 2]> (a) y = Relu(b) }}",
        "Conv MaxPool Relu Conv Relu",
    ),
    "dropout and identity between": (
        f"{IMAGE} <float[4, 3, 3, 3] w> {{ a = Conv(x, w) b = Dropout(a) c = Identity(b) y = Relu(c) }}",
        "Conv Dropout Identity Relu Conv Relu",
    ),
    "channels last": (
        "(float[N, 8, 7, 3] x) => (float[N, H, W, C] y) <float[4, 3, 3, 3] w, float[4] b> { t = Transpose <perm = [0, 3, 1, 2]> (x) "
        "a = Conv(t, w) c = Transpose <perm = [0, 2, 3, 1]> (a) d = Add(c, b) y = Relu(d) }",
        "Transpose Conv Transpose Add Relu Transpose Conv Transpose Add Relu",
    ),
    "a convolution of rows": (
        "(float[N, 3, 9] x) => (float[N, 4, T] y) <float[4, 3, 1, 3] w, int64[1] axis = {2}> "
        "{ t = Unsqueeze(x, axis) a = Conv(t, w) b = Squeeze(a, axis) y = Relu(b) }",
        "Unsqueeze Conv Squeeze Relu Unsqueeze Conv Squeeze Relu",
    ),
    "a norm that cannot be the identity": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float[4] s, float[4] b> "
        "{ a = Conv(x, w) c = InstanceNormalization(a, s, b) y = Relu(c) }",
        "Conv InstanceNormalization Relu Conv Relu",
    ),
    "gemm": (
        "(float[N, 5] x) => (float[N, 6] y) <float[6, 5] w, float[6] b> { a = Gemm <transB = 1, alpha = 0.5> (x, w, b) y = Relu(a) }",
        "Gemm Relu Gemm Relu",
    ),
    "gemm and batch normalization": (
        "(float[N, 5] x) => (float[N, 6] y) <float[5, 6] w, float[6] s, float[6] b, float[6] m, float[6] positive> "
        "{ a = Gemm(x, w) c = BatchNormalization(a, s, b, m, positive) y = Relu(c) }",
        "Gemm BatchNormalization Relu Gemm BatchNormalization Relu",
    ),
    "matmul and bias": (
        "(float[N, 5] x) => (float[N, 6] y) <float[5, 6] w, float[6] b> { a = MatMul(x, w) c = Add(a, b) y = Relu(c) }",
        "MatMul Add Relu MatMul Add Relu",
    ),
    "matmul over a sequence": (
        "(float[N, 7, 5] x) => (float[N, 7, 6] y) <float[5, 6] w> { a = MatMul(x, w) y = Relu(a) }",
        "MatMul Relu MatMul Relu",
    ),
    "matmul with the weight on the left": (
        "(float[N, 5, 7] x) => (float[N, 6, 7] y) <float[6, 5] w, float[6, 1] b> { a = MatMul(w, x) c = Add(a, b) y = Relu(c) }",
        "MatMul Add Relu MatMul Add Relu",
    ),
    "double precision": (
        "(double[N, 5] x) => (double[N, 6] y) <double[5, 6] w, double[6] b> { a = Gemm(x, w, b) y = Relu(a) }",
        "Gemm Relu Gemm Relu",
    ),
    "half precision": (
        "(float16[N, 3, 8, 7] x) => (float16[N, C, H, W] y) <float16[4, 3, 3, 3] w> { a = Conv(x, w) y = Relu(a) }",
        "Conv Relu Conv Relu",
    ),
    "a weight computed in the graph": (
        "(float[N, 5] x) => (float[N, 6] y) <float[6, 5] w> { t = Transpose(w) a = MatMul(x, t) y = Relu(a) }",
        "Transpose MatMul Relu MatMul Relu",
    ),
    "an activation read twice": (
        f"{IMAGE} <float[4, 3, 3, 3] w> {{ a = Conv(x, w) b = Relu(a) c = Sigmoid(b) y = Mul(b, c) }}",
        "Conv Relu Conv Relu Sigmoid Mul",
    ),
}


@pytest.mark.parametrize("name", SITES)
def test_a_site_gets_its_own_pattern_once_more(name: str) -> None:
    text, expected = SITES[name]
    model = build(
        text, **({"positive": np.float32([[[[0.7]], [[0.9]], [[0.4]], [[2]]]])} if "max" in name else {})
    )
    deep = deepen(model, scheme="identity")
    assert operators(deep) == expected.split()
    assert_identical(model, deep)
    assert_connected(model, deep)


def new_weight(model: Model) -> np.ndarray:
    deep = deepen(model, scheme="identity")
    return next(deep.weights[name].array() for name in deep.weights if name.endswith("/weight"))


@pytest.mark.parametrize(
    ("site", "shape"),
    [
        ("<float[4, 3, 3, 3] w> { a = Conv(x, w)", (4, 4, 3, 3)),
        ("<float[4, 3, 1, 5] w> { a = Conv(x, w)", (4, 4, 1, 5)),
        ("<float[4, 3, 2, 4] w> { a = Conv(x, w)", (4, 4, 3, 3)),
        ("<float[6, 1, 3, 3] w> { a = Conv <group = 3> (x, w)", (6, 2, 3, 3)),
        ("<float[4, 3, 8, 7] w> { a = Conv(x, w)", (4, 4, 1, 1)),
        ("<float[4, 3, 7, 5] w> { a = Conv(x, w)", (4, 4, 3, 5)),
    ],
)
def test_kernel_size_is_the_sites_own_made_odd_without_taps_that_see_only_padding(
    site: str, shape: tuple[int, ...]
) -> None:
    assert new_weight(build(f"{IMAGE} {site} y = Relu(a) }}")).shape == shape


def test_bfloat16() -> None:
    model = build(
        "(bfloat16[2, 5] x) => (bfloat16[2, 6] y) <bfloat16[5, 6] w, bfloat16[6] b> { a = MatMul(x, w) c = Add(a, b) y = Relu(c) }"
    )
    deep = deepen(model)
    assert {deep.weights[name].dtype for name in deep.weights} == {TensorProto.BFLOAT16}
    inputs = feeds(model)
    old, new = (ReferenceEvaluator(entry.to_proto()).run(None, inputs)[0] for entry in (model, deep))
    assert (old == new).all()
    assert (old > 0).any()


def test_opset_7_and_ir_3() -> None:
    """Clip has attributes there, Squeeze too, and initializers are inputs."""
    model = build(
        f"{IMAGE} <float[4, 3, 3, 3] w> {{ a = Conv(x, w) b = Unsqueeze <axes = [0]> (a) c = Squeeze <axes = [0]> (b) "
        "y = Clip <min = 0.0, max = 6.0> (c) }",
        opset=7,
        ir=3,
    )
    deep = deepen(model)
    assert [value.name for value in deep.skeleton.graph.input] == [
        value.name for value in model.skeleton.graph.input
    ]
    inputs = feeds(model)
    np.testing.assert_array_equal(run(deep, inputs)[0], run(model, inputs)[0])


REFUSED = {
    "Sigmoid": "y = Sigmoid(a)",
    "Tanh": "y = Tanh(a)",
    "LeakyRelu": "y = LeakyRelu(a)",
    "Elu": "y = Elu(a)",
    "Softplus": "y = Softplus(a)",
    "HardSwish": "y = HardSwish(a)",
    "Gelu": "y = Gelu(a)",
    "PRelu": "y = PRelu(a, slope)",
    "Sigmoid+Mul": "b = Sigmoid(a) y = Mul(a, b)",
    "Div+Erf+Add+Mul": "b = Div(a, root) c = Erf(b) d = Add(c, one) y = Mul(a, d)",
    "Abs+Add+Div": "b = Abs(a) c = Add(b, one) y = Div(a, c)",
    "Add+Clip+Mul": "b = Add(a, one) c = Clip(b, zero, one) y = Mul(a, c)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_activations_are_refused_with_the_reason_and_the_alternative(name: str) -> None:
    model = build(
        "(float[N, 5] x) => (float[N, 6] y) <float[5, 6] w, float[6] slope, float root = {1.4142135}, float one = {1}, float zero = {0}> "
        f"{{ a = MatMul(x, w) {REFUSED[name]} }}",
        opset=20,
    )
    with pytest.raises(NothingToGrowError) as raised:
        deepen(model, scheme="identity")
    assert f"it feeds {name} " in raised.value.message
    assert "residual-new" in raised.value.message
    assert "a:" in raised.value.message  # the node has no name, so its output stands for it


def test_batch_normalization_in_training_mode_is_refused() -> None:
    model = build(
        "(float[N, 5] x) => (float[N, 6] y) <float[5, 6] w, float[6] s, float[6] b, float[6] m, float[6] positive> "
        "{ a = MatMul(x, w) c, d, e = BatchNormalization <training_mode = 1> (a, s, b, m, positive) y = Relu(c) }"
    )
    with pytest.raises(NothingToGrowError, match="stored statistics"):
        deepen(model, scheme="identity")


def test_batch_normalization_of_another_axis_is_refused() -> None:
    model = build(
        "(float[N, 4, 5] x) => (float[N, 4, 6] y) <float[5, 6] w, float[4] s, float[4] b, float[4] m, float[4] positive> "
        "{ a = MatMul(x, w) c = BatchNormalization(a, s, b, m, positive) y = Relu(c) }"
    )
    with pytest.raises(NothingToGrowError, match="does not normalise its channels"):
        deepen(model, scheme="identity")


def test_a_layer_without_activation_is_deepened_only_by_name() -> None:
    model = build("(float[N, 5] x) => (float[N, 6] y) <float[5, 6] w> { [last] y = MatMul(x, w) }")
    with pytest.raises(NothingToGrowError):
        deepen(model)
    deep = deepen(model, after="last")
    assert operators(deep) == ["MatMul", "MatMul"]
    assert_identical(model, deep)


def test_the_description_counts_the_parameters() -> None:
    for text, _ in SITES.values():
        model = build(text)
        plan = plan_deepen(model, scheme="identity")
        deep = deepen(model, scheme="identity")
        assert sum(layer.parameters for layer in plan.layers) == deep.parameters - model.parameters


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("channels", "kernel", "groups"), [(5, (), 1), (6, (3, 5), 1), (6, (3,), 3), (4, (1, 1, 3), 4)]
)
def test_kernels_stream_what_they_hold(
    dtype: str, channels: int, kernel: tuple[int, ...], groups: int
) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weight = IdentityKernel(code, channels, kernel, groups)
    values = weight.array()
    assert b"".join(weight.chunks()) == values.tobytes()
    assert weight.nbytes == values.nbytes
    assert values.astype(float).sum() == channels
    zeros = Zeros(code, weight.shape)
    assert b"".join(zeros.chunks()) == zeros.array().tobytes() == bytes(zeros.nbytes)


def test_large_kernels_stream_in_pieces() -> None:
    weight = IdentityKernel(TensorProto.FLOAT, 512, (3, 3))
    pieces = [bytes(piece) for piece in weight.chunks()]
    assert len(pieces) > 1
    assert b"".join(pieces) == weight.array().tobytes()
