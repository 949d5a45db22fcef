"""The programs behind docs/coverage.md: limits on processes, what is recorded of a model, and the page."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bench" / "zoo")]

import coverage  # noqa: E402
import isolated  # noqa: E402
import table  # noqa: E402


def counting(last: int) -> Iterator[int]:
    yield from range(last)


def failing() -> Iterator[int]:
    yield 1
    raise ValueError("no more")


def sleeping() -> Iterator[int]:
    yield 1
    time.sleep(60)


def busy() -> Iterator[int]:
    yield 1
    while True:
        pass


def crashing() -> Iterator[int]:
    os._exit(7)
    yield 1


def hungry() -> Iterator[int]:
    yield len(bytearray(2**31))


def test_results_come_from_another_process() -> None:
    assert list(isolated.results(counting, 3, seconds=30, gigabytes=1)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("work", "seconds", "said"),
    [
        (failing, 30, "ValueError: no more"),
        (sleeping, 0.05, "took longer than 0.5 s by the clock"),
        (busy, 1, "took longer than 1 s$"),
        (crashing, 30, "exit code 7"),
        (hungry, 30, "MemoryError"),
    ],
)
def test_what_goes_wrong_is_told(work: object, seconds: float, said: str) -> None:
    with pytest.raises(isolated.Died, match=said):
        list(isolated.results(work, seconds=seconds, gigabytes=1))  # type: ignore[arg-type]


def test_rows_of_a_model() -> None:
    file = ROOT / "models" / "digits_mlp.onnx"
    rows = list(coverage.rows_of(file, ("widen x2", 1), {"widen x1.5"}, 60, 4))
    seen, wide = rows
    assert seen["growth"] == "inspect"
    assert seen["share"] == 1.0
    assert seen["kinds"] == {"hidden": 2}
    assert wide["growth"] == "widen x2"
    assert wide["status"] == "preserved"
    assert wide["float64"] < 1e-12


def test_a_growth_that_takes_its_process_down_is_told_and_the_others_go_on() -> None:
    file = ROOT / "models" / "digits_mlp.onnx"
    rows = list(coverage.rows_of(file, ("*", 1), set(), 0.0001, 4))
    assert rows == [{"growth": "inspect", "status": "DIED", "why": "took longer than 0.001 s by the clock"}]


def test_the_page() -> None:
    seen = {"growth": "inspect", "status": "ok", "parameters": 1200, "nodes": 30, "share": 0.5}
    wide = {
        "growth": "widen x2",
        "status": "preserved",
        "inserted": 2,
        "ratio": 0.9,
        "float64": 1e-15,
        "seconds": 0.2,
    }
    deep = {"growth": "deepen", "status": "refused (NothingToGrowError)", "why": "no place\nnor reason"}
    only = {"growth": "only heads", "status": "WRONG", "why": "y differs"}
    rows = [{"model": "timm/a", "commit": "abc", **row} for row in (seen, wide, deep, only)]
    manifest = [
        {"file": "timm/a.onnx", "exporter": "dynamo", "opset": 20},
        {"file": "timm/b.onnx", "error": "NotImplementedError: x|y"},
    ]
    page = table.page(rows, manifest, {"torch": "9.9"}, "2001-02-03").splitlines()
    assert (
        "| a | dynamo | 20 | 1,200 | 30 | 50.0 % | ✓ |  | refused |  | heads: **wrong** | 2 | 0.90 | 1e-15 | 0.20 |"
        in page
    )
    assert "- timm/a, deepen: refused, no place" in page
    assert "- timm/a, only heads: **wrong**, y differs" in page
    assert "- timm/b: NotImplementedError: x\\|y" in page
    line = next(line for line in page if line.startswith("| timm |"))
    assert "| 0 of 1 (0.0 %), target 98 % |" in line
    assert "| 1 of 1 (100.0 %) |" in line
    assert any("2001-02-03" in line and "abc (4 results)" in line and "torch 9.9" in line for line in page)


def test_shapes_come_from_the_last_line_that_has_some(tmp_path: Path) -> None:
    rows = [
        {"file": "s/m.onnx", "name": "m", "error": "failed"},
        {"file": "s/m.onnx", "name": "m", "inputs": {"x": {"shape": [2, 3]}}},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert coverage.legal_shapes(tmp_path / "s" / "m.onnx") == {"x": (2, 3)}
