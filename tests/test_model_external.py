from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_grow.errors import InvalidModelError
from onnx_grow.model import Stored, load

WEIGHT = np.arange(512, dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `model.onnx`, whose weight lies in `weights.bin` behind 64 other bytes."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "weights.bin").write_bytes(bytes(64) + WEIGHT.tobytes())
    write(inside, location="weights.bin", offset="64", length="2048")
    return inside


def write(
    folder: Path, data_type: int = TensorProto.FLOAT, dims: tuple[int, ...] = (512,), **entries: str
) -> None:
    tensor = TensorProto(name="w", data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [512]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    (folder / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())


def refused(folder: Path, **options: bool) -> str:
    with pytest.raises(InvalidModelError) as caught:
        load(folder / "model.onnx", **options)
    assert "\n" not in str(caught.value)
    assert "'w'" in str(caught.value)
    return str(caught.value)


def test_external_values_are_mapped_from_the_models_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = load("inside/model.onnx")
    assert isinstance(model.weights["w"], Stored)
    np.testing.assert_array_equal(model.weights["w"].array(), WEIGHT)
    assert model.data_files == (folder / "weights.bin",)
    assert not model.skeleton.graph.initializer[0].external_data
    np.testing.assert_array_equal(numpy_helper.to_array(model.to_proto().graph.initializer[0]), WEIGHT)


def test_offset_and_length_may_be_left_out(folder: Path) -> None:
    write(folder, location="weights.bin", offset="64")
    np.testing.assert_array_equal(load(folder / "model.onnx").weights["w"].array(), WEIGHT)
    (folder / "weights.bin").write_bytes(WEIGHT.tobytes())
    write(folder, location="weights.bin")
    np.testing.assert_array_equal(load(folder / "model.onnx").weights["w"].array(), WEIGHT)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "weights.bin").unlink()
    assert "external data 'weights.bin' of tensor 'w' does not exist" in refused(folder)


def test_a_file_shorter_than_declared_is_refused(folder: Path) -> None:
    os.truncate(folder / "weights.bin", 2000)
    assert "needs 2,112 bytes of 'weights.bin', it has 2,000" in refused(folder)
    os.truncate(folder / "weights.bin", 0)
    assert "it has 0" in refused(folder)


def test_a_length_that_is_not_that_of_the_shape_is_refused(folder: Path) -> None:
    write(folder, location="weights.bin", length="2044")
    assert "declares 2,044 bytes of external data, its type and shape need 2,048" in refused(folder)


def test_terabytes_declared_in_a_kilobyte_are_refused(folder: Path) -> None:
    write(folder, dims=(10**7, 10**6), location="weights.bin")
    assert "needs 40,000,000,000,000 bytes of 'weights.bin', it has 2,112" in refused(folder)
    write(folder, dims=(10**18, 10**18), location="weights.bin")
    assert "larger than any memory" in refused(folder)


@pytest.mark.parametrize("number", ["-1", "abc", "0x10", "1e3", "٣", "9" * 30, ""])
def test_offsets_that_are_no_numbers_are_refused(folder: Path, number: str) -> None:
    write(folder, location="weights.bin", offset=number)
    assert "the offset" in refused(folder)


@pytest.mark.parametrize(
    "location",
    [
        *(
            "../weights.bin",
            "sub/../../weights.bin",
            "..",
            "",
            ".",
            "/etc/hostname",
            "//server/share/x",
            "a\0b",
        ),
        *("C:\\secret.bin", "C:secret.bin", "..\\weights.bin", "\\weights.bin"),
    ],
)
def test_locations_outside_the_folder_are_refused(folder: Path, location: str) -> None:
    (folder.parent / "weights.bin").write_bytes(bytes(4096))
    write(folder, location=location)
    assert "not in the model's folder" in refused(folder)


def test_a_location_that_is_no_text_is_refused(folder: Path) -> None:
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes().replace(b"weights.bin", b"weight\xff.bin"))
    assert "whose name is no text" in refused(folder)


def test_a_location_may_lie_deeper(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "weights.bin").rename(folder / "data" / "weights.bin")
    write(folder, location="./data/weights.bin", offset="64")
    np.testing.assert_array_equal(load(folder / "model.onnx").weights["w"].array(), WEIGHT)


def test_a_link_out_of_the_folder_needs_permission(folder: Path) -> None:
    outside = folder.parent / "blob"
    (folder / "weights.bin").rename(outside)
    (folder / "weights.bin").symlink_to("../blob")
    assert "a link out of the model's folder (if you trust this model, allow links" in refused(folder)
    np.testing.assert_array_equal(
        load(folder / "model.onnx", allow_symlinks=True).weights["w"].array(), WEIGHT
    )


def test_a_folder_that_is_a_link_out_needs_permission(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / "weights.bin").rename(outside / "weights.bin")
    (folder / "data").symlink_to(outside)
    write(folder, location="data/weights.bin", offset="64")
    assert "a link out of the model's folder" in refused(folder)


def test_links_that_stay_inside_and_a_model_that_is_itself_a_link_are_fine(folder: Path) -> None:
    (folder / "weights.bin").rename(folder / "blob")
    (folder / "weights.bin").symlink_to("blob")
    snapshot = folder.parent / "snapshot"
    snapshot.symlink_to(folder)
    np.testing.assert_array_equal(load(snapshot / "model.onnx").weights["w"].array(), WEIGHT)


def test_the_hugging_face_cache_loads_with_permission(folder: Path) -> None:
    snapshot = folder.parent / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("model.onnx", "weights.bin"):
        (snapshot / name).symlink_to(folder / name)
    assert "a link out" in refused(snapshot)
    np.testing.assert_array_equal(
        load(snapshot / "model.onnx", allow_symlinks=True).weights["w"].array(), WEIGHT
    )


def test_a_hard_link_needs_permission(folder: Path) -> None:
    os.link(folder / "weights.bin", folder.parent / "second")
    assert "hard link" in refused(folder)
    assert load(folder / "model.onnx", allow_symlinks=True).weights["w"].nbytes == 2048


def test_a_link_in_a_circle_is_refused(folder: Path) -> None:
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to("weights.bin")
    refused(folder)


def test_folders_pipes_and_devices_are_refused_without_waiting(folder: Path) -> None:
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").mkdir()
    assert "is a folder" in refused(folder)
    (folder / "weights.bin").rmdir()
    os.mkfifo(folder / "weights.bin")
    assert "not a regular file" in refused(folder)


def test_a_model_in_memory_has_no_external_data(folder: Path) -> None:
    with pytest.raises(InvalidModelError, match="a model in memory has no folder"):
        load((folder / "model.onnx").read_bytes())


def test_strings_cannot_be_external(folder: Path) -> None:
    write(folder, data_type=TensorProto.STRING, location="weights.bin")
    assert "STRING has no raw_data" in refused(folder)


def test_external_values_inside_nodes_are_read_too(folder: Path) -> None:
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=proto.graph.initializer[0]))
    del proto.graph.initializer[:]
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    model = load(folder / "model.onnx")
    [value] = model.skeleton.graph.node[0].attribute
    np.testing.assert_array_equal(numpy_helper.to_array(value.t), WEIGHT)
