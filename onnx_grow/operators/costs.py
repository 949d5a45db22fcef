"""Multiply-accumulates: what the operators that multiply by weights, or tensors by each other, cost.

    matrix product   M x K by K x N          M K N
    convolution      every output element    (C / groups) kernel        every input element, where it is transposed
    recurrent layer  every step, direction   gates h (i + h)
    attention        every query and key     d for the score, dv for the sum of the values
    einsum           every combination of letters, once for each product of two operands

One multiply-accumulate is one product that is added to a sum; biases, activations, norms and pooling are not counted, as is the
custom (He et al., arXiv 1512.03385, table 1, where they are called FLOPs; Howard et al., arXiv 1704.04861, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from onnx.helper import get_attribute_value

from onnx_grow.axes.algebra import Dim, size
from onnx_grow.axes.inference import Analysis, Dims

__all__ = ["batch", "costs"]


def costs(analysis: Analysis) -> list[Dim]:
    """Products of dimensions whose sizes sum to the multiply-accumulates of a model at the shapes analysed.

    Nodes in the bodies of control flow and tensors of unknown shape are not counted.
    """
    return [product for index in range(len(analysis.topology.nodes)) for product in _node(analysis, index)]


def batch(analysis: Analysis) -> int:
    """The number of samples at the shapes analysed: the size of the inputs' first dimensions where the file leaves these open, else 1."""
    shapes = analysis.shapes
    open_first = {shapes.inputs[name][0] for name, open_dims in shapes.dynamic.items() if 0 in open_dims}
    return open_first.pop() if len(open_first) == 1 else 1


def _node(analysis: Analysis, index: int) -> Iterator[Dim]:
    proto = analysis.topology.proto(index)
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    cost = _COSTS.get((domain, proto.op_type))
    if cost is None:
        return
    inputs = [analysis.input_dims(index, i) if name else None for i, name in enumerate(proto.input)]
    outputs = [analysis.dims.get(name) if name else None for name in proto.output]
    attributes = {a.name: get_attribute_value(a) for a in proto.attribute if a.ref_attr_name == ""}
    try:
        yield from cost(_Operands(inputs, outputs, attributes))
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return  # it is not what its operator has to be, which its rule says


@dataclass(frozen=True)
class _Operands:
    """The dimensions of a node's inputs and outputs, as far as they are known, and its attributes."""

    inputs: Sequence[Dims | None]
    outputs: Sequence[Dims | None]
    attributes: dict[str, object]

    def input(self, i: int) -> Dims | None:
        return self.inputs[i] if i < len(self.inputs) else None

    def output(self, o: int) -> Dims | None:
        return self.outputs[o] if o < len(self.outputs) else None


_Cost = Callable[[_Operands], Iterator[Dim]]


def _convolution(weight: int, per: str = "output") -> _Cost:
    """Every element of the `per` (output, or input where transposed) meets a filter: all of a weight but its first dimension."""

    def cost(node: _Operands) -> Iterator[Dim]:
        elements, kernel = node.output(0) if per == "output" else node.input(0), node.input(weight)
        if elements is not None and kernel is not None:
            yield _product(elements, kernel[1:])

    return cost


def _matrices(node: _Operands) -> Iterator[Dim]:
    """Every element of the result is a sum over the last dimension of the left operand (the last but one, if it is transposed)."""
    left, out = node.input(0), node.output(0)
    if left and out is not None:
        at = -2 if node.attributes.get("transA") and len(left) > 1 else -1
        yield _product(out, left[at:][:1])


def _recurrent(node: _Operands) -> Iterator[Dim]:
    """At every step each direction multiplies by its weights of the input and of the state (Hochreiter and Schmidhuber, 1997)."""
    x = node.input(0)
    for weight in (node.input(1), node.input(2)):
        if x is not None and weight is not None:
            yield _product(x[:2], weight)


def _attention(node: _Operands) -> Iterator[Dim]:
    """Scores are sums over the channels of queries, results are sums over all keys (Vaswani et al., arXiv 1706.03762, 3.2.1)."""
    queries, keys, out = node.input(0), node.input(1), node.output(0)
    if queries is None or out is None:
        return
    present = node.output(1)
    total = present[2] if present and len(present) == 4 else None
    if total is None:
        total = queries[1] if keys is None else keys[2 if len(keys) == 4 else 1]
    packed = (
        keys is None or len(queries) == 5
    )  # then queries, keys and values have as many channels as the result
    yield _product(out if packed else queries, [total])
    yield _product(out, [total])


def _projecting_attention(node: _Operands) -> Iterator[Dim]:
    """Attention of com.microsoft projects its input to queries, keys and values first."""
    x, weight, out = node.input(0), node.input(1), node.output(0)
    if x is None or weight is None or out is None:
        return
    present = node.output(1)
    total = present[3] if present and len(present) == 5 else x[1]
    yield _product(x, weight[1:])
    yield _product(out, [total])
    yield _product(out, [total])


def _einsum(node: _Operands) -> Iterator[Dim]:
    """Every combination of the letters' values."""
    equation = node.attributes.get("equation", b"")
    assert isinstance(equation, bytes)
    operands = equation.decode(errors="replace").replace(" ", "").partition("->")[0].split(",")
    letters: dict[str, Dim] = {}
    for term, dims in zip(operands, node.inputs, strict=False):
        if dims is None:
            return
        hidden = len(dims) - len(term.replace("...", ""))
        spelled = term.replace("...", "".join(chr(ord("0") + hidden - k - 1) for k in range(hidden)))
        for letter, dim in zip(spelled, dims, strict=False):
            if size(dim) > size(letters.get(letter, ())):
                letters[letter] = dim
    yield from [_product(list(letters.values()))] * max(1, len(operands) - 1)


def _product(*dims: Sequence[Dim]) -> Dim:
    return tuple(factor for part in dims for dim in part for factor in dim)


_COSTS: dict[tuple[str, str], _Cost] = {
    ("", "Conv"): _convolution(1),
    ("", "ConvInteger"): _convolution(1),
    ("", "ConvTranspose"): _convolution(1, per="input"),
    ("", "DeformConv"): _convolution(1),
    ("", "QLinearConv"): _convolution(3),
    ("com.microsoft", "FusedConv"): _convolution(1),
    ("com.microsoft", "NhwcConv"): _convolution(1),
    ("com.microsoft", "QLinearConv"): _convolution(3),
    **{("", op): _matrices for op in ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")},
    **{
        ("com.microsoft", op): _matrices
        for op in (
            "DynamicQuantizeMatMul",
            "FusedGemm",
            "FusedMatMul",
            "GemmFastGelu",
            "MatMulIntegerToFloat",
            "MatMulNBits",
            "QGemm",
            "TransposeMatMul",
        )
    },
    **{("", op): _recurrent for op in ("GRU", "LSTM", "RNN")},
    ("", "Attention"): _attention,
    ("com.microsoft", "Attention"): _projecting_attention,
    ("com.microsoft", "GroupQueryAttention"): _attention,
    ("com.microsoft", "MultiHeadAttention"): _attention,
    ("", "Einsum"): _einsum,
}
