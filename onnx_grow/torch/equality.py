"""Does a network compute in PyTorch what its model computes in ONNX Runtime? The standard is that of `onnx_grow.verify`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onnx_grow.errors import VerificationFailedError
from onnx_grow.model import Model
from onnx_grow.torch.values import array_of, tensor_of
from onnx_grow.verification import Output, choose
from onnx_grow.verification.datasets import Given
from onnx_grow.verification.reference import Reference, Stage, measure
from onnx_grow.verification.verification import Comparison

if TYPE_CHECKING:
    from onnx_grow.torch.network import Network

__all__ = ["TOLERANCE", "check", "compare", "run"]

TOLERANCE = 3.0
"""In units of the rounding noise that the model shows in ONNX Runtime, as everywhere."""


def check(network: Network, model: Model) -> None:
    """Raise VerificationFailedError where the network computes something else than ONNX Runtime."""
    wrong = [output for output in compare(network, model) if output.ratio > TOLERANCE]
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

    Arguments are those of `onnx_grow.verify`.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-grow-", ignore_cleanup_errors=True) as folder:
        stage = Stage(choose("cpu"), Path(folder))
        reference = measure(model, stage, inputs=inputs, shapes=shapes, seeds=seeds)
        return _against(reference, network)


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
        if isinstance(result, list):
            found.update((f"{name}[{k}]", array_of(item)) for k, item in enumerate(result))
        elif result is not None:
            found[name] = array_of(result)
    return found


def _against(reference: Reference, network: Network) -> list[Output]:
    ran = [run(network, feed.arrays) for feed in reference.feeds]
    return Comparison.of(reference, ran).settled(TOLERANCE, in_float64=True)
