"""Choosing places, plans, names, and deepening again."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from deepening import assert_identical
from graphs import build, feeds, run

from onnx_grow.errors import InvalidRequestError, NothingToGrowError
from onnx_grow.growth.deepen_plan import DeepenPlan
from onnx_grow.growth.deepening import apply_deepen, deepen, plan_deepen
from onnx_grow.growth.provenance import history
from onnx_grow.model import Model, load, save
from onnx_grow.model.walk import all_nodes


def chain(widths: str, activation: str = "Relu") -> Model:
    """A row of matrix products, named fc1, fc2 ...; a digit is the width of one."""
    sizes = [5, *map(int, widths)]
    weights = [f"float[{a}, {b}] w{i}" for i, (a, b) in enumerate(itertools.pairwise(sizes), 1)]
    body = [
        f"[fc{i}] a{i} = MatMul(x{i}, w{i}) [act{i}] x{i + 1} = {activation}(a{i})"
        for i in range(1, len(sizes))
    ]
    return build(
        f"(float[N, 5] x1) => (float[N, M] y) <{', '.join(weights)}> {{ {' '.join(body)} y = Neg(x{len(sizes)}) }}"
    )


def images(body: str, weights: str) -> Model:
    return build(f"(float[N, 4, 9, 9] x) => (float[N, C, H, W] y) <{weights}> {{ {body} }}")


def names(plan: DeepenPlan) -> str:
    return " ".join(layer.name for layer in plan.layers)


@pytest.mark.parametrize(
    ("widths", "chosen"),
    [
        ("6", "fc1"),  # nothing else to take, though the new matrix is larger than the one before it
        ("66", "fc2"),
        ("96", "fc2"),
        ("666", "fc3"),
        ("64", "fc2"),
        ("69", "fc1"),
        ("66666666", "fc4 fc8"),
        ("6666669666", "fc5 fc10"),
        ("666666666666", "fc4 fc8 fc12"),
    ],
)
def test_one_layer_for_every_four_where_it_is_most_like_the_one_before(widths: str, chosen: str) -> None:
    assert names(plan_deepen(chain(widths))) == chosen


def test_every_stage_gets_a_layer_except_where_all_are_much_larger() -> None:
    convs = (
        "[stem] a = Conv <pads = [1, 1, 1, 1]> (x, stem) b = Relu(a) [one] c = Conv <pads = [1, 1, 1, 1], "
        "strides = [2, 2]> (b, w1) d = Relu(c) "
        "[two] e = Conv <pads = [1, 1, 1, 1]> (d, w2) f = Relu(e) [three] g = Conv <pads = [1, 1, 1, 1], "
        "strides = [2, 2]> (f, w3) y = Relu(g)"
    )
    weights = "float[8, 4, 3, 3] stem, float[8, 8, 3, 3] w1, float[8, 8, 3, 3] w2, float[8, 8, 3, 3] w3"
    assert names(plan_deepen(images(convs, weights))) == "two three"


@pytest.mark.parametrize(("width", "chosen"), [(9, "conv2 conv8"), (8, "conv6 conv8")])
def test_pictures_without_padding_are_of_one_stage_until_they_are_half_as_large(
    width: int, chosen: str
) -> None:
    body = " ".join(f"[conv{i}] a{i} = Conv(x{i}, w{i}) x{i + 1} = Relu(a{i})" for i in range(9))
    weights = ", ".join(f"float[4, 4, 1, {1 + i % 2}] w{i}" for i in range(9))
    model = build(
        f"(float[N, 4, 1, {width}] x0) => (float[N, 4, 1, W] y) <{weights}> {{ {body} y = Neg(x9) }}"
    )
    plan = plan_deepen(model)  # one pixel fewer behind every other convolution: 9 ... 5, or 8 ... 5 and 4
    assert names(plan) == chosen


def test_every_kth_place() -> None:
    model = chain("66666")
    assert names(plan_deepen(model, every=1)) == "fc1 fc2 fc3 fc4 fc5"
    assert names(plan_deepen(model, every=2)) == "fc2 fc4"
    assert names(plan_deepen(model, every=5)) == "fc5"
    with pytest.raises(NothingToGrowError, match="there are 5 places"):
        plan_deepen(model, every=6)
    with pytest.raises(InvalidRequestError):
        plan_deepen(model, every=0)


@pytest.mark.parametrize("glob", ["fc2", "act2", "x3", "a2", "*c2", "fc[2]"])
def test_places_are_named_by_their_nodes_and_tensors(glob: str) -> None:
    assert names(plan_deepen(chain("666"), after=glob)) == "fc2"


def test_several_globs_and_every() -> None:
    assert names(plan_deepen(chain("66666"), after=["fc1", "fc[345]"], every=2)) == "fc3 fc5"


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        deepen(chain("666"), after="fc9x")
    assert "'fc9x'" in raised.value.message
    assert "did you mean 'fc" in raised.value.hint
    with pytest.raises(InvalidRequestError, match="no node"):
        deepen(chain("666"), after=["fc1", "layer4*"])


def test_a_name_where_nothing_fits_gets_the_reason() -> None:
    model = build(
        "(float[N, 5] x) => (float[N, 6] y) <float[5, 6] w, float[6, 6] v> "
        "{ [one] a = MatMul(x, w) b = Relu(a) [two] c = MatMul(b, v) [three] d = Sigmoid(c) [four] y = Exp(d) }"
    )
    with pytest.raises(NothingToGrowError, match="two: it feeds Sigmoid"):
        deepen(model, after="two", scheme="identity")
    with pytest.raises(NothingToGrowError, match="'four'"):
        deepen(model, after="four")
    plan = plan_deepen(model, after=["one", "two"], scheme="identity")
    assert names(plan) == "one"
    assert [name for name, _ in plan.skipped] == ["two"]


def test_schemes() -> None:
    model = build(
        "(float[N, 6] x) => (float[N, 6] y) <float[6, 6] u, float[6, 6] v, float[6, 6] w> "
        "{ [stem] a = MatMul(x, u) s = Relu(a) [one] b = MatMul(s, v) c = Relu(b) [two] d = MatMul(c, w) "
        "[sum] y = Add(s, d) }"
    )
    assert [layer.scheme for layer in plan_deepen(model).layers] == ["residual-copy"]
    assert [layer.scheme for layer in plan_deepen(model, after=["stem", "one"]).layers] == [
        "identity",
        "residual-copy",
    ]
    assert names(plan_deepen(model, scheme="identity", every=1)) == "stem one"
    assert names(plan_deepen(model, scheme="residual-copy")) == "sum"
    assert names(plan_deepen(model, scheme="residual-new", every=1)) == "stem one"
    assert_identical(model, deepen(model, after="*"))
    with pytest.raises(InvalidRequestError, match="no scheme"):
        deepen(model, scheme="wider")  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["identity", "residual-copy"])
def test_nothing_to_grow_says_what_would_be_needed(scheme: Any) -> None:
    with pytest.raises(NothingToGrowError) as raised:
        deepen(chain("666", "Tanh"), scheme=scheme)
    assert raised.value.hint
    if scheme != "residual-copy":
        assert "fc1 and 2 more: it feeds Tanh ('act1')" in raised.value.message


NORMALIZED = (
    "(float[N, 4, 9, 9] x) => (float[N, C, H, W] y) <float[4, 4, 3, 3] w, float[4] s, float[4] b, "
    "float[4] m, float[4] positive, "
    "float[4, 4, 1, 1] u> { [conv] a = Conv(x, w) c = BatchNormalization(a, s, b, m, positive) d = "
    "Relu(c) e = Conv(d, u) "
    "[sum] y = Add(d, e) }"
)


def test_a_plan_survives_json_and_replays_to_the_same_bytes(tmp_path: Path) -> None:
    path = save(build(NORMALIZED), tmp_path / "model.onnx")
    plan = plan_deepen(load(path), after=["conv", "sum"])
    assert DeepenPlan.from_json(plan.to_json()) == plan
    assert json.loads(plan.to_json())["operation"] == "deepen"
    first = save(apply_deepen(load(path), plan), tmp_path / "first.onnx")
    again = DeepenPlan.from_json(json.dumps(history(load(first))[-1]["plan"]))
    second = save(apply_deepen(load(path), again), tmp_path / "second.onnx")
    assert first.read_bytes() == second.read_bytes()
    assert_identical(load(path), load(first))


def test_a_plan_prints() -> None:
    text = str(plan_deepen(build(NORMALIZED), after=["conv", "sum"]))
    assert "after conv: Conv 3x3, 4 channels + BatchNormalization + Relu" in text
    assert "after sum: copy of 1 Conv" in text
    assert "note: the statistics" in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"operation":"widen"}',
        '{"operation":"deepen","layers":[{}],"skipped":[],"notes":[]}',
        "null",
    ],
)
def test_other_json_is_no_plan(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="no plan"):
        DeepenPlan.from_json(text)


def test_a_plan_for_another_model_is_refused() -> None:
    conv, sum_ = (plan_deepen(build(NORMALIZED), after=name) for name in ("conv", "sum"))
    for plan in (conv, sum_):
        with pytest.raises(InvalidRequestError, match="this model does not have"):
            apply_deepen(chain("666"), plan)
    same_names = build(
        "(float[N, 4, 9, 9] x) => (float[N, 4, 9, 9] y) { a = Relu(x) c = Relu(a) d = Relu(c) e = Neg(d) y = "
        "Add(d, e) }"
    )
    for plan in (conv, sum_):
        with pytest.raises(InvalidRequestError, match="this model does not have"):
            apply_deepen(same_names, plan)
    wider = build(
        NORMALIZED.replace("float[4", "float[5").replace("[N, 4,", "[N, 5,").replace("[5, 4,", "[5, 5,")
    )
    with pytest.raises(InvalidRequestError, match="a Conv of 4 channels that this model does not have"):
        apply_deepen(wider, conv)
    lost = DeepenPlan((replace(sum_.layers[0], output="nowhere"),))
    with pytest.raises(InvalidRequestError, match="this model does not have"):
        apply_deepen(build(NORMALIZED), lost)
    with pytest.raises(InvalidRequestError, match="two layers at one place"):
        apply_deepen(build(NORMALIZED), DeepenPlan(conv.layers * 2))


def test_nothing_mutates_the_model() -> None:
    model = build(NORMALIZED)
    before = model.to_proto().SerializeToString()
    deepen(model, after="*")
    assert model.to_proto().SerializeToString() == before


def test_everything_else_stays() -> None:
    model = build(NORMALIZED)
    deep = deepen(model, after="sum")
    old = {node.output[0]: node.SerializeToString() for node in model.skeleton.graph.node}
    new = {node.output[0]: node.SerializeToString() for node in deep.skeleton.graph.node}
    assert {name for name in old if old[name] != new.get(name)} == {"y"}
    assert all((deep.weights[name].array() == weight.array()).all() for name, weight in model.weights.items())
    assert list(deep.weights)[: len(model.weights)] == list(model.weights)


def test_shapes_that_onnx_runtime_calls_its_own_leave_it_their_names() -> None:
    model = build(
        """(float[2, 3, 4] x) => (float[2, 3, 5] y) <float[4, 6] v, float[6, 5] w, int64[2] gemm_input_shape = {6, 6},
        int64[3] gemm_output_shape = {2, 3, 6}> {
            a = MatMul(x, v) b = Tanh(a) f = Reshape(b, gemm_input_shape) g = Reshape(f, gemm_output_shape) y = MatMul(g, w) }"""
    )
    deep = deepen(model, scheme="residual-new")
    assert {"gemm_input_shape_of_file", "gemm_output_shape_of_file"} <= deep.weights.keys()
    inputs = {"x": np.ones((2, 3, 4), np.float32)}
    session = onnxruntime.InferenceSession(
        deep.to_proto().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(session.run(None, inputs)[0], run(model, inputs)[0], rtol=1e-5, atol=1e-6)


def test_copies_read_such_shapes_under_their_other_names() -> None:
    model = build(
        """(float[2, 3, 4] x) => (float[2, 3, 4] y) <float[4, 6] v, float[6, 4] w, int64[2] gemm_input_shape = {6, 4},
        int64[3] gemm_output_shape = {2, 3, 4}> {
            f = Reshape(x, gemm_input_shape) a = MatMul(f, v) b = Tanh(a) c = MatMul(b, w) g = Reshape(c, gemm_output_shape)
            y = Add(x, g) }"""
    )
    assert_identical(model, deepen(model, scheme="residual-copy"))


def test_deepening_again_keeps_the_function_and_counts_the_names_on() -> None:
    model = deep = build(NORMALIZED)
    for _ in range(4):
        deep = deepen(deep, after="*")
        assert_identical(model, deep)
    nodes = [node.name for node in deep.skeleton.graph.node if node.name]
    assert len(set(nodes)) == len(nodes)
    assert {"conv/deeper_1/Conv", "conv/deeper_2/Conv", "sum/deeper_1/Conv", "sum/deeper_2/Conv"} <= set(
        nodes
    )
    assert not any(name.count("/deeper_") > 1 for name in nodes)
    assert len(history(deep)) == 4


def test_names_follow_the_path_that_a_block_has_in_common() -> None:
    model = build(
        "(float[N, 6] x) => (float[N, 6] y) <float[6, 6] w, float[6, 6] v> "
        "{ a = MatMul(x, w) b = Relu(a) c = MatMul(b, v) y = Add(x, c) }"
    )
    proto = model.to_proto()
    for node, name in zip(proto.graph.node, ["conv/MatMul", "relu/Relu", "last/MatMul", "Add"], strict=True):
        node.name = f"/layer1/{name}"
    plan = plan_deepen(load(proto))
    assert names(plan) == "/layer1"
    added = [node.name for node in deepen(load(proto)).skeleton.graph.node][4:]
    assert added == [
        f"/layer1/deeper_1/{name}" for name in ("conv/MatMul", "relu/Relu", "last/MatMul", "Add")
    ]


def test_ten_thousand_nodes_take_no_longer_than_they_must() -> None:
    """Nested and overlapping skip connections, for which a search from every sum would walk the whole "
    "graph every time."""
    from time import perf_counter

    body, weights, streams = [], [], ["x"]
    for i in range(1200):
        weights.append(f"float[2, 2] w{i}")
        body.append(
            f"a{i} = MatMul({streams[-1]}, w{i}) b{i} = Tanh(a{i}) s{i} = Add({streams[-1]}, b{i}) t{i} = "
            f"Add(s{i}, {streams[i // 2]})"
        )
        streams.append(f"t{i}")
    model = build(
        f"(float[N, 2] x) => (float[N, 2] y) <{', '.join(weights)}> {{ {' '.join(body)} y = Neg({streams[-1]}) }}"
    )
    start = perf_counter()
    plan_deepen(model)
    assert perf_counter() - start < 20


