from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_grow.errors import OutputError
from onnx_grow.model import Inline, Model, load, save, staged, staging, wire, writer

SIZES = (4, 300, 1500, 5000, 100)


def model(fill: float = 0.0, sizes: tuple[int, ...] = SIZES) -> Model:
    """A sum of weights of these sizes, all filled with one value."""
    nodes, tensors, total = [], [], "x"
    for i, size in enumerate(sizes):
        tensors.append(numpy_helper.from_array(np.full(size, fill, np.float32), f"w{i}"))
        nodes.append(helper.make_node("ReduceSum", [f"w{i}"], [f"s{i}"], keepdims=0))
        nodes.append(helper.make_node("Add", [total, f"s{i}"], [f"t{i}"]))
        total = f"t{i}"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("x", total))
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


class Interrupted:
    """A weight that delivers some bytes and then raises."""

    dtype = TensorProto.FLOAT
    shape = (2000,)
    nbytes = 8000

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def array(self) -> np.ndarray:
        raise self.error

    def chunks(self) -> Iterator[bytes]:
        yield bytes(1000)
        raise self.error


def broken(error: BaseException) -> Model:
    sound = model()
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(sound.skeleton)
    skeleton.graph.initializer[2].dims[:] = [2000]
    return Model(skeleton, {**sound.weights, "w2": Interrupted(error)})


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def values(path: Path) -> set[float]:
    """The value every weight of the model at `path` is filled with: one, unless files got mixed."""
    return {float(v) for t in onnx.load(path).graph.initializer for v in np.unique(numpy_helper.to_array(t))}


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OutputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the bytes ------------------------------------------------------------------------------------------------------


def test_one_file_holds_exactly_what_protobuf_would_write(tmp_path: Path) -> None:
    proto = model(1).to_proto()
    path = save(model(1), tmp_path / "m.onnx")
    assert path == tmp_path / "m.onnx"
    assert path.read_bytes() == proto.SerializeToString(deterministic=True)
    assert list(tmp_path.iterdir()) == [path]


def test_external_data_is_aligned_explicit_and_complete(tmp_path: Path) -> None:
    path = save(model(1), tmp_path / "m.onnx", external=True)
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    entries = {t.name: {e.key: e.value for e in t.external_data} for t in tensors}
    data = "m.onnx.data"
    assert entries == {
        "w0": {},
        "w1": {"location": data, "offset": "0", "length": "1200"},
        "w2": {"location": data, "offset": "4096", "length": "6000"},
        "w3": {"location": data, "offset": "12288", "length": "20000"},
        "w4": {},
    }
    assert (tmp_path / data).stat().st_size == 12288 + 20000
    assert values(path) == {1.0}
    assert load(path).to_proto() == model(1).to_proto()
    onnx.checker.check_model(path)


def test_weights_go_beside_the_model_when_it_is_large_or_came_that_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = load(save(model(), tmp_path / "a.onnx", external=True))
    save(beside, tmp_path / "b.onnx")
    save(beside, tmp_path / "c.onnx", external=False)
    monkeypatch.setattr(writer, "EXTERNAL_ABOVE", 10_000)
    save(model(), tmp_path / "d.onnx")
    save(model(), tmp_path / "e.onnx", external=False)
    save(model(sizes=(4,)), tmp_path / "f.onnx", external=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*(f"{n}.onnx" for n in "abcdef"), *(f"{n}.onnx.data" for n in "abd")}


