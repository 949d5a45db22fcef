"""Where new layers can go, and which of these places are taken when nobody names them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise

from onnx_grow.errors import InvalidRequestError, NothingToGrowError
from onnx_grow.growth.budget import evenly
from onnx_grow.growth.chains import Functions, elements, identity_layer, new_branch, parametric_layer
from onnx_grow.growth.dataflow import Dataflow, operator
from onnx_grow.growth.deepen_plan import (
    DeepenScheme,
    IdentityLayer,
    InsertedLayer,
    NewBranchLayer,
    ResidualBranch,
    ResidualLayer,
)
from onnx_grow.growth.residual import home
from onnx_grow.growth.silence import has_weights
from onnx_grow.growth.sites import Refused, Site, find_sites
from onnx_grow.growth.skips import Skip, find_skips, layers, weights_of
from onnx_grow.growth.suggestions import suggestion
from onnx_grow.model import Model, holds_parameters
from onnx_grow.model.walk import subgraphs
from onnx_grow.shapes import Shapes

__all__ = ["Place", "Survey", "Wishes", "candidates", "choose", "skipped"]


@dataclass(frozen=True)
class Place:
    """Where a layer could go: the layer, its stage and the nodes it is known by.

    A stage is a `stream`, or all layers of a chain with about as many `pixels`: positions at which the channels are computed.

    `only_named`: nobody wants it unless it is named. `ratio`: its weight over that of the layer it stands behind. `axis`: the
    channel axis of its output, where statistics are needed. `is_last`: there is no layer behind it.
    """

    layer: InsertedLayer
    stream: tuple[int, ...]
    pixels: int
    members: tuple[int, ...]
    only_named: bool
    ratio: float = 1.0
    axis: int | None = None
    is_last: bool = False


@dataclass(frozen=True)
class Wishes:
    """What new layers shall be: their scheme (None: what fits), and the activation, expansion and seed of a branch of its own."""

    scheme: DeepenScheme | None = None
    activation: str | None = None
    expansion: float = 1.0
    seed: int = 0


class Survey:
    """All places of a model and all that was refused, in the order of the graph; sites inside of copied blocks are neither."""

    def __init__(self, model: Model, shapes: Shapes, wishes: Wishes) -> None:
        self.flow = flow = Dataflow(model)
        self.shapes = shapes
        self.wishes = wishes
        scheme = wishes.scheme
        skips = find_skips(flow, shapes) if scheme in (None, "residual-copy") else []
        blocks = _blocks(flow, shapes, [skip for skip in skips if isinstance(skip, Skip)])
        inside = {index for place in blocks for index in place.members}
        sites = find_sites(flow, shapes) if scheme != "residual-copy" else []
        outside = [site for site in sites if inside.isdisjoint(site.members)]
        functions = Functions(
            flow, shapes, (site for site in sites if isinstance(site, Site)), wishes.activation
        )
        chains = [self._chain(site, functions) for site in outside]
        self.places = sorted(
            [*blocks, *(entry for entry in chains if isinstance(entry, Place))],
            key=lambda place: place.members[0],
        )
        self.refused = [entry for entry in (*skips, *chains) if isinstance(entry, Refused)]

    def matches(self, members: Iterable[int], glob: str) -> bool:
        """Whether a glob matches the name of a node or of a tensor that it computes."""
        nodes = (self.flow.nodes[index] for index in members)
        return any(fnmatchcase(name, glob) for node in nodes for name in (node.name, *node.output) if name)

    def _chain(self, site: Site | Refused, functions: Functions) -> Place | Refused:
        """The place at a site: where any scheme will do, an identity layer behind an activation that allows it, else a branch."""
        wishes = self.wishes
        if isinstance(site, Refused):
            return replace(site, scheme=wishes.scheme or "identity")
        layer: InsertedLayer | Refused
        fits = not site.refusal and (site.is_active or functions.of(site) is None)
        if wishes.scheme == "identity" or (wishes.scheme is None and fits):
            layer = identity_layer(self.flow, self.shapes, site)
        elif wishes.scheme == "parametric":
            layer = parametric_layer(self.flow, self.shapes, site, functions)
        else:
            layer = new_branch(self.flow, self.shapes, site, functions, wishes.expansion, wishes.seed)
        return layer if isinstance(layer, Refused) else _place(self.shapes, site, layer)


def _place(shapes: Shapes, site: Site, layer: InsertedLayer) -> Place:
    repeats_norm = isinstance(layer, IdentityLayer) and "BatchNormalization" in layer.description
    pixels = (size for axis, size in enumerate(shapes.shape[site.output]) if axis not in (0, site.axis))
    return Place(
        layer=layer,
        stream=(),
        pixels=math.prod(pixels),
        members=site.members,
        only_named=not site.is_active,
        ratio=elements(site, site.channels) / math.prod(shapes.shape[site.weight]),
        axis=site.axis if repeats_norm else None,
        is_last=site.is_last,
    )


def _blocks(flow: Dataflow, shapes: Shapes, skips: Sequence[Skip]) -> list[Place]:
    groups = layers(flow, skips)
    paths = [home(flow.label(index) for skip in group for index in skip.members) for group in groups]
    return [
        _block(flow, shapes, group, path.rstrip("/.") if paths.count(path) == 1 else "")
        for group, path in zip(groups, paths, strict=True)
    ]


def _block(flow: Dataflow, shapes: Shapes, group: tuple[Skip, ...], path: str) -> Place:
    last = group[-1]
    members = tuple(dict.fromkeys(index for skip in group for index in skip.members))
    copied = [
        name
        for skip in group
        for name in weights_of(flow, (*skip.nodes, *last.tail), skip.zeroed or frozenset())[0]
    ]
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
            ResidualBranch(
                skip.source,
                skip.end,
                skip.total,
                tuple(sorted(skip.zeroed or ())),
                tuple(flow.nodes[index].output[0] for index in skip.views) if number else (),
            )
            for number, skip in enumerate(group)
        ),
        tail=tuple(flow.nodes[index].output[0] for index in last.tail),
        inside=last.inside,
        dtype=shapes.dtype[last.total],
        parameters=sum(_parameters(flow, name) for name in copied) + sum(not skip.zeroed for skip in group),
        description="copy of " + " + ".join(f"{count} {name}" for name, count in linear.items()),
    )
    return Place(layer, last.shape[1:], 1, members, any(skip.is_network for skip in group))


def _parameters(flow: Dataflow, name: str) -> int:
    """Elements of a stored tensor, as `Model.parameters` counts them."""
    kind = flow.kind(name)
    return flow.elements(name) if kind and holds_parameters(kind[0]) else 0


def choose(survey: Survey, globs: Sequence[str], every: int | None, room: int | None = None) -> list[Place]:
    """The places where layers go; as many as `room` for parameters allows, spread evenly, where that is given.

    Raises InvalidRequestError for unknown names, NothingToGrowError if there are none.
    """
    pool = candidates(survey, globs)
    if not pool:
        hint = _listed(survey) if globs and survey.places else _alternative(survey)
        raise NothingToGrowError(_nothing(survey, globs), hint=hint)
    if room is not None:
        chosen = evenly([place.layer.parameters for place in pool], room)
        if not chosen:
            least = min(place.layer.parameters for place in pool)
            raise NothingToGrowError(
                f"the smallest new layer has {least:,} parameters, and there is room for {max(room, 0):,}"
            )
        return [pool[position] for position in chosen]
    if every is not None:
        if every > len(pool):
            raise NothingToGrowError(
                f"there {'are' if len(pool) > 1 else 'is'} {len(pool)} place{'s' if len(pool) > 1 else ''} for new layers, "
                f"so none is number {every}",
                hint=f"every {len(pool)} inserts one layer",
            )
        return pool[every - 1 :: every]
    return pool if globs else _one_in_four(pool)


def candidates(survey: Survey, globs: Sequence[str]) -> list[Place]:
    """The places to choose from: those that the globs name, else those that the scheme is for. Raises InvalidRequestError."""
    if globs:
        return _named(survey, globs)
    pool = [place for place in survey.places if not place.only_named]
    if any(isinstance(place.layer, ResidualLayer) for place in pool):
        pool = [place for place in pool if isinstance(place.layer, ResidualLayer)]
    branches = [place for place in survey.places if isinstance(place.layer, NewBranchLayer)]
    return pool or [place for place in branches if not place.is_last] or branches


def _one_in_four(pool: Sequence[Place]) -> list[Place]:
    """Of every four places of a stage the one whose layer is most like the one before it, the last of equals.

    That is the largest that is no larger; a stage where all are larger (behind a first convolution, say) gets one only if there
    is no other stage.
    """
    parts = [part for stage in _stages(pool) for part in _parts(stage, max(1, len(stage) // 4))]
    chosen = [
        min(reversed(part), key=lambda place: (place.ratio > 1, abs(math.log(place.ratio)))) for part in parts
    ]
    modest = [place for place in chosen if place.ratio <= 1]
    return sorted(modest or chosen, key=lambda place: place.members[0])


def _stages(pool: Sequence[Place]) -> Iterable[list[Place]]:
    """Places on one stream, or with more than half as many pixels as the first of their stage: convolutions without padding shrink
    their pictures from layer to layer, and stay one stage until these are halved.
    """
    largest: dict[tuple[tuple[int, ...], int], int] = {}
    known: dict[tuple[int, ...], int] = {}
    for stream, pixels in sorted({(place.stream, place.pixels) for place in pool}, reverse=True):
        if 2 * pixels <= known.get(stream, 2 * pixels):
            known[stream] = pixels
        largest[stream, pixels] = known[stream]
    stages: dict[tuple[tuple[int, ...], int], list[Place]] = {}
    for place in pool:
        stages.setdefault((place.stream, largest[place.stream, place.pixels]), []).append(place)
    return stages.values()


_SKIP = "skip connection s + f(s) with weights in f"
_CHAIN = "layer with stored weights and an activation"
_WANTED: Mapping[DeepenScheme | None, str] = {
    "identity": _CHAIN,
    "residual-copy": _SKIP,
    "residual-new": _CHAIN,
    "parametric": _CHAIN,
    None: f"{_SKIP}, and no {_CHAIN}",
}
_ALTERNATIVE: Mapping[DeepenScheme | None, str] = {
    "identity": "scheme residual-new deepens behind any activation, residual-copy skip connections",
    "residual-copy": "scheme identity deepens chains with Relu and the like, residual-new those with any activation",
    "parametric": "scheme identity deepens behind Relu and the like, residual-new behind any activation",
}


def _alternative(survey: Survey) -> str:
    """What may work instead: another scheme, or an activation where none was named."""
    known = (
        ""
        if survey.wishes.activation
        else "activation Relu gives new branches an activation where the model has none"
    )
    return _ALTERNATIVE.get(survey.wishes.scheme, known)


def _parts(stage: list[Place], count: int) -> Iterator[list[Place]]:
    """A list in parts of nearly equal length."""
    bounds = [len(stage) * number // count for number in range(count + 1)]
    return (stage[start:stop] for start, stop in pairwise(bounds))


def _named(survey: Survey, globs: Sequence[str]) -> list[Place]:
    """Places that a glob matches; those that nobody wants unless named, only where it matches no other."""
    chosen: list[Place] = []
    flow = survey.flow
    for glob in globs:
        if not survey.matches(range(len(flow.nodes)), glob):
            labels = [place.layer.name for place in survey.places]
            labels += map(flow.label, range(len(flow.nodes)))
            close = suggestion(glob, labels, cutoff=0.4)
            raise InvalidRequestError(
                f"no node is called {glob!r}",
                hint=f"did you mean {close!r}?" if close else _listed(survey),
            )
        found = [place for place in survey.places if survey.matches(place.members, glob)]
        chosen += [place for place in found if not place.only_named] or found
    outputs = {place.layer.output for place in chosen}
    return [place for place in survey.places if place.layer.output in outputs]


def _listed(survey: Survey, most: int = 8) -> str:
    """The places there are, by name."""
    names = [place.layer.name for place in survey.places]
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"new layers can go after {', '.join(names[:most])}{more}"


def skipped(survey: Survey, globs: Sequence[str], chosen: Sequence[Place]) -> Iterator[tuple[str, str]]:
    """What was asked for and stays, with reasons, one entry for each kind of reason."""
    refused: dict[str, list[Refused]] = {}
    schemes = {place.layer.scheme for place in chosen}
    if survey.wishes.scheme is None:
        schemes.add("residual-copy")  # where it is not taken, here is why
    for entry in survey.refused:
        named = any(survey.matches(entry.members, glob) for glob in globs)
        if named or (not globs and (not chosen or entry.scheme in schemes)):
            refused.setdefault(entry.kind or entry.reason, []).append(entry)
    for entries in refused.values():
        label = survey.flow.label(entries[0].members[0])
        more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
        yield f"{label}{more}", entries[0].reason


def _nothing(survey: Survey, globs: Sequence[str]) -> str:
    reasons = [f"{name}: {reason}" for name, reason in skipped(survey, globs, ())]
    if globs and not reasons:
        return f"nothing that {', '.join(map(repr, globs))} matches belongs to a place for a new layer"
    if not reasons:
        bodies = [index for index, node in enumerate(survey.flow.nodes) if any(subgraphs(node))]
        inside = f"; the body of {survey.flow.label(bodies[0])!r} stays as it is" if bodies else ""
        return f"the model has no {_WANTED[survey.wishes.scheme]}{inside}"
    return "no layer can be inserted as asked; " + "; ".join(reasons[:3])
