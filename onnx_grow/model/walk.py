"""Walks over a model's nested graphs, without recursion."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto

__all__ = ["all_names", "all_nodes", "graphs", "nested_graphs", "subgraphs", "tensors"]


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that are attributes of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nested_graphs(root: GraphProto | FunctionProto) -> Iterator[GraphProto]:
    """Every graph inside `root`, at any depth, without `root` itself."""
    stack = [graph for node in root.node for graph in subgraphs(node)]
    while stack:
        graph = stack.pop()
        yield graph
        stack += (inner for node in graph.node for inner in subgraphs(node))


def graphs(model: onnx.ModelProto) -> Iterator[GraphProto]:
    """Every graph of a model: the main graph, the training graphs, and all subgraphs, also in functions."""
    roots = [model.graph]
    for training in model.training_info:
        roots += (training.initialization, training.algorithm)
    for root in roots:
        yield root
        yield from nested_graphs(root)
    for function in model.functions:
        yield from nested_graphs(function)


def all_nodes(model: onnx.ModelProto) -> Iterator[NodeProto]:
    """Every node of a model: in any graph and in function bodies."""
    for graph in graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def all_names(model: onnx.ModelProto) -> Iterator[str]:
    """The name of every tensor and node in the graphs of a model, as often as they occur."""
    for graph in graphs(model):
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            yield value.name
        yield from (tensor.values.name for tensor in graph.sparse_initializer)
        for node in graph.node:
            yield from (node.name, *node.input, *node.output)


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model except the dense initializers of the main graph."""
    for graph in graphs(model):
        if graph is not model.graph:
            yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from _sparse_tensors(sparse)
    for node in all_nodes(model):
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield from _sparse_tensors(attribute.sparse_tensor)
    for sparse in attribute.sparse_tensors:
        yield from _sparse_tensors(sparse)


def _sparse_tensors(sparse: SparseTensorProto) -> Iterator[TensorProto]:
    if sparse.HasField("values"):
        yield sparse.values
    if sparse.HasField("indices"):
        yield sparse.indices
