"""Which scheme an axis grows by: the one that was asked for, or another where that would not keep the function.

    split, copy, noise    new channels are copies, which share what they feed: right for every axis, by whole factors under statistics
    fresh                 new channels are random and feed nothing yet: right where whoever reads them has a weight to ignore them by
    pad                   new channels are what a norm does not notice: right under norms of what is linear, at any size
                          (and of what is not, where nodes may be put before the norm)
    auto                  each axis by what learns best there: pad under norms, where weights alone can do that and need not
                          be rounded to half precision for it, else split

A fresh channel leaves every sum as it is: 0 x = 0 for every finite x. Nobody else may look at it: no statistics, no maximum, no
softmax over the channels, nothing that would make it infinite. Under norms that padding suits, padded channels are what fresh ones are
elsewhere: the norm does not notice them, and those that read them have random weights for them. What the rules say of an axis decides
(`Axis.copied`); whether each sum over it has a weight shows when the model is rewritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx_grow.axes.inference import Analysis
from onnx_grow.axes.table import AxisTable
from onnx_grow.growth.padding import unpaddable, unsuited
from onnx_grow.growth.plan import AxisGrowth, Scheme

__all__ = ["assigned"]


def assigned(
    analysis: Analysis,
    growths: Sequence[AxisGrowth],
    table: AxisTable,
    scheme: Scheme,
    copies: Mapping[str, str],
) -> tuple[AxisGrowth, ...]:
    """The same growths, each with its scheme. `copies` are names of axes that need copies for the reasons given."""
    return tuple(_assigned(analysis, growth, table, scheme, copies.get(growth.name)) for growth in growths)


def _assigned(
    analysis: Analysis, growth: AxisGrowth, table: AxisTable, scheme: Scheme, refusal: str | None
) -> AxisGrowth:
    axis = table.axes[growth.name]
    if axis.uniform and growth.new_size % growth.size:
        because = f"{axis.statistics[0]} takes statistics over it, and {growth.new_size} is no multiple of {growth.size}"
        return replace(growth, scheme="pad", because="" if scheme in ("auto", "pad") else because)
    if axis.uniform and scheme in ("auto", "fresh", "pad"):
        why_not = refusal or (
            unsuited(analysis, axis, growth.new_size)
            if scheme == "auto"
            else unpaddable(analysis, axis, growth.new_size, inserting=scheme == "pad")
        )
        return replace(growth, scheme="split" if why_not else "pad", because=why_not or "")
    if scheme == "pad":
        return replace(growth, scheme="split", because="no norm takes statistics over it")
    if scheme == "fresh" and (why_not := next(iter(axis.copied), refusal)):
        return replace(growth, scheme="split", because=why_not)
    return replace(growth, scheme="split" if scheme == "auto" else scheme)
