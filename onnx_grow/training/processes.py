"""The processes that train together: one, or as many as torchrun started."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from onnx_grow.errors import DeviceUnavailableError

__all__ = ["Interruption", "Processes", "interruptible", "joined"]


@dataclass(frozen=True)
class Processes:
    """This process among all: its number, how many there are, and the device it computes on."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def shared(self, network: nn.Module) -> nn.Module:
        """The network, such that gradients are averaged over all processes."""
        if self.count == 1:
            return network
        devices = None if self.device.type == "cpu" else [self.device]
        return nn.parallel.DistributedDataParallel(network, device_ids=devices, find_unused_parameters=True)

    def summed(self, numbers: Sequence[float]) -> list[float]:
        """The sums of some numbers over all processes."""
        if self.count == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return [float(number) for number in total]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did. `device` is auto, cpu or cuda. Raises DeviceUnavailableError."""
    count, rank, local = (
        int(os.environ.get(name, default))
        for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
    )
    chosen = _device(device, local)
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=count)
    try:
        yield Processes(rank, count, chosen)
    finally:
        distributed.destroy_process_group()


def _device(device: str, local: int) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceUnavailableError("PyTorch finds no CUDA device", hint="--device auto takes the CPU then")
    if local >= torch.cuda.device_count():
        raise DeviceUnavailableError(
            f"there are {torch.cuda.device_count()} CUDA devices, and process {local} needs one of its own",
            hint="start fewer processes: --nproc-per-node",
        )
    return torch.device("cuda", local)


ECHO = 1.0
"""Seconds within which a second signal is taken for the first one."""


class Interruption:
    """Whether somebody wants the training to end."""

    asked = False


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Take Ctrl-C (and SIGTERM) as a wish that the caller fulfils in its own time; Ctrl-C once more ends the process.

    torchrun passes on what the terminal has sent already, so that a signal right after another is the same one.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    first = math.inf

    def ask(number: int, frame: Any) -> None:
        nonlocal first
        now = time.monotonic()
        if number == signal.SIGINT and now - first > ECHO:
            raise KeyboardInterrupt
        first = min(first, now)
        interruption.asked = True

    for number in before:
        signal.signal(number, ask)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
