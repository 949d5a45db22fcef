"""Provenance: a grown file says what was done to it, in `metadata_props` under `onnx_grow.history`."""

from __future__ import annotations

import json
from typing import Any

from onnx_grow.model import HISTORY, Model


def history(model: Model) -> list[dict[str, Any]]:
    """What was done to a model, oldest first; empty when it was never grown, or says something unreadable."""
    try:
        entries = json.loads(model.metadata.get(HISTORY, "[]"))
    except ValueError:
        return []
    return entries if isinstance(entries, list) else []


def version() -> str:
    """The version of onnx-grow."""
    from onnx_grow import __version__

    return __version__


def provenance(model: Model, plan: str) -> dict[str, str]:
    """The metadata of `model` grown by `plan` (JSON): its history and one entry more.

    `source_sha256` is the digest of the file the model was loaded from (not of weights beside it), null when there is none.
    """
    entry = {"version": version(), "source_sha256": model.sha256, "plan": json.loads(plan)}
    return {HISTORY: json.dumps([*history(model), entry], separators=(",", ":"))}
