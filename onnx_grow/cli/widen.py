"""`onnx-grow widen`: Net2WiderNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import click

from onnx_grow.cli.growing import grows
from onnx_grow.cli.options import (
    KINDS,
    Choice,
    exclude,
    given,
    model_argument,
    output_options,
    seed_option,
    to_factor,
    to_width,
)

if TYPE_CHECKING:
    from onnx_grow.growth import WidenPlan
    from onnx_grow.model import Model


_HOW_MUCH = ("factor", "widths", "to_params", "to_macs")


@click.command(short_help="More channels and units per layer.")
@model_argument
@output_options
@click.option(
    "--factor",
    type=to_factor,
    metavar="X",
    help="Multiply the width of every selected axis.  [default: 2]",
)
@click.option(
    "--width",
    "widths",
    type=to_width,
    multiple=True,
    metavar="GLOB=N",
    help="Give axes of this name exactly N channels, and leave all others as they are but those of --only; repeatable.",
)
@click.option(
    "--to-params",
    metavar="N",
    help="Instead of a factor: as wide as N parameters allow, such as 25M, 1.5B or 3x of those there are.",
)
@click.option(
    "--to-macs",
    metavar="N",
    help="Instead of a factor: as wide as N multiply-accumulates for one sample allow, such as 4G or 2x.",
)
@click.option(
    "--multiple-of",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    help="Make widths multiples of N, such as 8 or 64, as hardware likes them.",
)
@click.option(
    "--kind",
    "kinds",
    type=Choice(KINDS),
    multiple=True,
    help="What to widen; repeatable.  [default: hidden, residual, embedding and state]",
)
@click.option(
    "--only", multiple=True, metavar="GLOB", help="Widen only axes or layers of this name; repeatable."
)
@click.option(
    "--scheme",
    type=Choice(("auto", "split", "copy", "noise", "fresh", "pad")),
    default="auto",
    show_default=True,
    help="How new channels come about: as copies that share what they feed in unequal parts, so that they learn apart (split), "
    "equally (copy), or equally with a little noise on what they receive, which is not exact (noise); at random, feeding nothing yet "
    "(fresh); or such that norms do not notice them (pad).  auto pads under norms where no node has to be added for that, and splits "
    "elsewhere.",
)
@click.option(
    "--noise",
    metavar="SIGMA",
    type=click.FloatRange(0, 1, min_open=True),
    help="With --scheme noise: how much, relative to the weights.  [default: 0.01]",
)
@seed_option
@grows("wide")
def widen(
    factor: float | None,
    widths: tuple[tuple[str, int], ...],
    to_params: str | None,
    to_macs: str | None,
    multiple_of: int,
    kinds: tuple[str, ...],
    only: tuple[str, ...],
    scheme: Literal["auto", "split", "copy", "noise", "fresh", "pad"],
    noise: float | None,
    seed: int,
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[Callable[[Model], tuple[WidenPlan, Model]], str]:
    """Widen MODEL (Net2WiderNet) and prove that the result computes what MODEL computes.

    Writes MODEL-wide.onnx beside MODEL, unless -o says otherwise.
    """
    from onnx_grow.growth import widened
    from onnx_grow.growth.plan import DEFAULT_KINDS, Request

    if noise is not None and scheme != "noise":
        raise click.UsageError("--noise goes with --scheme noise only.")
    if widths and not only:
        because = "--width says all that grows, unless --only adds axes to it"
        exclude("factor", "kinds", "multiple_of", because=because)
    wanted = dict(widths) or None
    Request(factor, wanted, kinds or DEFAULT_KINDS, only or None, to_params, to_macs).check()

    def grown(model: Model) -> tuple[WidenPlan, Model]:
        return widened(
            model,
            factor=factor,
            widths=wanted,
            to_params=to_params,
            to_macs=to_macs,
            multiple_of=multiple_of,
            kind=kinds or DEFAULT_KINDS,
            only=only or None,
            scheme=scheme,
            seed=seed,
            shapes=shapes,
            **({} if noise is None else {"noise": noise}),
        )

    return grown, f"lower {' and '.join(given(*_HOW_MUCH)) or '--factor'}"
