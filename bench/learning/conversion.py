"""Convert many models to PyTorch, train them a little, write them back, and compare with ONNX Runtime each time; or grow them and
look whether all of them learns.

    python bench/learning/conversion.py MODEL_OR_FOLDER ... [--to RESULTS.jsonl] [--only GLOB] [--largest MB] [--steps N] [--again GLOB]
    python bench/learning/conversion.py --grown --steps 100 MODEL_OR_FOLDER ...

Every model is loaded with `onnx_grow.torch.load` and compared with ONNX Runtime on made-up inputs (`equal`), and saved as it is:
all tensors must come back bit for bit (`lossless`). Then it is trained in train() mode for a number of SGD steps towards a random
target (fewer where they take longer than --training), saved, and compared again (`trained`). Legal input shapes come from a manifest
beside the models, as for bench/coverage.py. Small models come first, every one in a process of its own; one line per model goes to
RESULTS.jsonl, and a rerun goes on where the last one stopped.

With --grown each is widened and deepened instead, as `onnx-grow widen` and `deepen` do without options, and `check-trainable --teacher`
says whether the growth learns: whether gradients reach it in two steps, and whether copies differ after --steps.

A model that ONNX Runtime itself does not run counts neither way.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import torch

import onnx_grow as og
import onnx_grow.torch
from onnx_grow.model.tensors import held
from onnx_grow.torch.equality import TOLERANCE, compare
from onnx_grow.torch.network import Network
from onnx_grow.torch.values import tensor_of
from onnx_grow.training import check_learning
from onnx_grow.training.checks import made_up_goal, trial_inputs
from onnx_grow.verification.inputs import signature
from onnx_grow.verification.trials import Trials

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import isolated
from coverage import GROWTHS, Shapes, answered, legal_shapes

CHECKED = ("widen x2", "deepen")


def outcome(file: Path, steps: int, seeds: int, limit: float) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shapes, row = legal_shapes(file), {}
    start = time.process_time()
    with answered(row):
        model = og.load(file)
        network = og.torch.load(model, verify=False)
        row["lossless"] = lossless(network, model)
        row["parameters"] = sum(p.numel() for p in network.parameters())
        row["ratio"] = worst(network, model, shapes, seeds)
        row["status"] = "equal" if row["ratio"] <= TOLERANCE else "WRONG"
    row["seconds"] = round(time.process_time() - start, 2)
    yield dict(row)
    if row["status"] == "equal" and row["parameters"] and steps:
        with answered(trained := {}):
            trained["trained"] = round_trip(network, model, shapes, steps, seeds, limit)
        yield {**row, **({"trained": "ERROR", "why": trained["why"]} if "status" in trained else trained)}


def grown_outcome(file: Path, steps: int, limit: float) -> Iterator[dict[str, Any]]:
    """Whether what is widened learns, and what is deepened."""
    torch.set_num_threads(1)
    shapes, row = legal_shapes(file), {}
    with answered(row):
        model = og.load(file)
        row["status"] = "loaded"
    yield dict(row)
    for growth in CHECKED if row["status"] == "loaded" else ():
        row[growth] = {}
        with answered(row[growth]):
            row[growth] |= learning(GROWTHS[growth](model, shapes), model, shapes, steps, limit)
        yield dict(row)


def learning(grown: og.Model, teacher: og.Model, shapes: Shapes, steps: int, limit: float) -> dict[str, Any]:
    """What check-trainable says of a grown model, after as many steps as fit into `limit` seconds, ten at least."""
    network = onnx_grow.torch.load(grown, verify=False)
    loss = made_up_goal(trial_inputs(grown, shapes=shapes))
    start = time.process_time()
    loss(network, 0).backward()
    steps = min(steps, max(10, int(limit / max(time.process_time() - start, 1e-3))))
    report = check_learning(grown, network, loss, teacher, steps=steps)
    return {
        "status": "learns" if report.ok else "FAILED",
        "why": "; ".join(f"{check.name}: {check.detail}" for check in report.checks if not check.ok),
        "steps": steps,
        "warnings": list(report.warnings),
        "grown": round(grown.parameters / max(1, teacher.parameters), 3),
    }


def worst(network: Network, model: og.Model, shapes: Shapes, seeds: int) -> float:
    outputs = compare(network, model, shapes=shapes, seeds=seeds)
    return max(0.0 if output.excused else output.ratio for output in outputs)


def lossless(network: Network, model: og.Model) -> bool:
    """Whether a network that has not been trained puts all tensors back as they were, bit for bit."""
    saved = onnx_grow.torch.save(network)
    return all(
        (old.key, old.dtype, old.shape) == (new.key, new.dtype, new.shape)
        and old.array().tobytes() == new.array().tobytes()
        for old, new in zip(held(model), held(saved), strict=True)
        if old.is_written
    )


def round_trip(
    network: Network, model: og.Model, shapes: Shapes, steps: int, seeds: int, limit: float
) -> dict[str, Any]:
    """Train towards outputs that are a little off, save, and compare the saved model with the network.

    After two steps it is known how many of them fit into `limit` seconds.
    """
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    inputs = {name: tensor_of(array) for name, array in legal_feed(network, model, shapes).items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    targets: list[torch.Tensor] = []
    taken, losses, start = 0, [], time.process_time()
    network.train()
    while taken < steps:
        outputs = [y for y in tensors(network(**inputs)) if y.is_floating_point() and y.requires_grad]
        if not outputs:
            return {"steps": 0, "told": "no output depends on a parameter"}
        targets = targets or [
            y.detach() + y.detach().std(correction=0) * torch.randn_like(y) for y in outputs
        ]
        loss = sum(((y - t).float() ** 2).nan_to_num().mean() for y, t in zip(outputs, targets, strict=True))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        taken += 1
        losses.append(loss.item())
        if taken == 2:
            steps = min(steps, max(2, int(2 * limit / max(time.process_time() - start, 1e-3))))
    reached = [name for name, p in network.named_parameters() if p.grad is not None]
    finite = all(torch.isfinite(p).all() for p in network.parameters())
    moved = sum(not torch.equal(p, before[name]) for name, p in network.named_parameters())
    found: dict[str, Any] = {
        "steps": taken,
        "loss": [losses[0], losses[-1]],
        "gradient": round(len(reached) / len(before), 3),
        "moved": round(moved / len(before), 3),
        "finite": finite,
    }
    if finite:
        ratio = worst(network.eval(), onnx_grow.torch.save(network), shapes, seeds)
        found |= {"ratio": ratio, "ok": ratio <= TOLERANCE}
    return found


def legal_feed(network: Network, model: og.Model, shapes: Shapes) -> dict[str, Any]:
    """Inputs that the model runs with: two samples where the file allows it."""
    import tempfile

    from onnx_grow.verification import choose
    from onnx_grow.verification.reference import Stage
    from onnx_grow.verification.sessions import opened
    from onnx_grow.verification.trials import made_up

    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(choose("cpu"), Path(folder))
        with opened(stage.file(model, "original"), stage.device, optimised=False) as session:
            trials = Trials(session.run)
            made_up(trials, model, signature(model), shapes, 1)
            return dict(max(trials.feeds, key=lambda feed: sum(a.size for a in feed.arrays.values())).arrays)


def tensors(results: Any) -> list[torch.Tensor]:
    flat = results if isinstance(results, tuple) else (results,)
    return [
        y
        for each in flat
        for y in (each if isinstance(each, list) else [each])
        if isinstance(y, torch.Tensor)
    ]


@click.command(help=__doc__)
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--to", "results", type=click.Path(path_type=Path), default=Path("conversion.jsonl"), show_default=True
)
@click.option("--only", default="*", help="Take only models whose FOLDER/NAME matches this glob.")
@click.option(
    "--largest", type=float, default=100.0, show_default=True, help="Megabytes of the largest file to take."
)
@click.option("--steps", type=int, default=50, show_default=True, help="Training steps.")
@click.option(
    "--seeds", type=int, default=2, show_default=True, help="Sets of made-up inputs to compare with."
)
@click.option("--seconds", type=float, default=300.0, show_default=True, help="Time for one model.")
@click.option("--training", type=float, default=15.0, show_default=True, help="Time for its training steps.")
@click.option("--gigabytes", type=float, default=8.0, show_default=True, help="Memory for one model.")
@click.option("--grown", is_flag=True, help="Grow every model, and look whether the growth learns.")
@click.option("--again", default="", help="Do models again whose status matches this glob.")
def main(
    sources: tuple[Path, ...],
    results: Path,
    only: str,
    largest: float,
    steps: int,
    seeds: int,
    seconds: float,
    training: float,
    gigabytes: float,
    grown: bool,
    again: str,
) -> None:
    """Run, and print what is not equal, and totals."""
    files = {
        name: file
        for source in sources
        for file in ([source] if source.is_file() else source.resolve().rglob("*.onnx"))
        if file.stat().st_size < largest * 1e6 and fnmatch(name := named(file, source), only)
    }
    rows = (
        {row["model"]: row for row in map(json.loads, results.read_text().splitlines())}
        if results.exists()
        else {}
    )
    isolated.prepare("onnx_grow.torch", "onnxruntime")
    work, options = (grown_outcome, (steps, training)) if grown else (outcome, (steps, seeds, training))
    with (
        results.open("a") as out,
        click.progressbar(
            sorted(files, key=lambda name: files[name].stat().st_size),
            file=sys.stderr,
            item_show_func=lambda name: name,
        ) as bar,
    ):
        for name in bar:
            if name in rows and not fnmatch(rows[name]["status"], again):
                continue
            row: dict[str, Any] = {}
            try:
                for found in isolated.results(
                    work, files[name], *options, seconds=seconds, gigabytes=gigabytes
                ):
                    row = found
            except isolated.Died as died:
                row |= {"trained": "DIED"} if row else {"status": "DIED"}
                row["why"] = str(died)
            rows[name] = {"model": name, **row}
            out.write(json.dumps(rows[name]) + "\n")
            out.flush()
    (summarise_growths if grown else summarise)(list(rows.values()))


def named(file: Path, source: Path) -> str:
    """A model's name in the results: its folders from the given one on."""
    return (
        file.relative_to(source.resolve().parent if source.is_dir() else file.parent.parent)
        .with_suffix("")
        .as_posix()
    )


