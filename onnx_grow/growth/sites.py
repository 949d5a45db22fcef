"""Where a layer fits behind a layer: what follows its weights, where its channels lie, which activation it feeds.

An identity layer fits where phi(I phi(v)) = phi(v) for all v, that is, where phi(phi(v)) = phi(v) (Net2DeeperNet's condition).
A branch of its own (x + W2 phi(W1 x)) fits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto

from onnx_grow.growth.activations import BOUNDED, Activation, following, fused
from onnx_grow.growth.dataflow import Dataflow, attribute, operator
from onnx_grow.growth.deepen_plan import DeepenScheme
from onnx_grow.growth.silence import has_weights
from onnx_grow.shapes import Shapes

__all__ = ["LAYOUT", "RECURRENT", "Refused", "Site", "feeding_layers", "find_sites", "is_off"]

LAYOUT = frozenset({"Squeeze", "Transpose", "Unsqueeze"})
"""Operators that only change where the channels lie."""

RECURRENT = frozenset({"GRU", "LSTM", "RNN", "com.microsoft.DynamicQuantizeLSTM"})


@dataclass(frozen=True)
class Site:
    """A layer and what follows it, up to the tensor `output` behind which a new layer fits.

    `nodes` are the layer's own, whose parameter is `weight`, and those that an identity layer repeats: bias, BatchNormalization, changes
    of layout, an idempotent activation. `members` also has those that it does not. `channels` lie along `axis` of the output;
    `kernel` (empty for a matrix) and `groups` are a new weight's.

    `activation` is what the layer feeds, None if there is none. `is_active`: `output` lies behind it, so that another layer adds to what
    the network can compute; it lies before one that is a gate, or that shapes the model's output. `is_last`: no other layer reads what it
    computes. `steps` are the scale and the zero point of an output that is stored in integers. `refusal`: why an
    identity layer does not fit, nothing if it does.
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
    activation: Activation | None
    is_active: bool
    is_last: bool
    refusal: str
    steps: tuple[str, ...] = ()


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
    """Every layer with constant weights, in order, as a site or with the reason why it is none."""
    feeding = feeding_layers(flow, shapes)
    layers = (index for index in range(len(flow.nodes)) if _is_layer(flow, index))
    return _joined(shapes, [_site(flow, shapes, index, feeding) for index in layers])


def _joined(shapes: Shapes, sites: Sequence[Site | Refused]) -> list[Site | Refused]:
    """Layers that are added up are one site: that of the largest of them."""
    joined: dict[str | int, Site | Refused] = {}
    for number, site in enumerate(sites):
        if isinstance(site, Refused):
            joined[number] = site
            continue
        other = joined.get(site.output)
        if isinstance(other, Site):
            first, second = (math.prod(shapes.shape[entry.weight]) for entry in (other, site))
            members = tuple(dict.fromkeys((*other.members, *site.members)))
            site = replace(other if first > second else site, members=members)
        joined[site.output] = site
    return list(joined.values())


def feeding_layers(flow: Dataflow, shapes: Shapes) -> frozenset[str]:
    """The tensors that a layer with weights is computed from, in this iteration of a loop or in a later one."""
    found: set[str] = set()
    while True:
        for index in reversed(range(len(flow.nodes))):
            node = flow.nodes[index]
            if has_weights(flow, shapes, index) or not found.isdisjoint(node.output):
                found.update(filter(None, node.input))
        results = {result for formal, result in flow.bodies.carried.items() if formal in found and result}
        if results <= found:
            return frozenset(found)
        found |= results


def is_off(flow: Dataflow, shapes: Shapes, index: int) -> bool:
    """Whether a Dropout does nothing, as in inference."""
    node = flow.nodes[index]
    mode = node.input[2] if len(node.input) > 2 else ""
    return not mode or (mode in shapes.value and not shapes.value[mode].any())


def _is_layer(flow: Dataflow, index: int) -> bool:
    return operator(flow.nodes[index]) in _LAYERS and _weight(flow, index) is not None


