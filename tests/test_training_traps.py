"""What exporters and growth do to a file that would spoil its training, and what is done about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from graphs import build

import onnx_grow as og
from onnx_grow.cli import main as command
from onnx_grow.growth.inheritance import inheritances
from onnx_grow.growth.reinsertion import reinsert_normalization
from onnx_grow.training.exchange import notes
from onnx_grow.training.ties import untied

MODELS = Path(__file__).parent.parent / "models"
PIXELS = np.load(MODELS / "digits_keras.npz")["image"]


def outputs(model: og.Model, **feed: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)


# 1: BatchNormalization is folded away


def test_batch_normalization_comes_back_and_changes_nothing() -> None:
    model = og.load(MODELS / "digits_keras.onnx")
    normalized = reinsert_normalization(model, {"image": PIXELS})
    inserted = [node for node in normalized.skeleton.graph.node if node.op_type == "BatchNormalization"]
    assert len(inserted) == 5
    (before,), (after,) = outputs(model, image=PIXELS), outputs(normalized, image=PIXELS)
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < 4e-6


def test_its_statistics_are_those_of_the_data() -> None:
    """In training mode on the calibration data, too, the network computes what it computed."""
    torch = pytest.importorskip("torch")
    from onnx_grow.torch import load

    model = og.load(MODELS / "digits_keras.onnx")
    network = load(reinsert_normalization(model, {"image": PIXELS}), verify=False).train()
    with torch.no_grad():
        found = network(torch.from_numpy(PIXELS)).numpy()
    (expected,) = outputs(model, image=PIXELS)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-4


def test_where_nothing_was_folded_nothing_is_inserted() -> None:
    with pytest.raises(og.NothingToGrowError, match="no convolution has lost a BatchNormalization"):
        reinsert_normalization(og.load(MODELS / "digits_cnn.onnx"), MODELS / "digits_cnn.npz")


def test_an_export_with_normalization_keeps_the_growth(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    teacher = og.load(MODELS / "digits_keras.onnx")
    og.save(og.widen(teacher), tmp_path / "wide.onnx")
    result = CliRunner().invoke(
        command,
        [
            *("export", str(tmp_path / "wide.onnx"), "-o", str(tmp_path / "out")),
            *(
                "--teacher",
                str(MODELS / "digits_keras.onnx"),
                "--reinsert-bn",
                str(MODELS / "digits_keras.npz"),
            ),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "5 BatchNormalizations put back" in result.stdout
    exported = og.load(tmp_path / "out" / "model.onnx")
    heirs = inheritances(teacher, exported)
    assert {heir.source for heir in heirs.values()} == set(teacher.weights)
    assert not any("/normalization/" in name for name in heirs)
    assert sum("/normalization/" in name for name in exported.weights) == 20


# 2: exporters merge what is equal

SHARED = """(float[N, 4] x) => (float[N, 4] y) <float[4, 4] w, float[4, 4] v, float[4] b>
    {
        h = Gemm(x, w, b)
        r = Relu(h)
        y = Gemm(r, v, b)
    }"""
ALIAS = SHARED.replace("h = Gemm", "c = Identity(b)\n        h = Gemm").replace(
    "Gemm(r, v, b)", "Gemm(r, v, c)"
)
TWICE = SHARED.replace("Gemm(r, v, b)", "Gemm(r, w, b)").replace(", float[4, 4] v", "")
EMBEDDING = """(int64[N] i) => (float[N, 9] y) <float[9, 4] e>
    {
        h = Gather(e, i)
        t = Transpose <perm = [1, 0]> (e)
        y = MatMul(h, t)
    }"""


@pytest.mark.parametrize("text", [SHARED, ALIAS], ids=["shared", "through Identity"])
def test_two_biases_of_zeros_become_two(text: str) -> None:
    model = build(text, b=np.zeros(4, np.float32))
    apart, names = untied(model)
    assert len(names) == 1
    assert sum(np.array_equal(weight.array(), np.zeros(4)) for weight in apart.weights.values()) == 2
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_array_equal(outputs(apart, x=x)[0], outputs(model, x=x)[0])


def test_two_biases_are_trained_apart() -> None:
    torch = pytest.importorskip("torch")
    from onnx_grow.torch import load

    apart, (name,) = untied(build(SHARED, b=np.zeros(4, np.float32)))
    network = load(apart, verify=False)
    network(torch.ones(3, 4)).square().sum().backward()
    first, second = (dict(network.named_parameters())[each].grad for each in ("b", name))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (SHARED, {"b": np.arange(4, dtype=np.float32)}),
        (TWICE, {"b": np.zeros(4, np.float32)}),
        (EMBEDDING, {}),
        (EMBEDDING, {"e": np.zeros((9, 4), np.float32)}),
    ],
    ids=["learnt values", "one layer used twice", "embedding", "new embedding"],
)
def test_what_is_meant_to_be_shared_stays_shared(text: str, values: dict[str, np.ndarray]) -> None:
    model = build(text, **values)
    assert untied(model) == (model, ())


def test_running_statistics_are_never_shared() -> None:
    text = """(float[N, 4, 3] x) => (float[N, 4, 3] y) <float[4] s, float[4] o, float[4] m, float[4] v>
        {
            h = BatchNormalization(x, s, o, m, v)
            r = Relu(h)
            y = BatchNormalization(r, s, o, m, v)
        }"""
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    apart, names = untied(build(text, s=ones, o=zeros, m=zeros, v=ones))
    assert len(names) == 4
    first, second = apart.skeleton.graph.node[0], apart.skeleton.graph.node[2]
    assert not set(first.input[1:]) & set(second.input[1:])


def test_growth_keeps_the_ties_that_are_meant() -> None:
    model = og.load(MODELS / "digits_cnn.onnx")
    assert untied(og.widen(model))[1] == untied(model)[1] == ()


# 3: weights behind Slice and Concat, and BatchNormalization in training mode

BEHIND = """(float[N, 3] x) => (float[N, 2] y)
    <float[3, 16] wa, float[3, 4] wb, float[12, 2] v, int64[1] zero = {0}, int64[1] eight = {8}, int64[1] axis = {1}>
    {
        part = Slice(wa, zero, eight, axis)
        w = Concat <axis = 1> (part, wb)
        h = MatMul(x, w)
        r = Tanh(h)
        y = MatMul(r, v)
    }"""
TRAINING = """(float[N, 3, 6, 6] x) => (float[N, 5] y)
    <float[4, 3, 3, 3] w, float[4] s, float[4] o, float[4] m, float[4] v, float[4, 5] u>
    {
        h = Conv(x, w)
        n, mean, variance = BatchNormalization <training_mode = 1, momentum = 0.9> (h, s, o, m, v)
        r = Relu(n)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        y = MatMul(f, u)
    }"""


def test_weights_behind_slice_and_concat_are_trained() -> None:
    torch = pytest.importorskip("torch")
    from onnx_grow import training
    from onnx_grow.torch import load

    model = build(BEHIND)
    grown = og.widen(model)
    for each in (model, grown):
        network = load(each)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        network(x).square().sum().backward()
        optimizer.step()
        state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        for name in ("wa", "wb"):
            assert not np.array_equal(state[name], each.weights[name].array())
        (found,) = outputs(training.tuned(each, state), x=x.numpy())
        np.testing.assert_allclose(found, network(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_model_exported_in_training_mode_goes_the_whole_way() -> None:
    """BatchNormalization with three outputs: the statistics are new outputs, and the batch is what normalises."""
    pytest.importorskip("torch")
    from onnx_grow import training
    from onnx_grow.torch import load
    from onnx_grow.training.checks import check_learning, made_up_goal, trial_inputs

    model = build(TRAINING, v=np.ones(4, np.float32))
    grown = og.widen(model)
    assert og.verify(model, grown).ok
    network = load(grown, verify=False)
    report = check_learning(grown, network, made_up_goal(trial_inputs(grown)), model)
    assert [check.name for check in report.checks if not check.ok and "gradient" in check.name] == []
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    assert og.verify(grown, training.tuned(grown, tensors)).ok


# 4: what is lost in eval mode is said


def test_the_recipe_says_what_the_file_does_not_hold() -> None:
    said = " ".join(notes(og.load(MODELS / "digits_keras.onnx")))
    assert "no Dropout" in said
    assert "No BatchNormalization" in said
    text = "(float[N, 4] x) => (float[N, 4] y) <float[4, 4] w> { h = MatMul(x, w) y = Dropout(h) }"
    assert "Dropout" not in " ".join(notes(build(text)))
    assert "12 BatchNormalization" in " ".join(notes(og.load(MODELS / "digits_cnn.onnx")))
