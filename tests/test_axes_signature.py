from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from onnx_grow.axes.algebra import Dim, axis, leaves, resolve, size
from onnx_grow.axes.equations import Node, Statements, Tensors, Unsupported
from onnx_grow.axes.signature import Signature, broadcast

Shape = tuple[int, ...]


def node(inputs: Sequence[Shape | None], *outputs: Shape | None, **attributes: Any) -> Node:
    """A node of operator Op with inputs and outputs of these shapes, each dimension an axis of its own."""
    dims = [None if shape is None else tuple(axis(n) for n in shape) for shape in inputs]
    names = [f"x{k}" for k in range(len(inputs))], [f"y{k}" for k in range(len(outputs))]
    shapes = {name: shape for name, shape in zip(names[1], outputs, strict=True) if shape is not None}
    tensors = Tensors(shapes, {}, {}, {}, names[1].__contains__)
    return Node(7, "Op", "Op 'o'", 17, attributes, names, dims, tensors, Statements())


def said(of: Node) -> Statements:
    return of._statements


def same(a: Dim, b: Dim) -> bool:
    return resolve(a) == resolve(b)


@pytest.mark.parametrize("text", ["a b? -> c", "(a (b c)) -> d", "a, &b -> c", "a ->> b", "a [b] -> c"])
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no operand of a signature"):
        Signature(text)


def test_a_name_is_one_dimension_wherever_it_stands() -> None:
    gemm = node([(2, 4), (4, 5), (5,)], (2, 5))
    names = Signature("m k, k n, n -> m n")(gemm)
    (m, k), (k2, n), (n2,) = gemm.dims  # type: ignore[misc]
    assert same(k, k2)
    assert same(n, n2)
    assert not same(m, n)
    out = gemm.outputs[0]
    assert out is not None
    assert same(out[0], m)
    assert same(out[1], n)
    assert set(names) == {"m", "k", "n"}


def test_contracted_operands_are_those_marked() -> None:
    both = node([(2, 4), (4, 5)], (2, 5))
    Signature("m /k, /k n -> m n")(both)
    one = node([(2, 4), (4, 5)], (2, 5))
    Signature("m k, /k n -> m n")(one)
    assert [(c.node, c.operands, c.power) for c in said(both).contractions] == [(7, ((0, 1), (1, 0)), -1.0)]
    assert [c.operands for c in said(one).contractions] == [((1, 0),)]
    assert same(said(one).contractions[0].over, one.dims[0][1])  # type: ignore[index]


def test_products_are_divided_by_attributes() -> None:
    conv = node([(1, 6, 8, 8), (4, 3, 3, 3), (4,)], (1, 4, 6, 6), group=2)
    names = Signature("N (g i) !*, (g o) /i !*, (g o) -> N (g o) !*", {"group": "g"})(conv)
    assert {name: size(dim) for name, dim in names.items()} == {"N": 1, "g": 2, "i": 3, "o": 2}
    assert [leaf.size for leaf in leaves(conv.dims[0][1])] == [2, 3]  # type: ignore[index]
    assert [leaf.size for leaf in leaves(conv.dims[2][0])] == [2, 2]  # type: ignore[index]
    (attribute,) = said(conv).attributes
    assert (attribute.name, attribute.scalar, size(attribute.elements[0])) == ("group", True, 2)  # type: ignore[arg-type]
    assert said(conv).contractions[0].operands == ((1, 1),)


def test_an_absent_attribute_means_one_and_is_not_written() -> None:
    conv = node([(1, 6, 8), (4, 6, 3)], (1, 4, 6))
    names = Signature("N (g i) !*, (g o) /i !* -> N (g o) !*", {"group": "g"})(conv)
    assert names["g"] == ()
    assert not said(conv).attributes


def test_products_that_do_not_divide() -> None:
    signature = Signature("N (g i) -> N i", {"group": "g"})
    with pytest.raises(Unsupported, match=r"a dimension of 7 does not divide as \(g i\)"):
        signature(node([(1, 7)], (1, 3), group=2))
    with pytest.raises(Unsupported, match="does not divide"):
        Signature("N (a b) -> N")(node([(1, 6)], (1,)))


def test_a_number_is_a_frozen_factor_in_front() -> None:
    lstm = node([(1, 12, 5)], (1, 3))
    Signature("D (4 h) i -> D h")(lstm)
    first, second = leaves(lstm.dims[0][1])  # type: ignore[index]
    assert (first.size, second.size) == (4, 3)
    assert list(first.reasons) == ["Op 'o': has a fixed number of these"]
    assert not second.frozen


def test_marks_freeze_and_take_statistics() -> None:
    one = node([(2, 3, 4)], (2, 3, 4))
    Signature("N !c ~d -> N c d")(one)
    n, c, d = (leaves(dim)[0] for dim in one.dims[0])  # type: ignore[union-attr]
    assert (n.frozen, c.frozen, d.frozen) == (False, True, False)
    assert list(c.reasons) == ["Op 'o': keeps this dimension as it is"]
    assert (n.uniform, d.uniform) == (False, True)
    assert list(d.statistics) == ["Op 'o'"]


