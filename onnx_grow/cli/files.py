"""Files and pipes: where a model comes from, where the result goes, and what may be wrong with either."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnx_grow.cli.documents import placed
from onnx_grow.cli.guard import writes_into
from onnx_grow.cli.screen import Advance, is_terminal
from onnx_grow.errors import InvalidModelError, OutputError
from onnx_grow.report.figures import size

if TYPE_CHECKING:
    from onnx_grow.growth import DeepenPlan, GrowPlan, WidenPlan
    from onnx_grow.model import Model, PendingFile

STANDARD = "-"
"""Standard input, or standard output."""


def read(source: str) -> Model:
    """Load a model from a path, or from standard input where `source` is `-`. Raises InvalidModelError."""
    from onnx_grow.model import load

    if source != STANDARD:
        path = Path(source)
        if not os.path.lexists(path):
            raise InvalidModelError(f"{source} does not exist", hint=_similar(path))
        return load(source)
    if sys.stdin is None or is_terminal(sys.stdin):
        raise click.UsageError("There is no model on standard input; '-' reads one from a pipe.")
    return load(sys.stdin.buffer.read())


def _similar(path: Path) -> str:
    """A hint to files of nearly this name in the same folder, if there are any."""
    beside = os.listdir(path.parent) if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, 2)
    return f"did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""


def bytes_on_disk(model: Model) -> int:
    """Bytes of the model's file and of its external data; of a model without a file, what it would take."""
    if model.path is None:
        return int(model.skeleton.ByteSize()) + sum(weight.nbytes for weight in model.weights.values())
    return sum(file.stat().st_size for file in (model.path, *model.data_files))


def check_plan_file(path: str, source: str, target: Target) -> None:
    """Find before the long work what would stop the writing of a plan after it. Raises OutputError."""
    file = Path(path)
    if path == STANDARD:
        raise click.UsageError("A plan is written to a file; name one with --plan.")
    if not file.absolute().parent.is_dir():
        raise OutputError(
            f"the folder {file.absolute().parent} does not exist",
            hint="create it, or name another with --plan",
        )
    if not os.access(file.absolute().parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"the folder {file.absolute().parent} may not be written", hint="choose another with --plan"
        )
    if file.absolute() in (Path(source).absolute(), target.path.absolute()):
        raise OutputError(f"{path} is a model, and no file for a plan", hint="name another with --plan")
    if os.path.lexists(file) and not target.force:
        raise OutputError(f"{path} exists", hint="--force replaces it, --plan names another file")


def write_plan(path: str, plan: WidenPlan | DeepenPlan | GrowPlan, model: Model) -> None:
    """Write a plan for `model` as a recipe, at once or not at all."""
    from onnx_grow.growth import GrowPlan

    whole = plan if isinstance(plan, GrowPlan) else GrowPlan((plan,), model.sha256)
    with placed(path) as file:
        file.write_text(whole.to_yaml(), encoding="utf-8", newline="\n")


@dataclass(frozen=True)
class Target:
    """The file to write, or standard output."""

    path: Path
    force: bool = False

    @classmethod
    def of(cls, source: str, output: str | None, ending: str, force: bool) -> Target:
        """`output`; by default `source` with `-ending` added to its name, beside it."""
        if output is None and source == STANDARD:
            raise click.UsageError("A model from standard input has no default output; say -o OUT.")
        beside = Path(source).parent / f"{Path(source).stem}-{ending}.onnx"
        return cls(beside if output is None else Path(output), force)

    @property
    def is_standard_output(self) -> bool:
        """Whether the model goes to standard output."""
        return str(self.path) == STANDARD

    @property
    def _folder(self) -> Path:
        """Where the file is written, of one for standard output the temporary folder."""
        return Path(tempfile.gettempdir()) if self.is_standard_output else self.path.absolute().parent

    def check(self, original: Model) -> None:
        """Find before the long work what would stop the writing after it. Raises OutputError."""
        if self.is_standard_output:
            if is_terminal(sys.stdout):
                raise click.UsageError(
                    "A model is nothing to print on a terminal; redirect it, or name a file with -o."
                )
            return
        folder = self._folder
        if self.path.is_dir():
            raise OutputError(
                f"{self.path} is a folder", hint=f"name a file in it: -o {self.path / 'grown.onnx'}"
            )
        if self.path.exists() and not self.path.is_file():
            raise OutputError(
                f"{self.path} is no file but a device or a pipe", hint="-o - writes to standard output"
            )
        if not folder.is_dir():
            raise OutputError(
                f"the folder {folder} does not exist", hint="create it, or choose another with -o"
            )
        if original.path and self.path.exists() and self.path.samefile(original.path):
            raise OutputError(
                f"{self.path} is the input, which is never replaced", hint="name another file with -o"
            )
        if os.path.lexists(self.path) and not self.force:
            raise OutputError(f"{self.path} exists", hint="--force replaces it, -o names another file")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"the folder {folder} may not be written", hint="choose another with -o")

    def check_room(self, nbytes: int, *, less: str) -> None:
        """Raise OutputError where a model of `nbytes` does not fit; `less` says what to ask for instead.

        Neither writing nor verifying it takes as much memory.
        """
        disk = shutil.disk_usage(self._folder)
        if not disk.total:  # a file system of the kernel, which has no room to speak of
            raise OutputError(f"files cannot be made in {self._folder}", hint="choose another folder with -o")
        if nbytes > disk.free:
            raise OutputError(
                f"the grown model would take {size(nbytes)}, and there are {size(disk.free)} left in {self._folder}",
                hint=f"{less}, or write elsewhere (-o)",
            )

    @contextmanager
    def staged(self, model: Model, progress: Advance) -> Iterator[PendingFile]:
        """The model as a complete file that is not yet in place; without `put` nothing of it remains."""
        from onnx_grow.model import staged

        if not self.is_standard_output:
            writes_into(self._folder)
            with staged(model, self.path, force=self.force, progress=progress) as pending:
                yield pending
            return
        with (
            tempfile.TemporaryDirectory(prefix="onnx-grow-") as folder,
            staged(model, Path(folder, "grown.onnx"), external=False, progress=progress) as pending,
        ):
            yield pending

    def put(self, pending: PendingFile) -> None:
        """Move the file into place, or copy it to standard output. Raises OutputError."""
        if not self.is_standard_output:
            pending.commit()
            return
        with pending.path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
