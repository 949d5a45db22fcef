"""One forward pass over the nodes of a graph at concrete input sizes: types, and values that follow from them.

Each node gets what is known about its inputs: the operator's own inference (onnx.defs) turns types and values into
types, and where all values are known the reference implementation (onnx.reference) turns them into values. Values
are never taken from onnx's data propagation, which knows fewer operators and ignores strides, types and overflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.defs import OpSchema, onnx_opset_version
from onnx.shape_inference import infer_node_outputs

from onnx_grow.errors import InvalidModelError
from onnx_grow.model.bodies import BRANCH, ENTRY, EXIT, FORMALS, JOIN, states
from onnx_grow.model.checks import captured
from onnx_grow.model.names import title
from onnx_grow.model.nodes import NUMBERS, is_default
from onnx_grow.shapes import types
from onnx_grow.shapes.checks import check_node
from onnx_grow.shapes.counting import iterations
from onnx_grow.shapes.evaluation import default_opset, evaluate
from onnx_grow.shapes.fits import fits
from onnx_grow.shapes.graph import Graph, Likeness, keeps
from onnx_grow.shapes.types import UNKNOWN, Array, Type

COMPUTED = 4096
"""Elements up to which a value is computed from known ones."""

Seen = Mapping[str, tuple[int, tuple[int, ...]]]
"""Dtype and shape of tensors, from somewhere else than inference."""


class Walk:
    """The state of the pass, and after it the result: `types` and `values` by name.

    `problems` says what speaks against the input sizes: nodes whose inference rejects their inputs, and sizes that
    do not fit each other. `misfit` is the first of those nodes.

    The body of a Loop or Scan is visited until the shapes of its states hold in every iteration: a size that the body changes is
    not known, nor is what follows from it (`varying`). No value of a state is known.
    """

    def __init__(self, graph: Graph, known: dict[str, Type], values: dict[str, Array], seen: Seen) -> None:
        self.graph = graph
        self.types = known
        self.values = values
        self.problems: list[str] = []
        self.misfit: int | None = None
        self.varying: set[str] = set()
        self._seen = seen
        self._tensors: dict[str, TensorProto] = {}
        self._entered: list[tuple[int, int]] = []  # of the bodies around: the entry, and the problems before
        self._branches: list[_Branch] = []  # of the Ifs to be joined
        self._iterations: list[int | None] = []  # of the Loops and Scans to be joined, where it is known
        self._states: dict[
            str, Type
        ] = {}  # of Loops and Scans, in every iteration, where they are not the initial types
        self._idle: set[str] = set()  # tensors of branches that are not taken

    @classmethod
    def over(
        cls, graph: Graph, sizes: Mapping[str, tuple[int, ...]], seen: Seen, until: int | None = None
    ) -> Walk:
        """A complete pass, or one up to node `until`. `seen` stands in for the inference of operators that have none."""
        fed = {name: Type(graph.inputs[name].dtype, tuple(shape)) for name, shape in sizes.items()}
        walk = cls(graph, {**graph.inputs, **fed, **graph.stored}, dict(graph.values), seen)
        at = 0
        while at < (len(graph.nodes) if until is None else until):
            at = walk._step(at)
        return walk

    @cached_property
    def missing(self) -> list[str]:
        """Tensors that still have no concrete shape after the pass."""
        hidden = self.graph.opaque | self._idle
        found = ((name, self.types.get(name, UNKNOWN)) for name in self.graph.names if name not in hidden)
        return [name for name, known in found if not known.other and known.shape is None]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The concrete shapes of the tensors."""
        found = ((name, self.types[name].shape) for name in self.graph.names if name in self.types)
        return {name: shape for name, shape in found if shape is not None}

    def dtypes(self) -> dict[str, int]:
        """The element types of the tensors, also of those without a shape."""
        found = ((name, self.types[name].dtype) for name in self.graph.names if name in self.types)
        return {name: dtype for name, dtype in found if dtype}

    def _step(self, at: int) -> int:
        """Visit a node; the index of the next one."""
        node = self.graph.nodes[at]
        if node.domain == ENTRY:
            self._entered.append((at, len(self.problems)))
            self._enter(node)
        elif node.domain == EXIT:
            after = self._exit(node, at)
            self.misfit = self.misfit if self.problems else None
            return after
        elif node.domain == JOIN:
            self._join_branches(node) if node.op_type == "If" else self._join_iterations(node)
        else:
            self._visit(node)
            if self.problems and self.misfit is None:
                self.misfit = at
            if not self.varying.isdisjoint(node.input):
                self.varying.update(name for name in node.output if name and self.shape(name) is None)
        return at + 1

    def _visit(self, node: onnx.NodeProto) -> None:
        """Find out about the outputs of a node; of one that is like another, what is known of that one's."""
        likeness = self._likeness(node)
        known = self.graph.outcomes.get(likeness) if likeness else None
        if known is not None:
            for name, (known_type, value) in zip(node.output, known, strict=True):
                if known_type is not None:
                    self.types[name] = known_type
                if value is not None:
                    self.values[name] = value
            return
        problems = len(self.problems)
        self._look_into(node)
        if likeness and len(self.problems) == problems:
            self.graph.outcomes[likeness] = [
                (self.types.get(name), self.values.get(name)) if name else (None, None)
                for name in node.output
            ]

    def _likeness(self, node: onnx.NodeProto) -> Likeness | None:
        """All that decides what a node's outputs are, as far as inference asks; None where names or much else do as well."""
        if self._seen and any(name in self._seen for name in node.output):
            return None
        attributes = []
        for attribute in node.attribute:
            if attribute.type not in _PLAIN and (
                attribute.type != AttributeProto.TENSOR or attribute.ByteSize() > COMPUTED
            ):
                return None
            attributes.append(attribute.SerializeToString())
        inputs = []
        for name in node.input:
            value = self.values.get(name)
            if value is not None and value.size > COMPUTED:
                return None
            inputs.append(
                (self.types.get(name), None if value is None else value.tobytes()) if name else None
            )
        outputs = tuple(map(bool, node.output))
        return node.op_type, node.domain, tuple(attributes), tuple(inputs), outputs

    def _look_into(self, node: onnx.NodeProto) -> None:
        schema = _schema(node, self.graph.opset_imports)
        # Of an operator that the file's operator set lacks, we still rely on what it has in others.
        formal = schema or (
            _find_schema(node.op_type, onnx_opset_version(), "") if is_default(node) else None
        )
        if formal is not None:
            check_node(formal, node, self.shape, self.values.get)
        operator = node.op_type if is_default(node) else ""
        if operator == "Constant" and self._constant(node):
            return
        self._infer(node, schema)
        if operator in ("Shape", "Size"):
            self._measure(node)
        elif operator:
            self._evaluate(node)

    def _constant(self, node: onnx.NodeProto) -> bool:
        """Record a constant; False for the kinds that have no use as a value (strings, sparse tensors)."""
        attribute = next(iter(node.attribute), onnx.AttributeProto())
        name = node.output[0]
        if attribute.name == "value":
            self._store(name, attribute.t)
        elif attribute.name in NUMBERS:
            self._know(name, np.array(helper.get_attribute_value(attribute), NUMBERS[attribute.name]))
        return name in self.types

    def _store(self, name: str, tensor: TensorProto) -> None:
        self.types[name] = Type(tensor.data_type, tuple(tensor.dims))
        if keeps(tensor.data_type, tensor.dims):
            self._know(name, numpy_helper.to_array(tensor))

    def _know(self, name: str, value: Array) -> None:
        self.types[name] = types.of_array(value)
        value.flags.writeable = False
        self.values[name] = value

    def _infer(self, node: onnx.NodeProto, schema: OpSchema | None) -> None:
        """Types of the outputs by the operator's own inference, or else by what is known about it otherwise."""
        inferred = schema is not None and schema.has_type_and_shape_inference_function
        if node.op_type in _READS_DIMENSIONS and any(self._is_too_long(name) for name in node.input[1:]):
            self.problems.append(f"{title(node)}: more dimensions than any tensor has")
            return
        if schema is not None and inferred:
            try:
                self.types.update(self._inferred(schema, node))
            except KeyError:  # the type of an input is not known
                return
            except Exception as reason:  # whatever C++ throws, and all of it means: rejected
                self.problems.append(f"{title(node)}: {str(reason).removeprefix('[ShapeInferenceError] ')}")
                inferred = False
        for name in node.output:
            if name and self.shape(name) is None and (known := self._known_otherwise(node, name, inferred)):
                self.types[name] = known
        if is_default(node) and not fits(node, self.shape, self.values.get):
            shapes = ", ".join(str(list(self.shape(name) or ())) for name in node.input)
            self.problems.append(f"{title(node)}: shapes {shapes} do not fit")
            for name in node.output:
                self.types.pop(name, None)

    def _is_too_long(self, name: str) -> bool:
        shape = self.shape(name)
        return shape is not None and len(shape) == 1 and shape[0] > COMPUTED

    def _inferred(self, schema: OpSchema, node: onnx.NodeProto) -> dict[str, Type]:
        used = {name: types.written(self.types[name]) for name in node.input if name}
        used.update((name, types.written(self.types[name])) for name in captured(node) if name in self.types)
        found = infer_node_outputs(
            schema,
            _explicit(node),
            used,
            {name: self._tensor(name) for name in node.input if self._is_telling(name)},
            opset_imports=self.graph.opset_imports,
            ir_version=self.graph.ir_version,
        )
        return {
            name: types.read(known) for name, known in found.items() if name and known.WhichOneof("value")
        }

    def _known_otherwise(self, node: onnx.NodeProto, name: str, inferred: bool) -> Type | None:
        """Type of an output that inference left out: of an operator that keeps shapes, or seen in ONNX Runtime.

        A shape that was seen may depend on data, and so may all that follows from it, unless the operator had no
        inference to find it.
        """
        first = self.types.get(node.input[0]) if is_default(node) and node.input else None
        if first is not None and node.op_type in _LIKE_INPUT:
            return first
        if first is not None and node.op_type == "Crop":
            return _cropped(node, first)
        if (
            not inferred
            and name in self._seen
            and all(self.shape(used) is not None for used in node.input if used)
        ):
            return Type(*self._seen[name])
        return None

    def _is_telling(self, name: str) -> bool:
        """Whether inference is told the value: shapes and axes are short, and everything is copied."""
        return name in self.values and self.values[name].size <= COMPUTED

    def _tensor(self, name: str) -> TensorProto:
        if name not in self._tensors:
            self._tensors[name] = numpy_helper.from_array(self.values[name], name)
        return self._tensors[name]

    def _measure(self, node: onnx.NodeProto) -> None:
        """Value of a Shape or Size node, whose input needs a shape but no value."""
        shape = self.shape(node.input[0])
        if shape is None:
            return
        if node.op_type == "Shape":
            ends = {attribute.name: attribute.i for attribute in node.attribute}
            measured = np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)
            self._know(node.output[0], measured)
        elif (elements := prod(shape)) <= np.iinfo(np.int64).max:
            self._know(node.output[0], np.array(elements, np.int64))

    def _evaluate(self, node: onnx.NodeProto) -> None:
        """Values of the outputs where they follow from known values."""
        if any(name and name not in self.values for name in node.input):
            return
        if not all(self._is_small(name, node.op_type) for name in node.output if name):
            return
        inputs = [self.values[name] if name else None for name in node.input]
        try:
            outputs = evaluate(node, self.graph.opset_imports, inputs)
        except InvalidModelError:
            return
        for name, output in zip(node.output, outputs, strict=False):
            if name and self._is_expected(name, output):
                self._know(name, output)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The concrete shape of a tensor; None where it is not known."""
        known = self.types.get(name)
        return None if known is None else known.shape

    def _is_small(self, name: str, op_type: str) -> bool:
        shape = self.shape(name)
        return op_type in _SIZED_BY_VALUES if shape is None else prod(shape) <= COMPUTED

    def _is_expected(self, name: str, output: Array) -> bool:
        """Whether an evaluated array is of the type that the operator promises."""
        if output.dtype.kind in "OUSc":
            return False
        return self.types.get(name, UNKNOWN).dtype in (0, types.of_array(output).dtype)

    def _enter(self, entry: onnx.NodeProto) -> None:
        """Types of a body's inputs: of the initial states, of one slice of what is scanned."""
        if entry.op_type == "Loop":
            for name, dtype in zip(entry.output[:2], (TensorProto.INT64, TensorProto.BOOL), strict=True):
                declared = self.graph.formals.get(name, UNKNOWN).dims or ()
                self.types[name] = Type(dtype, (1,) * len(declared))
            condition = self.shape(entry.output[1]) or ()
            self._know(entry.output[1], np.ones(condition, bool))  # else the body would not run
        for k, _ in states(entry, len(entry.output)):
            name = entry.output[k]
            initial = self._states.get(name) or self.types.get(entry.input[k])
            if name and initial:
                self.types[name] = initial
            if name in self._states and self.shape(name) is None:
                self.varying.add(name)
        if entry.op_type == "Scan":
            first = len(states(entry, len(entry.output)))
            axes = _attribute(entry, "scan_input_axes", None) or [0] * len(entry.input)
            for name, scanned, position in zip(entry.output[first:], entry.input[first:], axes, strict=False):
                if scanned in self.types:
                    self.types[name] = self.types[scanned].without_dim(position)

    def _exit(self, marker: onnx.NodeProto, at: int) -> int:
        """The end of a body: back to its entry where a state does not keep its shape."""
        start, problems = self._entered.pop()
        entry = self.graph.nodes[start]
        if entry.op_type == "If":
            self._branches.append(_Branch(range(start, at + 1), self.problems[problems:]))
            del self.problems[problems:]
        elif self._generalise(entry, marker):
            del self.problems[problems:]
            for node in self.graph.nodes[start:at]:
                for name in node.output:
                    self.types.pop(name, None)
                    self.values.pop(name, None)
            return start
        else:
            self._iterations.append(self._count(entry, marker, self.graph.nodes[start + 1 : at]))
        for name, result in zip(marker.input, marker.output, strict=True):
            if name in self.types:
                self.types[result] = self.types[name]
            if name in self.varying:
                self.varying.add(result)
        return at + 1

    def _count(
        self, entry: onnx.NodeProto, marker: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]
    ) -> int | None:
        """How often a body runs, where nothing but its inputs' shapes and known values decides that."""
        if entry.op_type == "Scan":
            first = len(states(entry, len(entry.output)))
            axes = _attribute(entry, "scan_input_axes", None) or [0]
            return self.types.get(entry.input[first], UNKNOWN).size(axes[0])
        most = self.values.get(entry.input[0])
        conditions = [self.values.get(name) for name in (entry.input[1], marker.input[0]) if name]
        if any(value is not None and value.size != 1 for value in (most, *conditions)):
            return None
        if most is not None and all(condition is not None and condition.all() for condition in conditions):
            return max(0, int(most.item())) if most.dtype.kind == "i" else None
        return iterations(entry, marker, nodes, self.values, self.graph.opset_imports)

    def _generalise(self, entry: onnx.NodeProto, marker: onnx.NodeProto) -> bool:
        """Note which states end an iteration with another type than they begin it with; whether there are any."""
        found = {
            entry.output[k]: self.types[entry.output[k]].agreed(self.types.get(marker.input[o], UNKNOWN))
            for k, o in states(entry, len(entry.output))
            if entry.output[k] in self.types
        }
        changed = {name: known for name, known in found.items() if known != self.types[name]}
        self._states.update(changed)
        return bool(changed)

    def _join_iterations(self, join: onnx.NodeProto) -> None:
        """Types behind a Loop or Scan: those of its states, and those of its results with a dimension more."""
        count = self._iterations.pop()
        formals = _attribute(join, FORMALS, 0)
        carried = states(join, formals)
        for name, (k, _) in zip(join.output, carried, strict=False):
            if name and join.input[k] in self.types:
                self.types[name] = self.types[join.input[k]]
        results = join.input[formals + len(carried) + int(join.op_type == "Loop") :]
        axes = _attribute(join, "scan_output_axes", None) or [0] * len(results)
        for name, result, position in zip(join.output[len(carried) :], results, axes, strict=False):
            if name and result in self.types:
                self.types[name] = self.types[result].with_dim(position, count)

    def _join_branches(self, join: onnx.NodeProto) -> None:
        """Outputs of the branch that is taken; of both if that depends on the data and both fit the sizes."""
        condition = self.values.get(join.input[0])
        found, self._branches = self._branches[-2:], self._branches[:-2]
        branches = {_attribute(self.graph.nodes[branch.nodes[0]], BRANCH, b""): branch for branch in found}
        taken = list(branches.values())
        if condition is not None and condition.size == 1:
            taken = [branches[_TAKEN[bool(condition.item())]]]
        fewest = min((branch.problems for branch in taken), key=len)
        self.problems += fewest
        taken = [branch for branch in taken if len(branch.problems) == len(fewest)]
        for branch in branches.values():
            if branch not in taken:
                self._idle.update(name for i in branch.nodes for name in self.graph.nodes[i].output)
        exits = [self.graph.nodes[branch.nodes[-1]] for branch in taken]
        for position, name in enumerate(join.output):
            results = [exit.input[position] for exit in exits]
            known = [self.types[result] for result in results if result in self.types]
            if name and len(known) == len(exits):
                self.types[name] = known[0].common(known[-1])
            if name and condition is not None and results[0] in self.values:
                self._know(name, self.values[results[0]])


