"""Resampling: every output element is a weighted sum of a few inputs along each axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.torch.operators.unsupported import Unsupported
from onnx_grow.torch.values import Host, sizes

__all__ = ["TABLE"]

Array = np.ndarray[Any, Any]
Taps = tuple[Array, Array]
"""For every output the places that it reads along an axis, and their weights."""


def resize(
    x: Tensor,
    roi: Host | None = None,
    scales: Host | None = None,
    target: Host | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    opset: int,
) -> Tensor:
    """x in other sizes along some axes."""
    if opset < 11:
        return upsample(x, roi, mode=mode, opset=opset)
    dims = [d % x.ndim for d in axes] if axes is not None else list(range(x.ndim))
    old = [x.shape[d] for d in dims]
    if target is not None and target.size:
        new = sizes(target)
        factors = [n / o for n, o in zip(new, old, strict=True)]
        if keep_aspect_ratio_policy != "stretch":
            factor = (min if keep_aspect_ratio_policy == "not_larger" else max)(factors)
            factors = [factor] * len(dims)
            new = [math.floor(o * factor + 0.5) for o in old]
    else:
        assert scales is not None
        factors = [float(f) for f in sizes(scales)]
        new = [o if f == 1 else math.floor(o * np.float32(f)) for o, f in zip(old, factors, strict=True)]
    starts_ends = [0.0] * len(dims) + [1.0] * len(dims) if roi is None or not roi.size else sizes(roi)
    outside: list[tuple[int, Array]] = []
    for k, d in enumerate(dims):
        cropped = coordinate_transformation_mode == "tf_crop_and_resize"
        if factors[k] == 1 and new[k] == old[k] and not cropped:
            continue
        region = (starts_ends[k], starts_ends[k + len(dims)])
        places = _coordinates(coordinate_transformation_mode, new[k], old[k], factors[k], region)
        if cropped:
            outside.append((d, (places < 0) | (places > old[k] - 1)))
        if mode == "nearest":
            taps = _nearest(places, nearest_mode)
        elif mode == "linear":
            taps = _linear(places, factors[k] if antialias else 1.0)
        else:
            taps = _cubic(places, factors[k] if antialias else 1.0, cubic_coeff_a)
        x = _resampled(x, d, taps, exclude_outside)
    for d, beyond in outside:
        mask = torch.from_numpy(beyond).to(x.device).reshape(-1, *(1,) * (x.ndim - 1 - d))
        x = torch.where(mask, torch.as_tensor(extrapolation_value, dtype=x.dtype, device=x.device), x)
    return x


def upsample(
    x: Tensor,
    factors: Host | None = None,
    *,
    mode: str = "nearest",
    scales: Sequence[float] = (),
    height_scale: float = 1.0,
    width_scale: float = 1.0,
    opset: int,
) -> Tensor:
    """x enlarged, as operator sets before 11 define it."""
    given = sizes(factors) if factors is not None else list(scales) or [1.0, 1.0, height_scale, width_scale]
    return resize(
        x,
        None,
        np.array(given, np.float32),
        coordinate_transformation_mode="asymmetric",
        mode="nearest" if mode == "nearest" else "linear",
        nearest_mode="floor",
        opset=11,
    )


def _coordinates(mode: str, new: int, old: int, factor: float, region: tuple[float, float]) -> Array:
    """Where every output lies in the input, computed in float32, as ONNX Runtime does."""
    out, scale = np.arange(new, dtype=np.float32), np.float32(factor)
    if mode == "asymmetric":
        return out / scale
    if mode == "align_corners":
        return out * np.float32(old - 1) / np.float32(new - 1) if new > 1 else np.zeros(1, np.float32)
    if mode == "pytorch_half_pixel" and new <= 1:
        return np.zeros(new, np.float32)
    if mode == "tf_half_pixel_for_nn":
        return (out + np.float32(0.5)) / scale
    if mode == "half_pixel_symmetric":
        exact = factor * old
        offset = old / 2 * (1 - new / exact)
        return np.float32(offset) + (out + np.float32(0.5)) / scale - np.float32(0.5)
    if mode == "tf_crop_and_resize":
        start, end = region
        if new <= 1:
            return np.full(new, 0.5 * (start + end) * (old - 1), np.float32)
        step = np.float32((end - start) * (old - 1) / (new - 1))
        return np.float32(start * (old - 1)) + out * step
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (out + np.float32(0.5)) / scale - np.float32(0.5)
    raise Unsupported(f"its coordinates are {mode!r}")


def _nearest(places: Array, rounding: str) -> Taps:
    half = np.float32(0.5)
    if rounding == "round_prefer_floor":
        rounded = np.ceil(places - half)
    elif rounding == "round_prefer_ceil":
        rounded = np.floor(places + half)
    else:
        rounded = np.floor(places) if rounding == "floor" else np.ceil(places)
    return rounded.astype(np.int64)[:, None], np.ones((len(places), 1))


def _linear(places: Array, factor: float) -> Taps:
    return _taps(places, factor, 1, lambda distance: np.maximum(1 - np.abs(distance), 0))


def _cubic(places: Array, factor: float, a: float) -> Taps:
    def weight(distance: Array) -> Array:
        d = np.abs(distance)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))

    return _taps(places, factor, 2, weight)


def _taps(places: Array, factor: float, radius: int, weight: Callable[[Array], Array]) -> Taps:
    """The neighbours within a radius, which is larger where an antialiased image becomes smaller."""
    shrink = min(factor, 1.0)
    reach = math.ceil(radius / shrink)
    first = np.floor(places).astype(np.int64) - reach + 1
    around = first[:, None] + np.arange(2 * reach)
    return around, weight((around - places[:, None].astype(np.float64)) * shrink)


def _resampled(x: Tensor, dim: int, taps: Taps, exclude_outside: int) -> Tensor:
    places, weights = taps
    last = int(x.shape[dim]) - 1
    if exclude_outside:
        weights = np.where((places < 0) | (places > last), 0, weights)
    weights = weights / weights.sum(1, keepdims=True)
    places = np.clip(places, 0, last)
    if places.shape[1] == 1:
        return x.index_select(dim, torch.from_numpy(places[:, 0].copy()).to(x.device))
    kind = x.dtype if x.is_floating_point() else torch.float32
    y: Any = 0
    for k in range(places.shape[1]):
        part = x.index_select(dim, torch.from_numpy(places[:, k].copy()).to(x.device)).to(kind)
        share = torch.from_numpy(weights[:, k].copy()).to(x.device, kind)
        y = y + part * share.reshape(-1, *(1,) * (x.ndim - 1 - dim))
    return y if kind == x.dtype else y.to(x.dtype)


def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """x read at the places of a grid, whose coordinates go from -1 to 1."""
    names = {"linear": "bilinear", "cubic": "bicubic"}
    return F.grid_sample(x, grid, names.get(mode, mode), padding_mode, bool(align_corners))


def affine_grid(theta: Tensor, size: Host, *, align_corners: int = 0) -> Tensor:
    """The grid that an affine map makes of the regular one."""
    return F.affine_grid(theta, sizes(size), bool(align_corners))


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "AffineGrid"): affine_grid,
    ("", "GridSample"): grid_sample,
    ("", "Resize"): resize,
    ("", "Upsample"): upsample,
}
