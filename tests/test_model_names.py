from __future__ import annotations

from onnx import helper

from onnx_grow.model.names import describe, quoted


def test_names_stay_on_one_line_and_short() -> None:
    assert quoted("conv1") == "'conv1'"
    assert quoted("a\nb\x1b[31m") == "'a\\nb\\x1b[31m'"
    assert quoted(b"\xff") == "b'\\xff'"
    assert len(quoted("x" * 10_000)) < 130


def test_nodes_are_named_by_position_where_they_have_no_name() -> None:
    assert describe(3, helper.make_node("Conv", [], [], name="c")) == "node 'c' (Conv)"
    assert describe(3, helper.make_node("Conv", [], [])) == "node #3 (Conv)"
