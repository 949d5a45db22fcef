"""Will a grown network learn? What must hold after the first steps of its training, tried on a copy."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnx_grow.errors import InvalidModelError, InvalidRequestError
from onnx_grow.growth.inheritance import Inheritance, inheritances
from onnx_grow.model import Model, save
from onnx_grow.torch import Network
from onnx_grow.torch import load as network_of
from onnx_grow.torch.values import array_of, tensor_of
from onnx_grow.training.data import interface, read_examples
from onnx_grow.training.runs import made_up_inputs
from onnx_grow.verification import Check

__all__ = ["LearningReport", "check_learning", "made_up_goal", "trial_inputs"]

Array = np.ndarray[Any, Any]
Mask = NDArray[np.bool_]
Loss = Callable[[nn.Module, int], Tensor]
"""The loss of a network in a step of the check, counted from 0; the teacher's and the grown network's are the same."""

REACHED = 0.99
"""The part of the new parameters that must have received a gradient within two steps."""
STEPS = 10
"""Steps after which no two copies may be equal any more, unless others are asked for."""
RATE = 1e-3
"""Learning rate of these steps, but for the first two: they only move what is zero, so that the same units are awake in both."""
SAMPLES = 64
"""Inputs that are looked at, where there are as many."""
FEW = 8
"""Batches that are made up where the model does not take so many samples at a time, and has more than ..."""
SMALL = 1_000_000
"""... so many parameters."""

FINITE = "gradients are finite"
REACHES = "gradient reaches every parameter"
ALIVE = "no dead layers"
DIFFER = "copies become different"
FOLLOW = "BatchNormalization's statistics follow the data"
_ADVICE = {
    FINITE: "made-up inputs may be of another size than the network is made for: try real ones (--data)",
    REACHES: "real examples (--data) may wake more of it; of units drawn at random (--scheme fresh) some are dead from the start, "
    "of copies (--scheme split) only those of dead ones",
    ALIVE: "no output that training looks at depends on them, or every unit of theirs is dead: real examples (--data) tell more",
    DIFFER: "copies that share equally get equal gradients for ever: grow with '--scheme split' or '--scheme noise'",
    FOLLOW: "their inputs are the same whatever the examples are: real ones (--data) tell more",
}
"""What to do, by the name of the check that failed."""


@dataclass(frozen=True)
class LearningReport:
    """What was checked, and what may be worth knowing though it is no fault."""

    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return all(check.ok for check in self.checks)

    @property
    def advice(self) -> str:
        """What to do about the first check that failed."""
        return next((_ADVICE[check.name] for check in self.checks if not check.ok), "")

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md."""
        checks = [{"name": each.name, "ok": each.ok, "detail": each.detail} for each in self.checks]
        return {"ok": self.ok, "checks": checks, "warnings": list(self.warnings)}

    def __str__(self) -> str:
        lines = [f"{'ok    ' if each.ok else 'FAILED'}  {each.name}: {each.detail}" for each in self.checks]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def trial_inputs(
    model: Model, data: str | None = None, shapes: Mapping[str, Sequence[int]] | None = None
) -> list[tuple[Array, ...]]:
    """Inputs to check a model with, batch by batch: the first of some `data` (files as `train.py` takes them, labelled or not), or made up.

    `shapes` fixes those of inputs that the file leaves open. Raises InvalidRequestError for data that do not fit the model.
    """
    taken = interface(model)
    if data is not None:
        examples = read_examples(data, model, labelled=False)
        size = taken.batch or SAMPLES
        starts = range(0, min(len(examples) - size + 1, SAMPLES), size) or range(1)
        return [examples.__getitems__(range(k, min(k + size, len(examples))))[0] for k in starts]
    with tempfile.TemporaryDirectory(prefix="onnx-grow-", ignore_cleanup_errors=True) as folder:
        file = save(model, Path(folder, "model.onnx"))
        count = SAMPLES if taken.batch == 1 and model.parameters < SMALL else FEW
        feeds = made_up_inputs(model, file, shapes, count)
        if taken.batch is None and not shapes:
            many = {name: (SAMPLES, *array.shape[1:]) for name, array in feeds[0].items() if array.ndim}
            with suppress(InvalidModelError, InvalidRequestError):  # where so many do not fit, few have to do
                feeds = made_up_inputs(model, file, many, 1)
    return [tuple(feed[name] for name in taken.inputs) for feed in feeds]


def made_up_goal(batches: Sequence[Sequence[Array]], seed: int = 0) -> Loss:
    """The mean squared distance of what a network makes of some inputs from random numbers, new ones in each step."""
    tensors = [[tensor_of(np.asarray(array)) for array in batch] for batch in batches]

    def loss(network: nn.Module, step: int) -> Tensor:
        total = torch.zeros(())
        for k, batch in enumerate(tensors):
            results = network(*batch)
            for i, result in enumerate(results if isinstance(results, tuple) else (results,)):
                if isinstance(result, Tensor) and result.is_floating_point() and result.requires_grad:
                    drawn = np.random.default_rng([seed, step, k, i]).standard_normal(tuple(result.shape))
                    total = total + (result.double() - tensor_of(drawn)).square().mean()
        if not total.requires_grad:
            raise InvalidRequestError(
                "no output of the model depends on its parameters: there is nothing to train"
            )
        return total / len(tensors)

    return loss