def test_bytes_depend_on_the_model_only(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save(model(3), tmp_path / folder / "m.onnx", external=True)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    save(model(3), tmp_path / "a" / "m.onnx", external=True, force=True)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_typed_fields_and_strings_stay_inline(tmp_path: Path) -> None:
    proto = model().to_proto()
    proto.graph.initializer.append(helper.make_tensor("typed", TensorProto.FLOAT, [500], [1.0] * 500))
    words = helper.make_tensor("words", TensorProto.STRING, [500], [b"word"] * 500)
    proto.graph.initializer.append(words)
    loaded = load(proto)
    assert load(save(loaded, tmp_path / "m.onnx", external=True)).to_proto() == proto
    strings = Model(
        loaded.skeleton, {**loaded.weights, "words": Inline.of(np.array([b"word"] * 500, object))}
    )
    assert strings.to_proto() == proto
    assert load(save(strings, tmp_path / "s.onnx")).to_proto() == proto


def test_fields_behind_the_values_and_unknown_fields_are_kept(tmp_path: Path) -> None:
    proto = model(2).to_proto()
    proto.graph.initializer[1].doc_string = "behind raw_data"
    proto.graph.initializer[1].metadata_props.add(key="k", value="v")
    data = (
        proto.SerializeToString(deterministic=True) + b"\xa2\x06\x03new"
    )  # field 100, which nobody knows yet
    path = save(load(data), tmp_path / "m.onnx")
    assert path.read_bytes() == data


def test_unknown_fields_with_the_number_of_a_known_one_are_kept(tmp_path: Path) -> None:
    proto = model(2).to_proto()
    graph = (
        proto.graph.SerializeToString(deterministic=True) + b"\x28\x01"
    )  # GraphProto.initializer as a number
    proto.ClearField("graph")
    data = (
        proto.SerializeToString(deterministic=True) + wire.key(wire.GRAPH) + wire.varint(len(graph)) + graph
    )
    data += b"\x38\x01"  # ModelProto.graph as a number
    assert onnx.ModelProto.FromString(save(load(data), tmp_path / "m.onnx").read_bytes()) == (
        onnx.ModelProto.FromString(data)
    )


def test_pieces_may_be_views_of_wider_elements(tmp_path: Path) -> None:
    class Wide(Interrupted):
        def chunks(self) -> Iterator[memoryview]:  # type: ignore[override]
            yield np.ones(2000, np.float32).data

    path = save(
        Model(model(1).skeleton, {**model(1).weights, "w2": Wide(RuntimeError())}), tmp_path / "m.onnx"
    )
    assert values(path) == {1.0}


def test_more_than_two_gigabytes_in_one_file_are_refused(tmp_path: Path) -> None:
    huge = Interrupted(AssertionError("nobody reads it"))
    huge.shape, huge.nbytes = (2**29,), 2**31  # type: ignore[assignment]
    skeleton = model().skeleton
    big = Model(skeleton, {**model().weights, "w2": huge})
    assert "2 GiB (write it with external data)" in refused(
        lambda: save(big, tmp_path / "m.onnx", external=False)
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("external", [False, True])
def test_progress_counts_every_byte(tmp_path: Path, external: bool) -> None:
    calls: list[tuple[int, int]] = []
    path = save(model(), tmp_path / "m.onnx", external=external, progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert {call[1] for call in calls} == {done[-1]}
    assert done[-1] >= path.stat().st_size


def test_a_weight_that_delivers_other_than_it_announced_is_a_mistake(tmp_path: Path) -> None:
    class Lying(Interrupted):
        def chunks(self) -> Iterator[bytes]:
            yield bytes(10)

    lying = Model(model().skeleton, {**model().weights, "w2": Lying(RuntimeError())})
    with pytest.raises(ValueError, match="announced 8000 bytes and delivered 10"):
        save(lying, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


# --- the files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o000, 0o644)])
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save(model(), tmp_path / "m.onnx", external=True)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [mode, mode]


def test_existing_files_are_replaced_only_by_force(tmp_path: Path) -> None:
    path = save(model(1), tmp_path / "m.onnx")
    assert refused(lambda: save(model(2), path)) == f"{path} exists (force replaces it)"
    assert values(path) == {1.0}
    assert values(save(model(2), path, force=True)) == {2.0}
    (tmp_path / "n.onnx.data").write_text("something else")
    assert "n.onnx.data exists" in refused(lambda: save(model(), tmp_path / "n.onnx", external=True))
    link = tmp_path / "dangling.onnx"
    link.symlink_to("nowhere")
    assert "exists" in refused(lambda: save(model(), link))


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with staged(model(), tmp_path / "m.onnx") as pending:
        (tmp_path / "m.onnx").write_text("mine")
        assert "exists" in refused(pending.commit)
    assert content(tmp_path) == {"m.onnx": b"mine"}


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    assert "nowhere does not exist" in refused(lambda: save(model(), tmp_path / "nowhere" / "m.onnx"))
    (tmp_path / "file").touch()
    assert "does not exist" in refused(lambda: save(model(), tmp_path / "file" / "m.onnx"))
    assert "is a folder" in refused(lambda: save(model(), tmp_path, force=True))
    assert "name is too long" in refused(lambda: save(model(), tmp_path / ("m" * 300)))


def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", denied)
    for code in (errno.EACCES, errno.EROFS, errno.EPERM):  # noqa: B007
        message = refused(lambda: save(model(), tmp_path / "m.onnx"))
        assert f"cannot write {tmp_path}/m.onnx: the folder" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "may not be written" in refused(lambda: save(model(), tmp_path / "m.onnx"))


@pytest.mark.parametrize("external", [False, True])
def test_a_model_can_be_saved_over_itself(tmp_path: Path, external: bool) -> None:
    path = save(model(1), tmp_path / "m.onnx", external=external)
    for value in (2, 3):
        loaded = load(path)
        inner = loaded.weights["w3"].array()
        grown = Model(
            loaded.skeleton,
            {n: Inline.of(w.array() * 0 + np.float32(value)) for n, w in loaded.weights.items()},
            data_files=loaded.data_files,
        )
        save(loaded, path, force=True)
        save(grown, path, force=True)
        assert values(path) == {float(value)}
        assert set(inner) == {value - 1.0}, "what was loaded is what was there"
    assert len(list(tmp_path.iterdir())) == 1 + external


def test_the_input_models_data_is_not_replaced_under_another_model(tmp_path: Path) -> None:
    source = save(model(1), tmp_path / "a.onnx", external=True)
    (tmp_path / "a.onnx.data").rename(tmp_path / "b.onnx.data")
    source.write_bytes(source.read_bytes().replace(b"a.onnx.data", b"b.onnx.data"))
    loaded, before = load(source), content(tmp_path)
    message = refused(lambda: save(loaded, tmp_path / "b.onnx", force=True))
    assert "b.onnx.data holds the weights of the input model" in message
    assert "holds the weights" in refused(
        lambda: save(loaded, tmp_path / "b.onnx.data", force=True, external=False)
    )
    assert content(tmp_path) == before
    assert values(save(loaded, tmp_path / "a.onnx", force=True)) == {1.0}


def test_a_staged_model_runs_before_it_is_in_place(tmp_path: Path) -> None:
    import onnxruntime

    with staged(model(2), tmp_path / "m.onnx", external=True) as pending:
        session = onnxruntime.InferenceSession(pending.path, providers=["CPUExecutionProvider"])
        [result] = session.run(None, {"x": np.array(1, np.float32)})
        assert result == 1 + 2 * sum(SIZES)
        assert not (tmp_path / "m.onnx").exists()
        assert pending.commit() == tmp_path / "m.onnx"
    assert values(tmp_path / "m.onnx") == {2.0}
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}


def test_without_a_commit_nothing_remains(tmp_path: Path) -> None:
    with staged(model(), tmp_path / "m.onnx", external=True):
        pass
    with pytest.raises(KeyboardInterrupt), staged(model(), tmp_path / "m.onnx"):
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="not ours"), staged(model(), tmp_path / "m.onnx"):
        raise OSError("not ours")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("external", [False, True])
def test_bytes_are_on_the_disk_before_they_get_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    steps: list[str] = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)

        def recorded(*arguments: object, name: str = name, call: Callable[..., None] = call) -> None:
            steps.append(name)
            call(*arguments)

        monkeypatch.setattr(os, name, recorded)
    save(model(), tmp_path / "m.onnx", external=external)
    renames = (
        4 if external else 1
    )  # of a model with its data in the hidden folder, a link, the model, the data
    assert steps == [*["fsync"] * (3 if external else 1), *["replace"] * renames, "fsync"]


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), MemoryError()], ids=repr
)
def test_an_interruption_while_writing_leaves_what_was_there(
    tmp_path: Path, external: bool, error: BaseException
) -> None:
    save(model(1), tmp_path / "m.onnx", external=external)
    before = content(tmp_path)
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        save(broken(error), tmp_path / "m.onnx", external=external, force=True)
    if isinstance(error, OSError):
        assert f"cannot write {tmp_path}/m.onnx: the disk is full" in str(caught.value)
    assert content(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1 + external


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize(
    ("error", "done"),
    [(OSError(errno.EIO, "broken"), False), (KeyboardInterrupt(), False), (KeyboardInterrupt(), True)],
)
@pytest.mark.parametrize("step", range(4))
def test_an_interruption_while_renaming_leaves_the_old_or_the_new_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    external: bool,
    existed: bool,
    error: BaseException,
    step: int,
    done: bool,
) -> None:
    if existed:
        save(model(1), tmp_path / "m.onnx", external=external)
    before = content(tmp_path)
    replace, calls = os.replace, 0

    def failing(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == step + 1 and done:
            replace(source, target)
        if calls == step + 1:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    raised: BaseException | None = None
    try:
        save(model(2), tmp_path / "m.onnx", external=external, force=True)
    except (OutputError, KeyboardInterrupt) as caught:
        raised = caught
    begun = calls > (0 if done else 1) and (external or done or not step)
    if content(tmp_path) == before:
        assert raised is not None
        assert not (begun and isinstance(error, KeyboardInterrupt)), "a rename that happened stays"
    else:
        assert values(tmp_path / "m.onnx") == {2.0}
    assert len(list(tmp_path.iterdir())) in ((1 + external,) if existed else (0, 1 + external))


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The kernel's own refusal, by a limit on the size of files in a process of its own."""
    path = save(model(1, sizes=(100_000,)), tmp_path / "m.onnx")
    before = content(tmp_path)
    code = (
        "import resource, sys; from onnx_grow.model import load, save\n"
        "from onnx_grow.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: save(load(sys.argv[1]), sys.argv[1], force=True)\n"
        "except OutputError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "larger than allowed" in run.stdout
    assert content(tmp_path) == before


KILLS = int(os.environ.get("ONNX_GROW_KILLS", "30"))
"""Moments at which a writer is killed, for each kind of output."""

CALLS = ("mkdir", "open", "link", "symlink", "replace", "unlink", "rmdir", "fsync", "write")
"""What a writer asks of the system; it is killed before and behind each."""


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do `work` in another process, which is killed at a step of `CALLS`; whether it came so far."""
    child = os.fork()
    if child == 0:
        left = step

        def step_on() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def wrapper(*arguments: object, **options: object) -> object:
                step_on()
                result = call(*arguments, **options)
                step_on()
                return result

            return wrapper

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def in_place(path: Path) -> set[float]:
    """What the model at `path` is filled with, as our loader reads it; nothing if there is none."""
    if not path.exists():
        return set()
    return {float(v) for weight in load(path).weights.values() for v in np.unique(weight.array())}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("existed", [False, True])
def test_a_writer_killed_at_any_call_leaves_the_old_or_the_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool, existed: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    old, new = model(1), model(2)
    path = tmp_path / "m.onnx"
    if existed:
        save(old, path, external=external)
    outcomes, step = set(), 0
    while killed_at(step, lambda: save(new, path, external=external, force=True)):
        found = in_place(path)
        assert len(found) == existed or found == {2.0}, f"step {step}: one model and the data of another"
        outcomes |= found
        save(old, tmp_path / "other.onnx", force=True)  # the next that writes here cleans up
        found = in_place(path)
        assert len(found) == existed or found == {2.0}
        assert not list(tmp_path.glob(".*")), f"step {step} leaves litter"
        assert (path.with_name("m.onnx.data")).exists() == (external and path.exists())
        if existed:
            save(old, path, external=external, force=True)
        else:
            for file in tmp_path.glob("m.onnx*"):
                file.unlink()
        step += 1
    print(f"{step} kill points")
    assert step >= 15
    assert outcomes == ({1.0, 2.0} if existed else {2.0})
    assert in_place(path) == {2.0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("external", [False, True])
def test_a_killed_process_leaves_the_old_or_the_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    """Killed at ever other moments while it keeps replacing a model filled with 1 by one filled with 2 and back."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    path = save(model(1), tmp_path / "m.onnx", external=external)
    outcomes = set()
    for attempt in range(KILLS):
        child = os.fork()
        if child == 0:
            while True:
                for value in (2, 1):
                    save(model(value), path, external=external, force=True)
        time.sleep(0.004 + 0.042 * attempt / KILLS)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = in_place(path)
        assert len(found) == 1, "no model, or the model of one and the data of another"
        outcomes |= found
        save(model(1), tmp_path / "other.onnx", force=True)
        assert in_place(path) == found
        assert not list(tmp_path.glob(".*")), "litter"
    assert outcomes == {1.0, 2.0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_two_that_write_the_same_file_do_not_mix(tmp_path: Path, external: bool, force: bool) -> None:
    path = tmp_path / "m.onnx"
    for _ in range(5):
        children = []
        for value in (1, 2, 3):
            if (child := os.fork()) == 0:
                try:
                    save(model(value), path, external=external, force=force)
                except OutputError as error:
                    os._exit(1 if "exists" in str(error) else 2)
                os._exit(0)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sorted(codes) == ([0, 0, 0] if force else [0, 1, 1])
        found = in_place(path)
        assert len(found) == 1
        if not force:
            assert found == {1.0 + codes.index(0)}
        assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"][: 1 + external]
        for file in tmp_path.iterdir():
            file.unlink()


def test_folders_of_living_processes_and_other_peoples_stay(tmp_path: Path) -> None:
    (tmp_path / ".onnx-grow-notes").mkdir()
    with staged(model(1), tmp_path / "a.onnx") as pending:
        save(model(2), tmp_path / "b.onnx")
        assert in_place(pending.path) == {1.0}
        pending.commit()
    assert sorted(file.name for file in tmp_path.iterdir()) == [".onnx-grow-notes", "a.onnx", "b.onnx"]


def test_where_there_are_no_links_and_locks_models_are_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    for name in ("link", "symlink"):
        monkeypatch.setattr(os, name, none)
    monkeypatch.setattr(staging, "fcntl", None)
    path = tmp_path / "m.onnx"
    for value in (1, 2):
        save(model(value), path, external=True, force=True)
        assert values(path) == {value}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]


def test_a_disk_without_room_is_told_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(
        onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) <float[2] b = {1, 2}> { y = Add (x, b) }'
        )
    )
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(OutputError, match=r"the disk has .* MB left"):
        save(model, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "a device or a pipe" in refused(lambda: save(model(), tmp_path / "pipe", force=True))
    assert (tmp_path / "pipe").is_fifo()
