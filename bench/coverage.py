"""Grow and verify many models, and write down what happened to each.

    python bench/coverage.py MODEL_OR_FOLDER ... [--to RESULTS.jsonl] [--only GLOB] [--largest MB] [--seconds S] [--gigabytes GB]

Each model is widened by 2 and by 1.5, each kind of axes alone by 2, deepened, and widened, deepened and widened again; every result is
written, verified and compared with the rounding noise of its original, small models in float64, too. A `manifest.jsonl` or `index.json`
beside the models may tell legal input shapes ({"file" or "name": ..., "inputs": {input: {"shape": [...]}}}). Every model has a process
of its own, and every growth its time. One line per model and growth goes to RESULTS.jsonl; a rerun goes on where the last one stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from inspect import signature
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import click

import onnx_grow as og
from onnx_grow.axes.algebra import leaves
from onnx_grow.axes.inference import Analysis, infer
from onnx_grow.axes.table import KINDS, tabulate
from onnx_grow.model import flattened, inlined, unlisted
from onnx_grow.operators import RULES
from onnx_grow.shapes import infer as infer_shapes
from onnx_grow.verification import Standard, choose
from onnx_grow.verification.reference import Stage
from onnx_grow.verification.replay import replay

sys.path.insert(0, str(Path(__file__).resolve().parent))
import isolated

Shapes = dict[str, tuple[int, ...]] | None
Growth = Callable[[og.Model, Shapes], og.Model]

GROWTHS: dict[str, Growth] = {
    "widen x2": lambda model, shapes: og.widen(model, factor=2, shapes=shapes),
    "widen x1.5": lambda model, shapes: og.widen(model, factor=1.5, shapes=shapes),
    "deepen": lambda model, shapes: og.deepen(model, shapes=shapes),
    "composed": lambda model, shapes: og.widen(
        og.deepen(og.widen(model, factor=2, shapes=shapes), shapes=shapes), factor=1.25, shapes=shapes
    ),
    **{
        f"only {kind}": lambda model, shapes, kind=kind: og.widen(model, factor=2, kind=kind, shapes=shapes)
        for kind in KINDS
    },
}
DEFAULT_KINDS = frozenset(signature(og.widen).parameters["kind"].default)
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVES = ("Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear")
COMMIT = subprocess.run(
    ["git", "describe", "--always", "--dirty"],
    cwd=Path(__file__).parent,
    capture_output=True,
    text=True,
    check=False,
).stdout.strip()


def legal_shapes(file: Path) -> Shapes:
    """The input shapes that a manifest at or above the file's folder tells, if any."""
    for folder in file.parents[:2]:
        rows = []
        if (manifest := folder / "manifest.jsonl").exists():
            rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        elif (index := folder / "index.json").exists():
            rows = json.loads(index.read_text())
        for row in rows:
            if (
                row.get("file", f"{row['name']}.onnx") == file.relative_to(folder).as_posix()
                and "inputs" in row
            ):
                return {
                    name: tuple(said["shape"]) for name, said in row["inputs"].items() if "shape" in said
                } or None
    return None


def outcomes(file: Path, wanted: str, seeds: int, done: frozenset[str]) -> Iterator[dict[str, Any]]:
    """One row for what can grow in a model, and one per growth that is not done; before each, a row that only names it."""
    yield {"growth": "inspect"}
    shapes = legal_shapes(file)
    row: dict[str, Any] = {}
    with answered(row):
        model = og.load(file)
        row |= inspected(model, shapes)
    yield {"growth": "inspect", **row}
    if row["status"] != "ok":
        return
    alone = row["kinds"] if len(row["kinds"]) > 1 or not DEFAULT_KINDS & row["kinds"].keys() else ()
    with tempfile.TemporaryDirectory() as folder:
        standard = Standard(model, Stage(choose("auto"), Path(folder)), shapes=shapes, seeds=seeds)
        for growth in [g for g in GROWTHS if not g.startswith("only") or g.removeprefix("only ") in alone]:
            if growth not in done and fnmatch(growth, wanted):
                yield {"growth": growth}
                yield {"growth": growth, **grown(model, shapes, GROWTHS[growth], standard)}


def inspected(model: og.Model, shapes: Shapes) -> dict[str, Any]:
    """What can grow: axes by kind, and the share of the parameters of linear layers that are in a growable axis."""
    model = flattened(unlisted(inlined(model)))
    start = time.perf_counter()
    analysis = infer(model, infer_shapes(model, shapes), RULES)
    table = tabulate(analysis)
    seconds = time.perf_counter() - start
    total, growable = linear_parameters(analysis)
    frozen: Counter[str] = Counter()
    for axis in table.frozen:
        frozen[axis.reasons[0]] += axis.parameters
    return {
        "status": "ok",
        "seconds": round(seconds, 3),
        "parameters": model.parameters,
        "nodes": len(model.skeleton.graph.node),
        "kinds": dict(Counter(axis.kind for axis in table.growable)),
        "linear": total,
        "share": round(growable / total, 4) if total else None,
        "frozen": [reason for reason, _ in frozen.most_common(5)],
        "refused": list(table.refused)[:5],
    }


