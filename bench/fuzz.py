"""Widen random graphs and look for one that no longer computes the same.

    python bench/fuzz.py [--cases 10000] [--seed 0] [--first 0] [--blocks 24]

Case k of a seed is always the same graph, however many there are. For every failure the smallest graph found that fails the same way is
printed: how it was widened, its text, and the choices that make it (`--replay 3,0,17` runs them). Exits with 1 if there was any.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import click
from onnx import printer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import random_graphs as rg

PATIENCE = 30.0  # seconds of processor time for one case: more means an endless loop
PROGRESS = 10.0  # seconds between progress lines


class Endless(BaseException):
    """A case took longer than any should; not an Exception, which somebody on the way may catch."""


def verdict(taken: rg.Sequence[int] | None, choices: rg.Choices | None = None) -> tuple[str, rg.Choices]:
    """What becomes of a case, in a word or as the failure it ends in, and its choices."""
    choices = choices or rg.Choices.replayed(taken or ())
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        outcome = rg.check(choices)
    except (Exception, Endless) as error:  # whatever goes wrong here is what this program looks for
        return f"{type(error).__name__}: {error}", choices
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return " ".join(filter(None, (outcome.kind, outcome.dtype))), choices


def kind_of(failure: str) -> str:
    """The part of a failure that stays the same while its graph shrinks."""
    return failure[:30]


def reproduce(taken: rg.Sequence[int]) -> str:
    """A case for people."""
    choices = rg.Choices.replayed(taken)
    request = rg.Request.of(choices)
    found = rg.usable(taken)
    lines = [f"choices: {','.join(map(str, taken))}", str(request)]
    if found is not None:
        graph, proto, _ = found
        lines += [f"{name}: {list(array.shape)} of {array.dtype}" for name, array in graph.weights.items()]
        del proto.graph.initializer[:]
        lines.append(printer.to_text(proto))
    return "\n".join(lines)


def report(case: str, failure: str, taken: rg.Sequence[int]) -> None:
    def fails(candidate: rg.Sequence[int]) -> bool:
        return kind_of(verdict(candidate)[0]) == kind_of(failure)

    smallest = rg.shrunk(taken, fails)
    click.echo(f"\n{case}: {failure}\nsmallest: {verdict(smallest)[0]}\n{reproduce(smallest)}\n")


def is_failure(word: str) -> bool:
    return word.split()[0] not in ("grown", "nothing", "unusable", "rounding")


@click.command(help=__doc__)
@click.option("--cases", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--first", default=0, show_default=True, help="The case to begin with.")
@click.option("--replay", help="The choices of one case, as a failure prints them.")
def main(cases: int, seed: int, first: int, replay: str | None) -> None:
    def endless(number: int, frame: FrameType | None) -> None:
        raise Endless(f"more than {PATIENCE:g} s, in {frame.f_code.co_qualname if frame else 'nowhere'}")

    signal.signal(signal.SIGPROF, endless)
    if replay is not None:
        taken = [int(choice) for choice in replay.split(",")]
        word, _ = verdict(taken)
        click.echo(f"{word}\n{reproduce(taken)}")
        sys.exit(is_failure(word))
    counts: Counter[str] = Counter()
    start = shown = time.monotonic()
    for case in itertools.islice(itertools.count(first), cases):
        word, choices = verdict(None, rg.Choices.drawn([seed, case]))
        counts["FAILED" if is_failure(word) else word] += 1
        if is_failure(word):
            report(f"case {case} of seed {seed}", word, choices.taken)
        if time.monotonic() - shown > PROGRESS:
            shown = time.monotonic()
            rate = counts.total() / (shown - start)
            click.echo(
                f"{counts.total()} of {cases} cases, {counts['FAILED']} failed, {rate:.1f} per second",
                err=True,
            )
    click.echo(f"{counts.total()} cases of seed {seed} in {time.monotonic() - start:.0f} s")
    for word, count in counts.most_common():
        click.echo(f"{count:8} {word}")
    sys.exit(1 if counts["FAILED"] else 0)


if __name__ == "__main__":
    main()
