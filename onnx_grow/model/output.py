"""A new file, written from any position on: several weights at a time, computed and written by the threads that computed them.

What a thread holds is one piece of one weight, and a window through which bytes go. Large files are written past the system's cache, where
it allows that: they would push everything else out of it, and take longer. Weights that lie in another file, unchanged, are shared with
it or copied by the kernel where it can.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Lock, local

import numpy as np

from onnx_grow.model.weights import Divisible, Place, Stored, Weight

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["write_file"]

PAGE = 4096
"""What goes past the cache begins and ends at multiples of this, in memory and in the file."""
WINDOW = 1 << 21
"""Bytes written at once."""
DIRECT_ABOVE = 1 << 28
"""Bytes of a file above which it is written past the cache."""
COPIED = 1 << 25
"""Bytes that the kernel copies in one job."""
AHEAD = 4
"""Jobs per thread that may wait."""
THREADS = 4
"""The most that help: beyond, the disk is what takes its time."""

Bytes = bytes | memoryview
Piece = Bytes | Weight
Job = tuple[int, Callable[[], object]]
"""The number of bytes that a job writes, and what does it."""
Part = tuple[int, int, Callable[[], Iterable[Bytes]]]
"""The position of bytes in the file, their number, and what computes them."""


def write_file(
    path: Path, pieces: Iterable[tuple[int, Piece]], written: Callable[[int], None] = lambda count: None
) -> None:
    """Make a new file of bytes and weights at their positions; gaps are zero. It is on the disk when this returns.

    Its mode is 0644 under the umask. `written` hears how many bytes were written, time and again. Raises OSError, and ValueError for a
    weight that delivers other than it announced.
    """
    listed = list(pieces)
    with closing(_File(path, max((at + _length(piece) for at, piece in listed), default=0))) as file:
        _do(_jobs(file, listed), written, file.threads)
        file.sync()


def _do(jobs: Iterable[Job], written: Callable[[int], None], threads: int) -> None:
    """Do jobs in threads, a bounded number ahead; the first error ends all."""
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


def _jobs(file: _File, pieces: Sequence[tuple[int, Piece]]) -> Iterator[Job]:
    """What is to be written, about a window at a time; what lies in files, more."""
    parts: list[Part] = []
    size = 0
    for at, piece in pieces:
        if isinstance(piece, Stored) and piece.nbytes >= WINDOW:
            for start in range(0, piece.nbytes, COPIED):
                count = min(COPIED, piece.nbytes - start)
                yield count, partial(file.copy, piece, start, count, at + start)
            continue
        for part in _parts(piece, at):
            parts.append(part)
            size += part[1]
            if size >= WINDOW:
                yield size, partial(file.write, parts)
                parts, size = [], 0
    if parts:
        yield size, partial(file.write, parts)


def _parts(piece: Piece, at: int) -> Iterator[Part]:
    if isinstance(piece, bytes | memoryview):
        yield at, len(piece), partial(iter, (piece,))
    elif isinstance(piece, Divisible):
        end = at
        for count, compute in piece.parts():
            yield end, count, partial(_checked, piece, count, partial(_computed, compute))
            end += count
        _check(piece, piece.nbytes, end - at)
    else:
        yield at, piece.nbytes, partial(_checked, piece, piece.nbytes, piece.chunks)


def _computed(compute: Callable[[], Bytes]) -> Iterator[Bytes]:
    yield compute()


def _checked(weight: Weight, announced: int, chunks: Callable[[], Iterable[Bytes]]) -> Iterator[Bytes]:
    delivered = 0
    for chunk in chunks():
        delivered += memoryview(chunk).nbytes
        yield chunk
    _check(weight, announced, delivered)


def _check(weight: Weight, announced: int, delivered: int) -> None:
    if announced != delivered:
        raise ValueError(f"{weight!r} announced {announced} bytes and delivered {delivered}")


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes | memoryview) else piece.nbytes


class _File:
    """A new file of a known size, written at any position by several threads."""

    def __init__(self, path: Path, size: int) -> None:
        flags = os.O_WRONLY | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
        self._past_cache: int | None = None
        self._shares = hasattr(fcntl, "ioctl")
        self._lock = Lock()
        self._of_thread = local()
        if size >= DIRECT_ABOVE and hasattr(os, "O_DIRECT"):
            # What was freed is kept for the next piece from now on: the C library gives larger blocks back at once (mallopt(3)).
            np.empty(31 << 20, np.uint8)
            try:
                _reserve(self._descriptor, size)
                self._past_cache = _opened_past_cache(path, flags)
            except BaseException:
                self.close()
                raise

    @property
    def threads(self) -> int:
        """How many threads should write: those that wait for the disk leave the processor to others."""
        waiting = 2 if self._past_cache is not None else 0
        return min(THREADS, (os.cpu_count() or 1) + waiting)

    def write(self, parts: Iterable[Part]) -> None:
        """Write some parts."""
        if not hasattr(self._of_thread, "window"):
            self._of_thread.window = _Window(self._put)
        window: _Window = self._of_thread.window
        for at, _, chunks in parts:
            window.move(at)
            for chunk in chunks():
                window.add(chunk)
        window.flush()

    def copy(self, weight: Stored, start: int, count: int, at: int) -> None:
        """Write bytes of a weight that lies in another file."""
        done = 0
        if weight.place is not None:
            done = self._copied(weight.place, start, count, at)
        if done < count:
            weight.expect(start + done, count - done)
        pieces = (
            (k, weight.buffer[start + k : start + min(k + WINDOW, count)]) for k in range(done, count, WINDOW)
        )
        if weight.place is not None and (weight.place.offset + start - at) % PAGE == 0:
            for k, piece in pieces:  # mapped where it lies in the file, modulo a page
                self._put(piece, at + k)
        else:
            self.write([(at + done, count - done, lambda: (piece for _, piece in pieces))])

    def sync(self) -> None:
        """Return when all is on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._descriptor)
        if self._past_cache is not None:
            os.close(self._past_cache)

    def _put(self, data: memoryview, at: int) -> None:
        """Write bytes that begin in memory where they begin in the file, modulo a page: whole pages past the cache."""
        first = -at % PAGE
        last = first + (len(data) - first) // PAGE * PAGE
        if self._past_cache is None or last <= first:
            self._put_cached(data, at)
            return
        done = first + self._put_past_cache(data[first:last], at + first)
        self._put_cached(data[:first], at)
        self._put_cached(data[done:], at + done)

    def _put_past_cache(self, data: memoryview, at: int) -> int:
        """How many bytes were written; the others cannot be."""
        assert self._past_cache is not None
        done = 0
        try:
            while done < len(data) and not done % PAGE:
                done += os.pwrite(self._past_cache, data[done:], at + done)
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
        return done

    def _put_cached(self, data: memoryview, at: int) -> None:
        while len(data):
            count = self._write(data, at)
            data, at = data[count:], at + count

    def _write(self, data: memoryview, at: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._descriptor, data, at)
        with self._lock:  # Windows
            os.lseek(self._descriptor, at, os.SEEK_SET)
            return os.write(self._descriptor, data)

    def _copied(self, place: Place, start: int, count: int, at: int) -> int:
        """How many bytes the kernel has copied, or shares with the other file; the rest it cannot."""
        copy = self._shared if self._past_cache is not None else self._copied_by_kernel
        source = None
        try:
            source = os.open(place.path, os.O_RDONLY)
            status = os.fstat(source)
            if (status.st_dev, status.st_ino) == place.identity:
                return copy(source, place.offset + start, count, at)
        except OSError as error:
            if error.filename is None and error.errno not in _UNABLE:
                raise
        finally:
            if source is not None:
                os.close(source)
        return 0

    def _copied_by_kernel(self, source: int, start: int, count: int, at: int) -> int:
        done = 0
        while hasattr(os, "copy_file_range") and done < count:
            try:
                copied = os.copy_file_range(source, self._descriptor, count - done, start + done, at + done)
            except OSError as error:
                if error.errno not in _UNABLE:
                    raise
                break
            if not copied:
                break
            done += copied
        return done

    def _shared(self, source: int, start: int, count: int, at: int) -> int:
        """Have the file system keep whole pages once for both files (ioctl_ficlonerange(2)), if it can."""
        count -= count % PAGE
        if not (self._shares and count) or start % PAGE or at % PAGE:
            return 0
        try:
            fcntl.ioctl(self._descriptor, _FICLONERANGE, struct.pack("=qQQQ", source, start, count, at))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            self._shares = False
            return 0
        return count


