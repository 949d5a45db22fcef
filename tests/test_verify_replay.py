"""A file is what its recorded growth makes of the original, or was changed since: what outputs do not show."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import build
from onnx import TensorProto, helper, numpy_helper

import onnx_grow as og
from onnx_grow.cli import main
from onnx_grow.growth import provenance
from onnx_grow.growth.correspondence import replayed
from onnx_grow.growth.difference import aligned
from onnx_grow.growth.inheritance import inheritances
from onnx_grow.model import HISTORY, Inline, Model, load, save
from onnx_grow.training import tuned
from onnx_grow.training.exchange import exported_tensors
from onnx_grow.verification import verify
from onnx_grow.verification.replay import Replay, replay

CNN = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"
NET = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[4,3,3,3] w1, float[4] b1, float[6,4,3,3] w2, float[6] b2, float[384,7] w3, float[7] b3, float[7,5] w4> {
    [c] c = Conv<pads=[1,1,1,1]>(x, w1, b1)
    [r] r = LeakyRelu<alpha = 0.125>(c)
    [d] d = Conv<pads=[1,1,1,1]>(r, w2, b2)
    [s] s = Relu(d)
    [f] f = Flatten(s)
    [g] g = Gemm(f, w3, b3)
    [t] t = Tanh(g)
    [y] y = MatMul(t, w4)
}"""
BRANCHES = """(float[N,4] x, bool c) => (float[N,3] y) {
    y = If(c) <then_branch = t () => (float[N,3] a) { v = Constant<value = float[4,2] {1,2,3,4,5,6,7,8}>()
                   w = Constant<value = float[2,3] {1,2,3,4,5,6}>() h = MatMul(x, v) r = Relu(h) a = MatMul(r, w) },
               else_branch = e () => (float[N,3] b) { u = Constant<value = float[4,3] {1,2,3,4,5,6,7,8,9,1,2,3}>() b = MatMul(x, u) }>
}"""
TO_THE_BIT = Replay(True, "it is what its growth makes of the original, to the bit")


@pytest.fixture
def original(tmp_path: Path) -> Model:
    return load(save(build(NET), tmp_path / "original.onnx"))


def proto_of(grown: Model) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(grown.to_proto().SerializeToString())


def tensor(proto: onnx.ModelProto, name: str) -> TensorProto:
    return next(each for each in proto.graph.initializer if each.name == name)


