"""The state of an optimizer, grown with the network whose gradients it remembers."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.inheritance import Inheritance, inheritances
from onnx_grow.model import Model
from onnx_grow.torch import Network
from onnx_grow.torch.values import array_of, tensor_of

__all__ = ["grow_optimizer_state", "moments"]

POWERS: Mapping[str, int] = {
    "exp_avg": 1,
    "momentum_buffer": 1,
    "exp_inf": 1,
    "prev": 1,
    "grad_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "square_avg": 2,
    "sum": 2,
    "exp_avg_diff": 1,
}
"""What the optimizers of PyTorch remember of a gradient: itself (1) or its square (2), in running means, sums and maxima."""


def grow_optimizer_state(
    state: Mapping[str, Any],
    network: Network,
    optimizer: Optimizer,
    *,
    original: Model,
    grown: Model,
    names: Mapping[int, str] | None = None,
) -> None:
    """Give `optimizer`, which trains `network` (`grown`, in PyTorch), what the teacher's optimizer remembers of `original`.

    `state` is the teacher's `optimizer.state_dict()`; `names` tells which weight of `original` each of its numbers stands for. They
    are not needed if that optimizer was given `named_parameters()` under the names of the ONNX file, or the parameters of
    `onnx_grow.torch.load(original)` in order.

    Moments follow the growth (`onnx_grow.growth.inheritance`): where copies receive, each gets its part of the gradient, where they
    are summed, each the whole; squares get the squares of these factors. They are zero for what is fresh, as is all of a new layer,
    whose count of steps starts anew. A warm-up evens out what is only so in the mean.

    Raises InvalidRequestError where the state is not of `original`, or of another kind of optimizer, or where `grown` does not record
    how it came of `original`.
    """
    by_name = moments(state, original, names)
    heirs = inheritances(original, grown)
    _check_kind(by_name, optimizer)
    parameters = dict(network.named_parameters())
    managed = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in parameters.items():
        heir = heirs.get(name)
        if id(parameter) in managed and heir is not None and heir.source in by_name:
            optimizer.state[parameter] = {
                key: _grown(key, value, heir, parameter) for key, value in by_name[heir.source].items()
            }


def moments(
    state: Mapping[str, Any], original: Model, names: Mapping[int, str] | None = None
) -> dict[str, Mapping[str, Any]]:
    """What the state of an optimizer remembers of each weight of `original`. Raises InvalidRequestError where it is of another model."""
    known = names or _names(state, original)
    by_name = {known[number]: entry for number, entry in state["state"].items() if number in known}
    _check(by_name, original)
    return by_name


def _check_kind(by_name: Mapping[str, Mapping[str, Any]], optimizer: Optimizer) -> None:
    """Raise InvalidRequestError where the optimizer would remember something else."""
    found = {key for entry in by_name.values() for key, value in entry.items() if value is not None}
    trial = copy.copy(optimizer)
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    trial.state = defaultdict(dict)
    trial.param_groups = [{**optimizer.param_groups[0], "params": [parameter]}]
    trial.step()
    wanted = {key for key, value in trial.state[parameter].items() if value is not None}
    if found and found != wanted:
        raise InvalidRequestError(
            f"the state is of another kind of optimizer: it holds {_listed(found)}, and {type(optimizer).__name__} "
            f"remembers {_listed(wanted)}",
            hint="train with the optimizer of the teacher's training (optimizer() in train.py), or start with an empty state",
        )


def _listed(keys: set[str]) -> str:
    return ", ".join(sorted(keys)) or "nothing"


def _names(state: Mapping[str, Any], original: Model) -> dict[int, str]:
    """The weights that the numbers in a state stand for: as it names them, or else in the order of the network's parameters."""
    groups = state["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    if all("param_names" in group for group in groups):
        return dict(zip(numbers, (name for group in groups for name in group["param_names"]), strict=True))
    from onnx_grow.torch import load

    parameters = [name for name, _ in load(original, verify=False).named_parameters()]
    if len(parameters) != len(numbers):
        raise InvalidRequestError(
            f"the state of the optimizer is of {len(numbers)} parameters, and the original has {len(parameters)}",
            hint="say with names={number: name of the weight} which is which",
        )
    return dict(zip(numbers, parameters, strict=True))


def _check(by_name: Mapping[str, Mapping[str, Any]], original: Model) -> None:
    for name, entry in by_name.items():
        if name not in original.weights:
            raise InvalidRequestError(
                f"the state of the optimizer is of {name!r}, which the original does not have",
                hint="say with names={number: name of the weight} which is which",
            )
        for key, value in entry.items():
            shape = original.weights[name].shape
            if isinstance(value, Tensor) and value.dim() and tuple(value.shape) != shape:
                raise InvalidRequestError(
                    f"{key} of {name!r} has shape {list(value.shape)} in the state of the optimizer, and {list(shape)} in the original",
                    hint="give moments in the layout of the ONNX file: of a transposed weight, transposed",
                )


def _grown(key: str, value: Any, heir: Inheritance, parameter: nn.Parameter) -> Any:
    """A moment of the old weight as one of the new; what is no moment (the count of steps, say) as it is."""
    if not isinstance(value, Tensor) or not value.dim():
        return value.clone() if isinstance(value, Tensor) else value
    if key not in POWERS:
        raise InvalidRequestError(
            f"{key!r} of this optimizer is no moment that grows",
            hint="start with an empty state: warm up briefly",
        )
    moment = tensor_of(heir.moment(array_of(value.float()), POWERS[key]))
    return moment.to(parameter.device, value.dtype).reshape(parameter.shape)
