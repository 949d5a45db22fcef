"""Write docs/coverage.md from what `bench/coverage.py` found.

    python bench/zoo/table.py RESULTS.jsonl ... [--zoo FOLDER] [--to docs/coverage.md] [--date DATE]

FOLDER is where `bench/zoo/export.py` put the models; its manifest tells their exporters, opsets and what could not be exported.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path.home() / ".cache" / "onnx-grow" / "zoo"
MAIN = ("widen x2", "widen x1.5", "deepen", "composed")
TARGETS = {"torchvision": 100.0, "timm": 98.0, "transformers": 98.0}
"""Per cent of a source's models to be widened and deepened; 95 for the others."""
SIGNS = {"preserved": "✓", "WRONG": "**wrong**", "TRACEBACK": "**traceback**", "DIED": "no result"}

Row = Mapping[str, Any]
Model = dict[str, Row]


def page(rows: Iterable[Row], manifest: Iterable[Row], versions: Mapping[str, str], date: str) -> str:
    """The page, from the rows of `bench/coverage.py` and the manifest of `bench/zoo/export.py`."""
    models: dict[str, dict[str, Model]] = {}
    commits: Counter[str] = Counter()
    for row in rows:
        if row["status"]:
            source, _, name = row["model"].partition("/")
            models.setdefault(source, {}).setdefault(name, {})[row["growth"]] = row
            commits[row["commit"]] += 1
    exports = {row["file"].removesuffix(".onnx"): row for row in manifest}
    counts = Counter(name.partition("/")[0] for name, row in exports.items() if "error" not in row)
    lines = [*introduction(versions, commits, date), "", "## Summary", "", *summary(models, counts), ""]
    lines += ["## What was refused", "", *refusals(models), ""]
    for source in sorted(models):
        lines += [f"## {source}", "", *table(source, models[source], exports), ""]
    failed = {name: row["error"] for name, row in exports.items() if "error" in row}
    if failed:
        lines += ["## Not exported", "", *not_exported(failed), ""]
    return "\n".join(lines)


def introduction(versions: Mapping[str, str], commits: Counter[str], date: str) -> list[str]:
    """What was done, with what, when and where."""
    told = ", ".join(f"{package} {number}" for package, number in versions.items())
    return [
        "# Coverage",
        "",
        "Written by `bench/zoo/table.py`; not to be edited. [bench/zoo](../bench/zoo/README.md) tells how to do it again.",
        "",
        "Every network is exported with random weights, grown, written, and compared with the original in ONNX Runtime on the CPU: an",
        "output may deviate by three times the original's own rounding noise. *ratio* is deviation over noise (correct growths lie near 1,",
        "0 is equal to the bit), *float64* the relative deviation in double precision, where the network is small enough to compute it.",
        "",
        "*x2* and *x1.5* widen channels; *composed* widens by 2, deepens, and widens by 1.25; *alone* are the kinds of axes that grew by",
        "themselves (and count as widened for networks that have no others). *share* is the part of the parameters of convolutions and",
        "matrix products that is in an axis that can grow; *nodes* the graph's, *inserted* the nodes that widening by 2 added; *seconds*",
        "is what widening by 2 took. What is empty was not tried yet.",
        "",
        "    python bench/zoo/export.py torchvision timm transformers keras sklearn jax",
        "    python bench/coverage.py ~/.cache/onnx-grow/zoo --to zoo.jsonl",
        "    python bench/zoo/table.py zoo.jsonl",
        "",
        f"{date}, onnx-grow at {', '.join(f'{commit} ({n} results)' for commit, n in commits.most_common())}; "
        f"{os.cpu_count()} cores, CPU, {platform.system()} {platform.machine()}; {told}.",
    ]


def summary(models: Mapping[str, Mapping[str, Model]], exported: Counter[str]) -> list[str]:
    """One line per source; `exported` counts its models, of which some may not have been grown yet."""
    head = (
        "source",
        "exported",
        "grown",
        *MAIN,
        "widened and deepened",
        "kinds alone",
        "wrong",
        "share",
        "inserted",
    )
    lines = _rows((*head, "ratio", "float64", "seconds"), "lrrrrrrrrrrrrrr")
    for source in sorted(models):
        mine = list(models[source].values())
        alone = [row for model in mine for growth, row in model.items() if growth.startswith("only ")]
        wide = [model["widen x2"] for model in mine if _kept(model, "widen x2")]
        every = [row for model in mine for row in model.values()]
        proofs = [row["float64"] for row in every if row.get("float64") is not None]
        ratios = [row["ratio"] for row in wide if row.get("ratio") is not None]
        shares = [
            model["inspect"]["share"] for model in mine if model.get("inspect", {}).get("share") is not None
        ]
        cells = [
            source,
            str(exported[source]),
            str(len(mine)),
            *(_part(mine, growth) for growth in MAIN),
            f"{_part(mine, 'widen x2', 'deepen')}, target {TARGETS.get(source, 95.0):g} %",
            f"{sum(row['status'] == 'preserved' for row in alone)} of {len(alone)}",
            str(sum(row["status"] in ("WRONG", "TRACEBACK") for row in every)),
            f"{100 * median(shares):.1f} %" if shares else "",
            f"{median(row['inserted'] for row in wide):g}, most {max(row['inserted'] for row in wide)}"
            if wide
            else "",
            f"{median(ratios):.2f}, most {max(ratios):.2f}" if ratios else "",
            f"{len(proofs)} results, most {max(proofs):.0e}" if proofs else "",
            f"{median(row['seconds'] for row in wide):.2f}" if wide else "",
        ]
        lines.append(_row(cells))
    return lines