def with_values(
    proto: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> onnx.ModelProto:
    old = tensor(proto, name)
    array = numpy_helper.to_array(old).copy()
    old.CopyFrom(numpy_helper.from_array(np.asarray(change(array), array.dtype).reshape(array.shape), name))
    return proto


def with_history(grown: Model, change: Callable[[list], object]) -> Model:
    """The model with another record of its growth."""
    proto = proto_of(grown)
    entry = next(each for each in proto.metadata_props if each.key == HISTORY)
    entries = json.loads(entry.value)
    entry.value = json.dumps(change(entries) or entries)
    return load(proto)


@pytest.mark.parametrize("scheme", ["split", "copy", "noise", "fresh", "pad"])
def test_a_widened_file(original: Model, scheme: str, tmp_path: Path) -> None:
    grown = og.widen(original, factor=1.5, scheme=scheme, seed=3)  # type: ignore[arg-type]
    assert replay(original, load(save(grown, tmp_path / "grown.onnx"))) == TO_THE_BIT
    assert replay(original, load(save(grown, tmp_path / "apart.onnx", external=True))) == TO_THE_BIT


@pytest.mark.parametrize("scheme", ["identity", "residual-new", "parametric"])
def test_a_deepened_file(original: Model, scheme: str, tmp_path: Path) -> None:
    grown = og.deepen(original, scheme=scheme, seed=3)  # type: ignore[arg-type]
    assert replay(original, load(save(grown, tmp_path / "grown.onnx"))) == TO_THE_BIT


def test_calibrated_layers_need_no_data(tmp_path: Path) -> None:
    model = load(CNN)
    grown = og.deepen(
        model,
        scheme="identity",
        calibration={"image": np.random.default_rng(0).random((8, 1, 8, 8), np.float32)},
    )
    assert replay(model, load(save(grown, tmp_path / "grown.onnx"))) == TO_THE_BIT


def test_several_growths_with_and_without_files_between(original: Model, tmp_path: Path) -> None:
    wide = og.widen(original, factor=1.5)
    deep = og.deepen(wide)
    assert replay(original, load(save(og.widen(deep, seed=4), tmp_path / "all.onnx"))) == TO_THE_BIT
    middle = load(save(deep, tmp_path / "middle.onnx"))
    last = load(save(og.widen(middle, seed=4), tmp_path / "last.onnx"))
    assert replay(original, last) == replay(middle, last) == TO_THE_BIT


def test_a_model_from_a_pipe_and_in_half_precision(tmp_path: Path) -> None:
    half = NET.replace("float", "float16").replace("alpha", "alpha")
    file = save(build(half), tmp_path / "half.onnx")
    piped = load(file.read_bytes())
    grown = load(save(og.widen(piped), tmp_path / "grown.onnx"))
    assert replay(load(file), grown) == replay(piped, grown) == TO_THE_BIT


def test_without_a_record_there_is_nothing_to_replay(original: Model) -> None:
    assert replay(original, original) is None
    grown = og.widen(original)
    assert replay(grown, original) is None
    assert replay(og.widen(original, seed=1), grown) is None
    assert replay(grown, tuned(grown, exported_tensors(grown))) is None


def test_a_weight_that_was_changed_is_named(original: Model) -> None:
    grown = og.widen(original)
    due = grown.weights["w2"].array()[2, 1, 0, 2]
    found = replay(
        original, load(with_values(proto_of(grown), "w2", lambda a: a * np.where(a == due, 1.01, 1.0)))
    )
    assert found is not None
    assert found.same is False
    assert (
        found.told
        == f"it is not what its growth makes of the original: weight 'w2' [2, 1, 0, 2] is {np.float32(due.astype(float) * 1.01)}, not {due}"
    )


def test_many_differences_are_counted(original: Model) -> None:
    proto = proto_of(og.widen(original))
    for name in ("w1", "b1", "w2", "b2"):
        with_values(proto, name, lambda a: a + 1)
    found = replay(original, load(proto))
    assert found is not None
    assert found.told.endswith("; and 1 more")


def test_a_changed_attribute_is_named(original: Model) -> None:
    proto = proto_of(og.widen(original))
    proto.graph.node[1].attribute[0].f = 0.25
    found = replay(original, load(proto))
    assert found == Replay(
        False, "it is not what its growth makes of the original: alpha of LeakyRelu 'r' is 0.25, not 0.125"
    )


def test_a_dropped_attribute_is_its_default(original: Model) -> None:
    proto = proto_of(og.widen(original))
    del proto.graph.node[1].attribute[:]  # LeakyRelu's default is 0.01
    found = replay(original, load(proto))
    assert found is not None
    assert "alpha of LeakyRelu 'r' is 0.009" in found.told


def test_a_constant_in_a_branch(tmp_path: Path) -> None:
    model = load(save(build(BRANCHES), tmp_path / "a.onnx"))
    proto = proto_of(og.widen(model))
    assert replay(model, load(proto)) == TO_THE_BIT
    constant = proto.graph.node[0].attribute[0].g.node[0].attribute[0].t
    array = numpy_helper.to_array(constant).copy()
    array[0, 0] += 1
    constant.CopyFrom(numpy_helper.from_array(array))
    found = replay(model, load(proto))
    assert found is not None
    assert found.same is False


def test_another_form_of_the_same_file(original: Model, tmp_path: Path) -> None:
    """As other tools write it: values in typed fields, in another order, defaults written out, declarations left out."""
    proto = proto_of(og.widen(original))
    for each in proto.graph.initializer:
        array = numpy_helper.to_array(each)
        each.ClearField("raw_data")
        each.float_data.extend(array.reshape(-1).tolist())
    initializers = list(reversed(proto.graph.initializer))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(initializers)
    del proto.graph.value_info[:]
    proto.doc_string, proto.producer_name = "another", "tool"
    proto.graph.node[0].attribute.append(helper.make_attribute("group", 1))
    assert replay(original, load(proto)) == TO_THE_BIT


@pytest.mark.parametrize("key", ["version", "code", "numpy"])
def test_growths_by_other_versions_are_not_judged(original: Model, key: str) -> None:
    grown = with_history(og.widen(original), lambda entries: entries[0].update({key: "other"}))
    assert replay(original, grown) == TO_THE_BIT
    found = replay(original, load(with_values(proto_of(grown), "w1", lambda a: a + 1)))
    assert found is not None
    assert found.same is None
    assert "but it was grown by onnx-grow" in found.told
    assert "other" in found.told


def test_a_record_that_makes_no_sense_is_refused(original: Model) -> None:
    def nonsense(entries: list) -> None:
        entries[0]["plan"]["axes"][0]["size"] = -0.5

    forged = with_history(og.widen(original), nonsense)
    for follow in (replayed, inheritances):
        with pytest.raises(og.InvalidRequestError):
            follow(original, forged)


def test_another_file_as_the_original_is_not_judged(original: Model, tmp_path: Path) -> None:
    grown = og.widen(original)
    proto = original.to_proto()
    proto.doc_string = "saved again"
    again = load(proto)
    assert replay(again, grown) == TO_THE_BIT
    changed = load(with_values(proto, "w1", lambda a: a * 2))
    for source in (changed, load(save(changed, tmp_path / "changed.onnx"))):
        found = replay(source, grown)
        assert found is not None
        assert found.same is None
        assert "from this very file" in found.told


def test_what_was_converted_or_simplified_is_not_judged(original: Model) -> None:
    proto = proto_of(og.widen(original))
    proto.graph.node[3].op_type = "Sigmoid"
    assert "operator of Sigmoid 's' is Sigmoid, not Relu" in replay(original, load(proto)).told  # type: ignore[union-attr]
    proto = proto_of(og.widen(original))
    old = tensor(proto, "w4")
    old.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(old).astype(np.float16), "w4"))
    found = replay(original, load(proto))
    assert found is not None
    assert found.same is None
    assert "weight 'w4' is FLOAT16, not FLOAT" in found.told
    proto = proto_of(og.widen(original))
    proto.graph.node[2].name = "renamed"
    assert "node 'renamed' was added" in replay(original, load(proto)).told  # type: ignore[union-attr]
    proto = proto_of(og.widen(original))
    proto.graph.node[3].output[0] = proto.graph.node[4].input[0] = "renamed"
    assert "tensor 'renamed' was added" in replay(original, load(proto)).told  # type: ignore[union-attr]


