"""Every class of error: documented, raised in one example, and told in one line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from graphs import build

import onnx_grow as og
from onnx_grow import errors
from onnx_grow.cli import main

MANUAL = Path(__file__).parent.parent / "docs" / "errors.md"
CLASSES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.OnnxGrowError
]
SECTIONS = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", MANUAL.read_text(), re.MULTILINE | re.DOTALL))

EXAMPLES = {
    "VerificationFailedError": ["verify", "a.onnx", "other.onnx"],
    "InvalidModelError": ["inspect", "no.onnx"],
    "InvalidRequestError": ["widen", "a.onnx", "--only", "conv_of_nobody"],
    "OutputError": ["widen", "a.onnx", "-o", "other.onnx"],
    "NothingToGrowError": ["widen", "linear.onnx"],
    "DeviceUnavailableError": ["verify", "a.onnx", "a.onnx", "--provider", "cuda"],
    "MissingLibraryError": ["check-trainable", "a.onnx"],
    "UnsupportedOperatorError": ["check-trainable", "foreign.onnx"],
}
ELSEWHERE = {"TrainingFailedError"}
"""Classes that no command raises: that of train.py (tests/test_training.py)."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    net = "(float[2,4] x) => (float[2,3] y) <float[4,6] v, float[6,3] w> { h = MatMul(x, v) r = Relu(h) y = MatMul(r, w) }"
    og.save(build(net), "a.onnx")
    og.save(build(net.replace("Relu", "Tanh")), "other.onnx")
    og.save(build("(float[2,4] x) => (float[2,3] y) <float[4,3] w> { y = MatMul(x, w) }"), "linear.onnx")
    own = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2,4] x) => (float[2,4] y) { y = own.Foo(x) }'
    og.save(build(own), "foreign.onnx")
    return tmp_path


def test_every_class_has_an_entry_with_cause_and_remedy() -> None:
    assert {kind.__name__ for kind in CLASSES} == {*EXAMPLES, *ELSEWHERE}
    assert set(SECTIONS) == {*EXAMPLES, *ELSEWHERE, "UsageError", "Others"}
    for name, text in SECTIONS.items():
        assert "**Cause.**" in text, name
        assert "**Remedy.**" in text, name
        assert f"(#{name.lower()})" in MANUAL.read_text()


@pytest.mark.parametrize(
    "kind", [kind for kind in CLASSES if kind.__name__ in EXAMPLES], ids=lambda kind: kind.__name__
)
def test_every_class_is_met_on_the_command_line_in_one_line(
    folder: Path, kind: type[errors.OnnxGrowError], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is errors.MissingLibraryError:
        monkeypatch.setitem(sys.modules, "torch", None)
    if kind is errors.UnsupportedOperatorError:
        pytest.importorskip("torch")
    if kind is errors.DeviceUnavailableError:
        try:
            og.verify("a.onnx", "a.onnx", provider="cuda")
            pytest.skip("CUDA answers here")
        except errors.DeviceUnavailableError:
            pass
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = CliRunner().invoke(main, EXAMPLES[kind.__name__])
    assert result.exit_code == kind.exit_code
    assert f"| {kind.exit_code} |" in next(
        line for line in MANUAL.read_text().splitlines() if f"[{kind.__name__}]" in line
    )
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    onnx.checker.check_model("a.onnx")


def test_every_class_is_public() -> None:
    for kind in CLASSES:
        assert getattr(og, kind.__name__) is kind
        assert kind.__doc__
