"""Channels whose order matters: every copy reads what its original read, and none is left out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import build, feeds, pictured, run
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import onnx_grow as og
from onnx_grow.growth.correspondence import replayed
from onnx_grow.growth.order import chosen, rounds
from onnx_grow.model import Model
from onnx_grow.verification import trace

maps = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.integers(0, n - 1), max_size=9).map(lambda more: np.array([*range(n), *more]))
)


@given(maps, maps, st.booleans(), st.randoms(use_true_random=False))
def test_a_list_of_channels_reads_copies_of_what_it_read(source, result, originals, random) -> None:  # type: ignore[no-untyped-def]
    old = source.max() + 1
    channels = np.array([random.randrange(int(old)) for _ in range(result.max() + 1)])
    found = chosen(channels, source, old, result, originals=originals)
    np.testing.assert_array_equal(source[found], channels[result])
    assert not originals or (found < old).all()


def test_copies_of_a_list_read_copies_of_the_channels() -> None:
    source, result = np.array([0, 1, 2, 2, 0, 1]), np.array([0, 1, 2, 0, 1, 2])
    found = chosen(np.array([2, 0, 1]), source, 3, result, originals=False)
    assert sorted(found) == [0, 1, 2, 3, 4, 5]


@given(maps, st.integers(0, 3))
def test_rounds_hold_every_channel_among_its_old_neighbours(g, reach) -> None:  # type: ignore[no-untyped-def]
    old = g.max() + 1
    taken, back = rounds(g, old, reach)
    numbers = np.array([*(g + 1), 0])[taken]  # the old channels, from 1 on, and zeros
    padded = np.pad(numbers, reach)
    around = np.array([np.pad(np.arange(1, old + 1), reach)[i : i + 2 * reach + 1] for i in range(old)])
    np.testing.assert_array_equal(
        np.array([padded[i : i + 2 * reach + 1] for i in back]).reshape(len(g), -1), around[g]
    )
    assert set(taken) >= set(range(len(g)))


def test_no_copy_is_left_out_when_a_network_grows_twice() -> None:
    model = build(pictured("b = LRN <size=3, alpha=0.9> (a)"), 17)
    grown = og.widen(og.widen(model, factor=2), factor=1.5)
    inputs = feeds(model)
    np.testing.assert_allclose(run(grown, inputs)[0], run(model, inputs)[0], rtol=1e-4, atol=1e-6)
    kernel = grown.weights["v"].array()
    for channel in range(len(kernel)):
        changed = np.array(kernel)
        changed[channel] += 1
        assert np.abs(run(_with(grown, "v", changed), inputs)[0] - run(grown, inputs)[0]).max() > 1e-4


LISTED = """(float[2, 5] x) => (float[2, 3] y) <float[5, 4] v, float[6, 3] w, int64[6] at = {3, 2, 1, 0, 3, 1}> {
    a = MatMul(x, v) b = Gather <axis=1> (a, at) c = Relu(b) y = MatMul(c, w) }"""
SHUFFLED = """(float[2, 5] x) => (float[2, 3] y) <float[5, 4] v, float[4, 3] w, int64[4] at = {3, 2, 1, 0}> {
    a = MatMul(x, v) b = Gather <axis=1> (a, at) c = Add(a, b) m = ReduceMean <axes=[1]> (c) d = Sub(c, m) y = MatMul(d, w) }"""


def test_the_growth_map_knows_which_channels_are_listed() -> None:
    model = build(LISTED)
    for scheme in ("split", "fresh"):
        grown = og.widen(model, factor=1.5, scheme=scheme)
        _, maps = replayed(model, grown)
        assert len(maps["c"][1]) == 9  # type: ignore[arg-type]
        assert trace(model, grown, feeds(model), maps, allowed=1e-5) is None


def test_shuffled_channels_are_not_padded() -> None:
    model = build(SHUFFLED)
    with pytest.raises(og.NothingToGrowError, match="Gather 'b' picks what each of its channels is"):
        og.widen(model, factor=1.5)
    inputs = feeds(model)
    np.testing.assert_allclose(run(og.widen(model), inputs)[0], run(model, inputs)[0], rtol=1e-4, atol=1e-6)


def _with(model: Model, name: str, value: np.ndarray) -> Model:
    proto = model.to_proto()
    (found,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    found.raw_data = value.tobytes()
    return og.load(proto)


def test_lists_are_valid_where_constants_have_to_be_nodes_that_hold_floating_point_numbers() -> None:
    proto = build(pictured("b = LRN <size=3> (a)"), 7).to_proto()
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model = og.load(proto)
    grown = og.widen(model, factor=2)
    onnx.checker.check_model(grown.to_proto(), full_check=True)
    inputs = feeds(model)
    np.testing.assert_allclose(run(grown, inputs)[0], run(model, inputs)[0], rtol=1e-4, atol=1e-6)
