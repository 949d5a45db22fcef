"""Where a grown model leaves its original, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnx_grow.errors import InvalidRequestError

if TYPE_CHECKING:
    from onnx_grow.model import Model

ROUNDED = 1e-5
"""Deviation in float64 that rounding of grown weights explains."""
NOWHERE = (
    "in float64 no tensor that both have, and that can be compared, deviates by more than rounding explains"
)


def traced(original: Model, grown: Model, feed: Mapping[str, Any]) -> str:
    """The first tensor at which `grown` leaves what its recorded growth makes of `original`, or else the original itself."""
    from onnx_grow.growth.correspondence import replayed
    from onnx_grow.verification import trace
    from onnx_grow.verification.proof import Unprovable

    try:
        model, maps = replayed(original, grown)
        if model is original:  # nothing is recorded
            first = trace(original, grown, feed, allowed=ROUNDED, mapped=False)
        else:
            expected = "the recorded growth makes of the original"
            first = trace(model, grown, feed, expected=expected) or trace(
                original, grown, feed, maps, allowed=ROUNDED
            )
        return str(first or NOWHERE) + _missing(original, grown)
    except Unprovable as reason:
        return f"there is no trace: {reason}"
    except InvalidRequestError as error:
        return f"there is no trace, the recorded growth is not of this original: {error.message}"


def _missing(original: Model, grown: Model) -> str:
    """The outputs that only the original has, in words."""
    kept = {value.name for value in grown.skeleton.graph.output}
    names = [value.name for value in original.skeleton.graph.output if value.name not in kept]
    return f"; missing among the outputs: {', '.join(names)}" if names else ""
