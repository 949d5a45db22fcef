from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_grow.model import Inline, Stored, Typed, Weight, dtype_name, load, raw_length, rows_of
from onnx_grow.model.weights import CHUNK, typed_length

STRING = TensorProto.STRING
NUMERIC = [dtype for dtype in TensorProto.DataType.values() if dtype not in (TensorProto.UNDEFINED, STRING)]
SHAPES = [(), (0,), (1,), (3,), (3, 5), (2, 0, 4), (2, 3, 4)]


def tensor(dtype: int, shape: tuple[int, ...], raw: bool) -> TensorProto:
    values = np.arange(np.prod(shape, dtype=int)) % 2
    array = values.astype(helper.tensor_dtype_to_np_dtype(dtype)).reshape(shape)
    proto = numpy_helper.from_array(array, "w")
    return proto if raw else helper.make_tensor("w", dtype, shape, list(array.reshape(-1)))


@pytest.mark.parametrize("dtype", NUMERIC, ids=dtype_name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_type_reads_and_writes_what_onnx_reads_and_writes(dtype: int, shape: tuple[int, ...]) -> None:
    raw, typed = tensor(dtype, shape, raw=True), tensor(dtype, shape, raw=False)
    expected = numpy_helper.to_array(raw)
    for weight in (Stored(dtype, shape, memoryview(raw.raw_data)), Typed(typed), Inline.of(expected)):
        assert isinstance(weight, Weight)
        assert (weight.dtype, weight.shape, weight.nbytes) == (dtype, shape, len(raw.raw_data))
        assert weight.array().dtype == expected.dtype
        assert weight.array().shape == shape
        assert weight.array().tobytes() == expected.tobytes()
        assert b"".join(weight.chunks()) == raw.raw_data
        assert not weight.array().flags.writeable
    assert raw_length(dtype, shape) == len(raw.raw_data)
    field, count = typed_length(dtype, shape)
    assert len(getattr(typed, field)) == count


def test_strings_have_no_raw_bytes() -> None:
    words = Inline.of(np.array(["a", "ä"], object))
    assert (words.dtype, words.shape, words.nbytes) == (STRING, (2,), 3)
    typed = Typed(numpy_helper.from_array(np.array(["a", "ä"], object)))
    assert (typed.dtype, typed.shape, typed.nbytes) == (STRING, (2,), 3)
    assert list(typed.array()) == ["a", "ä"]
    assert Inline.of(["a", "b"]).dtype == STRING
    for weight in (words, typed):
        with pytest.raises(TypeError, match="raw_data"):
            weight.chunks()


def test_large_values_come_in_bounded_pieces_without_a_copy() -> None:
    values = np.arange(3 * CHUNK // 4 + 1, dtype=np.float32)
    weight = Stored(TensorProto.FLOAT, values.shape, memoryview(values.tobytes()))
    assert [len(piece) for piece in weight.chunks()] == [CHUNK, CHUNK, CHUNK, 4]
    assert np.shares_memory(weight.array(), np.frombuffer(weight.buffer, np.uint8))
    assert np.shares_memory(Inline.of(values).array(), values)


def test_foreign_layouts_are_converted() -> None:
    columns = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    swapped = np.arange(6, dtype=">f4").reshape(2, 3)
    expected = np.arange(6, dtype="<f4").tobytes()
    for array in (columns, swapped):
        weight = Inline.of(array)
        assert weight.dtype == TensorProto.FLOAT
        assert b"".join(weight.chunks()) == expected


def test_the_array_given_stays_writable_for_its_owner() -> None:
    array = np.zeros(3, np.float32)
    Inline.of(array)
    array[0] = 1


def test_types_without_raw_bytes_are_refused() -> None:
    for dtype in (TensorProto.UNDEFINED, STRING, 999):
        with pytest.raises(ValueError, match="no raw_data"):
            raw_length(dtype, (1,))
    for dtype in (TensorProto.UNDEFINED, 999):
        with pytest.raises(ValueError, match="no values"):
            typed_length(dtype, (1,))
    assert dtype_name(onnx.TensorProto.FLOAT16) == "FLOAT16"
    assert dtype_name(999) == "999"


def test_values_that_lie_apart_in_memory_are_written_in_order():
    apart = np.arange(12, dtype=np.float32).reshape(3, 4)[::-1, 1:2]
    assert b"".join(map(bytes, Inline.of(apart).chunks())) == apart.tobytes()


@pytest.mark.skipif(not hasattr(mmap, "MADV_WILLNEED"), reason="the system takes no advice")
def test_rows_of_a_mapped_weight_are_asked_for_at_once(tmp_path: Path) -> None:
    values = np.arange(30_000, dtype=np.float32).reshape(300, 100)
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, [1, 300])],
            [helper.make_tensor_value_info("y", 1, [1, 100])],
            [numpy_helper.from_array(values, "w")],
        ),
        ir_version=8,
    )
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    weight = load(tmp_path / "m.onnx").weights["w"]
    assert isinstance(weight, Stored)
    asked: list[tuple[int, int]] = []
    expect = Stored.expect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stored, "expect", lambda self, *span: (asked.append(span), expect(self, *span)))
        rows = rows_of(weight)
        for index in ([7, 8, 9], [299], [3, 1], []):
            np.testing.assert_array_equal(rows(np.array(index, np.int64)), values[index])
    assert asked == [(2800, 1200), (119600, 400)]
