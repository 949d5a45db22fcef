"""Groups of options that several commands share, and the types their values are parsed to."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from difflib import get_close_matches
from functools import reduce, wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from onnx_grow.cli.screen import Screen

F = TypeVar("F", bound=Callable[..., Any])

KINDS = ("hidden", "residual", "heads", "head_dim", "groups", "embedding", "state")


def to_factor(text: str) -> float:
    """A finite number above 1."""
    try:
        number = float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number.") from None
    if not (math.isfinite(number) and number > 1):
        raise click.BadParameter(
            f"{text} does not grow anything; give a finite number above 1, such as 2 or 1.5."
        )
    return number


def to_width(text: str) -> tuple[str, int]:
    """`GLOB=N`, split at the last `=`: the size that axes of these names shall get."""
    glob, _, size = text.rpartition("=")
    if not (glob and _is_count(size) and int(size)):
        raise click.BadParameter(f"{text!r} is not of the form GLOB=N, such as '/layer1/*=96'.")
    return glob, int(size)


def to_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`NAME:1,3,224,224`, split at the last `:`: the shape of one graph input, whose name may hold colons itself."""
    name, _, dims = text.rpartition(":")
    sizes = dims.split(",") if dims else []
    if not (name and all(map(_is_count, sizes))):
        raise click.BadParameter(f"{text!r} is not of the form NAME:DIMS, such as 'input:1,3,224,224'.")
    return name, tuple(map(int, sizes))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit()


class Choice(click.Choice):  # type: ignore[type-arg]
    """One of some words; a near miss gets a suggestion."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The word; fails if it is none of them."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            error.possibilities = get_close_matches(str(value), list(map(str, self.choices)), 1)  # type: ignore[attr-defined]
            raise


class Document(click.Path):
    """A file to write for people or other programs, known by its ending: a slip must not replace a model.

    A report of `mark`, which stands near its beginning, replaces reports of that kind, as the next run of a job does, and nothing else.
    """

    def __init__(self, *endings: str, mark: bytes = b"") -> None:
        super().__init__(dir_okay=False, writable=True)
        self.endings = endings
        self.mark = mark

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; fails if its ending is another, its folder does not exist, or what is there is no report of this kind."""
        path = str(super().convert(value, param, ctx))
        if not path.lower().endswith(self.endings):
            self.fail(f"{path!r} does not end in {self.endings[0]}.", param, ctx)
        if not Path(path).absolute().parent.is_dir():
            self.fail(f"the folder of {path!r} does not exist.", param, ctx)
        if self.mark and not self._may_replace(Path(path)):
            self.fail(f"{path!r} exists, and is no such report of onnx-grow: name another file.", param, ctx)
        return path

    def _may_replace(self, file: Path) -> bool:
        if not file.exists():
            return True
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
        return not head or self.mark in head


_HEAD = 4096
"""Bytes at the beginning of a report in which its mark is looked for."""


def given(*names: str) -> list[str]:
    """The options of these parameters that stand on the command line, as they are written there."""
    context = click.get_current_context()
    said = (
        param
        for param in context.command.params
        if param.name in names and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    )
    return [
        (param.opts if context.params.get(str(param.name)) is not False else param.secondary_opts)[-1]
        for param in said
    ]


def exclude(*names: str, because: str) -> None:
    """Raise UsageError, saying why, if an option of these parameters stands on the command line."""
    if said := given(*names):
        raise click.UsageError(f"{' and '.join(said)}: {because}.")


def presented(command: F) -> F:
    """Add --json, --html, -q, -v and --debug; the command receives a `Screen`."""
    page = click.option(
        "--html",
        type=Document(".html", ".htm", mark=b'<meta name="generator" content="onnx-grow"'),
        metavar="FILE",
        help="Write the result as a page of HTML, too.",
    )
    return page(told(command))


def told(command: F) -> F:
    """Add --json, -q, -v and --debug; the command receives a `Screen`."""

    @wraps(command)
    def with_screen(
        *args: Any, as_json: bool, quiet: bool, verbose: bool, html: str | None = None, **options: Any
    ) -> Any:
        if quiet and verbose:
            raise click.UsageError("-q prints errors only and -v every detail: say one of them.")
        context = click.get_current_context()
        invocation = shlex.join(["onnx-grow", *(context.find_root().obj or ())])
        screen = Screen(context.info_name or "", as_json, quiet, verbose, html=html, invocation=invocation)
        return command(*args, screen=screen, **options)

    add: Callable[[Any], F] = _all(
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document (docs/json.md)."),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        click.option("-v", "--verbose", is_flag=True, help="Print every axis, output and reason."),
        click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
    )
    return add(with_screen)


def _all(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda command: reduce(lambda inner, option: option(inner), reversed(options), command)


MODEL = click.Path(readable=False, allow_dash=True)
"""A model, to read or to write; shells complete it."""

DATA = click.Path(exists=True)
"""A file of arrays or a folder of them, which has to exist before any work begins."""

model_argument = click.argument("source", metavar="MODEL", type=MODEL)

shape_option = click.option(
    "--shape",
    "shapes",
    type=to_shape,
    multiple=True,
    metavar="NAME:DIMS",
    help="Shape of a graph input, such as input:1,3,224,224; repeatable.",
)

output_options = _all(
    click.option(
        "-o",
        "--output",
        metavar="OUT",
        type=MODEL,
        help="File to write; - is standard output.  [default: see above]",
    ),
    click.option("--force", is_flag=True, help="Replace OUT if it exists."),
    click.option("--dry-run", is_flag=True, help="Show the plan and the size it leads to, and stop."),
    click.option(
        "--plan",
        "plan_file",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="Write what was done to FILE; 'onnx-grow grow MODEL FILE' does the same again, byte for byte.",
    ),
)

checking_options = _all(
    shape_option,
    click.option(
        "--inputs",
        metavar="DATA",
        type=DATA,
        help="Verify on these inputs: .npz, .npy, a folder of them, or an ONNX test_data_set folder.",
    ),
    click.option(
        "--provider",
        type=Choice(["auto", "cuda", "cpu"]),
        default="auto",
        show_default=True,
        help="Where to verify. auto takes CUDA when it answers and says which it was.",
    ),
    click.option(
        "--proof/--no-proof",
        default=None,
        help="Compare in float64, too, where rounding hides nothing.  [default: for small models]",
    ),
    click.option(
        "--seeds",
        type=click.IntRange(min=1),
        metavar="N",
        help="Sets of inputs to make up to verify on, which the time it takes is in proportion to.  "
        "[default: 3, for small models 9]",
    ),
)

seed_option = click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Same seed, same file, byte for byte.",
)

no_verify_option = click.option("--no-verify", is_flag=True, help="Write the file without proving it equal.")
