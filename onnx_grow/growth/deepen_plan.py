"""The plan of a deepening: which layers will be inserted where, with all that their weights depend on."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, Literal, get_args

import numpy as np

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.budget import MOST_CHANNELS

__all__ = [
    "SCHEMES",
    "DeepenPlan",
    "DeepenScheme",
    "Function",
    "IdentityLayer",
    "InsertedLayer",
    "Linear",
    "NewBranchLayer",
    "ParametricLayer",
    "ResidualBranch",
    "ResidualLayer",
    "Statistics",
]

DeepenScheme = Literal["identity", "residual-copy", "residual-new", "parametric"]

SCHEMES: tuple[DeepenScheme, ...] = get_args(DeepenScheme)


@dataclass(frozen=True)
class Statistics:
    """Mean and (biased) variance of every channel of an inserted layer's input, as float32 numbers.

    They stand in the plan, and so in the grown file, to let a plan replay to the same bytes without the
    data; next to the layer's kernel they weigh little.
    """

    mean: tuple[float, ...]
    variance: tuple[float, ...]

    def to_data(self) -> dict[str, str]:
        """Both as base64 of little-endian float32."""
        return {"mean": _packed(self.mean), "variance": _packed(self.variance)}

    @classmethod
    def from_data(cls, data: Mapping[str, str]) -> Statistics:
        """Read what `to_data` wrote."""
        return cls(_unpacked(data["mean"]), _unpacked(data["variance"]))


@dataclass(frozen=True)
class IdentityLayer:
    """A linear layer that starts as the identity, followed by a repetition of what follows the site's own.

    `name` is the site's node; `output` the tensor behind which the layer goes, and whose name it takes over. `nodes` are the
    site's own nodes, named by what they compute: the linear one, then those that are repeated. `channels`, `kernel` (empty for a
    matrix), `groups` and `dtype` (a TensorProto.DataType) are the new weight's; `bias` is the shape of the zero bias, None without
    one; `statistics` those of a BatchNormalization among the repeated nodes.
    """

    name: str
    output: str
    nodes: tuple[str, ...]
    operator: str
    channels: int
    kernel: tuple[int, ...] = ()
    groups: int = 1
    dtype: int = 1
    bias: tuple[int, ...] | None = None
    parameters: int = 0
    description: str = ""
    statistics: Statistics | None = None
    scheme: Literal["identity"] = "identity"


@dataclass(frozen=True)
class ResidualBranch:
    """One skip connection `total = source + f(source)`, and how the copy of f becomes zero.

    `end` is what f computes. `zeroed` are the stored tensors whose copies are zero; if there are none, the copy is scaled by
    a new scalar that is zero. `views` are the nodes, named by what they compute, that reshape the sum of the branch before it to
    `source`, if they are two tensors.
    """

    source: str
    end: str
    total: str
    zeroed: tuple[str, ...] = ()
    views: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResidualLayer:
    """Copies of one or more residual branches, in a row, behind the tensor `output`, whose name the last one takes over.

    `tail` are the nodes between the last sum and `output`, named by what they compute, which are repeated after every copy. With
    `inside`, the new branches are added to the sum, before the tail, otherwise to `output`, after it. `dtype` is the
    TensorProto.DataType of the sum.
    """

    name: str
    output: str
    branches: tuple[ResidualBranch, ...]
    tail: tuple[str, ...] = ()
    inside: bool = False
    dtype: int = 1
    parameters: int = 0
    description: str = ""
    scheme: Literal["residual-copy"] = "residual-copy"


@dataclass(frozen=True)
class Linear:
    """The linear maps of a new layer, from `channels` of a tensor to as many.

    `operator` is Conv, with an odd `kernel` and `groups`, or Gemm or MatMul, whose weight stands on the left (`is_left`) where the
    channels are the last dimension but one. `layout` are nodes that moved the channels there, named by what they compute, whose
    effect is undone around the maps. `dtype` is a TensorProto.DataType.
    """

    operator: str
    channels: int
    kernel: tuple[int, ...] = ()
    groups: int = 1
    is_left: bool = False
    layout: tuple[str, ...] = ()
    dtype: int = 1


@dataclass(frozen=True)
class Function:
    """An activation: a copy of `nodes`, named by what they compute, which read `argument`; without such, a node of this `operator`."""

    operator: str
    argument: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewBranchLayer:
    """A branch of its own behind the tensor `output` x, whose name it takes over: x + W2 phi(W1 x + b1) + b2.

    W2 and both biases are zero; the elements of W1 are normal, of standard `deviation`, drawn from `seed`. `hidden` channels lie between.
    Where x is stored in integers, `steps` are its scale and its zero point.
    """

    name: str
    output: str
    linear: Linear
    function: Function
    hidden: int
    deviation: float
    seed: int
    parameters: int = 0
    description: str = ""
    steps: tuple[str, ...] = ()
    scheme: Literal["residual-new"] = "residual-new"


@dataclass(frozen=True)
class ParametricLayer:
    """A layer that begins switched off behind the tensor `output` x, whose name it takes over: a x + (1 - a) phi(W x + b).

    W is the identity, b zero, a one, of shape `gate`: one number per channel.
    """

    name: str
    output: str
    linear: Linear
    function: Function
    gate: tuple[int, ...]
    parameters: int = 0
    description: str = ""
    scheme: Literal["parametric"] = "parametric"


InsertedLayer = IdentityLayer | ResidualLayer | NewBranchLayer | ParametricLayer


@dataclass(frozen=True)
class DeepenPlan:
    """How a model will be deepened: the new layers, what was considered and stays as it is (with reasons), and remarks."""

    layers: tuple[InsertedLayer, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        """One line of JSON with stable keys; `from_json` reads it back."""
        layers = []
        for layer in self.layers:
            data = asdict(layer)
            if isinstance(layer, IdentityLayer):
                data["statistics"] = layer.statistics and layer.statistics.to_data()
            layers.append(data)
        document = {"operation": "deepen", "layers": layers, "skipped": self.skipped, "notes": self.notes}
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> DeepenPlan:
        """Read a plan that `to_json` wrote. Raises InvalidRequestError for anything else."""
        try:
            data = json.loads(text)
            if data["operation"] != "deepen":
                raise ValueError("it is no plan for deepening")
            return cls(
                tuple(_LAYERS[layer["scheme"]](layer) for layer in data["layers"]),
                tuple((str(name), str(reason)) for name, reason in data["skipped"]),
                tuple(map(str, data["notes"])),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidRequestError(f"this is no plan that deepen wrote: {error}") from error

    def __str__(self) -> str:
        lines = [f"after {layer.name}: {layer.description}" for layer in self.layers]
        lines += [f"{name} stays: {reason}" for name, reason in self.skipped]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _identity(data: dict[str, Any]) -> IdentityLayer:
    statistics = data["statistics"] and Statistics.from_data(data["statistics"])
    bias = None if data["bias"] is None else tuple(data["bias"])
    changes = {"nodes": tuple(data["nodes"]), "kernel": tuple(data["kernel"]), "bias": bias}
    return IdentityLayer(**{**data, **changes, "statistics": statistics})


def _residual(data: dict[str, Any]) -> ResidualLayer:
    branches = tuple(
        ResidualBranch(
            **{**branch, "zeroed": tuple(branch["zeroed"]), "views": tuple(branch.get("views", ()))}
        )
        for branch in data["branches"]
    )
    return ResidualLayer(**{**data, "branches": branches, "tail": tuple(data["tail"])})


def _parts(data: dict[str, Any]) -> dict[str, Any]:
    linear, function = data["linear"], data["function"]
    layout, kernel = tuple(linear["layout"]), tuple(linear["kernel"])
    return {
        **data,
        "linear": Linear(**{**linear, "layout": layout, "kernel": kernel}),
        "function": Function(**{**function, "nodes": tuple(function["nodes"])}),
    }


def _new_branch(data: dict[str, Any]) -> NewBranchLayer:
    return NewBranchLayer(**{**_parts(data), "steps": tuple(data.get("steps", ()))})


def _parametric(data: dict[str, Any]) -> ParametricLayer:
    gate = tuple(data["gate"])
    if prod(gate) > MOST_CHANNELS:
        raise ValueError(f"a gate of shape {list(gate)} has more than {MOST_CHANNELS:,} numbers")
    return ParametricLayer(**{**_parts(data), "gate": gate})


_LAYERS: Mapping[str, Callable[[dict[str, Any]], InsertedLayer]] = {
    "identity": _identity,
    "residual-copy": _residual,
    "residual-new": _new_branch,
    "parametric": _parametric,
}


def _packed(values: tuple[float, ...]) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def _unpacked(text: str) -> tuple[float, ...]:
    return tuple(map(float, np.frombuffer(base64.b64decode(text), "<f4")))
