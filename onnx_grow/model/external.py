"""Files mapped into memory: the model itself, and the data files it names, which must lie in its own folder."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path, PureWindowsPath

from onnx import TensorProto

from onnx_grow.errors import InvalidModelError
from onnx_grow.model.names import quoted
from onnx_grow.model.weights import Place

__all__ = ["DataFolder", "mapped"]

_ALLOW = "if you trust this model, allow links with allow_symlinks=True"


class DataFolder:
    """The folder of a model, out of which none of its tensors may read.

    A location is accepted when it is relative, does not climb with `..`, ends at a regular file, and neither
    a symbolic link leaves the folder nor a hard link gives a second name to a file elsewhere; `allow_symlinks`
    lifts the conditions on links. CVE-2022-25882, CVE-2024-27318, CVE-2024-5187 and CVE-2025-51480 are what
    happens otherwise. Without a folder, as for a model in memory, no external data can be read. `files` are the
    data files read so far.
    """

    def __init__(self, folder: Path | None, allow_symlinks: bool = False) -> None:
        self._folder = folder
        self._allow_symlinks = allow_symlinks
        self._mapped: dict[str, tuple[memoryview, Place]] = {}
        self.files: tuple[Path, ...] = ()

    def read(self, tensor: TensorProto, nbytes: int) -> tuple[memoryview, Place]:
        """The bytes of an external tensor that needs `nbytes` of them, and where they lie. Raises InvalidModelError."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not isinstance(location, str):  # protobuf hands out bytes where they are no text
            raise InvalidModelError(
                f"tensor {quoted(tensor.name)} has external data in a file whose name is no text"
            )
        offset = _number(tensor, entries, "offset", 0)
        length = _number(tensor, entries, "length", nbytes)
        if length != nbytes:
            raise InvalidModelError(
                f"tensor {quoted(tensor.name)} declares {length:,} bytes of external data, "
                f"its type and shape need {nbytes:,}"
            )
        if location not in self._mapped:
            self._mapped[location] = self._open(tensor.name, location)
        data, place = self._mapped[location]
        if offset + length > len(data):
            raise InvalidModelError(
                f"tensor {quoted(tensor.name)} needs {offset + length:,} bytes of {quoted(location)}, it has {len(data):,}",
                hint="the file is incomplete, fetch it again",
            )
        return data[offset : offset + length], place._replace(offset=offset)

    def _open(self, name: str, location: str) -> tuple[memoryview, Place]:
        if self._folder is None:
            raise InvalidModelError(
                f"tensor {quoted(name)} has external data in {quoted(location)}, and a model in memory has no folder",
                hint="load it from its path",
            )
        parts = PureWindowsPath(location)  # knows drives and both kinds of slashes
        if not parts.parts or "\0" in location or parts.drive or parts.root or ".." in parts.parts:
            raise InvalidModelError(
                f"tensor {quoted(name)} has external data in {quoted(location)}, which is not in the model's folder"
            )
        base = Path(os.path.realpath(self._folder))
        path = Path(os.path.realpath(base / location))
        if not path.is_relative_to(base) and not self._allow_symlinks:
            raise InvalidModelError(
                f"tensor {quoted(name)} has external data in {quoted(location)}, a link out of the model's folder",
                hint=_ALLOW,
            )
        if not path.exists():
            raise InvalidModelError(
                f"external data {quoted(location)} of tensor {quoted(name)} does not exist",
                hint="copy the model together with its data files",
            )
        data_and_place = mapped(
            path, f"external data {quoted(location)} of tensor {quoted(name)}", links=self._allow_symlinks
        )
        self.files += (path,)
        return data_and_place


def mapped(path: Path, what: str, *, links: bool = True) -> tuple[memoryview, Place]:
    """The file in read-only memory, and where it lies. Raises InvalidModelError where it is missing, no regular file or unreadable.

    `what` names it in messages. Without `links`, a file with a second name (a hard link) is refused.
    """
    try:
        # non-blocking, so that a named pipe cannot make us wait
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidModelError(f"{what} does not exist") from None
    except OSError as error:
        raise InvalidModelError(f"{what} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise InvalidModelError(f"{what} is {kind}")
        if status.st_nlink > 1 and not links:
            raise InvalidModelError(f"{what} has a second name, a hard link", hint=_ALLOW)
        place = Place(path, (status.st_dev, status.st_ino), 0)
        if status.st_size == 0:
            return memoryview(b""), place
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)), place
    except OSError as error:
        raise InvalidModelError(f"{what} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _number(tensor: TensorProto, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidModelError(
            f"tensor {quoted(tensor.name)} has external data with the {key} {quoted(text)}"
        )
    return int(text)
