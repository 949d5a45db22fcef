"""Where an identity layer fits: linear layers whose activation is idempotent (Net2DeeperNet's condition).

phi(I phi(v)) = phi(v)    for all v    if and only if    phi(phi(v)) = phi(v)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from onnx_grow.growth.dataflow import Dataflow, attribute, enclosed, operator
from onnx_grow.growth.deepen_plan import DeepenScheme
from onnx_grow.shapes import Shapes

__all__ = ["CLAMPS", "Refused", "Site", "find_sites", "is_clamp", "is_off"]


@dataclass(frozen=True)
class Site:
    """A linear layer and what follows it, up to the tensor `output` behind which an identity layer fits.

    `nodes` are the linear node, whose parameter is `weight`, and those that the new layer repeats: bias,
    BatchNormalization, changes of layout, the activation.
    `members` also has those that it does not. `channels` lie along `axis` of the output; `kernel` and `groups` are the new
    weight's. `is_active`: there is an activation, so that another layer adds to what the network can compute. `unrepeated` names norms
    that no parameters make the identity.
    """

    nodes: tuple[int, ...]
    members: tuple[int, ...]
    output: str
    weight: str
    axis: int
    channels: int
    kernel: tuple[int, ...]
    groups: int
    has_bias: bool
    is_active: bool
    unrepeated: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """A place where nothing can be inserted: its nodes, the first of which names it, and the reason.

    Places with one `kind` have the same reason but for the nodes that it names.
    """

    members: tuple[int, ...]
    reason: str
    kind: str = ""
    scheme: DeepenScheme = "identity"


def find_sites(flow: Dataflow, shapes: Shapes) -> list[Site | Refused]:
    """Every linear layer with constant weights, in order, as a site or with the reason why it is none."""
    return [
        _site(flow, shapes, index)
        for index, node in enumerate(flow.nodes)
        if operator(node) in _LINEAR and _weight(flow, index) is not None
    ]


def is_clamp(flow: Dataflow, index: int) -> bool:
    """Whether a node is an idempotent activation: phi(phi(v)) = phi(v) for every v."""
    node = flow.nodes[index]
    if operator(node) in ("Max", "Min"):
        return len(node.input) == 2 and len(flow.activations(index)) == 1
    return operator(node) in CLAMPS and len(flow.activations(index)) == 1


def is_off(flow: Dataflow, shapes: Shapes, index: int) -> bool:
    """Whether a Dropout does nothing, as in inference."""
    node = flow.nodes[index]
    mode = node.input[2] if len(node.input) > 2 else ""
    return not mode or (mode in shapes.value and not shapes.value[mode].any())


CLAMPS = frozenset({"Abs", "Clip", "Max", "Min", "Relu", "ThresholdedRelu"})
"""Idempotent activations; Max and Min where the other operand is a constant."""

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_LINEAR = _CONVOLUTIONS | {"Gemm", "MatMul"}

_FLOATS = frozenset((TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16))

_NORMS = frozenset(
    {
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
    }
)
_POOLS = frozenset({"AveragePool", "MaxPool"})

_CURVED = frozenset(
    {
        "Celu",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
        "LogSoftmax",
        "Mish",
        "PRelu",
        "Pow",
        "Reciprocal",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sin",
        "Sinh",
        "Softmax",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
        "Tanh",
        "com.microsoft.BiasGelu",
        "com.microsoft.FastGelu",
        "com.microsoft.Gelu",
        "com.microsoft.QuickGelu",
    }
)
_ELEMENTWISE = _CURVED | CLAMPS | {"Add", "Cast", "Div", "Identity", "Mul", "Neg", "Sub", "Where"}


def _weight(flow: Dataflow, index: int) -> str | None:
    """The constant operand of a linear node, None if both are activations."""
    node = flow.nodes[index]
    operands = node.input[:2] if operator(node) == "MatMul" else node.input[1:2]
    constant = [name for name in operands if name in flow.constants]
    return constant[0] if len(constant) == 1 and len(flow.activations(index)) == 1 else None


@dataclass
class _Path:
    """How far the walk from a linear node has come."""

    tensor: str
    axis: int
    repeated: list[int]
    members: list[int]
    has_bias: bool
    unrepeated: list[str] = field(default_factory=list)

    def take(self, flow: Dataflow, index: int) -> None:
        """Go on behind a node that the new layer repeats."""
        self.repeated.append(index)
        self.members.append(index)
        self.tensor = flow.nodes[index].output[0]


def _site(flow: Dataflow, shapes: Shapes, index: int) -> Site | Refused:
    node, shape = flow.nodes[index], shapes.shape
    weight = _weight(flow, index)
    assert weight is not None
    start = node.output[0]
    if weight not in shape or start not in shape:
        return Refused((index,), "its shape is not known")
    if shapes.dtype.get(start) not in _FLOATS:
        return Refused((index,), "it does not compute in floating point")
    if 0 in shape[weight] or 0 in shape[start]:
        return Refused((index,), "it computes nothing")
    convolves = operator(node) in _CONVOLUTIONS
    if not convolves and len(shape[weight]) != 2:
        return Refused(
            (index,), f"its weight has {len(shape[weight])} dimensions, and no identity matrix has"
        )
    left = operator(node) == "MatMul" and weight == node.input[0]
    rank = len(shape[start])
    axis = 1 if convolves else rank - 2 if left and rank > 1 else rank - 1
    has_bias = len(node.input) > 2 and bool(node.input[2])
    path = _Path(start, axis, [index], [index], has_bias)
    channels = shape[start][axis]
    stopped = _follow(flow, shapes, path, channels)
    if isinstance(stopped, str):
        return Refused(tuple(path.members), stopped, kind=stopped.partition(" (")[0])
    output = shape.get(path.tensor, ())
    if (
        len(output) <= path.axis
        or output[path.axis] != channels
        or shapes.dtype.get(path.tensor) not in _FLOATS
    ):
        return Refused(tuple(path.members), f"the shape of {path.tensor!r} is not known")
    groups = int(attribute(node, "group", 1)) if convolves else 1
    return Site(
        nodes=tuple(path.repeated),
        members=tuple(path.members),
        output=path.tensor,
        weight=weight,
        axis=path.axis,
        channels=channels,
        kernel=_kernel(shape[weight][2:], shape[start][2:]) if convolves else (),
        groups=groups,
        has_bias=path.has_bias,
        is_active=stopped,
        unrepeated=tuple(path.unrepeated),
    )


def _kernel(own: tuple[int, ...], extent: tuple[int, ...]) -> tuple[int, ...]:
    """The layer's own kernel size, made odd; without taps that could see nothing but padding."""
    return tuple(
        min(size if size % 2 else 3, 2 * pixels - 1) for size, pixels in zip(own, extent, strict=True)
    )


