"""Checkpoints: all that a training needs to go on as if nothing had happened."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from onnx_grow.errors import InvalidRequestError
from onnx_grow.training.files import replacing

__all__ = ["Checkpoint", "Progress", "read_optimizer_state"]

FORMAT = 1


@dataclass
class Progress:
    """How far a training has come: whole epochs, steps of the one that runs, the sum of their losses, and what was evaluated so far.

    `planned` are the epochs that its schedule has been for, 0 if that is not known.
    """

    epoch: int = 0
    step: int = 0
    losses: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    best_epoch: int = 0
    planned: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training of one model: of network and optimizer, and how far it has come.

    `setting` is what must be the same where it goes on: the model, the data, the order in which they come.
    """

    setting: Mapping[str, Any]
    network: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    progress: Progress

    def write(self, path: Path) -> None:
        """Write the checkpoint, at once or not at all."""
        document = {
            "format": FORMAT,
            "setting": dict(self.setting),
            "network": dict(self.network),
            "optimizer": dict(self.optimizer),
            "progress": asdict(self.progress),
        }
        with replacing(path) as staged, staged.open("wb") as file:
            try:
                torch.save(document, file)
            except RuntimeError as error:  # what PyTorch makes of a full disk
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    @classmethod
    def read(cls, path: Path, setting: Mapping[str, Any]) -> Checkpoint:
        """Read a checkpoint of a training with this setting; nothing in the file is executed.

        Raises InvalidRequestError for a file that is none, or one of another model or other data, saying which.
        """
        document = _loaded(path, "start without --resume")
        try:
            found = document["setting"]
            progress = Progress(**document["progress"])
            checkpoint = cls(found, document["network"], document["optimizer"], progress)
        except (KeyError, TypeError) as error:
            raise InvalidRequestError(
                f"{path} is no checkpoint that can be read: {error} is missing", hint="start without --resume"
            ) from error
        for name, value in setting.items():
            if found.get(name) != value:
                told = "" if name == "model" else f": {found.get(name)}, not {value}"  # of a model, a digest
                raise InvalidRequestError(
                    f"{path} is a checkpoint of another {name}{told}",
                    hint=f"give the {name} it was made with, or start anew with another --output",
                )
        return checkpoint


def read_optimizer_state(path: Path) -> Mapping[str, Any]:
    """The state of an optimizer in a file: what `torch.save(optimizer.state_dict(), path)` writes, or a checkpoint of `train.py`.

    Nothing in the file is executed. Raises InvalidRequestError for anything else.
    """
    hint = "torch.save(optimizer.state_dict(), FILE) writes one"
    document = _loaded(path, hint)
    state = document.get("optimizer", document) if isinstance(document, dict) else {}
    if not isinstance(state, dict) or not {"state", "param_groups"} <= state.keys():
        raise InvalidRequestError(f"{path} holds no state of an optimizer", hint=hint)
    return state


def _loaded(path: Path, hint: str) -> Any:
    """What torch.save has put into a file."""
    try:
        if not zipfile.is_zipfile(path):  # of anything else PyTorch makes errors of every kind
            path.open("rb").close()
            raise InvalidRequestError(f"{path} is no checkpoint, or an incomplete one", hint=hint)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InvalidRequestError(f"there is no checkpoint {path}", hint=hint) from None
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidRequestError(f"{path} is no checkpoint that can be read: {said}", hint=hint) from error
