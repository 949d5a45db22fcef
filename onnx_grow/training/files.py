"""Files of a training: written at once or not at all, and read without running anything that is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np

from onnx_grow.errors import InvalidRequestError, OutputError
from onnx_grow.model.staging import hidden_folder
from onnx_grow.training.requirements import require

__all__ = ["read_tensors", "replacing", "write_tensors"]

Array = np.ndarray[Any, Any]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of `path` when the block ends well, and is gone otherwise. Raises OutputError."""
    try:
        with hidden_folder(path.absolute().parent) as folder:
            yield folder / path.name
            with (folder / path.name).open("rb") as file:
                os.fsync(file.fileno())
            os.replace(folder / path.name, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def write_tensors(
    path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays as a safetensors file. Raises MissingLibraryError, OutputError."""
    require("safetensors", "a file of weights")
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
    with replacing(path) as staged:
        try:
            save_file(contiguous, staged, dict(metadata or {}))
        except SafetensorError as error:  # a full disk, for one
            raise OutputError(f"{path} cannot be written: {error}") from error
        staged.chmod(0o666 & ~_umask())


def _umask() -> int:
    """What new files of this process are not allowed, which the library ignores: it makes them for the owner alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def read_tensors(path: Path) -> dict[str, Array]:
    """The arrays in a safetensors file, which holds nothing that could run.

    Raises InvalidRequestError for a file that is none, or that holds types NumPy does not have.
    """
    require("safetensors", "a file of weights")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except FileNotFoundError:
        raise InvalidRequestError(f"{path} does not exist") from None
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, AttributeError, TypeError) as error:
        said = " ".join(str(error).split())
        if path.suffix == ".safetensors":
            raise InvalidRequestError(
                f"{path} cannot be read as a safetensors file: {said}",
                hint="it may be incomplete: write or fetch it again",
            ) from error
        raise InvalidRequestError(
            f"{path} is no safetensors file: {said}",
            hint="weights are taken from .safetensors files only: safetensors.torch.save_file(network.state_dict(), FILE) writes one",
        ) from error
