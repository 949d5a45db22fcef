from __future__ import annotations

from onnx import helper

from onnx_grow.model.names import Names, one_line, quoted, title


def test_names_stay_on_one_line_and_short() -> None:
    assert quoted("conv1") == "'conv1'"
    assert quoted("a\nb\x1b[31m") == "'a\\nb\\x1b[31m'"
    assert quoted(b"\xff") == "b'\\xff'"
    assert len(quoted("x" * 10_000)) < 130


def test_nodes_are_named_by_their_first_output_where_they_have_no_name() -> None:
    assert title(helper.make_node("Conv", [], ["y"], name="c")) == "node 'c' (Conv)"
    assert title(helper.make_node("Conv", [], ["", "y"])) == "node 'y' (Conv)"
    assert title(helper.make_node("a\nb", [], [])) == "node '' (a\\nb)"


def test_what_libraries_say_is_one_line() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line("x" * 20, 10) == "x" * 9 + "…"


def test_fresh_names_are_taken_from_then_on() -> None:
    names = Names(["x", "x_1"])
    assert [names.fresh("x"), names.fresh("x"), names.fresh("y")] == ["x_2", "x_3", "y"]
    names.take(["y_1"])
    assert names.fresh("y") == "y_2"
