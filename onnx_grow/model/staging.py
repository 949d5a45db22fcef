"""Hidden folders beside a target, in which files are made before they get their names, and what dead processes left of theirs.

A folder is locked while its process lives (flock); one that nobody holds is litter of a process that was killed, and the next that
writes beside it settles it. Where a file system knows no such locks, nothing can be told about others, and nothing of theirs is touched.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["INTERIM", "PREFIX", "hidden_folder", "install", "locked", "settle"]

PREFIX = ".onnx-grow-"
"""What the names of hidden folders begin with; eight hexadecimal digits follow."""
INTERIM = ".interim"
"""Ending of the model that finds its data in the hidden folder."""
DATA = ".data"
PREVIOUS = ".previous"


@contextmanager
def hidden_folder(beside: Path) -> Iterator[Path]:
    """A new folder in the folder `beside`, ours as long as the context lasts and gone afterwards. Raises OSError."""
    with locked(beside):
        settle(beside)
        folder = beside / f"{PREFIX}{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        descriptor = _try_lock(folder)
    try:
        yield folder
    finally:
        _settle(folder)
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder; where there are no locks, nobody is kept out."""
    descriptor = None
    with suppress(OSError):
        if fcntl is not None:
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def settle(beside: Path) -> None:
    """Finish or remove what processes that were killed left in the folder `beside`."""
    for folder in _hidden(beside):
        descriptor = _try_lock(folder)
        if descriptor is not None:
            _settle(folder)
            os.close(descriptor)


def install(folder: Path, target: Path) -> None:
    """Put a model and its data file in place; at every moment in between, `target` is the old or the new model, complete.

    No file system renames two files at once. So first comes a model that finds its data in the hidden folder `folder`, then a link to
    them under their final name, then the final model, and then the data replace the link. Raises OSError, and then `target` is
    the old one.
    """
    previous = folder / f"{target.name}{PREVIOUS}"
    if existed := os.path.lexists(target):
        _keep(target, previous)
    os.replace(folder / f"{target.name}{INTERIM}", target)
    try:
        _announce_data(folder, target)
    except OSError:
        os.replace(previous, target) if existed else os.unlink(target)
        raise
    # The new model is in place and complete; its final form comes with `settle` if not now.
    with suppress(OSError):
        _finish(folder, target)


def _keep(target: Path, copy: Path) -> None:
    try:
        os.link(target, copy, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(target, copy, follow_symlinks=False)


def _announce_data(folder: Path, target: Path) -> None:
    """Give the data their final name, which is a link for now, unless the file system has none."""
    data, link = folder / f"{target.name}{DATA}", folder / f"{target.name}.link"
    final = target.with_name(data.name)
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(Path(folder.name, data.name))
    except OSError:
        os.replace(data, final)
    else:
        os.replace(link, final)


def _finish(folder: Path, target: Path) -> None:
    os.replace(folder / target.name, target)
    _replace_link(folder)


def _replace_link(folder: Path) -> None:
    for name in os.listdir(folder):
        final = folder.with_name(name)
        if final.is_symlink() and os.readlink(final) == os.path.join(folder.name, name):
            os.replace(folder / name, final)


def _settle(folder: Path) -> None:
    """Remove a hidden folder; before that, finish the `install` that it was left in."""
    try:
        if not folder.is_dir():
            return
        if (target := _unfinished(folder)) is not None:
            if (folder / f"{target.name}{DATA}").exists():
                _announce_data(folder, target)
            _finish(folder, target)
        _replace_link(folder)
    except OSError:  # what the target still needs has to stay
        return
    shutil.rmtree(folder, ignore_errors=True)


def _unfinished(folder: Path) -> Path | None:
    """The model that still finds its data in the hidden folder, if there is one."""
    for name in sorted(os.listdir(folder), key=len)[:1]:  # all others are this one with an ending
        target = folder.with_name(name)
        if target.is_file() and not target.is_symlink() and target.stat().st_size:
            with target.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(f"{folder.name}/{name}{DATA}".encode()) >= 0:
                    return target
    return None


def _hidden(beside: Path) -> list[Path]:
    pattern = re.compile(re.escape(PREFIX) + "[0-9a-f]{8}")
    with suppress(OSError):
        entries = [entry for entry in os.scandir(beside) if pattern.fullmatch(entry.name)]
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def _try_lock(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder, or None where somebody else does or there are no locks."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor
