from __future__ import annotations

import pytest
from graphs import Case, assert_same, build

from onnx_grow.growth.widening import widen

# Hidden states x of 2 x 3 x 4; queries q, keys k, values v are projections of them, and y is one of the result b.
X = "(float[2, 3, 4] x) => (float[2, 3, 5] y)"
PROJECTED = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
THREE = "float[4, 8] wq, float[4, 8] wk, float[4, 6] wv, float[6, 5] wo"
GROUPED = "float[4, 24] wq, float[4, 6] wk, float[4, 4] wv, float[16, 5] wo"
TWO_HEADS = "q_num_heads=2, kv_num_heads=2"


def attending(body: str, weights: str, inputs: str = X) -> str:
    return f"{inputs} <{weights}> {{ {body} y = MatMul(b, wo) }}"


ATTENTION = [
    Case(
        "attention",
        attending(f"{PROJECTED} b = Attention <{TWO_HEADS}> (q, k, v)", THREE),
        "q q:2 v",
        opset=23,
    ),
    Case(
        "attention: scale, softcap, causal, mask",
        attending(
            f"{PROJECTED} b = Attention <{TWO_HEADS}, scale=0.3, softcap=2.0, is_causal=1> (q, k, v, m)",
            f"{THREE}, float[2, 2, 3, 3] m",
        ),
        "q q:2 v",
        opset=23,
    ),
    Case(
        "attention: biases before it",
        attending(
            f"{PROJECTED} r = Add(q, bq) s = Add(k, bk) b = Attention <{TWO_HEADS}> (r, s, v)",
            f"{THREE}, float[8] bq, float[8] bk",
        ),
        "q q:2 v",
        opset=23,
    ),
    Case(
        "attention: queries in groups",
        attending(f"{PROJECTED} b = Attention <q_num_heads=8, kv_num_heads=2> (q, k, v)", GROUPED),
        "q q:2 q:3 v",
        opset=23,
    ),
    Case(
        "attention: one head of keys",
        attending(
            f"{PROJECTED} b = Attention <q_num_heads=4, kv_num_heads=1> (q, k, v)",
            "float[4, 12] wq, float[4, 3] wk, float[4, 2] wv, float[8, 5] wo",
        ),
        "q q:2 v",
        opset=23,
    ),
    Case(
        "attention: four dimensions",
        attending(
            f"""{PROJECTED} r = Reshape(q, split) s = Reshape(k, split) t = Reshape(v, split)
            rt = Transpose <perm=[0, 2, 1, 3]> (r) st = Transpose <perm=[0, 2, 1, 3]> (s)
            tt = Transpose <perm=[0, 2, 1, 3]> (t) c = Attention(rt, st, tt)
            ct = Transpose <perm=[0, 2, 1, 3]> (c) b = Reshape(ct, merged)""",
            f"{THREE}, int64[4] split = {{0, 0, 2, -1}}, int64[3] merged = {{0, 0, -1}}",
        ),
        "q q:2 v",
        opset=23,
    ),
    Case(
        "attention: fused projection",
        attending(
            f"qkv = MatMul(x, wi) q, k, v = Split <axis=-1> (qkv, lengths) b = Attention <{TWO_HEADS}> (q, k, v)",
            "float[4, 22] wi, float[6, 5] wo, int64[3] lengths = {8, 8, 6}",
        ),
        "qkv qkv:2 qkv:3",
        opset=23,
    ),
    Case(
        "attention: scores as a result",
        attending(
            f"{PROJECTED} b, , , s = Attention <{TWO_HEADS}> (q, k, v)",
            THREE,
            "(float[2, 3, 4] x) => (float[2, 3, 5] y, float[2, 2, 3, 3] s)",
        ),
        "q:2 v",
        {"q": "output 's'"},
        opset=23,
    ),
    Case(
        "attention: keys and values of the past",
        attending(
            f"{PROJECTED} b, nk, nv = Attention <q_num_heads=8, kv_num_heads=2> (q, k, v, , pk, pv)",
            GROUPED,
            """(float[2, 3, 4] x, float[2, 2, 7, 3] pk, float[2, 2, 7, 2] pv) =>
            (float[2, 3, 5] y, float[2, 2, 10, 3] nk, float[2, 2, 10, 2] nv)""",
        ),
        "q:2",
        {"q": "input 'pk'", "q:3": "input 'pk'", "v": "input 'pv'"},
        opset=23,
    ),
]

