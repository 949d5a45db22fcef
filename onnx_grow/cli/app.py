"""The command group, and the one place where failures become lines, documents and exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click

from onnx_grow.cli import guard
from onnx_grow.cli.check_trainable import check_trainable
from onnx_grow.cli.deepen import deepen
from onnx_grow.cli.diff import diff
from onnx_grow.cli.export import export
from onnx_grow.cli.grow import grow
from onnx_grow.cli.guard import FAULT, INTERRUPTED
from onnx_grow.cli.inspect import inspect
from onnx_grow.cli.reimport import import_weights
from onnx_grow.cli.screen import is_terminal, show_document, show_error
from onnx_grow.cli.verify import verify
from onnx_grow.cli.widen import widen
from onnx_grow.errors import InvalidModelError, OnnxGrowError, VerificationFailedError

CLOSED_PIPE = 141
"""Exit code, beside those of `OnnxGrowError`, of a reader that closed the pipe."""

EPILOG = """\b
Exit codes
  0  done and verified
  1  verification failed, nothing was written
  2  bad usage or bad input
  3  nothing can grow as asked
  4  the requested device is unavailable"""


class CommandLine(click.Group):
    """A click group in which every failure ends in one clear line on stderr and its own exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run `args` (default: those of the process) and exit.

        Exit codes are those of `EPILOG`; 130 after Ctrl-C, 141 when the reader of a pipe went away, 70 for a fault of the
        program itself, which must not look like a verdict on a model. What the process was started with runs in another (`guard`).
        With `--debug` a failure shows its traceback. Without any arguments it shows the help.
        """
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        extra |= {"standalone_mode": False, "obj": tuple(given)}

        def work() -> int:
            with _unwinding_on_termination():
                try:
                    return super(CommandLine, self).main(given, *rest, **extra) or 0
                except Exception as error:  # nobody meets a traceback they did not ask for
                    if isinstance(error, click.Abort) or guard.is_interrupted():
                        show_error("interrupted")
                        return INTERRUPTED
                    return _report(error, given)

        if args is None and guard.is_possible():
            sys.exit(guard.guarded(work, lambda number: _report(_crash(number), given)))
        sys.exit(work())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which one needs them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; leave quietly on Ctrl-C and when whoever reads our output has gone."""
        try:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")  # names hold any character
            super().invoke(ctx)
        except KeyboardInterrupt:
            if is_terminal(sys.stderr):
                click.echo(err=True)  # end the line on which the terminal shows ^C
            show_error("interrupted")
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # Nor may the flush at exit complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(CLOSED_PIPE)


@contextmanager
def _unwinding_on_termination() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that temporary files go, and say so."""
    received: list[int] = []

    def leave(number: int, frame: object) -> NoReturn:
        for other in ours:  # a second one must not break into the cleaning up
            signal.signal(other, signal.SIG_IGN)
        received.append(number)
        sys.exit(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = [
        number
        for number in map(signal.Signals.__getitem__, names)
        if signal.getsignal(number) == signal.SIG_DFL
    ]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        if received:
            show_error("interrupted")
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _crash(number: signal.Signals | None) -> Exception:
    """What to say of a worker that a signal ended, or a library."""
    if number is None or number == signal.SIGKILL:
        return MemoryError()
    return InvalidModelError(
        f"a library crashed on this model ({number.name}): it is malformed or too large for the memory there is",
        hint="nothing was written; check the model with onnx.checker, or export it again",
    )


def _report(error: Exception, given: Sequence[str]) -> int:
    """Show `error` as a line and a hint (with --json, as a document too) and return its exit code."""
    message, hint, code = _explain(error)
    if "--debug" in given:
        import traceback

        traceback.print_exception(error)
    # A VerificationFailedError comes with the command's own document.
    if "--json" in given and not isinstance(error, VerificationFailedError):
        command = next((word for word in given if not word.startswith("-")), "")
        with suppress(OSError):  # which may be why we are here: the disk behind stdout is full
            show_document(
                command, ok=False, error={"kind": type(error).__name__, "message": message, "hint": hint}
            )
    show_error(message, hint)
    return code


_NO_MEMORY = ("can't start new thread", "failed to map segment", "Cannot allocate memory", "std::bad_alloc")
"""How memory that is missing shows, beside MemoryError: in threads, in loading libraries, in system calls, in C++."""


def _explain(error: Exception) -> tuple[str, str, int]:
    """What happened, what to do about it, and the exit code."""
    if isinstance(error, OnnxGrowError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, click.UsageError):
        near = getattr(error, "possibilities", None)
        command = error.ctx.command_path if error.ctx else "onnx-grow"
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"'{command} --help' shows what can be said here"
        )
        message = (
            error.message if near and not isinstance(error, click.BadParameter) else error.format_message()
        )
        return message, hint, OnnxGrowError.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), "", OnnxGrowError.exit_code
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return "out of memory", "close other programs, or grow by less", FAULT
    if isinstance(error, OSError):
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        return f"{error.strerror or error}{where}", "", OnnxGrowError.exit_code
    fault = f"internal error: {type(error).__name__}: {error}"
    return fault, "a fault of onnx-grow, not of your model: please report it with what --debug adds", FAULT


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from onnx_grow import __version__

        click.echo(f"onnx-grow {__version__}")
        ctx.exit()


COMMANDS = (inspect, widen, deepen, grow, verify, diff, export, import_weights, check_trainable)


@click.group(
    "onnx-grow",
    cls=CommandLine,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    commands={command.name or "": command for command in COMMANDS},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Grow trained ONNX networks wider and deeper without changing what they compute.

    \b
      onnx-grow inspect model.onnx      what can grow, what cannot, and why
      onnx-grow widen   model.onnx      twice the width, verified: model-wide.onnx
      onnx-grow deepen  model.onnx      more layers, verified: model-deep.onnx
      onnx-grow grow    model.onnx recipe.yaml   several steps at once, verified: model-grown.onnx
      onnx-grow verify  model.onnx model-wide.onnx
      onnx-grow diff    model.onnx model-wide.onnx
      onnx-grow export  model-wide.onnx -o training   a folder to train it in, train.py included
      onnx-grow import  model-wide.onnx training/run/tuned.safetensors   the way back: model-wide-tuned.onnx

    MODEL may be - to read from standard input.
    """
