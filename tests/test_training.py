"""The way into training and back: export, data, the loop with its interruptions, import, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from graphs import build

import onnx_grow as og
from onnx_grow.cli import main as command
from onnx_grow.errors import OutputError

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-grow[torch]'")
pytest.importorskip("safetensors")
torch.set_num_threads(1)

from safetensors.torch import load_file, save_file  # noqa: E402

from onnx_grow import training  # noqa: E402
from onnx_grow.growth.inheritance import Inheritance  # noqa: E402
from onnx_grow.torch import load as network_of  # noqa: E402
from onnx_grow.training import fitting, script  # noqa: E402
from onnx_grow.training.checkpoints import Checkpoint, Progress  # noqa: E402
from onnx_grow.training.checks import _elsewhere as elsewhere  # noqa: E402
from onnx_grow.training.checks import check_learning, made_up_goal, trial_inputs  # noqa: E402
from onnx_grow.training.exchange import exported_tensors  # noqa: E402
from onnx_grow.training.files import read_tensors, write_tensors  # noqa: E402
from onnx_grow.training.recipe import Recipe  # noqa: E402

ROOT = Path(__file__).parent.parent
MLP = """(float[N, 6] x) => (float[N, 3] y) <float[6, 8] w, float[8] b, float[8, 3] v, float[3] c>
    {
        h = Gemm(x, w, b)
        r = Relu(h)
        y = Gemm(r, v, c)
    }"""
CNN = """(float[N, 3, 8, 8] x) => (float[N, 4] y) <float[6, 3, 3, 3] w, float[6] b, float[6, 4] v, float[4] c>
    {
        h = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu(h)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        y = Gemm(f, v, c)
    }"""


def samples(count: int = 60, seed: int = 0) -> dict[str, np.ndarray]:
    """Points around three corners."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.random.default_rng(9).standard_normal((3, 6)) * 2
    return {"x": (centres[labels] + rng.standard_normal((count, 6))).astype(np.float32), "labels": labels}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a teacher, a grown model, data and an export."""
    monkeypatch.chdir(tmp_path)
    teacher = build(MLP)
    og.save(teacher, "teacher.onnx")
    grown = og.widen(og.load("teacher.onnx"))
    og.save(grown, "grown.onnx")
    np.savez("data.npz", **samples())
    training.export(og.load("grown.onnx"), "out", teacher=og.load("teacher.onnx"))
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(command, args)


def train(*args: str, loss=None, optimizer=None, folder: str = "out") -> int:
    """The exported train.py in this process, perhaps with another loss or optimizer; its exit code."""
    names: dict[str, object] = {"__name__": "train", "__file__": str(Path(folder, "train.py").absolute())}
    exec(compile(Path(folder, "train.py").read_text(), "train.py", "exec"), names)
    with pytest.raises(SystemExit) as end:
        script.main(
            str(names["__file__"]),
            "",
            examples=names["examples"],
            loss=loss or names["loss"],
            optimizer=optimizer or names["optimizer"],
            measures={"accuracy": names["accuracy"]} if "accuracy" in names else {},
            arguments=["--data", "data.npz", "--device", "cpu", *args],
        )
    return int(end.value.code or 0)


def test_the_whole_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--epochs", "3", "--learning-rate", "0.01") == 0
    said = capsys.readouterr().out
    assert "equal in PyTorch and ONNX Runtime" in said
    assert said.index("teacher  ") < said.index("start    ")
    assert "chosen on these very samples" in said
    assert {path.name for path in Path("out/run").iterdir()} == {
        "checkpoint.pt",
        "curves.png",
        "metrics.csv",
        "tuned.onnx",
        "tuned.safetensors",
    }
    rows = list(csv.DictReader(Path("out/run/metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[0]["teacher_loss"]) == pytest.approx(float(rows[0]["test_loss"]), rel=1e-4)
    assert float(rows[-1]["test_loss"]) < float(rows[0]["test_loss"])
    result = run("import", "out/model.onnx", "out/run/tuned.safetensors", "-o", "back.onnx")
    assert result.exit_code == 0, result.output
    assert Path("back.onnx").read_bytes() == Path("out/run/tuned.onnx").read_bytes()


def test_it_runs_as_it_stands_in_two_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun starts it, over gloo, this process being the first: one set of files, and the mean gradient of both."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    options = ["--epochs", "2", "--device", "cpu"]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    second = {**os.environ, **shared, "RANK": "1", "LOCAL_RANK": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "out/train.py", "--data", "data.npz", *options]
    with (
        monkeypatch.context() as patch,
        subprocess.Popen(command, env=second, stdout=subprocess.PIPE) as other,
    ):
        for name, value in {**shared, "RANK": "0", "LOCAL_RANK": "0"}.items():
            patch.setenv(name, value)
        try:
            assert train(*options) == 0
            assert other.communicate(timeout=60) == (b"", None)
        finally:
            other.kill()
    assert other.returncode == 0
    assert train(*options, "--output", "alone") == 0
    both, one = load_file("out/run/tuned.safetensors"), load_file("alone/tuned.safetensors")
    for name, tensor in both.items():
        torch.testing.assert_close(tensor, one[name], rtol=1e-3, atol=1e-4)


def interrupted_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Press Ctrl-C in the given step."""
    original = fitting.Training._step

    def asking(self, inputs, targets, interruption):  # type: ignore[no-untyped-def]
        if self._steps_done == step:
            signal.raise_signal(signal.SIGINT)
        return original(self, inputs, targets, interruption)

    monkeypatch.setattr(fitting.Training, "_step", asking)


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--epochs", "2", "--batch-size", "8")
    assert train(*options, "--output", "whole") == 0
    with monkeypatch.context() as patch:
        interrupted_at(patch, 9)
        assert train(*options, "--output", "parts") == 130
    assert "interrupted at epoch 2, step 4 of 6; --resume goes on from there" in capsys.readouterr().out
    assert train(*options, "--output", "parts", "--resume") == 0
    whole, parts = load_file("whole/tuned.safetensors"), load_file("parts/tuned.safetensors")
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    tables = [Path(each, "metrics.csv").read_text().splitlines() for each in ("whole", "parts")]
    strip = [[row[:2] for row in csv.reader(table)] for table in tables]
    assert strip[0] == strip[1]


