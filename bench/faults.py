"""Plant faults in grown models and see who notices: `onnx-grow verify`, and the checks of onnxsim, onnxslim and polygraphy.

    python bench/faults.py MODEL_OR_FOLDER ... [--each 6] [--to FAULTS.jsonl] [--largest MB]

Each model is widened and deepened; the correct growth goes to every check (a rejection is a false alarm), then `--each` faults
planted in it, one at a time: a weight off by 1 %, two channels swapped, a weight that was not divided, a bias entry dropped, another
epsilon, another axis attribute. What moves no output of the correct growth by more than 1e-12 in float64 is no fault, and is not
counted. The other tools take part where they are installed, with their own inputs and tolerances. One line per case goes to
FAULTS.jsonl; a rerun goes on where the last one stopped.

`onnx-grow verify` asks two questions, which are told apart: do the models compute the same, and is the file what its recorded growth makes
of the original?
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import shutil
import sys
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from coverage import legal_shapes
from onnx import AttributeProto

import onnx_grow as og
from onnx_grow.model import Inline, Model
from onnx_grow.shapes import infer
from onnx_grow.verification import Standard, choose
from onnx_grow.verification.inputs import signature
from onnx_grow.verification.proof import Unprovable, deviation, run_in_float64
from onnx_grow.verification.reference import Stage
from onnx_grow.verification.replay import replay

Shapes = dict[str, tuple[int, ...]] | None
Array = np.ndarray[Any, Any]

GROWTHS: dict[str, Callable[[Model, Shapes], Model]] = {
    "widen x2": lambda model, shapes: og.widen(model, factor=2, shapes=shapes),
    "widen x1.5": lambda model, shapes: og.widen(model, factor=1.5, shapes=shapes),
    "deepen": lambda model, shapes: og.deepen(model, shapes=shapes),
}
NOTHING = 1e-12
"""Relative deviation in float64 from the correct growth up to which a change is no fault."""


def weight_off(model: Model, rng: np.random.Generator) -> Model | None:
    """One entry of a weight, one that is not zero, off by 1 %."""
    return _changed(model, rng, 1, lambda array, k: array.__setitem__(k, array[k] * array.dtype.type(1.01)))


def bias_dropped(model: Model, rng: np.random.Generator) -> Model | None:
    """One entry of a vector set to zero."""
    return _changed(model, rng, 1, lambda array, k: array.__setitem__(k, 0), most=1)


def not_divided(model: Model, rng: np.random.Generator) -> Model | None:
    """A weight twice as large as it should be: the divisor of Net2WiderNet forgotten."""
    return _changed(model, rng, 2, lambda array, k: array.__imul__(array.dtype.type(2)))


def channels_swapped(model: Model, rng: np.random.Generator) -> Model | None:
    """Two different channels of a weight in each other's place."""

    def swap(array: Array, k: tuple[int, ...]) -> None:
        dim = int(rng.choice([d for d, n in enumerate(array.shape) if n > 1]))
        view = np.moveaxis(array, dim, 0)
        j = int(rng.integers(1, len(view)))
        view[[k[dim], (k[dim] + j) % len(view)]] = view[[(k[dim] + j) % len(view), k[dim]]]

    return _changed(model, rng, 1, swap)


def epsilon(model: Model, rng: np.random.Generator) -> Model | None:
    """Another epsilon in a normalization."""
    return _attribute(
        model, rng, "epsilon", lambda attribute: setattr(attribute, "f", attribute.f * 30 or 1e-3)
    )


def axis(model: Model, rng: np.random.Generator) -> Model | None:
    """Another axis."""
    return _attribute(
        model, rng, "axis", lambda attribute: setattr(attribute, "i", attribute.i - 1 if attribute.i else 1)
    )


FAULTS = (weight_off, bias_dropped, not_divided, channels_swapped, epsilon, axis)


def _changed(
    model: Model,
    rng: np.random.Generator,
    least: int,
    change: Callable[[Array, tuple[int, ...]], object],
    most: int = 9,
) -> Model | None:
    fits = [
        name
        for name, weight in model.weights.items()
        if weight.dtype in (1, 10, 11) and least <= sum(n > 1 for n in weight.shape) <= most
    ]
    for name in rng.permutation(fits)[:10]:
        array = model.weights[name].array().copy()
        places = np.argwhere(array)
        if not len(places):
            continue
        change(array, tuple(map(int, places[rng.integers(len(places))])))
        return Model(model.skeleton, {**model.weights, str(name): Inline.of(array)})
    return None