ROTARY = "float[16, 3] c, float[16, 3] s, int64[2, 3] ids = {0, 1, 2, 4, 5, 6}"
TURNED = "float[4, 12] wq, float[4, 12] wk, float[4, 6] wv, float[6, 5] wo"
ROTATIONS = [
    Case(
        f"rotation: {options or 'halves'}",
        attending(
            f"""{PROJECTED} r = RotaryEmbedding <num_heads=2{options}> (q, c, s, ids)
            t = RotaryEmbedding <num_heads=2{options}> (k, c, s, ids) b = Attention <{TWO_HEADS}> (r, t, v)""",
            f"{TURNED}, {ROTARY}",
        ),
        axes,
        opset=23,
    )
    for options, axes in (("", "q q:3 v"), (", interleaved=1", "q q:2 v"))
] + [
    Case(
        "rotation: a part of the channels",
        attending(
            f"""{PROJECTED} r = RotaryEmbedding <num_heads=2, rotary_embedding_dim=4> (q, c, s, ids)
            t = RotaryEmbedding <num_heads=2, rotary_embedding_dim=4> (k, c, s, ids)
            b = Attention <{TWO_HEADS}> (r, t, v)""",
            f"{TURNED}, float[16, 2] c, float[16, 2] s, int64[2, 3] ids = {{0, 1, 2, 4, 5, 6}}",
        ),
        "q q:3 q:4 v",
        opset=23,
    ),
    Case(
        "rotation: four dimensions, angles by position",
        attending(
            f"""{PROJECTED} r = Reshape(q, split) rt = Transpose <perm=[0, 2, 1, 3]> (r)
            u = RotaryEmbedding(rt, c, s) k4 = Reshape(k, split) kt = Transpose <perm=[0, 2, 1, 3]> (k4)
            t = RotaryEmbedding(kt, c, s) v4 = Reshape(v, split) vt = Transpose <perm=[0, 2, 1, 3]> (v4)
            a = Attention(u, t, vt) at = Transpose <perm=[0, 2, 1, 3]> (a) b = Reshape(at, merged)""",
            f"{TURNED}, float[2, 3, 3] c, float[2, 3, 3] s, int64[4] split = {{0, 0, 2, -1}}, int64[3] merged = {{0, 0, -1}}",
        ),
        "q q:3 v",
        opset=23,
    ),
    Case(
        "rotation: com.microsoft",
        attending(
            f"""{PROJECTED} r = com.microsoft.RotaryEmbedding(q, ids, c, s)
            t = com.microsoft.RotaryEmbedding <num_heads=2> (k, ids, c, s)
            b = com.microsoft.MultiHeadAttention <num_heads=2> (r, t, v)""",
            f"{TURNED}, {ROTARY}",
        ),
        "q q:3 v",
    ),
]

