"""Gradients and moments of grown weights: what the chain rule says, and what PyTorch computes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from graphs import build

import onnx_grow as og
from onnx_grow.growth.inheritance import inheritances

torch = pytest.importorskip("torch")

from onnx_grow.torch import load  # noqa: E402
from onnx_grow.training.optimizers import grow_optimizer_state  # noqa: E402

MODELS = Path(__file__).parent.parent / "models"

ATTENTION = """(float[N, 6, 8] x) => (float[N, 6, 5] y)
    <float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[8, 8] wo, float[8, 12] w1, float[12] b1, float[12, 5] w2,
     int64[4] split = {0, 6, 2, 4}, int64[3] join = {0, 6, 8}>
    {
        q = MatMul(x, wq)
        k = MatMul(x, wk)
        v = MatMul(x, wv)
        qs = Reshape(q, split)
        ks = Reshape(k, split)
        vs = Reshape(v, split)
        qt = Transpose <perm = [0, 2, 1, 3]> (qs)
        kt = Transpose <perm = [0, 2, 3, 1]> (ks)
        vt = Transpose <perm = [0, 2, 1, 3]> (vs)
        s = MatMul(qt, kt)
        p = Softmax <axis = -1> (s)
        o = MatMul(p, vt)
        ot = Transpose <perm = [0, 2, 1, 3]> (o)
        oj = Reshape(ot, join)
        z = MatMul(oj, wo)
        h = MatMul(z, w1)
        b = Add(h, b1)
        a = Relu(b)
        y = MatMul(a, w2)
    }"""


FOLDED = """(float[N, 3] x) => (float[N, 2] y)
    <float[3, 16] wa, float[3, 4] wb, float[12, 2] v, int64[1] zero = {0}, int64[1] eight = {8}, int64[1] axis = {1}>
    {
        part = Slice(wa, zero, eight, axis)
        w = Concat <axis = 1> (part, wb)
        h = MatMul(x, w)
        r = Tanh(h)
        y = MatMul(r, v)
    }"""
NORMED = """(float[N, 5] x) => (float[N, 2] y) <float[5, 6] w, float[6] s, float[6] o, float[6, 2] v>
    {
        h = MatMul(x, w)
        n = LayerNormalization(h, s, o)
        y = MatMul(n, v)
    }"""


def gradients(model: og.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    network = load(model, verify=False).double()
    out = network(torch.from_numpy(x.astype(np.float64)))
    goal = torch.from_numpy(np.random.default_rng(1).standard_normal(tuple(out.shape)))
    (out * goal).sum().backward()
    return {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}


CNN = MODELS / "digits_cnn.onnx"
PIXELS = np.load(MODELS / "digits_cnn.npz")["image"]
TOKENS = np.random.default_rng(2).standard_normal((3, 6, 8))


@pytest.mark.parametrize(
    ("kinds", "factor"), [(("hidden", "residual"), 2), (("hidden",), 1.5), (("heads", "head_dim"), 2)]
)
def test_moments_are_the_gradients_of_equal_copies(kinds: tuple[str, ...], factor: float) -> None:
    """Where copies share equally, a grown network's gradients are those of the original by the formula, exactly."""
    is_attention = "heads" in kinds
    model, x = (build(ATTENTION), TOKENS) if is_attention else (og.load(CNN), PIXELS[:8])
    grown = og.widen(model, factor=factor, kind=kinds, scheme="copy")
    before, after = gradients(model, x), gradients(grown, x)
    heirs = inheritances(model, grown)
    assert any(heir.stages for heir in heirs.values())
    for name, gradient in after.items():
        expected = heirs[name].moment(before[heirs[name].source])
        assert expected.shape == gradient.shape
        scale = np.abs(gradient).max()
        assert np.allclose(expected, gradient, rtol=1e-4, atol=1e-6 * scale), name


@pytest.mark.parametrize(
    ("text", "options"),
    [(FOLDED, {"scheme": "copy"}), (NORMED, {"scheme": "copy"}), (NORMED, {"scheme": "pad", "factor": 1.5})],
    ids=["weights behind Slice and Concat", "a norm", "a padded norm"],
)
def test_moments_pass_through_what_makes_weights(text: str, options: dict[str, object]) -> None:
    model = build(text)
    grown = og.widen(model, **options)  # type: ignore[arg-type]
    x = np.random.default_rng(3).standard_normal(
        (4, model.skeleton.graph.input[0].type.tensor_type.shape.dim[1].dim_value)
    )
    before, after = gradients(model, x), gradients(grown, x)
    for name, heir in inheritances(model, grown).items():
        if name in after and not (name == "w" and options["scheme"] == "pad"):  # that is so in the mean only
            old = before[heir.source]
            inherited = heir.taken(np.ones(old.shape, bool))
            moment = heir.moment(old)
            np.testing.assert_allclose(moment[inherited], after[name][inherited], rtol=1e-4, atol=1e-6)


def test_random_shares_keep_the_sum_of_the_parts() -> None:
    """With unequal shares the copies of a scale share its gradient, and what reads them has the whole of it."""
    model = og.load(CNN)
    grown = og.widen(model, scheme="split")
    before, after = gradients(model, PIXELS[:8]), gradients(grown, PIXELS[:8])
    heirs = inheritances(model, grown)
    scale = heirs["stem.0.1.weight"]
    g = scale.stages[0].maps[0]
    assert np.allclose(np.bincount(g, after["stem.0.1.weight"]), before["stem.0.1.weight"], rtol=1e-4)
    whole = heirs["classifier.weight"]
    assert np.allclose(
        after["classifier.weight"], whole.moment(before["classifier.weight"]), rtol=1e-4, atol=1e-7
    )