def test_many_dimensions_are_the_same_wherever_they_stand_or_frozen_wherever() -> None:
    kept = node([(2, 3, 4, 5)], (2, 3, 4, 5))
    Signature("N c * -> N c *")(kept)
    assert all(same(a, b) for a, b in zip(kept.dims[0], kept.outputs[0], strict=True))  # type: ignore[arg-type]
    other = node([(2, 3, 4, 5)], (2, 3, 8, 9))
    Signature("N c !* -> N c !*")(other)
    assert [leaves(dim)[0].frozen for dim in other.dims[0]] == [False, False, True, True]  # type: ignore[union-attr]
    assert [leaves(dim)[0].frozen for dim in other.outputs[0]] == [False, False, True, True]  # type: ignore[union-attr]


def test_leading_dimensions_are_broadcast() -> None:
    product = node([(7, 1, 2, 4), (3, 4, 5)], (7, 3, 2, 5))
    Signature("... m /k, ... /k n -> ... m n")(product)
    out = product.outputs[0]
    assert out is not None
    assert same(out[0], product.dims[0][0])  # type: ignore[index]
    assert same(out[1], product.dims[1][0])  # type: ignore[index]


def test_a_dimension_of_one_is_broadcast_and_says_nothing_of_others() -> None:
    sums = node([(2, 1), (2, 4), (2, 4)], (2, 4))
    Signature("m a, m a, m a -> m a")(sums)
    assert same(sums.dims[1][1], sums.dims[2][1])  # type: ignore[index]
    assert sums.dims[0][1] == ()  # type: ignore[index]
    assert same(sums.outputs[0][1], sums.dims[1][1])  # type: ignore[index]


def test_operands_may_be_absent_or_passed_over() -> None:
    resize = node([(1, 3), None, (9, 9)], (1, 3), None)
    Signature("N c, c, - -> N c, c")(resize)
    assert resize.outputs[1] is None
    Signature("N c, c, -, c -> N c")(node([(1, 3)], (1, 3)))


@pytest.mark.parametrize(
    ("inputs", "output", "reason"),
    [
        ([(2, 3), (3,), (3,)], (2, 3), "it has 3 inputs where its rule knows 2"),
        ([(2, 3, 4)], (2, 3), "an operand has 3 dimensions, which its rule did not expect"),
        ([(2, 3)], (2, 3, 1), "an output has 3 dimensions, which its rule did not expect"),
        ([(2, 3), (4,)], (2, 3), "dimensions of 3 and 4 meet"),
        ([(2, 3)], (2, 4), r"output 0 has shape \[2, 4\], which its rule did not expect"),
    ],
)
def test_shapes_that_do_not_fit(inputs: list[Shape], output: Shape, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        Signature("m n, n -> m n")(node(inputs, output))


def test_broadcast() -> None:
    add = node([(2, 1, 4), (3, 4), (1,)], (2, 3, 4))
    dims = broadcast(add, [d for d in add.dims if d is not None])
    assert [size(d) for d in dims] == [2, 3, 4]
    assert same(add.dims[0][2], add.dims[1][1])  # type: ignore[index]
    with pytest.raises(Unsupported, match="dimensions of 4 and 3 meet"):
        broadcast(add, [(axis(4),), (axis(3),)])


def test_rules_that_ask_for_what_is_not_there() -> None:
    one = node([(2, 3), None], (2, 3), None)
    with pytest.raises(Unsupported, match="input 1 is missing"):
        one.input(1)
    with pytest.raises(Unsupported, match="input 4 is missing"):
        one.input(4)
    with pytest.raises(Unsupported, match="input 0 is not known before the model runs"):
        one.value(0)
    with pytest.raises(Unsupported, match="the shape of output 1 is not known"):
        one.out_shape(1)
    with pytest.raises(Unsupported, match="axis 2 is out of range"):
        one.axis(2)
    assert (one.axis(-1), one.axis(-3, 3), one.axis(0, 0)) == (1, 0, 0)
    assert (one.has(0), one.has(1), one.has(2)) == (True, False, False)


def test_a_cut_inside_a_row() -> None:
    one = node([(6,)], (6,))
    one.unify(one.dims[0][0], (*axis(2), *axis(3)))  # type: ignore[index]
    halves = one.cut(one.dims[0][0], 2)  # type: ignore[index]
    assert [size(half) for half in halves] == [2, 4]
    assert not any(leaf.frozen for half in halves for leaf in leaves(half))


def test_attributes_and_inputs_that_hold_sizes() -> None:
    old = node([(6,), (2,)], (6,), split=[2, 4])
    parts = [axis(2), axis(4)]
    old.sizes("split", 1, parts)
    assert [a.elements for a in said(old).attributes] == [tuple(parts)]
    assert old.integers("split", 1) == [2, 4]
    new = node([(6,), (2,)], (6,))
    new.sizes("split", 1, parts)
    assert said(new).sized_inputs[7, 1].elements == tuple(parts)
    new.size_attribute("group", axis(3))
    assert not said(new).attributes
