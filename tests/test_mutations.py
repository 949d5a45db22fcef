"""A few hundred damaged files through `bench/mutations.py`, which runs for hours elsewhere; and libraries that a model cannot load."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

import onnx_grow as og

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_damaged_files_are_refused_or_other_models(tmp_path: Path) -> None:
    cases = os.environ.get("ONNX_GROW_MUTATIONS", "400")
    words = [
        sys.executable,
        "bench/mutations.py",
        "models",
        "--cases",
        cases,
        "--seed",
        "7",
        "--to",
        str(tmp_path),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^([\d,]+) files from .*?: (\{.*\})$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    outcomes = ast.literal_eval(found[2])
    assert sum(outcomes.values()) == int(cases)
    assert outcomes["refused"] > int(cases) / 10
    assert outcomes["read"] > int(cases) / 10
    assert all(outcome.islower() for outcome in outcomes), outcomes
    assert not list(tmp_path.iterdir())


def test_no_library_is_loaded_for_operators_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: ort.SessionOptions, path: str) -> None:
        raise AssertionError(f"{path} was loaded")

    monkeypatch.setattr(ort.SessionOptions, "register_custom_ops_library", never)
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18, "mine" : 1]> g (float[2, 4] x) => (float[2, 4] y) { y = mine.Own (x) }'
    )
    model.metadata_props.add(key="custom_ops_library", value="own.so")
    for name in ("own.so", "libown.so", "mine.so"):
        (tmp_path / name).write_bytes(b"\x7fELF")
    onnx.save(model, tmp_path / "m.onnx")
    loaded = og.load(tmp_path / "m.onnx")
    og.inspect(loaded)
    with pytest.raises(og.InvalidModelError, match="mine"):
        og.verify(loaded, loaded, provider="cpu")
