"""Where things go: results to stdout, messages and progress to stderr, colour and motion to terminals only."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

import click

from onnx_grow.cli.documents import placed
from onnx_grow.errors import VerificationFailedError
from onnx_grow.report.figures import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnx_grow.verification import Report

SCHEMA = 1
"""Version of the documents that --json prints; it changes when a key goes away or changes its meaning."""

Advance = Callable[[int, int], None]
"""Called by long work as it proceeds: bytes done, bytes in all."""

UNBOUNDED = 4096
"""Columns where nobody looks at a screen: nothing is wrapped or cut in a pipe or a file."""


@dataclass(frozen=True)
class Screen:
    """How one command, as `invocation` was typed, shows its result: as text or JSON, in how much detail, on which stream and page."""

    command: str
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    err: bool = False
    html: str | None = None
    invocation: str = ""

    def show(self, document: Mapping[str, Any], view: RenderableType) -> None:
        """Print the document with --json, nothing with --quiet, otherwise the view; with --html, write the page as well."""
        if self.html:
            from onnx_grow.report.page import page

            text = page(_document(self.command, **document), self.invocation)
            with placed(self.html) as file:
                file.write_text(text, encoding="utf-8")
        if self.as_json:
            show_document(self.command, **document)
        elif not self.quiet:
            click.echo(_drawn(view, sys.stderr if self.err else sys.stdout), err=self.err, color=True)

    def end(self, report: Report, verdict: str) -> None:
        """Raise VerificationFailedError if a report is not ok: with its reasons if nothing has shown them, else `verdict`."""
        if self.quiet and not self.as_json:
            report.raise_if_failed()
        if not report.ok:
            raise VerificationFailedError(verdict, hint=report.hint if report.is_edited else "")

    @contextmanager
    def progress(self, doing: str) -> Iterator[Advance]:
        """Say on a terminal what is going on while the block runs; calls of the yielded function move a bar."""
        if self.quiet or not is_terminal(sys.stderr):
            yield lambda done, total: None
            return
        from rich.console import Console
        from rich.filesize import decimal
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        shown = (TextColumn(text) for text in ("{task.description}", "{task.fields[size]}"))
        columns = SpinnerColumn(), next(shown), BarColumn(), next(shown), TimeElapsedColumn()
        console = Console(stderr=True, color_system=_colours())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(doing, total=None, size="")

            def advance(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total, size=f"{decimal(done)} of {decimal(total)}")

            yield advance


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at a stream; nobody looks at one that is closed."""
    return stream is not None and stream.isatty()


def show_document(command: str, **fields: Any) -> None:
    """Print one JSON document on stdout: schema, command, ok, then the command's own keys (docs/json.md)."""
    click.echo(json.dumps(_document(command, **fields), indent=2, allow_nan=False))


def show_error(message: str, hint: str = "") -> None:
    """Print `error: ...`, and where there is one `hint: ...`, on stderr."""
    colour = is_terminal(sys.stderr) and _colours()
    with suppress(OSError):  # stderr is a file on a full disk: the exit code still tells
        for label, style, text in (("error:", "red", message), ("hint:", "cyan", hint)):
            if text:
                click.echo(
                    f"{click.style(label, fg=style, bold=True) if colour else label} {printable(_joined(text))}",
                    err=True,
                )


def _drawn(view: RenderableType, stream: TextIO | None) -> str:
    """`view` as text as wide as the stream, and wider where a name or a command would be cut: these are to be copied."""
    from rich.console import Console, Group
    from rich.measure import Measurement

    console = Console(
        file=stream,
        width=None if is_terminal(stream) else UNBOUNDED,
        color_system=_colours(),
        markup=False,
        emoji=False,
        highlight=False,
    )
    screen, whole = console.width, console.options.update_width(UNBOUNDED)
    with console.capture() as text:
        for part in view.renderables if isinstance(view, Group) else [view]:
            console.width = max(screen, Measurement.get(console, whole, part).minimum)
            console.print(part, crop=False)
    return "\n".join(line.rstrip() for line in text.get().splitlines())


def _colours() -> Literal["auto"] | None:
    """What the terminal can show, or nothing at all, bold and dim included, where NO_COLOR is set."""
    return None if os.environ.get("NO_COLOR") else "auto"


def _document(command: str, **fields: Any) -> dict[str, Any]:
    return _finite({"schema": SCHEMA, "command": command, "ok": True, **fields})  # type: ignore[no-any-return]


def _joined(text: str) -> str:
    return " ".join(text.split())


def _finite(value: Any) -> Any:
    """`value` with null for NaN and the infinities, which JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
