"""Operator signatures: one line of notation that says how an operator's dimensions hang together.

    Conv   N (g i) !*, (g o) /i !*, (g o) -> N (g o) !*

Operands are separated by commas, inputs from outputs by an arrow; operands at the end may be absent.

    a          an axis, or any dimension: everywhere the same
    (a b)      a product, outermost first; a number in it is a fixed leading factor, as the four gates in (4 h)
    *          any number of dimensions, the same wherever it stands
    ...        any number of leading dimensions, broadcast against each other as NumPy does
    /a         contracted: summed over, and this operand may take the scale that keeps the sum
    ~a         statistics are taken over it
    !a  !*     must keep its size; `!*` are different dimensions wherever it stands
    -          an operand without dimensions of interest

A dimension of size 1 matches anything (it is broadcast). A signature is all there is to say: indices meet nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from onnx_grow.axes.algebra import Dim, axis, size
from onnx_grow.axes.equations import Node, Unsupported

_TOKEN = re.compile(r"\(([^)]*)\)|([~!/]?)([A-Za-z]\w*|\d+|\*|\.\.\.|-)")
Names = dict[str, Dim]


@dataclass(frozen=True)
class _Token:
    mark: str  # "", "~", "!" or "/"
    name: str  # an axis, a number, "*", "...", "-" or "" for a product
    factors: tuple[_Token, ...] = ()

    @cached_property
    def variadic(self) -> bool:
        return self.name in ("*", "...")


class Signature:
    """A parsed signature; calling it with a node states the equations and returns what each name stands for.

    `sizes` maps attributes to the names whose sizes they hold, for instance {"group": "g"}; an attribute that is absent
    means 1. Raises ValueError when the text is no signature.
    """

    def __init__(self, text: str, sizes: Mapping[str, str] | None = None) -> None:
        inputs, _, outputs = text.partition("->")
        self.text = text
        self.inputs = [_parse(operand) for operand in inputs.split(",")]
        self.outputs = [_parse(operand) for operand in outputs.split(",")]
        self.sizes = dict(sizes or {})

    def __call__(self, node: Node) -> Names:
        """State the equations of `node`. Raises Unsupported when its shapes do not fit the signature."""
        known = {name: int(node.attribute(attribute, 1)) for attribute, name in self.sizes.items()}
        names: Names = {}
        contracted: dict[str, list[tuple[int, int]]] = {}
        if len(node.dims) > len(self.inputs):
            raise Unsupported(f"it has {len(node.dims)} inputs where its rule knows {len(self.inputs)}")
        node.apart()
        for i, (tokens, dims) in enumerate(zip(self.inputs, node.dims, strict=False)):
            if dims is None:
                continue
            for token, position, span in _match(tokens, dims):
                if token.variadic:
                    _span(node, names, token, span)
                elif token.factors:
                    node.unify(span[0], _product(node, token, size(span[0]), names, known))
                else:
                    _single(node, names, token.mark, token.name, span[0])
                for part in token.factors or (token,):
                    if part.mark == "/":
                        contracted.setdefault(part.name, []).append((i, position))
        for name, operands in contracted.items():
            node.contract(names[name], *operands)
        for o, tokens in enumerate(self.outputs):
            if o < len(node.out_shapes) and node.out_shapes[o] is not None:
                node.set(o, _output(node, tokens, node.out_shape(o), names, known))
        for attribute, name in self.sizes.items():
            if name in names:
                node.size_attribute(attribute, names[name])
        return names


def broadcast(node: Node, operands: Sequence[Sequence[Dim]]) -> list[Dim]:
    """The dimensions of an elementwise result: operands aligned at the right, size 1 matching anything."""
    out: list[Dim] = []
    for k in range(-max(map(len, operands)), 0):
        common: Dim = ()
        for dims in operands:
            if len(dims) < -k or size(dims[k]) == 1:
                continue
            if common:
                node.unify(common, dims[k])
            else:
                common = dims[k]
        out.append(common)
    return out


def _parse(operand: str) -> list[_Token]:
    tokens = []
    rest = operand
    for match in _TOKEN.finditer(operand):
        product, mark, name = match.groups()
        tokens.append(_Token(mark or "", name or "", tuple(_parse(product)) if product else ()))
        rest = rest.replace(match.group(0), "", 1)
    if rest.strip():
        raise ValueError(f"{operand!r} is no operand of a signature")
    return tokens


def _match(tokens: Sequence[_Token], dims: Sequence[Dim]) -> list[tuple[_Token, int, Sequence[Dim]]]:
    """Each token with the position and the dimensions it stands for."""
    if tokens and tokens[0].name == "-":
        return []
    variadic = next((k for k, token in enumerate(tokens) if token.variadic), None)
    spare = len(dims) - len(tokens) + (variadic is not None)
    if spare < 0 or (variadic is None and spare):
        raise Unsupported(f"an operand has {len(dims)} dimensions, which its rule did not expect")
    out, position = [], 0
    for k, token in enumerate(tokens):
        width = spare if k == variadic else 1
        out.append((token, position, dims[position : position + width]))
        position += width
    return out


def _single(node: Node, names: Names, mark: str, name: str, dim: Dim) -> None:
    bound = names.get(name)
    if bound is None or size(bound) == 1:
        names[name] = dim
    elif size(dim) != 1:
        node.unify(bound, dim)
    _mark(node, mark, dim)


def _mark(node: Node, mark: str, dim: Dim) -> None:
    if mark == "~":
        node.uniform(dim)
    elif mark == "!":
        node.position(dim, "keeps this dimension as it is")


def _span(node: Node, names: Names, token: _Token, dims: Sequence[Dim]) -> None:
    """Dimensions of a `*` or `...`; each is kept under a name of its own, counted from the right."""
    if token.mark == "!":
        for dim in dims:
            _mark(node, token.mark, dim)
        return
    for k, dim in enumerate(reversed(dims), start=1):
        _single(node, names, token.mark, f"{token.name}{k}", dim)


def _product(node: Node, token: _Token, total: int, names: Names, known: dict[str, int]) -> Dim:
    """The dimension of a product token; at most one of its factors may have an unknown size."""
    factors = [part.name for part in token.factors]
    sizes = [int(f) if f.isdigit() else size(names[f]) if f in names else known.get(f) for f in factors]
    rest = prod(n for n in sizes if n is not None)
    if sizes.count(None) > 1 or total % rest or (None not in sizes and total != rest):
        raise Unsupported(f"a dimension of {total} does not divide as ({' '.join(factors)})")
    out: Dim = ()
    for part, n in zip(token.factors, sizes, strict=True):
        if part.name.isdigit():
            out += node.frozen(int(part.name), "has a fixed number of these")
            continue
        dim = names.setdefault(part.name, axis(total // rest if n is None else n))
        _mark(node, part.mark, dim)
        out += dim
    return out


def _output(
    node: Node, tokens: Sequence[_Token], shape: tuple[int, ...], names: Names, known: dict[str, int]
) -> list[Dim]:
    variadic = next((k for k, token in enumerate(tokens) if token.variadic), None)
    spare = len(shape) - len(tokens) + (variadic is not None)
    if spare < 0 or (variadic is None and spare):
        raise Unsupported(f"an output has {len(shape)} dimensions, which its rule did not expect")
    out: list[Dim] = []
    for k, token in enumerate(tokens):
        for j in range(spare if k == variadic else 1):
            n = shape[len(out)]
            if k == variadic and token.mark != "!":
                out.append(names[f"{token.name}{spare - j}"])
            elif token.factors:
                out.append(_product(node, token, n, names, known))
            elif token.mark == "!" and token.name not in names:
                out.append(axis(n))
                node.position(out[-1], "computes this dimension from its positions, not its channels")
            else:
                dim = names.setdefault(token.name, axis(n))
                _mark(node, token.mark, dim)
                out.append(dim)
    return out
