"""Does a network compute in PyTorch what its model computes in ONNX Runtime? The standard is that of `onnx_grow.verify`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onnx_grow.errors import VerificationFailedError
from onnx_grow.model import Model, inlined
from onnx_grow.torch.conversion import converted
from onnx_grow.torch.values import array_of, tensor_of
from onnx_grow.verification import EXACT, Output, choose, doubled
from onnx_grow.verification.datasets import Given
from onnx_grow.verification.proof import PLAUSIBLE, Unprovable, deviation, run_in_float64
from onnx_grow.verification.reference import Reference, Stage, measure
from onnx_grow.verification.verification import Comparison

if TYPE_CHECKING:
    from onnx_grow.torch.network import Network

__all__ = ["TOLERANCE", "check", "compare", "run"]

TOLERANCE = 3.0
"""In units of the rounding noise that the model shows in ONNX Runtime, as everywhere."""


def check(network: Network, model: Model) -> None:
    """Raise VerificationFailedError where the network computes something else than ONNX Runtime."""
    wrong = [output for output in compare(network, model) if output.ratio > TOLERANCE and not output.excused]
    if wrong:
        told = ", ".join(f"{o.name!r} by {o.error_l2:.2g} ({o.ratio:.3g} times its noise)" for o in wrong)
        raise VerificationFailedError(
            f"PyTorch computes something else than ONNX Runtime: outputs deviate, {told}",
            hint="this is a fault of onnx_grow.torch: please report it with the model",
        )


def compare(
    network: Network,
    model: Model,
    *,
    inputs: Given | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seeds: int | None = None,
) -> list[Output]:
    """How far every output of a network, in eval mode, is from what ONNX Runtime computes on the CPU.

    An output is `excused` where all that it deviates by is rounding, which the model amplifies: in float64 it is the same.
    Arguments are those of `onnx_grow.verify`.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-grow-", ignore_cleanup_errors=True) as folder:
        stage = Stage(choose("cpu"), Path(folder))
        reference = measure(model, stage, inputs=inputs, shapes=shapes, seeds=seeds)
        outputs = Comparison.of(reference, _runs(reference, network)).settled(TOLERANCE, in_float64=True)
    suspects = {o.name for o in outputs if not o.exact and o.ratio > TOLERANCE and o.error_l2 <= PLAUSIBLE}
    if suspects and _equal_in_float64(reference, suspects):
        outputs = [replace(o, excused=o.name in suspects) for o in outputs]
    return outputs


def run(network: Network, arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of a network, by name, for inputs by name; it is in eval mode meanwhile."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            results = network(**{name: tensor_of(np.asarray(array)) for name, array in arrays.items()})
    finally:
        network.train(training)
    given = results if isinstance(results, tuple) else (results,)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, result in zip(network.output_names, given, strict=True):
        if isinstance(result, list) and result and isinstance(result[0], dict):
            found[name] = np.stack([[array_of(value) for value in row.values()] for row in result])
            found[f"{name}[keys]"] = np.array([str(key) for row in result for key in row])
        elif isinstance(result, list):
            found.update((f"{name}[{k}]", array_of(item)) for k, item in enumerate(result))
        elif isinstance(result, np.ndarray):
            found[name] = result
        elif result is not None:
            found[name] = array_of(result)
    return found


def _runs(reference: Reference, network: Network) -> list[dict[str, np.ndarray[Any, Any]]]:
    return [run(network, feed.arrays) for feed in reference.feeds]


def _equal_in_float64(reference: Reference, names: set[str]) -> bool:
    """Whether what some outputs deviate by is rounding alone: in float64 they are what ONNX's own kernels compute, on all inputs."""
    network = converted(doubled(inlined(reference.model)))
    try:
        for feed, plain in zip(reference.feeds, reference.plain, strict=True):
            exact = run_in_float64(reference.model, feed.arrays)
            expected = {name: exact[name] for name in names if name in plain}
            if any(
                deviation({name: plain[name]}, {name: value}) > PLAUSIBLE for name, value in expected.items()
            ):
                return False
            wide = {
                name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in feed.arrays.items()
            }
            if deviation(expected, run(network, wide)) > EXACT:
                return False
    except Unprovable:
        return False
    return True