WIRED = """(float[N,4] x, bool c, bool d) => (float[N,3] y, string[1] label)
    <float[4,4] v, float[4,4] w, float[4,3] u, string[2] names = {"cat", "dog"}, int64[1] at = {1}> {
    h = MatMul(x, v)
    g = MatMul(x, w)
    hg = Concat<axis = 1>(h, g)
    p, q = Split<axis = 1, num_outputs = 2>(hg)
    r, s = If(c) <then_branch = t () => (float[N,4] t1, float[N,4] t2) { t1 = Relu(p) t2 = Tanh(q) },
                  else_branch = e () => (float[N,4] e1, float[N,4] e2) { e1 = Tanh(p) e2 = Relu(q) }>
    a = Add(r, s)
    b = MatMul(a, u)
    k = Constant()
    y = Add(b, k)
    label = Gather(names, at)
}"""


def _exchange(names: Any, i: int, j: int) -> None:
    names[i], names[j] = names[j], names[i]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda g: g["h"].input.__setitem__(1, "w"), "MatMul of 'h' reads ['x', 'w']"),
        (lambda g: _exchange(g["p"].output, 0, 1), "Split of 'p' is not there"),
        (lambda g: g["r"].input.__setitem__(0, "d"), "If of 'r' reads ['d']"),
        (
            lambda g: g["r"].attribute[0].g.node[0].input.__setitem__(0, "q"),
            "then_branch, Relu of 't1' reads ['q']",
        ),
        (
            lambda g: g["k"].attribute[0].sparse_tensor.values.float_data.__setitem__(0, 0.75),
            "Constant of 'k'",
        ),
        (lambda g: g["names"].string_data.__setitem__(0, b"cow"), "weight 'names' holds other texts"),
    ],
)
def test_what_is_read_and_given(
    change: Callable[[dict[str, Any]], object], named: str, tmp_path: Path
) -> None:
    proto = build(WIRED, 18).to_proto()
    constant = next(node for node in proto.graph.node if node.op_type == "Constant")
    values = helper.make_tensor("", TensorProto.FLOAT, [1], [0.5])
    places = helper.make_tensor("", TensorProto.INT64, [1], [1])
    constant.attribute.add(
        name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR
    ).sparse_tensor.CopyFrom(helper.make_sparse_tensor(values, places, [3]))
    model = load(save(load(proto), tmp_path / "a.onnx"))
    changed = proto_of(og.widen(model))
    assert replay(model, load(changed)) == TO_THE_BIT
    change(
        {node.output[0]: node for node in changed.graph.node}
        | {each.name: each for each in changed.graph.initializer}
    )
    found = replay(model, load(changed))
    assert found is not None
    assert found.same is False
    assert named in found.told


