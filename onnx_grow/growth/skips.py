"""Skip connections y = s + f(s), found without knowing any architecture.

At a sum of two activations, if one of them (b) is computed from the other (s), the branch f is every node that lies both
behind s and before b. What else these nodes read is context.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from onnx import TensorProto

from onnx_grow.growth.activations import is_clamp
from onnx_grow.growth.dataflow import RANDOM, Dataflow, Reach, enclosed, operator
from onnx_grow.growth.divisors import unguarded_divisions
from onnx_grow.growth.silence import has_weights, silence
from onnx_grow.growth.sites import Refused, is_off
from onnx_grow.model.bodies import MARKERS
from onnx_grow.model.walk import subgraphs
from onnx_grow.shapes import Shapes

__all__ = ["Skip", "find_skips", "layers", "weights_of"]

MANY = 12
"""Linear layers that a branch may have and still be a layer, whatever the rest of the model."""


@dataclass(frozen=True)
class Skip:
    """A skip connection `total = source + f(source)` with f ending in `end`; node `index` is the sum.

    `nodes` are those of f. `zeroed` are the stored tensors that make f zero, None if f needs a scale for that. `tail` are the nodes
    between the sum and `output`, where the next branch starts. If they are idempotent a new branch is added behind them, otherwise
    `inside`: before them. `shape` is that of the sum, `signature` the shapes of the matrices and kernels in f. `is_network`: f is most
    of the model, and no layer of it. `mixes`: f multiplies activations, as attention does. `views` are nodes that reshape the
    output of the skip connection before it to the source of this one.
    """

    index: int
    source: str
    end: str
    total: str
    nodes: tuple[int, ...]
    zeroed: frozenset[str] | None
    tail: tuple[int, ...]
    inside: bool
    output: str
    shape: tuple[int, ...]
    signature: tuple[tuple[int, ...], ...]
    is_network: bool
    mixes: bool = False
    views: tuple[int, ...] = ()

    @property
    def members(self) -> tuple[int, ...]:
        """Its nodes, the sum first."""
        return (self.index, *self.nodes, *self.tail)


def find_skips(flow: Dataflow, shapes: Shapes) -> list[Skip | Refused]:
    """Every skip connection whose branch has weights, in order, or the reason why it cannot be copied.

    One that contains others on a stream of the same shape is a stage, and is refused; others inside a branch are part of it.
    """
    found = _branches(flow, shapes)
    branches = [entry for entry in found if isinstance(entry, _Branch)]
    sources = frozenset(branch.source for branch in branches)
    totals = frozenset(branch.total for branch in branches)
    linears = sum(has_weights(flow, shapes, index) for index in range(len(flow.nodes)))
    return [
        _skip(flow, shapes, entry, sources, totals, linears) if isinstance(entry, _Branch) else entry
        for entry in found
    ]


def layers(flow: Dataflow, skips: Iterable[Skip]) -> list[tuple[Skip, ...]]:
    """Skip connections in groups that repeat: attention and feed-forward network are one layer.

    A group is one period of a row of consecutive skip connections. In what does not repeat, branches that mix positions (attention)
    form a layer with the next that does not; the rest fall into single ones.
    """
    rows: list[list[Skip]] = []
    for skip in skips:
        views = _views(flow, rows[-1][-1], skip) if rows else None
        if views is None:
            rows.append([skip])
        else:
            rows[-1].append(replace(skip, views=views))
    return [group for row in rows for group in _periods(row)]


def weights_of(
    flow: Dataflow, nodes: Iterable[int], zeroed: Collection[str] = ()
) -> tuple[list[str], list[int]]:
    """The stored tensors that some nodes train on, and the nodes that compute constants from them; both in order.

    Integers are shapes, axes and indices, and are not trained, unless they are quantised weights; nor are the single
    numbers of Constant nodes and zero points, unless a copy of the nodes has them `zeroed`: it learns by them.
    """
    roots: dict[str, None] = {}
    above: set[int] = set()
    stack = [name for index in nodes for name in flow.nodes[index].input if name in flow.constants]
    while stack:
        name = stack.pop()
        index = flow.producer(name)
        if index is None or operator(flow.nodes[index]) == "Constant":
            if name in zeroed or _is_trained(flow, name, is_node=index is not None):
                roots[name] = None
        elif index not in above:
            above.add(index)
            stack += flow.nodes[index].input
    trained = set(roots)
    carriers = []
    for index in sorted(above):
        if not trained.isdisjoint(flow.nodes[index].input):
            trained.update(filter(None, flow.nodes[index].output))
            carriers.append(index)
    return sorted(roots), carriers


@dataclass(frozen=True)
class _Branch:
    """The branch of one skip connection: its sum, its two ends, and the nodes between them."""

    index: int
    source: str
    end: str
    total: str
    shape: tuple[int, ...]
    nodes: tuple[int, ...]
    linears: int


def _branches(flow: Dataflow, shapes: Shapes) -> list[_Branch | Refused]:
    joins = [_Join(flow, shapes, index) for index in range(len(flow.nodes)) if _adds(flow, index)]
    reach = Reach(flow, (source for join in joins for source, _ in join.readings))
    divisions = unguarded_divisions(flow, shapes)
    found: dict[int, _Branch | Refused] = {}
    for join in joins:
        reading = next((pair for pair in join.readings if reach.is_behind(pair[1], pair[0])), None)
        if reading is None:
            continue
        source, end = reading
        shape = shapes.shape.get(join.total)

        def is_on_stream(index: int, shape: tuple[int, ...] | None = shape) -> bool:
            inner = found.get(index)
            return isinstance(inner, _Branch) and inner.shape == shape

        nodes = reach.between(source, end, is_on_stream)
        if nodes is None:
            reason = "its branch contains skip connections of its own, and these are what is copied"
            found[join.index] = Refused((join.index,), reason, scheme="residual-copy")
            continue
        linears = sum(has_weights(flow, shapes, index) for index in nodes)
        if not linears:
            continue
        if reason := _refusal(flow, shapes, join, source, end, nodes):
            found[join.index] = Refused((join.index, *nodes), reason, scheme="residual-copy")
            continue
        if unsafe := next((index for index in nodes if index in divisions), None):
            reason = f"{flow.label(unsafe)!r} {_UNSAFE}"
            found[join.index] = Refused((join.index, *nodes), reason, _UNSAFE, "residual-copy")
            continue
        for index in nodes:
            found.pop(index, None)
        found[join.index] = _Branch(join.index, source, end, join.total, shape or (), tuple(nodes), linears)
    fused = (index for index, node in enumerate(flow.nodes) if operator(node) in _FUSED)
    found.update((index, Refused((index,), _SUM_IN_NORM, _SUM_IN_NORM, "residual-copy")) for index in fused)
    return [found[index] for index in sorted(found)]


_SUM_IN_NORM = (
    "its sum is fused with a norm whose statistics are outputs, too: deepen the model before it is optimised"
)
_UNSAFE = "divides by what may be zero for the input of a copy, on which it was not trained, and 0 / 0 times a zero weight is not zero"
_FUSED = frozenset({"com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization"})


def _skip(
    flow: Dataflow,
    shapes: Shapes,
    branch: _Branch,
    sources: Collection[str],
    totals: Collection[str],
    linears: int,
) -> Skip:
    tail, inside = _tail(flow, shapes, branch, sources, totals)
    linear = [index for index in branch.nodes if has_weights(flow, shapes, index)]
    sizes = (kind[1] for name in weights_of(flow, linear)[0] if (kind := flow.kind(name)))
    return Skip(
        index=branch.index,
        source=branch.source,
        end=branch.end,
        total=branch.total,
        nodes=branch.nodes,
        zeroed=silence(flow, shapes, branch.nodes, branch.source, branch.end),
        tail=tuple(tail),
        inside=inside,
        output=flow.nodes[tail[-1]].output[0] if tail else branch.total,
        shape=branch.shape,
        signature=tuple(sorted(size for size in sizes if len(size) > 1)),
        is_network=branch.linears > max(MANY, linears / 2),
        mixes=any(_mixes(flow, index) for index in branch.nodes),
    )


def _mixes(flow: Dataflow, index: int) -> bool:
    name = operator(flow.nodes[index])
    return name.endswith("Attention") or (name in ("Einsum", "MatMul") and len(flow.activations(index)) > 1)


def _views(flow: Dataflow, previous: Skip, skip: Skip) -> tuple[int, ...] | None:
    """The nodes between two consecutive skip connections, which only reshape; None if they are not consecutive."""
    if skip.shape == previous.shape and skip.source in (previous.total, previous.output):
        return ()
    if previous.tail or skip.tail:
        return None
    nodes: list[int] = []
    tensor = skip.source
    while tensor != previous.output:
        index = flow.producer(tensor)
        if index is None or operator(flow.nodes[index]) not in _RESHAPING:
            return None
        nodes.insert(0, index)
        tensor = flow.nodes[index].input[0]
    return tuple(nodes)


_RESHAPING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


class _Join:
    """A sum of two activations, and the two ways to read it as (source, end of the branch)."""

    def __init__(self, flow: Dataflow, shapes: Shapes, index: int) -> None:
        node = flow.nodes[index]
        left, right = node.input
        self.index = index
        self.total = node.output[0]
        self.readings = [(_origin(flow, shapes, left), right)]
        if operator(node) != "Sub":
            self.readings.append((_origin(flow, shapes, right), left))


def _adds(flow: Dataflow, index: int) -> bool:
    node = flow.nodes[index]
    return (
        operator(node) in ("Add", "Sub", "Sum")
        and len(node.input) == 2
        and len(set(flow.activations(index))) == 2
    )


def _origin(flow: Dataflow, shapes: Shapes, tensor: str) -> str:
    """The tensor itself, seen through nodes that do nothing."""
    while (index := flow.producer(tensor)) is not None and _does_nothing(flow, shapes, index):
        tensor = flow.nodes[index].input[0]
    return tensor


def _does_nothing(flow: Dataflow, shapes: Shapes, index: int) -> bool:
    name = operator(flow.nodes[index])
    return name == "Identity" or (name == "Dropout" and is_off(flow, shapes, index))


def _refusal(
    flow: Dataflow, shapes: Shapes, join: _Join, source: str, end: str, nodes: Collection[int]
) -> str:
    """Why a branch cannot be copied; nothing if it can."""
    own = [shapes.shape.get(name) for name in (source, end, join.total)]
    if None in own:
        return f"the shape of {source!r} or {end!r} is not known"
    if len(set(own)) > 1:
        return f"what it adds has another shape ({list(own[1] or ())}) than what it adds it to ({list(own[0] or ())})"
    if shapes.dtype.get(join.total) not in _FLOATS:
        return "it does not compute in floating point"
    inputs = set(flow.topology.inputs)
    for index in nodes:
        node = flow.nodes[index]
        if node.domain in MARKERS or any(subgraphs(node)):
            return f"its branch contains control flow ({node.op_type} {flow.label(index)!r})"
        if node.op_type in RANDOM or (operator(node) == "Dropout" and not is_off(flow, shapes, index)):
            return f"its branch is random ({node.op_type} {flow.label(index)!r})"
        if not inputs.isdisjoint(set(node.input) - {source}) and not set(node.output).isdisjoint(
            flow.topology.outputs
        ):
            return f"its branch keeps state that the caller passes in and takes back ({flow.label(index)!r})"
    return ""


_FLOATS = frozenset((TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16))


def _tail(
    flow: Dataflow, shapes: Shapes, branch: _Branch, sources: Collection[str], totals: Collection[str]
) -> tuple[list[int], bool]:
    """What lies between the sum and the start of the next branch, and whether new branches must be added before it.

    It is an idempotent activation, as in ResNet; or a norm or another activation, where the next branch, or this one, starts behind
    such.
    """
    nodes: list[int] = []
    tensor, last = branch.total, 0
    while len(readers := flow.readers(tensor)) == 1 and not flow.is_visible(tensor):
        clamps = is_clamp(flow, readers[0]) and _same_shape(flow, shapes, readers[0])
        if not clamps and (last or not _does_nothing(flow, shapes, readers[0])):
            break
        nodes.append(readers[0])
        tensor = flow.nodes[readers[0]].output[0]
        last = len(nodes) if clamps else last
    if last:
        return nodes[:last], False
    before = flow.producer(branch.source)
    own = "" if before is None or branch.source in totals else operator(flow.nodes[before])

    def could_be_source(tensor: str) -> bool:
        alike = shapes.dtype.get(tensor) == shapes.dtype.get(branch.source)
        return alike and shapes.shape.get(tensor) == branch.shape

    def starts_branch(tensor: str) -> bool:
        return tensor in sources and could_be_source(tensor)

    def ends_like_before(tensor: str) -> bool:
        index = flow.producer(tensor)
        return index is not None and could_be_source(tensor) and operator(flow.nodes[index]) == own

    ends = (enclosed(flow, branch.total, _TAIL, is_end) for is_end in (starts_branch, ends_like_before))
    inside = next(filter(None, ends), [])
    return inside, bool(inside)


_TAIL = frozenset(
    {
        *("Abs", "Add", "BatchNormalization", "Cast", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu"),
        *("GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization"),
        *(
            "LayerNormalization",
            "LeakyRelu",
            "LpNormalization",
            "Max",
            "Mish",
            "Min",
            "Mul",
            "Neg",
            "Pow",
            "PRelu",
        ),
        *("RMSNormalization", "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Selu", "Sigmoid"),
        *(
            "SimplifiedLayerNormalization",
            "Softplus",
            "Softsign",
            "Sqrt",
            "Sub",
            "Swish",
            "Tanh",
            "Transpose",
        ),
    }
)


def _same_shape(flow: Dataflow, shapes: Shapes, index: int) -> bool:
    (before,) = flow.activations(index)
    return shapes.shape.get(before) == shapes.shape.get(flow.nodes[index].output[0])


def _is_trained(flow: Dataflow, name: str, *, is_node: bool) -> bool:
    kind = flow.kind(name)
    if kind is None or kind[0] in _NOT_TRAINED:
        return False
    return math.prod(kind[1]) > 1 or not (is_node or kind[0] in _SMALL_INTEGERS)


_SMALL_INTEGERS = frozenset(
    getattr(TensorProto, name)
    for name in ("INT2", "INT4", "INT8", "UINT2", "UINT4", "UINT8")
    if hasattr(TensorProto, name)
)
_NOT_TRAINED = frozenset(
    getattr(TensorProto, name)
    for name in ["BOOL", "INT16", "INT32", "INT64", "STRING", "UINT16", "UINT32", "UINT64"]
)


def _periods(row: list[Skip]) -> Iterator[tuple[Skip, ...]]:
    """One period after the other; the period is the one that repeats over most of the end of the row, or over all of it."""
    groups: list[list[tuple[Skip, ...]]] = []  # the last first
    while row:
        spans = _spans([skip.signature for skip in row])
        fitting = {p: span for p, span in spans.items() if span >= 2 * p or (span == len(row) and span > p)}
        if not fitting:
            groups.append(list(_pairs(row)))
            break
        period = max(fitting, key=lambda p: (fitting[p], -p))
        span = fitting[period]
        start = len(row) - span + span % period  # a row that starts amid a layer ends with a whole one
        groups.append([tuple(row[first : first + period]) for first in range(start, len(row), period)])
        row = row[:start]
    return (group for part in reversed(groups) for group in part)


def _spans(signatures: list[tuple[tuple[int, ...], ...]]) -> dict[int, int]:
    """For every period up to half of a list, rounded up: the length of the end of the list that repeats with it.

    It is the period and the longest common prefix of the reversed list and of what follows the period there: the Z function, which takes
    linear time (Gusfield, Algorithms on Strings, Trees and Sequences, 1997, section 1.3).
    """
    back = signatures[::-1]
    common = [0] * len(back)
    left = right = 0  # the match that reaches the furthest
    for at in range(1, len(back)):
        length = min(right - at, common[at - left]) if at < right else 0
        while at + length < len(back) and back[length] == back[at + length]:
            length += 1
        common[at] = length
        if at + length > right:
            left, right = at, at + length
    return {
        period: period + common[period] for period in range(1, (len(back) + 1) // 2 + 1) if period < len(back)
    }


def _pairs(row: list[Skip]) -> Iterator[tuple[Skip, ...]]:
    pending: list[Skip] = []
    for skip in row:
        pending.append(skip)
        if not skip.mixes:
            yield tuple(pending)
            pending = []
    yield from ((skip,) for skip in pending)