MICROSOFT = [
    Case(
        "multi-head",
        attending(f"{PROJECTED} b = com.microsoft.MultiHeadAttention <num_heads=2> (q, k, v)", THREE),
        "q q:2 v",
    ),
    Case(
        "multi-head: scale and bias of the scores",
        attending(
            f"{PROJECTED} b = com.microsoft.MultiHeadAttention <num_heads=2, scale=0.4> (q, k, v, , , m)",
            f"{THREE}, float[1, 2, 3, 3] m",
        ),
        "q q:2 v",
    ),
    Case(
        "multi-head: biases",
        attending(
            f"{PROJECTED} b = com.microsoft.MultiHeadAttention <num_heads=2> (q, k, v, c)",
            f"{THREE}, float[22] c",
        ),
        "q ~q:2 v",
    ),
    Case(
        "multi-head: keys and values of the past",
        attending(
            f"{PROJECTED} b, nk, nv = com.microsoft.MultiHeadAttention <num_heads=2> (q, k, v, , , , pk, pv)",
            "float[4, 8] wq, float[4, 8] wk, float[4, 8] wv, float[8, 5] wo",
            """(float[2, 3, 4] x, float[2, 2, 7, 4] pk, float[2, 2, 7, 4] pv) =>
            (float[2, 3, 5] y, float[2, 2, 10, 4] nk, float[2, 2, 10, 4] nv)""",
        ),
        "",
        {"q": "input 'pk'", "v": "input 'pv'"},
    ),
    Case(
        "grouped queries",
        attending(
            f"{PROJECTED} b = com.microsoft.GroupQueryAttention <num_heads=4, kv_num_heads=2> (q, k, v, , , last, total)",
            """float[4, 32] wq, float[4, 16] wk, float[4, 16] wv, float[32, 5] wo, int32[2] last = {2, 2},
            int32 total = {3}""",
        ),
        "q q:2 ~q:3",
    ),
    Case(
        "grouped queries: packed, rotated, with the past",
        attending(
            """qkv = MatMul(x, wi) b, nk, nv = com.microsoft.GroupQueryAttention
            <num_heads=4, kv_num_heads=2, do_rotary=1, rotary_interleaved=1> (qkv, , , pk, pv, last, total, c, s)""",
            """float[4, 128] wi, float[64, 5] wo, int32[1] last = {7}, int32 total = {8}, float[16, 8] c,
            float[16, 8] s""",
            """(float[1, 3, 4] x, float[1, 2, 5, 16] pk, float[1, 2, 5, 16] pv) =>
            (float[1, 3, 5] y, float[1, 2, 8, 16] nk, float[1, 2, 8, 16] nv)""",
        ),
        "qkv:2",
    ),
    Case(
        "grouped queries: packed, rotated",
        attending(
            """qkv = MatMul(x, wi) b = com.microsoft.GroupQueryAttention
            <num_heads=4, kv_num_heads=2, do_rotary=1> (qkv, , , , , last, total, c, s)""",
            """float[4, 128] wi, float[64, 5] wo, int32[2] last = {2, 2}, int32 total = {3}, float[16, 8] c,
            float[16, 8] s""",
        ),
        "qkv qkv:2 ~qkv:4",
    ),
    Case(
        "attention with its projections",
        attending(
            "a = MatMul(x, v) b = com.microsoft.Attention <num_heads=2> (a, wi, bi)",
            "float[4, 6] v, float[6, 24] wi, float[24] bi, float[8, 5] wo",
        ),
        "a b ~b:2",
    ),
    Case(
        "attention with its projections: sizes apart",
        attending(
            """a = MatMul(x, v)
            b = com.microsoft.Attention <num_heads=2, qkv_hidden_sizes=[8, 8, 6], unidirectional=1, scale=0.2> (a, wi, bi)""",
            "float[4, 6] v, float[6, 22] wi, float[22] bi, float[6, 5] wo",
        ),
        "a b b:2 ~b:3",
    ),
]


@pytest.mark.parametrize("case", [*ATTENTION, *ROTATIONS, *MICROSOFT], ids=str)
def test_attention_grows(case: Case) -> None:
    case.check()


@pytest.mark.parametrize("operands", ["q, k, q", "q, k, k", "q, q, q", "q, q, q, c"])
def test_one_tensor_may_be_keys_or_queries_and_values(operands: str) -> None:
    weights = "float[4, 8] wq, float[4, 8] wk, float[24] c, float[8, 5] wo"
    body = (
        f"q = MatMul(x, wq) k = MatMul(x, wk) b = com.microsoft.MultiHeadAttention <num_heads=2> ({operands})"
    )
    model = build(attending(body, weights))
    assert_same(model, widen(model, factor=2, kind="head_dim"))
    if "c" not in operands:
        assert_same(model, widen(model, factor=1.5, kind="head_dim"))
