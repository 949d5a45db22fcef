"""The writer: a model streamed to disk, one weight at a time, and put in place as a whole or not at all.

Everything is written into a hidden folder beside the target, flushed to the disk, and then renamed. One file is
replaced atomically. A model with external data is two files, and still the target is at every moment the old or the
new model, complete (`staging.install`). What a killed process leaves in its hidden folder `.onnx-grow-XXXXXXXX`, the next that
writes beside it removes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, numpy_helper

from onnx_grow.errors import OutputError
from onnx_grow.model import wire
from onnx_grow.model.output import write_file
from onnx_grow.model.staging import INTERIM, hidden_folder, install, locked
from onnx_grow.model.weights import DATA_FIELDS, Typed, Weight

if TYPE_CHECKING:
    from onnx_grow.model.model import Model

__all__ = ["PendingFile", "Progress", "filled", "save", "staged", "translated"]

Progress = Callable[[int, int], None]
"""Called with (bytes written, bytes to write) after every piece."""

Pieces = Sequence["bytes | memoryview | Weight"]
"""A file in order; a weight stands for its bytes."""

EXTERNAL_ABOVE = 100 << 20
"""A model larger than this keeps its weights in a file beside it, unless asked otherwise."""
PROTOBUF_LIMIT = (2 << 30) - 1
"""The largest message protobuf reads."""
EXTERNAL_WEIGHT = 1024
"""Weights smaller than this stay in the model: shapes and scalars, which runtimes want to see early."""
PAGE = 4096
"""Large weights start at multiples of this, so that a runtime can map them."""
LINE = 64
"""Weights smaller than a page start at multiples of this, the widest vector load."""


def save(
    model: Model,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    external: bool | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a model to `path`, atomically, and return the path.

    `external` puts weights of 1 KiB and more into `PATH.data`; the default does so where the model came with
    external data or is larger than 100 MiB. `force` replaces existing files, also the one the model was loaded
    from. The bytes depend on the model and the file name only. Raises OutputError where the target exists,
    cannot be written, or would exceed 2 GiB.
    """
    with staged(model, path, force=force, external=external, progress=progress) as pending:
        return pending.commit()


@contextmanager
def staged(
    model: Model,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    external: bool | None = None,
    progress: Progress | None = None,
) -> Iterator[PendingFile]:
    """Write a model beside `path` and leave it to the caller to put it in place.

    Inside the context `pending.path` is a complete model that any runtime can open, external data included;
    `pending.commit()` renames it into place. Without a commit nothing remains. Arguments and errors as in `save`.
    """
    target = Path(os.path.abspath(path))
    layout = _Layout.of(model, target.name, external)
    with ExitStack() as until_left:
        with translated(target):
            _check(target, layout.names, force, model.data_files)
            folder = until_left.enter_context(hidden_folder(target.parent))
            layout.check_room(folder)
            layout.write(folder, progress)
        yield PendingFile(target, folder, layout.names, force, model.data_files)


@dataclass(eq=False)
class PendingFile:
    """A model written but not yet in place: `path` can be opened, `commit()` makes it the target."""

    target: Path
    folder: Path
    names: Sequence[str]
    force: bool
    kept: Sequence[Path]

    @property
    def path(self) -> Path:
        """The complete temporary model."""
        return self.folder / self.target.name

    def commit(self) -> Path:
        """Rename the file or files into place and return the target. Raises OutputError."""
        with translated(self.target), locked(self.target.parent):
            _check(self.target, self.names, self.force, self.kept)
            os.replace(self.path, self.target) if len(self.names) == 1 else install(self.folder, self.target)
            _sync_folder(self.target.parent)
        return self.target


