"""Grow trained ONNX networks wider and deeper without changing what they compute.

    import onnx_grow as og

    model = og.load("resnet50.onnx")
    print(og.inspect(model))
    wide = og.widen(model, factor=1.5)
    og.verify(model, wide).raise_if_failed()
    og.save(wide, "resnet50-wide.onnx")

Functions take and return `Model`s and change none of their arguments. All errors are `OnnxGrowError`s.
"""

from __future__ import annotations

from importlib import import_module

from onnx_grow.errors import (
    DeviceUnavailableError,
    InvalidModelError,
    InvalidRequestError,
    MissingLibraryError,
    NothingToGrowError,
    OnnxGrowError,
    OutputError,
    TrainingFailedError,
    UnsupportedOperatorError,
    VerificationFailedError,
)

TYPE_CHECKING = False  # that of `typing`, whose import would take longer than all that is done here
if TYPE_CHECKING:
    from typing import Any

    from onnx_grow.axes.table import AxisInfo, AxisTable
    from onnx_grow.growth import (
        DeepenPlan,
        Difference,
        GrowPlan,
        WidenPlan,
        apply,
        deepen,
        diff,
        grow,
        inspect,
        plan_deepen,
        plan_grow,
        plan_widen,
        widen,
    )
    from onnx_grow.model import Model, load, save
    from onnx_grow.verification import Report, verify

__version__ = "0.1.0"

# The command line answers --help before NumPy and ONNX are there: names are imported when they are first used.
_HOMES = {
    "onnx_grow.axes.table": ("AxisInfo", "AxisTable"),
    "onnx_grow.growth": (
        "DeepenPlan",
        "Difference",
        "GrowPlan",
        "WidenPlan",
        "apply",
        "deepen",
        "diff",
        "grow",
        "inspect",
        "plan_deepen",
        "plan_grow",
        "plan_widen",
        "widen",
    ),
    "onnx_grow.model": ("Model", "load", "save"),
    "onnx_grow.verification": ("Report", "verify"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AxisInfo",
    "AxisTable",
    "DeepenPlan",
    "DeviceUnavailableError",
    "Difference",
    "GrowPlan",
    "InvalidModelError",
    "InvalidRequestError",
    "MissingLibraryError",
    "Model",
    "NothingToGrowError",
    "OnnxGrowError",
    "OutputError",
    "Report",
    "TrainingFailedError",
    "UnsupportedOperatorError",
    "VerificationFailedError",
    "WidenPlan",
    "apply",
    "deepen",
    "diff",
    "grow",
    "inspect",
    "load",
    "plan_deepen",
    "plan_grow",
    "plan_widen",
    "save",
    "verify",
    "widen",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