def _follow(flow: Dataflow, shapes: Shapes, path: _Path, channels: int) -> bool | str:
    """Walk to the end of the site. Whether it ends in an idempotent activation, or why it is no site."""
    while True:
        readers = flow.readers(path.tensor)
        if reason := _curved(flow, shapes, path.tensor):
            return reason
        clamps = [index for index in readers if is_clamp(flow, index) and _keeps_shape(flow, shapes, index)]
        if len(clamps) == 1:
            path.take(flow, clamps[0])
            while len(readers := flow.readers(path.tensor)) == 1 and is_clamp(flow, readers[0]):
                if not _keeps_shape(flow, shapes, readers[0]):
                    break
                path.take(flow, readers[0])
            return True
        if len(readers) != 1:
            return False
        passed = _pass(flow, shapes, path, readers[0], channels)
        if passed is not True:
            return passed


def _keeps_shape(flow: Dataflow, shapes: Shapes, index: int) -> bool:
    before, after = flow.activations(index)[0], flow.nodes[index].output[0]
    return before in shapes.shape and shapes.shape[before] == shapes.shape.get(after)


def _curved(flow: Dataflow, shapes: Shapes, tensor: str) -> str:
    """The reason if a tensor feeds an activation that is not idempotent, else nothing."""
    readers = flow.readers(tensor)
    index, name = next(
        ((index, operator(flow.nodes[index])) for index in readers if operator(flow.nodes[index]) in _CURVED),
        (None, ""),
    )
    if len(readers) > 1:
        nodes = enclosed(
            flow,
            tensor,
            _ELEMENTWISE,
            lambda end: shapes.shape.get(end) == shapes.shape.get(tensor),
            limit=16,
        )
        if nodes is None:
            return ""
        name = "+".join(dict.fromkeys(operator(flow.nodes[i]) for i in nodes))
        index = nodes[-1]
    if index is None:
        return ""
    return (
        f"it feeds {name} ({flow.label(index)!r}), which changes its own values when it is applied again, so no identity layer "
        "fits behind it; residual-copy would, in a skip connection"
    )