def test_a_loss_that_is_not_a_number_keeps_the_last_good_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = 0

    def failing(outputs, target):  # type: ignore[no-untyped-def]
        nonlocal seen
        seen += torch.is_grad_enabled()
        loss = torch.nn.functional.cross_entropy(outputs["y"], target)
        return loss * float("nan") if seen == 9 else loss

    options = ("--epochs", "3", "--batch-size", "8", "--no-check")
    assert train(*options, loss=failing) == 1
    assert "not finite at epoch 2, step 3 (loss nan" in capsys.readouterr().err
    state = torch.load("out/run/checkpoint.pt", weights_only=True)
    assert state["progress"]["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in state["network"].values())
    assert train(*options, "--resume", "--learning-rate", "1e-5") == 0


def test_the_memory_of_the_teachers_optimizer_goes_along(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training.export(og.load("teacher.onnx"), "small")
    assert train("--epochs", "1", folder="small") == 0
    options = ("--epochs", "1", "--no-check", "--optimizer-state", "small/run/checkpoint.pt")
    assert train(*options) == 0
    steps = {
        int(entry["step"])
        for entry in torch.load("out/run/checkpoint.pt", weights_only=True)["optimizer"]["state"].values()
    }
    assert steps == {2}  # one of the teacher's, of 48 samples, and one more
    assert train(*options, "--output", "b", folder="small") == 2
    assert "needs the teacher" in capsys.readouterr().err
    torch.save({"a": 1}, "no.pt")
    assert train("--optimizer-state", "no.pt", "--output", "c") == 2
    assert "no.pt holds no state of an optimizer" in capsys.readouterr().err

    def descent(parameters, recipe):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=0.9)

    assert train(*options, "--output", "d", optimizer=descent) == 2
    assert "another kind of optimizer: it holds exp_avg, exp_avg_sq, step, and SGD" in capsys.readouterr().err


def test_an_export_can_hold_what_the_teachers_optimizer_remembers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ("--optimizer-state", "small/run/checkpoint.pt")
    training.export(og.load("teacher.onnx"), "small")
    assert train("--epochs", "1", folder="small") == 0
    refused = run("export", "grown.onnx", "-o", "a", *state)
    assert "name it with --teacher" in refused.stderr
    other = run(
        "export", "grown.onnx", "-o", "a", *state, "--teacher", str(ROOT / "models" / "digits_mlp.onnx")
    )
    assert other.exit_code == 2
    assert not Path("a").exists()
    written = run("export", "grown.onnx", "-o", "a", *state, "--teacher", "teacher.onnx")
    assert "optimizer.pt" in written.stdout, written.stderr
    assert "optimizer.pt" in Path("a/recipe.yaml").read_text()
    assert train("--epochs", "1", folder="a") == 0
    assert "goes on with what the teacher's remembers" in capsys.readouterr().out


def test_checkpoints_of_another_model_or_setting_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--epochs", "1") == 0
    assert train("--epochs", "1") == 2
    assert "out/run holds a training already" in capsys.readouterr().err
    assert train("--epochs", "2", "--resume", "--seed", "5") == 2
    assert "checkpoint of another seed: 0, not 5" in capsys.readouterr().err
    training.export(og.widen(og.load("teacher.onnx"), factor=3), "other")
    assert train("--epochs", "2", "--resume", "--output", "out/run", folder="other") == 2
    assert "checkpoint of another model" in capsys.readouterr().err
    assert train("--resume", "--output", "nowhere") == 2
    assert "there is no checkpoint nowhere/checkpoint.pt" in capsys.readouterr().err
    whole = Path("out/run/checkpoint.pt").read_bytes()
    for broken in (whole[:2000], b"", b"hello"):
        Path("out/run/checkpoint.pt").write_bytes(broken)
        assert train("--epochs", "2", "--resume") == 2
        assert "is no checkpoint, or an incomplete one" in capsys.readouterr().err


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond that many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_what_is_there(tmp_path: Path) -> None:
    def checkpoint(size: int) -> None:
        Checkpoint({}, {"w": torch.zeros(size)}, {}, Progress()).write(tmp_path / "a")

    def tensors(size: int) -> None:
        write_tensors(tmp_path / "a", {"w": np.zeros(size, np.float32)})

    for write in (checkpoint, tensors):
        write(10)
        kept = (tmp_path / "a").read_bytes()
        with (
            files_of_at_most(20_000),
            pytest.raises(OutputError, match=r"a cannot be written: .*File too large"),
        ):
            write(100_000)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_bytes() == kept


class Bomb:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, ("exploded",)


def test_nothing_in_a_checkpoint_is_executed(folder: Path) -> None:
    for write in (
        lambda path: torch.save({"setting": Bomb()}, path),
        lambda path: path.write_bytes(pickle.dumps(Bomb(), 2)),
    ):
        write(Path("evil.pt"))
        with pytest.raises(og.InvalidRequestError, match="no checkpoint"):
            Checkpoint.read(Path("evil.pt"), {})
    Path("evil.safetensors").write_bytes(pickle.dumps(Bomb()))
    assert run("import", "grown.onnx", "evil.safetensors").exit_code == 2
    assert not Path("exploded").exists()


DATA = {
    "shape": ({"x": np.zeros((9, 7), np.float32)}, r"'x' has shape \[9, 7\], and the network takes \[n, 6\]"),
    "labels": ({"labels": None}, "has no labels: there is 'x'"),
    "class": ({"labels": np.full(60, 3)}, "has label 3, and the network tells 3 classes apart"),
    "negative": ({"labels": np.full(60, -1)}, "has label -1"),
    "lengths": ({"labels": np.zeros(59, int)}, "'x' has 60 samples, and 'labels' 59"),
    "NaN": ({"x": np.full((60, 6), np.nan, np.float32)}, "holds values that are not finite"),
    "text": ({"x": np.full((60, 6), "a")}, "'x' is <U1, the network takes float32"),
    "names of classes": (
        {"labels": np.full(60, "a")},
        r"'labels' is text.*np\.unique\(labels, return_inverse",
    ),
    "name of the array": (
        {"x": None, "pixels": np.zeros((60, 2, 3), np.float32)},
        r"'pixels' has shape \[60, 2, 3\].*pixels\.reshape\(-1, 6\)",
    ),
    "one NaN": (
        {"x": np.where(np.arange(360) == 20, np.nan, 0).reshape(60, 6).astype(np.float32)},
        "in 1 of 60 samples.*sample 3",
    ),
}


@pytest.mark.parametrize(("change", "message"), DATA.values(), ids=DATA)
def test_data_that_do_not_fit_are_refused(folder: Path, change: dict[str, np.ndarray], message: str) -> None:
    arrays = {name: array for name, array in {**samples(), **change}.items() if array is not None}
    np.savez("wrong.npz", **arrays)
    with pytest.raises(og.InvalidRequestError, match=message):
        training.read_examples("wrong.npz", og.load("grown.onnx"))


LABELS = {
    "one-hot": (
        np.eye(3)[np.arange(60) % 3],
        r"accuracy of train\.py cannot take labels of shape \[n, 3\]",
        "labels.argmax(1)",
    ),
    "column": ((np.arange(60) % 3)[:, None], "loss of train.py cannot take labels", "labels.reshape(-1)"),
    "fractions": (np.arange(60) % 3.0, "loss of train.py cannot take labels", "labels.astype(int)"),
}


@pytest.mark.parametrize(("labels", "message", "hint"), LABELS.values(), ids=LABELS)
def test_labels_that_the_loss_cannot_take(
    folder: Path, capsys: pytest.CaptureFixture[str], labels: np.ndarray, message: str, hint: str
) -> None:
    np.savez("data.npz", x=samples()["x"], labels=labels)
    assert train("--epochs", "1") == 2
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert hint in said


def test_data_that_the_teacher_does_not_know_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The very data are silent; on another scale, or with classes in another order, a warning says so."""
    data = samples(300)
    np.savez("data.npz", **data)
    training.export(og.load("teacher.onnx"), "small")
    assert train("--epochs", "20", "--learning-rate", "0.02", "--no-check", folder="small") == 0
    training.export(og.load("small/run/tuned.onnx"), "known")
    capsys.readouterr()
    for number, (x, labels, warned) in enumerate(
        (
            (data["x"], data["labels"], False),
            (data["x"] * -30 + 100, data["labels"], True),
            (data["x"], (data["labels"] + 1) % 3, True),
        )
    ):
        np.savez("data.npz", x=x, labels=labels)
        assert train("--epochs", "1", "--no-check", "--output", f"run{number}", folder="known") == 0
        said = capsys.readouterr().out
        assert ("does hardly better on data.npz than one answer for all samples" in said) == warned, said
        assert ("Here 'x' is from" in said) == warned


def test_large_logits_are_compared_with_none() -> None:
    """They lose less than their mean, and far more than zeros do: a network that is sure of one class knows nothing."""
    from onnx_grow.training.chance import chance

    labels = torch.arange(30) % 3
    logits = torch.zeros(30, 3)
    logits[:, 0] = torch.where(labels == 0, 40.0, 20.0)

    def measured(outputs: dict[str, torch.Tensor], targets: torch.Tensor) -> dict[str, float]:
        return {"loss": float(torch.nn.functional.cross_entropy(outputs["y"], targets))}

    found = chance(lambda: [({"y": logits}, labels)], measured)
    assert found.is_hardly_better
    assert found.constant["loss"] == pytest.approx(np.log(3))


def test_what_is_left_of_a_schedule_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--epochs", "2", "--no-check") == 0
    assert "note" not in capsys.readouterr().out
    assert train("--epochs", "2", "--resume") == 0
    assert "all 2 epochs are done already: a larger --epochs goes on" in capsys.readouterr().out
    assert train("--epochs", "3", "--resume") == 0
    assert "had ended, with its schedule, after 2 epochs" in capsys.readouterr().out


def test_a_batch_that_the_file_fixes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    og.save(build(MLP.replace("N,", "1,")), "one.onnx")
    result = run("export", "one.onnx", "-o", "out")
    assert "fixed at 1 in the file" in result.output
    assert "fixes the batch at 1" in Path("out/recipe.yaml").read_text()
    np.savez("data.npz", **samples())
    assert train("--epochs", "1", "--no-check") == 0
    assert (
        "note: the file fixes the batch at 1: there are 1 samples in a step, not" in capsys.readouterr().out
    )


def test_files_that_are_no_data_are_refused(folder: Path) -> None:
    model = og.load("grown.onnx")
    Path("broken.npz").write_bytes(b"PK but no archive")
    Path("data.csv").write_text("1,2")
    np.save("x.npy", np.zeros((9, 6)))
    for path, message in (
        ("nowhere.npz", "does not exist"),
        ("broken.npz", "cannot be read"),
        ("data.csv", "cannot be read: it is neither .npz nor .npy"),
        ("x.npy", "holds one array, without labels"),
        ("out", "takes no images|no labelled"),
    ):
        with pytest.raises(og.InvalidRequestError, match=message):
            training.read_examples(path, model)


def test_a_folder_of_images(tmp_path: Path) -> None:
    from PIL import Image

    model = build(CNN)
    rng = np.random.default_rng(0)
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (11, 9, 3), np.uint8)).save(
                tmp_path / name / f"{number}.png"
            )
    examples = training.read_examples(tmp_path, model)
    (inputs,), labels = examples.__getitems__([0, 4, 8])
    assert examples.classes == ("a", "b", "c")
    assert inputs.shape == (3, 3, 8, 8)
    assert inputs.dtype == np.float32
    assert 0 <= inputs.min() < inputs.max() <= 1
    assert labels.tolist() == [0, 1, 2]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "no.png").write_text("no image")
    with pytest.raises(og.InvalidRequestError, match=r"no\.png cannot be read as an image"):
        training.read_examples(tmp_path, model).__getitems__([9])
    for name in ("e", "f"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "x.png")
    with pytest.raises(og.InvalidRequestError, match=r"label 5 \('f'\), and the network tells 4"):
        training.read_examples(tmp_path, model)


def images(folder: Path, classes: str, count: int) -> None:
    """Put a folder of images for each class in place of a file."""
    from PIL import Image

    folder.unlink()
    for number in range(count):
        part = folder / classes[number % len(classes)]
        part.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(part / f"{number}.png")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_mode_go_from_0_to_1(mode: str, channels: int) -> None:
    from PIL import Image

    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    grey = Image.fromarray((ramp * 255).astype(np.uint8))
    wide = Image.fromarray((ramp * 65535).astype(np.uint16))
    image = wide if mode == "I;16" else grey.convert("RGB").convert(mode)
    assert image.mode == mode
    np.testing.assert_allclose(training.pixels(image, (channels, 8, 8))[0], ramp, atol=0.01)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_of_no_known_range_are_refused(tmp_path: Path, mode: str) -> None:
    from PIL import Image

    (tmp_path / "a").mkdir()
    Image.new(mode, (8, 8)).save(tmp_path / "a" / "deep.tif")
    with pytest.raises(og.InvalidRequestError, match=r"deep\.tif: the image holds .*pixels\(\) of train\.py"):
        training.read_examples(tmp_path, build(CNN))


def test_an_image_that_a_worker_cannot_read_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training.export(build(CNN), "out", force=True)
    images(Path("data.npz"), "abcd", 40)
    broken = Path("data.npz/d/39.png")
    broken.write_bytes(broken.read_bytes()[:45])
    assert train("--epochs", "1", "--workers", "1") == 2
    assert re.fullmatch(
        r"error: data\.npz/d/39\.png cannot be read as an image: .*\n", capsys.readouterr().err
    )


def test_data_of_fewer_classes_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("data.npz", x=samples()["x"], labels=np.ones(60, int))
    assert train("--epochs", "1", "--no-check") == 0
    assert "warning: all samples in data.npz are of class 1" in capsys.readouterr().out
    training.export(build(CNN), "out", force=True)
    images(Path("data.npz"), "xy", 20)
    assert train("--epochs", "1", "--no-check", "--output", "images") == 0
    assert "warning: data.npz has folders of 2 of the 4 classes" in capsys.readouterr().out


def test_another_teacher_in_the_folder_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    og.save(build(CNN), "out/teacher.onnx", force=True)
    assert train("--epochs", "1") == 2
    assert "the teacher is not what the model grew from: input 'x' is" in capsys.readouterr().err


def test_what_is_held_out_has_every_class(folder: Path) -> None:
    examples = training.read_examples("data.npz", og.load("grown.onnx"))
    learned, held_out = examples.divided(0.2, seed=1)
    assert (len(learned), len(held_out)) == (48, 12)
    assert np.bincount(held_out.__getitems__(range(12))[1]).tolist() == [4, 4, 4]
    assert not set(learned.numbers) & set(held_out.numbers)
    with pytest.raises(og.InvalidRequestError, match="cannot be held out"):
        examples.part(np.arange(2)).divided(0.2, seed=1)


def test_the_recipe_is_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    recipe = Recipe.after(3e-4)
    path.write_text(recipe.to_yaml(("a note",)))
    assert Recipe.read(path) == recipe
    assert recipe.learning_rate == pytest.approx(3e-5)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[0] < rates[4] < 1
    assert max(rates) == rates[5] == 1
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(recipe.final, rel=0.2)
    for text, message in (
        ("epoch: 3", "did you mean 'epochs'"),
        ("epochs: many", "epochs is 'many'"),
        ("learning_rate: -1", "learning_rate is -1"),
        ("schedule: steps", "schedule is 'steps'"),
        ("- 1", "is no recipe"),
        ("a: [", "is no YAML"),
    ):
        path.write_text(text)
        with pytest.raises(og.InvalidRequestError, match=message):
            Recipe.read(path)
    path.write_text("learning_rate: 1e-4")  # text to YAML 1.1
    assert Recipe.read(path).learning_rate == 1e-4


def test_an_export_is_whole_or_not_there(folder: Path) -> None:
    with pytest.raises(OutputError, match="holds files already"):
        training.export(og.load("grown.onnx"), "out")
    Path("out/mine.txt").write_text("mine")
    training.export(og.load("grown.onnx"), "out", force=True)
    assert Path("out/mine.txt").exists()
    assert not Path("out/teacher.onnx").exists()  # it is not of this export
    result = run("export", "grown.onnx", "-o", "again", "--teacher", "grown.onnx", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["files"] == [
        "growth_map.json",
        "model.onnx",
        "recipe.yaml",
        "teacher.onnx",
        "train.py",
        "weights.safetensors",
    ]
    assert run("export", "grown.onnx", "-o", "again").exit_code == 2
    assert run("export", "grown.onnx", "-o", "third", "--learn", "nothing").exit_code == 2
    og.save(og.widen(og.load("teacher.onnx"), factor=3), "other.onnx")
    assert run("export", "grown.onnx", "-o", "third", "--teacher", "other.onnx").exit_code == 2
    wrong = run("export", "grown.onnx", "-o", "third", "--teacher", str(ROOT / "models" / "digits_mlp.onnx"))
    assert wrong.exit_code == 2
    assert "the teacher is not what the model grew from: input 'x' is missing in the teacher" in wrong.stderr
    assert not Path("third").exists()
    assert not list(Path().glob(".onnx-grow-*"))
    assert (
        load_file("again/weights.safetensors").keys() == network_of(og.load("grown.onnx")).state_dict().keys()
    )


WEIGHTS = {
    "missing": (lambda state: state.pop("w"), "there is no tensor 'w'"),
    "shape": (
        lambda state: state.update(w=torch.zeros(3, 3)),
        r"'w' has shape \[3, 3\] among the weights, and \[6, 16\]",
    ),
    "unknown": (lambda state: state.update(ww=torch.zeros(3)), "the model has no tensor 'ww'"),
    "NaN": (
        lambda state: state.update(b=torch.full((16,), float("nan"))),
        "'b' holds values that are not finite",
    ),
    "type": (
        lambda state: state.update(b=torch.zeros(16, dtype=torch.int64)),
        "'b' is int64 among the weights",
    ),
}


@pytest.mark.parametrize(("change", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_do_not_fit_are_refused(folder: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    state = network_of(og.load("grown.onnx"), verify=False).state_dict()
    change(state)
    save_file(state, "wrong.safetensors")
    result = run("import", "grown.onnx", "wrong.safetensors")
    assert result.exit_code == 2
    with pytest.raises(og.InvalidRequestError, match=message):
        training.tuned(og.load("grown.onnx"), {name: tensor.numpy() for name, tensor in state.items()})
    assert not Path("grown-tuned.onnx").exists()


def test_files_of_weights_that_cannot_be_read_say_why(folder: Path) -> None:
    half = Path("out/weights.safetensors").read_bytes()[:100]
    Path("half.safetensors").write_bytes(half)
    Path("weights.pt").write_bytes(half)
    for name, message in (
        ("nothere.safetensors", "nothere.safetensors does not exist\n"),
        ("half.safetensors", "hint: it may be incomplete"),
        ("weights.pt", "hint: weights are taken from .safetensors files only"),
    ):
        result = run("import", "grown.onnx", name)
        assert result.exit_code == 2
        assert message in result.stderr


def test_weights_whose_results_are_infinite_are_refused(folder: Path) -> None:
    state = {
        name: torch.full_like(t, 3e38) for name, t in network_of(og.load("grown.onnx")).state_dict().items()
    }
    save_file(state, "huge.safetensors")
    result = run("import", "grown.onnx", "huge.safetensors")
    assert result.exit_code == 1
    assert "is not finite" in result.stderr
    assert not Path("grown-tuned.onnx").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double"])
def test_every_precision_comes_back_as_it_went(tmp_path: Path, dtype: str) -> None:
    text = MLP.replace("float[", f"{dtype}[")
    kind = np.dtype("bfloat16" if dtype == "bfloat16" else {"double": "float64"}.get(dtype, dtype))
    shapes = {"w": (6, 8), "b": (8,), "v": (8, 3), "c": (3,)}
    rng = np.random.default_rng(0)
    model = build(text, **{name: rng.standard_normal(shape).astype(kind) for name, shape in shapes.items()})
    write_tensors(tmp_path / "weights.safetensors", exported_tensors(model))
    back = training.tuned(model, read_tensors(tmp_path / "weights.safetensors"))
    assert all(
        weight.array().tobytes() == back.weights[name].array().tobytes()
        for name, weight in model.weights.items()
    )
    wide = {name: array.astype(np.float32) for name, array in exported_tensors(model).items()}
    assert {name: weight.dtype for name, weight in training.tuned(model, wide).weights.items()} == {
        name: weight.dtype for name, weight in model.weights.items()
    }


LOSSES = {
    "logits": ("y = Identity(s)", "cross_entropy"),
    "probabilities": ("y = Softmax(s)", "nll_loss(outputs['y'].clamp_min(1e-12).log()"),
    "logarithms": ("y = LogSoftmax(s)", "nll_loss(outputs['y'], target)"),
    "independent": ("y = Sigmoid(s)", "binary_cross_entropy"),
}


@pytest.mark.parametrize(("last", "loss"), LOSSES.values(), ids=LOSSES)
def test_the_loss_fits_the_output(tmp_path: Path, last: str, loss: str) -> None:
    model = build(f"(float[N, 6] x) => (float[N, 3] y) <float[6, 3] w> {{ s = MatMul(x, w) {last} }}")
    training.export(model, tmp_path / "out")
    assert loss in (tmp_path / "out" / "train.py").read_text()


def test_regression_learns_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = build("(float[N, 6] x) => (float[N, 1] y) <float[6, 1] w> { y = MatMul(x, w) }")
    og.save(model, "model.onnx")
    training.export(og.load("model.onnx"), "out")
    x = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    np.savez("data.npz", x=x, targets=x.sum(1))
    assert train("--epochs", "2") == 0
    assert "accuracy" not in Path("out/train.py").read_text()


def test_weights_of_half_precision_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's usual eps is zero there, and a gradient whose square is too makes NaN of 0 / 0."""
    monkeypatch.chdir(tmp_path)
    text = "(float[N, 6] x) => (float[N, 3] y) <float16[6, 3] w> { h = Cast <to = 10> (x) s = MatMul(h, w) y = Cast <to = 1> (s) }"
    og.save(build(text), "model.onnx")
    data = samples()
    data["x"][:, 0] = 0  # a weight without any gradient
    np.savez("data.npz", **data)
    training.export(og.load("model.onnx"), "out")
    assert train("--epochs", "2") == 0
    assert "float16" in Path("out/recipe.yaml").read_text()


# What must hold after growth


def learning(grown: og.Model, teacher: og.Model | None = None) -> training.LearningReport:
    network = network_of(grown, verify=False)
    return check_learning(grown, network, made_up_goal(trial_inputs(grown)), teacher)


def failed(report: training.LearningReport) -> list[str]:
    return [check.name for check in report.checks if not check.ok]


@pytest.mark.parametrize("scheme", ["split", "fresh"])
def test_a_grown_network_learns(scheme: str) -> None:
    teacher = og.load(ROOT / "models" / "digits_cnn.onnx")
    report = learning(og.deepen(og.widen(teacher, scheme=scheme), every=2), teacher)
    assert report.ok, str(report)
    assert "BatchNormalization" in str(report)


def test_equal_copies_stay_twins() -> None:
    teacher = build(CNN)
    report = learning(og.widen(teacher, scheme="copy"), teacher)
    assert failed(report) == ["copies become different"]
    assert learning(og.widen(teacher), teacher).ok


def test_units_that_are_zero_on_both_sides_do_not_learn() -> None:
    """The mistake that `fresh` must not make: new rows and their columns both zero."""
    teacher = build(MLP)
    grown = og.widen(teacher, scheme="fresh")
    arrays = {name: np.array(weight.array()) for name, weight in grown.weights.items()}
    arrays["w"][:, 8:] = 0
    arrays["b"][8:] = 0
    report = learning(training.tuned(grown, arrays), teacher)
    assert failed(report) == ["gradient reaches every parameter"]


def test_units_that_were_dead_in_the_teacher_only_warn() -> None:
    rng = np.random.default_rng(0)
    bias = np.zeros(8, np.float32)
    bias[:3] = -1e3  # three of eight units that nothing wakes
    teacher = build(MLP, b=bias, w=rng.standard_normal((6, 8)).astype(np.float32))
    report = learning(og.widen(teacher), teacher)
    assert report.ok, str(report)
    assert "no example wakes in the teacher either" in report.warnings[0]


def test_tensors_of_one_origin_are_reached_together() -> None:
    """As the weight of stacked gates, of which two places with different shares read a part each."""
    heirs = {name: Inheritance(source, (), 1) for name, source in (("a", "w"), ("b", "w"), ("c", "v"))}
    first = np.arange(6).reshape(2, 3) < 4
    reached = {"a": first, "b": ~first, "c": np.ones((2, 3), bool)}
    assert (elsewhere("a", heirs, reached) == ~first).all()
    assert (elsewhere("b", heirs, reached) == first).all()
    assert not elsewhere("c", heirs, reached).any()


def test_statistics_that_do_not_move_are_found() -> None:
    model = og.load(ROOT / "models" / "digits_cnn.onnx")
    network = network_of(model, verify=False)
    network.train = lambda mode=True: network  # type: ignore[method-assign]
    report = check_learning(model, network, made_up_goal(trial_inputs(model)), None)
    assert "BatchNormalization's statistics follow the data" in failed(report)


def test_the_command_says_whether_it_will_learn(folder: Path) -> None:
    good = run("check-trainable", "grown.onnx", "--teacher", "teacher.onnx", "--data", "data.npz", "--json")
    assert good.exit_code == 0, good.output
    assert all(check["ok"] for check in json.loads(good.stdout)["checks"])
    og.save(og.widen(og.load("teacher.onnx"), scheme="copy"), "twins.onnx")
    bad = run("check-trainable", "twins.onnx", "--json", "--steps", "3", "--html", "twins.html")
    assert bad.exit_code == 1
    assert "still equal after 3 steps" in str(json.loads(bad.stdout)["checks"])
    assert "grow with '--scheme split'" in bad.stderr
    assert "WILL NOT LEARN" in Path("twins.html").read_text()


def test_training_refuses_what_would_not_learn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training.export(og.widen(og.load("teacher.onnx"), scheme="copy"), "twins")
    assert train("--epochs", "1", folder="twins") == 1
    assert "not all of this network would learn: copies become different" in capsys.readouterr().err
    assert train("--epochs", "1", "--no-check", folder="twins") == 0


def test_without_the_libraries_one_line_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_grow.training.requirements.find_spec", lambda name: None)
    for arguments in (
        ("export", "grown.onnx", "-o", "x"),
        ("import", "grown.onnx", "w.safetensors"),
        ("check-trainable", "grown.onnx"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "pip install 'onnx-grow[torch]'" in result.stderr
    assert not Path("x").exists()


def test_the_manuals_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "training.md").read_text(), re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "training.md", "exec"), {})