class _Window:
    """Bytes on their way to a file: gathered where they lie in memory as they will lie in its pages, and written when there are enough."""

    def __init__(self, put: Callable[[memoryview, int], None]) -> None:
        self._put = put
        self._memory = mmap.mmap(-1, WINDOW)
        self._array = np.frombuffer(self._memory, np.uint8)
        self._start = self._begin = self._end = 0

    def move(self, at: int) -> None:
        """What is added next belongs at this position of the file."""
        if at != self._start + self._end - self._begin:
            self.flush()
            self._place(at)

    def add(self, data: Bytes) -> None:
        """Bytes that follow."""
        rest = np.frombuffer(data, np.uint8)
        while len(rest):
            count = min(len(rest), WINDOW - self._end)
            self._array[self._end : self._end + count] = rest[:count]
            self._end += count
            rest = rest[count:]
            if self._end == WINDOW:
                self.flush()

    def flush(self) -> None:
        """Write what has been gathered."""
        if self._end > self._begin:
            self._put(self._array.data[self._begin : self._end], self._start)
            self._place(self._start + self._end - self._begin)

    def _place(self, at: int) -> None:
        self._start, self._begin = at, at % PAGE
        self._end = self._begin


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its size, and have the file system keep room for it, if it can. Raises OSError where there is none."""
    os.ftruncate(descriptor, size)
    # Not posix_fallocate: where the system cannot do this, that writes to every block.
    library = ctypes.CDLL(None, use_errno=True)
    allocate = getattr(library, "fallocate64", None) or library.fallocate
    if allocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(number, os.strerror(number))


def _opened_past_cache(path: Path, flags: int) -> int | None:
    """A descriptor that writes past the cache, if the file system allows one."""
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError:
        return None


_UNABLE = {
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EBADF,
    errno.ETXTBSY,
    errno.EINTR,
}
"""What the kernel says if it cannot do something with these files."""
_FICLONERANGE = 0x4020940D
