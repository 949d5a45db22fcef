"""Fused operators of com.microsoft, as ONNX Runtime's optimizer and exporters for it write them.

Each is several operators in a row, and its rule what theirs say together.
"""

from __future__ import annotations

from onnx_grow.axes.algebra import concat, size
from onnx_grow.axes.equations import Node, Rule, Unsupported
from onnx_grow.axes.signature import Signature, broadcast
from onnx_grow.operators.contraction import gemm
from onnx_grow.operators.elementwise import addition

_MATMUL = {
    (a, b): Signature(f"{left}, {right} -> ... m n")
    for a, left in ((0, "... m /k"), (1, "... /k m"))
    for b, right in ((0, "... /k n"), (1, "... n /k"))
}
_GEMM_GELU = Signature("... m /k, /k n, n -> ... m n")
_NHWC_CONV = Signature("N !* (g i), (g o) /i !*, (g o) -> N !* (g o)", {"group": "g"})
_GROUP = {
    0: Signature("N (g ~k) ~*, (g k), (g k) -> N (g k) *", {"groups": "g"}),
    1: Signature("N ~* (g ~k), (g k), (g k) -> N * (g k)", {"groups": "g"}),
}
_EMBED = Signature("N T, N T, !V ~d, !P ~d, !S ~d, d, d, -, - -> N T d, N, N T d")


def matmul(node: Node) -> None:
    """A matrix product with a factor; either operand may come transposed."""
    if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        raise Unsupported("it transposes what it multiplies one by one")
    names = _MATMUL[node.attribute("transA", 0), node.attribute("transB", 0)](node)
    if not any(node.constant):
        for name, dim in names.items():
            node.role("heads" if name.startswith("...") else "head_dim", dim)


def nhwc_conv(node: Node) -> None:
    """A convolution of pictures with the channels last; its kernel is as ever."""
    names = _NHWC_CONV(node)
    if size(names["i"]) > 1:
        node.role("groups", names["g"])


def group(node: Node) -> None:
    """GroupNorm and an activation; the channels come last unless said otherwise."""
    names = _GROUP[node.attribute("channels_last", 1)](node)
    node.role("groups", names["g"])


def skip_layer(node: Node) -> None:
    """A sum, its normalisation and, as last output, the sum itself."""
    node.apart()
    dims = node.input(0)
    channels = dims[-1]
    node.uniform(channels)
    node.role("residual", channels)
    for i in range(1, len(node.dims)):
        if node.has(i):
            broadcast(node, [dims, node.input(i)])
    node.set(0, dims)
    for o in (1, 2):
        node.set(o, [*dims[:-1], ()])
    node.set(3, dims)


def embed_layer(node: Node) -> None:
    """Words, positions and segments are looked up, summed and normalised."""
    names = _EMBED(node)
    node.role("embedding", names["d"])


def split_gelu(node: Node) -> None:
    """The first half of the channels times the gelu of the second: both halves grow alike."""
    node.apart()
    *outer, channels = node.input(0)
    half = node.cut(channels, size(channels) // 2)
    node.unify(half[0], half[1])
    node.unify(node.input(1)[0], concat(half))
    node.set(0, [*outer, half[0]])


RULES = {
    **{
        ("com.microsoft", op): Rule(rule, addends)
        for op, rule, addends in (
            ("BiasAdd", addition, ((0,), (1,), (2,))),
            ("BiasSplitGelu", split_gelu, None),
            ("EmbedLayerNormalization", embed_layer, None),
            ("FusedGemm", gemm, None),
            ("FusedMatMul", matmul, None),
            ("GroupNorm", group, None),
            ("NhwcConv", nhwc_conv, None),
            ("SkipLayerNormalization", skip_layer, None),
            ("SkipSimplifiedLayerNormalization", skip_layer, None),
            ("TransposeMatMul", matmul, None),
        )
    },
    ("com.microsoft", "GemmFastGelu"): Rule(_GEMM_GELU),
}
