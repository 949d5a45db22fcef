"""timm: a small member of every family of architectures."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sources import pytorch
from sources.torchvision_operators import provide_operators
from torch import nn

provide_operators()

import timm  # noqa: E402
import timm.models  # noqa: E402

EXPORTERS = pytorch.EXPORTERS
SIDES = (64, 96, 128, 192, 224, 256, 384)
NAMES = (Path(__file__).parent / "timm.txt").read_text().split()


def names() -> list[str]:
    """The families' members that this version of timm has."""
    there = set(timm.list_models())
    return [name for name in NAMES if name in there]


def export(name: str, exporter: str, file: Path) -> dict[str, Any]:
    """Build the architecture, as small as its constructor allows, and export it."""
    model, inputs = pytorch.first_that_runs(list(_ways(name)))
    return pytorch.export(model, inputs, file, exporter)


def _ways(name: str) -> Iterator[Callable[[], tuple[nn.Module, tuple[Any, ...]]]]:
    """Ways to build it, those that make it small first: by its arguments, by thinner layers, and as it is."""
    for shrink, divisor, largest in (
        (_shallow_and_thin, 1, 12e6),
        (_shallow, 1, 3e6),
        (_shallow, 4, 12e6),
        (_shallow, 1, 20e6),
        (_whole, 1, 25e6),
    ):
        if _size(name, shrink, divisor) <= largest:
            for side in SIDES:
                for sized in (True, False):
                    yield partial(_build, name, side, sized, shrink, divisor)


def _size(name: str, shrink: Callable[[dict[str, Any]], None], divisor: int) -> float:
    """How many parameters it would have; infinitely many where it cannot be built that way."""
    try:
        with _built_with(shrink), pytorch.thin_layers(divisor), torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
    except Exception:  # a constructor fails in as many ways as there are authors
        return 0.0 if shrink is _whole else math.inf


def _build(
    name: str,
    side: int,
    sized: bool,
    shrink: Callable[[dict[str, Any]], None],
    divisor: int,
) -> tuple[nn.Module, tuple[Any, ...]]:
    """`sized`: the constructor is told the side of the image (transformers with a table of positions want that)."""
    arguments: dict[str, Any] = {"img_size": side} if sized else {}
    with _built_with(shrink), pytorch.thin_layers(divisor):
        model = timm.create_model(name, pretrained=False, **arguments)
    return model, (pytorch.image(side, 1 if side > 128 else 2),)


@contextmanager
def _built_with(shrink: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Within it, `shrink` changes the arguments that an architecture's name stands for."""
    homes = [
        module
        for name, module in sys.modules.items()
        if name.startswith("timm.models.") and hasattr(module, "build_model_with_cfg")
    ]
    original = timm.models.build_model_with_cfg

    def build(kind: Any, variant: str, *args: Any, **arguments: Any) -> Any:
        shrink(arguments)
        return original(kind, variant, *args, **arguments)

    try:
        for home in homes:
            home.build_model_with_cfg = build  # type: ignore[attr-defined]
        yield
    finally:
        for home in homes:
            home.build_model_with_cfg = original  # type: ignore[attr-defined]


def _whole(arguments: dict[str, Any]) -> None:
    pass


def _shallow(arguments: dict[str, Any]) -> None:
    """At most two blocks per stage, four where there are no stages."""
    for key in ("depths", "layers", "depth", "num_layers", "num_blocks"):
        arguments.update({key: _at_most(arguments[key], 2)} if key in arguments else {})


def _at_most(depth: Any, most: int) -> Any:
    if isinstance(depth, int):
        return min(depth, 2 * most)
    if isinstance(depth, (tuple, list)) and all(isinstance(d, int) for d in depth):
        return type(depth)(min(d, most) for d in depth)
    return depth


def _shallow_and_thin(arguments: dict[str, Any]) -> None:
    """A quarter of the channels, too."""
    _shallow(arguments)
    for key in ("embed_dim", "embed_dims", "dims", "hidden_dim"):
        arguments.update({key: _quarter(arguments[key])} if key in arguments else {})
    if "embed_dim" not in arguments and "embed_dims" not in arguments and "dims" not in arguments:
        raise ValueError("no number of channels among the arguments")


def _quarter(channels: Any) -> Any:
    if isinstance(channels, int):
        return channels // 4
    return type(channels)(_quarter(c) for c in channels)
