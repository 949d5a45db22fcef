"""The way into training and back: what was exported, what came back, and whether a network will learn."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_grow.report.figures import count, counted, printable, some
from onnx_grow.report.tables import columns, facts
from onnx_grow.report.verification import report_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnx_grow.model import Model
    from onnx_grow.training import LearningReport
    from onnx_grow.verification import Report


@dataclass(frozen=True, eq=False)
class Exported:
    """A folder that a model can be trained in; `report` compares a model that was changed for it with the one that came."""

    source: str
    folder: str
    files: tuple[Path, ...]
    model: Model
    teacher: str | None
    untied: tuple[str, ...] = ()
    normalized: int = 0
    report: Report | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md under `export`."""
        return {
            "ok": self.report is None or self.report.ok,
            "input": self.source,
            "output": self.folder if self.files else None,
            "files": [file.name for file in self.files],
            "teacher": self.teacher,
            "parameters": self.model.parameters,
            "untied": list(self.untied),
            "normalized": self.normalized,
            "verification": self.report and self.report.to_json(),
        }

    def view(self, *, verbose: bool = False) -> RenderableType:
        """What was written, what was changed, what to do next."""
        from rich.console import Group
        from rich.text import Text

        from onnx_grow.training.data import interface

        lines = [("parameters", count(self.model.parameters))]
        if self.files:
            lines.append(("files", ", ".join(file.name for file in self.files)))
        if self.normalized:
            lines.append(("normalized", f"{counted(self.normalized, 'BatchNormalization')} put back"))
        if self.untied:
            lines.append(("untied", f"{counted(len(self.untied), 'tensor')}: {printable(some(self.untied))}"))
        if self.teacher is None and self.files:
            lines.append(
                ("note", "without --teacher there is no growth map, and the start stands for the teacher")
            )
        if self.files and (batch := interface(self.model).batch) is not None:
            lines.append(
                ("batch", f"fixed at {batch} in the file: so many samples in a step, whatever batch_size is")
            )
        parts: list[RenderableType] = [
            Text(printable(f"{self.source} -> {self.folder}"), style="bold"),
            facts(lines),
        ]
        if self.report and (verbose or not self.report.ok):
            parts += ["", report_text(self.report)]
        if self.files:
            script = shlex.join(["python", str(Path(self.folder, "train.py")), "--data", "DATA"])
            parts.append(facts([("train", printable(script))], whole=True))
        return Group(*parts)


@dataclass(frozen=True, eq=False)
class Imported:
    """A model with the weights of a file; `changed` are those that differ from before, of `tensors` in all."""

    source: str
    weights: str
    target: str
    tensors: int
    changed: int

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md under `import`."""
        return {
            "ok": True,
            "input": self.source,
            "weights": self.weights,
            "output": self.target,
            "tensors": self.tensors,
            "changed": self.changed,
        }

    def view(self, *, verbose: bool = False) -> RenderableType:
        """What came back."""
        from rich.console import Group
        from rich.text import Text

        lines = [
            ("tensors", f"{self.tensors:,}, {self.changed:,} of them changed"),
            ("verified", "loads and runs in ONNX Runtime, with finite outputs"),
        ]
        title = f"{self.source} + {self.weights} -> {self.target}"
        return Group(Text(printable(title), style="bold"), facts(lines))


@dataclass(frozen=True, eq=False)
class Trainability:
    """What the checks of learning found."""

    source: str
    teacher: str | None
    report: LearningReport

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md under `check-trainable`."""
        return {"model": self.source, "teacher": self.teacher, **self.report.to_json()}

    def view(self, *, verbose: bool = False) -> RenderableType:
        """A row for each check."""
        from rich.console import Group
        from rich.text import Text

        verdict = "will learn" if self.report.ok else "WILL NOT LEARN as it should"
        title = Text(
            printable(f"{self.source} {verdict}"), style="bold green" if self.report.ok else "bold red"
        )
        rows = [
            ("ok" if check.ok else "FAILED", check.name, printable(check.detail))
            for check in self.report.checks
        ]
        parts: list[RenderableType] = [title, columns("", "check", "found", rows=rows)]
        if self.report.warnings:
            parts.append(facts([("warning", printable(warning)) for warning in self.report.warnings]))
        return Group(*parts)
