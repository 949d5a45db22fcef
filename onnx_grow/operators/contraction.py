"""Operators that sum over channels: matrix products and convolutions.

    y[o] = sum_i w[o, i] x[i]      with c[i] copies of i, w[o, j] is divided so that the copies of i still sum to w[o, i]

This is the second equation of Net2WiderNet; the first, y's copies, is the map of `o` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from string import digits

from onnx_grow.axes.algebra import Dim, leaves, size
from onnx_grow.axes.equations import Node, Rule, Unsupported
from onnx_grow.axes.signature import Signature, broadcast

_CONV_TRANSPOSE = Signature("N (g i) !*, (g /i) o !*, (g o) -> N (g o) !*", {"group": "g"})
_PADS_GIVEN = Signature("N (g i) !*, (g /i) o !*, -, (g o) -> N (g o) !*", {"group": "g"})
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
    """A convolution; `g` groups of `i` input and `o` output channels each (depthwise: i = o = 1).

    Positions stay, but for three cases: a kernel of 1 passes over each alone, one that covers a dimension sums over it, and where
    there is but one channel the channels may be what stands in the place of positions (ECA): neighbours meet.
    """
    ways = [_way(node, k) for k in range(len(node.input(0)) - 2)]
    for k, reach in _across(node).items():
        node.window(2 + k, reach)
        ways[k] = "="
    names = _conv("".join(ways))(node)
    if size(names["i"]) > 1:
        node.role("groups", names["g"])
    if "kernel_shape" in node.attributes:
        covered = [names[f"p{k}"] if way == "/" else None for k, way in enumerate(ways)]
        node.sizes("kernel_shape", 1, covered)


def _way(node: Node, k: int) -> str:
    """How a kernel treats spatial dimension `k`: "=" one position at a time, "/" all at once, "!" in any other way."""
    rank = len(node.input(0)) - 2
    dim, kernel = node.input(0)[2 + k], node.shape(1)[2 + k]
    ones, nothing = [1] * rank, [0] * 2 * rank
    pads = node.attribute("pads", nothing)
    padded = node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or pads[k] or pads[rank + k]
    if kernel == 1 == node.attribute("strides", ones)[k] and not padded:
        return "="
    covers = kernel == size(dim) and node.attribute("dilations", ones)[k] == 1 and not padded
    return "/" if covers and not any(leaf.frozen for leaf in leaves(dim)) else "!"


def _across(node: Node) -> dict[int, int]:
    """The spatial dimension along which a convolution from one channel to one goes over what may grow, and how far it looks there."""
    shape, kernel, out = node.shape(0), node.shape(1), node.out_shape()
    long = [k for k, n in enumerate(shape[2:]) if n > 1]
    ones = [1] * len(shape[2:])
    if (
        kernel[:2] != (1, 1)
        or out[2:] != shape[2:]
        or len(long) != 1
        or node.attribute("strides", ones) != ones
    ):
        return {}
    (k,) = long
    dilations = node.attribute("dilations", ones)
    still = any(leaf.frozen for leaf in leaves(node.input(0)[2 + k]))
    return {} if still or kernel[2 + k] == 1 else {k: (kernel[2 + k] - 1) * dilations[k]}


_WAYS = {"=": ("p", "!k", "p"), "/": ("/p", "/p", "!o"), "!": ("!p", "!k", "!o")}
"""A spatial dimension of input, kernel and output."""


@cache
def _conv(ways: str) -> Signature:
    """The signature of a convolution that treats its spatial dimensions in these ways; FusedConv adds a fourth input to the result."""
    x, kernel, y = (" ".join(f"{_WAYS[way][i]}{k}" for k, way in enumerate(ways)) for i in range(3))
    return Signature(f"N (g i) {x}, (g o) /i {kernel}, (g o), N (g o) {y} -> N (g o) {y}", {"group": "g"})


def conv_transpose(node: Node) -> None:
    """A transposed convolution: its kernel has the input channels first. That of com.microsoft computes its pads."""
    names = (_CONV_TRANSPOSE if node.op == "ConvTranspose" else _PADS_GIVEN)(node)
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
    """NumPy's matmul; between two tensors that nodes compute it is attention, whose axes have names of their own."""
    names = _MATMUL[len(node.input(0)) == 1, len(node.input(1)) == 1](node)
    if not any(node.constant) and -1 not in node.origins:
        for name, dim in names.items():
            node.role("heads" if name.startswith("...") else "head_dim", dim)


def einsum(node: Node) -> None:
    """Its equation is a signature: a letter that the result lacks is summed over."""
    node.apart()
    operands, result = spelled(
        str(node.attribute("equation", "")), [len(node.input(i)) for i in range(len(node.dims))]
    )
    letters: dict[str, Dim] = {}
    found: dict[str, list[tuple[int, int]]] = {}
    for i, operand in enumerate(operands):
        for position, (letter, dim) in enumerate(zip(operand, node.input(i), strict=True)):
            bound = letters.setdefault(letter, dim)
            if size(bound) == 1 < size(dim):
                letters[letter] = dim
            elif size(dim) > 1:
                node.unify(bound, dim)
            found.setdefault(letter, [])
            if size(dim) > 1:  # what is broadcast cannot tell the copies apart
                found[letter].append((i, position))
            if operand.count(letter) > 1:
                node.freeze(dim, "takes the diagonal of this dimension with itself")
    for letter, places in found.items():
        if letter not in result:
            node.contract(letters[letter], *places)
        elif not any(node.constant):
            shared = len(places) == len(operands)
            node.role("heads" if shared else "head_dim", letters[letter])
    node.set(0, [letters[letter] for letter in result])


def spelled(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The letters of the operands, of these ranks, and of the result of an einsum equation: every dimension by one letter.

    Dimensions that an ellipsis stands for are digits, counted from the right. Without an arrow the result has what occurs once.
    Raises Unsupported where the equation does not fit the ranks.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    hidden = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=False)]
    if len(terms) != len(ranks) or any(
        n < 0 or (n and "..." not in t) for t, n in zip(terms, hidden, strict=True)
    ):
        raise Unsupported(f"equation {equation!r} does not fit its operands")
    if max(hidden) > len(digits):
        raise Unsupported(f"equation {equation!r} stands for too many dimensions")
    dots = digits[: max(hidden)][::-1]
    if not arrow:
        once = sorted(letter for letter in set(left) if letter.isalpha() and left.count(letter) == 1)
        right = "..." + "".join(once)
    spell = [term.replace("...", dots[len(dots) - n :]) for term, n in zip(terms, hidden, strict=True)]
    return spell, right.replace("...", dots)


RULES = {
    ("", "Conv"): Rule(conv, ((1,), (2,))),
    ("com.microsoft", "FusedConv"): Rule(conv),
    ("", "ConvTranspose"): Rule(conv_transpose, ((1,), (2,))),
    ("com.microsoft", "ConvTransposeWithDynamicPads"): Rule(conv_transpose),
    ("", "Gemm"): Rule(gemm, ((0, 1), (2,))),
    ("", "MatMul"): Rule(matmul, ((0, 1),)),
    ("", "Einsum"): Rule(einsum, (tuple(range(8)),)),
}
