"""Provenance: a grown file says what was done to it, in `metadata_props` under `onnx_grow.history`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from onnx_grow.model import HISTORY, Model


def history(model: Model) -> list[dict[str, Any]]:
    """What was done to a model, oldest first; empty when it was never grown, or says something unreadable."""
    try:
        entries = json.loads(model.metadata.get(HISTORY, "[]"))
    except (ValueError, RecursionError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def continued(original: Model, grown: Model) -> list[dict[str, Any]] | None:
    """What was done to `grown` but not to `original`, oldest first; None where its history does not begin with the original's."""
    before, after = history(original), history(grown)
    shared = len(before) <= len(after) and all(map(_is_same, before, after))
    return after[len(before) :] if shared else None


def version() -> str:
    """The version of onnx-grow."""
    from onnx_grow import __version__

    return __version__


ROOMS = ("axes", "growth", "model", "operators", "shapes")
"""The packages that growing takes."""


@cache
def made_by() -> Mapping[str, str]:
    """What decides, beside model and plan, which bytes a growth makes: the versions of onnx-grow and NumPy, and the code itself.

    A version stands for many states of a development tree; `code` is a digest of this one.
    """
    package = Path(__file__).parents[1]
    code = hashlib.sha256()
    for file in sorted(file for room in ROOMS for file in (package / room).glob("*.py")):
        code.update(file.read_bytes())
    return {"version": version(), "code": code.hexdigest()[:12], "numpy": np.__version__}


def provenance(model: Model, plan: str) -> dict[str, str]:
    """The metadata of `model` grown by `plan` (JSON): its history and one entry more.

    Of a history that gets too long, the oldest plans keep what was done, but not to what.
    `source_sha256` is the digest of the file the model was loaded from (not of weights beside it), null when there is none.
    """
    entry = {**made_by(), "source_sha256": model.sha256, "plan": json.loads(plan)}
    entries = [*history(model), entry]
    texts = [_text(each) for each in entries]
    for k, each in enumerate(entries[:-1]):
        if sum(map(len, texts)) <= LONGEST:
            break
        texts[k] = _text({**each, "plan": _shortened(each.get("plan"))})
    return {HISTORY: f"[{','.join(texts)}]"}


LONGEST = 1 << 18
"""Characters of a history above which its oldest plans are shortened."""


def _text(entry: dict[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":"))


def _shortened(plan: Any) -> dict[str, Any]:
    """A plan without its lists, which are what makes it long, but for how many of each there were."""
    plan = plan if isinstance(plan, dict) else {}
    counts = {key: len(plan[key]) for key in ("axes", "layers") if isinstance(plan.get(key), list)}
    if not counts:
        return dict(plan)
    return {key: value for key, value in plan.items() if not isinstance(value, list | dict)} | {
        "shortened": counts
    }


def _is_same(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two entries tell of the same growth, even when the plan of one was shortened."""
    return _identity(entry) == _identity(other)


def _identity(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    plan = entry.get("plan")
    operation, seed = (
        (plan.get(key) for key in ("operation", "seed")) if isinstance(plan, dict) else (None, None)
    )
    return entry.get("version"), entry.get("source_sha256"), operation, seed
