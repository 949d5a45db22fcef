"""The user's own inputs, from files.

- `NAME.npz`: one set of inputs, arrays by input name.
- `NAME.npy`: one set, for a model with a single input.
- a folder of such files: one set per file, in the order of their names. If the `.npy` files are named after the inputs
  of a model that has several, they are one set together.
- a `test_data_set_*` folder of ONNX (`input_0.pb` …, by position): one set; a folder of those: one set each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_grow.errors import InvalidRequestError
from onnx_grow.model.arrays import read_arrays
from onnx_grow.verification.inputs import Feed

__all__ = ["Given", "read"]

Array = np.ndarray[Any, Any]

Given = str | os.PathLike[str] | Mapping[str, Array] | Sequence[Mapping[str, Array]]
"""Inputs as `verify` takes them: a path, arrays by input name, or several sets of those."""


def read(given: Given, dtypes: Mapping[str, int]) -> list[Feed]:
    """The sets of inputs in `given`, for a model whose real inputs have these element types, in this order.

    Numbers are converted to the model's type where nothing is lost but digits: floating point to floating point,
    integers to any number that holds them. Raises InvalidRequestError for a missing or unreadable file, a missing or
    unknown input, or a type that does not fit.
    """
    if isinstance(given, Mapping):
        sets = [("inputs", given)]
    elif isinstance(given, str | os.PathLike):
        sets = list(_from_path(Path(given), tuple(dtypes)))
    else:
        sets = [(f"inputs[{index}]", arrays) for index, arrays in enumerate(given)]
    if not sets:
        raise InvalidRequestError(
            f"{given} holds no inputs" if isinstance(given, str | os.PathLike) else "there are no inputs",
            hint="expected .npz or .npy files, or ONNX test_data_set_* folders",
        )
    return [Feed(label, _fitted(label, arrays, dtypes)) for label, arrays in sets]


def _from_path(path: Path, names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Array]]]:
    if not path.exists():
        raise InvalidRequestError(f"{path} does not exist", hint="inputs are a file or a folder")
    if not path.is_dir():
        yield path.name, _from_file(path, names)
        return
    if any(path.glob("input_*.pb")):
        yield path.name, _from_protobufs(path, names)
        return
    arrays = sorted(path.glob("*.npy"))
    if len(names) > 1 and arrays and {file.stem for file in arrays} <= set(names):
        yield path.name, {file.stem: _array(file) for file in arrays}
        return
    for file in sorted([*arrays, *path.glob("*.npz")]):
        yield file.name, _from_file(file, names)
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and any(folder.glob("input_*.pb")):
            yield folder.name, _from_protobufs(folder, names)


def _from_file(path: Path, names: Sequence[str]) -> Mapping[str, Array]:
    if path.suffix not in (".npz", ".npy"):
        raise InvalidRequestError(
            f"{path} is neither .npz nor .npy", hint="a folder of those, or of input_0.pb …, does as well"
        )
    arrays = read_arrays(path)
    if not isinstance(arrays, np.ndarray):
        return arrays
    if len(names) != 1:
        raise InvalidRequestError(
            f"{path} holds one array and the model has {len(names)} inputs",
            hint=f"give an .npz with the arrays {', '.join(names)}",
        )
    return {names[0]: arrays}


def _array(path: Path) -> Array:
    array = read_arrays(path)
    if not isinstance(array, np.ndarray):
        raise InvalidRequestError(f"{path} does not hold an array, but several")
    return array


def _from_protobufs(folder: Path, names: Sequence[str]) -> Mapping[str, Array]:
    arrays: dict[str, Array] = {}
    for file in sorted(folder.glob("input_*.pb")):
        number = re.fullmatch(r"input_(\d+)", file.stem)
        if number is None or int(number[1]) >= len(names):
            raise InvalidRequestError(f"{file} belongs to no input: the model has {len(names)}")
        try:
            tensor = onnx.TensorProto.FromString(file.read_bytes())
            arrays[names[int(number[1])]] = numpy_helper.to_array(tensor)
        except Exception:  # protobuf's DecodeError is not typed, and a wrong tensor fails in many ways
            raise InvalidRequestError(
                f"{file} holds no tensor", hint="sequences and optionals are not supported"
            ) from None
    return arrays


def _fitted(label: str, arrays: Mapping[str, Array], dtypes: Mapping[str, int]) -> dict[str, Array]:
    expected = ", ".join(dtypes) or "none"
    for name in arrays:
        if name not in dtypes:
            raise InvalidRequestError(f"{label}: the model has no input {name!r}", hint=f"inputs: {expected}")
    for name in dtypes:
        if name not in arrays:
            raise InvalidRequestError(f"{label}: input {name!r} is missing", hint=f"inputs: {expected}")
    return {
        name: _converted(f"{label}: input {name!r}", np.asarray(arrays[name]), dtypes[name])
        for name in dtypes
    }


def _converted(what: str, array: Array, dtype: int) -> Array:
    wanted = helper.tensor_dtype_to_np_dtype(dtype)
    if array.dtype == wanted:
        return array
    if wanted.kind == "O" and array.dtype.kind in "US":
        return array.astype(object)
    kinds = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}.get(wanted.kind, "")
    if array.dtype.kind not in kinds:
        raise InvalidRequestError(f"{what} is {array.dtype}, the model wants {wanted}")
    with np.errstate(over="ignore"):  # an infinity where float16 ends is what the network would get
        converted = array.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(converted, array):
        raise InvalidRequestError(f"{what} holds values that do not fit {wanted}")
    return converted
