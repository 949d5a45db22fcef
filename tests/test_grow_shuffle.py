"""Channel shuffles chained with halvings, as ShuffleNet V2 has them: the same channels are cut at ever new places."""

from __future__ import annotations

import pytest
from graphs import assert_same, build

from onnx_grow.axes.table import KINDS
from onnx_grow.growth.widening import inspect, widen
from onnx_grow.model import Model


def shuffled(groups: int, channels: int, blocks: int, slices: bool = False) -> Model:
    """`blocks` times: one half of the channels passes a matrix, both are joined and shuffled."""
    half = channels // 2
    part = channels // groups
    body, weights = [], [f"double[4, {channels}] v", f"double[{channels}, 3] w"]
    weights.append(
        f"int64[3] split = {{0, {groups}, {part}}}, int64[2] back = {{0, {channels}}}, int64[2] halves = {{{half}, {half}}}"
    )
    weights.append(
        f"int64[1] zero = {{0}}, int64[1] half = {{{half}}}, int64[1] end = {{{channels}}}, int64[1] one = {{1}}"
    )
    for k in range(blocks):
        cut = (
            f"p{k} = Slice(x{k}, zero, half, one) q{k} = Slice(x{k}, half, end, one)"
            if slices
            else f"p{k}, q{k} = Split <axis=1> (x{k}, halves)"
        )
        body.append(
            f"""{cut} r{k} = MatMul(q{k}, u{k}) s{k} = Relu(r{k}) c{k} = Concat <axis=1> (p{k}, s{k})
            d{k} = Reshape(c{k}, split) e{k} = Transpose <perm=[0, 2, 1]> (d{k}) x{k + 1} = Reshape(e{k}, back)"""
        )
        weights.append(f"double[{half}, {half}] u{k}")
    return build(
        f"(double[2, 4] x) => (double[2, 3] y) <{', '.join(weights)}> {{ x0 = MatMul(x, v) {' '.join(body)} y = MatMul(x{blocks}, w) }}"
    )


@pytest.mark.parametrize("slices", [False, True], ids=["split", "slices"])
@pytest.mark.parametrize(
    ("groups", "channels", "blocks"),
    [(2, 58, 7), (2, 6, 3), (2, 48, 5), (3, 12, 2), (3, 30, 2), (4, 32, 3), (8, 128, 2)],
)
def test_shuffles_and_halves_grow(groups: int, channels: int, blocks: int, slices: bool) -> None:
    model = shuffled(groups, channels, blocks, slices)
    assert all(row.growable for row in inspect(model) if "output" not in str(row.reasons))
    for factor in (2, 1.5, 3):
        grown = widen(model, kind=KINDS, factor=factor)
        assert_same(model, grown)
        assert len(grown.skeleton.graph.node) == len(model.skeleton.graph.node)


@pytest.mark.parametrize(("groups", "channels"), [(4, 72)])
def test_what_has_no_common_rows_keeps_its_size_and_says_so(groups: int, channels: int) -> None:
    model = shuffled(groups, channels, 3)
    reasons = {reason for row in inspect(model).frozen for reason in row.reasons}
    assert any("do not align" in reason for reason in reasons)