SHARED = Path(__file__).parents[2] / "shared" / "models"
ZOO = Path(os.environ.get("ONNX_GROW_ZOO", "/nowhere"))


def real_models() -> Iterator[Any]:
    for path in sorted(SHARED.glob("*.onnx")):
        yield pytest.param(path, {}, id=path.stem)
    if (ZOO / "manifest.jsonl").exists():
        for line in (ZOO / "manifest.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if (ZOO / entry["file"]).exists():
                yield pytest.param(ZOO / entry["file"], entry["inputs"], id=entry["file"])


@pytest.mark.parametrize(("path", "inputs"), list(real_models()))
def test_real_models(path: Path, inputs: dict[str, Any]) -> None:
    if not inputs and (SHARED / "index.json").exists():
        inputs = next(
            (e["inputs"] for e in json.loads((SHARED / "index.json").read_text()) if e["name"] == path.stem),
            {},
        )
    model = load(path)
    try:
        deep = deepen(model, shapes={name: entry["shape"] for name, entry in inputs.items()})
    except NothingToGrowError as error:
        pytest.skip(str(error))
    arrays = feeds(model, n=1)
    if sum(array.size for array in arrays.values()) > 500_000:
        pytest.skip("its input is too large for a quick test")
    for name, entry in inputs.items():
        arrays[name] = np.resize(arrays[name], entry["shape"])
    if path.stem == "silero_vad_v6":
        arrays["sr"] = np.array(16000)
        arrays["state"] = arrays["state"][:, :1]
    for old, new in zip(run(model, arrays), run(deep, arrays), strict=True):
        if isinstance(old, np.ndarray):
            np.testing.assert_array_equal(new, old)
    assert len(list(all_nodes(deep.skeleton))) > len(list(all_nodes(model.skeleton)))


def test_a_budget_says_how_close_it_came_and_why() -> None:
    model = chain("6666")
    assert plan_deepen(model, to_params=100_000).notes[-1] == (
        f"{deepen(model, every=1).parameters:,} of the 100,000 parameters asked for: all 4 places have a new layer now; "
        "deepen the result again for more"
    )
    limit = model.parameters + 50
    assert (
        plan_deepen(model, to_params=limit)
        .notes[-1]
        .endswith(f"of the {limit:,} parameters asked for: one more layer, spread evenly, would exceed them")
    )


def test_names_that_are_no_places_are_answered_with_the_places() -> None:
    with pytest.raises(NothingToGrowError) as raised:
        plan_deepen(
            build(
                "(float[N, 5] x) => (float[N, 5] y) <float[5, 5] w> "
                "{ [fc] a = MatMul(x, w) [act] b = Relu(a) [neg] y = Neg(b) }"
            ),
            after="neg",
        )
    assert raised.value.hint == "new layers can go after fc"
    with pytest.raises(InvalidRequestError) as unknown:
        plan_deepen(chain("66"), after="zzzzzz")
    assert unknown.value.hint == "new layers can go after fc1, fc2"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"after": []}, "is empty"),
        ({"every": 2, "to_params": "2x"}, "cannot both decide"),
        ({"scheme": "identity", "expansion": 2}, "no use for an expansion"),
        ({"scheme": "identity", "activation": "Relu"}, "no use for an activation"),
        ({"scheme": "residual-new", "calibration": {}}, "no use for calibration"),
        ({"scheme": "residual"}, "there is no scheme"),
    ],
)
def test_arguments_that_contradict_one_another(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        plan_deepen(chain("66"), **options)
