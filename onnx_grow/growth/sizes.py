"""Sizes inside the graph: target shapes, lengths, and what the model computes from its own shapes.

`Shape(x)` changes by itself when x grows. Where it ends in a target shape, the new value must arrive there, and literals beside it are
regenerated; where it ends in arithmetic on data (a scale of 1/sqrt(d), a mean taken by division), the old value is pinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnx_grow.axes.algebra import Axis, Dim, Maps, grown_size, leaves
from onnx_grow.axes.equations import Element, Negated, SizedInput
from onnx_grow.axes.inference import Analysis
from onnx_grow.errors import InvalidModelError
from onnx_grow.growth.constants import Constants, Refusal
from onnx_grow.shapes import Shapes, elsewhere, evaluate, infer, may_jump

Values = np.ndarray[Any, Any]

_MOVING = ("Cast", "Concat", "Gather", "Identity", "Slice", "Squeeze", "Unsqueeze")
_ASSEMBLING = ("Cast", "Concat", "Identity", "Reshape", "Squeeze", "Unsqueeze")


class Sizes:
    """Brings the integers of a graph in line with axes grown by `maps`, node by node in graph order."""

    def __init__(self, analysis: Analysis, maps: Maps, constants: Constants) -> None:
        self.analysis = analysis
        self.maps = maps
        self.constants = constants
        self.changed: dict[str, Values] = {}
        self._causes: dict[str, list[Axis]] = {}  # of a changed value: the axes whose growth changed it
        self._untold: dict[
            str, Values
        ] = {}  # values that only a run would tell: which of their elements change
        self._corrected: set[tuple[int, int]] = set()
        self.opsets = analysis.model.skeleton.opset_import

    def regenerate(self) -> None:
        """Do so. Raises Refusal where a size depends on what is not known before the model runs."""
        for index in range(len(self.analysis.topology.nodes)):
            self._node(index)
        for name in self.analysis.topology.outputs:
            if name in self.changed or name in self._untold:
                raise Refusal(self._causes[name], f"output '{name}' would tell the new size")
        for name, index in self.analysis.topology.captured.items():
            if name in self.changed or name in self._untold:
                reason = f"the body of {self.analysis.labels[index]} would read the new size in '{name}'"
                raise Refusal(self._causes[name], reason)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape a tensor will have; None when it is unknown."""
        dims = self.analysis.dims.get(name)
        if dims is None:
            return self.analysis.shapes.shape.get(name)
        return tuple(grown_size(dim, self.maps) for dim in dims)

    def open(self, name: str) -> set[int]:
        """The dimensions of a tensor that depend on those that the file leaves open."""
        here, there = self.analysis.shapes.shape[name], self._elsewhere.shape.get(name)
        least = self._smallest.shape.get(name, here) if self._smallest else here
        return {k for k, n in enumerate(here) if there is None or there[k] != n or least[k] != n}

    def _input_shape(self, index: int, i: int) -> tuple[int, ...] | None:
        """The shape that an input of a node will have, whether computed or a constant that grows where this node reads it."""
        dims = self.analysis.input_dims(index, i)
        if dims is None:
            return self.shape(self.analysis.topology.proto(index).input[i])
        return tuple(grown_size(dim, self.maps) for dim in dims)

    def _node(self, index: int) -> None:
        proto = self.analysis.topology.proto(index)
        if proto.op_type in ("Shape", "Size") and not proto.domain:
            self._read(index)
            return
        if any(name in self._untold for name in proto.input):
            self._pass(index)
            return
        sized = [(i, self.analysis.said.sized_inputs.get((index, i))) for i in range(len(proto.input))]
        touched = [i for i, name in enumerate(proto.input) if name in self.changed]
        if touched and self._is_arithmetic(index) and self._evaluate(index):
            return
        for i, said in sized:
            if said is not None:
                self._target(index, i, said)
            elif i in touched:
                self._pin(index, i)

    def _read(self, index: int) -> None:
        proto = self.analysis.topology.proto(index)
        shape = self._input_shape(index, 0)
        old = self.analysis.shapes.value.get(proto.output[0])
        if shape is None:
            return
        dims = self.analysis.input_dims(index, 0) or ()
        ends = {attribute.name: attribute.i for attribute in proto.attribute}
        part = slice(ends.get("start", 0), ends.get("end", len(shape)))
        whole = proto.op_type == "Size"
        new = np.asarray(int(np.prod(shape)) if whole else shape[part], np.int64)
        if old is None:
            grows = [self._grows(dim) for dim in dims]
            self._tell(index, np.asarray(any(grows) if whole else grows[part]), self._growing(dims))
        elif not np.array_equal(new, old):
            self.changed[proto.output[0]] = new
            self._causes[proto.output[0]] = self._growing(dims)

    def _tell(self, index: int, changes: Values, causes: Sequence[Axis]) -> None:
        """Remember which elements of a node's output change, to values that only a run would tell."""
        if changes.any():
            name = self.analysis.topology.proto(index).output[0]
            self._untold[name] = changes
            self._causes[name] = list(causes)

    def _pass(self, index: int) -> None:
        """Pass on which elements of sizes change that only a run would tell. Raises Refusal where a node does more than move them."""
        proto = self.analysis.topology.proto(index)
        read = range(len(proto.input) if proto.op_type == "Concat" else 1)
        causes = [axis for name in proto.input for axis in self._causes.get(name, ())]
        inputs = [
            self._changes(name) if i in read else self.analysis.shapes.value.get(name)
            for i, name in enumerate(proto.input)
        ]
        known = all(v is not None for v, name in zip(inputs, proto.input, strict=True) if name)
        indices = [name for i, name in enumerate(proto.input) if i not in read]
        if proto.op_type not in _MOVING or proto.domain or not known or self._untold.keys() & indices:
            raise Refusal(
                causes, f"{self.analysis.labels[index]} computes with a size that only a run would tell"
            )
        (found,) = evaluate(proto, self.opsets, inputs)
        self._tell(index, np.asarray(found) != 0, causes)

    def _changes(self, name: str) -> Values | None:
        """1 for each element of a value that changes, else 0; None where its shape is not known."""
        shape = self.analysis.shapes.shape.get(name)
        mask = self._untold.get(name)
        return (
            mask.astype(np.int64)
            if mask is not None
            else None
            if shape is None
            else np.zeros(shape, np.int64)
        )

    def _is_arithmetic(self, index: int) -> bool:
        """Whether a node computes something known from known values, none of which is made of growing channels."""
        proto = self.analysis.topology.proto(index)
        value = self.analysis.shapes.value
        if any(name not in value for name in (*proto.input, *proto.output) if name):
            return False
        inputs = [self.analysis.input_dims(index, i) for i in range(len(proto.input))]
        outputs = [self.analysis.dims.get(name) for name in proto.output]
        return not any(self._grows(dim) for dims in (*inputs, *outputs) for dim in dims or ())

    def _evaluate(self, index: int) -> bool:
        """Compute a node's new values; False when that would change their shapes, so that its inputs are sizes to regenerate."""
        proto = self.analysis.topology.proto(index)
        value = self.analysis.shapes.value
        inputs = [self.changed.get(name, value.get(name)) if name else None for name in proto.input]
        try:
            found = dict(zip(proto.output, evaluate(proto, self.opsets, inputs), strict=False))
        except InvalidModelError:
            return False
        if any(np.shape(new) != value[name].shape for name, new in found.items() if name):
            return False
        causes = {axis: None for name in proto.input for axis in self._causes.get(name, ())}
        if may_jump(proto) and self._jumps(proto, found):
            raise Refusal(list(causes), f"{self.analysis.labels[index]} compares or rounds sizes that vary")
        for name, new in found.items():
            if name and not np.array_equal(new, value[name]):
                self.changed[name] = np.asarray(new)
                self._causes[name] = list(causes)
        return True

    def _jumps(self, proto: onnx.NodeProto, results: Iterable[str]) -> bool:
        """Whether what a growing size changes in a node's results depends on open sizes in steps, so that these sizes do not tell it."""
        value = self.analysis.shapes.value
        inputs = [name for name in proto.input if name in self.changed]
        for name in results:
            mask = self.analysis.shapes.jumps.get(name)
            if mask is None:
                continue
            touched = [np.asarray(self.changed[i] != value[i]) for i in inputs]
            if len(proto.output) > 1 or any(t.shape not in ((), (1,), mask.shape) for t in touched):
                return True
            if any((t & mask).any() for t in touched):
                return True
        return False

    def _target(self, index: int, i: int, said: SizedInput) -> None:
        """Make input `i` hold the sizes its node needs."""
        proto = self.analysis.topology.proto(index)
        name = proto.input[i]
        grows = [element is not None and self._grows(_dim(element)) for element in said.elements]
        old = self.analysis.shapes.value.get(name)
        if old is None:
            if any(grows):
                reason = f"{self.analysis.labels[index]} computes its sizes from data"
                raise Refusal(self._growing(map(_dim, said.elements)), reason)
            return
        cut = [dim for dim in said.within if self._grows(dim)]
        if cut and name not in self.analysis.constants and self._varies(name).any():
            raise Refusal(
                self._growing(cut),
                f"{self.analysis.labels[index]} cuts it where sizes that the file leaves open say",
            )
        wanted, now = self._wanted(index, i, said), self.changed.get(name, old)
        wrong = wanted != now
        if wrong.any():
            blamed = [*self._growing(map(_dim, said.elements)), *self._causes.get(name, ())]
            self._replace(index, i, wanted, wrong, blamed)

    def _wanted(self, index: int, i: int, said: SizedInput) -> Values:
        """What input `i` has to be; a node needs its sizes at the shapes inferred.

        Inferred (-1) and copied (0) elements take care of themselves.
        """
        name = self.analysis.topology.proto(index).input[i]
        old = self.analysis.shapes.value[name]
        now = self.changed.get(name, old)
        wanted, flat = np.array(old).reshape(-1), old.reshape(-1)
        for k, element in enumerate(said.elements[: len(wanted)]):
            if element is None or (flat[k] == -1 and not isinstance(element, Negated)):
                continue
            count = grown_size(_dim(element), self.maps)
            if said.zero_copies and flat[k] == 0:
                data = self._input_shape(index, 0)
                if (
                    data is None or k >= len(data) or data[k] != count
                ):  # it would copy the size of another dimension
                    wanted[k] = count
            elif self._grows(_dim(element)) or now.reshape(-1)[k] != flat[k]:
                wanted[k] = -count if isinstance(element, Negated) else count
        return wanted.reshape(old.shape)

    def _pin(self, index: int, i: int) -> None:
        name = self.analysis.topology.proto(index).input[i]
        old = self.analysis.shapes.value[name]
        self._replace(index, i, old, old != self.changed[name], self._causes[name])

    def _replace(self, index: int, i: int, wanted: Values, wrong: Values, blamed: Sequence[Axis]) -> None:
        """Give an input another value where it is wrong, touching as little as possible; refuse to grow `blamed` where it varies."""
        proto = self.analysis.topology.proto(index)
        name = proto.input[i]
        if name in self.analysis.constants:
            self.constants.put(index, i, wanted)
            return
        if np.any(wrong & self._varies(name)):
            raise Refusal(blamed, f"{self.analysis.labels[index]} computes its sizes from sizes that vary")
        literals = self._literals(name, wanted, wrong)
        if literals is not None:
            for node, place, literal in literals:
                if (node, place) not in self._corrected:
                    self._corrected.add((node, place))
                    self.constants.put(node, place, literal)
            return
        if not np.any(self._varies(name)):
            self.constants.put(index, i, wanted)
            return
        relative = self._relative(index, i, wanted)
        if relative is not None:
            self.constants.put(index, i, relative)
            return
        if self.analysis.model.opset < 9:
            raise Refusal(blamed, f"{self.analysis.labels[index]} computes its sizes beyond repair")
        mask, values = self.constants.add(f"{name}_kept", ~wrong), self.constants.add(f"{name}_grown", wanted)
        draft = self.constants.draft
        out = draft.fresh_name(f"{name}_resized")
        draft.insert_before(
            index,
            helper.make_node(
                "Where", [mask, draft.node(index).input[i], values], [out], draft.fresh_name(f"{out}_Where")
            ),
        )
        draft.node(index).input[i] = out

    def _literals(self, name: str, wanted: Values, wrong: Values) -> list[tuple[int, int, Values]] | None:
        """The pieces (node, input, value) to correct where a shape is put together; None if that is not enough.

        Pieces are literals, or sizes that do not vary. All who read the shape must want the same.
        """
        topology, value = self.analysis.topology, self.analysis.shapes.value
        found: list[tuple[int, int, Values]] = []
        if not all(self._wants(reader, i, wanted) for reader, i in topology.consumers[name]):
            return None
        work = [(name, wanted.reshape(-1), wrong.reshape(-1))]
        while work:
            shared = len(topology.consumers[work[-1][0]]) > 1 and work[-1][0] != name
            piece, wanted, wrong = work.pop()
            producer = topology.producers.get(piece)
            if producer is None or shared or piece in topology.captured:
                return None
            proto = topology.proto(producer)
            if proto.op_type == "Concat" and value[piece].ndim != 1:
                return None
            pieces = list(proto.input[: None if proto.op_type == "Concat" else 1])
            known = all(piece in value for piece in pieces)
            if (
                proto.op_type not in _ASSEMBLING
                or not known
                or sum(value[p].size for p in pieces) != wanted.size
            ):
                return None
            at = 0
            for i, piece in enumerate(pieces):
                part = slice(at, at + value[piece].size)
                at = part.stop
                if not wrong[part].any():
                    continue
                if piece in self.analysis.constants or not self._varies(piece).any():
                    old = value[piece]
                    found.append((producer, i, wanted[part].astype(old.dtype).reshape(old.shape)))
                else:
                    work.append((piece, wanted[part], wrong[part]))
        return found

    def _relative(self, index: int, i: int, wanted: Values) -> Values | None:
        """The target of a Reshape with 0 and -1 for what varies: taken over from the data, and inferred; None if that is not enough."""
        proto = self.analysis.topology.proto(index)
        said = self.analysis.said.sized_inputs.get((index, i))
        name, other = proto.input[0], self._elsewhere.value.get(proto.input[i])
        here, there = (shapes.shape.get(name, ()) for shapes in (self.analysis.shapes, self._elsewhere))
        if said is None or not said.zero_copies or other is None or not wanted.all():
            return None
        target = wanted.copy()
        for k in np.flatnonzero(self._varies(proto.input[i])):
            copied = k < len(here) and (here[k], there[k]) == (wanted[k], other[k])
            target[k] = 0 if copied else -1
        return target if np.count_nonzero(target == -1) < 2 else None

    def _wants(self, index: int, i: int, wanted: Values) -> bool:
        """Whether what reads a shape there is sizes, and needs these."""
        said = self.analysis.said.sized_inputs.get((index, i))
        return said is not None and np.array_equal(self._wanted(index, i, said), wanted)

    def _varies(self, name: str) -> Values:
        """Which elements of a known tensor depend on the dimensions that the file leaves open."""
        value = self.analysis.shapes.value[name]
        other = self._elsewhere.value.get(name)
        if other is None or other.shape != value.shape:
            return np.full(value.shape, bool(self._open))
        varies = np.asarray(other != value) | self.analysis.shapes.jumps.get(name, False)
        least = self._smallest.value.get(name, value) if self._smallest else value
        return varies | (least != value if least.shape == value.shape else True)

    @cached_property
    def _open(self) -> bool:
        return any(self.analysis.shapes.dynamic.values())

    @cached_property
    def _elsewhere(self) -> Shapes:
        """Shapes and known values at larger sizes of the open dimensions."""
        here = self.analysis.shapes
        return elsewhere(self.analysis.model, here) if self._open else here

    @cached_property
    def _smallest(self) -> Shapes | None:
        """Shapes and known values where all open dimensions are 1, if that fits: a part cut off a long sequence is all of a short one."""
        here = self.analysis.shapes
        if not self._open:
            return None
        ones = {
            name: tuple(1 if k in here.dynamic.get(name, ()) else n for k, n in enumerate(shape))
            for name, shape in here.inputs.items()
        }
        try:
            found = infer(self.analysis.model, ones)
        except InvalidModelError:  # a Squeeze without axes may leave too few dimensions then
            return None
        return None if found.problems else found

    def _growing(self, dims: Iterable[Dim]) -> list[Axis]:
        return [leaf for dim in dims for leaf in leaves(dim) if leaf in self.maps]

    def _grows(self, dim: Dim) -> bool:
        return any(leaf in self.maps for leaf in leaves(dim))


def _dim(element: Element) -> Dim:
    return element.dim if isinstance(element, Negated) else element or ()