def linear_parameters(analysis: Analysis) -> tuple[int, int]:
    """How many elements the weights of convolutions and matrix products have, and how many of these have an axis that can grow."""
    makers = {out: node for node in analysis.model.skeleton.graph.node for out in node.output}
    sizes: dict[str, int] = {}
    grows: set[str] = set()
    for index, rule in enumerate(analysis.rules):
        proto = analysis.topology.proto(index)
        for i, name in enumerate(proto.input) if proto.op_type in LINEAR else ():
            while name in makers and makers[name].op_type in MOVES:
                name = makers[name].input[0]
            if name in analysis.constants and (i == 1 or proto.op_type == "MatMul"):
                sizes[name] = prod(analysis.shapes.shape[name])
                dims = analysis.input_dims(index, i) or ()
                if rule and any(not leaf.frozen for dim in dims for leaf in leaves(dim)):
                    grows.add(name)
    return sum(sizes.values()), sum(sizes[name] for name in grows)


def grown(model: og.Model, shapes: Shapes, growth: Growth, standard: Standard) -> dict[str, Any]:
    """Grow one model one way, write it, and verify the file."""
    row: dict[str, Any] = {}
    start = time.perf_counter()
    with answered(row), tempfile.TemporaryDirectory() as folder:
        bigger = growth(model, shapes)
        row["seconds"] = round(time.perf_counter() - start, 3)
        row["parameters"] = round(bigger.parameters / max(1, model.parameters), 3)
        row["inserted"] = len(bigger.skeleton.graph.node) - len(model.skeleton.graph.node)
        file = og.load(og.save(bigger, Path(folder) / "grown.onnx"))
        report, replayed = standard.compare(file), replay(model, file)
        row["ratio"], row["float64"] = report.to_json()["ratio"], report.float64
        row["warnings"] = [w for w in report.warnings if "proves nothing" in w or "says little" in w]
        row["replay"] = replayed and replayed.same
        row["status"] = "preserved" if report.ok and row["replay"] else "WRONG"
        if row["status"] == "WRONG":
            row["why"] = f"{report}\n{replayed and replayed.told}"
    row["seconds_all"] = round(time.perf_counter() - start, 3)
    return row


class answered(suppress):
    """Within it, an error becomes the row's status and reason."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(Exception)
        self.row = row

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if isinstance(error, og.OnnxGrowError):
            self.row |= {"status": f"refused ({type(error).__name__})", "why": str(error)}
        elif error is not None:  # a traceback is the one thing this benchmark exists to find
            self.row |= {"status": "TRACEBACK", "why": "".join(traceback.format_exception(error))[-2000:]}
        return super().__exit__(kind, error, trace)


def rows_of(
    file: Path, choices: tuple[str, int], done: set[str], seconds: float, gigabytes: float
) -> Iterator[dict[str, Any]]:
    """The rows of one model; a growth that takes its process down gets a row that says so, and the others go on."""
    while True:
        current = "inspect"
        try:
            for row in isolated.results(
                outcomes, file, *choices, frozenset(done), seconds=seconds, gigabytes=gigabytes
            ):
                current = row["growth"]
                if "status" in row and current not in done:
                    done.add(current)
                    yield row
            return
        except isolated.Died as died:
            yield {"growth": current, "status": "DIED", "why": str(died)}
            if current in done or current == "inspect":
                return
            done.add(current)


@click.command(help=__doc__)
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--to", "results", type=click.Path(path_type=Path), default=Path("coverage.jsonl"), show_default=True
)
@click.option("--growth", default="*", help="Do only growths whose name matches this glob.")
@click.option(
    "--seeds", type=int, default=2, show_default=True, help="Sets of made-up inputs to verify with."
)
@click.option("--only", default="*", help="Take only models whose FOLDER/NAME matches this glob.")
@click.option(
    "--largest", type=float, default=100.0, show_default=True, help="Megabytes of the largest file to take."
)
@click.option("--seconds", type=float, default=120.0, show_default=True, help="Time for one growth.")
@click.option("--gigabytes", type=float, default=8.0, show_default=True, help="Memory for one model.")
def main(
    sources: tuple[Path, ...],
    results: Path,
    only: str,
    growth: str,
    seeds: int,
    largest: float,
    seconds: float,
    gigabytes: float,
) -> None:
    """Run, and print a table with a total."""
    files = sorted(
        f
        for s in sources
        for f in ([s] if s.is_file() else s.rglob("*.onnx"))
        if f.stat().st_size < largest * 1e6 and fnmatch(f"{f.parent.name}/{f.stem}", only)
    )
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done: dict[str, set[str]] = {}
    for row in rows:
        done.setdefault(row["model"], set()).add(row["growth"])
    isolated.prepare("onnx_grow.growth", "onnx_grow.verification", "onnxruntime")
    with (
        results.open("a") as out,
        click.progressbar(files, file=sys.stderr, item_show_func=lambda file: file and file.stem) as bar,
    ):
        for file in bar:
            name = f"{file.parent.name}/{file.stem}"
            mine = done.get(name, set())
            if (complete := f"complete {growth}") in mine:
                continue
            for row in chain(
                rows_of(file, (growth, seeds), mine, seconds, gigabytes), [{"growth": complete, "status": ""}]
            ):
                rows.append({"model": name, **row, "commit": COMMIT})
                out.write(json.dumps(rows[-1]) + "\n")
                out.flush()
    for row in rows:
        if row["status"] not in ("ok", "preserved", ""):
            click.echo(f"{row['model']:45} {row['growth']:10} {row['status']:12} {row.get('why', '')[:300]}")
    for way in GROWTHS:
        tried = [row for row in rows if row["growth"] == way]
        ratios = sorted(row["ratio"] for row in tried if row["status"] == "preserved")
        middle = f"ratio median {ratios[len(ratios) // 2]:.2f}, largest {ratios[-1]:.2f}" if ratios else ""
        click.echo(f"{way}: {dict(Counter(row['status'] for row in tried))} {middle}")


if __name__ == "__main__":
    main()
