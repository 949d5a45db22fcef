"""Statistics of activations from a real forward pass through ONNX Runtime."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.deepen_plan import Statistics
from onnx_grow.model import Draft, Model, nested, staged
from onnx_grow.model.arrays import read_arrays
from onnx_grow.shapes import Shapes

__all__ = ["Calibration", "channel_statistics"]

Array = np.ndarray[Any, Any]
Calibration = Mapping[str, Array] | str | os.PathLike[str]

BATCH = 32
"""Samples per run where the model leaves the batch size open."""

RUNS = 4
"""Runs on random inputs where there are no data."""


def channel_statistics(
    model: Model, shapes: Shapes, axes: Mapping[str, int], calibration: Calibration | None, seed: int
) -> dict[str, Statistics]:
    """Mean and variance of tensors along their channel axis (`axes`), over `calibration` data.

    The data map input names to arrays whose first dimension counts samples; a file is an .npz of such arrays, or an
    .npy for a model with one input; a folder holds such files. Without data the inputs are standard normal, drawn
    from `seed`. Sums are taken in float64.

    Raises InvalidRequestError for data that do not fit the model or that it does not run on.
    """
    feeds = _random(model, shapes, seed) if calibration is None else _given(model, calibration)
    moments = {name: _Moments(shapes.shape[name][axis]) for name, axis in axes.items()}
    with tempfile.TemporaryDirectory(prefix="onnx-grow-") as folder:
        session = _session(_observable(model, shapes, axes), Path(folder, "calibration.onnx"))
        for feed in feeds:
            try:
                values = session.run(list(moments), feed)
            except Exception as error:  # onnxruntime has no common error class
                raise InvalidRequestError(
                    f"the model does not run on the calibration data: {str(error).strip().splitlines()[0]}",
                    hint="give inputs that it accepts as calibration: an .npz file with one array per input",
                ) from error
            for (name, axis), value in zip(axes.items(), values, strict=True):
                moments[name].update(np.moveaxis(value, axis, -1))
    return {name: entry.statistics(name) for name, entry in moments.items()}


class _Moments:
    """Count, mean and sum of squared deviations per channel, merged batch by batch (Chan, Golub and LeVeque, 1979)."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)

    def update(self, values: Array) -> None:
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        total = self.count + len(rows)
        gap = mean - self.mean
        self.squares += ((rows - mean) ** 2).sum(axis=0) + gap**2 * (self.count * len(rows) / total)
        self.mean += gap * (len(rows) / total)
        self.count = total

    def statistics(self, name: str) -> Statistics:
        variance = self.squares / max(self.count, 1)
        if not self.count or not (np.isfinite(self.mean).all() and np.isfinite(variance).all()):
            raise InvalidRequestError(
                f"the calibration data give no finite statistics at {name!r}",
                hint="check the data for NaN and for their range",
            )
        return Statistics(*(tuple(map(float, part.astype(np.float32))) for part in (self.mean, variance)))


def _observable(model: Model, shapes: Shapes, names: Mapping[str, int]) -> Model:
    """The model with more outputs, and its bodies where they belong."""
    draft = Draft(model)
    known = {value.name for value in draft.proto.graph.output}
    for name in names:
        if name not in known:
            draft.proto.graph.output.append(
                onnx.ValueInfoProto(name=name, type=helper.make_tensor_type_proto(shapes.dtype[name], None))
            )
    return nested(draft.freeze())


