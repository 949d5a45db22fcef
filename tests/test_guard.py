"""The command's own process, and what becomes of it: the tests start real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")

MODEL = """
<ir_version: 9, opset_import: ["" : 18]>
g (float[n, 4] x) => (float[n, 2] y) {
    h = MatMul (x, a)
    r = Relu (h)
    y = MatMul (r, b)
}
"""

PROGRAM = """
import os, signal, sys, time
sys.argv[0] = 'onnx-grow'
{before}
from onnx_grow.cli import main
main(prog_name='onnx-grow')
"""
"""The command, with something done to it before; calls of the library are replaced there."""

DYING = "import onnx_grow.growth as growth; growth.{name} = lambda *_, **__: os.kill(os.getpid(), {number})"

IN_THE_MIDDLE = """
import onnx_grow.verification
def verify(*arguments, **options):
    {then}
onnx_grow.verification.verify = verify
"""
"""While the staged file lies in its hidden folder."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model = onnx.parser.parse_model(MODEL)
    for name, shape in (("a", (4, 8)), ("b", (8, 2))):
        values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    inside = tmp_path / "work"
    inside.mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.chdir(inside)
    onnx.save(model, "model.onnx")
    return inside


def run(before: str, *words: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(before=before)
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60, check=False
    )


def started(before: str, *words: str) -> subprocess.Popen[str]:
    program = PROGRAM.format(before=before)
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def waiting_for(pattern: str, where: Path) -> None:
    for _ in range(600):
        if list(where.glob(pattern)):
            return
        time.sleep(0.05)
    raise AssertionError(f"there is no {pattern}")


def is_clean(folder: Path) -> bool:
    left = [*folder.iterdir(), *(folder.parent / "tmp").glob("*onnx-grow*")]
    return [file.name for file in left] == ["model.onnx"]


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL"])
def test_a_crash_is_one_line_and_exit_code_two(folder: Path, name: str) -> None:
    result = run(DYING.format(name="inspect", number=int(signal.Signals[name])), "inspect", "model.onnx")
    assert result.returncode == 2
    assert result.stderr.splitlines()[0].startswith(f"error: a library crashed on this model ({name})")
    assert len(result.stderr.splitlines()) == 2
    assert result.stdout == ""
    assert is_clean(folder)


def test_a_crash_is_a_document_too(folder: Path) -> None:
    result = run(DYING.format(name="inspect", number=11), "inspect", "model.onnx", "--json")
    document = json.loads(result.stdout)
    assert not document["ok"]
    assert document["error"]["kind"] == "InvalidModelError"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_while_a_file_is_staged_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    before = IN_THE_MIDDLE.format(
        then=f"assert any(n.startswith('.onnx-grow') for n in os.listdir()); os.kill(os.getpid(), {int(number)})"
    )
    result = run(before, "widen", "model.onnx")
    assert result.returncode == (70 if number == signal.SIGKILL else 2), result.stderr
    assert result.stderr.startswith("error: ")
    assert is_clean(folder)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("to_all", [False, True])
def test_signals_reach_the_work_and_it_cleans_up(
    folder: Path, number: signal.Signals, code: int, to_all: bool
) -> None:
    """As a terminal sends them, to all processes of the command, or to the first one only."""
    before = (
        "os.setsid(); signal.signal(signal.SIGINT, signal.default_int_handler)"  # background jobs ignore it
    )
    before += "; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # and those of nohup this one
    before += IN_THE_MIDDLE.format(then="open('begun', 'w').close(); time.sleep(60)")
    with started(before, "widen", "model.onnx") as process:
        waiting_for("begun", folder)
        (folder / "begun").unlink()
        os.killpg(process.pid, number) if to_all else process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert stderr == "error: interrupted\n"
    assert is_clean(folder)


def test_the_work_ends_with_the_process_that_waits(folder: Path) -> None:
    before = IN_THE_MIDDLE.format(then="open('begun', 'w').close(); time.sleep(60)")
    with started(before, "widen", "model.onnx") as process:
        waiting_for("begun", folder)
        process.kill()
        process.communicate(timeout=30)
    for _ in range(200):
        if not list(folder.glob(".onnx-grow-*")):
            break
        time.sleep(0.05)
    (folder / "begun").unlink()
    assert is_clean(folder)


def test_exit_codes_and_output_pass(folder: Path) -> None:
    result = run("", "widen", "model.onnx", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["ok"]
    assert run("", "widen", "model.onnx").returncode == 2, "it exists"
    assert run("", "inspect", "none.onnx").returncode == 2
    assert run("", "widen", "model.onnx", "--only", "nothing", "--force").returncode == 2
    result = run(
        "import onnx_grow.growth as growth; growth.inspect = lambda *_, **__: 1 / 0", "inspect", "model.onnx"
    )
    assert result.returncode == 70
    assert "internal error: ZeroDivisionError" in result.stderr


def test_a_library_that_ends_the_process_is_no_verdict(folder: Path) -> None:
    before = "import onnx_grow.growth as growth; growth.inspect = lambda *_, **__: os._exit(1)"
    result = run(before, "inspect", "model.onnx")
    assert result.returncode == 70
    assert result.stderr.startswith("error: out of memory")


def test_too_little_memory_is_one_line(folder: Path) -> None:
    """As `ulimit -v` sets it: at several sizes, some too small for the libraries, some for the work."""
    for megabytes in (120, 200, 300, 500):
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes} << 20,) * 2)"
        result = run(limit, "widen", "model.onnx", "--provider", "cpu", "--force")
        assert result.returncode in (0, 2, 70, 130), result.stderr  # OpenBLAS sends itself Ctrl-C
        if result.returncode:
            assert "Traceback" not in result.stderr
            assert "error: " in result.stderr
        for grown in folder.glob("model-wide.onnx"):
            grown.unlink()
        assert is_clean(folder)
