"""Does a grown network learn? Trains small networks grown by every scheme, and the baselines, and writes what came of it into the docs.

    python bench/learning [--to FOLDER] [--part NAME ...] [--no-runs]

Every learning rate is searched the same way: on a grid of half powers of ten, by the loss of seed 0, and then two more seeds. What is in
FOLDER/runs.jsonl already is not done again, so that an interrupted experiment goes on where it stopped. Needs onnx-grow[torch],
scikit-learn and matplotlib; one core, three hours.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from networks import TASKS
from report import write
from runs import PARTS, SEEDS, Bench

CHECKED = (
    ("wider x2", "auto"),
    ("wider x4", "auto"),
    ("wider x2", "fresh"),
    ("wider x2", "split"),
    ("deeper", "default"),
)
DOCS = Path(__file__).resolve().parents[2] / "docs"


@click.command(help=__doc__)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("learning"),
    help="Where results are kept.",
)
@click.option(
    "--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Only these comparisons."
)
@click.option("--no-runs", is_flag=True, help="Write tables and plots of the results that are there.")
def main(folder: Path, parts: tuple[str, ...], no_runs: bool) -> None:
    torch.set_num_threads(1)
    bench = Bench(folder)
    for name in () if no_runs else parts or PARTS:
        bench.compare(PARTS[name])
    if not (no_runs or parts):
        for task, (growth, scheme), seed in product(TASKS.values(), CHECKED, SEEDS):
            bench.check(task, growth, scheme, seed)
    write(bench.results.values(), bench.checks, DOCS)


main()
