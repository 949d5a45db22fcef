"""Run work in a process of its own, with limits on time and memory."""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any

PATIENCE = 10
"""How many times its processor time a piece of work may take by the clock."""


class Died(Exception):
    """The process ended before its work did; the message says how."""


def prepare(*modules: str) -> None:
    """Import these modules once, in the process that later ones fork from."""
    os.environ["PYTHONPATH"] = os.pathsep.join(
        sys.path
    )  # before Python 3.13 that process has no other way to know
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))


def results(
    work: Callable[..., Iterable[Any]], *args: Any, seconds: float, gigabytes: float
) -> Iterator[Any]:
    """What `work(*args)` yields, as it comes.

    The process has `seconds` of processor time for every result (and ten times that by the clock, for the machine may be busy), and
    `gigabytes` of memory of its own. Raises Died when it takes more, crashes, or raises. It ignores Ctrl-C, which the caller gets, and ends
    when the caller stops iterating.
    """
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, seconds, gigabytes, work, args), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            if not receiver.poll(PATIENCE * seconds):
                raise Died(f"took longer than {PATIENCE * seconds:g} s by the clock")
            try:
                said, value = receiver.recv()
            except EOFError:
                process.join()
                code = process.exitcode or 0
                if -code == signal.SIGXCPU:
                    raise Died(f"took longer than {seconds:g} s") from None
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise Died(f"the process ended with {how}") from None
            if said == "end":
                return
            if said == "raised":
                raise Died(value)
            yield value
    finally:
        process.kill()
        process.join()
        receiver.close()


def _work(
    sender: Connection,
    seconds: float,
    gigabytes: float,
    work: Callable[..., Iterable[Any]],
    args: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    _allow(seconds)
    try:
        for value in work(*args):
            sender.send(("result", value))
            _allow(seconds)
        sender.send(("end", None))
    except Exception as error:  # whatever it is, the caller has to hear of it
        trace = traceback.format_exc().strip().splitlines()
        sender.send(("raised", f"{type(error).__name__}: {error}\n" + "\n".join(trace[-6:])))


def _allow(seconds: float) -> None:
    """Let this process have that much more processor time."""
    most = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
