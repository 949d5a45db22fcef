"""The models of ONNX's own backend test suite, some two thousand, survive everything unchanged."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from onnx_grow.model import Draft, Model, load, save, writer

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


@pytest.fixture(scope="module")
def corpus() -> dict[str, onnx.ModelProto]:
    """Every model that ships in the onnx package, and every one its node tests generate."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        models = {case.name: case.model for case in collect_testcases(None)}
    models |= {str(path.relative_to(DATA)): onnx.load(path) for path in DATA.rglob("*.onnx")}
    assert len(models) > 1500
    return models


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def serialized(corpus: dict[str, onnx.ModelProto]) -> dict[str, bytes]:
    return {name: proto.SerializeToString(deterministic=True) for name, proto in corpus.items()}


@pytest.fixture(scope="module")
def loaded(serialized: dict[str, bytes]) -> dict[str, Model]:
    return {name: load(data) for name, data in serialized.items()}


def test_every_model_loads_from_a_file_and_is_saved_as_it_was(
    serialized: dict[str, bytes], tmp_path: Path
) -> None:
    source = tmp_path / "m.onnx"
    for name, data in serialized.items():
        source.unlink(missing_ok=True)  # what is mapped must not be overwritten
        source.write_bytes(data)
        assert save(load(source), tmp_path / "saved.onnx", force=True).read_bytes() == data, name


def test_every_initializer_is_the_one_of_the_file(
    corpus: dict[str, onnx.ModelProto], loaded: dict[str, Model]
) -> None:
    for name, proto in corpus.items():
        assert list(loaded[name].weights) == [tensor.name for tensor in proto.graph.initializer], name
        for tensor in proto.graph.initializer:
            expected, found = numpy_helper.to_array(tensor), loaded[name].weights[tensor.name].array()
            assert found.dtype == expected.dtype, name
            np.testing.assert_array_equal(found, expected, err_msg=name)


def test_every_model_with_weights_survives_external_data(
    corpus: dict[str, onnx.ModelProto],
    loaded: dict[str, Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "EXTERNAL_WEIGHT", 0)
    written = 0
    for name, model in loaded.items():
        if model.weights:
            path = save(model, tmp_path / "m.onnx", external=True, force=True)
            assert load(path).to_proto() == corpus[name], name
            written += 1
    assert written > 50


def test_the_checker_says_of_every_model_what_it_said_before(
    corpus: dict[str, onnx.ModelProto], loaded: dict[str, Model]
) -> None:
    for name, proto in corpus.items():
        assert verdict(loaded[name].to_proto()) == verdict(proto), name


def verdict(proto: onnx.ModelProto) -> str:
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        return str(error)
    return "valid"


def test_graphsurgeon_reads_the_topology_of_every_model(loaded: dict[str, Model]) -> None:
    for name, model in loaded.items():
        topology = model.topology()
        seen = topology.graph
        assert [node.op for node in seen.nodes] == [node.op_type for node in topology.nodes], name
        for node, proto in zip(seen.nodes, topology.nodes, strict=True):
            assert [tensor.name for tensor in node.inputs] == list(proto.input), name
            assert [tensor.name for tensor in node.outputs] == list(proto.output), name
        assert topology.inputs == tuple(tensor.name for tensor in seen.inputs), name
        assert topology.outputs == tuple(tensor.name for tensor in seen.outputs), name


def test_a_draft_without_edits_is_the_model(loaded: dict[str, Model], serialized: dict[str, bytes]) -> None:
    for name, model in loaded.items():
        assert Draft(model).freeze().to_proto().SerializeToString(deterministic=True) == serialized[name], (
            name
        )
