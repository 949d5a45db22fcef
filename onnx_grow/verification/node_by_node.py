"""Models that do not fit in memory: run node by node in float64, with no weights in memory but those that the node reads.

What holds for a session holds here, too, but for the type: rounding noise is what rounding of the weights does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_grow.model import Model
from onnx_grow.verification.proof import Unprovable, run_in_float64
from onnx_grow.verification.sessions import Arrays, RunError

__all__ = ["NodeByNode"]


@dataclass(frozen=True)
class NodeByNode:
    """A model that is run without being loaded: takes the place of a `Session`."""

    model: Model

    @property
    def placement(self) -> Mapping[str, int]:
        """No provider runs the whole."""
        return {}

    def run(self, feed: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """The outputs for one feed in float64, by name. Raises RunError, naming the node."""
        try:
            found = run_in_float64(self.model, feed)
        except Unprovable as reason:
            raise RunError(str(reason)) from None
        arrays: Arrays = {}
        for name, value in found.items():
            items = enumerate(value) if isinstance(value, list) else [(None, value)]
            arrays |= {name if k is None else f"{name}[{k}]": np.asarray(item) for k, item in items}
        return arrays
