"""What the original computes, and how much of that is rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnx_grow.errors import InvalidModelError, InvalidRequestError
from onnx_grow.model import Model, save
from onnx_grow.verify.comparison import INCOMPARABLE, NOTHING, Deviation, deviation, is_exact
from onnx_grow.verify.datasets import Given, read
from onnx_grow.verify.inputs import Feed, signature
from onnx_grow.verify.noise import jittered, jittered_feed
from onnx_grow.verify.promotion import promoted, uses_bfloat16
from onnx_grow.verify.providers import Device
from onnx_grow.verify.sessions import Arrays, RunError, opened
from onnx_grow.verify.trials import Trials, made_up

__all__ = ["Reference", "Stage", "deviations", "measure"]


SMALL = 4 << 20
"""Bytes of weights below which looking longer costs next to nothing."""
SEEDS = (3, 9)
DRAWS = (1, 3)
"""Seeds, and measurements of the noise, of a large and of a small model. Small models often take one sample at a time, in
which many units are silent, and have few outputs, whose noise in one draw is a matter of luck."""


@dataclass(frozen=True)
class Stage:
    """Where models run: a device, and a folder for files that exist only for that."""

    device: Device
    folder: Path

    def file(self, model: Model, name: str) -> Path:
        """A file to open `model` from: its own, or one written into the folder if it has none or cannot run as it is."""
        if uses_bfloat16(model):
            model = promoted(model)
        if model.path is not None:
            return model.path
        return save(model, self.folder / f"{name}.onnx", force=True)


@dataclass(eq=False)
class Reference:
    """The original's results for every feed, without graph optimisation (`plain`) and with it (`fast`), and their noise.

    `noise[run][output]` is the largest deviation between runs that differ by rounding alone. `fast` is empty if the
    original only runs without optimisation. `notes` says what was left out and why.
    """

    model: Model
    stage: Stage
    feeds: Sequence[Feed]
    plain: Sequence[Arrays]
    fast: Sequence[Arrays] = ()
    noise: Sequence[dict[str, Deviation]] = ()
    notes: list[str] = field(default_factory=list)
    draws: int = 0

    def shake(self, *, steps: int = 1) -> None:
        """Run the original once more with weights and inputs moved by `steps` units in the last place, and add to the noise.

        With more than one step only exact outputs learn from it, those that a tie could flip.
        """
        self.draws += 1
        moved = self.stage.file(jittered(self.model, self.draws, steps=steps), "moved")
        try:
            with opened(moved, self.stage.device, optimised=False) as session:
                for feed, plain, noise in zip(self.feeds, self.plain, self.noise, strict=True):
                    found = deviations(
                        plain, session.run(jittered_feed(feed.arrays, self.draws, steps=steps))
                    )
                    for name, each in found.items():
                        if steps == 1 or is_exact(plain[name]):
                            noise[name] |= each
        except RunError as error:
            self.notes.append(f"one measurement of the noise failed: {error}")

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return list(dict.fromkeys(name for arrays in self.plain for name in arrays))

    def runs(self, name: str) -> list[int]:
        """The runs in which output `name` came."""
        return [run for run, arrays in enumerate(self.plain) if name in arrays]

    def results(self, name: str) -> list[np.ndarray[Any, Any]]:
        """What output `name` was in those runs."""
        return [self.plain[run][name] for run in self.runs(name)]


def measure(
    model: Model,
    stage: Stage,
    *,
    inputs: Given | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seeds: int | None = None,
) -> Reference:
    """Run the original on the inputs given, or on made-up ones, and measure its rounding noise.

    Raises InvalidModelError if ONNX Runtime does not load the model, or runs it with nothing that we try, and
    InvalidRequestError if it does not run with what the caller gave.
    """
    small = sum(weight.nbytes for weight in model.weights.values()) < SMALL
    wanted = signature(promoted(model) if uses_bfloat16(model) else model)
    path = stage.file(model, "original")
    try:
        with opened(path, stage.device, optimised=False) as session:
            trials = Trials(session.run)
            if inputs is None:
                made_up(trials, model, wanted, shapes, seeds or SEEDS[small])
            else:
                for feed in read(inputs, wanted.dtypes):
                    if problem := trials.problem(feed):
                        raise InvalidRequestError(
                            f"{feed.label}: the original does not run with it: {problem}"
                        )
    except RunError as error:
        raise InvalidModelError(f"the original does not load in ONNX Runtime: {error}") from None
    noise = [dict.fromkeys(arrays, NOTHING) for arrays in trials.results]
    reference = Reference(model, stage, trials.feeds, trials.results, noise=noise, notes=trials.notes)
    try:
        with opened(path, stage.device, optimised=True) as session:
            reference.fast = [session.run(feed.arrays) for feed in reference.feeds]
    except RunError as error:
        reference.notes.append(
            f"compared without graph optimisation only, with it the original fails: {error}"
        )
    for own, plain, fast in zip(noise, reference.plain, reference.fast, strict=False):
        for name, each in deviations(plain, fast).items():
            own[name] |= each
    for _ in range(DRAWS[small]):
        reference.shake()
    return reference


def deviations(plain: Mapping[str, np.ndarray[Any, Any]], other: Arrays) -> dict[str, Deviation]:
    """How far every output of a run lies from the reference; infinite where it is missing."""
    return {
        name: deviation(array, other[name]) if name in other else INCOMPARABLE
        for name, array in plain.items()
    }
