"""Deepening: Net2DeeperNet and copies of residual branches, in any graph.

Chen, Goodfellow and Shlens, ICLR 2016, arXiv 1511.05641 (identity layers); Wu et al., LLaMA Pro, ACL 2024 (zero blocks).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import pairwise

from onnx_grow.errors import InvalidRequestError, NothingToGrowError
from onnx_grow.grow.calibration import Calibration, channel_statistics
from onnx_grow.grow.dataflow import Dataflow, Reach, operator
from onnx_grow.grow.deepen_plan import (
    DeepenPlan,
    DeepenScheme,
    IdentityLayer,
    ResidualBranch,
    ResidualLayer,
)
from onnx_grow.grow.identity import insert_identity
from onnx_grow.grow.insertion import Prefixes
from onnx_grow.grow.provenance import provenance
from onnx_grow.grow.residual import home, insert_residual
from onnx_grow.grow.sites import Refused, Site, find_sites
from onnx_grow.grow.skips import Skip, find_skips, has_weights, layers, weights_of
from onnx_grow.model import Draft, Model
from onnx_grow.shapes import Shapes
from onnx_grow.shapes import infer as infer_shapes

__all__ = ["apply_deepen", "deepen", "plan_deepen"]


def deepen(
    model: Model,
    *,
    after: str | Sequence[str] = (),
    every: int | None = None,
    scheme: DeepenScheme | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Model:
    """A deeper model that computes the same function.

    `scheme`: "identity" inserts, behind linear layers with an idempotent activation, a layer that starts as the
    identity (Net2DeeperNet); "residual-copy" inserts, behind skip connections y = s + f(s), a copy of f that
    starts as zero. None takes residual-copy where the model has skip connections, and identity where it has none,
    or outside of them with `after`.

    `after` restricts the places to those of which a node, or a tensor it computes, matches one of the globs.
    `every=k` inserts after each k-th place, in the order of the graph; `every=1` doubles the depth at once. Without
    either there is one new layer for every four of a stage, and at least one per stage: all layers of one
    resolution (identity), or on one stream (residual-copy). That is the growth of LLaMA Pro, 32 to 40 blocks, and
    a block more in each stage of ResNet-50. Among each four, identity takes the place where the new layer is most
    like the one before it, so that a layer is not followed by a much larger one. The result deepens again.

    A repeated BatchNormalization takes its statistics from a forward pass over `calibration`: {input: array} with
    samples along the first dimension, an .npz or .npy file, or a folder of them; without it, over random inputs drawn
    from `seed`, which keeps the function but is a poorer start for training. `shapes` fixes input shapes that the
    file leaves open, for the analysis.

    Raises InvalidRequestError for arguments that make no sense or match nothing, NothingToGrowError when nothing can be inserted as
    asked, with reasons that name nodes.
    """
    plan = plan_deepen(
        model, after=after, every=every, scheme=scheme, calibration=calibration, seed=seed, shapes=shapes
    )
    return apply_deepen(model, plan)


def plan_deepen(
    model: Model,
    *,
    after: str | Sequence[str] = (),
    every: int | None = None,
    scheme: DeepenScheme | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> DeepenPlan:
    """Decide what `deepen` will do, without doing it. Arguments and errors are those of `deepen`.

    The plan holds the statistics of the forward pass, so applying it needs no data.
    """
    globs = (after,) if isinstance(after, str) else tuple(after)
    if scheme not in (None, "identity", "residual-copy"):
        raise InvalidRequestError(
            f"there is no scheme {scheme!r}", hint="schemes are identity and residual-copy"
        )
    if every is not None and every < 1:
        raise InvalidRequestError(
            f"a layer after every {every} is none", hint="--every takes a number from 1 up"
        )
    survey = _Survey(model, infer_shapes(model, shapes or None), scheme)
    places = _choose(survey, globs, every)
    layers, notes = _calibrated(model, survey.shapes, places, calibration, seed)
    return DeepenPlan(layers, tuple(_skipped(survey, globs, places)), notes)


def apply_deepen(model: Model, plan: DeepenPlan) -> Model:
    """Do what a plan says. Raises InvalidRequestError when the plan does not fit the model."""
    flow = Dataflow(model)
    reach = Reach(
        flow,
        (b.source for layer in plan.layers if isinstance(layer, ResidualLayer) for b in layer.branches),
    )
    if len({layer.output for layer in plan.layers}) < len(plan.layers):
        raise InvalidRequestError(
            "the plan inserts two layers at one place", hint="apply two plans, one after the other"
        )
    draft = Draft(model)
    prefixes = Prefixes(flow)
    for layer in plan.layers:
        prefix = prefixes.new(layer.name)
        if isinstance(layer, IdentityLayer):
            insert_identity(draft, flow, layer, prefix)
        else:
            insert_residual(draft, flow, reach, layer, prefix)
    return draft.freeze(provenance(model, plan.to_json()))


@dataclass(frozen=True)
class _Place:
    """Where a layer could go: the layer, its stage and the nodes it is known by.

    `only_named`: nobody wants it unless it is named. `ratio`: its weight over that of the layer it stands behind. `axis`: the
    channel axis of its output, where statistics are needed.
    """

    layer: IdentityLayer | ResidualLayer
    stage: tuple[object, ...]
    members: tuple[int, ...]
    only_named: bool
    ratio: float = 1.0
    axis: int | None = None


class _Survey:
    """All places of a model and all that was refused, in the order of the graph; sites inside of copied blocks are neither."""

    def __init__(self, model: Model, shapes: Shapes, scheme: DeepenScheme | None) -> None:
        self.flow = flow = Dataflow(model)
        self.shapes = shapes
        self.scheme = scheme
        skips = find_skips(flow, shapes) if scheme != "identity" else []
        blocks = _blocks(flow, shapes, [skip for skip in skips if isinstance(skip, Skip)])
        inside = {index for place in blocks for index in place.members}
        found = find_sites(flow, shapes) if scheme != "residual-copy" else []
        sites = [_site(flow, shapes, site) for site in found if isinstance(site, Site)]
        outside = [place for place in sites if inside.isdisjoint(place.members)]
        self.places = sorted([*blocks, *outside], key=lambda place: place.members[0])
        self.refused = [entry for entry in (*skips, *found) if isinstance(entry, Refused)]

    def matches(self, members: Iterable[int], glob: str) -> bool:
        """Whether a glob matches the name of a node or of a tensor that it computes."""
        nodes = (self.flow.nodes[index] for index in members)
        return any(fnmatchcase(name, glob) for node in nodes for name in (node.name, *node.output) if name)


def _site(flow: Dataflow, shapes: Shapes, site: Site) -> _Place:
    node = flow.nodes[site.nodes[0]]
    repeated = [operator(flow.nodes[index]) for index in site.nodes[1:]]
    weights = site.channels * site.channels // site.groups * math.prod(site.kernel)
    normalized = "BatchNormalization" in repeated
    shifts = [flow.nodes[index] for index in site.nodes[1:] if operator(flow.nodes[index]) in _SHIFTS]
    bias = [shapes.shape[name] for shift in shifts for name in shift.input if name in flow.constants]
    kind = f"Conv {'x'.join(map(str, site.kernel))}," if site.kernel else operator(node)
    layer = IdentityLayer(
        name=flow.label(site.nodes[0]),
        output=site.output,
        nodes=tuple(flow.nodes[index].output[0] for index in site.nodes),
        operator=operator(node),
        channels=site.channels,
        kernel=site.kernel,
        groups=site.groups,
        dtype=shapes.dtype[site.output],
        bias=bias[0] if bias else None,
        parameters=weights + (site.has_bias + 4 * normalized) * site.channels,
        description=" + ".join(
            [f"{kind} {site.channels} channels", *(name for name in repeated if name not in _SILENT)]
        ),
    )
    pixels = (size for axis, size in enumerate(shapes.shape[site.output]) if axis not in (0, site.axis))
    return _Place(
        layer=layer,
        stage=("identity", *pixels),
        members=site.members,
        only_named=not site.is_active,
        ratio=weights / math.prod(shapes.shape[site.weight]),
        axis=site.axis if normalized else None,
    )


_SHIFTS = ("Add", "Sub")
_SILENT = (*_SHIFTS, "Squeeze", "Transpose", "Unsqueeze")
"""What a description of a layer passes over."""


def _blocks(flow: Dataflow, shapes: Shapes, skips: Sequence[Skip]) -> list[_Place]:
    groups = layers(skips)
    paths = [home(flow.label(index) for skip in group for index in skip.members) for group in groups]
    return [
        _block(flow, shapes, group, path.rstrip("/.") if paths.count(path) == 1 else "")
        for group, path in zip(groups, paths, strict=True)
    ]


def _block(flow: Dataflow, shapes: Shapes, group: tuple[Skip, ...], path: str) -> _Place:
    last = group[-1]
    members = tuple(dict.fromkeys(index for skip in group for index in skip.members))
    copied = [name for skip in group for name in weights_of(flow, (*skip.nodes, *last.tail))[0]]
    linear = Counter(
        operator(flow.nodes[index])
        for skip in group
        for index in skip.nodes
        if has_weights(flow, shapes, index)
    )
    layer = ResidualLayer(
        name=path or flow.label(last.index),
        output=last.output,
        branches=tuple(
            ResidualBranch(skip.source, skip.end, skip.total, tuple(sorted(skip.zeroed or ())))
            for skip in group
        ),
        tail=tuple(flow.nodes[index].output[0] for index in last.tail),
        inside=last.inside,
        dtype=shapes.dtype[last.total],
        parameters=sum(map(flow.elements, copied)) + sum(not skip.zeroed for skip in group),
        description="copy of " + " + ".join(f"{count} {name}" for name, count in linear.items()),
    )
    return _Place(layer, ("stream", *last.shape[1:]), members, any(skip.is_network for skip in group))


def _choose(survey: _Survey, globs: Sequence[str], every: int | None) -> list[_Place]:
    """The places where layers go. Raises InvalidRequestError for unknown names, NothingToGrowError if there are none."""
    if globs:
        pool = _named(survey, globs)
    else:
        pool = [place for place in survey.places if not place.only_named]
        if any(isinstance(place.layer, ResidualLayer) for place in pool):
            pool = [place for place in pool if isinstance(place.layer, ResidualLayer)]
    if not pool:
        raise NothingToGrowError(
            _nothing(survey, globs), hint="--after names other places, --scheme the other scheme"
        )
    if every is not None:
        if every > len(pool):
            raise NothingToGrowError(
                f"there are {len(pool)} places for new layers, so none is number {every}",
                hint=f"--every {len(pool)} inserts one layer",
            )
        return pool[every - 1 :: every]
    return pool if globs else _one_in_four(pool)


def _one_in_four(pool: Sequence[_Place]) -> list[_Place]:
    """Of every four places of a stage the one whose layer is most like the one before it, the last of equals.

    That is the largest that is no larger; a stage where all are larger (behind a first convolution, say) gets one only if there
    is no other stage.
    """
    stages: dict[tuple[object, ...], list[_Place]] = {}
    for place in pool:
        stages.setdefault(place.stage, []).append(place)
    parts = [part for stage in stages.values() for part in _parts(stage, max(1, len(stage) // 4))]
    chosen = [
        min(reversed(part), key=lambda place: (place.ratio > 1, abs(math.log(place.ratio)))) for part in parts
    ]
    modest = [place for place in chosen if place.ratio <= 1]
    return sorted(modest or chosen, key=lambda place: place.members[0])


_ALTERNATIVE: Mapping[DeepenScheme | None, str] = {
    "identity": "--scheme residual-copy deepens skip connections, whatever their activations",
    "residual-copy": "--scheme identity deepens chains of linear layers with Relu and the like",
    None: "a chain deepens where its activation is idempotent, such as Relu, and a skip connection with any activation",
}


def _parts(stage: list[_Place], count: int) -> Iterator[list[_Place]]:
    """A list in parts of nearly equal length."""
    bounds = [len(stage) * number // count for number in range(count + 1)]
    return (stage[start:stop] for start, stop in pairwise(bounds))


def _named(survey: _Survey, globs: Sequence[str]) -> list[_Place]:
    """Places that a glob matches; those that nobody wants unless named, only where it matches no other."""
    chosen: list[_Place] = []
    flow = survey.flow
    for glob in globs:
        if not survey.matches(range(len(flow.nodes)), glob):
            close = get_close_matches(glob, [flow.label(index) for index in range(len(flow.nodes))], 1)
            raise InvalidRequestError(
                f"no node is called {glob!r}",
                hint=f"did you mean {close[0]!r}?" if close else "onnx-grow inspect lists the model's layers",
            )
        found = [place for place in survey.places if survey.matches(place.members, glob)]
        chosen += [place for place in found if not place.only_named] or found
    outputs = {place.layer.output for place in chosen}
    return [place for place in survey.places if place.layer.output in outputs]


def _skipped(survey: _Survey, globs: Sequence[str], chosen: Sequence[_Place]) -> Iterator[tuple[str, str]]:
    """What was asked for and stays, with reasons, one entry for each kind of reason."""
    refused: dict[str, list[Refused]] = {}
    schemes = {place.layer.scheme for place in chosen}
    for entry in survey.refused:
        asked = (
            any(survey.matches(entry.members[:1], glob) for glob in globs)
            if globs
            else entry.scheme in schemes
        )
        if asked or not chosen:
            refused.setdefault(entry.kind or entry.reason, []).append(entry)
    for entries in refused.values():
        label = survey.flow.label(entries[0].members[0])
        more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
        yield f"{label}{more}", entries[0].reason


def _nothing(survey: _Survey, globs: Sequence[str]) -> str:
    reasons = [f"{name}: {reason}" for name, reason in _skipped(survey, globs, ())]
    if globs and not reasons:
        return f"nothing that {', '.join(map(repr, globs))} matches belongs to a place for a new layer"
    if not reasons:
        return (
            "the model has no skip connection with weights and no linear layer with an idempotent activation"
        )
    return "no layer can be inserted as asked; " + "; ".join(reasons[:3])


def _calibrated(
    model: Model, shapes: Shapes, places: Sequence[_Place], calibration: Calibration | None, seed: int
) -> tuple[tuple[IdentityLayer | ResidualLayer, ...], tuple[str, ...]]:
    """The layers of some places with the statistics they need, and what there is to say about these."""
    axes = {place.layer.output: place.axis for place in places if place.axis is not None}
    if not axes:
        return tuple(place.layer for place in places), ()
    statistics = channel_statistics(model, shapes, axes, calibration, seed)
    layers = tuple(
        replace(place.layer, statistics=statistics.get(place.layer.output))
        if isinstance(place.layer, IdentityLayer)
        else place.layer
        for place in places
    )
    if calibration is not None:
        return layers, ()
    return layers, (
        f"the statistics of the new BatchNormalization come from random inputs (seed {seed}); the function is the same with any, but "
        "training starts better with real data: --calibration data.npz",
    )
