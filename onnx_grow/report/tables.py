"""The one look of all tables: no borders, so that they can be read, copied, and cut with other tools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_PROSE = ("because", "differs", "inserted", "written by", "read by")

_LABEL = len("check again")
"""Columns of the labels of facts: those of the longest one."""


def columns(*names: str, rows: Iterable[Sequence[str]]) -> Table:
    """A table with a heading; a column whose name ends in `>` is aligned to the right.

    Only columns of prose and of lists are folded: names are to be copied.
    """
    from rich.cells import cell_len
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    cells: list[Sequence[str]] = [[name.rstrip(">") for name in names], *rows]
    for name, column in zip(names, zip(*cells, strict=True), strict=True):
        table.add_column(
            name.rstrip(">"),
            justify="right" if name.endswith(">") else "left",
            overflow="fold",
            min_width=None if name in _PROSE else max(map(cell_len, column)),
        )
    for row in cells[1:]:
        table.add_row(*row)
    return table


def facts(pairs: list[tuple[str, str]], *, whole: bool = False) -> Table:
    """Labels and what there is to say under them: if `whole`, on one line each however narrow the screen, to be copied."""
    from rich.cells import cell_len
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    table.add_column(style="dim", no_wrap=True, min_width=_LABEL)
    longest = max(cell_len(text) for _, text in pairs)
    table.add_column(overflow="fold", min_width=longest if whole else None)
    for label, text in pairs:
        table.add_row(label, text)
    return table