@pytest.mark.parametrize(("dtype", "same"), [(np.float32, True), (np.float64, True), (np.float16, False)])
def test_the_last_digit_may_be_that_of_another_processor(dtype: type, same: bool, tmp_path: Path) -> None:
    name = {np.float32: "float", np.float64: "double", np.float16: "float16"}[dtype]
    model = load(save(build(NET.replace("float", name)), tmp_path / "a.onnx"))
    proto = with_values(proto_of(og.widen(model)), "b1", lambda a: np.nextafter(a, dtype(np.inf)))
    found = replay(model, load(proto))
    assert found is not None
    assert found.same is same
    assert ("but for the last digits of 1 weight" in found.told) is same


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: [7],
        lambda entries: [{}],
        lambda entries: [{"plan": {"operation": "widen"}}],
        lambda entries: [{"plan": {"operation": "deepen", "layers": [{"scheme": "identity"}]}}],
        lambda entries: [{"plan": {"operation": "widen", "shortened": {"axes": 2}}}],
        lambda entries: entries[0]["plan"]["axes"][0].update(new_size=10**15),
        lambda entries: entries[0]["plan"]["axes"][0].update(new_size="many"),
        lambda entries: entries[0]["plan"]["axes"][0].update(name="nobody"),
        lambda entries: entries[0]["plan"].update(seed=-1),
        lambda entries: entries[0]["plan"].update(inputs={"x": [10**12, 3, 8, 8]}),
        lambda entries: entries[0]["plan"].update(inputs={"x": "abc"}),
        lambda entries: entries[0]["plan"].update(inputs={"z": []}),
    ],
)
def test_a_record_that_nobody_wrote_harms_nobody(original: Model, change: Callable[[list], object]) -> None:
    grown = with_history(og.widen(original), change)
    found = replay(original, grown)
    assert found is None or found.same is not False


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.update(gate=[1 << 30, 1 << 30]),
        lambda layer: layer.update(gate=[-1]),
        lambda layer: layer.update(output="nobody"),
        lambda layer: layer["linear"].update(channels=1 << 60),
        lambda layer: layer["linear"].update(kernel=["a"]),
        lambda layer: layer["linear"].update(dtype=99),
        lambda layer: layer["function"].update(nodes=["nobody"]),
    ],
)
def test_a_record_of_layers_that_nobody_wrote_harms_nobody(
    original: Model, change: Callable[[dict], object]
) -> None:
    deep = og.deepen(original, scheme="parametric")
    grown = with_history(deep, lambda entries: change(entries[0]["plan"]["layers"][0]))
    tracemalloc.start()
    found = replay(original, grown)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert found.same is None
    assert most < 64 << 20


ODD = (
    0,
    -1,
    7,
    2**31,
    2**64,
    10**30,
    0.5,
    float("nan"),
    True,
    None,
    "",
    "x",
    "\0",
    "pad",
    "Conv",
    [],
    [[]],
    {},
    {"a": 1},
    [-1],
    [2**40] * 3,
)


