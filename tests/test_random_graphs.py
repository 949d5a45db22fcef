"""Random graphs, widened: ONNX Runtime loads the result, and it computes the same. `bench/fuzz.py` goes on where this stops."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import Choices
from random_growth import check, shrunk

CASES = 100


@pytest.mark.parametrize("first", range(0, CASES, 10))
def test_growth_keeps_the_function(first: int) -> None:
    """Ten cases at a time; where one fails, `bench/fuzz.py --seed 2026 --first K --cases 1` shows the smallest like it."""
    outcomes = [
        check(Choices.drawn([2026, case]), repeat=case % 3 == 0).kind for case in range(first, first + 10)
    ]
    assert "grown" in outcomes


@given(st.data())
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_growth_keeps_the_function_of_graphs_that_shrink(data: st.DataObject) -> None:
    check(Choices(lambda n: data.draw(st.integers(0, n - 1))), repeat=False)


def test_the_same_choices_make_the_same_graph() -> None:
    first = Choices.drawn(3)
    outcome = check(first, repeat=False)
    again = Choices.replayed(first.taken)
    assert check(again, repeat=False) == outcome
    assert again.taken == first.taken


def test_lists_shrink_to_what_fails() -> None:
    assert shrunk([9, 3, 8, 7, 5, 1], lambda taken: sum(taken) >= 15 and 8 in taken) in (
        [8, 7],
        [7, 8],
        [9, 8],
    )
