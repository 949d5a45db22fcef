"""Running one model: a session that opens from a file, answers feeds, and is gone afterwards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onnx_grow.model.names import one_line
from onnx_grow.verification.providers import Device, session_options

__all__ = ["Arrays", "RunError", "Session", "opened"]

Array = np.ndarray[Any, Any]

Arrays = dict[str, Array]
"""Tensors by name."""


class RunError(Exception):
    """ONNX Runtime does not load or run a model; the message is its own, on one line."""


class Session:
    """A model that ONNX Runtime has loaded."""

    def __init__(self, path: Path, device: Device, *, optimised: bool) -> None:
        import onnxruntime as ort

        options = session_options(optimised=optimised)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=device.providers)
        except Exception as error:  # onnxruntime has no common error class
            raise RunError(_told(error)) from None
        if device.name == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise RunError("CUDA answered before and does not take this model")
        self._outputs = self._session.get_outputs()

    def run(self, feed: Mapping[str, Array]) -> Arrays:
        """The outputs for one feed, by name. Raises RunError.

        A sequence comes as arrays `NAME[0]`, `NAME[1]` …, a sequence of maps as `NAME` (the values) and `NAME[keys]`; an empty
        optional does not come at all.
        """
        try:
            results = self._session.run(None, dict(feed))
        except Exception as error:  # onnxruntime has no common error class
            raise RunError(_told(error)) from None
        arrays: Arrays = {}
        for value, result in zip(self._outputs, results, strict=True):
            arrays.update(_leaves(value.name, result, value.type))
        return arrays

    @property
    def placement(self) -> Mapping[str, int]:
        """Nodes per execution provider; empty where this onnxruntime does not tell."""
        nodes: Counter[str] = Counter()
        if hasattr(self._session, "get_provider_graph_assignment_info"):
            for part in self._session.get_provider_graph_assignment_info():
                nodes[part.ep_name] += len(part.get_nodes())
        return nodes


@contextmanager
def opened(path: Path, device: Device, *, optimised: bool) -> Iterator[Session]:
    """A session on `device`, with all graph optimisation or none; freed when the context ends. Raises RunError."""
    session = Session(path, device, optimised=optimised)
    try:
        yield session
    finally:
        del session._session  # two large models are never in memory at once, whoever still holds the wrapper


def _leaves(name: str, result: Any, type_name: str) -> Arrays:
    if result is None:
        return {}
    if isinstance(result, np.ndarray):
        return {name: result}
    if isinstance(result, list) and result and isinstance(result[0], dict):
        keys = [list(entry) for entry in result]
        values = [value for entry in result for value in entry.values()]
        array: Array = np.array(values, np.float32 if "tensor(float)" in type_name else None)
        if all(row == keys[0] for row in keys):
            array = array.reshape(len(keys), -1)
        return {f"{name}[keys]": np.array([str(key) for row in keys for key in row]), name: array}
    if isinstance(result, list):
        return {f"{name}[{index}]": np.asarray(item) for index, item in enumerate(result)}
    return {name: np.asarray(result)}


def _told(error: Exception) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"^Load model from .*? failed: ?", "", text, flags=re.DOTALL)  # the file may be one of ours
    return one_line(text)
