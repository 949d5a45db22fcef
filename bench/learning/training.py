"""Training an ONNX model in PyTorch, the same way whatever it starts from."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from data import Data
from starts import Values
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import onnx_grow as og
import onnx_grow.torch
from onnx_grow.training import grow_optimizer_state

Shapes = Mapping[str, tuple[int, ...]]
Memory = dict[str, Any]

EARLY = (2, 5, 10, 20, 35, 50, 75, 100)
"""Steps at which every run is evaluated; later ones follow every tenth of it."""


@dataclass(frozen=True)
class Settings:
    """How a run trains: SGD with momentum 0.9, or AdamW; linear warm-up for a part of the steps, then a half cosine to zero."""

    optimizer: str
    rate: float
    steps: int
    batch: int
    seed: int
    warmup: float = 0.05
    constant: bool = False

    def optimizer_of(self, module: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for p in module.parameters() if p.requires_grad]
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, self.rate, momentum=0.9, weight_decay=1e-4, fused=True)
        return torch.optim.AdamW(parameters, self.rate, weight_decay=1e-2, fused=True)

    def scale(self, step: int) -> float:
        """The learning rate of a step, as a part of the largest."""
        start = max(1, round(self.warmup * self.steps))
        if step < start:
            return (step + 1) / start
        rest = (step - start) / max(1, self.steps - start)
        return 1.0 if self.constant else 0.5 * (1.0 + math.cos(math.pi * rest))


@dataclass
class Outcome:
    """What a run led to: [step, loss, accuracy] of the evaluation data as it went on, the trained module, the optimizer's state."""

    module: nn.Module
    memory: Memory = field(default_factory=dict)
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    reached: float | None = None
    twins: tuple[int, int] | None = None
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        return {
            "curve": self.curve,
            "gradient": self.reached,
            "twins": self.twins,
            "seconds": round(self.seconds, 2),
        }


def train(
    model: og.Model,
    data: Data,
    settings: Settings,
    values: Values,
    old: Shapes | None = None,
    past: tuple[og.Model, Memory] | None = None,
) -> Outcome:
    """Train a model from its own weights, some of them replaced by `values`.

    With `old`, the shapes of the teacher's weights, the outcome also tells what has become of new weights and of copies. With `past`, a
    teacher and the state of its optimizer, training begins with that state, grown.
    """
    start = time.process_time()
    torch.manual_seed(settings.seed)
    module = onnx_grow.torch.load(model)
    _assign(module, values)
    outcome = Outcome(module)
    optimizer = settings.optimizer_of(module)
    if past is not None:
        grow_optimizer_state(past[1], module, optimizer, original=past[0], grown=model)
    stops = {*EARLY, *(round(k * settings.steps / 10) for k in range(11))}
    new = _New(module, old) if old is not None else None
    outcome.curve.append((0, *evaluate(module, data)))
    for step, (inputs, labels) in enumerate(data.batches(settings.batch, settings.seed), 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * settings.scale(step - 1)
        optimizer.zero_grad()
        loss = loss_of(module(inputs), labels)
        loss.backward()
        optimizer.step()
        if new is not None:
            new.look(step, outcome)
        if step in stops:
            outcome.curve.append((step, *evaluate(module, data)))
            if not math.isfinite(outcome.curve[-1][1]):
                break
        if step == settings.steps:
            break
    outcome.memory = optimizer.state_dict()
    outcome.seconds = time.process_time() - start
    return outcome


def evaluate(module: nn.Module, data: Data) -> tuple[float, float]:
    """Loss and accuracy on the evaluation data, in evaluation mode; the module is left in training mode."""
    module.eval()
    with torch.no_grad():
        logits = module(data.test_inputs)
        loss = float(loss_of(logits, data.test_labels))
        accuracy = float((logits.argmax(-1) == data.test_labels).float().mean())
    module.train()
    return round(loss, 5), round(accuracy, 5)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy, over all characters of a text."""
    return cross_entropy(logits.flatten(0, -2), labels.flatten())


def _assign(module: nn.Module, values: Values) -> None:
    state = module.state_dict()
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(torch.from_numpy(value))


class _New:
    """Watches the first steps: does gradient reach every new weight, and do equal rows of weights become different?"""

    def __init__(self, module: nn.Module, old: Shapes) -> None:
        names = {id(tensor): name for name, tensor in module.state_dict(keep_vars=True).items()}
        self.weights = [(p, old.get(names[id(p)])) for p in module.parameters()]
        self.touched = [torch.zeros_like(p, dtype=torch.bool) for p, _ in self.weights]
        self.twins = [(p, _equal_rows(p)) for p, _ in self.weights if p.ndim > 1]

    def look(self, step: int, outcome: Outcome) -> None:
        if step <= 2:
            for (p, _), touched in zip(self.weights, self.touched, strict=True):
                if p.grad is not None:
                    touched |= p.grad != 0
        if step == 2:
            fresh = [
                _outside(touched, shape)
                for (_, shape), touched in zip(self.weights, self.touched, strict=True)
            ]
            every = torch.cat(fresh)
            outcome.reached = float(every.float().mean()) if len(every) else 1.0
        if step == 100:
            pairs = sum(len(rows) for _, rows in self.twins)
            still = sum(
                int((p[rows[:, 0]] == p[rows[:, 1]]).flatten(1).all(1).sum())
                for p, rows in self.twins
                if len(rows)
            )
            outcome.twins = (pairs, still)


def _outside(touched: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """The elements that are not in the corner which the teacher's weight had."""
    new = torch.ones_like(touched)
    if shape is not None:
        new[tuple(slice(n) for n in shape)] = False
    return touched[new]


def _equal_rows(p: Tensor) -> Tensor:
    """Pairs of rows that are equal and not zero."""
    rows = p.detach().flatten(1)
    _, group = rows.unique(dim=0, return_inverse=True)
    first: dict[int, int] = {}
    pairs = []
    for k, number in enumerate(group.tolist()):
        if number in first and rows[k].any():
            pairs.append((first[number], k))
        first.setdefault(number, k)
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
