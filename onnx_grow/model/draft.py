"""The draft: a private copy of a model to edit. What is not edited stays as it was, by construction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any, cast

import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnx_grow.model.checks import captured
from onnx_grow.model.model import Model
from onnx_grow.model.names import Names
from onnx_grow.model.walk import all_names
from onnx_grow.model.weights import Weight

__all__ = ["Draft"]


class Draft:
    """A mutable copy of a model. Edit nodes through `node(i)`, weights through `weights`, then `freeze()`.

    `proto` is the copied skeleton. `weights` is the truth about initializers: replace, add or delete entries,
    and `freeze` makes the initializers, and the inputs and value infos of the same names, say the same.
    """

    def __init__(self, model: Model) -> None:
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(model.skeleton)
        self.weights: dict[str, Weight] = dict(model.weights)
        self._model = model
        self._constants: list[NodeProto] = []
        self._before: dict[int, list[NodeProto]] = {}
        self._after: dict[int, list[NodeProto]] = {}
        self._names = Names(("", *all_names(model.skeleton)))

    def node(self, index: int) -> NodeProto:
        """Node `index` of the original model, to be edited in place; inserting does not shift the indices."""
        return cast(NodeProto, self.proto.graph.node[index])

    def fresh_name(self, base: str) -> str:
        """A name no tensor and no node of the model has, subgraphs included: `base`, else `base_1`, `base_2` …"""
        return self._names.fresh(base)

    def add_weight(self, base: str, weight: Weight) -> str:
        """Add an initializer under a fresh name, and return the name.

        Before IR version 4 every initializer had to be a graph input, which would change the interface: there
        the values become a Constant node at the beginning of the graph.
        """
        name = self.fresh_name(base)
        if self.proto.ir_version >= 4:
            self.weights[name] = weight
        else:
            tensor = numpy_helper.from_array(weight.array(), name)
            constant = onnx.helper.make_node(
                "Constant", [], [name], self.fresh_name(f"{name}_constant"), value=tensor
            )
            self._constants.append(constant)
        return name

    def insert_before(self, index: int, node: NodeProto) -> None:
        """Insert a node before original node `index`, behind those already inserted there.

        The number of original nodes as `index` means the end of the graph.
        """
        self._before.setdefault(index, []).append(node)
        self._note(node)

    def insert_after(self, index: int, node: NodeProto) -> None:
        """Insert a node after original node `index`, behind those already inserted there."""
        self._after.setdefault(index, []).append(node)
        self._note(node)

    def freeze(self, metadata: Mapping[str, str] = {}) -> Model:
        """The edited model. `metadata` is merged into `metadata_props`.

        Initializers that were used before and are no longer are dropped; those that never were stay.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        if self._constants or self._before or self._after:
            del proto.graph.node[:]
            proto.graph.node.extend(self._ordered_nodes())
        orphans = (set(_used_names(self._model.skeleton)) - set(_used_names(proto))) & set(
            self._model.weights
        )
        weights = {name: weight for name, weight in self.weights.items() if name not in orphans}
        _match_initializers(proto.graph, weights)
        _merge(proto, metadata)
        return Model(proto, weights, data_files=self._model.data_files)

    def _note(self, node: NodeProto) -> None:
        self._names.take((node.name, *node.output))

    def _ordered_nodes(self) -> Iterator[NodeProto]:
        yield from self._constants
        for index, node in enumerate(self.proto.graph.node):
            yield from self._before.get(index, ())
            yield node
            yield from self._after.get(index, ())
        yield from self._before.get(len(self.proto.graph.node), ())


def _used_names(model: onnx.ModelProto) -> Iterator[str]:
    """What is read of the main graph: by nodes, in subgraphs, as outputs, for quantization, in training."""
    graph = model.graph
    for node in graph.node:
        yield from node.input
        yield from captured(node)
    yield from (value.name for value in graph.output)
    for annotation in graph.quantization_annotation:
        yield from (entry.value for entry in annotation.quant_parameter_tensor_names)
    for training in model.training_info:
        for binding in (*training.initialization_binding, *training.update_binding):
            yield binding.key
        for node in (*training.algorithm.node, *training.initialization.node):
            yield from node.input


def _match_initializers(graph: onnx.GraphProto, weights: Mapping[str, Weight]) -> None:
    """Make initializers say what the weights are, and declarations of the same name where a weight changed."""
    old = {initializer.name: initializer for initializer in graph.initializer}
    changed = {name for name, weight in weights.items() if not _describes(old.get(name), weight)}
    removed = old.keys() - weights.keys()
    if changed or removed or list(old) != list(weights):
        headers = [_header(name, weight, old.get(name)) for name, weight in weights.items()]
        del graph.initializer[:]
        graph.initializer.extend(headers)
    if removed:
        _keep(graph.input, removed)
        _keep(graph.value_info, removed)
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.name in changed:
            _match_value(value, weights[value.name])


def _describes(header: TensorProto | None, weight: Weight) -> bool:
    return header is not None and header.data_type == weight.dtype and tuple(header.dims) == weight.shape


def _header(name: str, weight: Weight, old: TensorProto | None) -> TensorProto:
    header = TensorProto()
    if old is not None:
        header.CopyFrom(old)
    if not _describes(header, weight):
        header.name = name
        header.data_type = weight.dtype
        header.dims[:] = weight.shape
    return header


def _keep(declarations: Any, removed: Set[str]) -> None:
    kept = [value for value in declarations if value.name not in removed]
    del declarations[:]
    declarations.extend(kept)


def _match_value(value: ValueInfoProto, weight: Weight) -> None:
    """Correct a declared shape that the weight no longer has; a declaration without numbers is left alone."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return
    if tensor.elem_type != weight.dtype:
        tensor.elem_type = weight.dtype
    if not tensor.HasField("shape"):
        return
    if len(tensor.shape.dim) != len(weight.shape):
        tensor.ClearField("shape")
        for size in weight.shape:
            tensor.shape.dim.add(dim_value=size)
    for dim, size in zip(tensor.shape.dim, weight.shape, strict=True):
        if dim.HasField("dim_value") and dim.dim_value != size:
            dim.dim_value = size


def _merge(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    entries = {entry.key: entry for entry in model.metadata_props}
    for key, value in metadata.items():
        if key in entries:
            entries[key].value = value
        else:
            model.metadata_props.add(key=key, value=value)
