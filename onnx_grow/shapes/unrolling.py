"""Every body once, as part of the main graph: a model that ONNX Runtime can tell the shapes inside of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from onnx_grow.model import Model
from onnx_grow.model.bodies import ENTRY, EXIT, FORMALS, JOIN, MARKERS, states
from onnx_grow.model.nodes import constant

Shape = tuple[int, ...]


def unrolled(flat: Model, shapes: Mapping[str, Shape]) -> Model:
    """A flat model whose markers are nodes that a runtime knows: both branches of an If run, and one iteration of each loop.

    What a loop collects is repeated to the shape that `shapes` tells of it. The result has the tensors of `flat`, under their names.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(flat.skeleton)
    del proto.graph.node[:]
    del proto.graph.value_info[:]
    for node in flat.skeleton.graph.node:
        if node.domain in MARKERS:
            proto.graph.node.extend(_known(node, shapes, flat.opset))
        else:
            proto.graph.node.add().CopyFrom(node)
            proto.graph.node[-1].ClearField("name")  # bodies may have names in common
    return replace(flat, skeleton=proto)


def _known(marker: NodeProto, shapes: Mapping[str, Shape], opset: int) -> Iterator[NodeProto]:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in marker.attribute}
    if marker.domain == ENTRY:
        yield from _entered(marker, given.get("scan_input_axes") or [0] * len(marker.input), shapes)
    elif marker.domain == EXIT:
        yield from (_same(a, b) for a, b in zip(marker.input, marker.output, strict=True) if b)
    elif marker.domain == JOIN and marker.op_type == "If":
        count = len(marker.output)
        branches = {
            name: _branch(list(marker.input[1 + k * count :][:count]), name)
            for k, name in enumerate(("then_branch", "else_branch"))
        }
        yield helper.make_node("If", [marker.input[0]], list(marker.output), **branches)
    else:
        yield from _collected(marker, given, shapes, opset)


def _entered(marker: NodeProto, axes: list[int], shapes: Mapping[str, Shape]) -> Iterator[NodeProto]:
    carried = {k for k, _ in states(marker, len(marker.output))}
    for k, name in enumerate(marker.output):
        if marker.op_type == "Loop" and k < 2:
            value = np.full(shapes.get(name, ()), k == 1, bool if k else np.int64)
            yield constant(name, value)
        elif k in carried and name:
            yield _same(marker.input[k], name)
        elif name:
            first, axis = f"{name}/onnx_grow_first", axes[k - len(carried)]
            yield constant(first, np.array(0))
            yield helper.make_node("Gather", [marker.input[k], first], [name], axis=axis)


def _collected(
    marker: NodeProto, given: Mapping[str, Any], shapes: Mapping[str, Shape], opset: int
) -> Iterator[NodeProto]:
    formals = given[FORMALS]
    results = formals + (marker.op_type == "Loop")
    carried = len(states(marker, formals))
    axes = given.get("scan_output_axes") or [0] * len(marker.output)
    for o, name in enumerate(marker.output):
        if not name:
            continue
        if o < carried:
            yield _same(marker.input[results + o], name)
            continue
        one, axis, long = (f"{name}/onnx_grow_{part}" for part in ("one", "axis", "long"))
        along = [axes[o - carried]]
        if opset < 13:
            yield helper.make_node("Unsqueeze", [marker.input[results + o]], [one], axes=along)
        else:
            yield constant(axis, np.array(along))
            yield helper.make_node("Unsqueeze", [marker.input[results + o], axis], [one])
        yield constant(long, np.array(shapes.get(name, (1,)), np.int64))
        yield helper.make_node("Expand", [one, long], [name])


def _same(name: str, to: str) -> NodeProto:
    return helper.make_node("Identity", [name], [to])


def _branch(names: list[str], name: str) -> onnx.GraphProto:
    nodes = [_same(result, f"{result}/onnx_grow_{name}") for result in names]
    return helper.make_graph(nodes, name, [], [onnx.ValueInfoProto(name=node.output[0]) for node in nodes])
