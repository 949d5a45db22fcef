"""Inserting a chain of new nodes behind a tensor, whose name the end of the chain takes over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from typing import Any

from onnx import NodeProto, helper

from onnx_grow.growth.dataflow import Dataflow
from onnx_grow.model import Draft, Weight

__all__ = ["Insertion", "Prefixes", "bare"]


class Insertion:
    """New nodes between the node that computes a tensor and all that read it.

    The original value gets another name, `start`, and the new chain ends by computing the tensor under its own name: readers,
    graph outputs and subgraphs see the longer chain without being touched. `flow` is the model before the insertion.
    """

    def __init__(self, draft: Draft, flow: Dataflow, output: str, prefix: str) -> None:
        index = flow.producer(output)
        assert index is not None
        self.flow = flow
        self._draft = draft
        self._index = index
        self._prefix = prefix
        self._output = output
        self._last: NodeProto | None = None
        self.start = draft.fresh_name(f"{prefix}/input")
        node = draft.node(index)
        node.output[list(node.output).index(output)] = self.start

    def add(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node of the default domain; the name of what it computes."""
        name = self._draft.fresh_name(f"{self._prefix}/{op_type}")
        output = self._draft.fresh_name(f"{name}_output")
        self._append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def copy(self, node: NodeProto, inputs: Sequence[str], name: str, outputs: Sequence[str]) -> list[str]:
        """Append a copy of a node that reads other tensors, under a name; what it computes of the wanted `outputs`."""
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = self._draft.fresh_name(f"{self._prefix}/{name}")
        copy.input[:] = inputs
        copy.output[:] = [
            self._draft.fresh_name(f"{copy.name}_output") if wanted and wanted in outputs else ""
            for wanted in node.output
        ]
        while copy.output and not copy.output[-1]:
            del copy.output[-1]
        self._append(copy)
        return list(copy.output)

    def weight(self, name: str, weight: Weight) -> str:
        """Add a weight; its name."""
        return self._draft.add_weight(f"{self._prefix}/{name}", weight)

    def close(self, end: str) -> None:
        """Let `end`, computed by the last node, take the name of the tensor."""
        assert self._last is not None
        self._last.output[list(self._last.output).index(end)] = self._output

    def _append(self, node: NodeProto) -> None:
        self._draft.insert_after(self._index, node)
        self._last = node


_GENERATION = re.compile(r"/deeper_\d+(?:/|$)")
_PREFIX = re.compile(r".*?/deeper_\d+(?=/)")


def bare(name: str) -> str:
    """A name without what earlier insertions put in front of it."""
    return _GENERATION.split(name)[-1].lstrip("/")


class Prefixes:
    """Prefixes for the names of new layers: the site's name and `/deeper_N` with the first N that is free."""

    def __init__(self, flow: Dataflow) -> None:
        found = (_PREFIX.match(flow.label(index)) for index in range(len(flow.nodes)))
        self._taken = {match[0] for match in found if match}

    def new(self, site: str) -> str:
        """A prefix for a layer behind a node; layers behind an inserted layer count on from there."""
        origin = _GENERATION.split(site)[0]
        number = next(n for n in count(1) if f"{origin}/deeper_{n}" not in self._taken)
        self._taken.add(f"{origin}/deeper_{number}")
        return f"{origin}/deeper_{number}"
