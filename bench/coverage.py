"""Grow and verify many models, and print what happened to each.

    python bench/coverage.py MODEL_OR_FOLDER ... [--to RESULTS.jsonl] [--largest MB]

Each model is widened by 2 and by 1.5, deepened, and both, and every result is written, verified and compared with the rounding noise
of its original. A `manifest.jsonl` or `index.json` beside the models may tell legal input shapes ({"file" or "name": ..., "inputs":
{input: {"shape": [...]}}}). One line per model and growth goes to RESULTS.jsonl; a rerun goes on where the last one stopped.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import click

import onnx_grow as og

GROWTHS = {
    "widen x2": lambda model, shapes: og.widen(model, factor=2, shapes=shapes),
    "widen x1.5": lambda model, shapes: og.widen(model, factor=1.5, shapes=shapes),
    "deepen": lambda model, shapes: og.deepen(model, shapes=shapes),
    "both": lambda model, shapes: og.deepen(og.widen(model, factor=2, shapes=shapes), shapes=shapes),
}


def legal_shapes(file: Path) -> dict[str, tuple[int, ...]] | None:
    """The input shapes that a manifest at or above the file's folder tells, if any."""
    for folder in file.parents[:2]:
        rows = []
        if (manifest := folder / "manifest.jsonl").exists():
            rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        elif (index := folder / "index.json").exists():
            rows = json.loads(index.read_text())
        for row in rows:
            if row.get("file", f"{row['name']}.onnx") == file.relative_to(folder).as_posix():
                return {
                    name: tuple(said["shape"]) for name, said in row["inputs"].items() if "shape" in said
                } or None
    return None


def try_growth(file: Path, growth: str) -> dict[str, Any]:
    """Grow one model one way, write it, and verify the file."""
    result: dict[str, Any] = {"model": f"{file.parent.name}/{file.stem}", "growth": growth}
    start = time.perf_counter()
    try:
        model, shapes = og.load(file), legal_shapes(file)
        grown = GROWTHS[growth](model, shapes)
        result["seconds_growing"] = round(time.perf_counter() - start, 3)
        result["parameters"] = round(grown.parameters / max(1, model.parameters), 3)
        result["nodes"] = len(grown.skeleton.graph.node) - len(model.skeleton.graph.node)
        with tempfile.TemporaryDirectory() as folder:
            report = og.verify(model, og.save(grown, Path(folder) / "grown.onnx"), shapes=shapes)
        result["ratio"] = report.ratio
        result["status"] = "preserved" if report.ok else "WRONG"
        if not report.ok:
            result["why"] = str(report)
    except og.OnnxGrowError as error:
        result |= {"status": f"refused ({type(error).__name__})", "why": str(error)}
    except Exception:  # a traceback is the one thing this benchmark exists to find
        result |= {"status": "TRACEBACK", "why": traceback.format_exc()[-2000:]}
    result["seconds"] = round(time.perf_counter() - start, 3)
    return result


@click.command(help=__doc__)
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--to", "results", type=click.Path(path_type=Path), default=Path("coverage.jsonl"), show_default=True
)
@click.option(
    "--largest", type=float, default=100.0, show_default=True, help="Megabytes of the largest file to take."
)
def main(sources: tuple[Path, ...], results: Path, largest: float) -> None:
    """Run, and print a table with a total."""
    files = sorted(
        f
        for s in sources
        for f in ([s] if s.is_file() else s.rglob("*.onnx"))
        if f.stat().st_size < largest * 1e6
    )
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["model"], row["growth"]) for row in rows}
    with results.open("a") as out, click.progressbar(files, file=sys.stderr) as bar:
        for file in bar:
            for growth in GROWTHS:
                if (f"{file.parent.name}/{file.stem}", growth) not in done:
                    rows.append(try_growth(file, growth))
                    out.write(json.dumps(rows[-1]) + "\n")
                    out.flush()
    for row in rows:
        figures = (
            f"ratio {row['ratio']:.2f}, {row['nodes']} new nodes, {row['seconds']:.1f} s"
            if "ratio" in row
            else ""
        )
        click.echo(
            f"{row['model']:45} {row['growth']:10} {row['status']:12} {figures} {row.get('why', '')[:300]}"
        )
    for growth in GROWTHS:
        mine = [row for row in rows if row["growth"] == growth]
        ratios = sorted(row["ratio"] for row in mine if row["status"] == "preserved")
        middle = f"ratio median {ratios[len(ratios) // 2]:.2f}, largest {ratios[-1]:.2f}" if ratios else ""
        click.echo(f"{growth}: {dict(Counter(row['status'] for row in mine))} {middle}")


if __name__ == "__main__":
    main()
