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
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def version() -> str:
    """The version of onnx-grow."""
    from onnx_grow import __version__

    return __version__


def provenance(model: Model, plan: str) -> dict[str, str]:
    """The metadata of `model` grown by `plan` (JSON): its history and one entry more.

    Of a history that gets too long, the oldest plans keep what was done, but not to what.
    `source_sha256` is the digest of the file the model was loaded from (not of weights beside it), null when there is none.
    """
    entry = {"version": version(), "source_sha256": model.sha256, "plan": json.loads(plan)}
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
