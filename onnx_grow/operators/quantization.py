"""Quantized operators: integers that stand for numbers, with a scale and a zero point.

    x = scale (q - zero)      copies of a number are copies of its integer, and of its scale and zero point where each channel has its own

Integers cannot be divided. Where copies are summed, the weights of the first one keep their integers and those of the others become
the zero point, which is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from onnx_grow.axes.algebra import Dim, axis, concat, size
from onnx_grow.axes.equations import Node, Rule, Unsupported
from onnx_grow.axes.signature import Signature, broadcast

_CONV_INTEGER = Signature("N (g i) !*, (g o) /i !*, -, - -> N (g o) !*", {"group": "g"})
_CONV = {
    last: Signature(f"{x}, -, -, (g o) /i !*, -, -, -, -, (g o) -> {y}", {"group": "g"})
    for last, x, y in ((0, "N (g i) !*", "N (g o) !*"), (1, "N !* (g i)", "N !* (g o)"))
}
_GEMM = {
    (a, b): Signature(f"{left}, -, -, {right}, -, -, -, -, - -> m n")
    for a, left in ((0, "m /k"), (1, "/k m"))
    for b, right in ((0, "/k n"), (1, "n /k"))
}
_POOL = {0: Signature("N c !*, -, -, -, - -> N c !*"), 1: Signature("N !* c, -, -, -, - -> N !* c")}


def linear(node: Node) -> None:
    """QuantizeLinear and DequantizeLinear: one scale for all, one for every index of `axis`, or one for every block of them."""
    node.apart()
    dims = node.input(0)
    at = node.axis(node.attribute("axis", 1)) if len(dims) > 1 else 0
    for i in (1, 2):
        if not node.has(i) or node.shape(i) in ((), (1,)):
            continue
        if len(node.input(i)) == 1:
            node.unify(dims[at], node.input(i)[0])
            continue
        if len(node.input(i)) != len(dims):
            raise Unsupported(f"input {i} has {len(node.input(i))} dimensions")
        for k, (dim, scale) in enumerate(zip(dims, node.input(i), strict=True)):
            if k == at:
                node.freeze(dim, "quantizes this dimension in blocks")
                node.freeze(scale, "has one scale for each block")
            else:
                node.unify(dim, scale)
    if node.op == "DequantizeLinear":
        node.quantized(0, 2)
    node.set(0, dims)


def dynamic(node: Node) -> None:
    """The scale comes from the smallest and the largest element of all, which copies do not change."""
    node.set(0, node.input(0))
    node.set(1, [])
    node.set(2, [])


def dynamic_product(node: Node) -> None:
    """A product with what it quantizes itself, by the smallest and the largest element of all."""
    _DYNAMIC_PRODUCT(node)
    for dim in node.input(0):
        node.replicate(dim, "quantizes by the smallest and the largest of all")


def _product(
    signature: str, left: int, right: int, rows: Sequence[int], columns: Sequence[int]
) -> Callable[[Node], None]:
    """A matrix product of inputs `left` and `right` with zero points `rows[0]` and `columns[0]`.

    `rows` and `columns` hold one number for all, or one for every row of the result, or column.
    """
    stated = Signature(signature)

    def state(node: Node) -> None:
        names = stated(node)
        summed(node, names["k"], (right, columns[0]), *((left, row) for row in rows[:1]))
        _each(node, rows, -2)
        _each(node, columns, -1)

    return state


def conv_integer(node: Node) -> None:
    """A convolution of integers; its result has no scale."""
    summed(node, _CONV_INTEGER(node)["i"], (1, 3))
    _each(node, (3,), 1)


def conv(node: Node) -> None:
    """A convolution of quantized pictures with a quantized result."""
    last = node.attribute("channels_last", 0)
    names = _CONV[last](node)
    summed(node, names["i"], (3, 5))
    _each(node, (4, 5), -1 if last else 1)
    if size(names["i"]) > 1:
        node.role("groups", names["g"])


def gemm(node: Node) -> None:
    """alpha A B + C, quantized."""
    names = _GEMM[node.attribute("transA", 0), node.attribute("transB", 0)](node)
    summed(node, names["k"], (0, 2), (3, 5))
    _each(node, (4, 5), -1)
    if node.has(6):
        broadcast(node, [node.outputs[0] or (), node.input(6)])


def summed(node: Node, over: Dim, *operands: tuple[int, int]) -> None:
    """Say that products of quantized `operands` (input, its zero point) are summed; one must be a weight with a single zero point."""
    known = [node.quantized(i, zero) and node.constant[i] for i, zero in operands]
    if not any(known):
        node.freeze(over, "sums over this dimension in integers, none of which is known to stand for zero")


def _each(node: Node, inputs: Sequence[int], position: int) -> None:
    """Say that `inputs` hold one number for all, or one for every index of a dimension of the result."""
    dims = node.outputs[0]
    if dims is None:
        raise Unsupported("its result is unused")
    for i in inputs:
        if not node.has(i) or prod(node.shape(i)) == 1:
            continue
        if len(node.input(i)) == 1:
            node.unify(dims[position], node.input(i)[0])
        else:
            broadcast(node, [dims, node.input(i)])


def binary(node: Node) -> None:
    """QLinearAdd and QLinearMul: operands 0 and 3, broadcast."""
    node.apart()
    _scalars(node, (1, 2, 4, 5, 6, 7))
    node.set(0, broadcast(node, [node.input(0), node.input(3)]))


def choice(node: Node) -> None:
    """QLinearWhere: a condition and operands 1 and 4, broadcast."""
    _scalars(node, (2, 3, 5, 6, 7, 8))
    node.set(0, broadcast(node, [node.input(i) for i in (0, 1, 4)]))


def unary(node: Node) -> None:
    """A function of every element alone."""
    node.apart()
    _scalars(node, range(1, len(node.dims)))
    node.set(0, node.input(0))


def pool(node: Node) -> None:
    """Each channel is pooled alone."""
    _POOL[node.attribute("channels_last", 0)](node)


def softmax(node: Node) -> None:
    """Rounded probabilities of copies would not sum to the original's."""
    dims = node.input(0)
    at = node.axis(node.attribute("axis", -1))
    for dim in dims[at:] if node.attribute("opset", 13) < 13 else dims[at : at + 1]:
        node.freeze(dim, "normalises over this dimension, in integers")
    node.set(0, dims)


