"""Lists of tensors, written out: what a list of known length holds is read from where it comes from.

    SplitToSequence, SequenceAt       Split, or Gather where elements lack the dimension that was split
    SequenceConstruct, SequenceAt     Identity
    ConcatFromSequence                Concat

So exporters write `Tensor.split`, `unbind` and `stack`. A list whose length the file does not tell stays; so does one that something
else reads too: the body of a loop, or the world outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_grow.model.checks import captured
from onnx_grow.model.model import Model
from onnx_grow.model.names import Names
from onnx_grow.model.nodes import constant, is_default
from onnx_grow.model.walk import all_names

__all__ = ["unlisted"]

Array = np.ndarray[Any, Any]

_READERS = ("SequenceAt", "SequenceLength", "ConcatFromSequence")
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
_LONGEST = 4096
"""Elements up to which a list is written out, and its lengths are read."""


def unlisted(model: Model) -> Model:
    """The same model with lists of known length written out in its main graph; itself where it reads none."""
    if not any(_is(node, *_READERS) for node in model.skeleton.graph.node):
        return model
    nodes = _Unlisting(model).run()
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(nodes)
    return replace(model, skeleton=skeleton)


class _Unlisting:
    """`lists` are the elements of lists, by name. `spare` are tensors that may go, with their node, where nobody reads them.

    Elements that have no name in the file are `nameless` until a SequenceAt gives them its output's, in `names`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph = model.skeleton.graph
        self.lists: dict[str, list[str]] = {}
        self.spare: set[str] = set()
        self.nameless: set[str] = set()
        self.names: dict[str, str] = {}
        self.taken = Names(all_names(model.skeleton))
        self.constants = {
            node.output[0]: attribute
            for node in self.graph.node
            if _is(node, "Constant")
            for attribute in node.attribute
        }
        self.declared = {
            value.name: value.type.tensor_type.shape.dim
            for value in (*self.graph.value_info, *self.graph.input)
        }

    def run(self) -> list[NodeProto]:
        """The nodes of the main graph, in order, without those that nobody needs any more."""
        nodes = [written for node in self.graph.node for written in self._written(node)]
        for node in nodes:
            for names in (node.input, node.output):
                names[:] = [self.names.get(name, name) for name in names]
        spare = {self.names.get(name, name) for name in self.spare}
        read = Counter(name for node in nodes for name in (*node.input, *captured(node)))
        read.update(value.name for value in self.graph.output)
        kept: list[NodeProto] = []
        for node in reversed(nodes):
            if any(name in spare for name in node.output) and not any(read[name] for name in node.output):
                read.subtract(node.input)
            else:
                kept.append(node)
        return kept[::-1]

    def _written(self, node: NodeProto) -> list[NodeProto]:
        """What becomes of a node. One that makes a list stays as well, as long as anybody reads it."""
        if _is(node, *_READERS) and node.input[0] in self.lists:
            found = self._read(node, self.lists[node.input[0]])
            if found is not None:
                self.spare.update(name for name in node.input if name in self.constants)
                return found
        parts: list[NodeProto] = []
        if _is(node, "SplitToSequence"):
            parts = list(self._split(node))
        else:
            elements = self._elements(node)
            if elements is not None and len(elements) <= _LONGEST:
                self.lists[node.output[0]] = elements
        if node.output and node.output[0] in self.lists:
            self.spare.update((*node.output, *(name for name in node.input if name in self.constants)))
        copy = NodeProto()
        copy.CopyFrom(node)
        return [*parts, copy]

    def _elements(self, node: NodeProto) -> list[str] | None:
        """What a list holds that is made of tensors, or of another list; None where that is not known."""
        if _is(node, "SequenceConstruct"):
            return list(node.input)
        if _is(node, "SequenceEmpty"):
            return []
        if not _is(node, "SequenceInsert", "SequenceErase", "Identity") or node.input[0] not in self.lists:
            return None
        elements = list(self.lists[node.input[0]])
        if _is(node, "Identity"):
            return elements
        insert = _is(node, "SequenceInsert")
        at = self._position(node, 1 + insert, len(elements), len(elements) - (not insert), ends=insert)
        if at is None:
            return None
        return [*elements[:at], *node.input[1 : 1 + insert], *elements[at + (not insert) :]]

    def _read(self, node: NodeProto, elements: list[str]) -> list[NodeProto] | None:
        """What a node that reads a list becomes; None where it reads what is not known."""
        if _is(node, "SequenceLength"):
            return [self._constant(node.output[0], np.array(len(elements), np.int64))]
        if _is(node, "SequenceAt"):
            at = self._position(node, 1, len(elements))
            if at is None:
                return None
            if elements[at] in self.nameless - self.names.keys():
                self.names[elements[at]] = node.output[0]
                return []
            return [helper.make_node("Identity", [elements[at]], node.output, node.name)]
        stated = {attribute.name: attribute.i for attribute in node.attribute}
        if not elements or "axis" not in stated:
            return None
        stack = self._unsqueezed(node, elements, stated["axis"]) if stated.get("new_axis") else []
        operands = [other.output[0] for other in stack if other.op_type == "Unsqueeze"] or elements
        return [*stack, helper.make_node("Concat", operands, node.output, node.name, axis=stated["axis"])]

    def _unsqueezed(self, node: NodeProto, elements: list[str], axis: int) -> list[NodeProto]:
        fresh = [self.taken.fresh(f"{node.output[0]}_{k}") for k in range(len(elements))]
        if self.model.opset < 13:
            pairs = zip(elements, fresh, strict=True)
            return [helper.make_node("Unsqueeze", [old], [new], new, axes=[axis]) for old, new in pairs]
        axes = self._constant(self.taken.fresh(f"{node.output[0]}_axes"), np.array([axis], np.int64))
        pairs = zip(elements, fresh, strict=True)
        return [
            axes,
            *(helper.make_node("Unsqueeze", [old, axes.output[0]], [new], new) for old, new in pairs),
        ]

    def _split(self, node: NodeProto) -> Iterator[NodeProto]:
        """The node, or nodes, that make the parts one by one."""
        stated = {attribute.name: attribute.i for attribute in node.attribute}
        axis = stated.get("axis", 0)
        lengths = self._lengths(node, axis)
        if lengths is None or not 0 < len(lengths) <= _LONGEST or min(lengths) < 0:
            return
        name = node.output[0]
        parts = [self.taken.fresh(f"{name}_{k}") for k in range(len(lengths))]
        self.lists[name] = parts
        self.spare.update(parts)
        self.nameless.update(parts)
        if not _has(node, 1) and not stated.get("keepdims", 1):
            for k, part in enumerate(parts):
                index = self._constant(self.taken.fresh(f"{part}_index"), np.array(k, np.int64))
                yield index
                yield helper.make_node("Gather", [node.input[0], index.output[0]], [part], part, axis=axis)
        elif self.model.opset < 13:
            yield helper.make_node("Split", node.input[:1], parts, node.name, axis=axis, split=lengths)
        else:
            sizes = self._constant(self.taken.fresh(f"{name}_lengths"), np.array(lengths, np.int64))
            yield sizes
            yield helper.make_node("Split", [node.input[0], sizes.output[0]], parts, node.name, axis=axis)

    def _lengths(self, node: NodeProto, axis: int) -> list[int] | None:
        """The lengths of the parts that a SplitToSequence makes."""
        value = self._value(node.input[1]) if _has(node, 1) else np.array(1)
        if value is None or value.ndim:
            return None if value is None or value.ndim > 1 else value.tolist()
        whole, each = self._size(node.input[0], axis), int(value)
        if whole is None or each < 1:
            return None
        return [each] * (whole // each) + [whole % each] * (whole % each > 0)

    def _size(self, name: str, axis: int) -> int | None:
        """The size of a dimension, as far as the file declares it."""
        if name in self.model.weights:
            shape = self.model.weights[name].shape
            return shape[axis] if -len(shape) <= axis < len(shape) else None
        dims = self.declared.get(name, ())
        known = -len(dims) <= axis < len(dims) and dims[axis].HasField("dim_value")
        return dims[axis].dim_value if known else None

    def _position(
        self, node: NodeProto, i: int, length: int, default: int = -1, *, ends: bool = False
    ) -> int | None:
        """A position in a list of `length` from input `i`, one of the places between and around its elements if `ends`."""
        value = self._value(node.input[i]) if _has(node, i) else np.array(default)
        if value is None or value.size != 1:
            return None
        at = int(value.flat[0])
        at += length if at < 0 else 0
        return at if 0 <= at < length + ends else None

    def _value(self, name: str) -> Array | None:
        """The value of a constant that is a short list of integers, None for others."""
        weight, attribute = self.model.weights.get(name), self.constants.get(name)
        value: Array | None = None
        if weight is not None and weight.dtype in _INTEGERS and np.prod(weight.shape) <= _LONGEST:
            value = weight.array()
        elif attribute is not None and attribute.name == "value" and attribute.t.data_type in _INTEGERS:
            value = numpy_helper.to_array(attribute.t)
        elif attribute is not None and attribute.name in ("value_int", "value_ints"):
            value = np.array(helper.get_attribute_value(attribute))
        return value

    def _constant(self, name: str, value: Array) -> NodeProto:
        self.spare.add(name)
        return constant(name, value)


def _has(node: NodeProto, i: int) -> bool:
    return len(node.input) > i and bool(node.input[i])


def _is(node: NodeProto, *operators: str) -> bool:
    """Whether a node is one of these operators, with the inputs and outputs that it must have."""
    needed = {"Constant": 0, "SequenceEmpty": 0, "SequenceAt": 2, "SequenceInsert": 2}.get(node.op_type, 1)
    known = node.op_type in operators and is_default(node)
    return known and len(node.output) == 1 and all(_has(node, i) for i in range(needed))
