"""Operators that sum over channels: matrix products and convolutions.

    y[o] = sum_i w[o, i] x[i]      with c[i] copies of i, w[o, j] is divided so that the copies of i still sum to w[o, i]

This is the second equation of Net2WiderNet; the first, y's copies, is the map of `o` alone.
"""

from __future__ import annotations

from onnx_grow.axes.algebra import Dim, size
from onnx_grow.axes.equations import Node, Rule, Unsupported
from onnx_grow.axes.signature import Signature, broadcast

_CONV = Signature("N (g i) !*, (g o) /i !*, (g o) -> N (g o) !*", {"group": "g"})
_CONV_TRANSPOSE = Signature("N (g i) !*, (g /i) o !*, (g o) -> N (g o) !*", {"group": "g"})
_GEMM = {
    (a, b): Signature(f"{left}, {right}, - -> m n")
    for a, left in ((0, "m /k"), (1, "/k m"))
    for b, right in ((0, "/k n"), (1, "n /k"))
}
_MATMUL = {
    (True, True): Signature("/k, /k -> "),
    (True, False): Signature("/k, ... /k n -> ... n"),
    (False, True): Signature("... m /k, /k -> ... m"),
    (False, False): Signature("... m /k, ... /k n -> ... m n"),
}


def conv(node: Node) -> None:
    """A convolution; `g` groups of `i` input and `o` output channels each (depthwise: i = o = 1)."""
    names = _CONV(node)
    if size(names["i"]) > 1:
        node.role("groups", names["g"])


def conv_transpose(node: Node) -> None:
    """A transposed convolution: its kernel has the input channels first."""
    names = _CONV_TRANSPOSE(node)
    if size(names["i"]) > 1:
        node.role("groups", names["g"])


def gemm(node: Node) -> None:
    """alpha A B + beta C, with A and B transposed on request and C broadcast."""
    if node.version < 7 and node.attribute("broadcast"):
        raise Unsupported("it broadcasts by the rules of operator sets before 7")
    _GEMM[node.attribute("transA", 0), node.attribute("transB", 0)](node)
    if node.has(2):
        node.set(0, broadcast(node, [node.outputs[0] or (), node.input(2)]))


def matmul(node: Node) -> None:
    """NumPy's matmul; between two computed tensors it is attention, whose axes have names of their own."""
    names = _MATMUL[len(node.input(0)) == 1, len(node.input(1)) == 1](node)
    if not any(node.constant):
        for name, dim in names.items():
            node.role("heads" if name.startswith("...") else "head_dim", dim)


def einsum(node: Node) -> None:
    """Its equation is a signature: a letter that the result lacks is summed over."""
    equation = str(node.attribute("equation", "")).replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    operands = inputs.split(",")
    if not arrow or "." in equation or len(operands) != len(node.dims):
        raise Unsupported(f"equation {equation!r} is beyond its rule")
    letters: dict[str, Dim] = {}
    found: dict[str, list[tuple[int, int]]] = {}
    for i, operand in enumerate(operands):
        if len(set(operand)) < len(operand) or len(operand) != len(node.input(i)):
            raise Unsupported(f"equation {equation!r} is beyond its rule")
        for position, (letter, dim) in enumerate(zip(operand, node.input(i), strict=True)):
            bound = letters.setdefault(letter, dim)
            if size(bound) == 1 < size(dim):
                letters[letter] = dim
            elif size(dim) > 1:
                node.unify(bound, dim)
            found.setdefault(letter, []).append((i, position))
    for letter, places in found.items():
        if letter not in output:
            node.contract(letters[letter], *places)
        elif not any(node.constant):
            shared = len(places) == len(operands)
            node.role("heads" if shared else "head_dim", letters[letter])
    node.set(0, [letters[letter] for letter in output])


RULES = {
    ("", "Conv"): Rule(conv, ((1,), (2,))),
    ("com.microsoft", "FusedConv"): Rule(conv),
    ("", "ConvTranspose"): Rule(conv_transpose, ((1,), (2,))),
    ("", "Gemm"): Rule(gemm, ((0, 1), (2,))),
    ("", "MatMul"): Rule(matmul, ((0, 1),)),
    ("", "Einsum"): Rule(einsum, (tuple(range(8)),)),
}
