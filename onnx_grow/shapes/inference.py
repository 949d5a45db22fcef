"""The shapes of a model: input sizes that fit, a walk over the graph, and ONNX Runtime for what that leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType

from onnx_grow.errors import InvalidModelError
from onnx_grow.model import Model, nested
from onnx_grow.shapes import observation, types
from onnx_grow.shapes.graph import Graph
from onnx_grow.shapes.jumps import jumps, may_jump
from onnx_grow.shapes.observation import Found, Sizes
from onnx_grow.shapes.sizes import candidates, declared_inputs, dynamic_dims, enlarged, open_dims
from onnx_grow.shapes.solving import solved
from onnx_grow.shapes.types import Array
from onnx_grow.shapes.unrolling import unrolled
from onnx_grow.shapes.walk import Walk

RUNS = 3
"""Candidate sizes that ONNX Runtime is asked to run before the missing shapes are given up."""


@dataclass(frozen=True, eq=False)
class Shapes:
    """What is known about the tensors of a model's main graph at one choice of input sizes.

    `shape`: concrete shape of every tensor (inputs, initializers, intermediates).
    `dtype`: its TensorProto.DataType.
    `value`: tensors whose value does not depend on the data, read-only: integer and bool initializers and constants
    (up to 64 Ki elements), tiny floating-point ones (up to 64), and what is computed from those and from shapes
    (up to 4096).
    `inputs`: the input shapes used. `dynamic`: per input, the positions of the dims the file leaves open.
    `unknown`: tensors without a shape: sequences, optionals, and what neither inference nor a run revealed.
    `observed`: tensors whose shape only a run revealed; with other data it may be another.
    `jumps`: values that depend on the dims left open although they may be the same at many sizes: which of their elements.
    `elsewhere`: what is known at larger sizes of those dims, if it was needed to tell.
    `problems`: the nodes that these sizes do not fit, where no candidate fits all; the outputs are unknown.
    """

    shape: Mapping[str, tuple[int, ...]]
    dtype: Mapping[str, int]
    value: Mapping[str, Array]
    inputs: Mapping[str, tuple[int, ...]]
    dynamic: Mapping[str, frozenset[int]]
    unknown: tuple[str, ...]
    observed: frozenset[str] = frozenset()
    jumps: Mapping[str, Array] = field(default_factory=dict)
    elsewhere: Shapes | None = None
    problems: tuple[str, ...] = ()


def infer(model: Model, inputs: Mapping[str, Sequence[int]] | None = None) -> Shapes:
    """Shapes at the first candidate input sizes for which everything fits; `inputs` fixes some of them.

    The walk alone serves nearly every model. Where it leaves a tensor without a shape (operators without a schema,
    shapes that depend on data), ONNX Runtime's own inference is asked, and then the model is run once on the CPU, bodies of
    control flow by themselves;
    what neither knows (operators for other devices) has the shape that the file declares, if it does.
    Raises InvalidRequestError for `inputs` that do not fit the file, and for an input of unknown rank;
    InvalidModelError for a node with more or fewer inputs or outputs than its operator has.
    """
    graph = Graph.of(model)
    model = nested(model)
    reports = (_report(model, graph, sizes, walk) for sizes, walk in _fitting(model, graph, inputs))
    tried: list[Shapes] = []
    for shapes, complete in islice(reports, RUNS):
        if complete:
            return _compared(model, graph, shapes)
        tried.append(shapes)
    return _compared(model, graph, tried[0])


def elsewhere(model: Model, here: Shapes) -> Shapes:
    """What is known at larger sizes of the dims that `here` has open; a dim that fits at no other size stays as it is."""
    return here.elsewhere or _elsewhere(nested(model), Graph.of(model), here)


def asked(model: Model, inputs: Mapping[str, Sequence[int]] | None = None) -> Iterator[Sizes]:
    """Input sizes that the constants of a graph ask for, for files that leave them open; `inputs` as for `infer`."""
    return (sizes for sizes, _ in solved(Graph.of(model), open_dims(model, inputs)))


def _fitting(
    model: Model, graph: Graph, inputs: Mapping[str, Sequence[int]] | None
) -> Iterator[tuple[Sizes, Walk]]:
    """The candidates that meet no problem, else sizes that the graph asks for; else the first candidate of those that get furthest."""
    best: tuple[Sizes, Walk] | None = None
    fewest = 0
    refused: InvalidModelError | None = None
    for sizes in candidates(model, inputs):
        try:
            walk = Walk.over(graph, sizes, {})
        except InvalidModelError as error:
            # Other sizes may do: a Squeeze without axes leaves more dimensions then.
            refused = refused or error
            continue
        if not walk.problems:
            yield sizes, walk
        misses = len(walk.problems) and len(walk.problems) + len(walk.missing)
        if best is None or misses < fewest:
            best, fewest = (sizes, walk), misses
    if best is None and refused is not None:
        raise refused
    if best is not None and fewest:
        yield from solved(graph, open_dims(model, inputs))
        yield best


def _known(walk: Walk, seen: Found) -> dict[str, tuple[int, ...]]:
    return {**{name: shape for name, (_, shape) in seen.items()}, **walk.shapes()}


def _declared(model: Model, names: Sequence[str]) -> Found:
    """Dtype and shape of the named tensors as the file declares them, where that leaves nothing open."""
    wanted = set(names)
    graph = model.skeleton.graph
    found = {
        value.name: types.read(value.type)
        for value in (*graph.value_info, *graph.output)
        if value.name in wanted
    }
    complete = ((name, known.dtype, known.shape) for name, known in found.items())
    return {name: (dtype, shape) for name, dtype, shape in complete if dtype and shape is not None}


def _report(model: Model, graph: Graph, sizes: Sizes, walk: Walk) -> tuple[Shapes, bool]:
    """The shapes at these sizes, and whether none is missing."""
    seen: Found = {}
    outer = {name for node in model.skeleton.graph.node for name in node.output}
    if not walk.problems and (missing := walk.missing):  # where nothing fits, only a run is to be believed
        seen = observation.ask(model, sizes, [name for name in missing if name in outer], walk.values)
        if inner := [name for name in missing if name not in outer]:
            seen |= observation.ask(unrolled(graph.flat, _known(walk, seen)), sizes, inner, walk.values)
        walk = Walk.over(graph, sizes, seen)
    ran: Found | None = {}
    missing = [name for name in walk.missing if name not in seen]
    if asked := [name for name in missing if name in outer]:
        ran = observation.run(model, sizes, asked)
        seen |= ran or {}
    if inner := [name for name in missing if name not in outer]:
        inside = observation.run(unrolled(graph.flat, _known(walk, seen)), sizes, inner) or {}
        seen |= inside
        ran = None if ran is None else ran | inside
    if missing:
        walk = Walk.over(graph, sizes, seen)
    if missing := [name for name in walk.missing if name not in seen]:
        seen |= _declared(model, missing)
        walk = Walk.over(graph, sizes, seen)
    dtype, shape = walk.dtypes(), walk.shapes()
    observed = frozenset(ran or ()) - shape.keys()
    for name in seen.keys() - shape.keys() - walk.varying:
        dtype[name], shape[name] = seen[name]
    return Shapes(
        shape=MappingProxyType(shape),
        dtype=MappingProxyType(dtype),
        value=MappingProxyType({name: walk.values[name] for name in graph.names if name in walk.values}),
        inputs=MappingProxyType(dict(sizes)),
        dynamic=MappingProxyType(_left_open(model, graph, sizes)),
        unknown=tuple(name for name in graph.names if name not in shape),
        observed=observed,
        problems=tuple(walk.problems),
    ), ran is not None


def _left_open(model: Model, graph: Graph, sizes: Sizes) -> dict[str, frozenset[int]]:
    """Per input, the positions of the dims that the file leaves open; where it declares no shape, those that may be twice as large."""

    def may_grow(name: str, k: int) -> bool:
        shape = sizes[name]
        larger = {**sizes, name: (*shape[:k], 2 * shape[k], *shape[k + 1 :])}
        return _fits(graph, larger)

    dynamic = dynamic_dims(model)
    for name, dims in declared_inputs(model).items():
        if dims is None:
            dynamic[name] = frozenset(k for k in range(len(sizes[name])) if may_grow(name, k))
    return dynamic


def _compared(model: Model, graph: Graph, here: Shapes) -> Shapes:
    """The same with what larger sizes of the open dims tell, if any value could jump."""
    asked = (node for node in graph.nodes if may_jump(node) and not here.value.keys().isdisjoint(node.output))
    reads = {name for node in asked for name in node.input if name in here.value}
    if not any(here.dynamic.values()) or reads <= graph.values.keys():
        return here
    there = _elsewhere(model, graph, here)
    found = jumps(graph.nodes, graph.opset_imports, here.value, there.value)
    return replace(here, jumps=found, elsewhere=there)


def _elsewhere(model: Model, graph: Graph, here: Shapes) -> Shapes:
    larger: Sizes = enlarged(model, here.inputs, here.dynamic)
    walk = _walked(graph, larger)
    if (walk is None or walk.problems) and (fitting := _changed_where_it_fits(model, graph, here)):
        larger, walk = fitting, _walked(graph, fitting)
    return here if walk is None else _report(model, graph, larger, walk)[0]


def _changed_where_it_fits(model: Model, graph: Graph, here: Shapes) -> Sizes | None:
    """Other sizes of those open dims that may have any: files leave a batch open that their graph holds; None where none can be told."""
    if any(dims is None for dims in declared_inputs(model).values()):
        return None
    opened = open_dims(model)
    places = {dim: here.inputs[name][k] for name, dims in opened.inputs.items() for k, dim in enumerate(dims)}
    if not opened.roles.keys() <= places.keys():  # only in expressions
        return None
    now = {symbol: places[symbol] for symbol in opened.roles}
    choice = dict(now)
    for group in opened.groups():
        others = [symbol for symbol in group if choice[symbol] == now[symbol]]
        for trial in ({s: 2 * now[s] for s in others}, dict.fromkeys(others, 1)):
            if _fits(graph, opened.shapes(choice | trial)):
                choice |= trial
                break
    return opened.shapes(choice)


def _fits(graph: Graph, sizes: Sizes) -> bool:
    walk = _walked(graph, sizes)
    return walk is not None and not walk.problems


def _walked(graph: Graph, sizes: Sizes) -> Walk | None:
    """The walk at these sizes; None where they give a node more or fewer parts, or dimensions, than it can have."""
    try:
        return Walk.over(graph, sizes, {})
    except InvalidModelError:
        return None
