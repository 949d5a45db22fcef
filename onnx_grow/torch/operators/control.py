"""Control flow. A body is called with its inputs and gives a list of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnx_grow.torch.operators.unsupported import Unsupported
from onnx_grow.torch.values import Host, sizes, tensor_of

__all__ = ["TABLE"]

Body = Callable[..., list[Any]]


def branch(condition: Host, *, then_branch: Body, else_branch: Body) -> tuple[Any, ...]:
    """What one of two bodies gives."""
    return tuple(then_branch() if condition.reshape(()) else else_branch())


def loop(
    trips: Host | None = None,
    condition: Host | None = None,
    *carried: Any,
    body: Body,
    device: torch.device,
) -> tuple[Any, ...]:
    """A body that runs a number of times, or while it says so: the states at the end, and what it gave each time, stacked."""
    limit = None if trips is None else sizes(trips)[0]
    goes_on = condition is None or bool(condition.reshape(()))
    states: list[Any] = list(carried)
    scanned: list[list[Any]] = []
    count = 0
    while goes_on and (limit is None or count < limit):
        flag, *results = body(np.array(count), np.array(True), *states)
        states, scans = results[: len(states)], results[len(states) :]
        scanned.append(scans)
        goes_on = bool(flag.reshape(()))
        count += 1
    if not scanned:
        return tuple(states)
    return (
        *states,
        *(torch.stack([_tensor(entry, device) for entry in each]) for each in zip(*scanned, strict=True)),
    )


def scan(
    *inputs: Tensor,
    body: Body,
    num_scan_inputs: int,
    scan_input_axes: Sequence[int] = (),
    scan_input_directions: Sequence[int] = (),
    scan_output_axes: Sequence[int] = (),
    scan_output_directions: Sequence[int] = (),
    directions: Sequence[int] = (),
    opset: int,
    outputs: int,
    device: torch.device,
) -> tuple[Any, ...]:
    """A body that runs along an axis: the states at the end, and what it gave each time, stacked."""
    if opset < 9:
        raise Unsupported("it has the form of operator set 8")
    first = len(inputs) - num_scan_inputs
    states: list[Any] = list(inputs[:first])
    axes = list(scan_input_axes) or [0] * num_scan_inputs
    rows = [
        _reversed(x.unbind(axis), scan_input_directions, k)
        for k, (x, axis) in enumerate(zip(inputs[first:], axes, strict=True))
    ]
    scanned: list[list[Any]] = []
    for each in zip(*rows, strict=True):
        results = body(*states, *each)
        states = results[:first]
        scanned.append([_tensor(entry, device) for entry in results[first:]])
    stacked = []
    for k, column in enumerate(zip(*scanned, strict=True)):
        axis = scan_output_axes[k] if scan_output_axes else 0
        stacked.append(torch.stack(list(_reversed(column, scan_output_directions, k)), axis))
    return (*states, *stacked)


def _reversed(entries: Sequence[Any], directions: Sequence[int], k: int) -> Sequence[Any]:
    return entries[::-1] if directions and directions[k] else entries


def _tensor(value: Any, device: torch.device) -> Any:
    return tensor_of(value).to(device) if isinstance(value, np.ndarray) else value


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "If"): branch,
    ("", "Loop"): loop,
    ("", "Scan"): scan,
}
