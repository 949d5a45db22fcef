"""Which files were compared, and what the second says it grew by: what a reviewer needs to trust a page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_grow.model import Model


def digests(model: Model) -> dict[str, str]:
    """SHA-256 of a model's file and of those beside it that hold its weights, in hexadecimal, by name; `-` is standard input."""
    found = {model.path.name if model.path else "-": model.sha256} if model.sha256 else {}
    for path in model.data_files:
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def recorded(original: Model, grown: Model) -> list[dict[str, Any]]:
    """What `grown` records that was done to `original`, oldest first: `operation`, `schemes`, `seeds`, `version` (of onnx-grow)."""
    from onnx_grow.growth.provenance import continued

    return [
        {**_of(entry.get("plan") or {}), "version": str(entry.get("version", ""))}
        for entry in continued(original, grown) or []
    ]


def _of(plan: Mapping[str, Any]) -> dict[str, Any]:
    parts = [plan, *(part for part in plan.get("layers") or () if isinstance(part, dict))]
    return {
        "operation": str(plan.get("operation", "")),
        **{
            f"{key}s": list(dict.fromkeys(str(part[key]) for part in parts if part.get(key) is not None))
            for key in ("scheme", "seed")
        },
    }
