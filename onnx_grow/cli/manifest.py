"""Many pairs of models at once: a YAML file lists them, worker processes verify them.

tolerance: 3                 # options of `onnx-grow verify`, for all pairs
pairs:
  - original: model.onnx     # paths are relative to the file
    grown: model-wide.onnx
  - original: net.onnx
    grown: net-fp16.onnx
    name: half precision
    max_error: 1e-2          # options for this pair
    shapes: {input: [1, 3, 224, 224]}
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from threading import Event
from typing import Any

import click
import yaml

from onnx_grow.errors import InvalidRequestError

LARGEST = 1 << 20
"""Bytes of a manifest; more is no list that somebody wrote."""

_OPTIONS = ("inputs", "shapes", "provider", "proof", "seeds", "tolerance", "max_error")
_EITHER = ({"tolerance", "max_error"}, {"inputs", "seeds"})
"""Options of which a pair takes one: its own, if it has one."""
_KEYS = ("original", "grown", "name", *_OPTIONS)


@dataclass(frozen=True)
class Pair:
    """Two models to compare, and the options of `onnx-grow verify` to do it with, as words."""

    name: str
    original: Path
    grown: Path
    options: tuple[str, ...] = ()


def read_manifest(path: Path) -> list[Pair]:
    """The pairs that a manifest lists. Raises InvalidRequestError, naming the place, for anything that is none."""
    if path.stat().st_size > LARGEST:
        raise InvalidRequestError(f"{path} is no manifest: it has more than {LARGEST:,} bytes")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    content = {"pairs": content} if isinstance(content, list) else content
    if not isinstance(content, dict) or not isinstance(content.get("pairs"), list) or not content["pairs"]:
        raise InvalidRequestError(f"{path} lists no pairs", hint="it needs a list under the key 'pairs'")
    common = {key: value for key, value in content.items() if key != "pairs"}
    _check(path, common, ("pairs", *_OPTIONS))
    return [_pair(path, f"pairs[{k}]", common, entry) for k, entry in enumerate(content["pairs"])]


def verify_all(
    pairs: Sequence[Pair], jobs: int, advance: Callable[[int, int], None]
) -> list[tuple[str, dict[str, Any]]]:
    """Verify every pair in a process of its own, `jobs` at a time: (name, the document of docs/json.md) in the order of `pairs`.

    A pair that crashes its process has a document with an `error`. Whatever interrupts this ends the processes.
    """
    running: set[subprocess.Popen[str]] = set()
    stopped = Event()
    documents: dict[int, dict[str, Any]] = {}
    pool = ThreadPoolExecutor(max(1, jobs))
    try:
        futures = {pool.submit(_verify, pair, running, stopped): k for k, pair in enumerate(pairs)}
        for future in as_completed(futures):
            documents[futures[future]] = future.result()
            advance(len(documents), len(pairs))
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
    return [(pair.name, documents[k]) for k, pair in enumerate(pairs)]


def _pair(path: Path, place: str, common: Mapping[str, Any], entry: Any) -> Pair:
    if not isinstance(entry, dict):
        raise InvalidRequestError(f"{path}: {place} is {entry!r}", hint="give 'original' and 'grown'")
    _check(f"{path}: {place}", entry, _KEYS)
    for key in ("original", "grown"):
        if not isinstance(entry.get(key), str):
            raise InvalidRequestError(f"{path}: {place} has no {key!r}, which names a file")
    original, grown = (path.parent / entry[key] for key in ("original", "grown"))
    name = str(entry.get("name") or f"{entry['original']} -> {entry['grown']}")
    own = {key: value for key, value in entry.items() if key in _OPTIONS}
    general = {
        key: value
        for key, value in common.items()
        if not any(own.keys() & pair for pair in _EITHER if key in pair)
    }
    options = {**general, **own}
    words = [word for key, value in options.items() for word in _words(f"{path}: {place}", path, key, value)]
    _check_values(f"{path}: {place}", words)
    return Pair(name, original, grown, tuple(words))


def _check_values(place: str, words: Sequence[str]) -> None:
    """Refuse what the command line would, before any pair runs; whether files exist is asked when their pair is compared."""
    from onnx_grow.cli.verify import verify

    known = [word for word in words if not word.startswith("--inputs=")]
    try:
        verify.make_context("verify", known)
    except click.UsageError as error:
        raise InvalidRequestError(f"{place}: {error.format_message()}") from error


def _check(place: object, given: Mapping[Any, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            close = get_close_matches(str(key), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise InvalidRequestError(f"{place} has the key {key!r}", hint=hint)
    for pair in _EITHER:
        if pair <= given.keys():
            both = " and ".join(map(repr, sorted(pair)))
            raise InvalidRequestError(f"{place} has both {both}", hint="say one of them")


def _words(place: str, path: Path, key: str, value: Any) -> list[str]:
    """An option as the command line takes it, which also checks its value."""
    if value is None:
        return []
    match key:
        case "shapes":
            if not isinstance(value, dict) or not all(isinstance(dims, list) for dims in value.values()):
                raise InvalidRequestError(
                    f"{place}: shapes is {value!r}", hint="write shapes: {input: [1, 3, 224, 224]}"
                )
            return [f"--shape={name}:{','.join(map(str, dims))}" for name, dims in value.items()]
        case "inputs":
            return [f"--inputs={path.parent / str(value)}"]
        case "proof":
            if not isinstance(value, bool):
                raise InvalidRequestError(f"{place}: proof is {value!r}", hint="write true or false")
            return ["--proof" if value else "--no-proof"]
        case _:
            return [f"--{key.replace('_', '-')}={value}"]


def _verify(pair: Pair, running: set[subprocess.Popen[str]], stopped: Event) -> dict[str, Any]:
    words = [
        sys.executable,
        "-m",
        "onnx_grow",
        "verify",
        "--json",
        *pair.options,
        "--",
        str(pair.original),
        str(pair.grown),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "GITHUB_ACTIONS"}
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    running.add(process)
    if stopped.is_set():  # in the moment in which it started
        process.terminate()
    try:
        out, err = process.communicate()
    finally:
        running.discard(process)
    try:
        document: dict[str, Any] = json.loads(out)
    except ValueError:
        code = process.returncode
        what = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        said = err.strip().splitlines()[-1:] or [""]
        message = f"its verification {what}{f': {said[0]}' if said[0] else ''}"
        return {"ok": False, "error": {"kind": "Crash", "message": message, "hint": ""}}
    return document
