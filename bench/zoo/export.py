"""Export networks with random weights to ONNX, for `bench/coverage.py` to grow.

    python bench/zoo/export.py SOURCE ... [--to FOLDER] [--only GLOB] [--exporter torchscript|dynamo]

SOURCE is torchvision, timm, transformers, keras, sklearn or jax; each needs the packages of its requirements file beside this program.
Nothing is downloaded. Every model is built and exported in a process of its own; a rerun goes on where the last one stopped, and tries
again what failed only with --retry. FOLDER/manifest.jsonl has a line for each model: its inputs, or why there is none.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
import isolated  # noqa: E402 (beside this folder)

SOURCES = {
    "torchvision": "sources.torchvision_models",
    "timm": "sources.timm_models",
    "transformers": "sources.transformers_models",
    "keras": "sources.keras_models",
    "sklearn": "sources.sklearn_models",
    "jax": "sources.jax_models",
}
PACKAGES = {
    "torchvision": ("torch", "torchvision", "onnxscript"),
    "timm": ("torch", "timm"),
    "transformers": ("torch", "transformers", "onnxscript"),
    "keras": ("keras", "tensorflow-cpu", "tf2onnx"),
    "sklearn": ("scikit-learn", "skl2onnx"),
    "jax": ("jax", "flax", "jax2onnx"),
}
THREADED = ("keras", "jax")
"""Sources whose packages start threads when they are imported: no process may fork from one that has."""
CACHE = Path.home() / ".cache" / "onnx-grow" / "zoo"


def listed(source: str) -> Iterator[tuple[list[str], tuple[str, ...]]]:
    """The names of a source's models, and its exporters, the usual one first."""
    module = importlib.import_module(SOURCES[source])
    yield module.names(), getattr(module, "EXPORTERS", (source,))


def exported(source: str, name: str, exporter: str, file: Path) -> Iterator[dict[str, Any]]:
    """Export one model; yields what the manifest says of it."""
    module = importlib.import_module(SOURCES[source])
    partial = file.with_suffix(".partial")
    yield module.export(name, exporter, partial)
    # only a whole file gets the name that coverage.py looks for
    partial.replace(file)


def note_versions(file: Path, sources: Sequence[str]) -> None:
    """Add the versions of the sources' packages to those in a file."""
    told = json.loads(file.read_text()) if file.exists() else {}
    for package in dict.fromkeys(package for source in sources for package in PACKAGES[source]):
        with suppress(PackageNotFoundError):
            told[package] = version(package)
    file.write_text(json.dumps(told))


@click.command(help=__doc__)
@click.argument("sources", nargs=-1, required=True, type=click.Choice(list(SOURCES)))
@click.option("--to", "folder", type=click.Path(path_type=Path), default=CACHE, show_default=True)
@click.option("--only", default="*", help="Export only names that match this glob.")
@click.option("--exporter", help="One of the source's exporters; else the first that can, usually the first.")
@click.option("--retry", is_flag=True, help="Try again what failed before.")
@click.option("--seconds", type=float, default=300.0, show_default=True, help="Time for one model.")
@click.option("--gigabytes", type=float, default=8.0, show_default=True, help="Memory for one model.")
def main(
    sources: tuple[str, ...],
    folder: Path,
    only: str,
    exporter: str | None,
    retry: bool,
    seconds: float,
    gigabytes: float,
) -> None:
    """Export what is not there yet."""
    warm = {f"sources.warm_{exporter or 'torchscript'}" for source in sources if "torch" in PACKAGES[source]}
    isolated.prepare(*(SOURCES[source] for source in sources if source not in THREADED), *warm)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()] if manifest.exists() else []
    done = {row["file"] for row in rows if "error" not in row or not retry}
    note_versions(folder / "versions.json", sources)
    for source in sources:
        names, exporters = next(isolated.results(listed, source, seconds=seconds, gigabytes=gigabytes))
        suffix = f"@{exporter}" if exporter and exporter != exporters[0] else ""
        files = {
            name: folder / source / f"{name}{suffix}.onnx" for name in names if fnmatch.fnmatch(name, only)
        }
        wanted = [name for name, file in files.items() if f"{source}/{file.name}" not in done]
        (folder / source).mkdir(exist_ok=True)
        with (
            manifest.open("a") as out,
            click.progressbar(wanted, label=source, item_show_func=str, file=sys.stderr) as bar,
        ):
            for name in bar:
                row = {"file": f"{source}/{files[name].name}", "source": source, "name": name}
                start = time.perf_counter()
                for used in [exporter] if exporter else exporters:
                    try:
                        arguments = source, name, used, files[name]
                        (told,) = isolated.results(exported, *arguments, seconds=seconds, gigabytes=gigabytes)
                    except isolated.Died as died:
                        row.setdefault("error", str(died)[-1500:])
                    else:
                        row = {key: value for key, value in row.items() if key != "error"} | told
                        break
                row["seconds"] = round(time.perf_counter() - start, 1)
                out.write(json.dumps(row) + "\n")
                out.flush()


if __name__ == "__main__":
    main()
