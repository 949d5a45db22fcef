"""How a training went: a table of numbers for programs, and a picture for people."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx_grow.training.files import replacing
from onnx_grow.training.requirements import require

__all__ = ["Curves", "Row", "draw", "write_table"]

EVERY = 20.0
"""Seconds between two pictures: a small epoch takes less time than its picture."""

Row = Mapping[str, float]
"""What is known after an epoch, by name: epoch 0 is the start."""


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as staged, staged.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


class Curves:
    """The picture of a training that goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._due = time.monotonic() + EVERY

    def show(self, rows: Sequence[Row], measures: Sequence[str], *, now: bool = False) -> None:
        """Draw what is known, if the last picture is some time old or it shall be `now`. The first row has the teacher's numbers."""
        if now or time.monotonic() >= self._due:
            draw(self._path, rows, {name: rows[0][f"teacher_{name}"] for name in measures})
            self._due = time.monotonic() + EVERY


def draw(path: Path, rows: Sequence[Row], teacher: Mapping[str, float]) -> None:
    """Draw every number that is evaluated over the epochs, with the teacher's as a line to reach; the format is that of the ending."""
    require("matplotlib", "the plot of the training")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(teacher), 3.6), layout="constrained")
    for axes, (name, level) in zip(
        figure.subplots(1, len(teacher), squeeze=False)[0], teacher.items(), strict=True
    ):
        for part, style in (("train", ":"), ("test", "-")):
            points = [(row["epoch"], row[f"{part}_{name}"]) for row in rows if f"{part}_{name}" in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, marker=".", label=part)
        axes.axhline(level, color="grey", linewidth=1, label="teacher")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="epoch", title=name)
        axes.legend()
    with replacing(path) as staged:
        figure.savefig(staged)
