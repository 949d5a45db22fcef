"""The recipe: the numbers with which a grown network is trained, as a YAML file that people edit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from onnx_grow.errors import InvalidRequestError

__all__ = ["Recipe", "Schedule"]

Schedule = Literal["cosine", "linear", "constant"]

LARGEST = 1 << 16
"""Bytes that a recipe may have."""


@dataclass(frozen=True)
class Recipe:
    """How to train; what each number is, and why, stands beside it in the file.

    `learning_rate` is the highest one: it is reached after the first `warmup` part of all steps, and then falls to `final` times itself
    along `schedule`. `batch_size` counts samples in all processes together, `clip` is the largest norm of the gradient (0: any).
    `held_out` is the part of the data that is kept for evaluation where no other data are given. `patience` are epochs without
    improvement after which training ends (0: never).
    """

    teacher_learning_rate: float = 1e-3
    learning_rate: float = 1e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    final: float = 0.01
    epochs: int = 20
    batch_size: int = 64
    weight_decay: float = 0.01
    clip: float = 1.0
    held_out: float = 0.2
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise InvalidRequestError(
                    f"the recipe's {name} is {value:g}", hint=f"give a number from {low:g} to {high:g}"
                )
        if self.schedule not in get_args(Schedule):
            raise InvalidRequestError(
                f"the recipe's schedule is {self.schedule!r}",
                hint=f"there are {', '.join(get_args(Schedule))}",
            )

    @classmethod
    def after(cls, teacher_learning_rate: float) -> Recipe:
        """The recipe for a network whose teacher's training began with this learning rate."""
        return cls(teacher_learning_rate, float(f"{teacher_learning_rate / 10:.6g}"))

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Recipe:
        """Read a recipe from a YAML file. Raises InvalidRequestError, naming the file and the key."""
        file = Path(path)
        try:
            with file.open("rb") as stream:
                document = yaml.safe_load(stream.read(LARGEST))
        except OSError as error:
            raise InvalidRequestError(f"{file} cannot be read: {error.strerror or error}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InvalidRequestError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(document, Mapping):
            raise InvalidRequestError(
                f"{file} is no recipe", hint="it has to hold lines such as 'epochs: 20'"
            )
        return cls(**{str(key): _value(file, str(key), value) for key, value in document.items()})

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, as a part of the highest one; `steps` are all there will be."""
        warm = max(1, round(self.warmup * steps)) if self.warmup else 0
        if step < warm:
            return (step + 1) / (warm + 1)
        left = 1 - (step - warm) / max(1, steps - warm)
        if self.schedule == "constant":
            return 1.0
        share = (1 - math.cos(math.pi * left)) / 2 if self.schedule == "cosine" else left
        return self.final + (1 - self.final) * max(0.0, share)

    def to_yaml(self, notes: tuple[str, ...] = ()) -> str:
        """The text of the file, with what each number is, and `notes` about the network at its end."""
        lines = [
            "# How train.py trains this network. Edit what you like; onnx-grow's docs/training.md has the reasons."
        ]
        for entry in fields(self):
            value = f"{entry.name}: {_written(getattr(self, entry.name))}"
            lines.append(f"{value:<34}# {_WHAT[entry.name]}")
        lines += [line for note in notes for line in ("#", *(f"# {part}" for part in note.splitlines()))]
        return "\n".join(lines) + "\n"


_BOUNDS: Mapping[str, tuple[float, float]] = {
    "teacher_learning_rate": (1e-12, 1e3),
    "learning_rate": (1e-12, 1e3),
    "warmup": (0, 1),
    "final": (0, 1),
    "epochs": (1, 1e6),
    "batch_size": (1, 1e7),
    "weight_decay": (0, 1e3),
    "clip": (0, 1e9),
    "held_out": (0, 0.9),
    "patience": (0, 1e6),
    "seed": (0, 2**63 - 1),
}
_WHAT = {
    "teacher_learning_rate": "the first one of the teacher's training; it is not in the file, 1e-3 is Adam's default",
    "learning_rate": "a tenth of it keeps what the teacher knows; a third ends better in a training as long as the teacher's",
    "schedule": "how the rate falls after the warm-up: cosine, linear, or constant",
    "warmup": "part of all steps in which the rate rises: the optimizer knows nothing yet",
    "final": "the last rate, as a part of the highest",
    "epochs": "passes over the data",
    "batch_size": "samples per step, in all processes together",
    "weight_decay": "as you would choose it for a network of the new size",
    "clip": "largest norm of the gradient; 0: any",
    "held_out": "part of the data kept for evaluation, unless --test names other data",
    "patience": "epochs without improvement after which training ends; 0: it never does",
    "seed": "decides the order of the data and what is held out",
}


def _written(value: float | str) -> str:
    """A number as YAML reads it back: PyYAML takes 1e-4 for text, and 1.0e-4 for a number."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


def _value(file: Path, key: str, value: Any) -> Any:
    kinds: dict[str, type] = {entry.name: type(getattr(Recipe, entry.name)) for entry in fields(Recipe)}
    if key not in kinds:
        near = get_close_matches(key, kinds, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"keys are {', '.join(kinds)}"
        raise InvalidRequestError(f"{file}: there is no {key!r} in a recipe", hint=hint)
    kind = kinds[key]
    if isinstance(value, str) and kind is float:  # 1e-4 without a point, which YAML takes for text
        try:
            value = float(value)
        except ValueError:
            raise InvalidRequestError(f"{file}: {key} is {value!r}, which is no number") from None
    fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not fits or isinstance(value, bool):
        raise InvalidRequestError(f"{file}: {key} is {value!r}", hint=f"{key} is {_KINDS[kind]}")
    return kind(value)


_KINDS = {float: "a number", int: "a whole number", str: "a word"}
