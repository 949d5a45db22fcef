"""Concrete shapes, dtypes and known values of all tensors, in one forward pass over the nodes."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from types import MappingProxyType

import numpy as np
import onnx
from onnx import inliner, numpy_helper
from onnx.shape_inference import InferenceError, infer_node_outputs

from onnx_grow.errors import InvalidModelError
from onnx_grow.model import Model
from onnx_grow.shapes.evaluation import RANDOM, default_opset, evaluate
from onnx_grow.shapes.observation import observe
from onnx_grow.shapes.sizes import candidates, dynamic_dims

STORED_VALUES = 64 * 1024  # elements of integer and bool initializers that are kept as values
STORED_FLOATS = 64
COMPUTED_VALUES = 4096

_TRIALS = 3  # candidates that ONNX Runtime is asked to run before the missing shapes are given up


@dataclass(frozen=True)
class Shapes:
    """What is known about the tensors of a model's main graph at one choice of input sizes.

    `shape`: concrete shape of every tensor (inputs, initializers, intermediates).
    `dtype`: its TensorProto.DataType.
    `value`: tensors whose value does not depend on the data: integer and bool initializers and constants (up
    to 64 Ki elements), tiny floating-point ones (up to 64), and what is computed from those and from shapes (up
    to 4096).
    `inputs`: the input shapes used. `dynamic`: per input, the positions of the dims the file leaves open.
    `unknown`: tensors without a shape: sequences, optionals, and what neither inference nor a run revealed.
    """

    shape: Mapping[str, tuple[int, ...]]
    dtype: Mapping[str, int]
    value: Mapping[str, np.ndarray]
    inputs: Mapping[str, tuple[int, ...]]
    dynamic: Mapping[str, frozenset[int]]
    unknown: tuple[str, ...]


def infer(model: Model, inputs: Mapping[str, Sequence[int]] | None = None) -> Shapes:
    """Shapes at the first candidate input sizes for which everything fits; `inputs` fixes some of them.

    Inference alone serves nearly every model. Only where it leaves a tensor without a shape (operators
    without a schema, shapes that depend on data) the model runs once in ONNX Runtime on the CPU.
    Raises InvalidRequestError for `inputs` that do not fit the file or an input of unknown rank.
    """
    graph = _Graph.of(model)
    best: _Pass | None = None
    runs = 0
    for sizes in candidates(model, inputs):
        attempt = _Pass.over(graph, sizes)
        if best is None or attempt.problems < best.problems:
            best = attempt
        if attempt.problems:
            continue
        if not attempt.missing():
            return attempt.shapes(model)
        if (seen := observe(model, sizes, attempt.missing())) is not None:
            return _Pass.over(graph, sizes, seen).shapes(model)
        runs += 1
        if runs == _TRIALS:
            break
    assert best is not None
    if not runs and best.missing() and (seen := observe(model, best.inputs, best.missing())) is not None:
        best = _Pass.over(graph, best.inputs, seen)
    return best.shapes(model)


@dataclass(frozen=True)
class _Graph:
    """What does not depend on the input sizes, prepared once."""

    nodes: Sequence[onnx.NodeProto]
    names: tuple[str, ...]
    inputs: Mapping[str, onnx.TypeProto]
    types: Mapping[str, onnx.TypeProto]
    values: Mapping[str, np.ndarray]
    opset_imports: Sequence[onnx.OperatorSetIdProto]
    ir_version: int

    @classmethod
    def of(cls, model: Model) -> _Graph:
        graph = model.skeleton.graph
        types = {name: _tensor_type(weight.dtype, weight.shape) for name, weight in model.weights.items()}
        types |= {
            sparse.values.name: _tensor_type(sparse.values.data_type, sparse.dims)
            for sparse in graph.sparse_initializer
        }
        inputs = {value.name: value.type for value in graph.input}
        outputs = (name for node in graph.node for name in node.output if name)
        flat = _flat(model.skeleton)
        return cls(
            nodes=flat.graph.node,
            names=tuple(dict.fromkeys([*inputs, *types, *outputs])),
            inputs=inputs,
            types=types,
            values={
                name: weight.array()
                for name, weight in model.weights.items()
                if _keeps(weight.dtype, weight.shape)
            },
            opset_imports=flat.opset_import,
            ir_version=flat.ir_version,
        )


class _Pass:
    """One walk over the nodes at one choice of input sizes."""

    def __init__(self, graph: _Graph, inputs: Mapping[str, tuple[int, ...]]) -> None:
        self.graph = graph
        self.inputs = inputs
        self.types: MutableMapping[str, onnx.TypeProto] = {}
        self.values: MutableMapping[str, np.ndarray] = {}
        self.stored: MutableMapping[str, onnx.TensorProto] = {}
        self.seen: Mapping[str, tuple[int, tuple[int, ...]]] = {}
        self.problems = 0

    @classmethod
    def over(
        cls,
        graph: _Graph,
        inputs: Mapping[str, tuple[int, ...]],
        seen: Mapping[str, tuple[int, tuple[int, ...]]] = MappingProxyType({}),
    ) -> _Pass:
        """A complete walk; `seen` gives dtype and shape of tensors that an earlier run has shown."""
        walk = cls(graph, inputs)
        walk.seen = seen
        walk.types.update(graph.inputs)
        walk.types.update(
            {
                name: _tensor_type(graph.inputs[name].tensor_type.elem_type, shape)
                for name, shape in inputs.items()
            }
        )
        walk.types.update(graph.types)
        walk.values.update(graph.values)
        for node in graph.nodes:
            walk._visit(node)
        return walk

    def missing(self) -> list[str]:
        """Tensors of the main graph that still have no concrete shape."""
        return [
            name
            for name in self.graph.names
            if name not in self.types or (_is_tensor(self.types[name]) and _shape(self.types[name]) is None)
        ]

    def shapes(self, model: Model) -> Shapes:
        """What this walk and the run before it found about the main graph."""
        shape: dict[str, tuple[int, ...]] = {}
        dtype: dict[str, int] = {}
        for name in self.graph.names:
            known = self.types.get(name)
            found = _shape(known) if known is not None else None
            if known is not None and _is_tensor(known) and known.tensor_type.elem_type:
                dtype[name] = known.tensor_type.elem_type
            if found is None and name in self.seen:
                dtype[name], found = self.seen[name]
            if found is not None:
                shape[name] = found
        return Shapes(
            shape=MappingProxyType(shape),
            dtype=MappingProxyType(dtype),
            value=MappingProxyType(
                {name: self.values[name] for name in self.graph.names if name in self.values}
            ),
            inputs=MappingProxyType(dict(self.inputs)),
            dynamic=MappingProxyType(dynamic_dims(model)),
            unknown=tuple(name for name in self.graph.names if name not in shape),
        )

    def _visit(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Constant" and _default(node):
            self._constant(node)
        elif node.op_type == "If" and (branch := self._taken(node)) is not None:
            self._enter(node, branch)
        elif node.op_type in ("Shape", "Size") and _default(node):
            self._infer(node)
            self._measure(node)
        else:
            self._infer(node)
            self._evaluate(node)

    def _infer(self, node: onnx.NodeProto) -> None:
        """Types of the outputs by the operator's own inference, from types and values of the inputs."""
        schema = _schema(node, self.graph.opset_imports)
        if schema is None or not schema.has_type_and_shape_inference_function:
            for name in node.output:
                if name in self.seen:
                    self.types[name] = _tensor_type(*self.seen[name])
            if schema is None:
                return
        used = [*filter(None, node.input), *_captured(node)]
        try:
            found = infer_node_outputs(
                schema,
                node,
                {name: self.types[name] for name in used if name in self.types},
                {name: self._as_tensor(name) for name in node.input if name in self.values},
                opset_imports=list(self.graph.opset_imports),
                ir_version=self.graph.ir_version,
            )
        except KeyError:  # the type of an input is not known
            return
        except (InferenceError, RuntimeError):
            self.problems += 1
            return
        for name, inferred in found.items():
            if name and inferred.WhichOneof("value") and name not in self.types:
                self.types[name] = inferred
                if any(dim.dim_value <= 0 for dim in _dims(inferred) if dim.HasField("dim_value")):
                    self.problems += 1

    def _measure(self, node: onnx.NodeProto) -> None:
        """Value of a Shape or Size node, whose input needs a shape but no value."""
        known = self.types.get(node.input[0])
        shape = _shape(known) if known is not None else None
        if shape is None:
            return
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        sizes = shape[ends.get("start", 0) : ends.get("end", len(shape))]
        self._know(
            node.output[0], np.array(sizes if node.op_type == "Shape" else prod(shape), dtype=np.int64)
        )

    def _evaluate(self, node: onnx.NodeProto) -> None:
        """Values of the outputs where they follow from known values."""
        names = [name for name in node.output if name]
        if not _default(node) or any(name and name not in self.values for name in node.input):
            return
        if node.op_type in RANDOM or not all(self._is_small(name, node.op_type) for name in names):
            return
        try:
            outputs = evaluate(
                node, self.graph.opset_imports, [self.values[name] if name else None for name in node.input]
            )
        except InvalidModelError:
            return
        for name, output in zip(node.output, outputs, strict=False):
            if name:
                self._know(name, output)

    def _is_small(self, name: str, op_type: str) -> bool:
        shape = _shape(self.types[name]) if name in self.types else None
        return op_type in _SIZED_BY_VALUES if shape is None else prod(shape) <= COMPUTED_VALUES

    def _know(self, name: str, value: np.ndarray) -> None:
        dtype = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        self.types[name] = _tensor_type(dtype, value.shape)
        value.flags.writeable = False
        self.values[name] = value

    def _constant(self, node: onnx.NodeProto) -> None:
        name, attribute = node.output[0], node.attribute[0]
        if attribute.name == "value":
            dtype, shape = attribute.t.data_type, tuple(attribute.t.dims)
            self.types[name] = _tensor_type(dtype, shape)
            if _keeps(dtype, shape):
                self._know(name, numpy_helper.to_array(attribute.t))
        elif attribute.name == "sparse_value":
            self.types[name] = _tensor_type(
                attribute.sparse_tensor.values.data_type, attribute.sparse_tensor.dims
            )
        elif attribute.name in _SCALARS:
            self._know(
                name, np.array(onnx.helper.get_attribute_value(attribute), dtype=_SCALARS[attribute.name])
            )
        else:
            self._infer(node)

    def _as_tensor(self, name: str) -> onnx.TensorProto:
        if name not in self.stored:
            self.stored[name] = numpy_helper.from_array(self.values[name], name)
        return self.stored[name]

    def _taken(self, node: onnx.NodeProto) -> onnx.GraphProto | None:
        """The branch of an If whose condition does not depend on the data."""
        condition = self.values.get(node.input[0])
        if condition is None or condition.size != 1:
            return None
        wanted = "then_branch" if condition.item() else "else_branch"
        return next((attribute.g for attribute in node.attribute if attribute.name == wanted), None)

    def _enter(self, node: onnx.NodeProto, branch: onnx.GraphProto) -> None:
        inner = _Pass(self.graph, self.inputs)
        inner.types = ChainMap({}, self.types)
        inner.values = ChainMap({}, self.values)
        for tensor in branch.initializer:
            inner.types[tensor.name] = _tensor_type(tensor.data_type, tensor.dims)
            if _keeps(tensor.data_type, tensor.dims):
                inner._know(tensor.name, numpy_helper.to_array(tensor))
        for step in branch.node:
            inner._visit(step)
        self.problems += inner.problems
        for outer, value in zip(node.output, branch.output, strict=False):
            if value.name in inner.types:
                self.types[outer] = inner.types[value.name]
            if value.name in inner.values:
                self.values[outer] = inner.values[value.name]


