"""What growing costs, as ratios to what others take for the same in the same run.

    python bench/performance [--gigabytes 1] [--type float16] [--cold] [--folder DIR] [--repeat 3]

Load, widen and save a decoder, next to `cp` of the grown files, with and without waiting until they are on the disk as we do, and to
`onnx.load` + `onnx.save` of the grown model, with the most memory that is not mapped from a file; analysis per node of ever longer
networks; and, where torch, torchvision and torch_pruning are installed, analysis next to the graph that Torch-Pruning builds of the same
architecture. Every figure is the least of the repeats, by the clock and in processor time, each of a process of its own; what is read is
in the system's cache, or with --cold is not.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent))

SIZES = (100, 1_000, 10_000, 100_000)
ARCHITECTURES = ("resnet50", "densenet121", "swin_t", "vit_b_16")


@click.command(help=__doc__)
@click.option("--gigabytes", default=1.0, show_default=True, help="Weights of the decoder before it grows.")
@click.option("--type", "kind", default="float16", show_default=True, help="float16, bfloat16 or float32.")
@click.option("--cold", is_flag=True, help="What is read is not in the system's cache.")
@click.option("--most", default=SIZES[-1], show_default=True, help="Nodes of the longest network.")
@click.option("--repeat", default=3, show_default=True)
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help="Where there is room for the files."
)
@click.option("--only", type=click.Choice(["growing", "analysis", "torch"]), multiple=True)
def main(
    gigabytes: float,
    kind: str,
    cold: bool,
    most: int,
    repeat: int,
    folder: Path | None,
    only: tuple[str, ...],
) -> None:
    """Print everything."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnx", "onnx-graphsurgeon", "numpy"))
    click.echo(f"{os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}, {versions}\n")
    if not only or "growing" in only:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            growing(Path(name), gigabytes, kind, "cold" if cold else "warm", repeat)
    if not only or "analysis" in only:
        analysis([size for size in SIZES if size <= most], repeat)
    if not only or "torch" in only:
        beside_torch_pruning(repeat)


def growing(folder: Path, gigabytes: float, kind: str, cache: str, repeat: int) -> None:
    """Every hidden axis of a decoder twice as wide."""
    import decoder
    from onnx import load as read

    source, grown = folder / "decoder.onnx", folder / "grown.onnx"
    shape = decoder.Shape.of(gigabytes * 1e9 / decoder.TYPES[kind][1].itemsize)
    decoder.write(source, shape, kind)
    ours = best(repeat, "grow", source, grown, cache)
    tensors = read(grown, load_external_data=False).graph.initializer
    largest = max(int(e.value) for t in tensors for e in t.external_data if e.key == "length")
    copy = best(repeat, "copy", grown, folder / "copy.onnx", cache)
    synced = best(repeat, "copy and sync", grown, folder / "copy.onnx", cache)
    _remove(str(folder / "copy.onnx"))
    theirs = best(min(repeat, 2), "onnx", grown, folder / "again.onnx", cache)
    size = Path(f"{grown}.data").stat().st_size
    click.echo(
        f"{kind} decoder, {Path(f'{source}.data').stat().st_size / 1e9:.2f} GB -> {size / 1e9:.2f} GB, "
        f"hidden axes twice as wide, {cache} files"
    )
    click.echo(f"{'':26} {'seconds':>8} {'processor':>10} {'anonymous memory':>18}")
    rows = (
        ("load, widen, save", ours),
        ("cp", copy),
        ("cp and sync", synced),
        ("onnx.load + onnx.save", theirs),
    )
    for name, figures in rows:
        click.echo(
            f"{name:26} {figures['wall']:8.2f} {figures['cpu']:10.2f} {figures['memory'] / 1e6:15.0f} MB"
        )
    for name, figures in rows[1:3]:
        click.echo(
            f"over {name}: {ours['wall'] / figures['wall']:.2f} by the clock, {ours['cpu'] / figures['cpu']:.2f} in processor time"
        )
    click.echo(
        f"onnx over ours: {theirs['wall'] / ours['wall']:.2f} by the clock, {theirs['cpu'] / ours['cpu']:.2f} in processor time"
    )
    click.echo(f"memory over the largest tensor ({largest / 1e6:.0f} MB): {ours['memory'] / largest:.2f}\n")


def analysis(sizes: list[int], repeat: int) -> None:
    """Processor time per node."""
    from chains import CHAINS

    click.echo("microseconds of processor time per node")
    click.echo(
        f"{'network':12} {'nodes':>8} {'load':>8} {'analyse':>8} {'widen':>8} {'save':>8} {'deepen':>8}"
    )
    for kind in CHAINS:
        for size in sizes:
            figures = best(repeat if size <= 10_000 else 1, "chain", kind, size)
            steps = (
                f"{figures[step] / figures['nodes'] * 1e6:8.0f}"
                for step in ("load", "analyse", "widen", "save", "deepen")
            )
            click.echo(f"{kind:12} {figures['nodes']:8.0f} {' '.join(steps)}")
    click.echo()


