"""Attention and rotary embedding as one operator each.

    y[h] = softmax(scale q[h] k[h / rep]^T + mask) v[h / rep]    kv * rep heads of queries, kv of keys and values; d channels, dv of values

Copies of heads attend as the originals do. Copies of the d channels that are summed make the scores as many times as large: either the
queries are shared, and `scale` keeps its value, or the channels grow by a whole factor m, and `scale` becomes m times smaller.
Left out, `scale` means 1 / sqrt(d), which would change. Keys and values of the past are inputs of the model as a rule and keep
kv, d and dv as they are; rep still grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from onnx_grow.axes.algebra import Dim, axis, concat, size
from onnx_grow.axes.equations import Node, Rule, Unsupported
from onnx_grow.operators.quantization import summed

_COMPARED = "compares all that is along this dimension with each other"


@dataclass(frozen=True)
class _Heads:
    """Heads of the keys and values, those of the queries for each, the channels of queries and keys, and those of values."""

    kv: Dim
    rep: Dim
    d: Dim
    dv: Dim

    @classmethod
    def of(cls, node: Node, queries: int, keys: int, d: int, dv: int | None = None) -> _Heads:
        """So many heads of so many channels; without `dv`, values share the channels of the keys."""
        if not keys or queries % keys:
            raise Unsupported(f"it has {queries} heads of queries and {keys} of keys")
        shared = axis(d)
        heads = cls(axis(keys), axis(queries // keys), shared, shared if dv is None else axis(dv))
        for dim in (heads.kv, heads.rep):
            node.role("heads", dim)
        for dim in (heads.d, heads.dv):
            node.role("head_dim", dim)
        return heads

    @property
    def queries(self) -> Dim:
        """All heads of the queries."""
        return (*self.kv, *self.rep)

    @property
    def packed(self) -> Dim:
        """Queries, keys and values, one behind the other."""
        return concat([(*self.queries, *self.d), (*self.kv, *self.d), (*self.kv, *self.dv)])


def attention(node: Node) -> None:
    """Attention of operator sets 23 and on: operands are (N, heads, T, d) or (N, T, heads d)."""
    node.apart()
    q, k, v = (node.input(i) for i in range(3))
    flat = len(q) == 3
    queries = int(node.attribute("q_num_heads", 0)) if flat else size(q[1])
    keys = int(node.attribute("kv_num_heads", 0)) if flat else size(k[1])
    if not queries or not keys:
        raise Unsupported("it does not say how many heads it has")
    d, dv = (size(dims[-1]) // (keys if flat else 1) for dims in (k, v))
    heads = _Heads.of(node, queries, keys, d, dv)
    _operand(node, q, heads.queries, heads.d)
    _operand(node, k, heads.kv, heads.d)
    _operand(node, v, heads.kv, heads.dv)
    _share(node, heads.d, node.attribute("scale"), (0, len(q) - 1), (1, len(k) - 1))
    _mask(node, 3, heads)
    _lengths(node, 6)
    _past(node, (4, 5), (1, 2), q[0], heads)
    node.size_attribute("q_num_heads", heads.queries)
    node.size_attribute("kv_num_heads", heads.kv)
    _results(node, 3, q[0], q[-2 if not flat else 1], heads, flat)


def multi_head(node: Node) -> None:
    """MultiHeadAttention: three operands, or keys and values packed as (N, T, h, 2, d), or all as (N, T, h, 3, d)."""
    _multi_head(node, bias=3, mask=5, past=(6, 7))
    _lengths(node, 4, 8, 9)


def decoding(node: Node) -> None:
    """DecoderMaskedMultiHeadAttention: the same for one query; keys and values may be those of another sequence, by head."""
    if not node.has(1):
        raise Unsupported("its queries, keys and values are packed")
    _multi_head(node, bias=10, mask=4, past=(5, 6))
    _lengths(node, 3, 7, 8, 9)


def _multi_head(node: Node, bias: int, mask: int, past: tuple[int, int]) -> None:
    node.apart()
    q = node.input(0)
    k, v = (node.input(i) if node.has(i) else None for i in (1, 2))
    h = int(node.attribute("num_heads", 0))
    d = size(q[-1]) // (1 if len(q) == 5 else h)
    heads = _Heads.of(node, h, h, d, None if v is None else size(v[-1]) // (1 if len(v) == 4 else h))
    for dims, channels in ((q, heads.d), (k, heads.d), (v, heads.dv)):
        if dims is not None:
            _operand(node, dims, heads.kv, channels)
    if k is not None and len(k) == 4:  # ONNX Runtime then wants keys and values of one shape
        node.unify(heads.d, heads.dv)
    if node.has(bias):
        node.unify(node.input(bias)[0], heads.packed)
    if node.has(bias) or k is None:
        _shrink(node, heads.d)
    else:
        _share(node, heads.d, node.attribute("scale") or None, (0, 2))
    _mask(node, mask, heads)
    _past(node, past, (1, 2), q[0], heads)
    node.size_attribute("num_heads", heads.kv)
    _results(node, 3, q[0], q[1], heads, flat=True)


def grouped(node: Node) -> None:
    """GroupQueryAttention: three operands or all in the first, with rotary embedding on request."""
    node.apart()
    q = node.input(0)
    queries, keys = int(node.attribute("num_heads", 0)), int(node.attribute("kv_num_heads", 0))
    if node.has(12) or node.has(13):
        raise Unsupported("its keys and values of the past are quantized")
    packed = not node.has(1)
    heads = _Heads.of(node, queries, keys, size(q[2]) // (queries + 2 * keys if packed else queries))
    if packed:
        node.unify(q[2], heads.packed)
        for dim in q[:2]:
            node.freeze(dim, _COMPARED)
    else:
        _operand(node, q, heads.queries, heads.d)
        for i in (1, 2):
            _operand(node, node.input(i), heads.kv, heads.d)
    _shrink(node, heads.d)
    if node.attribute("do_rotary", 0):
        if 2 * node.shape(7)[-1] == size(heads.d):
            _pairs(node, heads.d, bool(node.attribute("rotary_interleaved", 0)), (7, 8))
        else:
            node.freeze(heads.d, "rotates a part of these channels")
    _mask(node, 10, heads)
    _lengths(node, 5, 6, 9)
    if node.has(11):
        node.unify(node.input(11)[0], heads.queries)
    for i in (14, 15):
        if node.has(i):
            node.unify(node.input(i)[0], heads.d)
    _past(node, (3, 4), (1, 2), q[0], heads)
    node.size_attribute("num_heads", heads.queries)
    node.size_attribute("kv_num_heads", heads.kv)
    _results(node, 3, q[0], q[1], heads, flat=True)


def sparse(node: Node) -> None:
    """SparseAttention: grouped queries that see blocks of keys. Its past is always there; layouts alternate between heads."""
    q = node.input(0)
    queries, keys = int(node.attribute("num_heads", 0)), int(node.attribute("kv_num_heads", 0))
    packed = not node.has(1)
    heads = _Heads.of(node, queries, keys, node.shape(3)[3])
    if packed:
        node.unify(q[2], heads.packed)
        for dim in q[:2]:
            node.freeze(dim, _COMPARED)
    else:
        _operand(node, q, heads.queries, heads.d)
        for i in (1, 2):
            _operand(node, node.input(i), heads.kv, heads.d)
    node.freeze(heads.d, "its past has as many of these")
    if node.shape(5)[0] > 1:
        node.freeze(heads.queries, "sees by blocks, in layouts that alternate between heads")
    _lengths(node, *range(5, 11))
    _past(node, (3, 4), (1, 2), q[0], heads)
    node.size_attribute("num_heads", heads.queries)
    node.size_attribute("kv_num_heads", heads.kv)
    _results(node, 3, q[0], q[1], heads, flat=True)


def projecting(node: Node) -> None:
    """Attention of com.microsoft: the projections are part of it, their weights one behind the other."""
    node.apart()
    channels, heads = _projected(node, past=4)
    node.contract(channels, (1, 0), (0, 2))
    _mask(node, 5, heads)
    _lengths(node, 3, 6)


def quantized(node: Node) -> None:
    """QAttention: the same of integers; the weights have one scale and zero point for all, or one for each column."""
    channels, heads = _projected(node, past=8)
    node.contract(channels, (1, 0), (0, 2))
    summed(node, channels, (1, 7))
    _lengths(node, 5)
    for i in (4, 7):
        if node.has(i) and size(node.input(i)[0] if node.input(i) else ()) > 1:
            node.unify(node.input(i)[0], heads.packed)


def _projected(node: Node, past: int) -> tuple[Dim, _Heads]:
    """The channels of the hidden states, and the heads that they are projected to."""
    n, rows, channels = node.input(0)
    h = int(node.attribute("num_heads", 0))
    listed = node.attribute("qkv_hidden_sizes")
    inner = listed or [node.shape(1)[1] // 3] * 3
    if inner[0] != inner[1]:
        raise Unsupported("its queries and keys have different sizes")
    heads = _Heads.of(node, h, h, inner[0] // h, inner[2] // h if listed else None)
    weight = node.input(1)
    node.unify(channels, weight[0])
    node.unify(weight[1], heads.packed)
    if node.has(2):
        node.unify(node.input(2)[0], heads.packed)
    node.inside(heads.d)
    _shrink(node, heads.d)
    if node.attribute("do_rotary", 0):
        node.freeze(heads.d, "rotates these channels")
    shape = next((s for s in node.out_shapes[1:2] if s is not None), None)
    if node.has(past):
        node.unify(node.input(past)[2], heads.kv)
        node.unify(node.input(past)[4], heads.d)
        node.unify(node.input(past)[4], heads.dv)
    if shape is not None:
        node.unify(heads.d, heads.dv)
        two, total = (node.frozen(m, _COMPARED) for m in (shape[0], shape[3]))
        node.set(1, [two, n, heads.kv, total, heads.d])
    node.freeze(n, _COMPARED)
    node.freeze(rows, _COMPARED)
    node.size_attribute("num_heads", heads.kv)
    if listed:
        q, v = (*heads.kv, *heads.d), (*heads.kv, *heads.dv)
        node.sizes("qkv_hidden_sizes", 0, [q, q, v])
    node.set(0, [n, rows, (*heads.kv, *heads.dv)])
    return channels, heads


def _rotary(cosine: int, sine: int, positions: int) -> Rule:
    def state(node: Node) -> None:
        """Channels turn in pairs, each pair by its own angle: pairs are copied whole, with their angles."""
        node.apart()
        dims = node.input(0)
        if node.attribute("is_packed_batching", 0):
            raise Unsupported("it rotates sequences of different lengths")
        turned = 2 * node.shape(cosine)[-1]
        if len(dims) == 4:
            channels, rows = dims[3], dims[2]
        else:
            h = int(node.attribute("num_heads", 0))
            heads = axis(h or size(dims[2]) // turned)
            channels, rows = axis(size(dims[2]) // size(heads)), dims[1]
            node.unify(dims[2], (*heads, *channels))
            node.role("heads", heads)
            if h:
                node.size_attribute("num_heads", heads)
        node.freeze(dims[0], "turns each of these by positions of its own")
        if turned < size(channels):
            channels, _ = node.cut(channels, turned)
        _pairs(node, channels, bool(node.attribute("interleaved", 0)), (cosine, sine))
        _lengths(node, positions)
        if "mrope_section" in node.attributes:
            node.freeze(channels, "turns these channels by positions of several kinds, so many by each")
        if node.attribute("rotary_embedding_dim", 0):
            node.size_attribute("rotary_embedding_dim", channels)
        node.freeze(rows, "turns what is along this dimension by different angles")
        node.set(0, dims)

    return Rule(state, ((0,),))


def _operand(node: Node, dims: Sequence[Dim], heads: Dim, channels: Dim) -> None:
    """Say what the dimensions of queries, keys or values are."""
    match len(dims):
        case 3:
            node.freeze(dims[1], _COMPARED)
            node.unify(dims[2], (*heads, *channels))
        case 4:
            node.unify(dims[1], heads)
            node.freeze(dims[2], _COMPARED)
            node.unify(dims[3], channels)
        case 5:
            node.freeze(dims[1], _COMPARED)
            node.unify(dims[2], heads)
            node.freeze(dims[3], "has queries, keys and values here, one behind the other")
            node.unify(dims[4], channels)
        case rank:
            raise Unsupported(f"an operand has {rank} dimensions")
    node.freeze(dims[0], "attends in each of these alone")


def _share(node: Node, d: Dim, scale: float | None, *operands: tuple[int, int]) -> None:
    """Let copies of the channels share the queries, or the keys."""
    node.contract(d, *operands)
    node.tune("scale", 1 / sqrt(size(d)) if scale is None else scale, d)


def _shrink(node: Node, d: Dim) -> None:
    """Let the scale make up for copies of the channels."""
    node.uniform(d)
    node.tune("scale", node.attribute("scale") or 1 / sqrt(size(d)), d, power=-1.0)


def _mask(node: Node, i: int, heads: _Heads) -> None:
    """What is added to the scores, with one or all heads."""
    if not node.has(i):
        return
    dims = node.input(i)
    if len(dims) < 2:
        raise Unsupported("its mask has one dimension")
    for k, dim in enumerate(reversed(dims)):
        if k != 2:
            node.freeze(dim, _COMPARED)
    if len(dims) > 2 and size(dims[-3]) > 1:
        node.unify(dims[-3], heads.queries)


def _lengths(node: Node, *inputs: int) -> None:
    """Inputs that say how long sequences are, where they stand and what to pass over."""
    for i in inputs:
        for dim in node.input(i) if node.has(i) else ():
            node.freeze(dim, _COMPARED)


def _past(node: Node, inputs: Sequence[int], outputs: Sequence[int], n: Dim, heads: _Heads) -> None:
    """Keys and values of the past, and with those of the present, as (N, heads, T, channels)."""
    for i, o, channels in zip(inputs, outputs, (heads.d, heads.dv), strict=True):
        if node.has(i):
            _operand(node, node.input(i), heads.kv, channels)
        shape = node.out_shapes[o] if o < len(node.out_shapes) else None
        if shape is not None:
            node.set(o, [n, heads.kv, node.frozen(shape[2], _COMPARED), channels])


def _results(node: Node, scores: int, n: Dim, rows: Dim, heads: _Heads, flat: bool) -> None:
    """What is attended to and, as output `scores`, how much."""
    both = (*heads.queries, *heads.dv)
    node.set(0, [n, rows, both] if flat else [n, heads.queries, rows, heads.dv])
    shape = node.out_shapes[scores] if scores < len(node.out_shapes) else None
    if shape is not None:
        node.set(scores, [n, heads.queries, rows, node.frozen(shape[3], _COMPARED)])


def _pairs(node: Node, channels: Dim, interleaved: bool, tables: Sequence[int]) -> None:
    """Say that channels are pairs, and that inputs `tables` hold an angle for each."""
    pair, each = node.frozen(2, "turns channels in pairs"), axis(size(channels) // 2)
    node.unify(channels, (*each, *pair) if interleaved else (*pair, *each))
    node.role("head_dim", each)
    for i in tables:
        *positions, angles = node.input(i)
        node.unify(angles, each)
        for dim in positions:
            node.freeze(dim, "looks up angles by position")


RULES = {
    ("", "Attention"): Rule(attention),
    ("", "RotaryEmbedding"): _rotary(1, 2, 3),
    ("com.microsoft", "Attention"): Rule(projecting),
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): Rule(decoding),
    ("com.microsoft", "GroupQueryAttention"): Rule(grouped),
    ("com.microsoft", "MultiHeadAttention"): Rule(multi_head),
    ("com.microsoft", "RotaryEmbedding"): _rotary(2, 3, 1),
    ("com.microsoft", "MRotaryEmbedding"): _rotary(2, 3, 1),
    ("com.microsoft", "QAttention"): Rule(quantized),
    ("com.microsoft", "SparseAttention"): Rule(sparse),
}
