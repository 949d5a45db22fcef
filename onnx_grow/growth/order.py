"""Operators for which the order of channels matters, although copies stand behind all old ones.

A Gather by a list of channels gets the list of where they are now. Its k-th copy of a channel reads the k-th copy of what that channel
read, so that all of them are read.

A node that looks at neighbours (LRN, a convolution across channels) computes

    y[i] = f(x[i - r], .., x[i + r])        with x = 0 beyond both ends

It gets one round after the other, each of which holds every channel once and in order, with r zeros between rounds:

    x0 x1 x2 x0' x2'  ->  x0 x1 x2 0 x0' x1 x2'  ->  y0 y1 y2 . y0' . y2'  ->  y0 y1 y2 y0' y2'

So every copy has the neighbours that its original has, and copies as its neighbours where there are any.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
from onnx import TensorProto, helper

from onnx_grow.axes.algebra import Axis, Indices, Maps, index_map, leaves, resolve
from onnx_grow.axes.inference import Analysis
from onnx_grow.growth.constants import Constants

__all__ = ["chosen", "following", "insert_rounds", "rounds"]


def following(analysis: Analysis, maps: Maps, weighted: Container[Axis]) -> dict[Axis, Indices]:
    """The maps of all axes that grow, lists of channels with those channels, so that every copy stands in one.

    `weighted` are the axes of weights, which grow as far as they are asked to; other lists grow as far as their channels do.
    """
    tied = {leaf for tie in analysis.said.algebra.ties for leaf in leaves((tie,))}
    found = dict(maps)
    for choice in analysis.said.choices:
        g, result = index_map(choice.source, found), resolve(choice.result)
        if g is None or len(result) != 1 or not isinstance(axis := result[0], Axis):
            continue
        counts = np.bincount(g)[list(choice.channels)]
        listed = np.concatenate([np.flatnonzero(counts > r) for r in range(int(counts.max()))])
        free = not (axis.frozen or axis in tied or axis in weighted or axis in found)
        fits = axis in maps and len(maps[axis]) == len(listed)
        if (free or fits) and (not axis.uniform or (counts == counts[0]).all()):
            found[axis] = listed
    return found


class _Copies:
    """Where the copies of each of `old` channels are, that grow by the map `g`; `rank` tells which one every new channel is."""

    def __init__(self, g: Indices, old: int) -> None:
        self.order = np.argsort(g, kind="stable")
        self.counts = np.bincount(g, minlength=old)
        self.first = np.cumsum(self.counts) - self.counts
        self.rank = np.empty_like(g)
        self.rank[self.order] = np.arange(len(g)) - self.first[g[self.order]]

    def at(self, channels: Indices, rank: Indices | int) -> Indices:
        """Where copy `rank` of `channels` is; those with fewer copies begin again."""
        found: Indices = self.order[self.first[channels] + rank % self.counts[channels]]
        return found


def chosen(channels: Indices, source: Indices, old: int, result: Indices, *, originals: bool) -> Indices:
    """Where `channels` of `old` are once these grow by the map `source`, and the list of them by `result`.

    With `originals` all copies of the list read originals.
    """
    rank = 0 if originals else _Copies(result, len(channels)).rank
    return _Copies(source, old).at(channels[result], rank)


def rounds(g: Indices, old: int, reach: int) -> tuple[Indices, Indices]:
    """What rounds take of `old` channels that grow by the map `g`, and where of their results the new channels are.

    The zeros between rounds are the index behind the last channel.
    """
    copies, every = _Copies(g, old), np.arange(old)
    zeros = np.full(reach, len(g))
    taken = [part for r in range(int(copies.counts.max())) for part in (zeros, copies.at(every, r))]
    return np.concatenate(taken[1:]), copies.rank * (old + reach) + g


def insert_rounds(
    analysis: Analysis, constants: Constants, node: int, position: int, taken: Indices, back: Indices
) -> None:
    """Let a node work on `rounds` along dimension `position` of input 0 and output 0, which keep their names."""
    draft, proto = constants.draft, constants.draft.node(node)
    name, result = analysis.topology.proto(node).input[0], proto.output[0]

    def gather(source: str, indices: Indices, output: str) -> None:
        order = _listed(constants, node, f"{output}_order", indices, behind=output == result)
        made = helper.make_node(
            "Gather", [source, order], [output], draft.fresh_name(f"{output}_Gather"), axis=position
        )
        (draft.insert_after if output == result else draft.insert_before)(node, made)

    rank = len(analysis.shapes.shape[name])
    pads = np.zeros(2 * rank, np.int64)
    pads[rank + position] = 1
    padded, rowed = draft.fresh_name(f"{name}_padded"), draft.fresh_name(f"{name}_rounds")
    label, source = draft.fresh_name(f"{padded}_Pad"), proto.input[0]
    if analysis.model.opset < 11:
        pad = helper.make_node("Pad", [source], [padded], label, pads=pads.tolist())
    else:
        pad = helper.make_node("Pad", [source, constants.add(f"{padded}_pads", pads)], [padded], label)
    draft.insert_before(node, pad)
    gather(padded, taken, rowed)
    proto.input[0] = rowed
    proto.output[0] = draft.fresh_name(f"{result}_rounds")
    gather(proto.output[0], back, result)


def _listed(constants: Constants, node: int, name: str, indices: Indices, *, behind: bool) -> str:
    """A constant of indices for a node inserted before node `node`, or `behind` it.

    Where constants have to be nodes, and those hold floating-point numbers only, they are cast.
    """
    draft, model = constants.draft, constants.analysis.model
    if model.skeleton.ir_version >= 4 or model.opset >= 9:
        return constants.add(name, indices.astype(np.int64))
    cast = draft.fresh_name(f"{name}_cast")
    numbers = constants.add(name, indices.astype(np.float64))
    made = helper.make_node("Cast", [numbers], [cast], draft.fresh_name(f"{cast}_Cast"), to=TensorProto.INT64)
    (draft.insert_after if behind else draft.insert_before)(node, made)
    return cast
