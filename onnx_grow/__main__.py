"""`python -m onnx_grow` is `onnx-grow`: both begin here."""

from __future__ import annotations

import gc
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def run() -> None:
    """The command line; Ctrl-C before it is there ends the process as any later one does, without a traceback."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _leave)
    # What a graph is made of are objects that stay; to look for cycles among them again and again takes a sixth of the time.
    gc.set_threshold(100_000)
    from onnx_grow.cli import main

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main(prog_name="onnx-grow")
    except KeyboardInterrupt:
        _leave(signal.SIGINT, None)


def _leave(number: int, frame: object) -> NoReturn:
    os.write(2, b"error: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    run()
