from __future__ import annotations

import re
from pathlib import Path

import onnxruntime
import pytest
from onnx import defs
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from test_operators_ml import LISTS
from test_operators_reference import TABLE as BY_DEFINITION
from test_operators_single import TABLE

from onnx_grow.axes.equations import Rule
from onnx_grow.operators import RULES

Operator = tuple[str, str]

NOT_TESTED = {
    ("ai.onnx.ml", "CategoryMapper"): "of texts, which are no channels",
    ("ai.onnx.ml", "LabelEncoder"): "of labels, which are no channels",
}
_NAMED = re.compile(r"\b(?:(com\.microsoft|ai\.onnx\.ml|ms)\.)?([A-Z]\w+)\b")


def test_every_rule_that_says_something_is_tested() -> None:
    """By name, in some test of operators beside this one; a rule without a test is on a short list with the reason."""
    rules = {operator: rule for operator, rule in RULES.items() if not operator[0].startswith("onnx_grow.")}
    untested = {operator for operator, rule in rules.items() if not _holds(rule)} - _tested()
    assert untested == set(NOT_TESTED)


def test_rules_that_hold_say_why() -> None:
    assert all(rule.state.__closure__ for rule in RULES.values() if _holds(rule))  # the reason


def test_every_operator_of_onnx_has_a_rule_or_a_reason() -> None:
    schemas = (schema for schema in defs.get_all_schemas_with_history() if schema.since_version <= 28)
    assert {(schema.domain, schema.name) for schema in schemas} - RULES.keys() == {("", "Constant")}


def test_every_operator_of_onnx_runtime_has_a_rule_or_a_reason() -> None:
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) > (1, 31):
        pytest.skip("a later ONNX Runtime may have operators that this one lacks")
    known = {(schema.domain, schema.name) for schema in runtime.get_all_operator_schema()}
    assert {o for o in known - RULES.keys() if o[0] in ("", "com.microsoft")} <= {("", "Constant")}


def _holds(rule: Rule) -> bool:
    return "unsupported" in getattr(rule.state, "__qualname__", "")


def _tested() -> set[Operator]:
    sources = (
        path.read_text()
        for path in Path(__file__).parent.glob("test_operators_*.py")
        if path != Path(__file__)
    )
    domains = {"ms": "com.microsoft"}
    named = {(domains.get(d, d), op) for source in sources for d, op in _NAMED.findall(source)}
    return named | {(single.domain, single.op) for single, _ in (*TABLE, *BY_DEFINITION, *LISTS)}
