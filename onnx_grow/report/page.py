"""A result as one self-contained page of HTML: no script, no network, nothing to install."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from onnx_grow.report.figures import count, printable, share, size
from onnx_grow.report.outcome import HEADINGS, figures, told, total, verdict

if TYPE_CHECKING:
    from jinja2 import Template

_GOLDEN = 137.508  # degrees: neighbours in a list get colours that are far apart


def page(document: Mapping[str, Any], invocation: str = "") -> str:
    """The page for a document of docs/json.md, of any command; it says when it was made (UTC), by which version and `invocation`."""
    from onnx_grow import __version__

    return _template().render(
        version=__version__,
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
        invocation=invocation,
        headings=HEADINGS,
        colours=_colours(document),
        **document,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("onnx_grow.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    environment.filters |= {"count": count, "bytes": size, "share": share, "scientific": _scientific}
    environment.filters |= {"verdict": verdict, "figures": figures, "total": total, "told": told}
    return environment.get_template("page.html")


def _harmless(value: Any) -> Any:
    """Names without control characters; what is HTML already stays as it is."""
    return printable(value) if type(value) is str else value


def _colours(document: Mapping[str, Any]) -> dict[str, int]:
    """A hue for every axis, in degrees."""
    plan = document.get("plan") or {}
    lists = [document.get("axes"), *(step.get("axes") for step in plan.get("steps", [plan]))]
    names = dict.fromkeys(axis["name"] for axes in lists for axis in axes or ())
    return {name: round(k * _GOLDEN) % 360 for k, name in enumerate(names)}


def _scientific(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.1e}"
