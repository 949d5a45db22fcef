"""Nodes in the order of their data: ONNX demands it, some converters forget it, and ONNX Runtime sorts for itself."""

from __future__ import annotations

import heapq

import onnx
from onnx import FunctionProto, GraphProto, NodeProto

from onnx_grow.model.checks import captured
from onnx_grow.model.walk import nested_graphs

__all__ = ["sort"]


def sort(model: onnx.ModelProto) -> None:
    """Put nodes behind all that they read, in every graph and function of a model; what is sorted, or cyclic, stays as it is.

    Of the nodes that could come next, the one that stood first does.
    """
    for root in (model.graph, *model.functions):
        for graph in reversed([root, *nested_graphs(root)]):  # bodies first: what they capture shows then
            _sort(graph)


def _sort(graph: GraphProto | FunctionProto) -> None:
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    awaited = [
        {makers[name] for name in (*node.input, *captured(node)) if name in makers} for node in graph.node
    ]
    if all(max(found, default=-1) < index for index, found in enumerate(awaited)):
        return
    readers: list[list[int]] = [[] for _ in awaited]
    for index, found in enumerate(awaited):
        for maker in found:
            readers[maker].append(index)
    open_ = [len(found) for found in awaited]
    ready = [index for index, count in enumerate(open_) if not count]
    order: list[int] = []
    while ready:
        order.append(index := heapq.heappop(ready))
        for reader in readers[index]:
            open_[reader] -= 1
            if not open_[reader]:
                heapq.heappush(ready, reader)
    if len(order) == len(awaited):
        nodes = [NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
        del graph.node[:]
        graph.node.extend(nodes)