def _session(model: Model, path: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with staged(model, path) as pending:
        try:
            return ort.InferenceSession(str(pending.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common error class
            raise InvalidRequestError(
                f"ONNX Runtime cannot load the model for calibration: {str(error).strip().splitlines()[0]}",
                hint="layers with BatchNormalization need a forward pass; sites without one do not: name them with 'after'",
            ) from error


def _given(model: Model, calibration: Calibration) -> Iterator[dict[str, Array]]:
    if isinstance(calibration, Mapping):
        yield from _batches(model, {str(name): np.asarray(array) for name, array in calibration.items()})
        return
    path = Path(calibration)
    files = sorted(path.glob("*.np[yz]")) if path.is_dir() else [path]
    if not files:
        raise InvalidRequestError(f"the calibration folder {str(path)!r} holds no .npz or .npy file")
    for file in files:
        yield from _batches(model, _read(model, file))


def _read(model: Model, path: Path) -> dict[str, Array]:
    inputs = [value.name for value in _inputs(model)]
    loaded = read_arrays(path)
    if not isinstance(loaded, np.ndarray):
        return loaded
    if len(inputs) != 1:
        raise InvalidRequestError(
            f"the calibration file {str(path)!r} holds one array and the model has {len(inputs)} inputs",
            hint="use an .npz file with one array per input",
        )
    return {inputs[0]: loaded}


def _batches(model: Model, data: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The data in batches as the model takes them; a rest that does not fill a fixed batch size is left out."""
    inputs = {value.name: value.type.tensor_type for value in _inputs(model)}
    for name in data:
        if name not in inputs:
            close = difflib.get_close_matches(name, inputs, 1)
            raise InvalidRequestError(
                f"the calibration data have an array {name!r}, which is no input of the model",
                hint=f"did you mean {close[0]!r}?" if close else f"inputs: {', '.join(inputs)}",
            )
    if missing := [name for name in inputs if name not in data]:
        raise InvalidRequestError(f"the calibration data have no array for input {missing[0]!r}")
    arrays = {name: _fitting(name, data[name], tensor) for name, tensor in inputs.items()}
    sizes = {len(array) if array.ndim else None for array in arrays.values()}
    fixed = {
        tensor.shape.dim[0].dim_value
        for tensor in inputs.values()
        if tensor.shape.dim and tensor.shape.dim[0].dim_value > 0
    }
    count = sizes.pop()
    if sizes or len(fixed) > 1 or count is None:  # the first dimension does not count samples everywhere
        yield arrays
        return
    size, whole = BATCH, count
    if fixed:
        size = fixed.pop()
        whole -= count % size
    if not whole:
        raise InvalidRequestError(
            f"the calibration data have {count} samples, which is not one batch of the model"
        )
    for start in range(0, whole, size):
        yield {name: array[start : start + size] for name, array in arrays.items()}


def _fitting(name: str, array: Array, tensor: onnx.TypeProto.Tensor) -> Array:
    dims = tensor.shape.dim
    if tensor.HasField("shape") and (
        array.ndim != len(dims)
        or any(
            dim.HasField("dim_value") and dim.dim_value != size
            for dim, size in list(zip(dims, array.shape, strict=True))[1:]
        )
    ):
        wanted = ", ".join(
            str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims
        )
        raise InvalidRequestError(
            f"the calibration array {name!r} has shape {list(array.shape)}, and the model takes [{wanted}]",
            hint="the first dimension counts samples and may be any",
        )
    if tensor.elem_type == TensorProto.STRING:
        return array.astype(object)
    return array.astype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def _random(model: Model, shapes: Shapes, seed: int) -> Iterator[dict[str, Array]]:
    """Standard normal numbers; bytes of any value; small integers, which any table of indices has; ones for flags."""
    rng = np.random.default_rng(seed)
    inputs = {value.name: value.type.tensor_type.elem_type for value in _inputs(model)}
    for _ in range(RUNS):
        yield {name: _draw(rng, dtype, shapes.inputs[name]) for name, dtype in inputs.items()}


def _draw(rng: np.random.Generator, dtype: int, shape: tuple[int, ...]) -> Array:
    if dtype == TensorProto.STRING:
        return np.full(shape, "", object)
    native = helper.tensor_dtype_to_np_dtype(dtype)
    if dtype == TensorProto.BOOL:
        return np.ones(shape, native)
    if native.kind in "iu":
        return rng.integers(0, 256 if dtype == TensorProto.UINT8 else 2, shape).astype(native)
    return rng.standard_normal(shape).astype(native)


def _inputs(model: Model) -> list[onnx.ValueInfoProto]:
    inputs = [value for value in model.skeleton.graph.input if value.name not in model.weights]
    for value in inputs:
        if not value.type.HasField("tensor_type"):
            raise InvalidRequestError(
                f"input {value.name!r} is no tensor, so there is no forward pass for the statistics of BatchNormalization",
                hint="name layers without BatchNormalization with 'after'",
            )
    return inputs
