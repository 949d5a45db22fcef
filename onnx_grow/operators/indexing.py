"""Operators that pick, place or order elements by index: what is indexed keeps its size, all else passes.

y[i, c] = x[index[i, c], c]      copies of c see copies of the indices, so y's copies are equal
"""

from __future__ import annotations

from onnx_grow.axes.algebra import Dim, axis, size
from onnx_grow.axes.equations import Node, Rule, Unsupported, unsupported
from onnx_grow.axes.signature import Signature

_DEFORMABLE = Signature("N (g i) !*, (g o) /i !*, N !*, (g o), N !* -> N (g o) !*", {"group": "g"})


def gather_elements(node: Node) -> None:
    """y has the indices' shape; dimensions that the indices only have a part of are cut off."""
    dims, indices = node.input(0), node.input(1)
    at = node.axis(node.attribute("axis", 0))
    node.freeze(dims[at], "selects from this dimension by index")
    for k, (dim, index) in enumerate(zip(dims, indices, strict=True)):
        if k != at:
            _same(node, dim, index, "takes a part of this dimension")
    node.set(0, indices)


def scatter_elements(node: Node) -> None:
    """The data, with updates where the indices say; where copies met, what is written there would count twice."""
    dims, indices, updates = node.input(0), node.input(1), node.input(2)
    at = node.axis(node.attribute("axis", 0))
    for k, (dim, index, update) in enumerate(zip(dims, indices, updates, strict=True)):
        if k == at:
            node.freeze(dim, "writes to this dimension by index")
            node.freeze(index, "writes as often as this dimension is long")
        else:
            _same(node, dim, index, "writes to a part of this dimension")
        node.unify(index, update)
    node.set(0, dims)


def gather_nd(node: Node) -> None:
    """The last dimension of the indices addresses dimensions of the data; those behind them pass."""
    dims, (*places, address) = node.input(0), node.input(1)
    batch = int(node.attribute("batch_dims", 0))
    for dim, index in zip(dims[:batch], places[:batch], strict=True):
        node.unify(dim, index)
    behind = batch + size(address)
    for dim in dims[batch:behind]:
        node.freeze(dim, "selects from this dimension by index")
    node.freeze(address, "holds one index for each dimension")
    node.set(0, [*places, *dims[behind:]])


def scatter_nd(node: Node) -> None:
    """The last dimension of the indices addresses dimensions of the data, which is written to; those behind them pass."""
    dims, (*places, address), updates = node.input(0), node.input(1), node.input(2)
    behind = size(address)
    for dim in dims[:behind]:
        node.freeze(dim, "writes to this dimension by index")
    for dim in (*places, address):
        node.freeze(dim, "writes as often as there are indices")
    if len(updates) != len(places) + len(dims) - behind:
        raise Unsupported(f"its updates have {len(updates)} dimensions")
    for update, dim in zip(updates, (*places, *dims[behind:]), strict=True):
        node.unify(update, dim)
    node.set(0, dims)


def tensor_scatter(node: Node) -> None:
    """A cache that is written to along `axis`."""
    dims, updates = node.input(0), node.input(1)
    at = node.axis(node.attribute("axis", -2))
    for k, (dim, update) in enumerate(zip(dims, updates, strict=True)):
        if k == at:
            node.freeze(dim, "writes to this dimension by index")
            node.freeze(update, "writes as often as this dimension is long")
        else:
            node.unify(dim, update)
    node.set(0, dims)


def one_hot(node: Node) -> None:
    """Indices become positions in a new dimension."""
    indices, out = node.input(0), node.out_shape()
    at = node.axis(node.attribute("axis", -1), len(out))
    for dim in (*node.input(1), *node.input(2)):
        node.freeze(dim, "has one value for what is chosen and one for all else")
    node.set(0, [*indices[:at], node.frozen(out[at], "has one of these for every index"), *indices[at:]])


def compress(node: Node) -> None:
    """Some of the indices of `axis`."""
    if node.attribute("axis") is None:
        raise Unsupported("it selects from all elements in a row")
    dims = node.input(0)
    at = node.axis(node.attribute("axis"))
    node.freeze(dims[at], "selects from this dimension by a mask")
    for dim in node.input(1):
        node.freeze(dim, "masks a dimension")
    node.set(0, [*dims[:at], node.frozen(node.out_shape()[at], "is a selection"), *dims[at + 1 :]])


