"""Finding input sizes that the original runs with: what a file declares is often more than what the network accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from math import prod
from typing import Any

import numpy as np

from onnx_grow.errors import InvalidModelError, InvalidRequestError
from onnx_grow.model import Model
from onnx_grow.shapes import asked, candidates
from onnx_grow.shapes.sizes import dynamic_dims
from onnx_grow.verification.inputs import Feed, Signature, told
from onnx_grow.verification.sessions import Arrays, RunError

__all__ = ["Trials", "is_small", "made_up"]

Array = np.ndarray[Any, Any]
Sizes = Mapping[str, tuple[int, ...]]
Shapes = Mapping[str, Sequence[int]] | None

LARGE = 1 << 16
"""Elements of an input above which a made-up batch is cut down: networks for large inputs are slow, and two samples do."""
SMALL = 4 << 20
"""Bytes of weights below which a model may be run more often."""
SEEDS = (3, 9)
"""Seeds for a large and for a small model. A small one often takes a single sample, in which many units are silent."""
FIRST_TRIALS = 60
SECOND_TRIALS = 8
LAST_TRIALS = 4


@dataclass
class Trials:
    """The feeds that the original runs, its results for them, and notes on what was left out."""

    run: Callable[[Mapping[str, Array]], Arrays]
    feeds: list[Feed] = field(default_factory=list)
    results: list[Arrays] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem(self, feed: Feed) -> str:
        """Run a feed and keep it with its result; what ONNX Runtime says if it does not run, else nothing."""
        try:
            self.results.append(self.run(feed.arrays))
        except RunError as error:
            return str(error)
        self.feeds.append(feed)
        return ""

    def drop(self, index: int) -> None:
        """Forget one feed and its result."""
        del self.feeds[index], self.results[index]


def made_up(trials: Trials, model: Model, wanted: Signature, shapes: Shapes, seeds: int | None) -> None:
    """Fill `trials` with feeds of `seeds` seeds (by default as many as `SEEDS` says), every open dim in two sizes if possible.

    Raises InvalidRequestError if the original does not run with the shapes given, InvalidModelError if with none at all.
    """
    first = _first(trials, model, wanted, shapes)
    _second(trials, model, wanted, shapes, first)
    if not wanted.dtypes:
        return
    for seed in range(len(trials.feeds), seeds or SEEDS[is_small(model, first)]):
        feed = wanted.feed(first, seed)
        if problem := trials.problem(feed):
            trials.notes.append(f"{feed.label} left out, the original does not run with it: {problem}")


def is_small(model: Model, sizes: Sizes) -> bool:
    """Whether running the model once more costs next to nothing."""
    return sum(weight.nbytes for weight in model.weights.values()) < SMALL and _elements(sizes) <= LARGE


def _first(trials: Trials, model: Model, wanted: Signature, shapes: Shapes) -> Sizes:
    first_problem = ""
    usual = islice(_sizes(model, shapes, samples=1), FIRST_TRIALS)
    for sizes in chain(usual, islice(asked(model, shapes), LAST_TRIALS)):
        problem = trials.problem(wanted.feed(sizes, 0))
        if not problem:
            return sizes
        first_problem = first_problem or problem
    if shapes:
        raise InvalidRequestError(f"the original does not run with the shapes given: {first_problem}")
    raise InvalidModelError(
        f"the original does not run: {first_problem}",
        hint="give the shapes of its inputs (--shape NAME:1,3,224,224, in Python shapes=) or the inputs themselves (--inputs, inputs=)",
    )


def _second(trials: Trials, model: Model, wanted: Signature, shapes: Shapes, first: Sizes) -> None:
    """Run the second seed with sizes that differ from the first in as many open dims as possible, if there are any."""
    dims = [(name, axis) for name, axes in dynamic_dims(model).items() if name in first for axis in axes]
    most = 0
    failed: list[str] = []
    for sizes in _sizes(model, shapes, samples=2):
        changed = sum(sizes[name][axis] != first[name][axis] for name, axis in dims)
        if changed <= most or _elements(sizes) > 4 * _elements(first):
            continue
        if len(failed) == SECOND_TRIALS:
            break
        feed = wanted.feed(sizes, 1)
        if trials.problem(feed):
            failed.append(told(sizes))
            continue
        if most:
            trials.drop(1)
        most = changed
        if changed == len(dims):
            return
    if failed:
        trials.notes.append(
            f"other sizes of inputs left out, the original does not run with them: {failed[0]}{' …' if len(failed) > 1 else ''}"
        )


def _sizes(model: Model, shapes: Shapes, samples: int) -> Iterator[Sizes]:
    """Candidate sizes; a made-up batch is cut down, to no less than `samples`, where inputs would become large."""
    free = dynamic_dims(model)
    for sizes in candidates(model, shapes):
        batches = {shape[0] for name, shape in sizes.items() if 0 in free[name]}
        largest = _elements(sizes)
        if shapes or len(batches) != 1 or largest <= LARGE:
            yield sizes
            continue
        (batch,) = batches
        smaller = min(batch, max(samples, LARGE * batch // largest))
        yield {
            name: tuple(
                smaller if axis in free[name] and size == batch else size for axis, size in enumerate(shape)
            )
            for name, shape in sizes.items()
        }


def _elements(sizes: Sizes) -> int:
    """Elements of the largest input."""
    return max(map(prod, sizes.values()), default=0)
