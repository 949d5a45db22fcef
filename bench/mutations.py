"""Feed damaged files to onnx-grow: does it crash, hang, write where it should not, or call a wrong result right?

    python bench/mutations.py MODEL_OR_FOLDER ... [--cases 100000] [--seed 0] [--largest KB] [--every 20]

Seeds are the models given and those of ONNX's own backend tests. Each case damages one: bytes and bits flipped, cut out, put in, or cut
off; or, aware of the structure, a field of any nested message changed, doubled, swapped, emptied, or set to an extreme. The file is
loaded, and where it loads, inspected and saved again; every so many cases it is widened, written and verified as `onnx-grow widen` does.

Where a library crashes, the command line gets the file: it has to say so in a line, with exit code 2, and leave nothing behind.
Anything but success or an OnnxGrowError is a finding, and so are a case of more than 20 s or 4 GB, a file opened for writing outside the
case's folder, and a growth that passes though float64 says it is wrong. Findings are kept, with the seed that makes them again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import onnx
from google.protobuf.message import DecodeError, Message

import onnx_grow as og
from onnx_grow.verification import prove

SLOW = 20
"""Seconds after which a case hangs."""
MEMORY = 4 << 30
EXTREMES = (
    0,
    1,
    -1,
    2,
    7,
    127,
    -128,
    255,
    1 << 15,
    1 << 31,
    -(1 << 31),
    (1 << 31) - 1,
    (1 << 40),
    (1 << 62),
    -(1 << 63),
    (1 << 63) - 1,
)
TEXTS = (
    "",
    "x",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 5000,
    "\x00",
    "é",
    "Relu",
    "If",
    "Loop",
    "ai.onnx",
    "com.microsoft",
)


def seeds(sources: tuple[Path, ...], largest: int) -> list[bytes]:
    """Models to damage."""
    files = [f for s in sources for f in ([s] if s.is_file() else sorted(s.rglob("*.onnx")))]
    found = [f.read_bytes() for f in files if f.stat().st_size <= largest]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found += [
            case.model.SerializeToString() for case in collect_testcases(None) if case.model.ByteSize() < 4000
        ]
    return found


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file with something wrong."""
    if rng.random() < 0.5:
        try:
            model = onnx.ModelProto.FromString(data)
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                _hurt(model, rng)
            return model.SerializeToString()
        except (DecodeError, ValueError, TypeError):
            pass
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not out:
            break
        i, kind = rng.randrange(len(out)), rng.random()
        if kind < 0.5:
            out[i] = rng.randrange(256)
        elif kind < 0.65:
            out[i] ^= 1 << rng.randrange(8)
        elif kind < 0.75:
            del out[i : i + rng.randrange(1, 20)]
        elif kind < 0.85:
            out[i:i] = rng.randbytes(rng.randrange(1, 10))
        elif kind < 0.93:
            j = rng.randrange(len(out))
            out[i:i] = out[j : j + rng.randrange(1, 200)]
        else:
            del out[i:]
    return bytes(out)


def _hurt(model: Message, rng: random.Random) -> None:
    """Change one field of a message somewhere inside."""
    message, depth = model, rng.randrange(1, 7)
    for _ in range(depth):
        inner = list(_messages(message))
        if not inner:
            break
        message = rng.choice(inner)
    fields = message.ListFields() or []
    if not fields:
        return
    field, value = rng.choice(fields)
    repeated = not isinstance(value, int | float | str | bytes | Message)
    if repeated and len(value) and rng.random() < 0.6:
        k, j = rng.randrange(len(value)), rng.randrange(len(value))
        if rng.random() < 0.5:
            del value[k]
        elif isinstance(value[k], Message):
            value[k].CopyFrom(value[j]) if rng.random() < 0.5 else value.append(value[j])
        else:
            value[k] = _other(value[k], rng) if rng.random() < 0.7 else value[j]
    elif repeated or isinstance(value, Message) or rng.random() < 0.15:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _other(value, rng))


