"""Boxes in images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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


TABLE: dict[tuple[str, str], Callable[..., Any]] = {("", "NonMaxSuppression"): non_max_suppression}
