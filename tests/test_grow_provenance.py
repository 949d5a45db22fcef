from __future__ import annotations

import json

import pytest
from graphs import build
from test_grow_plan import CHAIN

import onnx_grow as og
from onnx_grow.growth import provenance as room
from onnx_grow.growth.difference import diff
from onnx_grow.growth.provenance import history
from onnx_grow.model import HISTORY, load


def test_a_long_history_forgets_the_details_of_what_is_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LONGEST", 1500)
    model = build(CHAIN)
    for seed in range(12):
        model = og.widen(model, factor=1.01, seed=seed)
    entries = history(model)
    assert [entry["plan"]["seed"] for entry in entries] == list(range(12))
    assert entries[0]["plan"] == {
        "operation": "widen",
        "scheme": "auto",
        "seed": 0,
        "noise": 0.0,
        "shortened": {"axes": 2},
    }
    assert len(entries[-1]["plan"]["axes"]) == 2
    lengths = [len(og.widen(model, factor=1.01, seed=seed).metadata[HISTORY]) for seed in (1, 2)]
    assert max(lengths) < 4000
    grown = og.widen(model, factor=1.01, seed=12)
    assert [entry["plan"]["seed"] for entry in diff(model, grown).history] == [12]


@pytest.mark.parametrize(
    "said", ["", "nonsense", "3", "{}", "[1, null]", '[{"plan": 3}]', '[{"plan": {"axes": 7}}]', "[[]]"]
)
def test_a_history_that_is_none(said: str) -> None:
    proto = build(CHAIN).to_proto()
    proto.metadata_props.add(key=HISTORY, value=said)
    grown = og.widen(load(proto))
    assert json.loads(grown.metadata[HISTORY])[-1]["plan"]["operation"] == "widen"
    assert diff(build(CHAIN), grown).history