def summarise(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["status"] != "equal" or isinstance(row.get("trained"), str):
            click.echo(
                f"{row['model']:45} {row['status']:12} {row.get('trained', '')} {row.get('why', '')[-300:]}"
            )
    counts = Counter(row["status"] for row in rows)
    runs = sum(count for status, count in counts.items() if "InvalidModelError" not in status)
    trained = [row["trained"] for row in rows if isinstance(row.get("trained"), dict)]
    whole = [each for each in trained if "ok" in each]
    click.echo(f"{dict(counts)}; equal: {counts['equal']} of {runs} ({counts['equal'] / max(runs, 1):.1%})")
    loaded = [row["lossless"] for row in rows if "lossless" in row]
    click.echo(f"written back untrained: {sum(loaded)} of {len(loaded)} bit for bit")
    click.echo(
        f"trained and written back: {sum(each['ok'] for each in whole)} of {len(whole)} equal; "
        f"{len(trained) - len(whole)} without a finite result; "
        f"steps: {dict(sorted(Counter(each['steps'] for each in whole).items(), reverse=True))}"
    )


def summarise_growths(rows: list[dict[str, Any]]) -> None:
    for growth in CHECKED:
        found = [(row["model"], row[growth]) for row in rows if "status" in row.get(growth, {})]
        for model, each in found:
            if each["status"] != "learns":
                click.echo(f"{model:45} {growth:9} {each['status']:12} {each['why'][-300:]}")
        counts = Counter(each["status"] for _, each in found)
        checked = counts["learns"] + counts["FAILED"]
        click.echo(
            f"{growth}: {counts['learns']} of {checked} learn ({counts['learns'] / max(checked, 1):.1%}); {dict(counts)}"
        )
    for row in rows:
        if "why" in row:
            click.echo(f"{row['model']:45} {row.get('status', '')} {row['why'][-300:]}")


if __name__ == "__main__":
    main()
