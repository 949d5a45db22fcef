"""Models in PyTorch and back: names, training, ties, the way back, and what is refused."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graphs import build
from onnx import numpy_helper

import onnx_grow as og
from onnx_grow.model import Inline

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-grow[torch]'")
bridge = pytest.importorskip("onnx_grow.torch")
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent

NORMED = """(float[N, 3, 8, 8] x) => (float[N, 5] y)
    <float[4, 3, 3, 3] w, float[4] scale, float[4] bias, float[4] mean, float[4] variance, float[4, 5] v, float[5] c>
    {
        h = Conv <pads = [1, 1, 1, 1]> (x, w)
        n = BatchNormalization <momentum = 0.8> (h, scale, bias, mean, variance)
        r = Relu(n)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        y = Gemm(f, v, c)
    }"""
POSITIVE = {"variance": np.full(4, 2.0, np.float32)}


def arrays(model: og.Model) -> dict[str, np.ndarray]:
    return {name: weight.array() for name, weight in model.weights.items()}


def in_onnx_runtime(model: og.Model, **feed: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)


def test_the_state_has_the_names_and_layout_of_the_model():
    model = build(NORMED, **POSITIVE)
    network = bridge.load(model)
    state = network.state_dict()
    assert state.keys() == model.weights.keys()
    for name, array in arrays(model).items():
        np.testing.assert_array_equal(state[name].numpy(), array)
    assert {name for name, _ in network.named_parameters()} == {"w", "scale", "bias", "v", "c"}
    assert {name for name, _ in network.named_buffers()} == {"mean", "variance"}
    assert not network.training


@pytest.mark.parametrize(
    "names",
    [
        ("encoder.0.weight", "encoder.0.bias"),
        ("a", "a.b"),
        ("a.b", "a"),
        ("a..b", ".c"),
        ("forward", "train.weight"),
        ("/block/MatMul_w", "onnx::Add_12"),
        ("_program", "_parameters.x"),
    ],
)
def test_any_name_is_a_name_of_the_state(names):
    proto = build(
        "(float[N, 4] x) => (float[N, 4] y) <float[4, 4] w, float[4] b> { y = Gemm(x, w, b) }"
    ).to_proto()
    for old, new in zip("wb", names, strict=True):
        for tensor in proto.graph.initializer:
            tensor.name = new if tensor.name == old else tensor.name
        proto.graph.node[0].input[:] = [new if name == old else name for name in proto.graph.node[0].input]
    model = og.load(proto)
    network = bridge.load(model)
    assert set(network.state_dict()) == set(names) == {name for name, _ in network.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays(model).items()})
    again = bridge.save(copy.deepcopy(network))
    assert again.to_proto() == proto


def test_inputs_come_in_order_or_by_name():
    model = build(
        "(float[2, 3] a, float[2, 3] b) => (float[2, 3] d, float[2, 3] s) { d = Sub(a, b) s = Add(a, b) }"
    )
    network = bridge.load(model)
    a, b = torch.rand(2, 3), torch.rand(2, 3)
    for d, s in (network(a, b), network(a, b=b), network(b=b, a=a)):
        assert torch.equal(d, a - b)
        assert torch.equal(s, a + b)
    for wrong in (
        lambda: network(a),
        lambda: network(a, b, a),
        lambda: network(a, c=b),
        lambda: network(a, b, b=b),
    ):
        with pytest.raises(og.InvalidRequestError, match=r"takes 'a', 'b'"):
            wrong()


def test_batch_normalization_follows_the_mode():
    network = bridge.load(build(NORMED, **POSITIVE))
    x = torch.randn(16, 3, 8, 8)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    h = torch.nn.functional.conv2d(x, network.w, padding=1)
    network(x)
    assert torch.equal(network.mean, before["mean"])
    network.train()(x)
    expected = 0.8 * before["mean"] + 0.2 * h.mean((0, 2, 3))
    torch.testing.assert_close(network.mean, expected.detach())
    expected = 0.8 * before["variance"] + 0.2 * h.var((0, 2, 3))
    torch.testing.assert_close(network.variance, expected.detach())


def test_statistics_that_the_graph_computes_have_a_gradient():
    model = build(
        """(float[2, 3, 6] x) => (float[4, 6] y) <float[4, 6] w, float[6] s, float[6] b> {
        mean = ReduceMean <axes = [0], keepdims = 0> (w) c = Sub(w, mean) q = Mul(c, c)
        variance = ReduceMean <axes = [0], keepdims = 0> (q) h = ReduceMean <axes = [0, 1], keepdims = 0> (x)
        n = BatchNormalization <momentum = 1.0> (w, s, b, mean, variance) y = Mul(n, h) }"""
    )
    network = bridge.load(model)
    x = torch.randn(2, 3, 6)
    expected = network(x)
    found = network.train()(x)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    standardised = torch.nn.functional.batch_norm(network.w, None, None, network.s, network.b, True)
    (gradient,) = torch.autograd.grad((standardised * x.mean((0, 1))).square().sum(), network.w)
    torch.testing.assert_close(network.w.grad, gradient, rtol=1e-3, atol=1e-4)


def test_a_node_with_five_outputs_takes_the_statistics_of_the_batch():
    """The weights that it normalises and those of its statistics are two tensors in some exports: training parts them."""
    model = build(
        """(float[4, 6] x) => (float[4, 6] y) <float[1, 6, 5] w, float[6, 5] v, float[6] s, float[6] b> {
        mean = ReduceMean <axes = [1], keepdims = 0> (v) variance = ReduceMean <axes = [1], keepdims = 0> (v)
        n, m2, v2, m3, v3 = BatchNormalization <momentum = 1.0> (w, s, b, mean, variance)
        h = ReduceMean <axes = [0, 2], keepdims = 0> (n) y = Mul(x, h) }""",
        opset=13,
    )
    network = bridge.load(model)
    network.train()(torch.randn(4, 6)).sum().backward()
    assert network.w.grad is not None


def test_dropout_follows_the_mode():
    model = build(
        "(float[100, 100] x) => (float[100, 100] y) { r = Constant <value_float = 0.25> () y = Dropout(x, r) }"
    )
    network = bridge.load(model)
    x = torch.ones(100, 100)
    assert torch.equal(network(x), x)
    dropped = network.train()(x)
    assert 0.2 < (dropped == 0).float().mean() < 0.3
    torch.testing.assert_close(dropped[dropped != 0], torch.full_like(dropped[dropped != 0], 4 / 3))


def test_tied_weights_stay_tied():
    model = build(
        "(int64[N] i) => (float[N, 7] y) <float[7, 4] e> { h = Gather(e, i) t = Transpose(e) y = MatMul(h, t) }"
    )
    network = bridge.load(model)
    (parameter,) = network.parameters()
    network(torch.tensor([1, 2])).sum().backward()
    assert parameter.grad.abs().sum(1).min() > 0
    with torch.no_grad():
        parameter.mul_(2)
    np.testing.assert_allclose(arrays(bridge.save(network))["e"], 2 * arrays(model)["e"])


def test_trained_weights_are_written_back():
    model = build(NORMED, **POSITIVE)
    network = bridge.load(model).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    x, target = torch.randn(32, 3, 8, 8), torch.randint(0, 5, (32,))
    losses = []
    for _ in range(50):
        loss = torch.nn.functional.cross_entropy(network(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    tuned = bridge.save(network)
    assert not np.array_equal(arrays(tuned)["mean"], arrays(model)["mean"])
    expected = network.eval()(x).detach().numpy()
    np.testing.assert_allclose(in_onnx_runtime(tuned, x=x.numpy())[0], expected, rtol=1e-4, atol=1e-5)


def test_an_untouched_network_gives_the_same_model():
    model = og.load(ROOT / "models" / "digits_cnn.onnx")
    network = bridge.load(model)
    assert bridge.save(network).to_proto() == model.to_proto()
    assert bridge.save(network, model).to_proto() == model.to_proto()
    assert bridge.save(pickle.loads(pickle.dumps(network))).to_proto() == model.to_proto()


def test_constants_count_as_initializers_also_in_bodies():
    model = build(
        """(bool c, float[2, 3] x) => (float[2, 3] y) <float[3] w> {
            k = Constant <value = float[3] {1.0, 2.0, 3.0}> ()
            z = Mul(x, k)
            y = If (c) <
                then_branch = g1 () => (float[2, 3] t) { k2 = Constant <value_floats = [1.0, 2.0, 4.0]> () t = Add(z, k2) },
                else_branch = g2 () => (float[2, 3] e) { e = Sub(z, w) }
            >
        }"""
    )
    network = bridge.load(model)
    assert {name for name, _ in network.named_parameters()} == {"w", "k", "k2"}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    tuned = bridge.save(network)
    x = np.ones((2, 3), np.float32)
    for branch in (True, False):
        (expected,) = in_onnx_runtime(tuned, c=np.array(branch), x=x)
        np.testing.assert_allclose(network(torch.tensor(branch), torch.from_numpy(x)).detach(), expected)
    assert expected[0, 0] != x[0, 0]


def test_masks_tables_and_settings_do_not_learn():
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    model = build(
        """(float[4, 4] x, int64[4] p) => (float[4, 4] y)
            <float[4, 4] w, float[4, 4] mask, float[4] f, float bound, float[1] e, float[4, 1] v, float[1] b> {
            q = Cast <to = 1> (p)
            a = Mul(q, f)
            s = Sin(a)
            h = MatMul(x, w)
            m = Add(h, mask)
            n = Softmax(m)
            k0 = Add(n, s)
            k1 = Add(k0, e)
            o = MatMul(x, v)
            z = Add(o, b)
            k = Add(k1, z)
            y = Clip(k, , bound)
        }""",
        mask=mask,
    )
    network = bridge.load(model)
    assert {name for name, _ in network.named_parameters()} == {"w", "v", "b"}
    assert network.state_dict().keys() == {"w", "mask", "f", "bound", "e", "v", "b"}


def test_a_missing_operator_is_named_with_its_node():
    model = build("(float[N, 4] x) => (float[N, 4] y) { y = Det(x) }", opset=17).to_proto()
    model.graph.node[0].op_type, model.graph.node[0].domain, model.graph.node[0].name = "Foo", "my", "there"
    model.opset_import.add(domain="my", version=1)
    with pytest.raises(og.UnsupportedOperatorError, match=r"operator my\.Foo \(node 'there'\)"):
        bridge.load(og.load(model), verify=False)


def test_a_wrong_function_is_noticed(monkeypatch):
    from onnx_grow.torch import program

    wrong = {**program.TABLE, ("", "Relu"): torch.sigmoid}
    monkeypatch.setattr(program, "TABLE", wrong)
    with pytest.raises(og.VerificationFailedError, match="'y' by"):
        bridge.load(build(NORMED, **POSITIVE))


def test_tensors_of_another_shape_or_name_are_refused():
    model = build(NORMED, **POSITIVE)
    network = bridge.load(model)
    wide = og.widen(model)
    with pytest.raises(
        og.InvalidRequestError, match=r"is float32\[4, 3, 3, 3\] in the network, float32\[8, 3, 3, 3\]"
    ):
        bridge.save(network, wide)
    with pytest.raises(og.InvalidRequestError, match="convert it back first"):
        bridge.save(network.half())
    other = build("(float[N, 4] x) => (float[N, 4] y) <float[4, 4] w> { y = MatMul(x, w) }")
    with pytest.raises(og.InvalidRequestError, match="of another model: it has"):
        bridge.save(network, other)


def test_loaded_settings_take_effect():
    model = build(
        "(float[N, 6] x) => (float[N, 2, 3] y) <int64[3] s> { y = Reshape(x, s) }", s=np.array([-1, 2, 3])
    )
    network = bridge.load(model)
    network.load_state_dict({"s": torch.tensor([-1, 3, 2])})
    assert network(torch.rand(5, 6)).shape == (5, 3, 2)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_jax", "digits_keras"])
def test_export_keeps_the_batch_open(name):
    model = og.load(ROOT / "models" / f"{name}.onnx")
    network = bridge.load(model)
    (value,) = model.skeleton.graph.input
    shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim][1:]
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(network, (torch.rand(3, *shape),), dynamic_shapes={"inputs": ({0: batch},)})
    for size in (2, 17):
        x = torch.rand(size, *shape)
        torch.testing.assert_close(program.module()(x), network(x))


def test_export_keeps_sizes_symbolic():
    model = build(
        """(float[N, 4, 6] x) => (float[N, 24] y, float[N, 2, 12] z) {
            s = Shape(x)
            zero = Constant <value = int64 {0}> ()
            n = Gather(s, zero)
            axes = Constant <value_ints = [0]> ()
            u = Unsqueeze(n, axes)
            rest = Constant <value_ints = [-1]> ()
            t = Concat <axis = 0> (u, rest)
            y = Reshape(x, t)
            two = Constant <value_ints = [2]> ()
            q = Concat <axis = 0> (u, two, rest)
            z = Reshape(x, q)
        }"""
    )
    network = bridge.load(model)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(network, (torch.rand(3, 4, 6),), dynamic_shapes={"inputs": ({0: batch},)})
    y, z = program.module()(torch.rand(7, 4, 6))
    assert y.shape == (7, 24)
    assert z.shape == (7, 2, 12)


def test_half_precision_weights_keep_their_bits():
    w = np.array([[1.5, -2.25], [0.1, 7]], np.float16)
    model = build("(float16[N, 2] x) => (float16[N, 2] y) <float16[2, 2] w> { y = MatMul(x, w) }", w=w)
    tuned = bridge.save(bridge.load(model))
    assert isinstance(tuned.weights["w"], Inline)
    np.testing.assert_array_equal(numpy_helper.to_array(tuned.to_proto().graph.initializer[0]), w)


def test_without_torch_the_error_names_the_extra():
    code = "import sys; sys.modules['torch'] = None\nimport onnx_grow.torch"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip().splitlines()[-1] == (
        "ImportError: onnx_grow.torch needs PyTorch: pip install 'onnx-grow[torch]'"
    )


def test_nothing_else_imports_torch():
    code = "import sys, onnx_grow.cli, onnx_grow.growth, onnx_grow.verification; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
