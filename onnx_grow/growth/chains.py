"""Layers for a site: an identity layer, a branch of its own, or a parametric layer; or the reason why not."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.activations import CLAMPS, CURVED, Activation
from onnx_grow.growth.dataflow import Dataflow, operator
from onnx_grow.growth.deepen_plan import (
    Function,
    IdentityLayer,
    Linear,
    NewBranchLayer,
    ParametricLayer,
)
from onnx_grow.growth.nonlinear import is_averaged, operands
from onnx_grow.growth.sites import LAYOUT, RECURRENT, Refused, Site, feeding_layers
from onnx_grow.model.bodies import JOIN
from onnx_grow.model.walk import subgraphs
from onnx_grow.shapes import Shapes

__all__ = ["ACTIVATIONS", "Functions", "identity_layer", "new_branch", "parametric_layer"]

ACTIVATIONS = ("Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh")
"""Activations that a new layer can be given, whatever the model's own: those that every opset has."""


class Functions:
    """The activation of a new layer: the one asked for, or that of its site, or the most common of the model, the nearest such.

    Relu in a model that is not linear, but for other reasons: activations before layers instead of behind them, maxout, attention,
    activations with constants in a body of their own.
    """

    def __init__(self, flow: Dataflow, shapes: Shapes, sites: Iterable[Site], asked: str | None) -> None:
        if asked is not None and asked not in ACTIVATIONS:
            raise InvalidRequestError(
                f"there is no activation {asked!r} for new layers",
                hint=f"activations are {', '.join(ACTIVATIONS)}",
            )
        self._flow = flow
        self._shapes = shapes
        self._asked = asked
        inner = [site for site in sites if site.is_active or not site.is_last]
        found = [(site, own) for site in inner if (own := self._own(site))]
        active = [(site, own) for site, own in found if site.is_active]
        self._known = [(site.nodes[0], own) for site, own in active or found]
        self._in_bodies: dict[tuple[int, ...], tuple[list[int], list[Function]]] = {}
        self._is_curved = any(_is_curved(flow, index) for index in _inner(flow, shapes))

    def of(self, site: Site) -> Function | None:
        """The activation for a layer at a site, None if the model has none."""
        if self._asked:
            return Function(self._asked)
        if site.is_active and (own := self._own(site)):
            return own
        place = self._flow.producer(site.output)
        positions, functions = (
            ([], []) if place is None else self._most_common(self._flow.bodies.around[place])
        )
        if not functions:
            return Function("Relu") if self._known or self._is_curved else None
        after = bisect_left(positions, site.nodes[0])
        near = range(max(0, after - 1), min(after + 1, len(functions)))
        return functions[min(near, key=lambda k: abs(positions[k] - site.nodes[0]))]

    def _most_common(self, body: tuple[int, ...]) -> tuple[list[int], list[Function]]:
        """The most common activation of those whose constants are known in a body: positions, in order, and what it is there."""
        if body not in self._in_bodies:
            known = [entry for entry in self._known if self._is_known_in(body, entry[1])]
            ((common, _),) = Counter(function.operator for _, function in known).most_common(1) or [("", 0)]
            same = sorted(
                (entry for entry in known if entry[1].operator == common), key=lambda entry: entry[0]
            )
            self._in_bodies[body] = [index for index, _ in same], [function for _, function in same]
        return self._in_bodies[body]

    def _own(self, site: Site) -> Function | None:
        """The activation that a site feeds, if it can be used elsewhere; Tanh of recurrent layers."""
        activation = site.activation
        if activation and activation.is_hidden:
            if not activation.nodes:
                return Function("Relu" if activation.is_idempotent else activation.name)
            if not self._is_portable(activation):
                return None
            names = tuple(self._flow.nodes[index].output[0] for index in activation.nodes)
            return Function(activation.name, activation.argument, names)
        return Function("Tanh") if operator(self._flow.nodes[site.nodes[0]]) in RECURRENT else None

    def _is_known_in(self, body: tuple[int, ...], function: Function) -> bool:
        """Whether a layer in a body can read the constants of an activation, which may be those of another."""
        found = (self._flow.producer(name) for name in function.nodes)
        names = {name for index in found if index is not None for name in self._flow.nodes[index].input}
        return all(self._flow.lies_around(body, name) for name in names if name in self._flow.constants)

    def _is_portable(self, activation: Activation) -> bool:
        """Whether its constants are single numbers, or stored, so that their mean can be taken."""
        constants = {
            name
            for index in activation.nodes
            for name in self._flow.nodes[index].input
            if name in self._flow.constants
        }
        return all(
            self._shapes.shape.get(name) in ((), (1,))
            or ((root := self._flow.root(name)) is not None and self._flow.stored(root) is not None)
            for name in constants
        )


