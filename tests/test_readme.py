"""The README's commands and examples, run as they stand; `...` in an output stands for anything."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


PYTHON = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples use, and this interpreter's environment as its `.venv`."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "models", folder / "models")
    (folder / "onnx_grow").symlink_to(ROOT / "onnx_grow")  # a copy would have to be compiled first
    shutil.copy(ROOT / "cli.py", folder)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def shell(command: str, folder: Path) -> str:
    """What a command prints on stdout, run in `folder` with the package's own command first in the path."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    result = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.splitlines()[0][2:40])
def test_console_examples_print_what_they_show(copy: Path, block: str) -> None:
    for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = step.partition("\n")
        found = shell(command, copy)
        same = doctest.OutputChecker().check_output(expected, found, doctest.ELLIPSIS)
        assert same, f"$ {command}\n{found}\ninstead of\n{expected}"


@pytest.mark.parametrize("block", [*blocks("python"), *blocks("python", PYTHON)])
def test_python_examples_run(copy: Path, block: str) -> None:
    (copy / "example.py").write_text(block, encoding="utf-8")
    shell(f"{shlex.quote(sys.executable)} example.py", copy)


def test_the_first_command_does_its_job(copy: Path) -> None:
    """All but the installation, which .ci/run does for real."""
    setup, install, job = blocks("sh")[0].strip().split(" && ")
    assert setup == "python3 -m venv .venv"
    assert install == ".venv/bin/pip install -q ."
    assert "verified       equal" in shell(job.replace("/tmp/", ""), copy)
    assert (copy / "digits-wide.onnx").is_file()


def test_the_checkout_runs_without_installation(copy: Path) -> None:
    assert shell(f"{shlex.quote(sys.executable)} cli.py --version", copy).startswith("onnx-grow ")


def test_ci_runs_the_readme_commands_themselves() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert len(blocks("sh")) == 2
    assert blocks("sh")[1].rstrip().endswith(".venv/bin/pytest -q")
    assert [line for line in script.splitlines() if line][-1] == 'eval "$(readme 2)" </dev/null'


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
