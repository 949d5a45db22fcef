"""The example models are what models/README.md and their metadata say."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf.message import Message

MODELS = Path(__file__).resolve().parents[1] / "models"
NAMES = ["digits_cnn", "digits_jax", "digits_keras", "digits_mlp"]
METADATA = {"accuracy", "dataset", "framework", "script", "split", "training", "versions"}
MACHINE_PATH = re.compile(r"site-packages|[A-Za-z]:\\|/(home|root|usr|opt|tmp|var|mnt|srv|Users)/")


def load(name: str) -> onnx.ModelProto:
    return onnx.load(MODELS / f"{name}.onnx")


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def layout(name: str) -> tuple[int, ...]:
    (graph_input,) = load(name).graph.input
    return tuple(dim.dim_value for dim in graph_input.type.tensor_type.shape.dim[1:])


def arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(MODELS / file) as archive:
        return dict(archive)


def scores(name: str, image: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(MODELS / f"{name}.onnx", providers=["CPUExecutionProvider"])
    (found,) = [output for output in session.run(None, {"image": image}) if output.shape[1:] == (10,)]
    return found


def strings(message: Message, within: str = "") -> Iterator[tuple[str, str]]:
    """Every string of ``message``, with the path of the field it is in."""
    for field, value in message.ListFields():
        where = f"{within}.{field.name}"
        for item in value if isinstance(value, list) or hasattr(value, "extend") else [value]:
            if isinstance(item, Message):
                yield from strings(item, where)
            elif isinstance(item, str):
                yield where, item
            elif isinstance(item, bytes) and field.name != "raw_data":
                yield where, item.decode(errors="replace")


def test_every_model_is_tested_and_described() -> None:
    assert sorted(path.stem for path in MODELS.glob("*.onnx")) == NAMES
    assert sum(path.stat().st_size for path in MODELS.iterdir() if path.is_file()) < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_is_a_valid_model_with_a_free_batch_size(name: str) -> None:
    model = load(name)
    onnx.checker.check_model(model, full_check=True)
    (graph_input,) = model.graph.input
    assert not graph_input.type.tensor_type.shape.dim[0].HasField("dim_value")


@pytest.mark.parametrize("name", NAMES)
def test_metadata_says_how_it_was_made(name: str) -> None:
    record = metadata(load(name))
    assert record.keys() == METADATA
    assert all(record.values())
    assert (MODELS.parent / record["script"]).is_file()
    pins = (MODELS / "requirements.txt").read_text().split()
    for package in record["versions"].split(", "):
        assert package.replace(" ", "==").removesuffix("+cpu") in pins


@pytest.mark.parametrize("name", NAMES)
def test_reaches_the_accuracy_it_states(name: str) -> None:
    test = arrays("digits_test.npz")
    predicted = scores(name, test["images"].reshape(-1, *layout(name))).argmax(axis=1)
    correct = int(np.sum(predicted == test["labels"]))
    stated = float(metadata(load(name))["accuracy"]) * len(test["labels"])
    assert stated > 0.95 * 450
    assert correct == pytest.approx(stated, abs=1.1)  # one image may tip over on another processor


@pytest.mark.parametrize("name", NAMES)
def test_readme_repeats_the_figures(name: str) -> None:
    model = load(name)
    parameters = sum(
        int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT
    )
    (row,) = [
        line
        for line in (MODELS / "README.md").read_text().splitlines()
        if line.startswith(f"| `{name}.onnx`")
    ]
    figures = [cell.strip() for cell in row.split("|")][-4:-1]
    size = (MODELS / f"{name}.onnx").stat().st_size
    assert figures == [metadata(model)["accuracy"], f"{parameters:,}", f"{size:,}"]


@pytest.mark.parametrize("name", NAMES)
def test_holds_no_doc_strings_and_no_paths_of_the_machine_that_made_it(name: str) -> None:
    repository = str(MODELS.parent)
    for where, text in strings(load(name)):
        assert not where.endswith(".doc_string"), where
        assert not MACHINE_PATH.search(text), where
        assert repository not in text, where


def test_digits_cnn_keeps_the_structures_it_is_there_to_show() -> None:
    operators = [node.op_type for node in load("digits_cnn").graph.node]
    assert operators.count("BatchNormalization") == operators.count("Conv") == 12
    assert operators.count("Add") == 3
    assert operators.count("Concat") == 1


@pytest.mark.parametrize("name", NAMES)
def test_inputs_beside_a_model_fit_it(name: str) -> None:
    inputs = arrays(f"{name}.npz")
    assert inputs.keys() == {"image"}
    assert inputs["image"].dtype == np.float32
    assert inputs["image"].shape == (64, *layout(name))
    assert scores(name, inputs["image"]).shape == (64, 10)


def test_images_are_the_stated_split_of_scikit_learns_digits() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn, where the digits come from, is not installed")
    training, test = runpy.run_path(str(MODELS / "digits.py"))["split"]()
    assert (len(training.labels), len(test.labels)) == (1347, 450)
    stored = arrays("digits_test.npz")
    np.testing.assert_array_equal(stored["images"], test.images)
    np.testing.assert_array_equal(stored["labels"], test.labels)
    for name in NAMES:
        image = arrays(f"{name}.npz")["image"]
        np.testing.assert_array_equal(image.reshape(-1, 8, 8), training.images[:64])