def _attribute(
    model: Model, rng: np.random.Generator, name: str, change: Callable[[AttributeProto], object]
) -> Model | None:
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    found = [a for node in skeleton.graph.node for a in node.attribute if a.name == name]
    if not found:
        return None
    change(found[rng.integers(len(found))])
    return Model(skeleton, model.weights)


def effect(references: list[dict[str, Array]], faulty: Model, feeds: list[dict[str, Array]]) -> float:
    """How far the worst output is off in float64; infinite where the model does not run."""
    try:
        pairs = zip(references, feeds, strict=True)
        return max(deviation(reference, run_in_float64(faulty, feed)) for reference, feed in pairs)
    except Unprovable:
        return float("inf")


def by_onnx_grow(original: Path, other: Path, shapes: Shapes) -> bool:
    """Whether `onnx-grow verify` accepts what is computed; its measurement of the original serves for all that is compared with it."""
    return _standard(original, tuple((shapes or {}).items())).compare(og.load(other)).ok


@lru_cache(maxsize=1)
def _standard(original: Path, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Standard:
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Standard(og.load(original), Stage(choose("cpu"), folder), shapes=dict(shapes) or None)


def by_replay(original: Path, other: Path, shapes: Shapes) -> bool:
    """Whether `onnx-grow verify` accepts the file as what its recorded growth makes."""
    replayed = replay(og.load(original), og.load(other))
    return replayed is None or replayed.same is not False


def by_onnxsim(original: Path, other: Path, shapes: Shapes) -> bool:
    """Whether onnxsim's check accepts: five inputs uniform in [0, 1), rtol 1e-4, atol 1e-5."""
    from onnxsim.model_checking import compare

    wanted = {name: list(shape) for name, shape in (shapes or {}).items()}
    return bool(compare(onnx.load(other), onnx.load(original), input_shapes=wanted, verbose=False))


def by_onnxslim(original: Path, other: Path, shapes: Shapes) -> bool:
    """Whether onnxslim's check accepts: rtol 1e-3, atol 1e-4, on one input uniform in [0, 1)."""
    import onnxruntime
    from onnxslim.utils import check_result

    feed = None
    results = []
    for path in (original, other):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feed = feed or _uniform(original, shapes)
        names = [output.name for output in session.get_outputs()]
        results.append(dict(zip(names, session.run(None, feed), strict=True)))
    return bool(check_result(*results))


def by_polygraphy(original: Path, other: Path, shapes: Shapes) -> bool:
    """Whether polygraphy accepts: one input uniform in [0, 1], rtol and atol 1e-5."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator

    runners = [OnnxrtRunner(SessionFromOnnx(str(path))) for path in (original, other)]
    results = Comparator.run(runners, data_loader=[_uniform(original, shapes)])
    return bool(Comparator.compare_accuracy(results))


def _uniform(path: Path, shapes: Shapes) -> dict[str, Array]:
    """What these tools feed, in sizes and integers that the model accepts."""
    model = og.load(path)
    wanted = signature(model)
    feed = dict(wanted.feed(dict(infer(model, shapes).inputs), 0).arrays)
    rng = np.random.default_rng(1)
    return {
        name: rng.random(a.shape).astype(a.dtype) if a.dtype.kind == "f" else a for name, a in feed.items()
    }


CHECKS = {
    "onnx-grow": by_onnx_grow,
    "replay": by_replay,
    "onnxsim": by_onnxsim,
    "onnxslim": by_onnxslim,
    "polygraphy": by_polygraphy,
}


OURS = ("onnx-grow", "replay")


def installed() -> list[str]:
    """The tools that are here."""
    from importlib.util import find_spec

    return [name for name in CHECKS if name in OURS or find_spec(name)]


def asked(check: str, original: Path, other: Path, shapes: Shapes) -> str:
    """What a check says: equal, different, or error for whatever it raises (which a gate would see as red, too)."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return "equal" if CHECKS[check](original, other, shapes) else "different"
    except Exception:  # the tools raise whatever they meet
        return "error"


Case = tuple[str, str, str]
"""A model, a growth and a fault."""


def cases(file: Path, each: int, tools: list[str], done: Collection[Case]) -> Any:
    """The lines of one model."""
    name = f"{file.parent.name}/{file.stem}"
    original, shapes = og.load(file), legal_shapes(file)
    wanted = signature(original)
    sizes = dict(infer(original, shapes).inputs)
    feeds = [dict(wanted.feed(sizes, seed).arrays) for seed in (0, 3)]
    try:
        of_original = [run_in_float64(original, feed) for feed in feeds]
    except Unprovable:
        return
    for growth, grow in GROWTHS.items():
        planned = [
            ("none", 0),
            *((fault.__name__, k) for k in range(-(-each // len(FAULTS))) for fault in FAULTS),
        ]
        planned = [
            (fault, k) for fault, k in planned[: each + 1] if (name, growth, f"{fault} {k}") not in done
        ]
        if not planned:
            continue
        try:
            grown = grow(original, shapes)
            grown = Model(grown.skeleton, {k: Inline.of(w.array()) for k, w in grown.weights.items()})
            correct = [run_in_float64(grown, feed) for feed in feeds]
        except (og.OnnxGrowError, Unprovable):
            continue
        for fault, k in planned:
            line: dict[str, Any] = {"model": name, "growth": growth, "fault": f"{fault} {k}"}
            rng = np.random.default_rng([zlib.crc32(f"{name}{growth}{fault}".encode()), k])
            faulty = grown if fault == "none" else globals()[fault](grown, rng)
            if faulty is not None:
                line["effect"] = effect(of_original if fault == "none" else correct, faulty, feeds)
                if fault == "none" or line["effect"] > NOTHING:
                    with tempfile.TemporaryDirectory() as folder:
                        path = og.save(faulty, Path(folder) / "faulty.onnx")
                        line |= {check: asked(check, file, path, shapes) for check in tools}
            yield line


@click.command(help=__doc__)
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--each", default=6, show_default=True, help="Faults per growth.")
@click.option(
    "--to", "results", type=click.Path(path_type=Path), default=Path("faults.jsonl"), show_default=True
)
@click.option(
    "--largest", type=float, default=5.0, show_default=True, help="Megabytes of the largest file to take."
)
def main(sources: tuple[Path, ...], each: int, results: Path, largest: float) -> None:
    """Run, and print a table."""
    files = sorted(
        f
        for s in sources
        for f in ([s] if s.is_file() else s.rglob("*.onnx"))
        if f.stat().st_size < largest * 1e6
    )
    known = _read(results)
    rows, tools = list(known.values()), installed()
    with results.open("a") as out, click.progressbar(files, file=sys.stderr) as bar:
        for file in bar:
            try:
                for row in cases(file, each, tools, known.keys()):
                    rows.append(row)
                    out.write(json.dumps(row) + "\n")
                    out.flush()
            except og.OnnxGrowError as error:
                click.echo(f"{file}: {error}", err=True)
    report(rows)


def _read(file: Path) -> dict[Case, dict[str, Any]]:
    lines = file.read_text().splitlines() if file.exists() else []
    return {(row["model"], row["growth"], row["fault"]): row for row in map(json.loads, lines)}


def report(rows: list[dict[str, Any]]) -> None:
    """What each tool noticed, by kind of fault, and how often it rejected what is right."""
    for row in rows:
        if "onnx-grow" in row:
            verdicts = {row[each] for each in OURS}
            row["both"] = "equal" if verdicts == {"equal"} else "different"
    tools = [tool for tool in (*OURS, "both", *CHECKS) if any(tool in row for row in rows)]
    tools = list(dict.fromkeys(tools))
    told = [row for row in rows if "onnx-grow" in row]
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in told:
        kinds[row["fault"].split()[0]].append(row)
    click.echo(f"{'':20}{'cases':>8}" + "".join(f"{tool:>14}" for tool in tools))
    for kind, mine in kinds.items():
        label = "correct, rejected" if kind == "none" else f"{kind}, noticed"
        found = [sum(row.get(tool, "equal") != "equal" for row in mine) for tool in tools]
        click.echo(f"{label:26}{len(mine):>6}" + "".join(f"{n:>14}" for n in found))
    faults = [row for row in told if not row["fault"].startswith("none")]
    found = [sum(row.get(tool, "equal") != "equal" for row in faults) for tool in tools]
    click.echo(f"{'all faults, noticed':26}{len(faults):>6}" + "".join(f"{n:>14}" for n in found))
    for row in faults:
        if row["onnx-grow"] == "equal":
            who = "nobody" if row["replay"] == "equal" else "the replay alone"
            click.echo(
                f"noticed by {who}: {row['model']} {row['growth']} {row['fault']}, effect {row['effect']}"
            )
    click.echo(
        f"without effect, not counted: {Counter(row['fault'].split()[0] for row in rows if 'onnx-grow' not in row)}"
    )


if __name__ == "__main__":
    main()
