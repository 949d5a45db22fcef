"""Files mapped into memory: the model itself, and the data files it names, which must lie in its own folder."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path, PureWindowsPath

from onnx import TensorProto

from onnx_grow.errors import InvalidModelError

__all__ = ["DataFolder", "mapped"]


class DataFolder:
    """The folder of a model, out of which none of its tensors may read.

    A location is accepted when it is relative, does not climb with `..`, ends at a regular file, and neither a
    symbolic link leaves the folder nor a hard link gives a second name to a file elsewhere; `allow_symlinks` lifts
    the conditions on links. CVE-2022-25882, 2024-27318, 2024-5187 and 2025-51480 are what happens otherwise.
    """

    def __init__(self, folder: Path | None, allow_symlinks: bool = False) -> None:
        self._folder = folder
        self._allow_symlinks = allow_symlinks
        self._mapped: dict[str, memoryview] = {}

    def read(self, tensor: TensorProto, nbytes: int) -> memoryview:
        """The bytes of an external tensor of `nbytes` bytes. Raises InvalidModelError."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        offset = _number(tensor, entries, "offset", 0)
        length = _number(tensor, entries, "length", nbytes)
        if length != nbytes:
            raise InvalidModelError(
                f"tensor '{tensor.name}' declares {length} bytes of external data, its type and shape need {nbytes}"
            )
        if location not in self._mapped:
            self._mapped[location] = self._open(tensor.name, location)
        data = self._mapped[location]
        if offset + length > len(data):
            raise InvalidModelError(
                f"tensor '{tensor.name}' needs bytes {offset} to {offset + length} of {location!r}, "
                f"which has {len(data)}",
                hint="the file is incomplete; fetch it again",
            )
        return data[offset : offset + length]

    def _open(self, name: str, location: str) -> memoryview:
        if self._folder is None:
            raise InvalidModelError(
                f"tensor '{name}' has external data in {location!r}, and a model in memory has no folder",
                hint="load it from its path",
            )
        windows = PureWindowsPath(location)  # splits at both kinds of slashes and knows drives
        if not location or "\0" in location or windows.drive or windows.root or ".." in windows.parts:
            raise InvalidModelError(
                f"tensor '{name}' has external data in {location!r}, which is outside the model's folder"
            )
        base = self._folder.resolve()
        path = (base / location).resolve()
        if not path.is_relative_to(base) and not self._allow_symlinks:
            raise InvalidModelError(
                f"tensor '{name}' has external data in {location!r}, a link out of the model's folder",
                hint="if you trust this model, allow it with allow_symlinks=True",
            )
        return mapped(
            path, f"external data {location!r} of tensor '{name}'", allow_links=self._allow_symlinks
        )


def mapped(path: Path, what: str, *, allow_links: bool = True) -> memoryview:
    """The file in read-only memory. Raises InvalidModelError where it is missing, no regular file or unreadable.

    Without `allow_links` a file that has a second name (a hard link) is refused.
    """
    try:
        # non-blocking, so that a named pipe cannot make us wait
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise InvalidModelError(f"{what} does not exist") from None
    except OSError as error:
        raise InvalidModelError(f"{what} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise InvalidModelError(f"{what} is {kind}")
        if status.st_nlink > 1 and not allow_links:
            raise InvalidModelError(
                f"{what} is a hard link", hint="if you trust this model, allow it with allow_symlinks=True"
            )
        if status.st_size == 0:
            return memoryview(b"")
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise InvalidModelError(f"{what} cannot be mapped: {error}") from error


def _number(tensor: TensorProto, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise InvalidModelError(f"tensor '{tensor.name}' has external data with {key} {text!r}")
    return int(text)
