"""Verifications for GitHub Actions: an annotation per fault, and a table for the summary of the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from onnx_grow.report.figures import printable

Document = Mapping[str, Any]


def workflow_commands(documents: Iterable[tuple[str, Document]]) -> Iterator[str]:
    """Workflow commands, a line each, for what is wrong (errors) and what weakens the proof (warnings)."""
    for name, document in documents:
        for fault in faults(document):
            yield _command("error", name, fault)
        for warning in (document.get("verification") or {}).get("warnings", ()):
            yield _command("warning", name, warning)


def summary(documents: Iterable[tuple[str, Document]]) -> str:
    """A table in Markdown, a row per pair of models."""
    lines = ["| models | verdict | error / noise | float64 |", "|---|---|---|---|"]
    for name, document in documents:
        verification = document.get("verification") or {}
        verdict = "equal" if document["ok"] else f"**NOT EQUAL**: {'; '.join(faults(document))}"
        cells = (
            name,
            verdict,
            _figure(verification.get("ratio") if verification.get("max_error") is None else None, ".2f"),
            _figure(verification.get("float64"), ".0e"),
        )
        lines.append(f"| {' | '.join(printable(cell).replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def faults(document: Document) -> list[str]:
    """What is wrong, in words; nothing if the models are equal."""
    verification = document.get("verification")
    if verification is None:
        return [document["error"]["message"]] if "error" in document else []
    wrong = [f"{check['name']}: {check['detail']}" for check in verification["checks"] if not check["ok"]]
    return wrong + [f"output {o['name']!r} {o['why']}" for o in verification["outputs"] if not o["ok"]]


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


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
