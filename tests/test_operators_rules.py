from __future__ import annotations

import re
from pathlib import Path

from onnx import defs

from onnx_grow.operators import RULES

NOT_ON_A_PROCESSOR = {"GemmFastGelu"}
TABLES = {"CategoryMapper", "LabelEncoder"}  # elementwise, of values that are no channels' numbers


def test_every_rule_that_says_something_is_tested() -> None:
    tests = (
        path for path in Path(__file__).parent.glob("test_operators_*.py") if path.name != Path(__file__).name
    )
    named = {name for path in tests for name in re.findall(r"\w+", path.read_text())}
    untested = {
        op
        for (_, op), rule in RULES.items()
        if op not in named and "unsupported" not in getattr(rule.state, "__qualname__", "")
    }
    assert untested <= NOT_ON_A_PROCESSOR | TABLES


def test_operators_that_onnx_has_and_no_rule_describes() -> None:
    """They freeze what they touch, by name."""
    schemas = (schema for schema in defs.get_all_schemas_with_history() if schema.since_version <= 28)
    known = {schema.name for schema in schemas if not schema.domain and not schema.deprecated}
    described = {op for domain, op in RULES if not domain}
    assert known - described <= {"BitCast", "CausalConvWithState", "Constant", "LinearAttention"}