def beside_torch_pruning(repeat: int) -> None:
    """Analysis of the exported network, and Torch-Pruning's graph of the module that it was exported from."""
    missing = [
        name for name in ("torch", "torchvision", "torch_pruning") if not importlib.util.find_spec(name)
    ]
    if missing:
        click.echo(f"without Torch-Pruning: {', '.join(missing)} not installed")
        return
    click.echo(
        f"{'network':14} {'nodes':>6} {'ours':>9} {'Torch-Pruning':>14} {'ratio':>7}   (processor time)"
    )
    for name in ARCHITECTURES:
        figures = best(repeat, "torch", name)
        ratio = figures["theirs"] / figures["ours"]
        click.echo(
            f"{name:14} {figures['nodes']:6.0f} {figures['ours']:8.3f}s {figures['theirs']:13.3f}s {ratio:6.1f}x"
        )


def best(repeat: int, *task: object) -> dict[str, float]:
    """The least of every figure over some runs of a task, each in a process of its own."""
    runs = [_run(*task) for _ in range(repeat)]
    return {key: min(run[key] for run in runs) for key in runs[0]}


def _run(*task: object) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--task", *map(str, task)], capture_output=True, text=True
    )
    if done.returncode:
        raise click.ClickException(f"{task[0]} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


# --- what the processes do ------------------------------------------------------------------------------------------


def measured(action: Callable[[], object]) -> dict[str, float]:
    """Seconds by the clock and of processors, children included, and the most anonymous memory above what there was before."""
    over = threading.Event()
    before, peak = anonymous(), 0

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, began = os.times(), time.perf_counter()
    action()
    wall, end = time.perf_counter() - began, os.times()
    over.set()
    watcher.join()
    return {"wall": wall, "cpu": sum(end[:4]) - sum(start[:4]), "memory": max(0, peak - before)}


def anonymous() -> int:
    """Bytes of this process' memory that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) << 10


def grow(source: str, target: str, cache: str) -> dict[str, float]:
    from chains import chain

    import onnx_grow as og

    og.widen(og.load(chain("MLP", 3).SerializeToString()))  # loads modules, which is not what is measured
    _prepare(source, target, cache)
    return measured(lambda: og.save(og.widen(og.load(source), kind="hidden"), target))


def copy(source: str, target: str, cache: str, *then: str) -> dict[str, float]:
    _prepare(source, target, cache)
    commands = [["cp", f"{source}{end}", f"{target}{end}"] for end in ("", ".data")]
    commands += [[*then, f"{target}{end}"] for end in ("", ".data") if then]
    return measured(lambda: [subprocess.run(command, check=True) for command in commands])


def copy_and_sync(source: str, target: str, cache: str) -> dict[str, float]:
    return copy(source, target, cache, "sync")


def load_and_save(source: str, target: str, cache: str) -> dict[str, float]:
    import onnx

    _prepare(source, target, cache)

    def both() -> None:
        onnx.save(onnx.load(source), target, save_as_external_data=True, location=f"{Path(target).name}.data")

    return measured(both)


def walk(kind: str, size: str) -> dict[str, float]:
    from chains import chain

    import onnx_grow as og
    from onnx_grow.growth.widening import analyse

    data = chain(kind, int(size)).SerializeToString()
    og.widen(og.load(chain(kind, 100).SerializeToString()))
    figures: dict[str, float] = {}

    def timed(name: str, action: Callable[[], object]) -> object:
        start = time.process_time()
        result = action()
        figures[name] = time.process_time() - start
        return result

    model = timed("load", lambda: og.load(data))
    assert isinstance(model, og.Model)
    timed("analyse", lambda: analyse(model, None))
    grown = timed("widen", lambda: og.widen(model))
    assert isinstance(grown, og.Model)
    with tempfile.TemporaryDirectory() as folder:
        timed("save", lambda: og.save(grown, Path(folder, "grown.onnx")))
    timed("deepen", lambda: og.deepen(model))
    return {**figures, "nodes": len(model.skeleton.graph.node)}


def graph(name: str) -> dict[str, float]:
    import torch
    import torch_pruning
    import torchvision

    import onnx_grow as og
    from onnx_grow.growth.widening import analyse

    torch.set_num_threads(1)
    network = getattr(torchvision.models, name)().eval()
    x = torch.rand(1, 3, 224, 224)
    file = io.BytesIO()
    torch.onnx.export(network, (x,), file, dynamo=False, opset_version=17)
    model = og.load(file.getvalue())
    analyse(model, None)
    start = time.process_time()
    analyse(model, None)
    ours = time.process_time() - start
    start = time.process_time()
    torch_pruning.DependencyGraph().build_dependency(network, example_inputs=x)
    return {"ours": ours, "theirs": time.process_time() - start, "nodes": len(model.skeleton.graph.node)}


def _prepare(source: str, target: str, cache: str) -> None:
    """Bring a model into the system's cache or out of it, and remove what an earlier run wrote."""
    _remove(target)
    for end in ("", ".data"):
        with open(f"{source}{end}", "rb", buffering=0) as file:
            os.fsync(file.fileno())
            if cache == "cold":
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while cache == "warm" and file.read(1 << 22):
                pass


def _remove(target: str) -> None:
    for end in ("", ".data"):
        Path(f"{target}{end}").unlink(missing_ok=True)


TASKS: dict[str, Callable[..., dict[str, float]]] = {
    "grow": grow,
    "copy": copy,
    "copy and sync": copy_and_sync,
    "onnx": load_and_save,
    "chain": walk,
    "torch": graph,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--task"]:
        print(json.dumps(TASKS[sys.argv[2]](*sys.argv[3:])))
    else:
        main()
