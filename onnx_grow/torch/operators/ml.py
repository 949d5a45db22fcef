"""Operators of ai.onnx.ml that compute with numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.torch.operators.unsupported import Unsupported

__all__ = ["TABLE"]


def extract(x: Any, places: Tensor) -> Any:
    """Some places of the last dimension, of numbers or of texts."""
    if isinstance(x, np.ndarray):
        return x.reshape(-1, x.shape[-1])[:, places.reshape(-1).cpu().numpy()]
    rows = x.reshape(1, -1) if x.ndim == 1 else x
    return rows.index_select(-1, places.reshape(-1).to(torch.int64))


def scaler(x: Tensor, *, offset: Sequence[float] = (), scale: Sequence[float] = ()) -> Tensor:
    """(x - offset) scale, per feature."""
    return (x.float() - _floats(offset, x)) * _floats(scale, x)


def imputer(
    x: Tensor,
    *,
    imputed_value_floats: Sequence[float] = (),
    imputed_value_int64s: Sequence[int] = (),
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Tensor:
    """x with one value, NaN perhaps, replaced per feature."""
    if not x.is_floating_point():
        given = torch.tensor(list(imputed_value_int64s), dtype=x.dtype, device=x.device)
        return torch.where(x == replaced_value_int64, given, x)
    is_nan = replaced_value_float != replaced_value_float
    missing = torch.isnan(x) if is_nan else x == replaced_value_float
    return torch.where(missing, _floats(imputed_value_floats, x), x)


def binarizer(x: Tensor, *, threshold: float = 0.0) -> Tensor:
    """One above a threshold."""
    return (x > threshold).to(x.dtype)


def normalizer(x: Tensor, *, norm: str = "MAX") -> Tensor:
    """Every row divided by its norm."""
    if norm == "MAX":
        sizes = x.abs().amax(-1, keepdim=True)
    else:
        sizes = torch.linalg.vector_norm(x.float(), 1 if norm == "L1" else 2, -1, keepdim=True)
    return torch.where(sizes == 0, x, x / sizes).float()


def one_hot_encoder(
    x: Tensor, *, cats_int64s: Sequence[int] = (), cats_strings: Sequence[str] = (), zeros: int = 1
) -> Tensor:
    """One for the category, along a new last dimension."""
    if cats_strings:
        raise Unsupported("its categories are texts")
    categories = torch.tensor(list(cats_int64s), device=x.device)
    return (x.to(torch.int64).unsqueeze(-1) == categories).float()


def linear_regressor(
    x: Tensor,
    *,
    coefficients: Sequence[float] = (),
    intercepts: Sequence[float] = (),
    post_transform: str = "NONE",
    targets: int = 1,
) -> Tensor:
    """A linear map."""
    y = x.float() @ _floats(coefficients, x).reshape(targets, -1).T
    y = y + _floats(intercepts, x) if intercepts else y
    return _transformed(y, post_transform)


def linear_classifier(
    x: Tensor,
    *,
    classlabels_ints: Sequence[int] = (),
    classlabels_strings: Sequence[str] = (),
    coefficients: Sequence[float],
    intercepts: Sequence[float] = (),
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> tuple[Tensor, Tensor]:
    """The classes of the largest scores, and the scores."""
    if classlabels_strings:
        raise Unsupported("its classes are texts")
    labels = torch.tensor(list(classlabels_ints), device=x.device)
    rows = len(intercepts) or len(coefficients) // x.shape[-1]
    if rows == 1 or len(labels) != rows:
        raise Unsupported("it has one score for two classes")
    scores = x.float() @ _floats(coefficients, x).reshape(rows, -1).T
    scores = scores + _floats(intercepts, x) if intercepts else scores
    return labels[scores.argmax(-1)], _transformed(scores, post_transform)


def zip_map(
    x: Tensor, *, classlabels_int64s: Sequence[int] = (), classlabels_strings: Sequence[str] = ()
) -> list[dict[int | str, Tensor]]:
    """A dictionary for every row: its elements by class."""
    classes: list[int | str] = [*classlabels_strings, *classlabels_int64s]
    return [dict(zip(classes, row.unbind(), strict=True)) for row in x]


def _floats(numbers: Sequence[float], x: Tensor) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.float32, device=x.device)


def _transformed(scores: Tensor, name: str) -> Tensor:
    if name == "NONE":
        return scores
    if name == "LOGISTIC":
        return torch.sigmoid(scores)
    if name == "SOFTMAX":
        return F.softmax(scores, -1)
    raise Unsupported(f"it has the transform {name!r}")


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("ai.onnx.ml", "ArrayFeatureExtractor"): extract,
    ("ai.onnx.ml", "Binarizer"): binarizer,
    ("ai.onnx.ml", "Imputer"): imputer,
    ("ai.onnx.ml", "LinearClassifier"): linear_classifier,
    ("ai.onnx.ml", "LinearRegressor"): linear_regressor,
    ("ai.onnx.ml", "Normalizer"): normalizer,
    ("ai.onnx.ml", "OneHotEncoder"): one_hot_encoder,
    ("ai.onnx.ml", "Scaler"): scaler,
    ("ai.onnx.ml", "ZipMap"): zip_map,
}
