from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, TypeProto, helper

from onnx_grow.shapes import types
from onnx_grow.shapes.types import UNKNOWN, Type

SEQUENCE = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2]))


@pytest.mark.parametrize(
    "known",
    [
        Type(TensorProto.FLOAT, (2, 3)),
        Type(TensorProto.INT64, ()),
        Type(TensorProto.FLOAT16, (None, 0)),
        Type(TensorProto.FLOAT),
        Type(dims=(4, None)),
        Type(other=SEQUENCE.SerializeToString()),
        UNKNOWN,
    ],
)
def test_what_is_written_says_what_is_read(known: Type) -> None:
    assert types.read(types.written(known)) == known


def test_names_of_sizes_are_not_known_sizes() -> None:
    named = helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", 3])
    assert types.read(named) == Type(TensorProto.FLOAT, (None, 3))
    assert types.read(named).shape is None
    assert types.read(TypeProto(denotation="IMAGE")) == UNKNOWN
    assert types.read(onnx.TypeProto(tensor_type=TypeProto.Tensor(elem_type=1))) == Type(1)


def test_a_shape_is_known_when_all_sizes_are_numbers_of_something() -> None:
    assert Type(1, ()).shape == ()
    assert Type(1, (0, 2)).shape == (0, 2)
    for dims in (None, (None,), (2, None), (2, -1)):
        assert Type(1, dims).shape is None
    assert types.of_array(np.ones((2, 3), np.int8)) == Type(TensorProto.INT8, (2, 3))


def test_what_two_types_have_in_common() -> None:
    one = Type(1, (2, 3))
    assert one.common(one) is one
    assert one.common(Type(1, (2, 4))) == Type(1)
    assert one.common(Type(7, (2, 3))) == UNKNOWN
    assert one.agreed(Type(1, (2, 4))) == Type(1, (2, None))
    assert one.agreed(Type(1, (2,))) == Type(1)
    assert Type(1).agreed(one) == Type(1)
    assert one.agreed(Type(7, (2, 4))) == UNKNOWN


def test_dimensions_are_taken_out_and_put_in() -> None:
    one = Type(1, (2, 3))
    assert [one.without_dim(k) for k in (0, 1, -1)] == [Type(1, (3,)), Type(1, (2,)), Type(1, (2,))]
    assert [one.with_dim(k, 5).dims for k in (0, 1, 2, -1, -3)] == [
        (5, 2, 3),
        (2, 5, 3),
        (2, 3, 5),
        (2, 3, 5),
        (5, 2, 3),
    ]
    assert one.with_dim(0, None) == Type(1, (None, 2, 3))
    assert one.without_dim(2) == one.with_dim(3, 1) == Type(1).with_dim(0, 1) == Type(1)
    assert [one.size(k) for k in (0, -1, 2)] == [2, 3, None]
