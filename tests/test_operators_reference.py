"""Operators that ONNX Runtime computes on other devices only, against their definitions in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import Arrays
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from single_operators import Computed, Single, check

from onnx_grow.model import Model

MS = "com.microsoft"
Array = np.ndarray
RNG = np.random.default_rng(1)


def floats(*shape: int) -> Array:
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


def swish(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return x / (1 + np.exp(-1.702 * x))


class GroupNorm(OpRun):
    op_domain = MS

    def _run(self, x: Array, gamma: Array, beta: Array, **given: Any) -> tuple[Array]:
        return (_group_norm(x, gamma, beta, **given),)


class SkipGroupNorm(OpRun):
    op_domain = MS

    def _run(
        self, x: Array, gamma: Array, beta: Array, skip: Array, bias: Array | None = None, **given: Any
    ) -> tuple[Array, Array]:
        total = x + (skip[:, None, None] if skip.ndim == 2 else skip)
        total = total if bias is None else total + bias
        return _group_norm(total, gamma, beta, **given), total


def _group_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    groups: int,
    activation: int = 0,
    epsilon: float = 1e-5,
    channels_last: int = 1,
) -> Array:
    last = x if channels_last else np.moveaxis(x, 1, -1)
    split = last.reshape(*last.shape[:3], groups, -1)
    mean, var = (f(split, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    out = ((split - mean) / np.sqrt(var + epsilon)).reshape(last.shape) * gamma + beta
    out = swish(out) if activation else out
    return (out if channels_last else np.moveaxis(out, -1, 1)).astype(x.dtype)


class BiasAdd(OpRun):
    op_domain = MS

    def _run(self, x: Array, bias: Array, skip: Array) -> tuple[Array]:
        return (x + bias + skip,)


class BiasSplitGelu(OpRun):
    op_domain = MS

    def _run(self, x: Array, bias: Array) -> tuple[Array]:
        left, right = np.split(x + bias, 2, axis=-1)
        return (left * gelu(right),)


class GemmFastGelu(OpRun):
    op_domain = MS

    def _run(self, x: Array, weight: Array, bias: Array | None = None) -> tuple[Array]:
        return (gelu(x @ weight + (0 if bias is None else bias)),)


class NhwcConv(OpRun):
    op_domain = MS

    def _run(
        self, x: Array, weight: Array, bias: Array | None = None, group: int = 1, **given: Any
    ) -> tuple[Array]:
        parts = zip(np.split(x, group, -1), np.split(weight[:, :, 0, 0], group), strict=True)
        out = np.concatenate([part @ kernel.T for part, kernel in parts], -1)
        return (out if bias is None else out + bias,)


class MoE(OpRun):
    op_domain = MS

    def _run(
        self,
        x: Array,
        router: Array,
        first: Array,
        b1: Array | None,
        second: Array,
        b2: Array | None = None,
        third: Array | None = None,
        b3: Array | None = None,
        k: int = 1,
        activation_type: str = "relu",
        swiglu_fusion: int = 0,
        **given: Any,
    ) -> tuple[Array]:
        out = np.zeros_like(x)
        odds = np.exp(router) / np.exp(router).sum(-1, keepdims=True)
        for token, chosen in enumerate(np.argsort(-router, axis=-1)[:, :k]):
            for e in chosen:
                inner = first[e] @ x[token] + (0 if b1 is None else b1[e])
                if swiglu_fusion:
                    gate, linear = np.split(inner, 2) if swiglu_fusion == 2 else inner.reshape(-1, 2).T
                else:
                    assert third is not None
                    gate, linear = inner, third[e] @ x[token] + (0 if b3 is None else b3[e])
                inner = swish(gate) * linear
                out[token] += odds[token, e] * (second[e] @ inner + (0 if b2 is None else b2[e]))
        return (out,)


class MultiHeadAttention(OpRun):
    op_domain = MS

    def _run(
        self,
        q: Array,
        k: Array | None = None,
        *rest: Array,
        num_heads: int,
        scale: float | None = None,
        **given: Any,
    ) -> tuple[Array]:
        if k is None:
            q, k, v = (q[:, :, :, i] for i in range(3))
        else:
            q, k, v = q.reshape(*q.shape[:2], num_heads, -1), k[:, :, :, 0], k[:, :, :, 1]
        scores = np.einsum("nthd,nshd->nhts", q, k) * (scale or q.shape[-1] ** -0.5)
        odds = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        out = np.einsum("nhts,nshd->nthd", odds, v)
        return (out.reshape(*out.shape[:2], -1).astype(np.float32),)


DEFINITIONS = [
    BiasAdd,
    BiasSplitGelu,
    GemmFastGelu,
    GroupNorm,
    MoE,
    MultiHeadAttention,
    NhwcConv,
    SkipGroupNorm,
]


def defined(model: Model, inputs: Arrays) -> list[Array]:
    """What the definitions compute."""
    proto: ModelProto = model.to_proto()
    return ReferenceEvaluator(proto, new_ops=DEFINITIONS).run(None, dict(inputs))  # type: ignore[no-any-return]


def by_definition(op: str, *operands: Any, outputs: int = 1, **attributes: Any) -> Single:
    return Single(op, operands, attributes, domain=MS, outputs=outputs, by=defined)


LAST, FIRST = Computed((2, 3, 2, 8)), Computed((2, 8, 3, 2))
EXPERTS = (Computed((5, 4)), Computed((5, 3)))
TABLE = [
    (by_definition("GroupNorm", LAST, floats(8), floats(8), groups=2), "m0 ~m0:2 ~m0:3 m0:4 ~m0:5"),
    (
        by_definition("GroupNorm", FIRST, floats(8), floats(8), groups=2, activation=1, channels_last=0),
        "m0 m0:2 ~m0:3 ~m0:4 ~m0:5",
    ),
    *(
        (
            by_definition(
                "SkipGroupNorm", LAST, floats(8), floats(8), Computed(skip), floats(8), groups=2, outputs=2
            ),
            "m0 ~m0:2 ~m0:3 m0:4 ~m0:5",
        )
        for skip in ((2, 3, 2, 8), (2, 1, 1, 8), (2, 8))
    ),
    (by_definition("BiasAdd", Computed((2, 3, 4)), floats(4), Computed((2, 3, 4))), "m0 m0:2 m0:3"),
    (by_definition("BiasSplitGelu", Computed((2, 3, 8)), floats(8)), "m0 m0:2 m0:3"),
    (by_definition("GemmFastGelu", Computed((2, 3)), floats(3, 4), floats(4)), "m0 m0:2 tested"),
    (by_definition("NhwcConv", LAST, floats(6, 4, 1, 1), floats(6), group=2), "m0 m0:4 m0:5 tested"),
    (
        by_definition(
            "MoE",
            *(*EXPERTS, floats(3, 12, 4), floats(3, 12), floats(3, 4, 6), floats(3, 4)),
            k=2,
            activation_type="swiglu",
            swiglu_fusion=2,
        ),
        "m0:2 tested",
    ),
    (
        by_definition(
            "MoE",
            *(*EXPERTS, floats(3, 6, 4), floats(3, 6), floats(3, 4, 6), floats(3, 4)),
            *(floats(3, 6, 4), floats(3, 6)),
            k=2,
            activation_type="silu",
        ),
        "m0:2 tested",
    ),
    (
        by_definition("MultiHeadAttention", Computed((2, 3, 8)), Computed((2, 4, 2, 2, 4)), num_heads=2),
        "m0:3 m0:4",
    ),
    (by_definition("MultiHeadAttention", Computed((2, 3, 2, 3, 4)), num_heads=2), "m0:3 ~m0:5"),
]


@pytest.mark.parametrize(("single", "axes"), TABLE, ids=map(str, range(len(TABLE))))
def test_operators_by_definition(single: Single, axes: str) -> None:
    assert " ".join(check(single)) == axes, str(single)
