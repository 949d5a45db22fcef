"""The training of a grown network: the loop around what a user decides (loss, optimizer, data)."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from onnx_grow.errors import InvalidRequestError, OnnxGrowError, OutputError, TrainingFailedError
from onnx_grow.model import Model, load, staged
from onnx_grow.torch import Network
from onnx_grow.torch import load as network_of
from onnx_grow.torch import save as model_of
from onnx_grow.torch.equality import check
from onnx_grow.torch.values import array_of, tensor_of
from onnx_grow.training.chance import SAMPLES, chance
from onnx_grow.training.checkpoints import Checkpoint, Progress
from onnx_grow.training.checks import STEPS, check_learning
from onnx_grow.training.curves import Curves, write_table
from onnx_grow.training.data import Examples, interface
from onnx_grow.training.files import read_tensors, write_tensors
from onnx_grow.training.optimizers import grow_optimizer_state
from onnx_grow.training.processes import Interruption, Processes, interruptible
from onnx_grow.training.recipe import Recipe

__all__ = ["Interrupted", "Measure", "Outputs", "Task", "Training", "outputs_of"]

Outputs = Mapping[str, Tensor]
"""What a network gives for a batch, by the names of its outputs."""

Measure = Callable[[Outputs, Tensor], Tensor]
"""A number, the mean over a batch, of what a network gives and what it should have learned."""


class Interrupted(Exception):
    """Training ended before its time, on request; the checkpoint is written."""


_CHOSEN = ", chosen on these very samples: expect slightly less of others"


@dataclass(frozen=True)
class Task:
    """What a user decides: the loss, the optimizer, and measures beside the loss, by name; larger is better."""

    loss: Measure
    optimizer: Callable[[Iterable[nn.Parameter], Recipe], Optimizer]
    measures: Mapping[str, Measure]


@dataclass(frozen=True, eq=False)
class Training:
    """The training of a model on examples, in some processes; its files go to the folder `output`.

    `teacher` is what it is compared with: the model it grew from or, without one, the model itself as it starts. `memory` is the state
    of the teacher's optimizer, if that is at hand, which grows with the network.
    """

    model: Model
    teacher: Model | None
    task: Task
    recipe: Recipe
    examples: Examples
    held_out: Examples
    output: Path
    processes: Processes
    workers: int = 0
    checked: bool = True
    memory: Mapping[str, Any] | None = None

    def run(self, *, resume: bool = False) -> Mapping[str, float]:
        """Train to the end and write the best network as `tuned.safetensors` and `tuned.onnx`; the row of its epoch.

        Every epoch ends with an evaluation, a checkpoint (`checkpoint.pt`) and a table (`metrics.csv`); the plot (`curves.png`) is drawn
        now and then, and at the end.
        Raises Interrupted after Ctrl-C, TrainingFailedError where the loss is not finite, InvalidRequestError for a checkpoint of
        another training. What was trained is never lost: the last good checkpoint stays.
        """
        if resume:
            self._restore(Checkpoint.read(self.checkpoint, self.setting))
        elif self.checkpoint.exists():
            raise OutputError(
                f"{self.output} holds a training already",
                hint="--resume goes on with it, --output names another folder",
            )
        self._make_folder()
        with interruptible() as interruption:
            self._tell_of_sizes()
            self._tell_of_classes()
            self._begin()
            self._tell_of_schedule()
            try:
                while self.progress.epoch < self.recipe.epochs and not self._is_patience_over():
                    self._epoch(interruption)
            except (Interrupted, OnnxGrowError):
                with suppress(OutputError):  # the reason why training ends is what has to be told
                    self._draw()
                raise
            self._draw()
            return self._end()

    @cached_property
    def network(self) -> Network:
        """The network that is trained, on the device of this process."""
        return network_of(self.model, verify=self.processes.is_first).to(self.processes.device)

    @cached_property
    def shared(self) -> nn.Module:
        """The network as it is called in training: gradients are averaged over all processes."""
        return self.processes.shared(self.network)

    @cached_property
    def optimizer(self) -> Optimizer:
        """The optimizer, as the user made it."""
        return self.task.optimizer(self.network.parameters(), self.recipe)

    @cached_property
    def rates(self) -> list[float]:
        """The learning rate that the user gave each group of parameters, which the schedule scales."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    @cached_property
    def progress(self) -> Progress:
        """How far it has come."""
        return Progress()

    @cached_property
    def curves(self) -> Curves:
        """The picture of what was evaluated."""
        return Curves(self.output / "curves.png")

    @property
    def names(self) -> tuple[str, ...]:
        """What is evaluated."""
        return ("loss", *self.task.measures)

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint is."""
        return self.output / "checkpoint.pt"

    @property
    def setting(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {
            "model": self.model.sha256,
            "number of samples": len(self.examples),
            "batch_size": self.batch * self.processes.count,
            "seed": self.recipe.seed,
        }

    @cached_property
    def batch(self) -> int:
        """Samples per step in this process: what the network takes where that is fixed, never more than there are."""
        fixed = interface(self.model).batch
        share = len(self.examples) // self.processes.count
        if fixed is not None and fixed > share:
            raise InvalidRequestError(
                f"the network takes {fixed} samples at a time, and {self.examples.source} has {share} to train on",
                hint="export the model with an open batch size, or give more data",
            )
        if not share:
            raise InvalidRequestError(f"{self.examples.source} has fewer samples than there are processes")
        return fixed or max(1, min(self.recipe.batch_size // self.processes.count, share))

    @property
    def steps(self) -> int:
        """Steps of an epoch; what does not fill a batch is left for another one."""
        return len(self.examples) // (self.batch * self.processes.count)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.rates  # noqa: B018 - are those of the recipe, not of the checkpoint
        self.network.load_state_dict(checkpoint.network)
        self.optimizer.load_state_dict(dict(checkpoint.optimizer))
        vars(self)["progress"] = checkpoint.progress

    def _make_folder(self) -> None:
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.output} cannot be made: {error.strerror or error}") from error

    def _begin(self) -> None:
        """Evaluate the teacher and the start, which are equal unless something is wrong with the data."""
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        if self.progress.rows:
            return
        if self.memory is not None and self.teacher is not None:
            grow_optimizer_state(
                self.memory, self.network, self.optimizer, original=self.teacher, grown=self.model
            )
            self.tell("the optimizer goes on with what the teacher's remembers")
        start = self._evaluated(self.network)
        known, teacher = self.network, start
        if self.teacher is not None:
            known = network_of(self.teacher, verify=False).to(self.processes.device)
            teacher = self._evaluated(known)
        row = {"epoch": 0.0, "learning_rate": 0.0, "seconds": 0.0}
        row |= {f"teacher_{name}": value for name, value in teacher.items()}
        row |= {f"test_{name}": value for name, value in start.items()}
        self.progress.rows.append(row)
        self.progress.best = self._merit(row)
        self._check_learning()
        self._keep_best()
        self._write()
        self.tell(f"teacher  {_told(teacher)}")
        if self.teacher is not None:
            self.tell(f"start    {_told(start)}")
        self._check_chance(known)

    def _tell_of_sizes(self) -> None:
        """Say where the network decides how many samples there are in a step, and not the recipe."""
        fixed = interface(self.model).batch
        if fixed is not None and fixed * self.processes.count != self.recipe.batch_size:
            self.tell(
                f"note: the file fixes the batch at {fixed}: there are {fixed * self.processes.count} samples in a step, "
                f"not the recipe's {self.recipe.batch_size}"
            )

    def _tell_of_classes(self) -> None:
        """Warn where the data know fewer classes than the network, or number them in another way."""
        known, count, data = self.examples.classes, interface(self.model).classes, self.examples
        if known and count is not None and len(known) != count:
            self.tell(
                f"warning: {data.source} has folders of {len(known)} of the {count} classes that the network tells apart, "
                f"numbered in the order of their names: {known[0]!r} is class 0.\n"
                "         If they are others for the teacher, make a folder for each of its classes; empty ones count too."
            )
        elif data.has_classes and count != 1 and len(np.unique(data.targets)) == 1:
            self.tell(
                f"warning: all samples in {data.source} are of class {data.targets[0]}: of these alone a network unlearns the others"
            )

    def _tell_of_schedule(self) -> None:
        """Say what is left of the learning rate where a training that had ended goes on."""
        progress, recipe = self.progress, self.recipe
        ended, progress.planned = 0 < progress.planned <= progress.epoch, recipe.epochs
        if not ended:
            return
        if progress.epoch >= recipe.epochs:
            self.tell(f"note: all {progress.epoch} epochs are done already: a larger --epochs goes on")
            return
        steps = recipe.epochs * self.steps
        first, last = (recipe.rate(step, steps) * self.rates[0] for step in (self._steps_done, steps - 1))
        self.tell(
            f"note: this training had ended, with its schedule, after {progress.epoch} epochs. "
            f"Of one over {recipe.epochs} only the end is left: learning rates from {first:.3g} to {last:.3g}, "
            f"where the highest is {self.rates[0]:.3g}.\n"
            "      For more, raise --learning-rate, say 'schedule: constant' in recipe.yaml, or export tuned.onnx and train that."
        )

    def _check_chance(self, network: Network) -> None:
        """Warn where a network does hardly better on what was held out than an answer that never changes."""
        if not self.processes.is_first:
            return
        order = np.random.default_rng(self.recipe.seed).permutation(len(self.held_out))[:SAMPLES]
        parts = self._parts(order)

        def batches() -> Iterator[tuple[Outputs, Tensor]]:
            for inputs, targets in self._loaded(self.held_out, parts):
                yield outputs_of(network, network, inputs), targets

        with torch.no_grad():
            found = chance(batches, self._measured)
        if found is None or not found.is_hardly_better:
            return
        who = "the teacher" if self.teacher is not None else "the network that is to be trained"
        ranges = ", ".join(self._ranges(parts[:1], network.input_names))
        self.tell(
            f"warning: {who} does hardly better on {self.held_out.source} than one answer for all samples ({found}).\n"
            f"         Are the data prepared as those it was trained on: scale, mean, layout, order of the labels? Here {ranges}.\n"
            "         If not, what it knows is lost, and growing is of no use."
        )

    def _ranges(self, parts: list[list[int]], names: Iterable[str]) -> Iterator[str]:
        """From where to where the inputs of some samples go."""
        for inputs, _ in self._loaded(self.held_out, parts):
            for name, tensor in zip(names, inputs, strict=True):
                yield f"{name!r} is from {float(tensor.min()):.3g} to {float(tensor.max()):.3g}"

    def _check_learning(self) -> None:
        """Raise TrainingFailedError unless the first steps show that all of the network learns."""
        if not self.checked or not self.processes.is_first:
            return
        count = min(STEPS, self.steps)
        parts = [list(range(k * self.batch, (k + 1) * self.batch)) for k in range(count)]
        batches = list(self._loaded(self.examples, parts))

        def loss(network: nn.Module, step: int) -> Tensor:
            chosen = batches if step < 2 else batches[step % count : step % count + 1]
            losses = [self.task.loss(outputs_of(self.network, network, each), goal) for each, goal in chosen]
            return torch.stack(losses).mean()

        report = check_learning(self.model, self.network, loss, self.teacher)
        for warning in report.warnings:
            self.tell(f"warning: {warning}")
        if not report.ok:
            failed = next(check for check in report.checks if not check.ok)
            raise TrainingFailedError(
                f"not all of this network would learn: {failed.name}: {failed.detail}",
                hint=f"{report.advice}; 'onnx-grow check-trainable' shows all checks, --no-check trains all the same",
            )

    def tell(self, text: str) -> None:
        """Say something, once for all processes."""
        if self.processes.is_first:
            print(text, flush=True)

    def _watched(self, batches: Iterable[Any]) -> Iterable[Any]:
        """The batches of an epoch, with a bar that moves where somebody looks."""
        if not (self.processes.is_first and sys.stderr.isatty()):
            return batches
        from rich.console import Console
        from rich.progress import track

        doing = f"epoch {self.progress.epoch + 1}/{self.recipe.epochs}"
        left = self.steps - self.progress.step
        return track(batches, doing, left, console=Console(stderr=True), transient=True)

    def _epoch(self, interruption: Interruption) -> None:
        """Go on with the epoch that runs, then evaluate."""
        progress, began = self.progress, time.monotonic()
        self.network.train()
        for inputs, targets in self._watched(self._batches(progress.epoch, progress.step)):
            loss = self._step(inputs, targets, interruption)
            progress.losses += loss
            progress.step += 1
        tested = self._evaluated(self.network)
        rate = self.recipe.rate(self._steps_done - 1, self.recipe.epochs * self.steps)
        row = {
            "epoch": progress.epoch + 1.0,
            "learning_rate": rate * self.rates[0],
            "train_loss": progress.losses / self.steps,
            "seconds": time.monotonic() - began,
            **{f"test_{name}": value for name, value in tested.items()},
        }
        progress.rows.append(row)
        progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, 0.0
        if self._merit(row) > progress.best:
            progress.best, progress.best_epoch = self._merit(row), progress.epoch
            self._keep_best()
        self._write()
        self.tell(
            f"epoch {progress.epoch}/{self.recipe.epochs}  train loss {row['train_loss']:.4g}  test {_told(tested)}"
        )

    @property
    def _steps_done(self) -> int:
        return self.progress.epoch * self.steps + self.progress.step

    def _step(self, inputs: list[Tensor], targets: Tensor, interruption: Interruption) -> float:
        """One step of the optimizer, and the mean loss over all processes.

        Everything that is random in it depends on its number only, so that a training that was interrupted goes the same way.
        """
        number, recipe = self._steps_done, self.recipe
        torch.manual_seed((recipe.seed * 1_000_003 + number) * self.processes.count + self.processes.rank)
        factor = recipe.rate(number, recipe.epochs * self.steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad()
        loss = self.task.loss(outputs_of(self.network, self.shared, inputs), targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip or math.inf)
        mean, bad, asked = self.processes.summed(
            [float(loss.detach()), not math.isfinite(float(loss.detach()) + float(norm)), interruption.asked]
        )
        if bad:
            raise TrainingFailedError(
                f"the loss or its gradient is not finite at epoch {self.progress.epoch + 1}, step {self.progress.step + 1} "
                f"(loss {float(loss.detach()):g}, gradient {float(norm):g})",
                hint=f"the last good checkpoint is {self.checkpoint}: lower learning_rate in the recipe and --resume",
            )
        if asked:
            self._write()
            raise Interrupted(
                f"interrupted at epoch {self.progress.epoch + 1}, step {self.progress.step + 1} of {self.steps}"
            )
        self.optimizer.step()
        return mean / self.processes.count

    def _batches(self, epoch: int, done: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """The batches of this process in an epoch, but for those that are `done`."""
        order = np.random.default_rng([self.recipe.seed, epoch]).permutation(len(self.examples))
        mine = order[self.processes.rank :: self.processes.count]
        parts = [mine[k * self.batch : (k + 1) * self.batch].tolist() for k in range(done, self.steps)]
        return self._loaded(self.examples, parts)

    def _loaded(self, examples: Examples, parts: list[list[int]]) -> Iterator[tuple[list[Tensor], Tensor]]:
        device = self.processes.device
        loader: Iterable[Any] = DataLoader(
            _Fetched(examples),
            batch_sampler=parts,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            worker_init_fn=_deaf,
        )
        for fetched in loader:
            if isinstance(fetched, OnnxGrowError):
                raise fetched
            inputs, targets = fetched
            yield [tensor_of(array).to(device) for array in inputs], tensor_of(targets).to(device)

    def _evaluated(self, network: Network) -> dict[str, float]:
        """Loss and measures of a network over what was held out, in eval mode."""
        mine = np.arange(len(self.held_out))[self.processes.rank :: self.processes.count]
        totals = [0.0] * (len(self.names) + 1)
        network.eval()
        with torch.no_grad():
            for inputs, targets in self._loaded(self.held_out, self._parts(mine)):
                numbers = self._measured(outputs_of(network, network, inputs), targets)
                totals = [
                    total + len(targets) * number
                    for total, number in zip(totals, (*numbers.values(), 1.0), strict=True)
                ]
        *sums, count = self.processes.summed(totals)
        if not count:
            raise InvalidRequestError(
                f"{self.held_out.source} has {len(self.held_out)} samples to evaluate on, which do not fill a batch of {self.batch}"
            )
        return {name: total / count for name, total in zip(self.names, sums, strict=True)}

    def _parts(self, numbers: NDArray[np.int64]) -> list[list[int]]:
        """Numbers of samples, batch by batch; the last one may be smaller where the network takes any."""
        parts = [numbers[k : k + self.batch].tolist() for k in range(0, len(numbers), self.batch)]
        return [part for part in parts if interface(self.model).batch in (None, len(part))]

    def _measured(self, outputs: Outputs, targets: Tensor) -> dict[str, float]:
        """Loss and measures of a batch. Raises InvalidRequestError where what is to be learned has no such shape or type."""
        numbers = {}
        for name, function in (("loss", self.task.loss), *self.task.measures.items()):
            try:
                numbers[name] = float(function(outputs, targets))
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                sizes = ", ".join(map(str, ("n", *targets.shape[1:])))
                told = ", ".join(f"{key!r} {list(output.shape)}" for key, output in outputs.items())
                raise InvalidRequestError(
                    f"{self.held_out.source}: {name} of train.py cannot take labels of shape [{sizes}] "
                    f"({str(targets.dtype).removeprefix('torch.')}) with outputs {told}: {' '.join(str(error).split())}",
                    hint=_as_classes(targets),
                ) from error
        return numbers

    def _draw(self) -> None:
        if self.processes.is_first:
            self.curves.show(self.progress.rows, self.names, now=True)

    def _merit(self, row: Mapping[str, float]) -> list[float]:
        """What is to be large: the first measure, if there is one, and a small loss; nothing is worse than a loss that is no number."""
        loss = row["test_loss"]
        if not math.isfinite(loss):
            return [-math.inf]
        measures = [row[f"test_{name}"] for name in list(self.task.measures)[:1]]
        return [*measures, -loss]

    def _is_patience_over(self) -> bool:
        waited = self.progress.epoch - self.progress.best_epoch
        return bool(self.recipe.patience) and waited >= self.recipe.patience

    def _keep_best(self) -> None:
        if self.processes.is_first:
            state = {name: array_of(tensor) for name, tensor in self.network.state_dict().items()}
            write_tensors(self.output / "tuned.safetensors", state)

    def _write(self) -> None:
        """Write the checkpoint, and what there is to see."""
        if self.processes.is_first:
            rows = self.progress.rows
            state = self.network.state_dict(), self.optimizer.state_dict()
            Checkpoint(self.setting, *state, self.progress).write(self.checkpoint)
            write_table(self.output / "metrics.csv", rows)
            self.curves.show(rows, self.names)
        self.processes.wait()

    def _end(self) -> Mapping[str, float]:
        """Put the best network back into the model and write it, once ONNX Runtime computes what PyTorch does."""
        best = self.progress.rows[self.progress.best_epoch]
        if self.processes.is_first:
            tensors = read_tensors(self.output / "tuned.safetensors")
            self.network.load_state_dict({name: tensor_of(array) for name, array in tensors.items()})
            tuned = model_of(self.network.cpu().eval(), self.model)
            with staged(tuned, self.output / "tuned.onnx", force=True) as pending:
                check(self.network, load(pending.path))
                pending.commit()
            rows = self.progress.rows
            self.tell(f"teacher  {_told({name: rows[0][f'teacher_{name}'] for name in self.names})}")
            self.tell(
                f"tuned    {_told({name: best[f'test_{name}'] for name in self.names})}  (epoch {self.progress.best_epoch}"
                f"{_CHOSEN if self.progress.best_epoch else ''})"
            )
            self.tell(f"written  {self.output / 'tuned.onnx'}, equal in PyTorch and ONNX Runtime")
        self.processes.wait()
        return best


@dataclass(frozen=True)
class _Fetched:
    """Samples as DataLoader asks for them: an error comes as it is, which of one that is raised by a worker makes a traceback."""

    examples: Examples

    def __getitems__(self, positions: list[int]) -> Any:
        try:
            return self.examples.__getitems__(positions)
        except OnnxGrowError as error:
            return error


def outputs_of(network: Network, called: nn.Module, inputs: Iterable[Tensor]) -> dict[str, Tensor]:
    """What a network gives, by name; `called` is the network, or what wraps it."""
    results = called(*inputs)
    return dict(zip(network.output_names, results if isinstance(results, tuple) else (results,), strict=True))


def _as_classes(targets: Tensor) -> str:
    """How labels become the class numbers that most losses take."""
    rows = targets.flatten(1) if targets.ndim > 1 else targets[:, None]
    if (
        targets.ndim == 2
        and rows.shape[1] > 1
        and bool(((rows != 0).sum(1) == 1).all() and (rows.sum(1) == 1).all())
    ):
        return "they look one-hot: labels.argmax(1) makes class numbers of them"
    if rows.shape[1] == 1 and targets.ndim > 1:
        return "labels.reshape(-1) makes one number for each sample of them"
    if targets.is_floating_point() and bool((targets == targets.round()).all()):
        return "labels.astype(int) makes class numbers of them"
    return "class numbers have shape [n]; what is learned stands in train.py"


def _as_it_is(batch: Any) -> Any:
    return batch


def _deaf(_: int) -> None:
    """Leave Ctrl-C to the process that writes the checkpoint."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _told(numbers: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