def paths(value: object, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the values of a document are."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*above, key)
        yield from paths(inner, (*above, key))


@pytest.mark.parametrize(
    "grow", [og.widen, og.deepen, lambda model: og.deepen(og.widen(model, scheme="pad"), scheme="parametric")]
)
def test_records_with_odd_values_harm_nobody(original: Model, grow: Callable[[Model], Model]) -> None:
    grown, rng = grow(original), np.random.default_rng(0)
    places = list(paths(provenance.history(grown)))

    def odd(entries: list) -> None:
        *above, key = places[rng.integers(len(places))]
        reduce(getitem, above, entries)[key] = ODD[rng.integers(len(ODD))]

    for _ in range(60):
        replay(original, with_history(grown, odd))  # whatever it finds


def test_a_history_nested_without_end_is_none(original: Model) -> None:
    proto = proto_of(og.widen(original))
    next(each for each in proto.metadata_props if each.key == HISTORY).value = "[" * 100_000
    assert replay(original, load(proto)) is None


def test_verify_says_so(original: Model, tmp_path: Path) -> None:
    grown = og.widen(original)
    file = save(grown, tmp_path / "grown.onnx")
    report = verify(original, file, provider="cpu", seeds=1)
    assert [check.ok for check in report.checks if check.name == "recorded growth"] == [True]
    assert all(
        check.name != "recorded growth" for check in verify(original, file, seeds=1, replay=False).checks
    )
    off = load(with_values(proto_of(grown), "b1", lambda a: a * np.float32(1.000001)))  # no output shows that
    report = verify(original, off, provider="cpu", seeds=1, proof=False)
    assert not report.ok
    assert report.is_edited
    with pytest.raises(og.VerificationFailedError, match="weight 'b1'") as error:
        report.raise_if_failed()
    assert "grow it again" in error.value.hint
    for allowed in ({"tolerance": 10.0}, {"max_error": 1e-2}):
        report = verify(original, off, provider="cpu", seeds=1, proof=False, **allowed)  # type: ignore[arg-type]
        assert report.ok
        assert any("weight 'b1'" in warning for warning in report.warnings)


def test_on_the_command_line(original: Model, tmp_path: Path) -> None:
    proto = with_values(proto_of(og.widen(original)), "b1", lambda a: a * np.float32(1.000001))
    files = [str(original.path), str(save(load(proto), tmp_path / "off.onnx"))]
    run = CliRunner().invoke
    result = run(main, ["verify", "--no-proof", *files, "--junit", str(tmp_path / "r.xml")])
    assert result.exit_code == 1
    assert (
        "FAIL recorded growth: it is not what its growth makes of the original: weight 'b1' [0] is"
        in result.stdout
    )
    assert "is not what its growth made of" in result.stderr
    assert "grow it again" in result.stderr
    assert 'name="recorded growth"' in (tmp_path / "r.xml").read_text()
    document = json.loads(run(main, ["verify", "--no-proof", "--json", "--tolerance", "5", *files]).stdout)
    assert document["ok"] is True
    assert "recorded growth" in document["verification"]["warnings"][-1]


def test_the_record_says_what_made_it(original: Model) -> None:
    entry = provenance.history(og.widen(original))[0]
    assert entry["numpy"] == np.__version__
    assert entry["version"] == og.__version__
    assert len(entry["code"]) == 12


def test_weights_are_compared_piece_by_piece() -> None:
    class Chunked(Inline):
        def __init__(self, array: np.ndarray, size: int) -> None:
            super().__init__(array)
            self.size = size

        def chunks(self):  # type: ignore[no-untyped-def]
            data = self.raw()
            return (data[start : start + self.size] for start in range(0, len(data), self.size))

    array = np.arange(1000, dtype=np.float32)
    pairs = list(aligned(Chunked(array, 48), Chunked(array, 400)))
    assert max(len(a) for a, _ in pairs) == 48
    assert all(len(a) == len(b) for a, b in pairs)
    assert (
        b"".join(a.tobytes() for a, _ in pairs) == b"".join(b.tobytes() for _, b in pairs) == array.tobytes()
    )