def _messages(message: Message) -> Iterator[Message]:
    for _, value in message.ListFields():
        if isinstance(value, Message):
            yield value
        elif not isinstance(value, int | float | str | bytes):
            yield from (item for item in value if isinstance(item, Message))


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e30, float("inf"), float("nan")))
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, *EXTREMES))
    if isinstance(value, bytes):
        return rng.choice((b"", value[: len(value) // 2], value + b"\xff", rng.randbytes(8)))
    return rng.choice((*TEXTS, value + "_", value[:-1]))


def attempt(data: bytes, folder: Path, whole: bool) -> str:
    """What became of a file: how far it came, or what refused it."""
    path = folder / "case.onnx"
    path.write_bytes(data)
    try:
        model = og.load(path)
        table = og.inspect(model)
        og.save(model, folder / "again.onnx", force=True)
        if not (whole and table.growable):
            return "read"
        grown = og.load(og.save(og.widen(model, seed=1), folder / "grown.onnx", force=True))
        report = og.verify(model, grown, provider="cpu", seeds=1, proof=False)
        if report.ok and report.feed is not None and not prove(model, grown, report.feed).ok:
            return "WRONG BUT GREEN"
        return "grown" if report.ok else "NOT EQUAL"
    except og.OnnxGrowError as error:
        return "refused" if "\n" not in str(error) else "MESSAGE OF SEVERAL LINES"


def work(numbers: range, seed: int, every: int, models: list[bytes], pipe: Any) -> None:
    """Run cases one after the other and tell what becomes of each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        folder = Path(name)
        tempfile.tempdir = name
        outside: list[str] = []
        sys.addaudithook(lambda event, arguments: _watch(event, arguments, name, outside))
        for number in numbers:
            rng = random.Random(f"{seed}/{number}")
            data = damaged(rng.choice(models), rng)
            pipe.send((number, "begins"))
            try:
                told = attempt(data, folder, whole=number % every == 0)
            except MemoryError:
                told = "OUT OF MEMORY"
            except Exception as error:  # what this benchmark looks for
                told = f"{type(error).__name__.upper()}: {str(error)[:200]}"
            if outside:
                told, outside[:] = f"WROTE TO {outside[0]}", []
            pipe.send((number, told))


def _watch(event: str, arguments: tuple[Any, ...], inside: str, outside: list[str]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        where = os.path.abspath(os.fsdecode(path))
        if writes and not where.startswith((inside, "/dev/")) and "__pycache__" not in where:
            outside.append(where)


def by_command(data: bytes, crash: str) -> str:
    """What the command line makes of a file on which a library crashes."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        path = Path(name, "case.onnx")
        path.write_bytes(data)
        words = [sys.executable, "-m", "onnx_grow", "widen", str(path)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=3 * SLOW, check=False)
        except subprocess.TimeoutExpired:
            return "HANG"
        clean = os.listdir(name) == ["case.onnx"] and "Traceback" not in done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return "crash told in a line" if clean and done.returncode == 2 and len(errors) == 1 else crash


@click.command(help=__doc__)
@click.argument("sources", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--cases", default=100_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--every", default=20, show_default=True, help="Grow and verify every so many cases.")
@click.option("--largest", default=60, show_default=True, help="Kilobytes of the largest model to damage.")
@click.option(
    "--to", "findings", type=click.Path(path_type=Path), default=Path("mutations"), show_default=True
)
def main(sources: tuple[Path, ...], cases: int, seed: int, every: int, largest: int, findings: Path) -> None:
    """Run, and print what became of the files."""
    models = seeds(sources, largest * 1000)
    fork = multiprocessing.get_context("fork")
    outcomes: Counter[str] = Counter()
    start, number = time.perf_counter(), 0
    try:
        with click.progressbar(length=cases, file=sys.stderr) as bar:
            while number < cases:
                mine, theirs = fork.Pipe(duplex=False)
                worker = fork.Process(
                    target=work, args=(range(number, cases), seed, every, models, theirs), daemon=True
                )
                worker.start()
                theirs.close()
                while True:
                    try:
                        told = mine.recv() if mine.poll(SLOW) else (number, "HANG")
                    except EOFError:
                        worker.join()
                        told = (
                            number,
                            f"CRASH ({signal.Signals(-worker.exitcode).name})"
                            if (worker.exitcode or 0) < 0
                            else "END",
                        )
                    if told[1] == "begins":
                        number = told[0]
                        continue
                    if told[1].startswith("CRASH"):
                        rng = random.Random(f"{seed}/{told[0]}")
                        told = (number, by_command(damaged(rng.choice(models), rng), told[1]))
                    if told[1] == "END":
                        number = max(number, cases if worker.exitcode == 0 else number + 1)
                        break
                    outcomes[told[1].split(":")[0]] += 1
                    bar.update(1)
                    if not told[1].islower():
                        rng = random.Random(f"{seed}/{told[0]}")
                        findings.mkdir(exist_ok=True)
                        (findings / f"{seed}-{told[0]}.onnx").write_bytes(damaged(rng.choice(models), rng))
                        with (findings / "findings.jsonl").open("a") as out:
                            out.write(json.dumps({"seed": seed, "case": told[0], "what": told[1]}) + "\n")
                    number = told[0] + 1
                    if told[1] == "HANG" or "crash" in told[1].lower():
                        worker.kill()
                        break
    except KeyboardInterrupt:
        pass
    click.echo(
        f"{number:,} files from {len(models):,} seeds in {time.perf_counter() - start:.0f} s: {dict(outcomes)}"
    )


if __name__ == "__main__":
    main()
