"""Declarations of torchvision's compiled operators.

The torchvision that comes with a CPU-only PyTorch has them. The one on PyPI was compiled for CUDA, does not load without it, and then
cannot even be imported. The zoo only needs the import: nothing that it exports runs one of them.
"""

import torch

_library: list[torch.library.Library] = []


def provide_operators() -> None:
    """Declare the operators that torchvision's import looks for, unless they are there."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        _library.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _library[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
