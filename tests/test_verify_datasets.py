import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from onnx_grow.errors import InvalidRequestError
from onnx_grow.verification.datasets import read

ONE = {"x": TensorProto.FLOAT}
TWO = {"ids": TensorProto.INT64, "x": TensorProto.FLOAT}
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_an_archive_is_one_set(tmp_path):
    np.savez(tmp_path / "data.npz", ids=np.arange(2), x=X)
    (feed,) = read(tmp_path / "data.npz", TWO)
    assert feed.label == "data.npz"
    assert list(feed.arrays) == ["ids", "x"]
    assert np.array_equal(feed.arrays["x"], X)


def test_an_array_is_one_set_of_a_single_input(tmp_path):
    np.save(tmp_path / "data.npy", X)
    (feed,) = read(str(tmp_path / "data.npy"), ONE)
    assert np.array_equal(feed.arrays["x"], X)
    with pytest.raises(InvalidRequestError, match=r"one array and the model has 2 inputs .*ids, x"):
        read(tmp_path / "data.npy", TWO)


def test_a_folder_holds_a_set_per_file(tmp_path):
    np.save(tmp_path / "b.npy", X + 1)
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "c.npz", x=X + 2)
    (tmp_path / "README.txt").write_text("not data")
    feeds = read(tmp_path, ONE)
    assert [feed.label for feed in feeds] == ["a.npy", "b.npy", "c.npz"]
    assert [float(feed.arrays["x"][0, 0]) for feed in feeds] == [0, 1, 2]


def test_arrays_named_after_the_inputs_are_one_set(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(2))
    np.save(tmp_path / "x.npy", X)
    (feed,) = read(tmp_path, TWO)
    assert np.array_equal(feed.arrays["ids"], [0, 1])


def test_test_data_sets_go_by_position(tmp_path):
    for number in (0, 1):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        (folder / "input_0.pb").write_bytes(
            numpy_helper.from_array(np.arange(2) + number, "other").SerializeToString()
        )
        (folder / "input_1.pb").write_bytes(numpy_helper.from_array(X + number, "").SerializeToString())
        (folder / "output_0.pb").write_bytes(b"")
    feeds = read(tmp_path, TWO)
    assert [feed.label for feed in feeds] == ["test_data_set_0", "test_data_set_1"]
    assert np.array_equal(feeds[1].arrays["ids"], [1, 2])
    (single,) = read(tmp_path / "test_data_set_0", TWO)
    assert np.array_equal(single.arrays["x"], X)


def test_arrays_in_memory():
    assert [feed.label for feed in read({"x": X}, ONE)] == ["inputs"]
    assert [feed.label for feed in read([{"x": X}, {"x": X}], ONE)] == ["inputs[0]", "inputs[1]"]


def test_numbers_become_what_the_model_wants():
    (feed,) = read({"ids": np.arange(2, dtype=np.int32), "x": X.astype(np.float64)}, TWO)
    assert (feed.arrays["ids"].dtype, feed.arrays["x"].dtype) == (np.int64, np.float32)
    (feed,) = read({"x": np.array(["a"])}, {"x": TensorProto.STRING})
    assert feed.arrays["x"].dtype == object


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": X}, "no input 'y'"),
        ({}, "input 'x' is missing"),
        ({"x": np.array(["a"])}, "the model wants float32"),
        ({"x": X.astype(complex)}, "the model wants float32"),
    ],
)
def test_sets_that_do_not_fit(arrays, message):
    with pytest.raises(InvalidRequestError, match=message):
        read(arrays, ONE)
    with pytest.raises(InvalidRequestError, match="the model wants int64"):
        read({"i": X}, {"i": TensorProto.INT64})
    with pytest.raises(InvalidRequestError, match="do not fit uint8"):
        read({"i": np.array([300])}, {"i": TensorProto.UINT8})


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InvalidRequestError, match="does not exist"):
        read(tmp_path / "missing.npz", ONE)
    with pytest.raises(InvalidRequestError, match="holds no inputs"):
        read(tmp_path, ONE)
    for name, content in {
        "a.npz": b"no archive",
        "b.npy": b"",
        "c.npy": b"\x93NUMPY",
        "d.txt": b"text",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidRequestError, match=name):
            read(tmp_path / name, ONE)
    np.savez(tmp_path / "good.npz", x=X)
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidRequestError, match="cut"):
        read(tmp_path / "cut.npz", ONE)
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InvalidRequestError, match="objects"):
        read(tmp_path / "objects.npy", ONE)
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "input_0.pb").write_bytes(b"\xff\xff")
    with pytest.raises(InvalidRequestError, match="holds no tensor"):
        read(folder, ONE)
    (folder / "input_0.pb").rename(folder / "input_7.pb")
    with pytest.raises(InvalidRequestError, match="belongs to no input"):
        read(folder, ONE)