def _check(target: Path, names: Sequence[str], force: bool, kept: Sequence[Path]) -> None:
    """Raise OutputError where a file to be written exists and may not be replaced.

    Even `force` does not replace the data `kept` of the input model, unless that model itself is replaced.
    """
    if not target.parent.is_dir():
        raise OutputError(f"the folder {target.parent} does not exist", hint="create it first")
    for final in (target.with_name(name) for name in names):
        if final.is_dir():
            raise OutputError(f"{final} is a folder", hint="give a file name")
        if final.exists() and not final.is_file():
            raise OutputError(f"{final} is no file but a device or a pipe", hint="give a file name")
        if os.path.lexists(final) and not force:
            raise OutputError(f"{final} exists", hint="force replaces it")
        if any(_is_same(final, data) for data in kept) and (final == target or not target.exists()):
            raise OutputError(f"{final} holds the weights of the input model", hint="choose another name")


def _is_same(path: Path, other: Path) -> bool:
    """Whether two names, links or not, are of one file; the system tells, since a link may be replaced while we read it."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def filled(skeleton: onnx.ModelProto, weights: Mapping[str, Weight]) -> onnx.ModelProto:
    """The skeleton with the values of its initializers in it. Raises OutputError beyond protobuf's 2 GiB."""
    if sum(weight.nbytes for weight in weights.values()) > PROTOBUF_LIMIT:
        raise OutputError("the model is larger than 2 GiB, the largest protobuf message")
    proto = onnx.ModelProto()
    proto.CopyFrom(skeleton)
    for initializer in proto.graph.initializer:
        weight = weights[initializer.name]
        _describe(initializer, weight)
        if not _keeps_fields(weight):
            initializer.raw_data = b"".join(weight.chunks())
    return proto


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where every byte goes: the model as pieces, and the external weights by name with their offsets."""

    name: str
    model: Model
    offsets: Mapping[str, int]

    @classmethod
    def of(cls, model: Model, name: str, external: bool | None) -> _Layout:
        inline = sum(w.nbytes for w in model.weights.values()) + model.skeleton.ByteSize()
        if external is None:
            external = bool(model.data_files) or inline > EXTERNAL_ABOVE
        layout = cls(name, model, _offsets(model.weights) if external else {})
        if sum(map(_length, layout.pieces)) > PROTOBUF_LIMIT:
            raise OutputError(f"{name} would be larger than 2 GiB", hint="write it with external data")
        return layout

    @property
    def names(self) -> list[str]:
        return [f"{self.name}.data", self.name] if self.data else [self.name]

    @cached_property
    def pieces(self) -> Pieces:
        return _pieces(self.model, f"{self.name}.data", self.offsets)

    @property
    def data(self) -> Sequence[tuple[int, Weight]]:
        return [(offset, self.model.weights[name]) for name, offset in self.offsets.items()]

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for _, weight in self.data) + sum(map(_length, self.pieces))

    def check_room(self, folder: Path) -> None:
        """Raise OutputError before the long work where the disk cannot hold the result."""
        free = shutil.disk_usage(folder).free
        if self.nbytes > free:
            raise OutputError(
                f"{self.name} would take {_megabytes(self.nbytes)}, and the disk has {_megabytes(free)} left",
                hint="free some space or write elsewhere",
            )

    def write(self, folder: Path, progress: Progress | None) -> None:
        total = self.nbytes
        done = 0

        def written(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        if self.data:
            write_file(folder / f"{self.name}.data", self.data, written)
            interim = _pieces(self.model, f"{folder.name}/{self.name}.data", self.offsets)
            write_file(folder / f"{self.name}{INTERIM}", _placed(interim))
        write_file(folder / self.name, _placed(self.pieces), written)


def _placed(pieces: Pieces) -> Iterator[tuple[int, bytes | memoryview | Weight]]:
    """Each piece with the position that it has behind the others."""
    at = 0
    for piece in pieces:
        yield at, piece
        at += _length(piece)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"


def _offsets(weights: Mapping[str, Weight]) -> dict[str, int]:
    offsets: dict[str, int] = {}
    end = 0
    for name, weight in weights.items():
        if weight.nbytes >= EXTERNAL_WEIGHT and not _keeps_fields(weight):
            boundary = PAGE if weight.nbytes >= PAGE else LINE
            offsets[name] = -(-end // boundary) * boundary
            end = offsets[name] + weight.nbytes
    return offsets


def _pieces(model: Model, location: str, offsets: Mapping[str, int]) -> Pieces:
    """The file in order; a weight stands for its bytes. Fields come in the order protobuf writes them in."""
    data = memoryview(model.skeleton.SerializeToString(deterministic=True))
    initializers = iter(model.skeleton.graph.initializer)
    pieces: list[bytes | memoryview | Weight] = []
    kept = 0
    for field in wire.fields(data, 0, len(data)):
        if field.number == wire.GRAPH and field.wire == wire.BYTES:
            graph: list[bytes | memoryview | Weight] = []
            inner = field.start
            for part in wire.fields(data, field.start, field.end):
                if part.number == wire.INITIALIZER and part.wire == wire.BYTES:
                    initializer = next(initializers)
                    weight = model.weights[initializer.name]
                    tensor = _tensor(initializer, weight, location, offsets.get(initializer.name))
                    size = wire.varint(sum(map(_length, tensor)))
                    graph += (data[inner : part.key], wire.key(wire.INITIALIZER), size, *tensor)
                    inner = part.end
            graph.append(data[inner : field.end])
            size = wire.varint(sum(map(_length, graph)))
            pieces += (data[kept : field.key], wire.key(wire.GRAPH), size, *graph)
            kept = field.end
    pieces.append(data[kept:])
    return pieces


def _tensor(
    initializer: TensorProto, weight: Weight, location: str, offset: int | None
) -> list[bytes | memoryview | Weight]:
    header = TensorProto()
    header.CopyFrom(initializer)
    _describe(header, weight)
    if offset is not None:
        header.data_location = TensorProto.EXTERNAL
        for name, value in (("location", location), ("offset", offset), ("length", weight.nbytes)):
            header.external_data.add(key=name, value=str(value))
    data = memoryview(header.SerializeToString(deterministic=True))
    if offset is not None or _keeps_fields(weight):
        return [data]
    later = (field.key for field in wire.fields(data, 0, len(data)) if field.number > wire.RAW_DATA)
    split = next(later, len(data))
    return [data[:split], wire.key(wire.RAW_DATA), wire.varint(weight.nbytes), weight, data[split:]]


def _describe(header: TensorProto, weight: Weight) -> None:
    """Make a value-less TensorProto say what the weight is, and put in fields that have no raw form."""
    if tuple(header.dims) != weight.shape:
        header.dims[:] = weight.shape
    if header.data_type != weight.dtype:
        header.data_type = weight.dtype
    if _keeps_fields(weight):
        source = weight.tensor if isinstance(weight, Typed) else numpy_helper.from_array(weight.array())
        for name in DATA_FIELDS:
            getattr(header, name).extend(getattr(source, name))


def _keeps_fields(weight: Weight) -> bool:
    return isinstance(weight, Typed) or weight.dtype == TensorProto.STRING


def _length(piece: bytes | memoryview | Weight) -> int:
    return len(piece) if isinstance(piece, bytes | memoryview) else piece.nbytes


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # where a folder cannot be opened, a rename is as durable as the system makes it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space or write elsewhere"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or write elsewhere"),
    errno.EFBIG: ("the file would be larger than allowed here", "write elsewhere"),
    errno.EROFS: ("the folder is read-only", "write elsewhere"),
    errno.EACCES: ("the folder may not be written", "write elsewhere"),
    errno.EPERM: ("the folder may not be written", "write elsewhere"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
}


@contextmanager
def translated(target: str | os.PathLike[str]) -> Iterator[None]:
    """Within it, what the system says against writing `target` is an OutputError that says why, and what to do."""
    try:
        yield
    except OSError as error:
        reason, hint = _REASONS.get(error.errno or 0, (error.strerror or str(error), ""))
        raise OutputError(f"cannot write {target}: {reason}", hint=hint) from error
