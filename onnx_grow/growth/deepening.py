"""Deepening: Net2DeeperNet, copies of residual branches and new ones, in any graph.

Chen, Goodfellow and Shlens, ICLR 2016, arXiv 1511.05641 (identity layers); Wu et al., LLaMA Pro, ACL 2024 (zero blocks).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.budget import Budget, amount
from onnx_grow.growth.calibration import Calibration, channel_statistics
from onnx_grow.growth.dataflow import Dataflow, Reach
from onnx_grow.growth.deepen_plan import (
    SCHEMES,
    DeepenPlan,
    DeepenScheme,
    IdentityLayer,
    InsertedLayer,
    NewBranchLayer,
    ResidualLayer,
)
from onnx_grow.growth.fusion import fused, unfused
from onnx_grow.growth.identity import insert_identity
from onnx_grow.growth.insertion import Prefixes
from onnx_grow.growth.nonlinear import insert_new_branch, insert_parametric
from onnx_grow.growth.places import Place, Survey, Wishes, candidates, choose, skipped
from onnx_grow.growth.provenance import provenance
from onnx_grow.growth.residual import insert_residual
from onnx_grow.model import Draft, Model, flattened, inlined, nested, unlisted
from onnx_grow.model.walk import all_nodes
from onnx_grow.shapes import Shapes
from onnx_grow.shapes import infer as infer_shapes

__all__ = ["apply_deepen", "check_deepen", "deepen", "deepened", "plan_deepen"]


def deepen(
    model: Model,
    *,
    after: str | Sequence[str] | None = None,
    every: int | None = None,
    to_params: float | str | None = None,
    scheme: DeepenScheme | None = None,
    activation: str | None = None,
    expansion: float = 1.0,
    calibration: Calibration | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Model:
    """A deeper model that computes the same function.

    `scheme`: "identity" inserts, behind linear layers with an idempotent activation, a layer that starts as the
    identity (Net2DeeperNet); "residual-copy", behind skip connections y = s + f(s), a copy of f that starts as zero;
    "residual-new", behind any layer and its activation phi, a branch x + W2 phi(W1 x) with W2 = 0; "parametric", behind an
    activation phi that is not idempotent, a x + (1 - a) phi(W x) with W = I and a = 1, one learnable number per channel.
    None takes residual-copy where the model has skip connections; where it has none, or outside of them with `after`,
    identity where that keeps the function, and residual-new elsewhere.

    `activation` is that of new branches and of parametric layers, instead of the one that the network has there (Tanh in recurrent
    ones). A model without any, such as a linear regression, deepens only with it. `expansion` times the channels of its place
    are the hidden channels of a new branch. W1 is drawn from `seed`.

    `after` restricts the places to those of which a node, or a tensor it computes, matches one of the globs.
    `every=k` inserts after each k-th place, in the order of the graph; `every=1` doubles the depth at once. Without
    either there is, whatever the scheme, one new layer for every four places of a stage, and at least one per stage: all layers
    of one resolution, up to half of it, or skip connections on one stream. That is the growth of LLaMA Pro, 32 to 40 blocks, and
    a block more in each stage of ResNet-50. Among each four, identity takes the place where the new layer is most
    like the one before it, so that a layer is not followed by a much larger one. The result deepens again.

    A repeated BatchNormalization takes its statistics from a forward pass over `calibration`: {input: array} with
    samples along the first dimension, an .npz or .npy file, or a folder of them; without it, over random inputs drawn
    from `seed`, which keeps the function but is a poorer start for training. `shapes` fixes input shapes that the
    file leaves open, for the analysis.

    `to_params` instead of `every` inserts as many layers as that number of parameters (or "25M", "2x", "150%") allows, spread evenly
    over all places, and never more.

    Raises InvalidRequestError for arguments that make no sense or match nothing, NothingToGrowError when nothing can be inserted as
    asked, with reasons that name nodes.
    """
    return deepened(
        model,
        after=after,
        every=every,
        to_params=to_params,
        scheme=scheme,
        activation=activation,
        expansion=expansion,
        calibration=calibration,
        seed=seed,
        shapes=shapes,
    )[1]


def plan_deepen(
    model: Model,
    *,
    after: str | Sequence[str] | None = None,
    every: int | None = None,
    to_params: float | str | None = None,
    scheme: DeepenScheme | None = None,
    activation: str | None = None,
    expansion: float = 1.0,
    calibration: Calibration | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> DeepenPlan:
    """Decide what `deepen` will do, without doing it. Arguments and errors are those of `deepen`.

    The plan holds the statistics of the forward pass, so applying it needs no data.
    """
    return deepened(
        model,
        after=after,
        every=every,
        to_params=to_params,
        scheme=scheme,
        activation=activation,
        expansion=expansion,
        calibration=calibration,
        seed=seed,
        shapes=shapes,
    )[0]


def deepened(
    model: Model,
    *,
    after: str | Sequence[str] | None = None,
    every: int | None = None,
    to_params: float | str | None = None,
    scheme: DeepenScheme | None = None,
    activation: str | None = None,
    expansion: float = 1.0,
    calibration: Calibration | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[DeepenPlan, Model]:
    """Both at once: the plan of `plan_deepen` and the model of `deepen`, whose arguments it takes."""
    check_deepen(
        after=after,
        every=every,
        to_params=to_params,
        scheme=scheme,
        activation=activation,
        expansion=expansion,
        calibrated=calibration is not None,
    )
    globs = (after,) if isinstance(after, str) else tuple(after or ())
    model = unfused(flattened(unlisted(inlined(model))))
    wishes = Wishes(scheme, activation, expansion, seed)
    if to_params is None:
        survey, plan = _planned(model, globs, every, None, wishes, calibration, shapes)
        return plan, _applied(model, plan, survey.flow)
    budget = Budget("parameters", amount(to_params, model.parameters, "parameters"), model.parameters)
    room = budget.limit - budget.now
    while True:
        survey, plan = _planned(model, globs, None, room, wishes, calibration, shapes)
        deeper = _applied(model, plan, survey.flow)
        if deeper.parameters <= budget.limit:
            plan = replace(plan, notes=(*plan.notes, _reached(survey, globs, plan, deeper, budget)))
            return plan, _applied(model, plan, survey.flow)
        room -= deeper.parameters - budget.limit


def check_deepen(
    *,
    after: str | Sequence[str] | None = None,
    every: int | None = None,
    to_params: float | str | None = None,
    scheme: DeepenScheme | None = None,
    activation: str | None = None,
    expansion: float = 1.0,
    calibrated: bool = False,
) -> None:
    """Raise InvalidRequestError for arguments of `deepen` that make no sense for any model, or contradict one another."""
    if after is not None and not after:
        raise InvalidRequestError(
            "'after' is empty, so no layer would be inserted", hint="leave it out, or name something"
        )
    if scheme not in (None, *SCHEMES):
        raise InvalidRequestError(
            f"there is no scheme {scheme!r}", hint=f"schemes are {', '.join(SCHEMES[:-1])} and {SCHEMES[-1]}"
        )
    if every is not None and every < 1:
        raise InvalidRequestError(f"a layer after every {every} is none", hint="every 1 is the least")
    if to_params is not None:
        amount(to_params, 1, "parameters")
        if every is not None:
            raise InvalidRequestError(
                "'every' and a number of parameters cannot both decide how many layers there will be",
                hint="say one of them",
            )
    if not 0 < expansion <= 64:
        raise InvalidRequestError(
            f"a branch cannot have {expansion:g} times the channels of its place",
            hint="an expansion is a number above 0, up to 64",
        )
    for said, what, schemes in (
        (activation is not None, "an activation", ("residual-new", "parametric")),
        (expansion != 1, "an expansion", ("residual-new",)),
        (calibrated, "calibration", ("identity",)),
    ):
        if said and scheme is not None and scheme not in schemes:
            raise InvalidRequestError(
                f"layers of scheme {scheme} have no use for {what}",
                hint=f"leave it out; it is for scheme {' and '.join(schemes)}",
            )


def _reached(survey: Survey, globs: Sequence[str], plan: DeepenPlan, deeper: Model, budget: Budget) -> str:
    """How close a deepening came to its budget, and what kept it from coming closer."""
    places = candidates(survey, globs)
    told = f"{deeper.parameters:,} of the {budget.limit:,} parameters asked for"
    if len(plan.layers) < len(places):
        return f"{told}: one more layer, spread evenly, would exceed them"
    every_place = f"all {len(places)} places have" if len(places) > 1 else "the only place has"
    return f"{told}: {every_place} a new layer now; deepen the result again for more"


def apply_deepen(model: Model, plan: DeepenPlan) -> Model:
    """Do what a plan says. Raises InvalidRequestError when the plan does not fit the model."""
    model = unfused(flattened(unlisted(inlined(model))))
    return _applied(model, plan, Dataflow(model))


def _planned(
    model: Model,
    globs: Sequence[str],
    every: int | None,
    room: int | None,
    wishes: Wishes,
    calibration: Calibration | None,
    shapes: Mapping[str, Sequence[int]] | None,
) -> tuple[Survey, DeepenPlan]:
    survey = Survey(model, infer_shapes(model, shapes or None), wishes)
    places = choose(survey, globs, every, room)
    layers, notes = _calibrated(model, survey.shapes, places, calibration, wishes.seed)
    if wishes.scheme is None:
        notes = (*notes, *_reasons(layers))
    return survey, DeepenPlan(layers, tuple(skipped(survey, globs, places)), notes)


def _reasons(layers: Sequence[InsertedLayer]) -> Iterator[str]:
    """Which schemes were taken where nobody asked for one, and why."""
    for scheme in dict.fromkeys(layer.scheme for layer in layers):
        yield f"{scheme}: {_WHY[scheme]}"


_WHY: Mapping[DeepenScheme, str] = {
    "residual-copy": "there are skip connections, and a copy of what one adds starts from learned weights",
    "identity": "no skip connection can be copied there, and the activation keeps its own values, as Relu does",
    "residual-new": "no skip connection can be copied there, and an identity layer would change the function or add nothing to it",
}


def _applied(model: Model, plan: DeepenPlan, flow: Dataflow) -> Model:
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
        match layer:
            case IdentityLayer():
                insert_identity(draft, flow, layer, prefix)
            case ResidualLayer():
                insert_residual(draft, flow, reach, layer, prefix)
            case NewBranchLayer():
                insert_new_branch(draft, flow, layer, prefix)
            case _:
                insert_parametric(draft, flow, layer, prefix)
    return nested(fused(_renamed(draft.freeze(provenance(model, plan.to_json())))))


_MADE_BY_RUNTIME = ("gemm_input_shape", "gemm_output_shape")
"""What ONNX Runtime calls the shapes that it adds when it fuses a product with a sum, whether or not the file has them by then."""


def _renamed(model: Model) -> Model:
    """The model with other names for such initializers: ONNX Runtime would not load one that has them and a layer to fuse."""
    inputs = {value.name for value in model.skeleton.graph.input}
    taken = [name for name in _MADE_BY_RUNTIME if name in model.weights and name not in inputs]
    if not taken:
        return model
    draft = Draft(model)
    others = {name: draft.fresh_name(f"{name}_of_file") for name in taken}
    for name, other in others.items():
        draft.weights[other] = draft.weights.pop(name)
    for node in all_nodes(draft.proto):
        node.input[:] = [others.get(entry, entry) for entry in node.input]
    return draft.freeze()


def _calibrated(
    model: Model, shapes: Shapes, places: Sequence[Place], calibration: Calibration | None, seed: int
) -> tuple[tuple[InsertedLayer, ...], tuple[str, ...]]:
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
        "training starts better with calibration on real data",
    )
