"""What the `train.py` of an exported folder leaves to the library: its options, its files, its errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from onnx_grow.errors import InvalidRequestError, OnnxGrowError
from onnx_grow.model import Model, load
from onnx_grow.training.data import Examples, check_teacher
from onnx_grow.training.exchange import OPTIMIZER
from onnx_grow.training.recipe import Recipe
from onnx_grow.training.requirements import require

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from onnx_grow.training.fitting import Measure

__all__ = ["main"]

INTERRUPTED = 130
_OVERRIDES = ("epochs", "batch_size", "learning_rate", "seed")


def main(
    script: str,
    description: str | None,
    *,
    examples: Callable[[str, Model], Examples],
    loss: Measure,
    optimizer: Callable[[Iterable[nn.Parameter], Recipe], Optimizer],
    measures: Mapping[str, Measure],
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Train the model that lies beside `script` as its recipe says, and exit: 0 when it is done, 130 after Ctrl-C.

    `examples` reads the data, `loss` is what the optimizer that `optimizer` makes shall make small, `measures` are evaluated beside it;
    the network of the epoch with the best first measure is kept. Errors are one line and a hint.
    """
    options = _options(description, arguments)
    try:
        _train(Path(os.path.abspath(script)).parent, options, examples, loss, optimizer, measures)
    except OnnxGrowError as error:
        if options.debug:
            raise
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _train(
    folder: Path,
    options: argparse.Namespace,
    examples: Callable[[str, Model], Examples],
    loss: Measure,
    optimizer: Callable[[Iterable[nn.Parameter], Recipe], Optimizer],
    measures: Mapping[str, Measure],
) -> None:
    require("torch", "training")
    require("matplotlib", "training")
    from onnx_grow.training.checkpoints import read_optimizer_state
    from onnx_grow.training.fitting import Interrupted, Task, Training
    from onnx_grow.training.processes import joined

    model, recipe = load(folder / "model.onnx"), _recipe(folder, options)
    whole = examples(options.data, model)
    if options.test is None:
        learned, held_out = whole.divided(recipe.held_out, recipe.seed)
    else:
        learned, held_out = whole, examples(options.test, model)
        if whole.classes != held_out.classes:
            only = sorted({*whole.classes} ^ {*held_out.classes})[0]
            raise InvalidRequestError(
                f"{options.data} and {options.test} have folders of other classes: only one of them has {only!r}"
            )
    teacher = load(file) if (file := folder / "teacher.onnx").exists() else None
    if teacher is not None:
        check_teacher(teacher, model)
    remembered = options.optimizer_state or folder / OPTIMIZER
    memory = read_optimizer_state(remembered) if options.optimizer_state or remembered.exists() else None
    if memory is not None and teacher is None:
        raise InvalidRequestError(
            "--optimizer-state needs the teacher whose state that is", hint="export with --teacher ORIGINAL"
        )
    with joined(options.device) as processes:
        training = Training(
            model,
            teacher,
            Task(loss, optimizer, measures),
            recipe,
            learned,
            held_out,
            Path(options.output or folder / "run"),
            processes,
            workers=options.workers,
            checked=not options.no_check,
            memory=memory,
        )
        try:
            training.run(resume=options.resume)
        except Interrupted as interrupted:
            training.tell(f"{interrupted}; --resume goes on from there")
            raise KeyboardInterrupt from interrupted


def _recipe(folder: Path, options: argparse.Namespace) -> Recipe:
    recipe = Recipe.read(folder / "recipe.yaml")
    given = {name: getattr(options, name) for name in _OVERRIDES if getattr(options, name) is not None}
    return replace(recipe, **given)


def _options(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="an .npz file, or a folder of a folder of images per class",
    )
    parser.add_argument(
        "--test", metavar="DATA", help="what to evaluate on; by default a part of DATA is held out"
    )
    parser.add_argument("--output", metavar="DIR", help="where the results go (run, beside this file)")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the output folder"
    )
    parser.add_argument(
        "--optimizer-state",
        type=Path,
        metavar="FILE",
        help="what the teacher's optimizer remembers: its state_dict(), or the checkpoint.pt of its training "
        "(optimizer.pt beside this file, if there is one)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read images ahead"
    )
    parser.add_argument(
        "--no-check", action="store_true", help="train even a network that does not learn as it should"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    kinds = {entry.name: type(entry.default) for entry in fields(Recipe)}
    for name in _OVERRIDES:
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kinds[name], metavar="X", help="instead of the recipe's"
        )
    return parser.parse_args(arguments)
