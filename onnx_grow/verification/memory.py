"""Memory: how much there is, and how much it takes to run a model in one piece."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from onnx_grow.model import Model
from onnx_grow.verification.promotion import uses_bfloat16

__all__ = ["available_memory", "fits"]

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much memory a container may have, in the second and the first version of control groups."""


def available_memory() -> int | None:
    """Bytes of memory that a process can get here and now, swap included; None where the system does not tell."""
    machine = _of_machine()
    found = [*_of_process(), *([] if machine is None else [machine])]
    for limit in LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number
            found.append(int(Path(limit).read_text()))
    return min(found, default=None)


def fits(*models: Model) -> bool:
    """Whether ONNX Runtime can hold all weights of each of these models, one after the other; bfloat16 it holds as float32."""
    memory = available_memory()
    return memory is None or max(map(_needed, models)) <= memory


def _needed(model: Model) -> int:
    wide = 2 if uses_bfloat16(model) else 1
    return wide * sum(weight.nbytes for weight in model.weights.values())


def _of_process() -> Iterator[int]:
    """What `ulimit` leaves this process."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            yield limit


def _of_machine() -> int | None:
    with suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return sum(int(lines[key].split()[0]) << 10 for key in ("MemAvailable", "SwapFree"))
    with suppress(OSError, ValueError, AttributeError):  # what is free of it, only Linux says
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