_SIZED_BY_VALUES = frozenset({"NonZero", "Unique", "Compress"})
_SCALARS = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}
_INTEGERS = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
)
_FLOATS = frozenset(getattr(onnx.TensorProto, name) for name in ("FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE"))


def _keeps(dtype: int, shape: Sequence[int]) -> bool:
    """Whether a stored tensor is small enough to keep its value."""
    return (dtype in _INTEGERS and prod(shape) <= STORED_VALUES) or (
        dtype in _FLOATS and prod(shape) <= STORED_FLOATS
    )


def _tensor_type(dtype: int, shape: Iterable[int]) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(dtype, tuple(shape))


def _is_tensor(known: onnx.TypeProto) -> bool:
    return known.WhichOneof("value") in (None, "tensor_type", "sparse_tensor_type")


def _dims(known: onnx.TypeProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    return known.tensor_type.shape.dim if known.HasField("tensor_type") else ()


def _shape(known: onnx.TypeProto) -> tuple[int, ...] | None:
    """The shape if it is concrete."""
    if not known.HasField("tensor_type") or not known.tensor_type.HasField("shape"):
        return None
    dims = known.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
        return None
    return tuple(dim.dim_value for dim in dims)


def _default(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")


def _schema(
    node: onnx.NodeProto, opset_imports: Iterable[onnx.OperatorSetIdProto]
) -> onnx.defs.OpSchema | None:
    if _default(node):
        return _find_schema(node.op_type, default_opset(opset_imports), "")
    version = next((entry.version for entry in opset_imports if entry.domain == node.domain), 0)
    return _find_schema(node.op_type, version, node.domain)


@cache
def _find_schema(op_type: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def _captured(node: onnx.NodeProto) -> set[str]:
    """Names used inside the subgraphs of a node, and those nested in them."""
    names: set[str] = set()
    pending = [node]
    while pending:
        for attribute in pending.pop().attribute:
            for graph in [attribute.g] if attribute.type == attribute.GRAPH else attribute.graphs:
                names.update(value.name for value in graph.output)
                for step in graph.node:
                    names.update(step.input)
                    pending.append(step)
    return names - {""}


def _flat(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions replaced by their bodies."""
    return inliner.inline_local_functions(skeleton) if skeleton.functions else skeleton