def _inner(flow: Dataflow, shapes: Shapes) -> Iterator[int]:
    """The nodes that a layer reads from."""
    feeding = feeding_layers(flow, shapes)
    return (index for index, node in enumerate(flow.nodes) if not feeding.isdisjoint(node.output))


def _is_curved(flow: Dataflow, index: int) -> bool:
    """Whether a node is no linear function of the activations it reads."""
    name = operator(flow.nodes[index])
    if name in ("Div", "Einsum", "MatMul", "Mul"):
        return len(flow.activations(index)) > 1
    node = flow.nodes[index]
    controls = node.domain == JOIN or any(subgraphs(node))
    return bool(flow.activations(index)) and (name in _SELECTING or controls)


_SELECTING = (
    frozenset({"GlobalMaxPool", "Hardmax", "MaxPool", "ReduceMax", "ReduceMin", "TopK"})
    | frozenset({"QLinearConv", "QLinearMatMul", "com.microsoft.QGemm"})  # which saturate
    | CLAMPS
    | CURVED
)


def identity_layer(flow: Dataflow, shapes: Shapes, site: Site) -> IdentityLayer | Refused:
    """Net2DeeperNet's layer for a site."""
    if site.refusal:
        kind = site.refusal.partition(" (")[0]
        return Refused(site.members, site.refusal, kind=kind, scheme="identity")
    node = flow.nodes[site.nodes[0]]
    repeated = [operator(flow.nodes[index]) for index in site.nodes[1:]]
    shifts = [flow.nodes[index] for index in site.nodes[1:] if operator(flow.nodes[index]) in _SHIFTS]
    bias = [shapes.shape[name] for shift in shifts for name in shift.input if name in flow.constants]
    normalized = "BatchNormalization" in repeated
    named = [name for name in repeated if name not in _SILENT]
    return IdentityLayer(
        name=flow.label(site.nodes[0]),
        output=site.output,
        nodes=tuple(flow.nodes[index].output[0] for index in site.nodes),
        operator=operator(node),
        channels=site.channels,
        kernel=site.kernel,
        groups=site.groups,
        dtype=shapes.dtype[site.output],
        bias=bias[0] if bias else None,
        parameters=elements(site, site.channels) + (site.has_bias + 4 * normalized) * site.channels,
        description=" + ".join([f"{_kind(site, operator(node))} {site.channels} channels", *named]),
    )


def new_branch(
    flow: Dataflow, shapes: Shapes, site: Site, functions: Functions, expansion: float, seed: int
) -> NewBranchLayer | Refused:
    """A branch x + W2 phi(W1 x) for a site, of `expansion` times its channels.

    W1 has the deviation of He et al. (arXiv 1502.01852), or, before an activation with two bounds, of Glorot and Bengio (AISTATS 2010).
    """
    function = functions.of(site)
    linear = _linear(flow, shapes, site)
    if function is None:
        return Refused(site.members, _NO_FUNCTION, kind=_NO_FUNCTION, scheme="residual-new")
    if linear is None:
        return Refused(site.members, _NO_LAYOUT, kind=_NO_LAYOUT, scheme="residual-new")
    hidden = site.groups * max(1, math.ceil(round(expansion * site.channels / site.groups, 6)))
    taps = math.prod(linear.kernel)
    fan_in, fan_out = site.channels // site.groups * taps, hidden // site.groups * taps
    is_bounded = not _BOUNDED.isdisjoint(function.operator.split("+")[-1:])
    deviation = math.sqrt(2 / (fan_in + fan_out) if is_bounded else 2 / fan_in)
    kind = _kind(site, linear.operator)
    return NewBranchLayer(
        name=flow.label(site.nodes[0]),
        output=site.output,
        linear=linear,
        function=function,
        hidden=hidden,
        deviation=deviation,
        seed=seed,
        parameters=2 * elements(site, hidden) + hidden + site.channels + _means(flow, function),
        description=f"branch of {kind} {site.channels} -> {hidden} -> {site.channels} channels, {function.operator}",
        steps=site.steps,
    )


