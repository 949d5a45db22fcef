"""Where a grown model leaves its original, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnx_grow.errors import InvalidRequestError

if TYPE_CHECKING:
    from onnx_grow.model import Model

#: Deviation in float64 that rounding of grown weights explains.
ROUNDED = 1e-5
NOWHERE = "in float64 no tensor that both have deviates: the difference is one of rounding"


def traced(original: Model, grown: Model, feed: Mapping[str, Any]) -> str:
    """The first tensor at which `grown` leaves what its recorded growth makes of `original`, or else the original itself."""
    from onnx_grow.growth.correspondence import replayed
    from onnx_grow.verification import trace
    from onnx_grow.verification.proof import Unprovable

    try:
        model, maps = replayed(original, grown)
        expected = (
            "the recorded growth makes of the original" if model is not original else "the original computes"
        )
        again = trace(model, grown, feed, expected=expected)
        return str(again or trace(original, grown, feed, maps, allowed=ROUNDED) or NOWHERE)
    except Unprovable as reason:
        return f"there is no trace: {reason}"
    except InvalidRequestError as error:
        return f"there is no trace, the growth that {grown.path} records is not of this original: {error.message}"