def check_learning(
    model: Model, network: Network, loss: Loss, teacher: Model | None = None, *, steps: int = STEPS
) -> LearningReport:
    """Train a copy of `network` (`model`, in PyTorch) for some `steps`, two at least, and look whether all of it learns.

    With the `teacher` that it grew from, new parameters are told from old ones, and what is dead already in the teacher is no fault:
    only a warning. Without, what no example wakes is a warning only. `network` itself stays as it is.

    Raises InvalidRequestError where `model` does not record how it grew from `teacher`.
    """
    trial = copy.deepcopy(network).eval()  # in which it computes what the teacher does, without Dropout
    twins = _twins(trial)
    before = {name: array_of(tensor) for name, tensor in trial.state_dict().items()}
    optimizer = _optimizer(trial)
    reached = _stepped(trial, optimizer, loss, range(2))
    finite = all(bool(torch.isfinite(p).all()) for p in trial.parameters())
    device = next((p.device for p in trial.parameters()), torch.device("cpu"))
    gradient, notes = _gradient(model, reached, teacher, loss, device)
    _stepped(trial.train(), optimizer, loss, range(2, steps))
    return LearningReport(
        (
            Check(FINITE, finite, "in all parameters" if finite else "parameters became infinite or NaN"),
            *gradient,
            _divergence(twins, before, trial, steps),
            *_statistics(model, before, trial),
        ),
        tuple(notes),
    )


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Adam, whose usual eps is zero in half precision."""
    half = any(parameter.dtype == torch.float16 for parameter in network.parameters())
    return torch.optim.Adam(network.parameters(), eps=1e-4 if half else 1e-8)


def _stepped(
    network: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, steps: range
) -> dict[str, Mask]:
    """Take some steps; by parameter, which elements received a gradient in any of them."""
    reached: dict[str, Mask] = {}
    finest = max((torch.finfo(p.dtype).eps for p in network.parameters()), default=RATE)
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 4 * finest if step < 2 else RATE
        optimizer.zero_grad()
        loss(network, step).backward()
        for name, parameter in network.named_parameters():
            gradient = parameter.grad
            found = np.zeros(tuple(parameter.shape), bool) if gradient is None else array_of(gradient != 0)
            reached[name] = found | reached.get(name, np.zeros_like(found))
        optimizer.step()
    return reached


def _gradient(
    model: Model, reached: Mapping[str, Mask], teacher: Model | None, loss: Loss, device: torch.device
) -> tuple[list[Check], list[str]]:
    """Whether the gradient reaches what is new, and what it does not reach for a reason."""
    new, asleep = _expected(model, reached, teacher, loss, device)
    counted = {name: new[name] & ~asleep[name] for name in reached}
    total = sum(int(mask.sum()) for mask in counted.values())
    missed = {name: int((mask & ~reached[name]).sum()) for name, mask in counted.items()}
    share = 1 - sum(missed.values()) / total if total else 1.0
    what = "new parameters" if teacher is not None else "parameters"
    detail = f"{100 * share:.2f} % of {total:,} {what} within two steps"
    if share < 1:
        worst = max(missed, key=lambda name: missed[name])
        detail += f"; most are missing in {worst!r} ({missed[worst]:,} of {counted[worst].sum():,})"
    every = sum(int(mask.sum()) for mask in new.values())
    if every and not total:
        detail = (
            f"none of {every:,} {what} receives one from these examples: real ones may tell more (--data)"
        )
    dead = [name for name, mask in reached.items() if not mask.any() and new[name].any()]
    dead = [name for name in dead if not asleep[name].all() or teacher is None]
    checks = [
        Check(REACHES, share >= REACHED and bool(total or not every), detail),
        Check(ALIVE, not dead, f"no gradient at all in {_some(dead)}" if dead else "none"),
    ]
    sleeping = sum(
        int((mask & new[name] & ~reached[name] & ~_met(reached[name])).sum()) for name, mask in asleep.items()
    )
    if not sleeping:
        return checks, []
    origin = "in the teacher either" if teacher is not None else "(--teacher tells whether one did before)"
    told = f"{sleeping:,} of {every:,} {what} belong to units or inputs that no example wakes {origin}"
    return checks, [told]


def _expected(
    model: Model, reached: Mapping[str, Mask], teacher: Model | None, loss: Loss, device: torch.device
) -> tuple[dict[str, Mask], dict[str, Mask]]:
    """By parameter, which elements are new, and which need no gradient.

    A copy needs none where its original has none in the teacher. What is copied from nothing needs none where its input or its unit
    has none at all, and was there before; nor where both have one, but never in the same example. What is reached in another tensor
    of the same origin only is not new here: nothing reads it.
    """
    everything = {name: np.ones_like(mask) for name, mask in reached.items()}
    if teacher is None:
        return everything, {name: _silent(mask) | _met(mask) for name, mask in reached.items()}
    heirs = inheritances(teacher, model)
    alive = _alive(teacher, loss, device)
    new, asleep = {}, {}
    for name, mask in reached.items():
        heir = heirs.get(name)
        if heir is None or heir.source not in alive:
            new[name], asleep[name] = everything[name], _silent(mask) | _met(mask)
            continue
        source = alive[heir.source]
        new[name] = heir.is_new(source.shape)
        copied = heir.taken(np.ones(source.shape, bool))
        asleep[name] = np.where(copied, heir.taken(~source), _silent(mask, ~new[name]) | _met(mask))
        new[name] &= mask | ~_elsewhere(name, heirs, reached)
    return new, asleep


def _elsewhere(name: str, heirs: Mapping[str, Inheritance], reached: Mapping[str, Mask]) -> Mask:
    """The elements that receive a gradient in another tensor with the same origin.

    A weight of several places becomes several where these need different shares; of each its place may read a part only, as of the
    stacked gates of a recurrent cell.
    """
    found = np.zeros_like(reached[name])
    for other, mask in reached.items():
        same = other in heirs and heirs[other].source == heirs[name].source
        if same and other != name and mask.shape == found.shape:
            found |= mask
    return found


def _alive(teacher: Model, loss: Loss, device: torch.device) -> dict[str, Mask]:
    """Which elements of the teacher's parameters receive a gradient in the first step, at which both compute the same."""
    network = network_of(teacher, verify=False).to(device)
    return _stepped(network, _optimizer(network), loss, range(1))


