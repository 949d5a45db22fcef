"""`bench/learning` end to end, on a network and data so small that it takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-grow[torch]'")
pytest.importorskip("matplotlib", reason="matplotlib, which plots, is not installed")

import onnx_grow.torch as bridge  # noqa: E402

sys.path.append(str(Path(__file__).parents[1] / "bench" / "learning"))
import data  # noqa: E402
import networks  # noqa: E402
import report  # noqa: E402
import runs  # noqa: E402
import starts  # noqa: E402
from training import evaluate  # noqa: E402

PAGE = "".join(
    f"<!-- begin {name}: written by bench/learning -->\n<!-- end {name} -->\n" for name in report.TABLES
)


def blobs() -> data.Data:
    """Images of noise around one of three pictures."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    pictures = torch.randn(3, 1, 8, 8, generator=generator)
    images = pictures[labels] + 0.5 * torch.randn(96, 1, 8, 8, generator=generator)
    return data.Data(images[:64], labels[:64], images[64:], labels[64:], 3)


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, bias=False),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 3),
    )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> runs.Bench:
    monkeypatch.setattr(runs, "RATES", (0.003, 0.01, 0.03))
    task = networks.Task("conv", blobs, network, 16, 10, 4)
    monkeypatch.setitem(runs.TASKS, "conv", task)
    return runs.Bench(tmp_path)


def test_an_experiment_from_teachers_to_tables(bench: runs.Bench, tmp_path: Path) -> None:
    parts = [
        runs.Part("wider x2", ("random: split", "split", "split, state"), ("conv",)),
        runs.Part("wider x2", ("random: split", "split"), ("conv",), steps=0.5, anew=True),
        runs.Part("wider x2", ("random: split", "split"), ("conv",), steps=0.2, anew=True),
    ]
    for part in parts:
        bench.compare(part)
    bench.check(runs.TASKS["conv"], "wider x2", "split", 0)

    for run, entry in bench.results.items():
        steps = [step for step, *_ in entry["curve"]]
        assert (steps[0], steps[-1]) == (0, round(10 * run.steps))
        assert (entry["gradient"] is None) == (run.growth == "none")

    again = runs.Bench(tmp_path)
    assert again.results.keys() == bench.results.keys()
    assert again.checks == bench.checks
    (tmp_path / "learning.md").write_text(PAGE)
    report.write(again.results.values(), again.checks, tmp_path)
    page = (tmp_path / "learning.md").read_text()
    assert "| wider x2 | images | split | 1 |" in page
    assert "| CNN | " in page.partition("begin budgets")[2].partition("end budgets")[0]
    assert "| the teacher's optimizer state, grown | CNN, split |" in page
    assert (tmp_path / "learning" / "wider.svg").exists()


def test_what_has_grown_starts_where_its_teacher_ends(bench: runs.Bench) -> None:
    task = runs.TASKS["conv"]
    teacher = bridge.load(bench.teacher(task, "adam", "strong", 0))
    for start in ("fresh", "split", "split, state", "split, shrunk"):
        entry = bench.result(runs.Run("conv", "adam", "strong", "wider x2", start, 0.01, 0))
        assert entry["curve"][0][1:] == pytest.approx(evaluate(teacher, task.data()), abs=2e-5)


@pytest.mark.parametrize(
    ("growth", "scheme"),
    [
        ("wider x4", "fresh"),
        ("deeper", "default"),
        ("deeper by branches", "residual-new"),
        ("both", "fresh + default"),
    ],
)
def test_growths_keep_the_function_and_baselines_do_not(growth: str, scheme: str) -> None:
    teacher = networks.Task("conv", blobs, network, 16, 10, 4).architecture()
    images = blobs().inputs
    model = starts.grown(teacher, growth, scheme, images.numpy(), 0)
    assert model.parameters > teacher.parameters
    before, after = (bridge.load(each).eval()(images) for each in (teacher, model))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    for values in (
        starts.initial(model, 0),
        starts.random_pad(teacher, model, 0),
        starts.random_layers(teacher, model, 0),
    ):
        assert values.keys() <= model.weights.keys()
        assert all(values[name].shape == model.weights[name].shape for name in values)


def test_shrinking_changes_no_bit_in_either_mode() -> None:
    model = networks.Task("conv", blobs, network, 16, 10, 4).architecture()
    kernel = next(name for name, weight in model.weights.items() if len(weight.shape) == 4)
    small = starts.shrunk(model)
    assert np.abs(small.weights[kernel].array()).max() < 0.6 * np.abs(model.weights[kernel].array()).max()
    images = blobs().inputs
    one, two = bridge.load(model), bridge.load(small)
    for train in (False, True):
        assert torch.equal(one.train(train)(images), two.train(train)(images))


def test_distorted_images_are_others_each_time_and_the_same_for_everybody() -> None:
    plain = blobs()
    endless = data.Data(
        plain.inputs, plain.labels, plain.test_inputs, plain.test_labels, plain.classes, endless=True
    )
    first, same, other = (endless.batches(64, seed) for seed in (0, 0, 1))
    one, labels = next(first)
    assert torch.equal(one, next(same)[0])
    assert not torch.equal(one, next(other)[0])
    assert one.shape == plain.inputs.shape
    assert torch.isfinite(one).all()
    assert sorted(labels.tolist()) == sorted(plain.labels.tolist())
    assert not torch.equal(next(first)[0].sum((1, 2, 3)).sort()[0], one.sum((1, 2, 3)).sort()[0])