def _keeping(reason: str, *positions: int) -> Rule:
    """The rule of an operator that has its own idea of some dimensions of input 0 and treats others alike."""

    def state(node: Node) -> None:
        dims = list(node.input(0))
        for position in positions:
            at = node.axis(position)
            node.freeze(dims[at], reason)
        node.set(0, dims)

    return Rule(state)


def reverse(node: Node) -> None:
    """Turns each sequence around."""
    dims = node.input(0)
    for name, default in (("batch_axis", 1), ("time_axis", 0)):
        node.freeze(dims[node.axis(node.attribute(name, default))], "turns sequences around here")
    for dim in node.input(1):
        node.freeze(dim, "has a length for every sequence")
    node.set(0, dims)


def crop(node: Node) -> None:
    """Crops or pads the dimensions `axes` around their middle."""
    dims = node.input(0)
    out = list(dims)
    for position in node.attribute("axes", range(len(dims))):
        at = node.axis(position)
        node.freeze(dims[at], "crops or pads this dimension")
        out[at] = node.frozen(node.out_shape()[at], "crops or pads this dimension")
    node.set(0, out)


def unfold(node: Node) -> None:
    """All parts of `size` indices of one dimension, the indices of a part as a new last dimension."""
    dims = list(node.input(0))
    at = node.axis(node.attribute("dim", -1))
    node.freeze(dims[at], "takes overlapping parts of this dimension")
    parts, each = (node.frozen(node.out_shape()[k], "is a part of a dimension") for k in (at, -1))
    node.set(0, [*dims[:at], parts, *dims[at + 1 :], each])


def distances(node: Node) -> None:
    """CDist: how far every row of one matrix is from every row of another."""
    (rows, channels), (columns, others) = node.input(0), node.input(1)
    node.unify(channels, others)
    node.freeze(channels, "measures distances over this dimension, which copies would add to")
    node.set(0, [rows, columns])


def columns(node: Node) -> None:
    """Col2Im: (N, c block, L) are the columns of overlapping blocks of c channels each."""
    n, channels, positions = node.input(0)
    block = node.frozen(int(node.value(2).prod()), "are the positions of one block")
    c = axis(size(channels) // size(block))
    node.unify(channels, (*c, *block))
    node.freeze(positions, "is how many blocks there are")
    pictures: list[Dim] = [node.frozen(m, "are positions") for m in node.out_shape()[2:]]
    node.set(0, [n, c, *pictures])


def deformable(node: Node) -> None:
    """A convolution that reads where offsets say; several groups of offsets divide the channels once more."""
    names = _DEFORMABLE(node)
    if node.attribute("offset_group", 1) > 1:
        for name in ("g", "i"):
            node.freeze(names[name], "has several groups of offsets for its channels")
    if size(names["i"]) > 1:
        node.role("groups", names["g"])


def _same(node: Node, dim: Dim, index: Dim, otherwise: str) -> None:
    if size(dim) == size(index):
        node.unify(dim, index)
    else:
        node.freeze(dim, otherwise)
        node.freeze(index, otherwise)


RULES = {
    ("", "GatherElements"): Rule(gather_elements),
    ("", "ScatterElements"): Rule(scatter_elements),
    ("", "Scatter"): Rule(scatter_elements),
    ("", "GatherND"): Rule(gather_nd),
    ("com.microsoft", "GatherND"): Rule(gather_nd),
    ("", "ScatterND"): Rule(scatter_nd),
    ("", "TensorScatter"): Rule(tensor_scatter),
    ("", "OneHot"): Rule(one_hot),
    ("", "Compress"): Rule(compress),
    ("", "ReverseSequence"): Rule(reverse),
    ("", "CenterCropPad"): Rule(crop),
    ("", "Col2Im"): Rule(columns),
    ("", "DeformConv"): Rule(deformable),
    ("com.microsoft", "CDist"): Rule(distances),
    ("com.microsoft", "UnfoldTensor"): Rule(unfold),
    **{
        (domain, "Trilu"): _keeping("keeps a triangle of these two dimensions", -2, -1)
        for domain in ("", "com.microsoft")
    },
    ("", "Det"): Rule(unsupported("it is a function of whole matrices")),
    ("", "EyeLike"): Rule(unsupported("it makes a diagonal, which copies would repeat")),
    ("", "MaxUnpool"): Rule(unsupported("its indices count channels and positions together")),
    ("", "NonMaxSuppression"): Rule(unsupported("it chooses boxes by index")),
    ("", "NonZero"): Rule(unsupported("it gives the indices of elements")),
    ("", "Unique"): Rule(unsupported("it drops what occurs twice")),
    ("", "AffineGrid"): Rule(unsupported("it makes coordinates")),
}
