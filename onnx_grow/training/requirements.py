"""Libraries that training needs and growing does not."""

from __future__ import annotations

from importlib.util import find_spec

from onnx_grow.errors import MissingLibraryError

__all__ = ["require"]

_NAMES = {"torch": "PyTorch", "safetensors": "safetensors", "PIL": "Pillow", "matplotlib": "Matplotlib"}


def require(module: str, purpose: str) -> None:
    """Raise MissingLibraryError, saying what to install, where a module is not there."""
    if find_spec(module) is None:
        raise MissingLibraryError(
            f"{purpose} needs {_NAMES[module]}, which is not installed", hint="pip install 'onnx-grow[torch]'"
        )
