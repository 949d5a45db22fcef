"""One hierarchy of errors: each says what happened, where, why, and what to do next."""

from __future__ import annotations


class OnnxGrowError(Exception):
    """An expected failure, shown to the user as one line.

    `message` says what happened and where (node, tensor, file); `hint` says what to do next. `exit_code` is what the
    command line exits with.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidModelError(OnnxGrowError):
    """The input file is missing, unreadable, malformed, unsafe, or not an ONNX model."""


class InvalidRequestError(OnnxGrowError):
    """An argument is wrong: an unknown name, a factor that does not grow, a shape that does not fit."""


class OutputError(OnnxGrowError):
    """The output cannot be written: it exists, its folder is missing or read-only, the disk is full."""


class NothingToGrowError(OnnxGrowError):
    """Nothing in the model can grow as asked; the message lists the reasons."""

    exit_code = 3


class DeviceUnavailableError(OnnxGrowError):
    """The execution provider that was asked for does not answer on this machine."""

    exit_code = 4


class VerificationFailedError(OnnxGrowError):
    """The grown model does not compute what the original computes; nothing was written."""

    exit_code = 1


class TrainingFailedError(OnnxGrowError):
    """Training came to values that are not finite; the last good checkpoint is kept."""

    exit_code = 1


class MissingLibraryError(OnnxGrowError):
    """A library that this needs, and growing does not, is not installed."""


class UnsupportedOperatorError(OnnxGrowError):
    """The model has an operator that does not run in PyTorch; the message names it and its node."""
