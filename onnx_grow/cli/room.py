"""Room: whether a grown model fits where it is going, known from its plan before anything is computed."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from onnx_grow.errors import InvalidRequestError, OutputError
from onnx_grow.report.figures import size

__all__ = ["available_memory", "check_room"]

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much memory a container may have, in the second and the first version of control groups."""


def check_room(nbytes: int, folder: Path, *, verified: bool, less: str) -> None:
    """Raise OutputError where a model of `nbytes` does not fit into `folder`, InvalidRequestError where it could not be `verified`.

    ONNX Runtime holds all weights of a model that it runs; to write it takes no more memory than its largest weight. `less` says what
    to ask for instead.
    """
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise OutputError(
            f"the grown model would take {size(nbytes)}, and there are {size(free)} left in {folder.absolute()}",
            hint=f"{less}, or write elsewhere (-o)",
        )
    memory = available_memory()
    if verified and memory is not None and nbytes > memory:
        raise InvalidRequestError(
            f"the grown model would take {size(nbytes)}, and there are {size(memory)} of memory to verify it in",
            hint=f"{less}, or do without verification (--no-verify)",
        )


def available_memory() -> int | None:
    """Bytes of memory that a process can get here and now, swap included; None where the system does not tell."""
    machine = _of_machine()
    found = [] if machine is None else [machine]
    for limit in LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number
            found.append(int(Path(limit).read_text()))
    return min(found, default=None)


def _of_machine() -> int | None:
    with suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return sum(int(lines[key].split()[0]) << 10 for key in ("MemAvailable", "SwapFree"))
    with suppress(OSError, ValueError, AttributeError):  # what is free of it, only Linux says
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
