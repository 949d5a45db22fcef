"""Errors on the CPU and on CUDA, side by side: one table over many models, with driver, card and versions.

    python bench/cuda.py models MODEL_OR_FOLDER ... [--largest MB]

Each model is widened by 2 and deepened, and each growth compared with its original on both, in units of the original's own rounding
noise there. Prints Markdown for docs/cuda.md. Without a GPU it says so and stops with 4.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
from coverage import legal_shapes

import onnx_grow as og
from onnx_grow.verification import choose


def machine() -> str:
    """Card, driver and versions, as the driver's own tool tells them."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    card = (
        subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        if shutil.which(query[0])
        else ""
    )
    tools = ", ".join(f"{name} {version(name)}" for name in ("onnx-grow", "onnxruntime-gpu", "onnx", "numpy"))
    return f"{card or 'card unknown'}; {tools}; Python {sys.version.split()[0]}"


def row(file: Path, growth: str) -> str:
    """One line of the table."""
    shapes = legal_shapes(file)
    model = og.load(file)
    try:
        grown = og.widen(model, shapes=shapes) if growth == "widen x2" else og.deepen(model, shapes=shapes)
    except og.OnnxGrowError as error:
        return f"| {file.stem} | {growth} | refused: {error.message[:60]} | | | | |"
    cells = [file.stem, growth]
    placed = ""
    for provider in ("cpu", "cuda"):
        report = og.verify(model, grown, provider=provider, shapes=shapes)
        worst = max((output.error_l2 for output in report.outputs), default=0.0)
        cells += [f"{worst:.1e}", f"{report.ratio:.2f}{'' if report.ok else ' **FAILED**'}"]
        placed = next((check.detail for check in report.checks if check.name == "runs"), "")
    return f"| {' | '.join(cells)} | {placed} |"


@click.command(help=__doc__)
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--largest", type=float, default=20.0, show_default=True, help="Megabytes of the largest file to take."
)
def main(sources: tuple[Path, ...], largest: float) -> None:
    """Run, and print the table."""
    try:
        choose("cuda")
    except og.DeviceUnavailableError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    files = sorted(
        f
        for s in sources
        for f in ([s] if s.is_file() else s.rglob("*.onnx"))
        if f.stat().st_size < largest * 1e6
    )
    click.echo(f"{machine()}\n")
    click.echo(
        "| model | growth | CPU error | CPU ratio | CUDA error | CUDA ratio | nodes |\n|---|---|---|---|---|---|---|"
    )
    for file in files:
        for growth in ("widen x2", "deepen"):
            click.echo(row(file, growth))


if __name__ == "__main__":
    main()
