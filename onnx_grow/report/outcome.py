"""What became of each pair of a gate, in words and figures that every table of pairs shows alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from onnx_grow.report.figures import counted

__all__ = [
    "HEADINGS",
    "Document",
    "devices",
    "faults",
    "figures",
    "told",
    "total",
    "verdict",
    "warnings",
    "wrong",
]

Document = Mapping[str, Any]
"""A document of docs/json.md under `verify`."""

HEADINGS = ("error>", "ratio>", "float64>", "as recorded", "inputs>", "warnings>", "seconds>")
"""What `figures` are; those that end in `>` are numbers."""

_NONE = "-"
_INFINITE = "∞"


def verdict(verification: Mapping[str, Any] | None) -> str:
    """The outcome of a verification, which says by how much more than rounding noise the models may differ; None is an error."""
    from onnx_grow.verification.report import verdict as words

    if verification is None:
        return "error"
    return words(verification["ok"], verification["tolerance"], verification["max_error"])


def figures(document: Document) -> tuple[str, ...]:
    """What was found, in the order of `HEADINGS`: `-` where nothing was compared, or it is not what is judged."""
    verification = document.get("verification")
    if verification is None:
        return (_NONE,) * len(HEADINGS)
    outputs = verification["outputs"]
    errors = [o["error_max" if o["norm"] == "max" else "error_l2"] for o in outputs]
    judged = outputs and verification["max_error"] is None
    float64 = verification["float64"]
    return (
        _worst(errors, "{:.0e}".format),
        _worst([verification["ratio"]] if judged else [], "{:.2f}".format),
        _NONE if float64 is None else f"{float64:.0e}",
        {True: "yes", False: "NO", None: _NONE}[verification["recorded"]],
        str(len(verification["inputs"]) or _NONE),
        str(len(verification["warnings"]) or _NONE),
        f"{verification['seconds']:.1f}",
    )


def faults(document: Document) -> list[str]:
    """What is wrong, in words, with what to do about an error; nothing if the models are equal."""
    verification = document.get("verification")
    if verification is None:
        return [told(document["error"])] if "error" in document else []
    wrong = [f"{check['name']}: {check['detail']}" for check in verification["checks"] if not check["ok"]]
    return wrong + [f"output {o['name']!r} {o['why']}" for o in verification["outputs"] if not o["ok"]]


def told(error: Mapping[str, str]) -> str:
    """An error with its hint."""
    return f"{error['message']} ({error['hint']})" if error["hint"] else error["message"]


def warnings(document: Document) -> list[str]:
    """What makes the verdict prove less than it seems to."""
    return list((document.get("verification") or {}).get("warnings", ()))


def devices(documents: Iterable[Document]) -> list[str]:
    """The devices on which the pairs ran, each once."""
    return list(dict.fromkeys(d["verification"]["device"] for d in documents if d.get("verification")))


def total(documents: Iterable[Document]) -> str:
    """How many pairs are equal, and how many only within what is allowed for them."""
    verdicts = [verdict(document.get("verification")) for document in documents]
    within = sum(word.startswith("within") for word in verdicts)
    allowed = f", {within:,} within what is allowed" if within else ""
    return f"{verdicts.count('equal'):,} of {counted(len(verdicts), 'pair')} equal{allowed}"


def wrong(documents: Iterable[Document]) -> str:
    """How many pairs are not equal, and how many could not be compared."""
    verdicts = [verdict(document.get("verification")) for document in documents]
    of = f" of {counted(len(verdicts), 'pair')}"
    parts = []
    if differ := verdicts.count("NOT EQUAL"):
        parts.append(f"{differ:,}{of} {'is' if differ == 1 else 'are'} not equal")
    if failed := verdicts.count("error"):
        parts.append(f"{failed:,}{'' if parts else of} could not be compared")
    return ", ".join(parts)


def _worst(values: list[float | None], form: Callable[[float], str]) -> str:
    """The largest of figures of which None are infinite."""
    finite = [value for value in values if value is not None]
    return _NONE if not values else form(max(finite)) if len(finite) == len(values) else _INFINITE