_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "ConvTranspose", "QLinearConv", "com.microsoft.FusedConv"})
_PRODUCTS = frozenset({"Einsum", "MatMul", "MatMulInteger", "com.microsoft.FusedMatMul"})
_MATRICES = _PRODUCTS | {"Gemm", "com.microsoft.FusedGemm", "com.microsoft.MatMulNBits"}
_QUANTIZED = {"QLinearConv": 6, "QLinearMatMul": 6, "com.microsoft.QGemm": 7}
"""Layers that compute in integers, and their input that is the scale of what they compute, before its zero point."""
_LAYERS = _CONVOLUTIONS | _MATRICES | _QUANTIZED.keys() | RECURRENT

_FUSED = frozenset({"com.microsoft.FusedConv", "com.microsoft.FusedGemm"})
_IDENTITY = _FUSED | {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Layers behind which one of their kind can be the identity."""

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
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})
_POOLS = frozenset({"AveragePool", "MaxPool"})


def _weight(flow: Dataflow, index: int) -> str | None:
    """The constant operand of a layer, None if both operands are activations, or none is."""
    node = flow.nodes[index]
    name = operator(node)
    if name in RECURRENT:
        return str(node.input[1])
    if name in _QUANTIZED:
        return str(node.input[3]) if node.input[3] in flow.constants else None
    operands = node.input[:2] if name in _PRODUCTS else node.input[1:2]
    constant = [name for name in operands if name in flow.constants]
    others = [name for name in node.input[:2] if name not in flow.constants]
    return constant[0] if len(constant) == 1 and others else None


@dataclass
class _Path:
    """How far the walk from a layer has come."""

    tensor: str
    axis: int
    repeated: list[int]
    members: list[int]
    has_bias: bool
    is_convolution: bool
    refusal: str = ""


def _site(flow: Dataflow, shapes: Shapes, index: int, feeding: frozenset[str]) -> Site | Refused:
    node, shape = flow.nodes[index], shapes.shape
    name, weight = operator(node), _weight(flow, index)
    assert weight is not None
    start = _used(flow, node)
    steps = _steps(flow, shapes, node)
    if start in shapes.dtype and shapes.dtype[start] not in _FLOATS and "Integer" not in name and not steps:
        return Refused((index,), f"{name} does not compute in floating point", kind="no floating point")
    if weight not in shape or start not in shape:
        return Refused((index,), "its shape is not known")
    if 0 in shape[weight] or 0 in shape[start]:
        return Refused((index,), "it computes nothing")
    axis = _axis(node, weight, len(shape[weight]), len(shape[start]))
    if axis is None:
        return Refused((index,), "what it computes has no dimension of its own")
    convolves = name in _CONVOLUTIONS
    path = _Path(start, axis, [index], [index], _has_bias(node), convolves)
    path.refusal = _no_identity(node, shape[weight])
    channels = shape[start][axis]
    activation = _own(node, start) or (None if steps else _follow(flow, shapes, path, channels))
    output = path.tensor
    is_last = path.tensor not in feeding
    is_active = name in RECURRENT or (bool(steps) and not is_last)
    if activation and activation.is_hidden and not _is_outer(flow, activation, is_last):
        is_active, output = True, activation.output
        path.members += activation.nodes
        path.repeated += activation.nodes if activation.is_idempotent else ()
    if activation and not activation.is_idempotent:
        path.refusal = path.refusal or _not_idempotent(flow, activation, node)
    extent = shape.get(output, ())
    dtype = shapes.dtype.get(steps[0] if steps else output)
    if len(extent) <= path.axis or extent[path.axis] != channels or dtype not in _FLOATS:
        return Refused(tuple(path.members), f"the shape or type of {output!r} is not known")
    return Site(
        nodes=tuple(path.repeated),
        members=tuple(path.members),
        output=output,
        weight=weight,
        axis=path.axis,
        channels=channels,
        kernel=_kernel(shape[weight][2:], shape[start][2:]) if convolves else (),
        groups=int(attribute(node, "group", 1)) if convolves else 1,
        has_bias=path.has_bias,
        activation=activation,
        is_active=is_active,
        is_last=is_last,
        refusal=path.refusal,
        steps=steps,
    )


def _steps(flow: Dataflow, shapes: Shapes, node: NodeProto) -> tuple[str, ...]:
    """The scale and the zero point of what a layer computes in integers, if there is one of each; else nothing."""
    at = _QUANTIZED.get(operator(node))
    found = () if at is None else tuple(node.input[at : at + 2])
    single = [name in flow.constants and math.prod(shapes.shape.get(name, (0,))) == 1 for name in found]
    return found if len(found) == 2 and all(single) else ()


def _used(flow: Dataflow, node: NodeProto) -> str:
    """The first output that anything reads: of a recurrent layer its sequence, or its last state."""
    outputs = [tensor for tensor in node.output if tensor]
    used = (tensor for tensor in outputs if flow.readers(tensor) or flow.is_visible(tensor))
    return next(used, outputs[0] if outputs else "")


def _axis(node: NodeProto, weight: str, weight_rank: int, rank: int) -> int | None:
    """The dimension of a layer's output that its weight writes; None if there is none: a vector is summed away."""
    name = operator(node)
    if name in _CONVOLUTIONS:
        return 1
    if name == "Einsum":
        return _einsum_axis(node, weight)
    if weight_rank < 2 or not rank:
        return None
    is_left = name in _PRODUCTS and weight == node.input[0]
    of_vector = rank < weight_rank
    return rank - 2 if is_left and not of_vector else rank - 1


def _einsum_axis(node: NodeProto, weight: str) -> int | None:
    """The last dimension of the output that only the weight has; none if dots stand for dimensions."""
    inputs, arrow, output = attribute(node, "equation", b"").decode().replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in output or len(terms) != len(node.input):
        return None
    others = "".join(term for term, name in zip(terms, node.input, strict=True) if name != weight)
    own = [axis for axis, letter in enumerate(output) if letter not in others]
    return own[-1] if own else None


def _has_bias(node: NodeProto) -> bool:
    return operator(node) not in RECURRENT and len(node.input) > 2 and bool(node.input[2])


def _no_identity(node: NodeProto, weight: tuple[int, ...]) -> str:
    """Why no layer of this kind can be the identity, nothing if one can."""
    name = operator(node)
    if name in _CONVOLUTIONS & _IDENTITY:
        return ""
    if name not in _IDENTITY:
        return f"no {name} layer is the identity"
    if len(weight) != 2:
        return f"its weight has {len(weight)} dimensions, and no identity matrix has"
    return ""


def _own(node: NodeProto, output: str) -> Activation | None:
    """The activation that a fused layer has itself."""
    name = attribute(node, "activation", b"") if operator(node) in _FUSED else b""
    return fused(name.decode(), output) if name else None


def _is_outer(flow: Dataflow, activation: Activation, is_last: bool) -> bool:
    """Whether an activation only shapes the model's output, or is a gate: what it computes only multiplies something else."""
    if is_last and activation.name in BOUNDED:
        return True
    readers = flow.readers(activation.output)
    gates = [index for index in readers if operator(flow.nodes[index]) == "Mul"]
    return (
        activation.name in ("HardSigmoid", "Sigmoid")
        and bool(gates)
        and len(gates) == len(readers)
        and all(len(flow.activations(index)) == 2 for index in gates)
    )


def _not_idempotent(flow: Dataflow, activation: Activation, node: NodeProto) -> str:
    label = flow.label(activation.nodes[-1]) if activation.nodes else node.name or activation.output
    return (
        f"it feeds {activation.name} ({label!r}), which changes its own values when it is applied again, so no identity layer "
        "fits behind it; residual-new does"
    )


def _kernel(own: tuple[int, ...], extent: tuple[int, ...]) -> tuple[int, ...]:
    """The layer's own kernel size, made odd; without taps that could see nothing but padding."""
    return tuple(
        min(size if size % 2 else 3, 2 * pixels - 1) for size, pixels in zip(own, extent, strict=True)
    )


def _follow(flow: Dataflow, shapes: Shapes, path: _Path, channels: int) -> Activation | None:
    """Walk to the activation of a layer, or to where its channels are no longer one dimension."""
    while True:
        if activation := following(flow, shapes, path.tensor):
            return activation
        readers = flow.readers(path.tensor)
        if len(readers) != 1 or not _pass(flow, shapes, path, readers[0], channels):
            return None


def _pass(flow: Dataflow, shapes: Shapes, path: _Path, index: int, channels: int) -> bool:
    """Take one more node into the path; False if the site ends before it."""
    node = flow.nodes[index]
    name = operator(node)
    if not node.output[0]:
        return False
    if name == "Reshape":
        return _pass_split_norm(flow, shapes, path, index)
    if node.input[0] != path.tensor and name not in _ARITHMETIC:
        return False
    if name in _ARITHMETIC:
        if not _pass_arithmetic(flow, shapes, path, index, channels):
            return False
    elif name == "BatchNormalization":
        if attribute(node, "training_mode", 0) or attribute(node, "spatial", 1) == 0 or path.axis != 1:
            path.refusal = path.refusal or (
                f"BatchNormalization {flow.label(index)!r} does not normalise its channels with stored statistics, so it cannot be "
                "repeated as the identity"
            )
        elif flow.is_enclosed(index):
            path.refusal = path.refusal or (
                f"BatchNormalization {flow.label(index)!r} lies in a body of control flow, where no forward pass tells the statistics "
                "that another one would need; residual-new fits"
            )
        else:
            path.repeated.append(index)
    elif name in LAYOUT:
        axis = _moved(flow, shapes, index, path)
        if axis is None:
            return False
        path.axis = axis
        path.repeated.append(index)
    elif name in _POOLS:
        if not path.is_convolution or path.axis != 1:
            return False
    elif name == "Dropout":
        if not is_off(flow, shapes, index):
            path.refusal = path.refusal or f"Dropout {flow.label(index)!r} is random"
    elif name not in _NORMS and name not in ("Identity", "Cast"):
        return False
    path.members.append(index)
    path.tensor = node.output[0]
    return True


def _pass_arithmetic(flow: Dataflow, shapes: Shapes, path: _Path, index: int, channels: int) -> bool:
    """Whether a sum or product is a bias or a scale, which a bias may repeat."""
    node = flow.nodes[index]
    constants = [name for name in node.input if name in flow.constants]
    if not constants:
        other = next((name for name in node.input if name != path.tensor), "")
        if operator(node) == "Mul":  # the scale of a quantised product is computed
            return math.prod(shapes.shape.get(other, (0, 0))) == 1
        return operator(node) == "Add" and bool(_summed_maps_read(flow, node.output[0]))
    if path.tensor not in shapes.shape or shapes.shape[path.tensor] != shapes.shape.get(node.output[0]):
        return False
    if operator(node) in ("Sub", "Div") and node.input[0] in flow.constants:
        return False
    size = math.prod(shapes.shape.get(constants[0], ()))
    if operator(node) in ("Add", "Sub") and size == channels and not path.has_bias:
        path.has_bias = True
        path.repeated.append(index)
    return True


def _summed_maps_read(flow: Dataflow, tensor: str) -> str:
    """The one tensor that all of some linear maps read whose sum another one is; nothing if it is no such sum."""
    read: set[str] = set()
    pending = [tensor]
    while pending and len(read) < 2:
        name = pending.pop()
        index = flow.producer(name)
        if index is None or not _is_map(flow, index):
            return ""
        before = flow.activations(index)
        producer = flow.producer(before[0])
        if not _is_layer(flow, index) and producer is not None and _is_map(flow, producer):
            pending += before
        else:
            read.update(before)
    return read.pop() if len(read) == 1 else ""


def _is_map(flow: Dataflow, index: int) -> bool:
    return operator(flow.nodes[index]) in ("Add", "BatchNormalization") or _is_layer(flow, index)


def _pass_split_norm(flow: Dataflow, shapes: Shapes, path: _Path, index: int) -> bool:
    """Whether a Reshape begins a norm over groups of channels, as exporters write it: Reshape, InstanceNormalization, Reshape."""
    row = [index]
    while len(row) < 3 and len(readers := flow.readers(flow.nodes[row[-1]].output[0])) == 1:
        row.append(readers[0])
    names = [operator(flow.nodes[number]) for number in row]
    end = flow.nodes[row[-1]].output[0]
    if len(row) < 3 or names[1] not in _NORMS or names[2] != "Reshape":
        return False
    if path.tensor not in shapes.shape or shapes.shape[path.tensor] != shapes.shape.get(end):
        return False
    path.members += row
    path.tensor = end
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
