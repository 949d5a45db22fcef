"""Which runs there are, and how one is made: the teacher, its growth, the start and the training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import TASKS, Task
from starts import Values, grown, initial, random_layers, random_pad, shrunk, weights
from training import Memory, Outcome, Settings, loss_of, train

import onnx_grow as og
import onnx_grow.torch
from onnx_grow.training import check_learning

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)
MIDDLE = {"sgd": 0.03, "adam": 0.01}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Run:
    """One training run; its fields are its key in the results.

    `start` is a scheme of growth, or one of "random", "random pad: S" and "random layers: S", which train the architecture that the
    scheme S leads to. "S, shrunk" is the scheme S with weights as small as those of He initialisation, "S, state" with the state of the
    teacher's optimizer, grown; without growth, "as it is" trains the teacher on. `steps` is a part of the task's steps.
    """

    task: str
    optimizer: str
    teacher: str
    growth: str
    start: str
    rate: float
    seed: int
    steps: float = 1.0
    warmup: float = 0.05
    constant: bool = False


@dataclass(frozen=True)
class Part:
    """A part of the experiment: one growth, from all starts, of all tasks, with all optimizers and teachers.

    Where runs have another length, their learning rates are those found for the whole length, unless they are searched `anew`.
    """

    growth: str
    starts: Sequence[str]
    tasks: Sequence[str] = ("mlp", "conv", "transformer", "resnet")
    optimizers: Sequence[str] = ("adam",)
    teachers: Sequence[str] = ("strong",)
    steps: float = 1.0
    anew: bool = False


_WIDER = ("random: split", "random pad: split", "fresh", "split")
_DEEPER = ("random: default", "random layers: default", "default")
_SMALL = ("mlp", "conv", "transformer")
_DISTORTED = ("distorted mlp", "distorted conv", "distorted resnet")
_BUDGET = ("random: split", "fresh", "split")

PARTS = {
    "wider": Part("wider x2", _WIDER),
    "wider, weak": Part("wider x2", _WIDER, teachers=("weak",)),
    "wider, SGD": Part("wider x2", _WIDER, ("mlp", "conv", "resnet"), ("sgd",), ("strong", "weak")),
    "deeper": Part("deeper", _DEEPER),
    "half": Part("wider x2", ("fresh",), steps=0.5),
    "longer": Part("wider x2", ("random: split",), steps=1.5),
    "wider, paper": Part("wider x2", ("copy", "noise"), _SMALL),
    "deeper, weak": Part("deeper", _DEEPER, _SMALL, teachers=("weak",)),
    "wider x4": Part(
        "wider x4",
        ("random: split", "random pad: split", "fresh", "split"),
        _SMALL,
        teachers=("strong", "weak"),
    ),
    "deeper, SGD": Part("deeper", _DEEPER, ("mlp", "conv", "resnet"), ("sgd",)),
    "both": Part("both", ("random: fresh + default", "fresh + default"), _SMALL),
    "deeper, half": Part("deeper", ("default",), (*_SMALL, *_DISTORTED), steps=0.5),
    "branches": Part(
        "deeper by branches",
        ("random: residual-new", "random layers: residual-new", "residual-new"),
        ("mlp", "conv", "resnet"),
    ),
    "gates": Part(
        "deeper by gates", ("random: parametric", "random layers: parametric", "parametric"), ("transformer",)
    ),
    "distorted": Part("wider x2", _WIDER, _DISTORTED),
    "distorted, deeper": Part("deeper", _DEEPER, _DISTORTED),
    "short": Part("wider x2", _BUDGET, (*_DISTORTED, "transformer"), steps=0.5, anew=True),
    "shorter": Part("wider x2", _BUDGET, (*_DISTORTED, "transformer"), steps=0.2, anew=True),
    "not grown": Part("none", ("as it is",), (*_SMALL, *_DISTORTED)),
    "state": Part("wider x2", ("split, state",), (*_SMALL, *_DISTORTED)),
    "state, fresh": Part("wider x2", ("fresh, state",), ("transformer", "distorted conv")),
    "shrunk": Part(
        "wider x2",
        ("fresh, shrunk", "split, shrunk"),
        ("conv", "resnet", "distorted conv", "distorted resnet"),
    ),
    "default": Part("wider x2", ("auto",), ("transformer",), teachers=("strong", "weak")),
    "default x4": Part("wider x4", ("auto",), ("transformer",), teachers=("strong", "weak")),
    "default, both": Part("both", ("auto + default",), _SMALL),
    "default, short": Part("wider x2", ("auto",), ("transformer",), steps=0.5, anew=True),
    "default, shorter": Part("wider x2", ("auto",), ("transformer",), steps=0.2, anew=True),
    "default, half": Part("wider x2", ("auto",), ("transformer",), steps=0.5),
    "default, half, split": Part("wider x2", ("split",), ("mlp", "conv", "resnet", *_DISTORTED), steps=0.5),
    "default, state": Part("wider x2", ("auto, state",), ("transformer",)),
    "any size": Part("wider x1.5", ("random: fresh", "random pad: fresh", "fresh"), ("transformer",)),
}
"""What is compared, by priority. Without a norm over channels "auto", the default, makes what "split" makes: runs of one do for both."""


class Bench:
    """Makes runs, and keeps their results in a file: what is there already is not done again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "runs.jsonl"
        self.results: dict[Run, dict[str, Any]] = {}
        if self.file.exists():
            for line in self.file.read_text().splitlines():
                entry = json.loads(line)
                self.results[Run(**entry["run"])] = entry
        self.checks_file = folder / "checks.jsonl"
        self.checks: dict[tuple[str, str, str, int], bool] = {}
        if self.checks_file.exists():
            for line in self.checks_file.read_text().splitlines():
                *what, ok = json.loads(line)
                self.checks[tuple(what)] = ok

    def compare(self, part: Part) -> None:
        """Make the runs of a part; a growth that a network does not admit is left out."""
        for task, start, optimizer in product(part.tasks, part.starts, part.optimizers):
            for teacher in ("any",) if start.startswith("random: ") else part.teachers:
                steps = part.steps if part.anew else 1.0
                run = Run(task, optimizer, teacher, part.growth, start, 0.0, 0, steps)
                try:
                    best = self.best(run)
                    for seed in SEEDS:
                        self.result(replace(best, seed=seed, steps=part.steps))
                except og.NothingToGrowError as reason:
                    print(f"{task}, {part.growth} by {start}: {reason}", flush=True)

    def result(self, run: Run) -> dict[str, Any]:
        """The result of a run, from the file or made now."""
        if run not in self.results:
            entry = {"run": asdict(run), **self._make(run)}
            with self.file.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            self.results[run] = entry
            print(_line(entry), flush=True)
        return self.results[run]

    def best(self, run: Run) -> Run:
        """The same run at the learning rate at which seed 0 ends best: of three in the middle of the grid, then on while that helps.

        There may be two that are good, a low one that keeps what the teacher knows, and a high one.
        """
        middle = RATES.index(MIDDLE[run.optimizer])
        start = min((middle - 1, middle, middle + 1), key=lambda k: self._score(run, k))
        up = self._climbed(run, start, 1)
        return replace(run, rate=RATES[up if up > start else self._climbed(run, start, -1)])

    def _climbed(self, run: Run, k: int, way: int) -> int:
        while 0 <= k + way < len(RATES) and self._score(run, k + way) < self._score(run, k):
            k += way
        return k

    def _score(self, run: Run, k: int) -> float:
        return final(self.result(replace(run, rate=RATES[k], seed=0)))

    def check(self, task: Task, growth: str, scheme: str, seed: int) -> None:
        """See whether `onnx-grow check-trainable` would pass what has grown from a strong teacher, on the data that it trains on."""
        key = (task.name, growth, scheme, seed)
        if key in self.checks:
            return
        teacher, data = self.teacher(task, "adam", "strong", seed), task.data()
        try:
            model = grown(teacher, growth, scheme, data.inputs[:256].numpy(), seed)
        except og.NothingToGrowError:
            return
        batches = list(islice(data.batches(task.batch, seed), 2))
        report = check_learning(
            model,
            onnx_grow.torch.load(model),
            lambda network, step: loss_of(network(batches[step % 2][0]), batches[step % 2][1]),
            teacher,
        )
        self.checks[key] = report.ok
        with self.checks_file.open("a") as file:
            file.write(json.dumps([*key, report.ok]) + "\n")
        print(*key, report, flush=True)

    def teacher(self, task: Task, optimizer: str, strength: str, seed: int) -> og.Model:
        """A trained teacher; its learning rate is searched like everybody's."""
        path = self.folder / f"{task.name}-{optimizer}-{strength}-{seed}.onnx"
        if not path.exists():
            og.save(
                onnx_grow.torch.save(
                    self._taught(task, optimizer, strength, seed).module, task.architecture()
                ),
                path,
            )
        return og.load(path)

    def memory(self, task: Task, optimizer: str, strength: str, seed: int) -> Memory:
        """The state in which a teacher's training leaves its optimizer."""
        path = self.folder / f"{task.name}-{optimizer}-{strength}-{seed}.pt"
        if not path.exists():
            torch.save(self._taught(task, optimizer, strength, seed).memory, path)
        memory: Memory = torch.load(path)
        return memory

    def _taught(self, task: Task, optimizer: str, strength: str, seed: int) -> Outcome:
        rate = self.best(Run(task.name, optimizer, "strong", "none", "random", 0.0, seed)).rate
        steps = task.weak if strength == "weak" else task.steps
        architecture = task.architecture()
        settings = Settings(optimizer, rate, steps, task.batch, seed)
        return train(architecture, task.data(), settings, initial(architecture, seed))

    def _make(self, run: Run) -> dict[str, Any]:
        task = TASKS[run.task]
        data = task.data()
        settings = Settings(
            run.optimizer,
            run.rate,
            round(run.steps * task.steps),
            task.batch,
            run.seed,
            run.warmup,
            run.constant,
        )
        if run.growth == "none" and run.start == "random":
            model = task.architecture()
            return self._trained(model, data, settings, initial(model, run.seed), None)
        teacher = self.teacher(task, run.optimizer, run.teacher if run.teacher != "any" else "weak", run.seed)
        if run.growth == "none":
            return self._trained(teacher, data, settings, {}, None)
        baseline, _, scheme = run.start.partition(": ")
        baseline, _, treatment = baseline.partition(", ")
        model = grown(teacher, run.growth, scheme or baseline, data.inputs[:256].numpy(), run.seed)
        values: Values = {}
        if baseline == "random":
            values = initial(model, run.seed + 1000)
        elif baseline == "random pad":
            values = random_pad(teacher, model, run.seed + 1000)
        elif baseline == "random layers":
            values = random_layers(teacher, model, run.seed + 1000)
        if treatment == "shrunk":
            model = shrunk(model)
        past = None
        if treatment == "state":
            past = (teacher, self.memory(task, run.optimizer, run.teacher, run.seed))
        shapes = {name: value.shape for name, value in weights(teacher).items()}
        return self._trained(model, data, settings, values, shapes, past)

    def _trained(
        self,
        model: og.Model,
        data: Any,
        settings: Settings,
        values: Values,
        shapes: Any,
        past: tuple[og.Model, Memory] | None = None,
    ) -> dict[str, Any]:
        outcome = train(model, data, settings, values, shapes, past)
        return {**outcome.figures(), "parameters": model.parameters, "macs": og.inspect(model).macs}


def final(entry: Mapping[str, Any]) -> float:
    """What learning rates are chosen by: the loss on the evaluation data at the end. It is less noisy than the accuracy."""
    loss = entry["curve"][-1][1]
    return float(loss) if np.isfinite(loss) else float("inf")


def _line(entry: Mapping[str, Any]) -> str:
    run, end = entry["run"], entry["curve"][-1]
    what = " ".join(
        str(run[key]) for key in ("task", "optimizer", "teacher", "growth", "start", "rate", "seed")
    )
    return f"{what}: loss {end[1]:.4f}, accuracy {end[2]:.4f}, {entry['seconds']} s"
