"""The models that bench/performance measures with."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

import onnx_grow as og

BENCH = Path(__file__).parents[1] / "bench" / "performance"


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_decoders_grow_and_stay_what_they_are(kind: str, tmp_path: Path) -> None:
    import decoder

    shape = decoder.Shape(2, hidden=64, inner=96, heads=8, shared=2, vocabulary=100)
    decoder.write(tmp_path / "d.onnx", shape, kind)
    model = og.load(tmp_path / "d.onnx")
    assert shape.parameters <= model.parameters <= 1.1 * shape.parameters + 4096 * 16
    grown = og.widen(model)
    og.save(grown, tmp_path / "g.onnx")
    assert grown.parameters > 1.5 * model.parameters
    assert og.verify(model, og.load(tmp_path / "g.onnx"), seeds=1, shapes={"ids": (2, 5)}).ok


def test_as_many_layers_as_make_the_size() -> None:
    import decoder

    assert decoder.Shape.of(5e9).parameters == pytest.approx(5e9, rel=0.02)
    assert decoder.Shape.of(1).layers == 1


@pytest.mark.parametrize("kind", ["MLP", "residual", "transformer"])
def test_chains_have_so_many_nodes_and_grow(kind: str) -> None:
    from chains import chain

    proto = chain(kind, 60)
    onnx.checker.check_model(proto, full_check=True)
    assert len(proto.graph.node) == pytest.approx(60, abs=12)
    model = og.load(proto)
    assert og.verify(model, og.widen(model), seeds=1).ok
    assert len(og.deepen(model).skeleton.graph.node) > 60
