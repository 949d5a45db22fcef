"""Boxes in images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onnx_grow.torch.operators.unsupported import Unsupported
from onnx_grow.torch.values import Host, sizes

__all__ = ["TABLE"]


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    most: Host | None = None,
    overlap: Host | None = None,
    threshold: Host | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """The boxes that no better one overlaps: rows of batch, class and box."""
    limit = 0 if most is None else int(sizes(most)[0])
    allowed = 0.0 if overlap is None else float(sizes(overlap)[0])
    chosen: list[list[int]] = []
    for n in range(scores.shape[0]):
        corners = _corners(boxes[n].detach(), center_point_box)
        for c in range(scores.shape[1]):
            kept: list[int] = []
            row = scores[n, c].detach()
            for k in torch.argsort(row, descending=True, stable=True).tolist():
                if len(kept) >= limit or (threshold is not None and row[k] <= float(sizes(threshold)[0])):
                    break
                if all(_overlap(corners[k], corners[other]) <= allowed for other in kept):
                    kept.append(k)
            chosen += ([n, c, k] for k in kept)
    return torch.tensor(chosen, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def roi_align(
    x: Tensor,
    boxes: Tensor,
    images: Tensor,
    *,
    coordinate_transformation_mode: str | None = None,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
    opset: int,
) -> Tensor:
    """Boxes cut out of images and brought to one size: means of interpolated samples. The gradient reaches the boxes, too."""
    if mode != "avg":
        raise Unsupported("it takes maxima of samples")
    centred = (coordinate_transformation_mode or ("half_pixel" if opset >= 16 else "")) == "half_pixel"
    corners = boxes * spatial_scale - (0.5 if centred else 0.0)
    regions = []
    for (left, top, right, bottom), image in zip(corners, images.long(), strict=True):
        height, width = bottom - top, right - left
        if not centred:  # as before operator set 16, which has no smaller boxes than one pixel
            height, width = height.clamp(min=1.0), width.clamp(min=1.0)
        rows = _samples(top, height, output_height, sampling_ratio, x.shape[2])
        columns = _samples(left, width, output_width, sampling_ratio, x.shape[3])
        regions.append(rows @ x[image] @ columns.T)
    return torch.stack(regions) if regions else x.new_zeros((0, x.shape[1], output_height, output_width))


def _samples(start: Tensor, length: Tensor, bins: int, ratio: int, size: int) -> Tensor:
    """The weights (bins, size) with which a line of pixels enters the means over its bins, interpolation included."""
    count = ratio or max(int(torch.ceil(length.detach() / bins)), 1)
    steps = torch.arange(bins * count, dtype=start.dtype, device=start.device)
    places = start + length / bins * (steps + 0.5) / count
    inside = (places >= -1) & (places <= size)
    near = places.clamp(0, size - 1)
    weights = (1 - (near[:, None] - torch.arange(size, device=start.device)).abs()).clamp(min=0)
    return (weights * inside[:, None]).reshape(bins, count, size).mean(1)


def max_roi_pool(x: Tensor, boxes: Tensor, *, pooled_shape: list[int], spatial_scale: float = 1.0) -> Tensor:
    """The maxima over a grid of every box, whose first number is its image."""
    corners = torch.floor(boxes[:, 1:] * spatial_scale + 0.5).long().tolist()
    regions = []
    for image, (left, top, right, bottom) in zip(boxes[:, 0].long(), corners, strict=True):
        rows = _cells(top, bottom, pooled_shape[0], x.shape[2])
        columns = _cells(left, right, pooled_shape[1], x.shape[3])
        cells = [_highest(x[image][:, row, column]) for row in rows for column in columns]
        regions.append(torch.stack(cells, -1).unflatten(-1, pooled_shape))
    return torch.stack(regions) if regions else x.new_zeros((0, x.shape[1], *pooled_shape))


def _cells(first: int, last: int, bins: int, size: int) -> list[slice]:
    length = max(last - first + 1, 1)
    edges = [(first + k * length // bins, first - (-(k + 1) * length // bins)) for k in range(bins)]
    return [slice(min(max(a, 0), size), min(max(b, 0), size)) for a, b in edges]


def _highest(cell: Tensor) -> Tensor:
    return cell.flatten(1).amax(1) if cell.numel() else cell.new_zeros(len(cell))


def _corners(boxes: Tensor, center_point_box: int) -> list[list[float]]:
    if center_point_box:
        x, y, width, height = boxes.unbind(-1)
        boxes = torch.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], -1)
    a, b = boxes[:, :2], boxes[:, 2:]
    rows: list[list[float]] = torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1).tolist()
    return rows


def _overlap(a: list[float], b: list[float]) -> float:
    height, width = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    if height <= 0 or width <= 0:
        return 0.0
    common = height * width
    return common / (sum((each[2] - each[0]) * (each[3] - each[1]) for each in (a, b)) - common)


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "MaxRoiPool"): max_roi_pool,
    ("", "NonMaxSuppression"): non_max_suppression,
    ("", "RoiAlign"): roi_align,
}
