"""Arrays of the user's own, from files that NumPy wrote."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from onnx_grow.errors import InvalidRequestError

__all__ = ["read_arrays"]

_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, TokenError)
"""What NumPy raises for a damaged file, and zipfile, zlib and tokenize on its behalf."""


def read_arrays(
    path: Path, *, hint: str = "give an .npz or .npy file"
) -> np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]]:
    """The array of an .npy file, or all arrays of an .npz archive by name.

    Raises InvalidRequestError, with this hint, for a file that is missing or damaged, or holds pickles.
    """
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return dict(loaded)
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        # NumPy takes any other file for a pickle, and recommends to run it.
        if isinstance(error, ValueError) and "pickle" in str(error):
            reason = "it is neither .npz nor .npy, or holds pickled objects"
        raise InvalidRequestError(f"{path} cannot be read: {reason}", hint=hint) from error