@dataclass(frozen=True, eq=False)
class _Branch:
    """A branch of an If: its nodes from entry to exit, and what speaks against them."""

    nodes: range
    problems: list[str]


_TAKEN = {True: b"then_branch", False: b"else_branch"}
_PLAIN = frozenset(
    {
        AttributeProto.FLOAT,
        AttributeProto.FLOATS,
        AttributeProto.INT,
        AttributeProto.INTS,
        AttributeProto.STRING,
        AttributeProto.STRINGS,
    }
)
"""Types of attributes that are compared as they are, as small tensors are; others may hold graphs, or very much."""
_SIZED_BY_VALUES = frozenset({"Compress", "NonZero", "Unique"})
# Every element of their later inputs is a dimension, for which onnx makes room without asking how many there are.
_READS_DIMENSIONS = frozenset({"Expand", "Slice", "Squeeze"})
# Outputs without inference that are of the type of the first input: of operators that onnx defines by functions, the
# mask of Dropout before opset 10, and what ONNX Runtime added to the default domain before there were others.
_LIKE_INPUT = frozenset(
    {
        "Affine",
        "Dropout",
        "GroupNormalization",
        "ImageScaler",
        "MeanVarianceNormalization",
        "ParametricSoftplus",
        "ScaledTanh",
        "SimplifiedLayerNormalization",
    }
)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _explicit(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node itself, but for STFT: its inference takes another default for `onesided` than its definition."""
    if node.op_type != "STFT" or any(attribute.name == "onesided" for attribute in node.attribute):
        return node
    explicit = onnx.NodeProto()
    explicit.CopyFrom(node)
    explicit.attribute.append(helper.make_attribute("onesided", 1))
    return explicit


def _cropped(node: onnx.NodeProto, image: Type) -> Type | None:
    """Type of ONNX Runtime's Crop of an NCHW image: by the borders left, top, right, bottom, or to a given scale."""
    shape = image.shape
    given = {attribute.name: tuple(attribute.ints) for attribute in node.attribute}
    border, scale = given.get("border", ()), given.get("scale", ())
    if shape is None or len(shape) != 4 or len(border) != 4:
        return None
    left, top, right, bottom = border
    height, width = scale if len(scale) == 2 else (shape[2] - top - bottom, shape[3] - left - right)
    return Type(image.dtype, (*shape[:2], height, width))


def _schema(node: onnx.NodeProto, opset_imports: Iterable[onnx.OperatorSetIdProto]) -> OpSchema | None:
    """The operator's schema, if onnx knows it."""
    if is_default(node):
        return _find_schema(node.op_type, default_opset(opset_imports), "")
    version = next((entry.version for entry in opset_imports if entry.domain == node.domain), 0)
    return _find_schema(node.op_type, version, node.domain)


@cache
def _find_schema(op_type: str, version: int, domain: str) -> OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
