"""How often a Loop runs that decides by itself when to end, where it counts and no data take part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from onnx import NodeProto, OperatorSetIdProto

from onnx_grow.errors import InvalidModelError
from onnx_grow.model.bodies import states
from onnx_grow.shapes.evaluation import evaluate
from onnx_grow.shapes.types import Array

MOST = 256
"""Iterations up to which a Loop is followed."""
NODES = 64
"""Nodes that may decide about its end."""


def iterations(
    entry: NodeProto,
    end: NodeProto,
    body: Sequence[NodeProto],
    values: Mapping[str, Array],
    opset_imports: Iterable[OperatorSetIdProto],
) -> int | None:
    """The iterations of a Loop between its markers, None where they do not follow from known `values`."""
    carried = [(entry.output[k], end.input[o], entry.input[k]) for k, o in states(entry, len(entry.output))]
    deciding = _behind({end.input[0]}, body, {name: result for name, result, _ in carried})
    read = {name for node in deciding for name in node.input}
    counters = [(name, result, initial) for name, result, initial in carried if name in read]
    most = _given(entry.input[0], values, np.array(MOST))
    goes_on = _given(entry.input[1], values, np.True_)
    if most is None or goes_on is None or any(initial not in values for *_, initial in counters):
        return None
    known = {name: values[name] for name in (*read, *end.input) if name in values}
    known |= {name: values[initial] for name, _, initial in counters}
    if len(deciding) > NODES:
        return None
    opsets = list(opset_imports)
    for iteration in range(MOST):
        if iteration >= most or not goes_on:
            return iteration
        known[entry.output[0]] = np.array(iteration)
        for node in deciding:
            if any(name and name not in known for name in node.input):
                return None
            try:
                found = evaluate(node, opsets, [known.get(name) for name in node.input])
            except InvalidModelError:
                return None
            known.update(zip(node.output, found, strict=False))
        goes_on = known.get(end.input[0])
        if goes_on is None or goes_on.size != 1:
            return None
        known |= {name: known[result] for name, result, _ in counters}
    return None


def _given(name: str, values: Mapping[str, Array], otherwise: Array | np.bool) -> Array | np.bool | None:
    """An optional input's value, None where it is there and not known."""
    return values.get(name) if name else otherwise


def _behind(names: set[str], body: Sequence[NodeProto], results: Mapping[str, str]) -> list[NodeProto]:
    """The nodes that `names` are computed by, in this or an earlier iteration; `results` are those that states get from."""
    wanted: set[str] = set()
    while names - wanted:
        wanted |= names
        names = {name for node in body if not wanted.isdisjoint(node.output) for name in node.input}
        names |= {results[name] for name in wanted if name in results}
    return [node for node in body if not wanted.isdisjoint(node.output)]