def _pass(flow: Dataflow, shapes: Shapes, path: _Path, index: int, channels: int) -> bool | str:
    """Take one more node into the path: True; False if the site ends before it; a reason if it rules the site out."""
    node = flow.nodes[index]
    name = operator(node)
    if len(flow.activations(index)) != 1 or not node.output[0]:
        return False
    if name in ("Add", "Sub", "Mul", "Div"):
        if not _keeps_shape(flow, shapes, index) or (
            name in ("Sub", "Div") and node.input[0] in flow.constants
        ):
            return False
        constant = next(other for other in node.input if other in flow.constants)
        size = math.prod(shapes.shape.get(constant, ()))
        if name in ("Add", "Sub") and size == channels and not path.has_bias:
            path.has_bias = True
            path.repeated.append(index)
    elif name == "BatchNormalization":
        if attribute(node, "training_mode", 0) or attribute(node, "spatial", 1) == 0 or path.axis != 1:
            return (
                f"BatchNormalization {flow.label(index)!r} does not normalise its channels with stored statistics, so it cannot be "
                "repeated as the identity"
            )
        path.repeated.append(index)
    elif name in ("Transpose", "Squeeze", "Unsqueeze"):
        axis = _moved(flow, shapes, index, path)
        if axis is None:
            return False
        path.axis = axis
        path.repeated.append(index)
    elif name in _NORMS:
        path.unrepeated.append(name)
    elif name in _POOLS:
        if operator(flow.nodes[path.members[0]]) not in _CONVOLUTIONS or path.axis != 1:
            return False
    elif name == "Dropout":
        if not is_off(flow, shapes, index):
            return f"Dropout {flow.label(index)!r} is random"
    elif name not in ("Identity", "Cast"):
        return False
    path.members.append(index)
    path.tensor = node.output[0]
    return True


def _moved(flow: Dataflow, shapes: Shapes, index: int, path: _Path) -> int | None:
    """The channel axis behind a node that only changes the layout; None if that cannot be told."""
    node = flow.nodes[index]
    before = shapes.shape.get(path.tensor)
    if before is None:
        return None
    if node.op_type == "Transpose":
        order = [int(axis) for axis in attribute(node, "perm", range(len(before))[::-1])]
        return order.index(path.axis)
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1:
        axes = shapes.value.get(node.input[1])
    if axes is None:
        return None
    rank = len(before) + (len(np.ravel(axes)) if node.op_type == "Unsqueeze" else 0)
    positions = {int(axis) % rank for axis in np.ravel(axes)}
    outer = [axis for axis in range(rank) if axis not in positions]
    if node.op_type == "Unsqueeze":
        return outer[path.axis]
    return outer.index(path.axis) if path.axis in outer else None
