"""What the original computes, and how much of that is rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnx_grow.errors import InvalidModelError, InvalidRequestError
from onnx_grow.model import Model, save
from onnx_grow.shapes.sizes import declared_inputs
from onnx_grow.verification.comparison import Deviation, Gauge, difference, gauge, is_exact
from onnx_grow.verification.datasets import Given, read
from onnx_grow.verification.inputs import Feed, signature
from onnx_grow.verification.node_by_node import NodeByNode
from onnx_grow.verification.noise import jittered, jittered_feed
from onnx_grow.verification.promotion import promoted, uses_bfloat16
from onnx_grow.verification.proof import PLAUSIBLE, Unprovable, run_in_float64
from onnx_grow.verification.providers import Device
from onnx_grow.verification.reordering import reordered
from onnx_grow.verification.sessions import Arrays, RunError, Session, opened
from onnx_grow.verification.trials import Trials, is_small, made_up

__all__ = ["Reference", "Stage", "measure"]

Array = np.ndarray[Any, Any]


DRAWS = (1, 3)
"""Measurements of the noise of a large and of a small model: the noise of a few numbers in one draw is a matter of luck."""


@dataclass(frozen=True)
class Stage:
    """Where models run: a device, and a folder for files that exist only for that; node by node if they do not fit there as a `whole`."""

    device: Device
    folder: Path
    whole: bool = True

    def source(self, model: Model, name: str) -> Path | Model:
        """What to open `model` from: its file, or the model itself where it runs node by node."""
        return self.file(model, name) if self.whole else model

    def file(self, model: Model, name: str) -> Path:
        """A file to open `model` from: its own, or one written into the folder if it has none or cannot run as it is."""
        if uses_bfloat16(model):
            model = promoted(model)
        if model.path is not None:
            return model.path
        return save(model, self.folder / f"{name}.onnx", force=True)

    @contextmanager
    def opened(self, source: Path | Model, *, optimised: bool) -> Iterator[Session | NodeByNode]:
        """A session from a `source`, with all graph optimisation or none; freed when the context ends. Raises RunError."""
        if isinstance(source, Model):
            yield NodeByNode(source)
            return
        with opened(source, self.device, optimised=optimised) as session:
            yield session


@dataclass(eq=False)
class Reference:
    """The original's results for every feed, without graph optimisation (`plain`) and with it (`fast`), and their noise.

    `gauges` holds what rounding does to each output, over the runs that `runs` lists. `fast` is empty if the original
    only runs without optimisation. `notes` says what was left out and why.
    """

    model: Model
    stage: Stage
    feeds: Sequence[Feed]
    plain: Sequence[Arrays]
    fast: Sequence[Arrays] = ()
    gauges: dict[str, Gauge] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    draws: int = 0

    def __post_init__(self) -> None:
        names = dict.fromkeys(name for arrays in self.plain for name in arrays)
        self.gauges = {name: gauge(self.results(name)) for name in names}

    def runs(self, name: str) -> list[int]:
        """The runs in which output `name` came."""
        return [run for run, arrays in enumerate(self.plain) if name in arrays]

    def results(self, name: str) -> list[Array]:
        """What output `name` was in those runs."""
        return [arrays[name] for arrays in self.plain if name in arrays]

    def shake(self) -> None:
        """Run the original once more, its values moved by rounding noise and its sums in another order, and learn from it."""
        self.draws += 1
        # In float64 the order of sums does not show, and a weight in another order is not read row by row.
        model = reordered(self.model, self.draws) if self.stage.whole else self.model
        moved = self.stage.source(jittered(model, self.draws), "moved")
        try:
            with self.stage.opened(moved, optimised=False) as session:
                self.learn([session.run(jittered_feed(feed.arrays, self.draws)) for feed in self.feeds])
        except RunError as error:
            self.notes.append(f"one measurement of the noise failed: {error}")

    def compare_with_float64(self) -> None:
        """Learn how far the results are from those in float64, too: sums over very many values lose more than moving them shows."""
        for index, feed in enumerate(self.feeds):
            try:
                exact = run_in_float64(self.model, feed.arrays)
            except Unprovable:
                return
            for name, learner in self.gauges.items():
                if index in self.runs(name) and not is_exact(self.plain[index][name]):
                    found = difference(self.plain[index][name], exact.get(name))
                    if isinstance(found, Deviation) and found.l2 <= PLAUSIBLE:
                        learner.learn(self.runs(name).index(index), found)

    def learn(self, noisy: Sequence[Arrays]) -> None:
        """Take in the results of runs that differ from `plain` by rounding alone."""
        for name, learner in self.gauges.items():
            for index, run in enumerate(self.runs(name)):
                learner.learn(index, difference(self.plain[run][name], noisy[run].get(name)))


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
    source = stage.source(model, "original")
    try:
        with stage.opened(source, optimised=False) as session:
            wanted = signature(promoted(model) if uses_bfloat16(model) else model)
            trials = Trials(session.run)
            if inputs is None:
                made_up(trials, model, wanted, shapes, seeds)
            else:
                _given(trials, model, read(inputs, wanted.dtypes))
    except RunError as error:
        raise InvalidModelError(
            f"the original does not load in ONNX Runtime: {error}", hint=model.upgrade
        ) from None
    reference = Reference(model, stage, trials.feeds, trials.results, notes=trials.notes)
    try:
        if stage.whole:
            with stage.opened(source, optimised=True) as session:
                reference.fast = [session.run(feed.arrays) for feed in reference.feeds]
            reference.learn(reference.fast)
    except RunError as error:
        reference.notes.append(
            f"compared without graph optimisation only, with it the original fails: {error}"
        )
    first = {name: array.shape for name, array in reference.feeds[0].arrays.items()}
    for _ in range(DRAWS[is_small(model, first)]):
        reference.shake()
    return reference


def _given(trials: Trials, model: Model, feeds: Sequence[Feed]) -> None:
    declared = declared_inputs(model)
    for feed in feeds:
        for name, array in feed.arrays.items():
            _check_shape(f"{feed.label}: input {name!r}", array.shape, declared.get(name))
        if problem := trials.problem(feed):
            raise InvalidRequestError(f"{feed.label}: the original does not run with it: {problem}")


def _check_shape(what: str, shape: tuple[int, ...], declared: Sequence[object] | None) -> None:
    """Raise InvalidRequestError where a shape is none that the file declares, rather than let ONNX Runtime say so."""
    if declared is None:
        return
    wrong = [
        k
        for k, (n, dim) in enumerate(zip(shape, declared, strict=False))
        if isinstance(dim, int) and n != dim
    ]
    if len(shape) == len(declared) and not wrong:
        return
    sizes = " x ".join(str(dim) if isinstance(dim, int) else "any" for dim in declared) or "a single number"
    raise InvalidRequestError(
        f"{what} is {' x '.join(map(str, shape)) or 'a single number'}, and the model takes {sizes}",
        hint=f"the file fixes the number of samples: give sets of {declared[0]}, a file or an entry of a list each"
        if wrong == [0]
        else "",
    )