def _silent(reached: Mask, old: Mask | None = None) -> Mask:
    """The elements in rows, columns and so on in which nothing (nothing `old`, where that is known) receives a gradient.

    Nothing is silent in a parameter that receives none at all: it is cut off.
    """
    out = np.zeros_like(reached)
    for dim in range(reached.ndim) if reached.any() else ():
        seen = ~_any(reached, dim) if old is None else _any(old, dim) & ~_any(reached & old, dim)
        out |= seen
    return out


def _met(reached: Mask) -> Mask:
    """The elements without a gradient in rows, columns and so on of which every one has some: these all learn."""
    learns = [_any(reached, dim) for dim in range(reached.ndim)]
    return np.logical_and.reduce(np.broadcast_arrays(~reached, *learns))


def _any(mask: Mask, dim: int) -> Mask:
    """Whether anything holds for an index of a dimension, shaped to broadcast."""
    return np.asarray(mask.any(axis=tuple(d for d in range(mask.ndim) if d != dim), keepdims=True))


Twins = Mapping[str, Sequence[tuple[int, int, int]]]
"""By parameter, pairs of indices of a dimension at which it holds the same: dimension, index, index."""


def _twins(network: nn.Module) -> dict[str, list[tuple[int, int, int]]]:
    """The copies: equal slices of parameters of more than one dimension, none of them all zero."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for name, parameter in network.named_parameters():
        values = array_of(parameter)
        if values.ndim < 2:
            continue
        for dim in range(values.ndim):
            first: dict[bytes, int] = {}
            for index, row in enumerate(np.moveaxis(values, dim, 0)):
                key = row.tobytes()
                if first.setdefault(key, index) != index and row.size > 1 and row.any():
                    found.setdefault(name, []).append((dim, first[key], index))
    return found


def _divergence(twins: Twins, before: Mapping[str, Array], network: nn.Module, steps: int) -> Check:
    """Whether copies are different after the steps, but for those that have not moved at all: these are asleep, or saturated."""
    count, alike = 0, []
    for name, parameter in network.named_parameters():
        values = array_of(parameter)
        for dim, i, j in twins.get(name, ()):
            first, second = np.take(values, i, dim), np.take(values, j, dim)
            start = np.take(before[name], i, dim)
            if np.array_equal(first, start) and np.array_equal(second, start):
                continue
            count += 1
            if np.array_equal(first, second):
                alike.append(f"{i} and {j} of dimension {dim} in {name!r}")
    detail = f"{count:,} copies that were equal differ after {steps} steps" if count else "there are none"
    if alike:
        detail = f"{len(alike):,} of {count:,} are still equal after {steps} steps, such as {alike[0]}"
    return Check(DIFFER, not alike, detail)


def _statistics(model: Model, before: Mapping[str, Array], network: nn.Module) -> list[Check]:
    """Whether the running statistics of every BatchNormalization have moved."""
    state = network.state_dict()
    running = [
        name
        for node in model.skeleton.graph.node
        if node.op_type == "BatchNormalization"
        and not any(a.name == "momentum" and a.f == 1 for a in node.attribute)
        for name in node.input[3:5]
        if name in state
    ]
    if not running:
        return []
    still = [name for name in running if np.array_equal(before[name], array_of(state[name]))]
    detail = f"{_some(still)} stayed as it was" if still else f"all {len(running)} have moved"
    return [Check(FOLLOW, not still, detail)]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}" if names else "none"