def parametric_layer(
    flow: Dataflow, shapes: Shapes, site: Site, functions: Functions
) -> ParametricLayer | Refused:
    """A layer a x + (1 - a) phi(W x + b) for a site whose activation is not idempotent."""
    function = functions.of(site) if site.is_active and not site.steps else None
    linear = _linear(flow, shapes, site)
    if function is None or linear is None or (site.activation and site.activation.is_idempotent):
        reason = _CONSTANT_GATE if function and linear else _NO_LAYOUT if function else _NOT_ACTIVE
        return Refused(site.members, reason, kind=reason, scheme="parametric")
    rank = len(shapes.shape[site.output])
    return ParametricLayer(
        name=flow.label(site.nodes[0]),
        output=site.output,
        linear=linear,
        function=function,
        gate=(site.channels,) + (1,) * (rank - 1 - site.axis),
        parameters=elements(site, site.channels) + 2 * site.channels + _means(flow, function),
        description=f"{_kind(site, linear.operator)} {site.channels} channels + {function.operator}, mixed in by a gate",
    )


def elements(site: Site, outputs: int) -> int:
    """Elements of a new weight from a site's channels to so many."""
    return site.channels * outputs // site.groups * math.prod(site.kernel)


_SHIFTS = ("Add", "Sub")
_SILENT = (*_SHIFTS, "Squeeze", "Transpose", "Unsqueeze")
"""What a description of a layer passes over."""

_BOUNDED = frozenset({"Erf", "HardSigmoid", "Sigmoid", "Sin", "Softsign", "Tanh"})

_NO_FUNCTION = (
    "the model has no activation between its layers that a new branch could use; activation Relu gives it one"
)
_NO_LAYOUT = "its channels lie where no single product reaches them"
_CONSTANT_GATE = (
    "its activation keeps its own values, so that the gate would get no gradient; scheme identity fits"
)
_NOT_ACTIVE = "it feeds no activation"


def _kind(site: Site, name: str) -> str:
    return f"Conv {'x'.join(map(str, site.kernel))}," if site.kernel else name


def _linear(flow: Dataflow, shapes: Shapes, site: Site) -> Linear | None:
    """Maps along a site's channels: where they lie, if these are the last or last but one, else where the site's own layer wrote them."""
    nodes = [flow.nodes[index] for index in site.nodes if operator(flow.nodes[index]) in LAYOUT]
    layout = tuple(node.output[0] for node in nodes)
    dtype = shapes.dtype[site.steps[0] if site.steps else site.output]
    rank = len(shapes.shape[site.output])
    if site.kernel:
        return Linear("Conv", site.channels, site.kernel, site.groups, layout=layout, dtype=dtype)
    if site.axis == rank - 1:
        name = "Gemm" if rank == 2 and operator(flow.nodes[site.nodes[0]]) == "Gemm" else "MatMul"
        return Linear(name, site.channels, dtype=dtype)
    if site.axis == rank - 2:
        return Linear("MatMul", site.channels, is_left=True, dtype=dtype)
    node = flow.nodes[site.nodes[0]]
    if not nodes or operator(node) == "Einsum":
        return None
    is_left = operator(node) == "MatMul" and node.input[0] == site.weight
    return Linear("MatMul", site.channels, is_left=is_left, layout=layout, dtype=dtype)


def _means(flow: Dataflow, function: Function) -> int:
    """The parameters of an activation that become one number each."""
    nodes = [flow.nodes[index] for name in function.nodes if (index := flow.producer(name)) is not None]
    names = {name for node in nodes for name in operands(node) if name in flow.constants}
    return sum(is_averaged(flow, name) for name in names)