def refusals(models: Mapping[str, Mapping[str, Model]]) -> list[str]:
    """Every growth of the main ones that did not succeed, with its reason."""
    lines = [
        f"- {source}/{name}, {growth}: {_sign(model[growth])}, {_brief(model[growth].get('why', ''))}"
        for source in sorted(models)
        for name, model in sorted(models[source].items())
        for growth in model
        if model[growth]["status"] not in ("ok", "preserved")
    ]
    return lines or ["Nothing."]


def table(source: str, models: Mapping[str, Model], exports: Mapping[str, Row]) -> list[str]:
    """One line per model of a source."""
    head = ("model", "exporter", "opset", "parameters", "nodes", "share", *MAIN, "alone", "inserted", "ratio")
    lines = _rows((*head, "float64", "seconds"), "llrrrrccccl" + "rrrr")
    for name, model in sorted(models.items()):
        export, seen, wide = (
            exports.get(f"{source}/{name}", {}),
            model.get("inspect", {}),
            model.get("widen x2", {}),
        )
        alone = [growth.removeprefix("only ") for growth in model if growth.startswith("only ")]
        cells = [
            name.partition("@")[0],
            export.get("exporter", ""),
            str(export.get("opset", "")),
            f"{seen['parameters']:,}" if "parameters" in seen else "",
            str(seen.get("nodes", "")),
            f"{100 * seen['share']:.1f} %" if seen.get("share") is not None else "",
            *(_sign(model[growth]) if growth in model else "" for growth in MAIN),
            ", ".join(
                kind if _kept(model, f"only {kind}") else f"{kind}: {_sign(model[f'only {kind}'])}"
                for kind in alone
            ),
            str(wide.get("inserted", "")),
            f"{wide['ratio']:.2f}" if wide.get("ratio") is not None else "",
            f"{wide['float64']:.0e}" if wide.get("float64") is not None else "",
            f"{wide['seconds']:.2f}" if "seconds" in wide else "",
        ]
        lines.append(_row(cells))
    return lines


def not_exported(failed: Mapping[str, str]) -> list[str]:
    """The models that their own framework did not export."""
    return [f"- {name}: {_brief(error)}" for name, error in sorted(failed.items())]


def _part(models: Sequence[Model], *growths: str) -> str:
    """How many models grew in all these ways, of those where they were tried."""
    tried = [model for model in models if all(growth in model for growth in growths)]
    kept = sum(all(_grew(model, growth) for growth in growths) for model in tried)
    return f"{kept} of {len(tried)} ({100 * kept / len(tried):.1f} %)" if tried else ""


def _grew(model: Model, growth: str) -> bool:
    """Whether it grew that way; a network that has only heads to widen may have been widened in these alone."""
    alone = growth == "widen x2" and any(_kept(model, other) for other in model if other.startswith("only "))
    return alone or _kept(model, growth)


def _kept(model: Model, growth: str) -> bool:
    return model.get(growth, {}).get("status") == "preserved"


def _sign(row: Row) -> str:
    return SIGNS.get(row["status"], "refused" if row["status"].startswith("refused") else row["status"])


def _brief(text: str) -> str:
    """The first line of a message, at most 200 characters, without what Markdown would take for markup."""
    line = next(iter(text.splitlines()), "")
    line = line if len(line) <= 200 else line[:199] + "…"
    return line.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _rows(head: Sequence[str], columns: str) -> list[str]:
    rule = {"l": ":--", "r": "--:", "c": ":-:"}
    return [_row(head), _row([rule[column] for column in columns])]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@click.command(help=__doc__)
@click.argument("results", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--zoo", type=click.Path(path_type=Path), default=CACHE, show_default=True)
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    default=ROOT / "docs" / "coverage.md",
    show_default=True,
)
@click.option("--date", default=datetime.now(UTC).date().isoformat(), help="Instead of today's.")
def main(results: tuple[Path, ...], zoo: Path, target: Path, date: str) -> None:
    """Write the page."""
    versions = {package: version(package) for package in ("onnx", "onnxruntime-gpu", "numpy")}
    if (told := zoo / "versions.json").exists():
        versions |= json.loads(told.read_text())
    rows = [row for file in results for row in _read(file)]
    target.write_text(page(rows, _read(zoo / "manifest.jsonl"), versions, date))
    click.echo(f"{target}: {len({row['model'] for row in rows})} models")


if __name__ == "__main__":
    main()
