"""Verifications for GitHub Actions: an annotation per fault, and a table for the summary of the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnx_grow.report.figures import printable
from onnx_grow.report.outcome import HEADINGS, Document, devices, faults, figures, verdict, warnings


def workflow_commands(documents: Iterable[tuple[str, Document]]) -> Iterator[str]:
    """Workflow commands, a line each, for what is wrong (errors) and what weakens the proof (warnings)."""
    for name, document in documents:
        for fault in faults(document):
            yield _command("error", name, fault)
        for warning in warnings(document):
            yield _command("warning", name, warning)


def summary(documents: Sequence[tuple[str, Document]]) -> str:
    """A table in Markdown, a row per pair of models; below it the warnings, and where the pairs ran."""
    lines = [
        _row(["models", "verdict", *(heading.rstrip(">") for heading in HEADINGS)]),
        f"|---|---|{'|'.join('---:' if heading.endswith('>') else '---' for heading in HEADINGS)}|",
    ]
    for name, document in documents:
        word = verdict(document.get("verification"))
        cells = [name, word if document["ok"] else f"**{word}**: {'; '.join(faults(document))}"]
        lines.append(_row([*cells, *figures(document)]))
    told = [f"- {name}: warning: {text}" for name, document in documents for text in warnings(document)]
    told += [f"- on {device}" for device in devices(document for _, document in documents)]
    return "\n".join([*lines, *([""] if told else []), *map(printable, told)]) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(printable(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _command(level: str, title: str, message: str) -> str:
    """A workflow command, with the escapes that GitHub's documentation of them prescribes."""
    text = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    name = (
        title.replace("%", "%25")
        .replace("\r", "%0D")
        .replace("\n", "%0A")
        .replace(":", "%3A")
        .replace(",", "%2C")
    )
    return f"::{level} title={printable(name)}::{printable(text)}"
