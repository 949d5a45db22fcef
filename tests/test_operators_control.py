from __future__ import annotations

import numpy as np
import pytest
from graphs import Case, between

BRANCHES = "then_branch = t () => (double[N, 6] p) { p = Relu(a) }, else_branch = e () => (double[N, 6] q) { q = Neg(a) }"
CASES = [
    Case(
        "bodies",
        between(f"b = If (c) <{BRANCHES}>", "bool c"),
        "",
        {"a": "its body uses 'a'"},
        values={"c": np.array(True)},
    ),
    Case(
        "lists",
        between("s = SequenceConstruct(a, a) b = SequenceAt(s, i)", "int64 i = {1}"),
        "",
        {"a": "it works on a list of tensors"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_stays_as_it_is(case: Case) -> None:
    case.check()
