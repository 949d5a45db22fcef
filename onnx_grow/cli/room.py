"""Room: whether a grown model fits where it is going, known from its plan before anything is computed."""

from __future__ import annotations

import shutil
from pathlib import Path

from onnx_grow.errors import OutputError
from onnx_grow.report.figures import size

__all__ = ["check_room"]


def check_room(nbytes: int, folder: Path, *, less: str) -> None:
    """Raise OutputError where a model of `nbytes` does not fit into `folder`; `less` says what to ask for instead.

    Neither writing nor verifying it takes as much memory.
    """
    disk = shutil.disk_usage(folder)
    free = disk.free
    if not disk.total:  # a file system of the kernel, which has no room to speak of
        raise OutputError(
            f"files cannot be made in {folder.absolute()}", hint="choose another folder with -o"
        )
    if nbytes > free:
        raise OutputError(
            f"the grown model would take {size(nbytes)}, and there are {size(free)} left in {folder.absolute()}",
            hint=f"{less}, or write elsewhere (-o)",
        )
