"""Reports, maps and plans: files for people and other programs, whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx_grow.cli.guard import writes_into

__all__ = ["placed"]


@contextmanager
def placed(path: str) -> Iterator[Path]:
    """A file to write, hidden in the folder of `path` until the block ends, and then `path`. Raises OutputError, naming it."""
    from onnx_grow.model.staging import hidden_folder
    from onnx_grow.model.writer import translated

    target = Path(os.path.realpath(path))  # a link stays one
    with translated(path):
        writes_into(target.parent)
        with hidden_folder(target.parent) as folder:
            yield folder / target.name
            os.replace(folder / target.name, target)
