"""From a grown file into training, and back: export, the training itself, import, and checks of what can be learned.

Only the training needs PyTorch: the extra `onnx-grow[torch]`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_grow.training.checks import LearningReport, check_learning
    from onnx_grow.training.data import Examples, pixels, read_examples
    from onnx_grow.training.exchange import export, tuned
    from onnx_grow.training.optimizers import grow_optimizer_state
    from onnx_grow.training.recipe import Recipe
    from onnx_grow.training.script import main

_HOMES = {
    "checks": ("LearningReport", "check_learning"),
    "data": ("Examples", "pixels", "read_examples"),
    "exchange": ("export", "tuned"),
    "optimizers": ("grow_optimizer_state",),
    "recipe": ("Recipe",),
    "script": ("main",),
}
_HOME = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}

__all__ = [
    "Examples",
    "LearningReport",
    "Recipe",
    "check_learning",
    "export",
    "grow_optimizer_state",
    "main",
    "pixels",
    "read_examples",
    "tuned",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
