"""Fused operators of com.microsoft, as ONNX Runtime's optimizer and exporters for it write them.

Each is several operators in a row, and its rule what theirs say together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from onnx_grow.axes.algebra import Dim, axis, concat, size
from onnx_grow.axes.equations import Node, Rule, unsupported
from onnx_grow.axes.signature import Signature, broadcast
from onnx_grow.operators.contraction import gemm
from onnx_grow.operators.elementwise import addition

_GEMM_GELU = Signature("... m /k, /k n, n -> ... m n")
_NHWC_CONV = Signature("N !* (g i), (g o) /i !*, (g o) -> N !* (g o)", {"group": "g"})
_GROUP = {
    0: Signature("N (g ~k) ~*, (g k), (g k) -> N (g k) *", {"groups": "g"}),
    1: Signature("N ~* (g ~k), (g k), (g k) -> N * (g k)", {"groups": "g"}),
}
_SKIP_GROUP = {
    0: Signature("N (g ~k) ~*, (g k), (g k), -, (g k) -> N (g k) *", {"groups": "g"}),
    1: Signature("N ~* (g ~k), (g k), (g k), -, (g k) -> N * (g k)", {"groups": "g"}),
}
_EMBED = Signature("N !T, N T, !V ~d, !P ~d, !S ~d, d, d, -, - -> N T d, N, N T d")
_EMBED_QUANTIZED = Signature(
    "N !T, N T, !V ~d, !P ~d, !S ~d, d, d, -, -, -, -, -, -, -, -, -, -, - -> N T d, N"
)
_ENGRAM = Signature("N T s ~d, N T s d, N T d, s d, s d, s d -> N T s d")


def matmul(node: Node) -> None:
    """A matrix product with a factor; either operand may come transposed, the first of its dimensions behind those of the batch, too."""
    turned = [bool(node.attribute(name, 0)) for name in ("transA", "transB", "transBatchA", "transBatchB")]
    names = _matmul(*turned, len(node.input(0)) - 2)(node)
    if not any(node.constant):
        for name, dim in names.items():
            node.role("heads" if name.startswith(("...", "batch")) else "head_dim", dim)


@cache
def _matmul(left: bool, right: bool, first: bool, second: bool, rank: int) -> Signature:
    """The signature of a product whose operands have their first dimension moved behind a batch of `rank`, then the last two swapped."""
    batch = " ".join(f"batch{k}" for k in range(rank)) if first or second else "..."

    def operand(row: str, column: str, swapped: bool, ahead: bool) -> str:
        row, column = (column, row) if swapped else (row, column)
        return f"{row} {batch} {column}" if ahead else f"{batch} {row} {column}"

    return Signature(f"{operand('m', '/k', left, first)}, {operand('/k', 'n', right, second)} -> {batch} m n")


def nhwc_conv(node: Node) -> None:
    """A convolution of pictures with the channels last; its kernel is as ever."""
    names = _NHWC_CONV(node)
    if size(names["i"]) > 1:
        node.role("groups", names["g"])


def group(node: Node) -> None:
    """GroupNorm and an activation; the channels come last unless said otherwise."""
    names = _GROUP[node.attribute("channels_last", 1)](node)
    node.role("groups", names["g"])


def skip_group(node: Node) -> None:
    """SkipGroupNorm: a sum with what skipped, for all positions or for each, its GroupNorm and, as last output, the sum itself."""
    names = _SKIP_GROUP[node.attribute("channels_last", 1)](node)
    node.role("groups", names["g"])
    dims = node.input(0)
    n, *_, channels = dims if node.attribute("channels_last", 1) else (*dims[:1], *dims[2:], dims[1])
    skipped = node.input(3)
    if len(skipped) == len(dims):
        broadcast(node, [dims, skipped])
    else:
        node.unify(skipped[0], n)
        node.unify(skipped[-1], channels)
    node.set(1, dims)


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
    names = (_EMBED if node.op == "EmbedLayerNormalization" else _EMBED_QUANTIZED)(node)
    node.role("embedding", names["d"])
    for i in (7, 8):
        for dim in node.input(i) if node.has(i) else ():
            node.freeze(dim, "masks words, or says where they stand")


def premix(node: Node) -> None:
    """HyperConnectionPreMix: several streams of channels become one, each channel a sum over the streams."""
    streams, channels, leading = _streams(node)
    mix = node.input(1)
    if len(mix) == len(leading) + 1 and size(mix[-1]) not in (size(streams), 1):
        node.unify(mix[-1], (*streams, *channels))
        mix = mix[:-1]
    else:
        _gates(node, mix, len(leading), streams, channels)
    _same(node, mix, leading)
    node.set(0, [*leading, channels])


def postmix(node: Node) -> None:
    """HyperConnectionPostMix: the streams are mixed with each other, and a branch is added to each."""
    streams, channels, leading = _streams(node)
    branch, gates = node.input(1), node.input(2)
    node.unify(branch[-1], channels)
    _same(node, branch, leading)
    _gates(node, gates, len(leading), streams, channels)
    _same(node, gates, leading)
    for dim in node.input(3)[-2:] if node.has(3) else ():
        node.unify(dim, streams)
    if node.has(3):
        _same(node, node.input(3), leading)
    node.set(0, node.input(0))


def _streams(node: Node) -> tuple[Dim, Dim, Sequence[Dim]]:
    """The streams, which are mixed and stay, the channels of each, and all dimensions before them."""
    *leading, last = node.input(0)
    count = int(node.attribute("num_branches", 0))
    if count:
        streams, channels = axis(count), axis(size(last) // count)
        node.unify(last, (*streams, *channels))
    else:
        *leading, streams = leading
        channels = last
    node.freeze(streams, "mixes these with each other")
    return streams, channels, leading


def _gates(node: Node, gates: Sequence[Dim], rank: int, streams: Dim, channels: Dim) -> None:
    node.unify(gates[rank], streams)
    if len(gates) > rank + 1 and size(gates[rank + 1]) > 1:
        node.unify(gates[rank + 1], channels)


def _same(node: Node, dims: Sequence[Dim], leading: Sequence[Dim]) -> None:
    for dim, other in zip(dims, leading, strict=False):
        node.unify(dim, other)


def engram(node: Node) -> None:
    """EngramGate: normalised keys and queries are multiplied and summed over their channels, divided by sqrt(channels)."""
    _ENGRAM(node)
    channels = node.input(0)[3]
    node.contract(
        channels, (3, 1), (4, 1), power=-0.5
    )  # the sum is c times as large, and its divisor sqrt(c)
    node.set(1, node.input(0))


def split_gelu(node: Node) -> None:
    """The first half of the channels times the gelu of the second: both halves grow alike."""
    node.apart()
    *outer, channels = node.input(0)
    half = node.cut(channels, size(channels) // 2)
    node.unify(half[0], half[1])
    node.unify(node.input(1)[0], concat(half))
    node.set(0, [*outer, half[0]])


_HELD = {
    "its weights are packed for one machine": """
        GemmFloat8 MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight MatMulFpQ4 MatMulNBitsMlp MatMulNBitsQkv
        QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention QOrderedMatMul
        QuantizeBFP DequantizeBFP QuantizeWithOrder DequantizeWithOrder SparseToDenseMatMul
    """,
    "it works on a signal as a whole": "DynamicTimeWarping Irfft Rfft",
    "it works on texts, or on identifiers of words": """
        BifurcationDetector MurmurHash3 NGramHashMapping NGramRepeatBlock Tokenizer VarlenNGramHashMapping WordConvEmbedding
    """,
    "what its bodies compute is not analysed": "BeamSearch GreedySearch Sampling WhisperBeamSearch",
    "it drops values at random, or may": "BiasDropout BitmaskBiasDropout BitmaskDropout",
    "it attends to what it remembers in a way of its own": "AttnLSTM DecoderAttention",
    "it chooses what to attend to": """
        DynamicSparseAttention LongformerAttention PackedSparseAttentionIndexer SparseAttentionIndexer SparsePagedAttention
    """,
    "it runs on devices only where its growth was never tested": """
        BiasSoftmax ComplexMul ComplexMulConj DecoderMaskedSelfAttention FusedMatMulActivation GatedDeltaNet
        GatedRelativePositionBias GemmaRotaryEmbedding IsAllFinite MulInteger NhwcFusedConv PackedAttention
        PackedMultiHeadAttention PagedAttention QLinearReduceMean ReduceSumInteger RelativePositionBias RemovePadding
        RestorePadding TorchEmbedding VarlenCausalConvWithState
    """,
    "it is a function of whole matrices": "Inverse",
    "it drops what occurs twice": "Unique",
    "what it computes is written down in no definition": "EPContext MaxpoolWithMask SampleOp Snpe",
}
"""Operators that freeze what they touch, by the reason."""

RULES = {
    **{
        ("com.microsoft", op): Rule(unsupported(reason))
        for reason, operators in _HELD.items()
        for op in operators.split()
    },
    **{
        ("com.microsoft", op): Rule(rule, addends)
        for op, rule, addends in (
            ("BiasAdd", addition, ((0,), (1,), (2,))),
            ("BiasSplitGelu", split_gelu, None),
            ("EmbedLayerNormalization", embed_layer, None),
            ("EngramGate", engram, None),
            ("FusedGemm", gemm, None),
            ("FusedMatMul", matmul, None),
            ("GroupNorm", group, None),
            ("HyperConnectionPostMix", postmix, None),
            ("HyperConnectionPreMix", premix, None),
            ("NhwcConv", nhwc_conv, None),
            ("QEmbedLayerNormalization", embed_layer, None),
            ("SkipGroupNorm", skip_group, None),
            ("SkipLayerNormalization", skip_layer, None),
            ("SkipSimplifiedLayerNormalization", skip_layer, None),
            ("TransposeMatMul", matmul, None),
        )
    },
    ("com.microsoft", "GemmFastGelu"): Rule(_GEMM_GELU),
}
