"""How long growing takes, next to what ONNX itself takes to load and save the grown model, in the same run.

    python bench/speed.py MODEL ... [--repeat 3]

For each model: seconds of analysis alone, of analysis, plan and rewrite, and of load, widen and save together; then the ratio of
the last to `onnx.load` + `onnx.save` of the same grown file. Best of the repeats; files are warm.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import onnx

import onnx_grow as og


def best(repeat: int, action: Callable[[], object]) -> float:
    """The shortest of some runs, in seconds."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@click.command(help=__doc__)
@click.argument(
    "models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--repeat", default=3, show_default=True)
def main(models: tuple[Path, ...], repeat: int) -> None:
    """Measure, and print one line per model."""
    click.echo(
        f"{'model':30} {'nodes':>6} {'grown MB':>9} {'analyse':>8} {'widen':>8} {'load-widen-save':>16} {'over onnx':>10}"
    )
    for file in models:
        with tempfile.TemporaryDirectory() as folder:
            grown, copy = Path(folder) / "grown.onnx", Path(folder) / "copy.onnx"
            model = og.load(file)
            analyse = best(repeat, lambda model=model: og.inspect(model))
            widen = best(repeat, lambda model=model: og.widen(model))
            whole = best(
                repeat,
                lambda file=file, grown=grown: og.save(
                    og.widen(og.load(file)), grown, force=True, external=False
                ),
            )
            theirs = best(repeat, lambda grown=grown, copy=copy: onnx.save(onnx.load(grown), copy))
            megabytes = grown.stat().st_size / 1e6
        nodes = len(model.skeleton.graph.node)
        click.echo(
            f"{file.stem:30} {nodes:6} {megabytes:9.1f} {analyse:7.3f}s {widen:7.3f}s {whole:15.3f}s {whole / theirs:9.2f}x"
        )


if __name__ == "__main__":
    main()
