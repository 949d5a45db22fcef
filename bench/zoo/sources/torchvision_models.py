"""torchvision: every classification, segmentation, video and optical-flow architecture, and the detectors up to their heads."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sources import pytorch
from sources.torchvision_operators import provide_operators
from torch import nn

provide_operators()

from torchvision import models  # noqa: E402

EXPORTERS = pytorch.EXPORTERS
LARGEST = 2_000_000
"""Parameters above which a model is built with fewer channels."""
DIVISORS = (1, 2, 4, 8, 16)
SIDES = {
    "alexnet": 224,
    "vgg": 224,
    "inception_v3": 96,
    "maxvit_t": 224,
    "raft": 128,
    "swin3d": 32,
    "vit_h_14": 56,
    "mvit": 224,
    "s3d": 224,
    "fcos": 256,
    "retinanet": 256,
}


def names() -> list[str]:
    """All architectures; the quantised ones are not exportable."""
    return [name for name in models.list_models() if not name.startswith("quantized_")]


def export(name: str, exporter: str, file: Path) -> dict[str, Any]:
    """Build the architecture with random weights, small enough, and export it."""
    size = models.get_model_weights(name).DEFAULT.meta["num_params"]
    enough = next((divisor for divisor in DIVISORS if size / divisor**2 <= LARGEST), DIVISORS[-1])
    ways = [partial(build, name, divisor) for divisor in reversed(DIVISORS) if divisor <= enough]
    model, inputs = pytorch.first_that_runs(ways)
    return pytorch.export(model, inputs, file, exporter)


def build(name: str, divisor: int) -> tuple[nn.Module, tuple[Any, ...]]:
    """The architecture, thin where it would be large, and an input that it accepts."""
    side = next((side for prefix, side in SIDES.items() if name.startswith(prefix)), 64)
    if name in models.list_models(module=models.video):
        frames = 16 if name.startswith(("mvit", "s3d")) else 8
        shape = (1, 3, frames, side, side)
        inputs: tuple[Any, ...] = (torch.randn(shape),)
    elif name.startswith("raft"):
        inputs = (pytorch.image(side, 1), pytorch.image(side, 1).flip(-1))
    elif name in models.list_models(module=models.detection):
        inputs = (pytorch.image(320 if "ssd" in name else side, 1),)
    else:
        inputs = (pytorch.image(side, 1 if side > 100 else 2),)
    return _model(name, divisor), inputs


def _model(name: str, divisor: int) -> nn.Module:
    if re.match(r"vit_|swin|mvit|maxvit|convnext|raft", name):
        return _transformer(name)
    arguments: dict[str, Any] = {"weights": None}
    if name in models.list_models(module=models.segmentation) + models.list_models(module=models.detection):
        arguments["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        arguments["init_weights"] = True
    with pytorch.thin_layers(divisor):
        model = models.get_model(name, **arguments)
    if name in models.list_models(module=models.detection):
        return Detector(model)
    return model


def _transformer(name: str) -> nn.Module:
    """Fewer layers and channels by the constructor's own arguments: here sizes are used outside layers, too."""
    if name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        layers = {"b": 3, "l": 4, "h": 5}[name[4]]
        return models.VisionTransformer(64 // patch * patch, patch, layers, 8, 96, 192)
    if name.startswith("maxvit"):
        return models.maxvit.MaxVit((224, 224), 16, 7, [16, 32, 64, 128], [1, 1, 2, 1], 8, 0.2)
    if name.startswith("convnext"):
        parts = {"tiny": (3, 9), "small": (3, 27), "base": (3, 27), "large": (3, 27)}[name.rsplit("_", 1)[1]]
        setting = [
            models.convnext.CNBlockConfig(24, 48, min(parts[0], 2)),
            models.convnext.CNBlockConfig(48, 96, 2),
            models.convnext.CNBlockConfig(96, 192, parts[1] // 9 + 1),
            models.convnext.CNBlockConfig(192, None, 2),
        ]
        return models.ConvNeXt(setting, 0.1)
    if name.startswith("swin3d"):
        return models.video.SwinTransformer3d(
            [2, 4, 4], 24, [2, 2, 2 if name.endswith("t") else 4, 2], [3, 6, 12, 24], [4, 4, 4]
        )
    if name.startswith("swin"):
        v2 = "v2" in name
        extra: dict[str, Any] = (
            {
                "block": models.swin_transformer.SwinTransformerBlockV2,
                "downsample_layer": models.swin_transformer.PatchMergingV2,
            }
            if v2
            else {}
        )
        heads = [4, 8, 16, 32] if name.endswith("b") else [3, 6, 12, 24]
        return models.SwinTransformer(
            [4, 4], 8 * heads[0], [2, 2, 2 if name.endswith("t") else 4, 2], heads, [4, 4], **extra
        )
    if name.startswith("mvit"):
        return models.get_model(name, weights=None)
    return models.get_model(name, weights=None)


class Detector(nn.Module):
    """A detector up to the outputs of its heads: what follows is sorting and thresholds, without weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: torch.Tensor) -> Any:
        features = self.model.backbone(pictures)
        features = list(features.values()) if isinstance(features, dict) else [features]
        if hasattr(self.model, "rpn"):
            boxes = self.model.roi_heads.box_head, self.model.roi_heads.box_predictor
            side = int(self.model.roi_heads.box_roi_pool.output_size[0])
            pooled = nn.functional.interpolate(features[0], size=(side, side))
            return self.model.rpn.head(features), boxes[1](boxes[0](pooled))
        return self.model.head(features)
