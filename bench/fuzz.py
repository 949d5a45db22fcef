"""Grow random graphs and look for one that no longer computes the same.

    python bench/fuzz.py [--cases 10000] [--seed 0] [--first 0] [--out FOLDER] [--histogram]

A case is a graph of up to thirty blocks and a way to grow it: wider, deeper, or both, one after the other. Case k of a seed is always
the same, however many there are. For every failure the smallest graph found that fails the same way is printed: how it was grown, its
text, and the choices that make it (`--replay 3,0,17` runs them); with `--out` it is written to a folder as an ONNX file and a text.
Exits with 1 if there was any.

At the end, or when it is stopped, it says how many cases grew, and by what. A case in which nothing grows proves little, and one that
ONNX Runtime does not run or that is all rounding noise proves nothing: they are counted apart. `--histogram` adds, for every operator,
the graphs that hold it and those in which one of its operands or results grew.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import click
import numpy as np
import onnx
from onnx import printer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import random_growth as rg
from random_graphs import Choices

PATIENCE = 60.0  # seconds of processor time for one case: more means an endless loop
REPEATED = 5  # every so manieth case is done twice, with the same bytes
PROGRESS = 60.0  # seconds between progress lines


class Endless(BaseException):
    """A case took longer than any should; not an Exception, which somebody on the way may catch."""


@dataclass
class Tally:
    """What became of the cases so far."""

    words: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    touched: Counter[str] = field(default_factory=Counter)
    axes: int = 0

    def add(self, outcome: rg.Outcome) -> None:
        self.words[" ".join(filter(None, (outcome.kind, outcome.dtype)))] += 1
        self.axes += outcome.axes
        self.steps[" ".join(outcome.steps)] += bool(outcome.steps)
        if outcome.kind != "unusable":
            self.operators.update(outcome.operators)
            self.touched.update(outcome.touched)

    @property
    def grown(self) -> int:
        return sum(count for word, count in self.words.items() if word.startswith("grown"))

    def lines(self, histogram: bool) -> list[str]:
        """Everything, for people."""
        total = self.words.total()
        out = [f"{count:8} {word}" for word, count in self.words.most_common()]
        out.append(
            f"{self.grown / max(total, 1):8.1%} grown and compared, {self.axes} axes, {len(self.operators)} operators"
        )
        out += [f"{count:8} {steps}" for steps, count in self.steps.most_common(12) if count]
        if histogram:
            out += [f"{n:8} {self.touched[op]:8} {op}" for op, n in self.operators.most_common()]
        return out


def verdict(choices: Choices, repeat: bool = True) -> rg.Outcome | str:
    """What becomes of a case, done once more with `repeat`, or the failure it ends in."""
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        return rg.check(choices, repeat)
    except (Exception, Endless) as error:  # whatever goes wrong here is what this program looks for
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def kind_of(failure: str) -> str:
    """The part of a failure that stays the same while its graph shrinks."""
    return failure[:30]


def reproduce(taken: Sequence[int]) -> tuple[str, onnx.ModelProto | None]:
    """A case for people, and its file."""
    request = rg.Request.of(Choices.replayed(taken))
    found = rg.subject(taken, request)
    lines = [f"choices: {','.join(map(str, taken))}", str(request)]
    if found is None:
        return "\n".join(lines), None
    lines += [f"{name}: {list(array.shape)} of {array.dtype}" for name, array in found.graph.weights.items()]
    bare = onnx.ModelProto()
    bare.CopyFrom(found.proto)
    del bare.graph.initializer[:]
    lines.append(printer.to_text(bare))
    return "\n".join(lines), found.proto


def report(case: str, failure: str, taken: Sequence[int], folder: Path | None) -> None:
    def fails(candidate: Sequence[int]) -> bool:
        again = verdict(Choices.replayed(candidate))
        return isinstance(again, str) and kind_of(again) == kind_of(failure)

    smallest = rg.shrunk(taken, fails)
    text, proto = reproduce(smallest)
    told = f"{case}: {failure}\n\nsmallest: {verdict(Choices.replayed(smallest))}\n{text}\n"
    click.echo(told.partition("\n")[2])
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / case.replace(" ", "-")
        stem.with_suffix(".txt").write_text(told)
        if proto is not None:
            onnx.save(proto, stem.with_suffix(".onnx"))


@click.command(help=__doc__)
@click.option("--cases", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--first", default=0, show_default=True, help="The case to begin with.")
@click.option("--holding", default="", help="Only graphs that hold one of these operators, such as If,Loop.")
@click.option("--replay", help="The choices of one case, as a failure prints them.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Where failures are written to."
)
@click.option("--histogram", is_flag=True, help="Count operators.")
def main(
    cases: int, seed: int, first: int, holding: str, replay: str | None, out: Path | None, histogram: bool
) -> None:
    def endless(number: int, frame: FrameType | None) -> None:
        raise Endless(f"more than {PATIENCE:g} s, in {frame.f_code.co_qualname if frame else 'nowhere'}")

    signal.signal(signal.SIGPROF, endless)
    if replay is not None:
        taken = [int(choice) for choice in replay.split(",")]
        found = verdict(Choices.replayed(taken))
        click.echo(f"{found}\n{reproduce(taken)[0]}")
        sys.exit(isinstance(found, str))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally, start = Tally(), time.monotonic()
    try:
        explore(tally, drawn(seed, first, set(filter(None, holding.split(",")))), cases, out)
    except KeyboardInterrupt:
        click.echo("stopped")
    click.echo(
        f"{tally.words.total()} cases of seed {seed} from {first} on in {time.monotonic() - start:.0f} s"
    )
    click.echo("\n".join(tally.lines(histogram)))
    sys.exit(1 if tally.words["FAILED"] else 0)


def drawn(seed: int, first: int, holding: set[str]) -> Iterator[tuple[str, Choices]]:
    """The cases of a seed by name, only those with one of some operators if there are any."""
    for case in itertools.count(first):
        if not holding or holding & held(Choices.drawn([seed, case])):
            yield f"case {case} of seed {seed}", Choices.drawn([seed, case])


def held(choices: Choices) -> set[str]:
    """The operators of a case, unless it falls back to another precision."""
    _, proto = rg.Request.of(choices).graph(choices, np.float32)
    return set(map(rg.name_of, rg.nodes(proto.graph)))


def explore(tally: Tally, drawn: Iterator[tuple[str, Choices]], cases: int, out: Path | None) -> None:
    """One case after the other, failures told at once, and every minute how it goes."""
    start = shown = time.monotonic()
    for case, choices in itertools.islice(drawn, cases):
        found = verdict(choices, repeat=tally.words.total() % REPEATED == 0)
        if isinstance(found, str):
            tally.words["FAILED"] += 1
            click.echo(f"\n{case}: {found}")
            report(case, found, choices.taken, out)
        else:
            tally.add(found)
        if time.monotonic() - shown > PROGRESS:
            shown = time.monotonic()
            total = tally.words.total()
            click.echo(
                f"{total} of {cases} cases, {tally.words['FAILED']} failed, {tally.grown / total:.1%} grown, "
                f"{total / (shown - start):.1f} per second",
                err=True,
            )


if __name__ == "__main__":
    main()
