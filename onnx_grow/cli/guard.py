"""The command in a process of its own: a library that crashes on a model takes that process, and the command ends in a clear line.

The first process only waits. It passes on signals and the exit code, and imports nothing that reads models. Temporary files lie
in a folder that it removes, and hidden folders beside a target are settled where the worker said that it writes.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

__all__ = ["CRASHES", "FAULT", "INTERRUPTED", "guarded", "is_interrupted", "is_possible", "writes_into"]

FAULT, INTERRUPTED = 70, 130
"""Exit codes: of a fault of our own (EX_SOFTWARE), and of Ctrl-C."""

CRASHES = frozenset(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL", "SIGTRAP", "SIGSYS")
    if hasattr(signal, name)
)
"""Signals by which native code dies of its own faults."""
_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP")

_END = b"end"

_to_parent: int | None = None
_interrupted = False


def is_possible() -> bool:
    """Whether processes can be forked here, from the thread that runs."""
    alone = threading.current_thread() is threading.main_thread() and threading.active_count() == 1
    return hasattr(os, "fork") and alone


def guarded(work: Callable[[], int], crashed: Callable[[signal.Signals | None], int]) -> int:
    """The exit code of `work`, done in another process; that of `crashed` if its end was none of its own.

    `crashed` is told the signal: one of `CRASHES`, or SIGKILL, as the system sends it for want of memory; None where a library
    ended the process, as OpenBLAS does where it gets no memory. What dies of a signal passed on to it has been ended by that one.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # or both would write what is pending
    scratch = _scratch()
    reading, writing = os.pipe()
    alive, ours = os.pipe()
    watched = [getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)]
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)  # until there is somebody to pass them on to
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.close(ours)
        _serve(work, writing, alive, scratch, watched)
    os.close(writing)
    os.close(alive)
    before = {number: signal.getsignal(number) for number in watched}
    passed: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        passed.append(number)
        os.kill(child, number)

    for number in watched:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    with os.fdopen(reading, "rb") as pipe:
        *folders, end = pipe.read().split(b"\0")  # until the worker ends
    _, status = os.waitpid(child, 0)
    os.close(ours)
    for number, handler in before.items():
        signal.signal(number, handler)
    _remove(scratch)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0 and end == _END:
        return code
    _settle(folders)
    if passed:
        return 128 + passed[-1]
    number = signal.Signals(-code) if code < 0 else None
    return crashed(number) if number is None or number in (*CRASHES, signal.SIGKILL) else 128 + number


def is_interrupted() -> bool:
    """Whether Ctrl-C ends the work of this process: libraries make errors of their own of it while they are imported."""
    return _interrupted


def writes_into(folder: Path) -> None:
    """Tell the process that waits where hidden folders may be left."""
    if _to_parent is not None:
        os.write(_to_parent, os.fsencode(folder.absolute()) + b"\0")


def _serve(work: Callable[[], int], writing: int, alive: int, scratch: str, watched: list[int]) -> NoReturn:
    global _to_parent
    _to_parent = writing
    if scratch:
        tempfile.tempdir = scratch
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    code = FAULT
    try:
        try:
            code = work()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else FAULT
        except KeyboardInterrupt:
            code = INTERRUPTED
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        _remove(scratch)
        os.write(writing, _END)
    finally:  # the rest of this program is the other process's
        os._exit(code)


def _interrupt(number: int, frame: object) -> NoReturn:
    """Ctrl-C arrives from the terminal and from the process that waits; the second must not break into the cleaning up."""
    global _interrupted
    _interrupted = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with(alive: int) -> None:
    """End, cleaning up, when the process that waits is gone: nobody is left who would want the result."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _scratch() -> str:
    try:
        return tempfile.mkdtemp(prefix="onnx-grow-")
    except OSError:  # no room for temporary files: whoever needs one says so
        return ""


def _remove(scratch: str) -> None:
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)


def _settle(folders: Sequence[bytes]) -> None:
    if folders:
        from onnx_grow.model.staging import settle

        for folder in folders:
            settle(Path(os.fsdecode(folder)))
