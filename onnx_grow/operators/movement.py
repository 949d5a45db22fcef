"""Operators that only move values: reshaping, transposing, joining and cutting.

Nothing is computed, so copies move with their originals. Sizes that such a node holds (a target shape, the lengths of the parts) are
regenerated from the dimensions they are the sizes of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_grow.axes.algebra import Dim, axis, concat, leaves, size
from onnx_grow.axes.equations import Element, Negated, Node, Rule, Unsupported

_ENDLESS = 2**31 - 1


def transpose(node: Node) -> None:
    """Dimensions change places."""
    node.apart()
    dims = node.input(0)
    node.set(0, [dims[p] for p in node.attribute("perm", list(reversed(range(len(dims)))))])


def reshape(node: Node) -> None:
    """The product of all dimensions, in order, is factored anew."""
    node.apart()
    if node.version < 5:
        raise Unsupported("it has the form of operator sets before 5")
    dims = node.input(0)
    out = [axis(n) for n in node.out_shape()]
    node.unify(_product(dims), _product(out))
    if any(not leaf.frozen for k in node.jumps(1) for leaf in leaves(out[k])):
        raise Unsupported("how it divides this dimension depends on sizes that the file leaves open")
    node.set(0, out)
    node.size_input(1, out, zero_copies=not node.attribute("allowzero", 0))


def flatten(node: Node) -> None:
    """Two dimensions: the product of those before `axis` and of those from there on."""
    node.apart()
    dims = node.input(0)
    at = node.attribute("axis", 1)
    at = at + len(dims) if at < 0 else at
    node.set(0, [_product(dims[:at]), _product(dims[at:])])


def squeeze(node: Node) -> None:
    """Dimensions of size 1 are dropped."""
    node.apart()
    dims = node.input(0)
    axes = node.integers("axes", 1)
    dropped = range(len(dims)) if axes is None else {node.axis(a) for a in axes}
    node.set(0, [d for k, d in enumerate(dims) if k not in dropped or (axes is None and size(d) > 1)])


def unsqueeze(node: Node) -> None:
    """Dimensions of size 1 are put in."""
    node.apart()
    axes = node.integers("axes", 1) or []
    rank = len(node.input(0)) + len(axes)
    new = {node.axis(a, rank) for a in axes}
    if len(new) < len(axes):
        raise Unsupported("it puts in one dimension twice")
    old = iter(node.input(0))
    node.set(0, [() if k in new else next(old) for k in range(rank)])


def expand_dims(node: Node) -> None:
    """One dimension of size 1 is put in."""
    dims = node.input(0)
    at = node.axis(int(node.value(1).reshape(-1)[0]), len(dims) + 1)
    node.set(0, [*dims[:at], (), *dims[at:]])


def expand(node: Node) -> None:
    """Broadcasting to a shape; what grows out of size 1 is a new dimension."""
    node.apart()
    dims = node.input(0)
    out: list[Dim] = []
    for k, n in zip(range(-len(node.out_shape()), 0), node.out_shape(), strict=True):
        kept = dims[k] if len(dims) >= -k else ()
        out.append(kept if size(kept) == n else axis(n))
    node.set(0, out)
    shape = node.values[1]
    known = [None] * len(out) if shape is None else [int(v) for v in shape]
    targets = out[len(out) - len(known) :]
    node.size_input(1, [None if v == 1 else dim for v, dim in zip(known, targets, strict=True)])


def tile(node: Node) -> None:
    """Repetition in a row: repeats are the outer factor. Out of size 1 comes a new dimension."""
    node.apart()
    if node.version < 6:
        raise Unsupported("it has the form of operator sets before 6")
    out: list[Dim] = []
    elements: list[Element] = []
    for dim, n in zip(node.input(0), node.out_shape(), strict=True):
        repeats = n // size(dim)
        fresh = (
            axis(repeats) if size(dim) == 1 else node.frozen(repeats, "repeats what it is given this often")
        )
        out.append((*fresh, *dim))
        elements.append(fresh if size(dim) == 1 and repeats > 1 else None)
    node.set(0, out)
    node.size_input(1, elements)


def depth_to_space(node: Node) -> None:
    """Channels become positions: (b, b, c) or (c, b, b) by mode, c stays."""
    node.apart()
    block = int(node.attribute("blocksize", 1))
    batch, channels, height, width = node.input(0)
    b1, b2 = (node.frozen(block, "moves these channels to positions") for _ in range(2))
    c = axis(size(channels) // (block * block))
    crd = node.attribute("mode", "DCR") == "CRD"
    node.unify(channels, (*c, *b1, *b2) if crd else (*b1, *b2, *c))
    node.set(0, [batch, c, (*height, *b1), (*width, *b2)])


def space_to_depth(node: Node) -> None:
    """Positions become channels: (b, b, c) or, by mode, (c, b, b)."""
    node.apart()
    block = int(node.attribute("blocksize", 1))
    batch, channels, *_ = node.input(0)
    for dim in node.input(0)[2:]:
        node.freeze(dim, "moves these positions to channels")
    b1, b2 = (node.frozen(block, "moves positions to these channels") for _ in range(2))
    height, width = (node.frozen(n, "moves positions to channels") for n in node.out_shape()[2:])
    crd = node.attribute("mode", "DCR") == "CRD"
    node.set(0, [batch, (*channels, *b1, *b2) if crd else (*b1, *b2, *channels), height, width])


def join(node: Node) -> None:
    """Concatenation: a sum along `axis`, equal dimensions elsewhere."""
    node.apart()
    first = node.input(0)
    at = node.axis(node.attribute("axis", 1))
    operands = [node.input(i) for i in range(len(node.dims))]
    for other in operands[1:]:
        for k, (a, b) in enumerate(zip(first, other, strict=True)):
            if k != at:
                node.unify(a, b)
    node.set(0, [*first[:at], concat(dims[at] for dims in operands), *first[at + 1 :]])


def split(node: Node) -> None:
    """Cutting along `axis`; without explicit lengths the parts must stay equal."""
    node.apart()
    dims = node.input(0)
    at = node.axis(node.attribute("axis", 0))
    lengths = [shape[at] if shape else 0 for shape in node.out_shapes]
    if sum(lengths) != size(dims[at]):
        lengths = node.integers("split", 1) or []
    if sum(lengths) != size(dims[at]) or len(lengths) != len(node.out_shapes) or min(lengths) < 0:
        raise Unsupported("the lengths of its parts are not known")
    parts = _cut(node, dims[at], lengths)
    if "split" in node.attributes or node.has(1):
        node.sizes("split", 1, parts, [dims[at]] * len(parts))
    elif len(parts) > 1:
        if len(set(lengths)) > 1:
            node.freeze(dims[at], "cuts this dimension in unequal parts")
        node.tie(parts)
    for o, part in enumerate(parts):
        node.set(o, [*dims[:at], part, *dims[at + 1 :]])


def cut_out(node: Node) -> None:
    """Slice: per axis one part of three; both ends follow the parts when those grow."""
    node.apart()
    dims = list(node.input(0))
    starts, ends = node.integers("starts", 1), node.integers("ends", 2)
    if starts is None or ends is None:
        raise Unsupported("it has no ends")
    axes = node.integers("axes", 3) or list(range(len(starts)))
    steps = [int(v) for v in node.value(4)] if node.has(4) else [1] * len(starts)
    new_starts: list[Element] = [None] * len(starts)
    new_ends: list[Element] = [None] * len(starts)
    for k, (a, start, end, step) in enumerate(zip(axes, starts, ends, steps, strict=True)):
        at = node.axis(a)
        dim, length = dims[at], size(dims[at])
        lo, hi = (min(max(v + length if v < 0 else v, 0), length) for v in (start, end))
        if step > 1 and length % step == 0 and start == lo < step and node.out_shape()[at] == length // step:
            dims[at] = axis(length // step)
            node.unify(dim, (*dims[at], *node.frozen(step, "takes one in so many of this dimension")))
            new_ends[k] = dim if length <= end < _ENDLESS else None
            continue
        listed = range(length)[slice(start, end, step)]
        exists = (
            0 < len(listed) == node.out_shape()[at]
        )  # ONNX cuts off a start in front of all channels otherwise
        if step != 1 and len(axes) == 1 and exists and not node.constant[0] and _is_free(dim):
            dims[at] = axis(len(listed))
            node.choose(at, listed, dims[at])
            node.set(0, dims)
            return
        if step != 1:
            node.freeze(dim, f"takes every {step}th of this dimension")
            dims[at] = node.frozen(node.out_shape()[at], "takes some of a dimension")
            continue
        hi = max(lo, hi)
        before, kept, after = _cut(node, dim, [lo, hi - lo, length - hi])
        dims[at] = kept
        new_starts[k] = _bound(start, before, (kept, after))
        new_ends[k] = _bound(end, concat([before, kept]) if lo else kept, (after,))
    node.set(0, dims)
    cut = [node.input(0)[node.axis(a)] for a in axes]
    node.sizes("starts", 1, new_starts, cut)
    node.sizes("ends", 2, new_ends, cut)


def gather(node: Node) -> None:
    """Selection along `axis`: one known index is a cut, a list of known ones chooses; otherwise the dimension freezes."""
    node.apart()
    dims, indices = node.input(0), node.input(1)
    at = node.axis(node.attribute("axis", 0))
    index = node.values[1]
    length = size(dims[at])
    if index is not None and index.size == 1 and length > 1:
        chosen = int(index.reshape(-1)[0])
        if not -length <= chosen < length:
            raise Unsupported(f"index {chosen} is out of range")
        place = chosen % length
        before, _, after = _cut(node, dims[at], [place, 1, length - place - 1])
        node.size_input(1, [_bound(chosen, before, ((), after))], within=[dims[at]])
    elif length > 1 and index is not None and _is_choice(node, index, dims[at]):
        node.choose(at, index, indices[0])
    elif length > 1:
        node.freeze(dims[at], "selects from this dimension by index")
    if not node.constant[1]:
        for dim in indices:
            node.replicate(dim, "needs indices that exist")
    node.set(0, [*dims[:at], *indices, *dims[at + 1 :]])
    if node.constant[0] and not node.constant[1]:
        for dim in (*dims[:at], *dims[at + 1 :]):
            node.role("embedding", dim)


def _is_choice(node: Node, index: np.ndarray, dim: Dim) -> bool:
    """Whether a constant list chooses from channels that are computed and may grow."""
    listed = index.ndim == 1 and index.size and node.constant[1] and not node.constant[0]
    return bool(listed) and _is_free(dim) and bool((abs(index + 0.5) < size(dim)).all())


def _is_free(dim: Dim) -> bool:
    return not any(leaf.frozen for leaf in leaves(dim))


def pad(node: Node) -> None:
    """Padding: a sum of what is put before, the dimension, and what is put behind."""
    node.apart()
    dims = node.input(0)
    pads = (
        node.integers("pads", 1) if "pads" in node.attributes or node.has(1) else node.attribute("paddings")
    )
    if pads is None:
        raise Unsupported("its pads are not known")
    axes = [node.axis(int(a)) for a in node.value(3)] if node.has(3) else list(range(len(dims)))
    result = list(dims)
    heads: list[Element] = []
    tails: list[Element] = []
    for at, head, tail in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        grows = any(not leaf.frozen for leaf in leaves(dims[at]))
        before, behind = axis(head) if head > 0 else None, axis(tail) if tail > 0 else None
        if grows and min(head, tail) >= 0 and node.attribute("mode", "constant") == "constant":
            result[at] = concat(part for part in (before, dims[at], behind) if part is not None)
        elif head or tail:
            node.freeze(dims[at], "pads this dimension")
            result[at] = node.frozen(node.out_shape()[at], "pads this dimension")
            before = behind = None
        heads.append(before)
        tails.append(behind)
    node.set(0, result)
    node.sizes("pads", 1, [*heads, *tails])


def _product(dims: Sequence[Dim]) -> Dim:
    return tuple(factor for dim in dims for factor in dim)


def _cut(node: Node, dim: Dim, lengths: Sequence[int]) -> list[Dim]:
    """Cut a dimension in parts of the given lengths; a part of length 0 comes as a dimension of size 0."""
    parts: list[Dim] = []
    for length in lengths:
        if not length:
            parts.append(axis(0))
        elif length == size(dim):
            parts.append(dim)
            dim = axis(0)
        else:
            part, dim = node.cut(dim, length)
            parts.append(part)
    return parts


def _bound(literal: int, before: Dim, behind: Sequence[Dim]) -> Element:
    """What an index into a dimension of `length` measures: what lies before it or, when negative, behind it.

    One beyond either end measures the whole; the largest integers stand for an end that moves by itself.
    """
    if literal == 0 or abs(literal) >= _ENDLESS:
        return None
    return Negated(concat(part for part in behind if size(part))) if literal < 0 else before


RULES = {
    ("", "Transpose"): Rule(transpose, ((0,),)),
    ("", "Reshape"): Rule(reshape, ((0,),)),
    ("", "Flatten"): Rule(flatten, ((0,),)),
    ("", "Squeeze"): Rule(squeeze, ((0,),)),
    ("", "Unsqueeze"): Rule(unsqueeze, ((0,),)),
    ("", "Expand"): Rule(expand, ((0,),)),
    ("", "Tile"): Rule(tile, ((0,),)),
    ("", "DepthToSpace"): Rule(depth_to_space, ((0,),)),
    ("", "SpaceToDepth"): Rule(space_to_depth, ((0,),)),
    ("", "Concat"): Rule(join),
    ("", "Split"): Rule(split),
    ("", "Slice"): Rule(cut_out),
    ("", "Gather"): Rule(gather),
    ("", "Pad"): Rule(pad),
    ("com.microsoft", "Pad"): Rule(pad),
    ("com.microsoft", "ExpandDims"): Rule(expand_dims),
}