def join(node: Node) -> None:
    """Concatenation of tensors that come with a scale and a zero point each."""
    node.apart()
    operands = [node.input(i) for i in range(2, len(node.dims), 3)]
    first = operands[0]
    at = node.axis(node.attribute("axis", 0), len(first))
    for other in operands[1:]:
        for k, (a, b) in enumerate(zip(first, other, strict=True)):
            if k != at:
                node.unify(a, b)
    joined: Dim = concat(dims[at] for dims in operands)
    node.set(0, [*first[:at], joined, *first[at + 1 :]])


def products_of_blocks(node: Node) -> None:
    """MatMulNBits: a packed weight of N rows, each of which is K columns in blocks with a scale and a zero point of their own."""
    node.apart()
    if node.attribute("weight_prepacked", 0):
        raise Unsupported("its weight is packed for one machine")
    *outer, inner = node.input(0)
    rows, each, packed = node.input(1)
    points = (
        size(node.input(3)[-1]) // (size(rows) if len(node.input(3)) == 1 else 1) if node.has(3) else None
    )
    blocks, zeros = blocked(node, inner, size(each), int(node.attribute("bits", 4)), points)
    node.unify(each, blocks)
    node.freeze(packed, "are the bytes of one block")
    _by_row(node, 2, rows, blocks)
    node.contract(blocks, (2, len(node.input(2)) - 1))
    if node.has(3):
        _by_row(node, 3, rows, zeros)
    if node.has(4):
        node.freeze((*inner, *node.input(4)[0]), "takes the columns of its weight in an order of their own")
    if node.has(5):
        node.unify(node.input(5)[0], rows)
    node.size_attribute("N", rows)
    node.size_attribute("K", inner)
    node.set(0, [*outer, rows])


