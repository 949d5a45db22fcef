"""Whether a network knows more of some data than chance: data that were prepared in another way than its own show here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SAMPLES", "Chance", "chance"]

Outputs = Mapping[str, Tensor]
Batches = Iterable[tuple[Outputs, Tensor]]

SAMPLES = 256
"""Samples that are looked at, where there are as many."""
HARDLY = 0.1
"""The part of what a constant answer leaves to gain that a network which knows the data has gained."""


@dataclass(frozen=True)
class Chance:
    """Loss and measures of a network, and of one answer for all inputs: its mean or zero, whichever loses less."""

    own: Mapping[str, float]
    constant: Mapping[str, float]

    @property
    def is_hardly_better(self) -> bool:
        """Whether looking at its inputs gains next to nothing: no smaller loss and no larger measure (1 is the best)."""
        bound = self.constant["loss"] - HARDLY * abs(self.constant["loss"])
        measures = [name for name in self.own if name != "loss"]
        return not self.own["loss"] < bound and not any(
            self.own[name] > self.constant[name] + HARDLY * (1 - self.constant[name]) for name in measures
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {self.own[name]:.3g} and {self.constant[name]:.3g}" for name in self.own)


def chance(
    batches: Callable[[], Batches], measured: Callable[[Outputs, Tensor], Mapping[str, float]]
) -> Chance | None:
    """Compare what a network gives for some batches (the same ones each time they are asked for) with one answer for all of them.

    Outputs that have nothing to do with the targets lose more than their mean does, whatever the loss, if it is convex; where they are
    large, even their mean loses more than zeros, which as logits favour no class. None where the shapes of outputs differ from
    batch to batch, so that there is no mean.
    """
    totals: dict[str, Tensor] = {}
    count = 0
    for outputs, _ in batches():
        sums = {name: _rows(output).double().sum(0) for name, output in outputs.items()}
        if any(name in totals and totals[name].shape != total.shape for name, total in sums.items()):
            return None
        totals = {name: totals.get(name, torch.zeros_like(total)) + total for name, total in sums.items()}
        rows = [len(_rows(output)) for output in outputs.values()]
        if len(set(rows)) != 1:
            return None
        count += rows[0]
    own: dict[str, float] = {}
    mean: dict[str, float] = {}
    nothing: dict[str, float] = {}
    samples = 0
    for outputs, targets in batches():
        middle = {
            name: (totals[name] / count).to(output.dtype).expand(output.shape)
            for name, output in outputs.items()
        }
        zero = {name: torch.zeros_like(output) for name, output in outputs.items()}
        samples += len(targets)
        for numbers, found in ((own, outputs), (mean, middle), (nothing, zero)):
            for name, value in measured(found, targets).items():
                numbers[name] = numbers.get(name, 0.0) + len(targets) * value
    if not samples:
        return None
    constant = min(mean, nothing, key=lambda numbers: numbers["loss"])
    return Chance(*({name: total / samples for name, total in each.items()} for each in (own, constant)))


def _rows(output: Tensor) -> Tensor:
    return output if output.ndim else output[None]
