"""Channel inference: one walk over the graph, in which every node's rule states its equations.

Nothing here knows an operator. A node without a rule, or one whose rule gives up, freezes every dimension it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto

from onnx_grow.axes.algebra import Axis, Dim, axis, leaves, resolve
from onnx_grow.axes.equations import Contraction, Node, Rule, Statements, Tensors, Unsupported
from onnx_grow.model.bodies import ENTRY, JOIN, MARKERS

if TYPE_CHECKING:
    from onnx_grow.model import Model, Topology
    from onnx_grow.shapes import Shapes

Dims = tuple[Dim, ...]
Rules = Mapping[tuple[str, str], Rule]  # (domain, operator) -> rule


@dataclass(frozen=True, eq=False)
class Analysis:
    """What inference knows of a model.

    `dims` holds the dimensions of every tensor that is computed or fed; `uses` those of every constant (initializer or
    Constant node's output), use by use: one weight may play different roles. `said` is what the rules stated, `labels` names
    the nodes for people, `rules` is the rule of each node (None where it has none that describes it). `refused` are the nodes that no rule
    describes, each with the reason.
    """

    model: Model
    topology: Topology
    shapes: Shapes
    dims: Mapping[str, Dims]
    uses: Mapping[tuple[int, int], Dims]
    constants: frozenset[str]
    folded: frozenset[str]
    said: Statements
    labels: tuple[str, ...]
    rules: tuple[Rule | None, ...]
    refused: tuple[str, ...]

    @cached_property
    def concerned(self) -> Mapping[Axis, Sequence[int]]:
        """The nodes that each axis concerns, in order: it is among the dimensions of an input or output, or their rules spoke of it."""
        found: dict[Axis, list[int]] = {}
        for index, proto in enumerate(self.topology.nodes):
            inputs = (self.input_dims(index, i) or () for i in range(len(proto.input)))
            outputs = (self.dims.get(name, ()) for name in proto.output)
            summed = (contraction.over for contraction in self.contractions.get(index, ()))
            dims = chain(*inputs, *outputs, summed, self.statistics.get(index, ()))
            for leaf in dict.fromkeys(leaf for dim in dims for leaf in leaves(dim)):
                found.setdefault(leaf, []).append(index)
        return found

    @cached_property
    def contractions(self) -> Mapping[int, Sequence[Contraction]]:
        """What the rules stated of sums, by node."""
        found: dict[int, list[Contraction]] = {}
        for contraction in self.said.contractions:
            found.setdefault(contraction.node, []).append(contraction)
        return found

    @cached_property
    def statistics(self) -> Mapping[int, Sequence[Dim]]:
        """The dimensions that statistics are taken over, by node."""
        found: dict[int, list[Dim]] = {}
        for index, dim in self.said.statistics:
            found.setdefault(index, []).append(dim)
        return found

    def input_dims(self, node: int, i: int) -> Dims | None:
        """The dimensions of input `i` of a node, whether constant or computed; None when it is absent or unknown."""
        name = self.topology.proto(node).input[i]
        return self.uses.get((node, i)) or self.dims.get(name)


def infer(model: Model, shapes: Shapes, rules: Rules) -> Analysis:
    """Walk the graph of `model` once, in its own order, and state the equations of every node by `rules`."""
    walk = _Walk(model, shapes, rules)
    walk.inputs()
    for index in range(len(walk.topology.nodes)):
        walk.node(index)
    walk.borders()
    return walk.analysis()


class _Walk:
    def __init__(self, model: Model, shapes: Shapes, rules: Rules) -> None:
        self.model, self.shapes, self.rules = model, shapes, rules
        self.topology = model.topology()
        self.said = Statements()
        self.dims: dict[str, Dims] = {}
        self.uses: dict[tuple[int, int], Dims] = {}
        self.shared: dict[str, Dims] = {}
        self.constants = set(model.weights)
        self.folded: set[str] = set()
        self.origins: dict[str, int | None] = dict.fromkeys(model.weights)
        self.labels: list[str] = []
        self.found: list[Rule | None] = []
        self.refused: list[str] = []
        self.tensors = Tensors(shapes.shape, shapes.value, shapes.jumps, self.origins, self.topology.is_read)
        self.opsets = {
            "" if opset.domain == "ai.onnx" else opset.domain: opset.version
            for opset in model.skeleton.opset_import
        }

    def inputs(self) -> None:
        for name in self.topology.inputs:
            if name in self.shapes.shape:  # lists and optional values have none
                self.dims[name] = self._frozen(name, f"it is a dimension of the model's input '{name}'")

    def node(self, index: int) -> None:
        proto = self.topology.proto(index)
        label = _label(proto)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        rule = self.rules.get((domain, proto.op_type))
        self.labels.append(label)
        self.found.append(rule)
        if proto.op_type == "Constant" and not domain:
            self.constants.add(proto.output[0])
            self.origins[proto.output[0]] = None
            return
        names = list(proto.input), list(proto.output)
        dims = [self._use(name) for name in names[0]]
        version = self.opsets.get(domain, 1)
        attributes = _attributes(proto)
        view = Node(index, proto.op_type, label, version, attributes, names, dims, self.tensors, self.said)
        try:
            if rule is None:
                operator = f"{domain}.{proto.op_type}" if domain else proto.op_type
                raise Unsupported(f"operator {operator} has no rule")
            unknown = [name for name, known in zip(names[0], dims, strict=True) if known is None and name]
            if unknown and (proto.domain, proto.op_type) != (JOIN, "If"):  # one branch may never be taken
                raise Unsupported(f"the shape of its input '{unknown[0]}' is not known")
            _state(rule, view)
            self._replicate(view)
            unknown = [
                name
                for name, shape in zip(names[1], view.out_shapes, strict=True)
                if shape is None and self.topology.is_read(name)
            ]
            if unknown:
                known = "the same in all iterations" if proto.domain == ENTRY else "known"
                raise Unsupported(f"the shape of '{unknown[0]}' is not {known}")
        except Unsupported as reason:
            self.found[index] = None
            self._opaque(proto, view, f"{label}: {reason}")
        self._keep(proto, view)

    def borders(self) -> None:
        """Freeze what leaves the graph: its outputs, and what the bodies of control flow read."""
        for name in self.topology.outputs:
            for dim in self.dims.get(name, ()):
                self.said.algebra.freeze(dim, f"it is a dimension of the model's output '{name}'")
        for name, index in self.topology.captured.items():
            for dim in self.dims.get(name, ()):
                self.said.algebra.freeze(dim, f"{self.labels[index]}: its body uses '{name}'")

    def analysis(self) -> Analysis:
        return Analysis(
            self.model,
            self.topology,
            self.shapes,
            self.dims,
            self.uses,
            frozenset(self.constants),
            frozenset(self.folded),
            self.said,
            tuple(self.labels),
            tuple(self.found),
            tuple(self.refused),
        )

    def _use(self, name: str) -> Dims | None:
        """The dimensions of an input; a constant gets fresh ones for each use, unless it is clearly shared on purpose.

        Exporters merge equal vectors (zero biases), which means nothing; a matrix used twice is meant.
        """
        if not name or name not in self.constants:
            return self.dims.get(name)
        shape = self.shapes.shape.get(name)
        if shape is None:
            return None
        fresh = tuple(axis(n) for n in shape)
        return self.shared.setdefault(name, fresh) if sum(n > 1 for n in shape) > 1 else fresh

    def _keep(self, proto: onnx.NodeProto, view: Node) -> None:
        """Keep the dimensions of a node's constants and outputs, as far as they are solved; less is left to be followed later."""
        for i, (name, dims) in enumerate(zip(proto.input, view.dims, strict=True)):
            if dims is not None and name in self.constants:
                self.uses[view.index, i] = tuple(map(resolve, dims))
        iterated = proto.domain in MARKERS  # what comes out may be another value in each iteration
        from_constants = not iterated and bool(view.origins) and not any(o is not None for o in view.origins)
        for name, dims in zip(proto.output, view.outputs, strict=True):
            if not name:
                continue
            self.origins[name] = None if from_constants else view.origin
            if dims is not None:
                self.dims[name] = tuple(map(resolve, dims))
            elif name in self.shapes.shape:
                self.dims[name] = self._frozen(name, f"{view.label}: its rule says nothing of this output")
            if from_constants:
                self.folded.add(name)

    def _opaque(self, proto: onnx.NodeProto, view: Node, reason: str) -> None:
        self.refused.append(reason)
        for dims in view.dims:
            for dim in dims or ():
                self.said.algebra.freeze(dim, reason)
        for o, name in enumerate(proto.output):
            if name in self.shapes.shape:
                view.outputs[o] = self._frozen(name, reason)

    def _replicate(self, view: Node) -> None:
        """Need copies along all dimensions of a node whose rule does not promise that their indices stay apart."""
        if not view.is_apart:
            for dims in (*view.dims, *view.outputs):
                for dim in dims or ():
                    view.replicate(dim, "its result may depend on all of it, or not be finite")

    def _frozen(self, name: str, reason: str) -> Dims:
        dims = tuple(axis(n) for n in self.shapes.shape[name])
        for dim in dims:
            self.said.algebra.freeze(dim, reason)
        return dims


def _state(rule: Rule, view: Node) -> None:
    """Let a rule speak. It reads what its operator's definition promises: a node that breaks that breaks the rule."""
    try:
        rule.state(view)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise Unsupported(f"it is not what operator {view.op} has to be ({error})") from error


def _label(proto: onnx.NodeProto) -> str:
    return f"{proto.op_type} '{proto.name or next(filter(None, proto.output), '')}'"


def _attributes(proto: onnx.NodeProto) -> dict[str, Any]:
    """Numbers and texts; tensors and graphs are none of a rule's business."""
    out: dict[str, Any] = {}
    for attribute in proto.attribute:
        read = _READ.get(attribute.type)
        if read is not None:
            out[attribute.name] = read(attribute)
    return out


_READ: dict[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.INT: lambda attribute: attribute.i,
    AttributeProto.INTS: lambda attribute: list(attribute.ints),
    AttributeProto.FLOAT: lambda attribute: attribute.f,
    AttributeProto.FLOATS: lambda attribute: list(attribute.floats),
    AttributeProto.STRING: lambda attribute: attribute.s.decode(errors="replace"),
}