def products_of_four_bits(node: Node) -> None:
    """MatMulBnb4: N rows of K columns in one list, in blocks with a scale of their own."""
    block = int(node.attribute("block_size", 0))
    *outer, inner = node.input(0)
    if not node.attribute("transB", 1) or not block or size(inner) % block:
        raise Unsupported("its blocks do not go by rows")
    rows = axis(int(node.attribute("N", 0)))
    blocks, _ = blocked(node, inner, size(inner) // block, 4)
    node.unify(node.input(1)[0], (*rows, *blocks, *node.frozen(block // 2, "are the bytes of one block")))
    node.unify(node.input(2)[0], (*rows, *blocks))
    node.contract(blocks, (2, 0))
    node.size_attribute("N", rows)
    node.size_attribute("K", inner)
    node.set(0, [*outer, rows])


def gather_blocks(node: Node) -> None:
    """GatherBlockQuantized: rows of a packed table, in blocks with a scale and a zero point of their own."""
    (words, packed), indices, (_, scales) = node.input(0), node.input(1), node.input(2)
    if node.axis(node.attribute("gather_axis", 0)) or node.axis(node.attribute("quantize_axis", 1)) != 1:
        raise Unsupported("its table is no list of rows, each in blocks")
    channels = axis(node.out_shape()[-1])
    bits = int(node.attribute("bits", 4))
    blocks, zeros = blocked(
        node, channels, size(scales), bits, size(node.input(3)[1]) if node.has(3) else None
    )
    node.freeze(words, "selects from this dimension by index")
    bytes_of_one = node.frozen(size(packed) // size(blocks), "are the bytes of one block")
    for i, columns in ((0, (*blocks, *bytes_of_one)), (2, blocks), (3, zeros)):
        if node.has(i):
            _by_row(node, i, words, columns)
    node.role("embedding", channels)
    node.set(0, [*indices, channels])


def blocked(node: Node, channels: Dim, count: int, bits: int, points: int | None = None) -> tuple[Dim, Dim]:
    """`channels` as `count` blocks, which are copied whole: the dimension of the blocks, and that of their `points` zero points.

    Blocks that have their zero points packed in one byte are copied together. Where they cannot be, the channels freeze.
    """
    if size(channels) % count:
        raise Unsupported("its last block is shorter than the others")
    per_byte = 1 if points in (None, count) else 8 // bits
    if count % per_byte == 0:
        zeros = axis(count // per_byte)
        blocks = (*zeros, *node.frozen(per_byte, "have their zero points in one byte"))
    else:
        blocks, zeros = (
            node.frozen(n or 1, "does not fill the bytes of its zero points") for n in (count, points)
        )
    node.unify(channels, (*blocks, *node.frozen(size(channels) // count, "are quantized as one block")))
    return blocks, zeros


def _by_row(node: Node, i: int, rows: Dim, columns: Dim) -> None:
    """Say that input `i` is a matrix, or all of one in a list."""
    dims = node.input(i)
    for dim, part in zip(dims, [(*rows, *columns)] if len(dims) == 1 else [rows, columns], strict=True):
        node.unify(dim, part)


def _scalars(node: Node, inputs: Sequence[int]) -> None:
    if any(node.has(i) and prod(node.shape(i)) > 1 for i in inputs):
        raise Unsupported("it has more than one scale")


_MATMUL_INTEGER = _product("... m /k, ... /k n, -, - -> ... m n", 0, 1, (2,), (3,))
_QLINEAR_MATMUL = _product("... m /k, -, -, ... /k n, -, -, -, - -> ... m n", 0, 3, (2, 1), (5, 4))
_TO_FLOAT = _product("... m /k, ... /k n, -, -, -, -, n -> ... m n", 0, 1, (4, 2), (5, 3))
_DYNAMIC_PRODUCT = _product("... m k, ... /k n, -, -, n -> ... m n", 0, 1, (), (3, 2))

RULES = {
    **{
        (domain, op): Rule(linear)
        for domain in ("", "com.microsoft")
        for op in ("QuantizeLinear", "DequantizeLinear")
    },
    ("", "DynamicQuantizeLinear"): Rule(dynamic),
    ("", "MatMulInteger"): Rule(_MATMUL_INTEGER),
    ("", "QLinearMatMul"): Rule(_QLINEAR_MATMUL),
    ("", "ConvInteger"): Rule(conv_integer),
    ("", "QLinearConv"): Rule(conv),
    ("com.microsoft", "QLinearConv"): Rule(conv),
    ("com.microsoft", "QGemm"): Rule(gemm),
    ("com.microsoft", "MatMulIntegerToFloat"): Rule(_TO_FLOAT),
    ("com.microsoft", "DynamicQuantizeMatMul"): Rule(dynamic_product),
    ("com.microsoft", "GatherBlockQuantized"): Rule(gather_blocks),
    ("com.microsoft", "MatMulBnb4"): Rule(products_of_four_bits),
    ("com.microsoft", "MatMulInteger16"): Rule(_product("... m /k, ... /k n -> ... m n", 0, 1, (), (2,))),
    ("com.microsoft", "MatMulNBits"): Rule(products_of_blocks),
    **{("com.microsoft", op): Rule(binary) for op in ("QLinearAdd", "QLinearMul")},
    ("com.microsoft", "QLinearWhere"): Rule(choice),
    **{("com.microsoft", op): Rule(unary) for op in ("QLinearLeakyRelu", "QLinearSigmoid")},
    **{("com.microsoft", op): Rule(pool) for op in ("QLinearAveragePool", "QLinearGlobalAveragePool")},
    ("com.microsoft", "QLinearSoftmax"): Rule(softmax),
    ("com.microsoft", "QLinearConcat"): Rule(join),
}
