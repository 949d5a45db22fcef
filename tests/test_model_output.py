from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_grow.model import Inline, Part, Stored, load, output, save
from onnx_grow.model.output import write_file

fcntl = pytest.importorskip("fcntl")

WEIGHT = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """A weight in a file, behind 4096 other bytes."""
    (tmp_path / "w.bin").write_bytes(bytes(4096) + WEIGHT.tobytes())
    tensor = TensorProto(name="w", data_type=1, dims=[WEIGHT.size], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.bin"), ("offset", "4096")):
        tensor.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(name, 1, [WEIGHT.size]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    weight = load(tmp_path / "m.onnx").weights["w"]
    assert isinstance(weight, Stored)
    return weight


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes the kernel copied in each call."""
    counts: list[int] = []
    real = os.copy_file_range

    def counted(*arguments: int) -> int:
        counts.append(real(*arguments))
        return counts[-1]

    monkeypatch.setattr(os, "copy_file_range", counted)
    return counts


needs_kernel = pytest.mark.skipif(
    not hasattr(os, "copy_file_range"), reason="the system has no copy_file_range"
)


@needs_kernel
def test_what_lies_in_a_file_is_copied_by_the_kernel(
    stored: Stored, tmp_path: Path, kernel: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "WINDOW", 1 << 16)
    monkeypatch.setattr(output, "COPIED", 1 << 17)
    write_file(tmp_path / "out", [(0, b"head"), (8192, stored)])
    assert sum(kernel) == WEIGHT.nbytes
    data = (tmp_path / "out").read_bytes()
    assert data == b"head".ljust(8192, b"\0") + WEIGHT.tobytes()


@needs_kernel
@pytest.mark.parametrize("after", [0, 1000])
def test_where_the_kernel_cannot_copy_we_do(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    real = os.copy_file_range

    def unable(source: int, target: int, count: int, *offsets: int) -> int:
        if after and count == WEIGHT.nbytes:
            return real(source, target, after, *offsets)
        raise OSError(errno.EXDEV, "between file systems")

    monkeypatch.setattr(os, "copy_file_range", unable)
    monkeypatch.setattr(output, "WINDOW", 1 << 16)
    write_file(tmp_path / "out", [(16, stored)])
    assert (tmp_path / "out").read_bytes() == bytes(16) + WEIGHT.tobytes()
    monkeypatch.delattr(os, "copy_file_range")
    write_file(tmp_path / "again", [(16, stored)])
    assert (tmp_path / "again").read_bytes() == bytes(16) + WEIGHT.tobytes()


@needs_kernel
def test_a_disk_that_is_full_while_the_kernel_copies(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: int) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "copy_file_range", full)
    monkeypatch.setattr(output, "WINDOW", 1 << 16)
    with pytest.raises(OSError, match="no space"):
        write_file(tmp_path / "out", [(0, stored)])


def test_a_file_replaced_meanwhile_is_not_read(stored: Stored, tmp_path: Path) -> None:
    """What was loaded is written, not what now has the name."""
    (tmp_path / "new").write_bytes(bytes(4096 + WEIGHT.nbytes))
    os.replace(tmp_path / "new", tmp_path / "w.bin")
    write_file(tmp_path / "out", [(0, stored)])
    assert (tmp_path / "out").read_bytes() == WEIGHT.tobytes()
    (tmp_path / "w.bin").unlink()
    write_file(tmp_path / "again", [(0, stored)])
    assert (tmp_path / "again").read_bytes() == WEIGHT.tobytes()


class Divided(Inline):
    """A weight in parts, which may be others than announced."""

    short = 0

    def parts(self) -> Iterator[Part]:
        data = self.raw()
        for start in range(0, len(data), 70_000):
            piece = data[start : start + 70_000]
            yield len(piece), self.delivering(piece)

    def delivering(self, piece: memoryview) -> Callable[[], memoryview]:
        return lambda: piece[: len(piece) - self.short]


@pytest.fixture
def past_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Files of any size are written past the cache, page by page: how many bytes in each call."""
    if not hasattr(os, "O_DIRECT"):
        pytest.skip("the system has no O_DIRECT")
    monkeypatch.setattr(output, "DIRECT_ABOVE", 0)
    monkeypatch.setattr(output, "WINDOW", 1 << 14)
    counts: list[int] = []
    real = os.pwrite

    def counted(descriptor: int, data: memoryview, at: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            counts.append(len(data))
        return real(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", counted)
    return counts


def pieces_of_all_kinds() -> tuple[list[tuple[int, object]], bytes]:
    pieces: list[tuple[int, object]] = []
    expected = bytearray()
    rng = np.random.default_rng(1)
    for k in range(60):
        gap = int(rng.integers(0, 2)) * 64
        values = rng.integers(0, 255, int(rng.choice([1, 100, 70_000, 300_000])), np.uint8)
        piece = (values.tobytes(), Inline.of(values), Divided.of(values))[k % 3]
        pieces.append((len(expected) + gap, piece))
        expected += bytes(gap) + values.tobytes()
    return pieces, bytes(expected)


def test_large_files_are_written_past_the_cache(
    tmp_path: Path, past_cache: list[int], stored: Stored
) -> None:
    pieces, expected = pieces_of_all_kinds()
    end = -(-len(expected) // 4096) * 4096
    write_file(tmp_path / "out", [*pieces, (end, stored)])  # type: ignore[list-item]
    assert (tmp_path / "out").read_bytes() == expected.ljust(end, b"\0") + WEIGHT.tobytes()
    assert sum(past_cache) > 0.9 * end
    assert all(count % 4096 == 0 and count <= 1 << 14 for count in past_cache)


@pytest.mark.parametrize("limit", [0, 4096, 904], ids=["nothing", "pages", "odd"])
def test_what_cannot_go_past_the_cache_goes_through_it(
    limit: int, tmp_path: Path, past_cache: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system may want larger pages than ours, or write less than it was given."""
    real = os.pwrite

    def other(descriptor: int, data: memoryview, at: int) -> int:
        if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            return real(descriptor, data, at)
        if not limit:
            raise OSError(errno.EINVAL, "not so")
        return min(limit, real(descriptor, data[:4096], at))

    monkeypatch.setattr(os, "pwrite", other)
    pieces, expected = pieces_of_all_kinds()
    write_file(tmp_path / "out", pieces)  # type: ignore[arg-type]
    assert (tmp_path / "out").read_bytes() == expected


def test_a_full_disk_shows_before_anything_is_computed(
    tmp_path: Path, past_cache: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(output, "_reserve", full)
    with pytest.raises(OSError, match="no space"):
        write_file(tmp_path / "out", pieces_of_all_kinds()[0])  # type: ignore[arg-type]
    assert not past_cache


def test_file_systems_that_can_keep_blocks_once_do(
    stored: Stored, tmp_path: Path, past_cache: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def clone(target: int, request: int, argument: bytes) -> int:
        source, start, count, at = struct.unpack("=qQQQ", argument)
        assert request == 0x4020940D
        assert [start % 4096, count % 4096, at % 4096] == [0, 0, 0]
        asked.append(count)
        if len(asked) > 2:
            raise OSError(errno.EOPNOTSUPP, "not here")
        os.pwrite(target, os.pread(source, count, start), at)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", clone)
    monkeypatch.setattr(output, "COPIED", 1 << 15)
    monkeypatch.setattr(output, "THREADS", 1)
    write_file(tmp_path / "out", [(0, b"head"), (8192, stored)])
    assert (tmp_path / "out").read_bytes() == b"head".ljust(8192, b"\0") + WEIGHT.tobytes()
    assert asked == [1 << 15] * 3


def test_pieces_of_all_kinds_lie_where_they_belong(tmp_path: Path) -> None:
    pieces, expected = pieces_of_all_kinds()
    heard: list[int] = []
    write_file(tmp_path / "out", pieces, heard.append)  # type: ignore[arg-type]
    assert (tmp_path / "out").read_bytes() == expected
    assert sum(heard) == sum(
        v if isinstance(v, int) else len(getattr(v, "raw", lambda v=v: v)()) for _, v in pieces
    )  # type: ignore[misc, arg-type]


def test_a_part_that_is_shorter_than_announced_is_a_mistake(tmp_path: Path) -> None:
    weight = Divided.of(WEIGHT)
    weight.short = 1
    with pytest.raises(ValueError, match="announced 70000 bytes and delivered 69999"):
        write_file(tmp_path / "out", [(0, weight)])


LIMITED = """
import resource, sys
import onnx_grow as og

def data():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) << 10

grown = og.widen(og.load(sys.argv[1]), seed=1)
limit = data() + (96 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
og.save(grown, sys.argv[2])
print(sum(weight.nbytes for weight in grown.weights.values()))
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits on memory that is not mapped are Linux'"
)
def test_a_weight_larger_than_memory_is_grown(tmp_path: Path) -> None:
    """128 MB become 256 with no more than 96 MB of memory, the stacks of the threads included."""
    x, y = helper.make_tensor_value_info("x", 10, [1, 16]), helper.make_tensor_value_info("y", 10, [1, 8192])
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    tensors = []
    for name, dims, offset in (("v", [16, 8192], 0), ("w", [8192, 8192], 1 << 20)):
        tensors.append(TensorProto(name=name, data_type=10, dims=dims, data_location=TensorProto.EXTERNAL))
        for key, value in (("location", "data"), ("offset", str(offset))):
            tensors[-1].external_data.add(key=key, value=value)
    proto = helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors), ir_version=8)
    proto.opset_import[0].version = 17
    onnx.save(proto, tmp_path / "m.onnx")
    with open(tmp_path / "data", "wb") as file:
        file.truncate((1 << 20) + (8192 * 8192 * 2))
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "m.onnx"), str(tmp_path / "out.onnx")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 256 << 20
    assert (tmp_path / "out.onnx.data").stat().st_size > 256 << 20


def test_bytes_do_not_depend_on_threads(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tmp_path / "m.onnx")
    first = save(model, tmp_path / "one.onnx", external=False).read_bytes()
    monkeypatch.setattr(output, "THREADS", 1)
    assert save(model, tmp_path / "two.onnx", external=False).read_bytes() == first
