"""Imports point downwards only: cli -> report -> training -> torch -> verification | growth -> operators -> axes -> shapes -> model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def lint(*config: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    arguments = ["--no-cache", *config]
    return subprocess.run([*command, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_rooms_import_downwards_only():
    result = lint(cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_a_wrong_direction_is_noticed(tmp_path):
    config = tmp_path / "upwards.toml"
    config.write_text(
        """
        [tool.importlinter]
        root_package = "onnx_grow"
        [[tool.importlinter.contracts]]
        name = "the rooms upside down"
        type = "layers"
        layers = ["onnx_grow.model", "onnx_grow.growth", "onnx_grow.cli"]
        """
    )
    result = lint("--config", str(config), cwd=ROOT)
    assert result.returncode == 1
    assert "onnx_grow.cli is not allowed to import onnx_grow.growth" in result.stdout
