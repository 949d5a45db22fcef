"""A new file, written from any position on: several weights at a time, computed and written by the threads that computed them.

What a thread holds is one piece of one weight. Weights that lie in another file, unchanged, are copied by the kernel where it can.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock

from onnx_grow.model.weights import Divisible, Place, Stored, Weight

__all__ = ["write_file"]

SMALL = 1 << 16
"""Bytes of a weight below which it is written together with others."""
TOGETHER = 1 << 20
"""Bytes of small pieces that are written as one job."""
COPIED = 1 << 25
"""Bytes that the kernel copies in one job."""
AHEAD = 4
"""Jobs per thread that may wait."""
THREADS = 4
"""The most that help: beyond, the disk is what takes its time."""

Job = tuple[int, Callable[[], object]]
"""The number of bytes that a job writes, and what does it."""


def write_file(
    path: Path,
    pieces: Iterable[tuple[int, bytes | memoryview | Weight]],
    written: Callable[[int], None] = lambda count: None,
) -> None:
    """Make a new file of bytes and weights at their positions; gaps are zero. It is on the disk when this returns.

    Its mode is 0644 under the umask. `written` hears how many bytes were written, time and again. Raises OSError, and ValueError for a
    weight that delivers other than it announced.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o644)
    try:
        _do(_jobs(_File(descriptor), pieces), written)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _do(jobs: Iterable[Job], written: Callable[[int], None]) -> None:
    """Do jobs in threads, a bounded number ahead; the first error ends all."""
    threads = min(THREADS, os.cpu_count() or 1)
    waiting: deque[tuple[int, Future[object]]] = deque()

    def finish() -> None:
        count, future = waiting.popleft()
        future.result()
        written(count)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for count, job in jobs:
                waiting.append((count, pool.submit(job)))
                if len(waiting) > AHEAD * threads:
                    finish()
            while waiting:
                finish()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _jobs(file: _File, pieces: Iterable[tuple[int, bytes | memoryview | Weight]]) -> Iterator[Job]:
    small: list[tuple[int, bytes | memoryview | Weight]] = []
    size = 0
    for at, piece in pieces:
        count = len(piece) if isinstance(piece, bytes | memoryview) else piece.nbytes
        if count < SMALL:
            small.append((at, piece))
            size += count
        elif isinstance(piece, bytes | memoryview):
            yield count, partial(file.put, piece, at)
        else:
            yield from _of_weight(file, piece, at)
        if size >= TOGETHER:
            yield size, partial(_put_all, file, small)
            small, size = [], 0
    if small:
        yield size, partial(_put_all, file, small)


def _of_weight(file: _File, weight: Weight, at: int) -> Iterator[Job]:
    """The jobs that write a weight: many, if its bytes lie in a file or are computed one piece without the others."""
    if isinstance(weight, Stored):
        for start in range(0, weight.nbytes, COPIED):
            count = min(COPIED, weight.nbytes - start)
            yield count, partial(file.copy, weight, start, count, at + start)
    elif isinstance(weight, Divisible):
        end = 0
        for count, compute in weight.parts():
            yield count, partial(_put_part, file, weight, count, compute, at + end)
            end += count
        _check(weight, weight.nbytes, end)
    else:
        yield weight.nbytes, partial(_put_chunks, file, weight, at)


def _put_part(
    file: _File, weight: Weight, count: int, compute: Callable[[], bytes | memoryview], at: int
) -> None:
    data = memoryview(compute()).cast("B")
    _check(weight, count, len(data))
    file.put(data, at)


def _put_chunks(file: _File, weight: Weight, at: int) -> None:
    end = at
    for chunk in weight.chunks():
        data = memoryview(chunk).cast("B")
        file.put(data, end)
        end += len(data)
    _check(weight, weight.nbytes, end - at)


def _put_all(file: _File, pieces: Iterable[tuple[int, bytes | memoryview | Weight]]) -> None:
    """Write small pieces, those that lie next to each other at once."""
    run: list[bytes | memoryview] = []
    start = end = 0
    for at, piece in pieces:
        if at != end:
            file.put(b"".join(run), start)
            run, start, end = [], at, at
        chunks = [piece] if isinstance(piece, bytes | memoryview) else list(piece.chunks())
        size = sum(memoryview(chunk).nbytes for chunk in chunks)
        if not isinstance(piece, bytes | memoryview):
            _check(piece, piece.nbytes, size)
        run += chunks
        end += size
    file.put(b"".join(run), start)


def _check(weight: Weight, announced: int, delivered: int) -> None:
    if announced != delivered:
        raise ValueError(f"{weight!r} announced {announced} bytes and delivered {delivered}")


_UNABLE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
"""What the kernel says if it cannot copy between these files."""


class _File:
    """A file open for writing, at any position."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lock = Lock()

    def put(self, data: bytes | memoryview, at: int) -> None:
        """Write all of these bytes."""
        rest = memoryview(data)
        while len(rest):
            count = self._write(rest, at)
            rest, at = rest[count:], at + count

    def copy(self, weight: Stored, start: int, count: int, at: int) -> None:
        """Write bytes of a weight that lies in another file, in the kernel where that is possible."""
        done = self._copied(weight.place, start, count, at) if weight.place else 0
        self.put(weight.buffer[start + done : start + count], at + done)

    def _write(self, data: memoryview, at: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.descriptor, data, at)
        with self._lock:  # Windows
            os.lseek(self.descriptor, at, os.SEEK_SET)
            return os.write(self.descriptor, data)

    def _copied(self, place: Place, start: int, count: int, at: int) -> int:
        """How many bytes the kernel has copied; the rest it cannot."""
        if not hasattr(os, "copy_file_range"):
            return 0
        done = 0
        source = None
        try:
            source = os.open(place.path, os.O_RDONLY)
            status = os.fstat(source)
            while (status.st_dev, status.st_ino) == place.identity and done < count:
                copied = os.copy_file_range(
                    source, self.descriptor, count - done, place.offset + start + done, at + done
                )
                if not copied:
                    break
                done += copied
        except OSError as error:
            if error.filename is None and error.errno not in _UNABLE:
                raise
        finally:
            if source is not None:
                os.close(source)
        return done
