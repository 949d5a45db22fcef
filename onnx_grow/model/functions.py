"""Model-local functions, written out where they are called: their nodes are then nodes like any other."""

from __future__ import annotations

from dataclasses import replace

from onnx import inliner

from onnx_grow.errors import InvalidModelError, InvalidRequestError
from onnx_grow.model.model import Model

__all__ = ["inlined"]


def inlined(model: Model) -> Model:
    """The same model without calls of local functions; a model that has none is returned as it is.

    A function of another operator set than the model's stays a call. Raises InvalidRequestError for what is no `Model`,
    InvalidModelError for calls that do not fit their functions.
    """
    if not isinstance(model, Model):
        raise InvalidRequestError(
            f"an object of type {type(model).__name__} is not a model", hint="onnx_grow.load makes one of it"
        )
    if not model.skeleton.functions:
        return model
    try:
        return replace(model, skeleton=inliner.inline_local_functions(model.skeleton))
    except RuntimeError as error:  # the bindings' name for a failed assertion
        raise InvalidModelError(f"a call does not fit its function: {error}") from error