def test_fresh_channels_inherit_nothing_and_leave_the_rest() -> None:
    model = og.load(CNN)
    grown = og.widen(model, scheme="fresh")
    before, after = gradients(model, PIXELS[:8]), gradients(grown, PIXELS[:8])
    for name, heir in inheritances(model, grown).items():
        if name not in after:
            continue
        moment, new = heir.moment(before[heir.source]), heir.is_new(before[heir.source].shape)
        assert not moment[new].any()
        assert np.allclose(after[name][~new], moment[~new], rtol=1e-4, atol=1e-6 * np.abs(moment).max()), name


def test_growths_in_a_row_compose_and_new_layers_inherit_nothing() -> None:
    model = og.load(CNN)
    grown = og.widen(
        og.deepen(og.widen(model, scheme="copy"), every=2), factor=1.5, kind="hidden", scheme="copy"
    )
    heirs = inheritances(model, grown)
    assert {heir.source for heir in heirs.values()} == set(model.weights)
    assert all("deeper" not in name for name in heirs)
    before, after = gradients(model, PIXELS[:8]), gradients(grown, PIXELS[:8])
    moment = heirs["stem.0.0.weight"].moment(before["stem.0.0.weight"])
    assert np.allclose(moment, after["stem.0.0.weight"], rtol=1e-3, atol=1e-6 * np.abs(moment).max())


def test_a_model_that_grew_from_another_is_refused() -> None:
    model = og.load(CNN)
    other = og.load(MODELS / "digits_jax.onnx")
    with pytest.raises(og.InvalidRequestError, match="is not of this original"):
        inheritances(model, og.widen(other))
    with pytest.raises(og.InvalidRequestError, match="does not record how it came of this original"):
        inheritances(model, other)


def trained(network: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    x = torch.from_numpy(PIXELS[:32])
    for _ in range(steps):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_an_optimizer_goes_on_with_the_memory_of_the_teachers(kind: str) -> None:
    """Equal copies: one more step of the grown network leads where one more step of the teacher leads, in function."""
    model = og.load(CNN)
    network = load(model, verify=False)
    make = {
        "adam": lambda parameters: torch.optim.Adam(parameters, 1e-3),
        "sgd": lambda parameters: torch.optim.SGD(parameters, 1e-3, momentum=0.9),
    }[kind]
    optimizer = make(network.parameters())
    trained(network, optimizer, 3)
    state = optimizer.state_dict()
    wide = og.widen(model, scheme="copy")
    student = load(wide, verify=False)
    new = make(student.parameters())
    grow_optimizer_state(state, student, new, original=model, grown=wide)
    heirs = inheritances(model, wide)
    old = dict(network.named_parameters())
    for name, parameter in student.named_parameters():
        for key, power in (("exp_avg", 1), ("exp_avg_sq", 2), ("momentum_buffer", 1)):
            if key in new.state[parameter]:
                source = optimizer.state[old[heirs[name].source]][key].numpy()
                expected = heirs[name].moment(source, power)
                assert np.allclose(new.state[parameter][key].numpy(), expected)
    if kind == "adam":
        assert {int(entry["step"]) for entry in new.state.values()} == {3}
    trained(student, new, 1)  # the state is one that the optimizer takes


def test_the_first_step_with_a_grown_state_is_the_teachers_next_step() -> None:
    """At the teacher's own learning rate, without a warm-up: an empty state spoils the network, a grown one does not."""
    data = np.load(MODELS / "digits_test.npz")
    x, y = torch.from_numpy(data["images"][..., None]), torch.from_numpy(data["labels"])

    def loss(network: torch.nn.Module, chosen: slice) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(network(x[chosen]), y[chosen])

    def step(network: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int) -> float:
        optimizer.zero_grad()
        loss(network, slice(50 * (number % 6), 50 * (number % 6) + 50)).backward()
        optimizer.step()
        with torch.no_grad():
            return float(loss(network, slice(300, 450)))

    network = load(og.load(MODELS / "digits_jax.onnx"), verify=False)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for number in range(30):
        step(network, optimizer, number)
    teacher = og.torch.save(network)
    state = copy.deepcopy(optimizer.state_dict())
    with torch.no_grad():
        start = float(loss(network, slice(300, 450)))
    wide = og.widen(teacher)
    after = {"teacher": step(network, optimizer, 30)}
    for name in ("empty", "grown"):
        student = load(wide, verify=False)
        new = torch.optim.Adam(student.parameters(), 1e-3)
        if name == "grown":
            grow_optimizer_state(state, student, new, original=teacher, grown=wide)
        after[name] = step(student, new, 30)
    assert abs(after["grown"] - after["teacher"]) < 0.2 * abs(after["empty"] - after["teacher"]), (
        start,
        after,
    )


def test_a_state_of_another_model_is_refused() -> None:
    model = og.load(CNN)
    other = load(og.load(MODELS / "digits_jax.onnx"), verify=False)
    optimizer = torch.optim.Adam(other.parameters())
    wide = og.widen(model)
    student = load(wide, verify=False)
    with pytest.raises(og.InvalidRequestError, match="parameters, and the original has"):
        grow_optimizer_state(
            optimizer.state_dict(),
            student,
            torch.optim.Adam(student.parameters()),
            original=model,
            grown=wide,
        )
