"""Running a model once in ONNX Runtime, on inputs that are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_grow.errors import InvalidModelError, VerificationFailedError
from onnx_grow.model import Model
from onnx_grow.verification import choose
from onnx_grow.verification.inputs import signature
from onnx_grow.verification.sessions import RunError, opened
from onnx_grow.verification.trials import Trials, made_up

__all__ = ["check_runs", "made_up_inputs"]

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, Sequence[int]]


def made_up_inputs(
    model: Model, path: Path, shapes: Shapes | None = None, count: int = 1
) -> list[Mapping[str, Array]]:
    """So many sets of inputs on which `model`, which lies at `path`, runs; errors as those of `onnx_grow.verify`."""
    return [feed.arrays for feed in _tried(model, path, shapes, count).feeds]


def check_runs(model: Model, path: Path, shapes: Shapes | None = None) -> None:
    """Raise InvalidModelError unless `model`, which lies at `path`, runs, VerificationFailedError where its results are not finite."""
    for results in _tried(model, path, shapes, 1).results:
        for name, array in results.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise VerificationFailedError(
                    f"with these weights the output {name!r} is not finite (NaN or infinite); nothing was written",
                    hint="the training has diverged: take an earlier checkpoint, and a lower learning rate",
                )


def _tried(model: Model, path: Path, shapes: Shapes | None, seeds: int) -> Trials:
    try:
        with opened(path, choose("cpu"), optimised=False) as session:
            trials = Trials(session.run)
            made_up(trials, model, signature(model), shapes or None, seeds)
    except RunError as error:
        raise InvalidModelError(f"the model does not load in ONNX Runtime: {error}") from None
    return trials
