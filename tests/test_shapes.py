from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

import onnx_grow
from onnx_grow.errors import InvalidModelError, InvalidRequestError
from onnx_grow.model import Inline, Model, load
from onnx_grow.shapes import candidates, evaluate, infer, observation, walk

SHARED = Path(onnx_grow.__file__).resolve().parents[2] / "shared"
ZOO = os.environ.get("ONNX_GROW_ZOO", "")

FLATTENED = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, 8, 8] x) => (float[N, M] y) <int64[1] rest = {-1}, int64 zero = {0}> {
  shape = Shape(x)
  n = Gather(shape, zero)
  axis = Constant<value = int64[1] {0}>()
  count = Unsqueeze(n, axis)
  target = Concat<axis = 0>(count, rest)
  y = Reshape(x, target)
}"""


def model(text: str) -> Model:
    return load(parser.parse_model(text))


def graph(signature: str, body: str, opset: int = 17, ir_version: int = 8) -> Model:
    return model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g {signature} {{ {body} }}')


def loose(signature: str, body: str, opset: int = 17, imports: str = "") -> Model:
    """A graph whose output `y` declares no type at all."""
    proto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}{imports}]> g {signature} {{ {body} }}'
    )
    proto.graph.output[0].ClearField("type")
    return load(proto)


@pytest.fixture
def without_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime must not be needed."""

    def refuse(*_: object) -> None:
        raise AssertionError("ONNX Runtime was asked")

    monkeypatch.setattr(observation, "ask", refuse)
    monkeypatch.setattr(observation, "run", refuse)


@pytest.fixture
def with_silent_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime answers nothing."""
    monkeypatch.setattr(observation, "ask", lambda *_: {})
    monkeypatch.setattr(observation, "run", lambda *_: None)


@pytest.fixture
def without_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model must not be run."""

    def refuse(*_: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(observation, "run", refuse)


def shape_of(m: Model, name: str = "y") -> tuple[int, ...]:
    return infer(m).shape[name]


def value_of(m: Model, name: str = "y") -> Any:
    return infer(m).value[name].tolist()


# ---------------------------------------------------------------- the walk


@pytest.mark.usefixtures("without_runtime")
def test_every_tensor_gets_shape_and_dtype() -> None:
    shapes = infer(
        graph(
            "(float[2, 3, 9, 9] x) => (float16[N, 4, 4, 4] y) <float[4] b = {0, 0, 0, 0}>",
            """sizes = Constant<value = int64[4] {4, 3, 3, 3}>()
               w = ConstantOfShape(sizes)
               h = Conv<strides = [2, 2]>(x, w, b)
               y = Cast<to = 10>(h)""",
        )
    )
    assert shapes.shape["h"] == shapes.shape["y"] == (2, 4, 4, 4)
    assert shapes.shape["b"] == (4,)
    assert (shapes.dtype["x"], shapes.dtype["y"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)
    assert shapes.inputs == {"x": (2, 3, 9, 9)}
    assert shapes.dynamic == {"x": frozenset()}
    assert shapes.unknown == ()
    assert shapes.observed == frozenset()


@pytest.mark.usefixtures("without_runtime")
def test_shape_arithmetic_is_followed() -> None:
    shapes = infer(model(FLATTENED), {"x": (5, 3, 8, 8)})
    assert shapes.shape["y"] == (5, 192)
    assert shapes.value["shape"].tolist() == [5, 3, 8, 8]
    assert shapes.value["target"].tolist() == [5, -1]
    assert shapes.value["n"].shape == ()
    assert shapes.dynamic == {"x": frozenset({0})}


@pytest.mark.usefixtures("without_runtime")
def test_declared_shapes_are_not_believed() -> None:
    proto = parser.parse_model(FLATTENED)
    proto.graph.value_info.append(helper.make_tensor_value_info("target", TensorProto.FLOAT, [9]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.DOUBLE, [1, 2, 3]))
    shapes = infer(load(proto), {"x": (5, 3, 8, 8)})
    assert (shapes.shape["target"], shapes.shape["y"]) == ((2,), (5, 192))
    assert (shapes.dtype["target"], shapes.dtype["y"]) == (TensorProto.INT64, TensorProto.FLOAT)


def test_nothing_is_changed() -> None:
    m = model(FLATTENED)
    before = m.skeleton.SerializeToString(deterministic=True)
    infer(m)
    assert m.skeleton.SerializeToString(deterministic=True) == before


def test_values_cannot_be_changed() -> None:
    shapes = infer(model(FLATTENED))
    for name in ("rest", "axis", "shape", "target"):
        with pytest.raises(ValueError, match="read-only"):
            shapes.value[name][0] = 9


@pytest.mark.usefixtures("without_runtime")
def test_weights_are_not_read() -> None:
    class Unread(Inline):
        def array(self) -> Any:
            raise AssertionError("a weight was read")

    m = graph("(float[2, 70] x) => (float[2, 4] y) <float w = {1}>", "y = MatMul(x, w)")
    shapes = infer(Model(m.skeleton, {"w": Unread(np.zeros((70, 4), np.float32))}))
    assert shapes.shape["y"] == (2, 4)
    assert shapes.shape["w"] == (70, 4)


@pytest.mark.usefixtures("without_runtime")
@pytest.mark.parametrize(
    ("opset", "initializers", "body", "expected"),
    [
        (11, "", "y = Squeeze<axes = [0]>(x)", (2, 4, 6)),
        (13, "int64[1] a = {0}", "y = Squeeze(x, a)", (2, 4, 6)),
        (11, "", "y = Unsqueeze<axes = [0, 5]>(x)", (1, 1, 2, 4, 6, 1)),
        (13, "int64[2] a = {0, -1}", "y = Unsqueeze(x, a)", (1, 1, 2, 4, 6, 1)),
        (9, "", "y = Slice<axes = [2], starts = [1], ends = [9]>(x)", (1, 2, 3, 6)),
        (
            13,
            "int64[1] b = {-1}, int64[1] e = {-99}, int64[1] a = {3}, int64[1] s = {-2}",
            "y = Slice(x, b, e, a, s)",
            (1, 2, 4, 3),
        ),
        (11, "", "y = ReduceSum<axes = [1, 2], keepdims = 0>(x)", (1, 6)),
        (13, "int64[2] a = {1, 2}", "y = ReduceSum<keepdims = 0>(x, a)", (1, 6)),
        (17, "", "y = ReduceMean<axes = [1]>(x)", (1, 1, 4, 6)),
        (18, "int64[1] a = {1}", "y = ReduceMean(x, a)", (1, 1, 4, 6)),
        (11, "", "y, z = Split<axis = 3, split = [1, 5]>(x)", (1, 2, 4, 1)),
        (13, "int64[2] p = {1, 5}", "y, z = Split<axis = 3>(x, p)", (1, 2, 4, 1)),
        (18, "", "y, z = Split<axis = 2, num_outputs = 2>(x)", (1, 2, 2, 6)),
        (7, "", 'y = Upsample<scales = [1.0, 1.0, 2.0, 3.0], mode = "nearest">(x)', (1, 2, 8, 18)),
        (9, "float[4] s = {1, 1, 2, 3}", 'y = Upsample<mode = "nearest">(x, s)', (1, 2, 8, 18)),
        (10, "float[4] s = {1, 1, 0.5, 0.5}", "y = Resize(x, s)", (1, 2, 2, 3)),
        (13, "int64[4] s = {1, 2, 5, 7}", "y = Resize(x, , , s)", (1, 2, 5, 7)),
        (10, "", "y = Pad<pads = [0, 0, 1, 1, 0, 0, 2, 2]>(x)", (1, 2, 7, 9)),
        (13, "int64[8] p = {0, 0, 1, 1, 0, 0, 2, 2}", "y = Pad(x, p)", (1, 2, 7, 9)),
        (14, "int64[3] t = {0, -1, 3}", "y = Reshape(x, t)", (1, 16, 3)),
        (17, "int64[4] t = {1, 2, 1, 1}", "y = Tile(x, t)", (1, 4, 4, 6)),
        (17, "int64[4] t = {3, 1, 1, 6}", "y = Expand(x, t)", (3, 2, 4, 6)),
    ],
)  # fmt: skip
def test_attributes_and_inputs_of_several_opsets(
    opset: int, initializers: str, body: str, expected: tuple[int, ...]
) -> None:
    m = graph(f"(float[1, 2, 4, 6] x) => (float[] y) <{initializers}>" if initializers else
              "(float[1, 2, 4, 6] x) => (float[] y)", body, opset)  # fmt: skip
    assert shape_of(m) == expected


@pytest.mark.usefixtures("without_runtime")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Div(a, b)", [-3, 3]),  # towards zero, as C does
        ("y = Mul(a, b)", [-14, 14]),
        ("c = Equal(a, b) y = Where(c, a, b)", [2, 2]),
        ("f = Cast<to = 1>(a) h = Constant<value_float = 0.5>() g = Mul(f, h) i = Floor(g) y = Cast<to = 7>(i)", [-4, 3]),
        ("z = Constant<value_int = 0>() l = Constant<value_int = 9>() d = Constant<value_int = 4>() y = Range(z, l, d)",
         [0, 4, 8]),
        ("y = ReduceProd<keepdims = 0>(a)", -49),
        ("s = Constant<value_ints = [2]>() y = ConstantOfShape<value = int64[1] {7}>(s)", [7, 7]),
        ("s = Constant<value = int64[0] {}>() y = ConstantOfShape<value = int64[1] {7}>(s)", 7),
        ("n = NonZero(a) y = Identity(n)", [[0, 1]]),
        ("y = Size(a)", 2),
        ("y = Shape<start = -1>(a)", [2]),
        ("y = Concat<axis = 0>(a, b)", [-7, 7, 2, 2]),
    ],
)  # fmt: skip
def test_known_values_are_evaluated(body: str, expected: Any) -> None:
    m = graph("(float[1] x) => (int64[] y) <int64[2] a = {-7, 7}, int64[2] b = {2, 2}>", body)
    assert value_of(m) == expected


@pytest.mark.usefixtures("without_runtime")
def test_large_values_are_not_kept() -> None:
    m = graph(
        "(float[1] x) => (float[] y)",
        """n = Constant<value = int64[2] {64, 64}>() m = Constant<value = int64[2] {64, 65}>()
           kept = ConstantOfShape(n) y = ConstantOfShape(m)""",
    )
    shapes = infer(m)
    assert shapes.shape["y"] == (64, 65)
    assert "kept" in shapes.value
    assert "y" not in shapes.value


def test_which_initializers_are_values() -> None:
    m = graph("(float[1] x) => (float[1] y)", "y = Identity(x)")
    sizes = {
        "few": (64, np.float32),
        "many": (65, np.float32),
        "ids": (65536, np.int32),
        "table": (65537, np.int32),
    }
    weights = {name: Inline(np.zeros(size, dtype)) for name, (size, dtype) in sizes.items()}
    shapes = infer(Model(m.skeleton, weights))
    assert set(shapes.value) == {"few", "ids"}
    assert shapes.shape["table"] == (65537,)


@pytest.mark.usefixtures("without_runtime")
def test_random_numbers_are_not_values() -> None:
    shapes = infer(graph("(float[1] x) => (float[2] y)", "y = RandomNormal<shape = [2]>()"))
    assert shapes.shape["y"] == (2,)
    assert "y" not in shapes.value


@pytest.mark.usefixtures("without_runtime")
def test_scalars_and_empty_tensors() -> None:
    m = graph(
        "(float x, float[4, 0] e) => (float[] y)",
        """a = Constant<value = int64[1] {9}>() b = Constant<value = int64[1] {99}>()
           six = Constant<value_ints = [0, 1, 2, 3, 4, 5]>()
           none = Slice(six, a, b) all = Concat<axis = 0>(six, none)
           s = Shape(e) size = Size(e) y = Mul(x, x)""",
    )
    shapes = infer(m)
    assert shapes.shape["y"] == ()
    assert shapes.shape["none"] == (0,)
    assert shapes.value["none"].dtype == np.int64
    assert shapes.value["all"].tolist() == [0, 1, 2, 3, 4, 5]
    assert (shapes.value["s"].tolist(), shapes.value["size"].tolist()) == ([4, 0], 0)


@pytest.mark.usefixtures("without_runtime")
def test_a_known_condition_selects_the_branch() -> None:
    body = """c = Equal(a, b)
      y = If (c) <then_branch = t () => (float[] p) { p = Squeeze(x) },
                  else_branch = e () => (float[] q) { s = Shape(x) q = Expand(x, s) }>"""
    signature = "(float[1, 3] x) => (float[] y) <int64 a = {%d}, int64 b = {1}>"
    assert shape_of(graph(signature % 1, body)) == (3,)
    assert shape_of(graph(signature % 2, body)) == (1, 3)


@pytest.mark.usefixtures("without_runtime")
def test_branches_that_agree_have_a_shape() -> None:
    m = graph(
        "(bool c, float[2, 3] x) => (float[] y)",
        "y = If (c) <then_branch = t () => (float[] p) { p = Relu(x) }, else_branch = e () => (float[] q) { q = Tanh(x) }>",
    )
    assert shape_of(m) == (2, 3)
    assert "y" not in infer(m).value


def test_a_value_that_depends_on_the_data_is_none() -> None:
    m = graph(
        "(bool c, float[2] x) => (int64[] y)",
        """y = If (c) <then_branch = t () => (int64 p) { p = Constant<value_int = 1>() },
                       else_branch = e () => (int64 q) { q = Constant<value_int = 2>() }>""",
    )
    shapes = infer(m)
    assert shapes.shape["y"] == ()
    assert "y" not in shapes.value


def test_branches_that_differ_are_observed() -> None:
    m = graph(
        "(bool c, float[1, 3] x) => (float[] y)",
        "y = If (c) <then_branch = t () => (float[] p) { p = Squeeze(x) }, else_branch = e () => (float[] q) { q = Tanh(x) }>",
    )
    shapes = infer(m)
    assert shapes.shape["y"] == (3,)  # the run says true
    assert shapes.observed == {"y"}


@pytest.mark.usefixtures("without_runtime")
def test_a_branch_that_does_not_fit_is_not_the_one() -> None:
    m = graph(
        "(bool c, float[2, 3] x, float[3, 4] w) => (float[] y)",
        """y = If (c) <then_branch = t () => (float[] p) { p = MatMul(x, w) },
                       else_branch = e () => (float[] q) { q = MatMul(w, x) }>""",
    )
    assert shape_of(m) == (2, 4)


@pytest.mark.usefixtures("without_runtime")
def test_local_functions_are_looked_through() -> None:
    m = model(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
           g (float[2, 6] x) => (float[] y) { y = own.halves(x) }
           <domain: "own", opset_import: ["" : 17]>
           halves (a) => (b) { t = Constant<value = int64[3] {0, 2, -1}>() b = Reshape(a, t) }"""
    )
    shapes = infer(m)
    assert shapes.shape["y"] == (2, 2, 3)
    assert set(shapes.shape) == {"x", "y"}


@pytest.mark.usefixtures("without_runtime")
@pytest.mark.parametrize(
    ("opset", "body", "expected"),
    [
        (7, "y = ImageScaler<scale = 2.0, bias = [0.0, 0.0, 0.0]>(x)", (1, 3, 8, 8)),
        (7, "y = Affine<alpha = 2.0, beta = 1.0>(x)", (1, 3, 8, 8)),
        (7, "y = Crop<border = [1, 2, 3, 1]>(x)", (1, 3, 5, 4)),
        (7, "y = Crop<border = [1, 2, 0, 0], scale = [4, 5]>(x)", (1, 3, 4, 5)),
        (7, "z, y = Dropout(x)", (1, 3, 8, 8)),
        (9, "y = MeanVarianceNormalization(x)", (1, 3, 8, 8)),
    ],
)
def test_operators_without_inference(opset: int, body: str, expected: tuple[int, ...]) -> None:
    shapes = infer(graph("(float[1, 3, 8, 8] x) => (float[] y)", body, opset))
    assert shapes.shape["y"] == expected
    assert shapes.dtype["y"] == TensorProto.FLOAT


@pytest.mark.usefixtures("without_runtime")
def test_spectra_are_one_sided_by_default() -> None:
    m = graph(
        "(float[1, 128, 1] x) => (float[] y) <int64 step = {8}, int64 frame = {16}>",
        "y = STFT(x, step, , frame)",
    )
    assert shape_of(m) == (1, 15, 9, 2)


# ---------------------------------------------------------------- ONNX Runtime as the second and third choice


@pytest.mark.usefixtures("without_runs")
def test_onnxruntime_knows_its_own_operators() -> None:
    m = loose(
        '(float[2, 3] x) => (float[] y) <float[5, 3] w = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}>',
        """h = com.microsoft.FusedMatMul<transB = 1>(x, w)
           s = Shape(h)
           y = ConstantOfShape(s)""",
        imports=', "com.microsoft" : 1',
    )  # fmt: skip
    shapes = infer(m)
    assert shapes.shape["h"] == shapes.shape["y"] == (2, 5)
    assert shapes.value["s"].tolist() == [2, 5]
    assert shapes.observed == frozenset()


def test_data_dependent_shapes_are_observed() -> None:
    m = loose("(float[2, 3] x) => (float[] y)", "i = NonZero(x) s = Shape(i) y = Transpose(i)")
    shapes = infer(m)
    assert shapes.shape["i"] == (2, 6)  # the run's input is all ones
    assert shapes.shape["y"] == (6, 2)
    assert shapes.dtype["y"] == TensorProto.INT64
    assert shapes.observed == {"i", "y"}
    assert "s" not in shapes.value


def test_what_follows_from_data_dependent_shapes_is_no_value() -> None:
    m = loose(
        "(float[2, 3] x) => (float[] y)",
        "i = NonZero(x) f = Cast<to = 1>(i) g = com.microsoft.FastGelu(f) s = Shape(g) y = ConstantOfShape(s)",
        imports=', "com.microsoft" : 1',
    )
    shapes = infer(m)
    assert shapes.shape["y"] == shapes.shape["g"] == (2, 6)
    assert "s" not in shapes.value
    assert shapes.observed == {"f", "g", "i", "y"}


def test_declared_shapes_do_not_reach_onnxruntime() -> None:
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
           g (float[2, 3] x) => (float[9, 9] y) { h = com.microsoft.BiasGelu(x, x) y = Relu(h) }"""
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [7, 7, 7]))
    shapes = infer(load(proto))
    assert shapes.shape["h"] == shapes.shape["y"] == (2, 3)


def test_a_run_tries_another_number_where_zero_is_illegal() -> None:
    m = graph(
        "(int64 step) => (int64[] y)",
        "a = Constant<value_int = 0>() b = Constant<value_int = 5>() y = Range(a, b, step)",
    )
    assert shape_of(m) == (5,)


def test_loops_are_observed() -> None:
    m = graph(
        "(int64 n, float[2] x) => (float[] y, float[] z)",
        """t = Constant<value = bool {1}>()
           y, z = Loop (n, t, x) <body = b (int64 i, bool c, float[2] a) => (bool d, float[2] e, float[2] f)
             { d = Identity(c) e = Add(a, a) f = Identity(e) }>""",
    )
    shapes = infer(m)
    assert shapes.shape["y"] == (2,)
    assert len(shapes.shape["z"]) == 2


def test_sequences_have_no_shape() -> None:
    m = loose(
        "(float[2, 3] x) => (float[] y)",
        "s = SequenceConstruct(x, x) i = Constant<value_int = 0>() y = SequenceAt(s, i)",
    )
    shapes = infer(m)
    assert shapes.unknown == ("s",)
    assert shapes.shape["y"] == (2, 3)


def test_an_operator_nobody_knows_leaves_its_outputs_unknown() -> None:
    m = loose("(float[2, 3] x) => (float[] y)", "h = nobody.Knows(x) y = Relu(h)", imports=', "nobody" : 1')
    shapes = infer(m)
    assert shapes.unknown == ("h", "y")
    assert shapes.shape["x"] == (2, 3)


def test_sizes_that_do_not_run_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Mapping[str, tuple[int, ...]]] = []

    def run(_: Model, sizes: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> observation.Found | None:
        tried.append(sizes)
        return dict.fromkeys(names, (TensorProto.INT64, (1, 1))) if len(tried) == 2 else None

    monkeypatch.setattr(observation, "run", run)
    m = loose("(float[N, 3] x) => (float[] y)", "y = NonZero(x)")
    shapes = infer(m)
    assert [sizes["x"] for sizes in tried] == [sizes["x"] for sizes in islice(candidates(m), 2)]
    assert shapes.inputs == tried[1]
    assert shapes.shape["y"] == (1, 1)


# ---------------------------------------------------------------- sizes


def first(m: Model, **overrides: Sequence[int]) -> dict[str, tuple[int, ...]]:
    return next(candidates(m, overrides or None))


def test_static_dims_keep_their_size() -> None:
    m = graph("(float[1, 3, 224, 224] x) => (float[] y)", "y = Relu(x)")
    assert list(candidates(m)) == [{"x": (1, 3, 224, 224)}]


def test_the_first_sizes_are_primes_that_divide_no_static_size() -> None:
    m = graph("(float[N, 14] x, float[M, 143] z) => (float[] y)", "y = Relu(x)")
    assert first(m) == {"x": (17, 14), "z": (19, 143)}


def test_pixels_come_in_larger_primes() -> None:
    n, c, height, width = first(graph("(float[N, 3, H, W] x) => (float[] y)", "y = Relu(x)"))["x"]
    assert (n, c) == (7, 3)
    assert height != width
    assert min(height, width) > 64


def test_dims_of_one_name_share_a_size() -> None:
    m = graph("(int64[B, S] ids, int64[B, S] mask, float[B, past] p) => (int64[] y)", "y = Identity(ids)")
    sizes = first(m)
    assert sizes["ids"] == sizes["mask"]
    assert sizes["p"][0] == sizes["ids"][0]
    assert len({*sizes["ids"], *sizes["p"]}) == 3


def test_dims_without_name_are_independent_and_later_tied() -> None:
    m = graph("(int64[?, ?] ids, int64[?, ?] mask) => (int64[] y)", "y = Identity(ids)")
    every = list(candidates(m))
    assert len({size for shape in every[0].values() for size in shape}) == 4
    assert any(sizes["ids"] == sizes["mask"] for sizes in every[1:4])


def test_the_batch_of_a_state_comes_second() -> None:
    m = graph("(float[?, ?, 16] x, float[2, ?, 8] h) => (float[] y)", "y = Relu(x)")
    assert any(sizes["h"][1] == sizes["x"][0] != sizes["x"][1] for sizes in candidates(m))


def test_open_channels_are_colours() -> None:
    m = graph("(float[?, ?, ?, ?] x) => (float[] y)", "y = Relu(x)")
    every = [sizes["x"] for sizes in candidates(m)]
    assert every[0][1] == 3
    assert 1 in {shape[1] for shape in every}


def test_dims_that_are_expressions_follow_their_terms() -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[B, S] ids, int64[B, T] mask) => (int64[] y) { y = Identity(ids) }'
    )
    proto.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "past + S"
    sizes = first(load(proto))
    assert sizes["mask"][1] > sizes["ids"][1]
    assert first(load(proto), ids=(2, 40))["mask"][0] == 2
    assert first(load(proto), ids=(2, 40))["mask"][1] > 40


def test_negative_sizes_in_a_file_are_open() -> None:
    proto = parser.parse_model(FLATTENED)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert infer(load(proto)).inputs == {"x": (7, 3, 8, 8)}


def test_sizes_beyond_counting_are_not_counted() -> None:
    elements = infer(graph(f"(float[{2**62}, 3] x) => (int64 n)", "n = Size(x)"))
    assert "n" not in elements.value
    assert infer(graph("(float[2, 3] x) => (int64 n)", "n = Size(x)")).value["n"] == 6


def test_an_input_that_is_empty_and_endless_is_not_made_up() -> None:
    m = graph(f"(float[2, 0, {2**63 - 1}] x, int64[1] axes) => (float[] y)", "y = ReduceL2(x, axes)", 18)
    assert "y" not in infer(m).shape


def test_more_dimensions_than_any_tensor_has_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(observation, "_session", asked.append)
    shapes = infer(graph("(float[3, 1] x, int64[2147483647] s) => (float[] y)", "y = Expand(x, s)"))
    assert "y" not in shapes.shape
    assert not asked
    infer(graph("(float[3, 1] x, int64[3] s) => (float[] y)", "y = Expand(x, s)"))
    assert asked


def test_initializers_that_are_also_inputs_are_not_fed() -> None:
    m = graph(
        "(float[N, 2] x, float[2] w) => (float[] y) <float[2] w = {1, 2}>", "y = Add(x, w)", 8, ir_version=3
    )
    shapes = infer(m)
    assert shapes.inputs == {"x": (7, 2)}
    assert shapes.shape["w"] == (2,)


def test_a_shape_for_one_input_binds_the_names_in_it() -> None:
    m = graph("(int64[B, S] ids, int64[B, S] mask) => (int64[] y)", "y = Identity(ids)")
    assert infer(m, {"ids": (4, 9)}).inputs == {"ids": (4, 9), "mask": (4, 9)}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"imagse": (1, 3, 8, 8)}, "no input 'imagse' .*did you mean 'images'"),
        ({"zzz": (1,)}, "no input 'zzz' .*inputs: 'images'"),
        ({"images": (1, 3, 8)}, "1x3x8 does not fit input 'images' .*Nx3x8x8"),
        ({"images": (1, 4, 8, 8)}, "1x4x8x8 does not fit input 'images'"),
        ({"images": (-1, 3, 8, 8)}, "negative"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(overrides: dict[str, tuple[int, ...]], message: str) -> None:
    m = graph("(float[N, 3, 8, 8] images) => (float[] y)", "y = Relu(images)")
    with pytest.raises(InvalidRequestError, match=message):
        infer(m, overrides)


def test_an_input_without_shape_asks_for_one() -> None:
    proto = parser.parse_model(FLATTENED)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InvalidRequestError, match=r"'x' declares no shape .*--shape 'x:"):
        infer(load(proto))
    assert infer(load(proto), {"x": (2, 3, 8, 8)}).shape["y"] == (2, 192)


@pytest.mark.usefixtures("without_runtime")
def test_sizes_grow_until_the_network_fits() -> None:
    down = "d = Constant<value_floats = [1.0, 1.0, 0.5, 0.5]>() u = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>()"
    m = graph(
        "(float[N, 3, H, W] x) => (float[] y)",
        f"{down} a = Resize(x, , d) b = Resize(a, , u) y = Concat<axis = 1>(x, b)",
    )
    shapes = infer(m)
    height, width = shapes.inputs["x"][2:]
    assert height % 2 == width % 2 == 0
    assert shapes.shape["y"] == (7, 6, height, width)


@pytest.mark.usefixtures("without_runtime")
def test_a_window_that_does_not_fit_rules_a_size_out() -> None:
    m = graph(
        "(float[N, 1, T] x) => (float[] y)",
        "s = Constant<value = int64[3] {4, 1, 200}>() w = ConstantOfShape(s) y = Conv<strides = [128]>(x, w)",
    )
    assert infer(m).inputs["x"][2] >= 200  # rounding -72 / 128 to zero would let 128 pass


@pytest.mark.usefixtures("with_silent_runtime")
@pytest.mark.parametrize(
    ("inputs", "body", "fitting"),
    [
        ("float[1, 2, %d] x",
         "s = Constant<value_ints = [4, 2, 9]>() w = ConstantOfShape(s) y = Conv<dilations = [2], pads = [1, 1]>(x, w)", (15, 14)),
        ("float[1, 2, %d] x", "y = MaxPool<kernel_shape = [4], strides = [9]>(x)", (4, 3)),
        ("float[1, %d, 8] x", "s = Constant<value_ints = [4, 2, 3]>() w = ConstantOfShape(s) y = Conv<group = 2>(x, w)", (4, 3)),
        ("float[1, %d, 8] x", "s = Constant<value_ints = [4, 2, 3]>() w = ConstantOfShape(s) y = ConvTranspose(x, w)", (4, 2)),
        ("float[1, 2, 8, %d] x", "f = Constant<value_floats = [1.0, 1.0, 1.0, 0.25]>() y = Resize(x, , f)", (4, 3)),
        ("float[2, %d] x", "s = Constant<value_ints = [3, 4]>() y = Reshape(x, s)", (6, 7)),
        ("float[2, %d] x", "i = Constant<value_ints = [-1, 5]>() y = Gather<axis = 1>(x, i)", (6, 5)),
        ("float[2, %d] x", "i = Constant<value_ints = [-4, 0]>() y = Gather<axis = 1>(x, i)", (4, 3)),
        ("float[1, 2, 4, %d] x", "y = SpaceToDepth<blocksize = 4>(x)", (8, 6)),
        ("float[2, %d] x, float[4, 3] z", 'y = Einsum<equation = "ij, jk -> ik">(x, z)', (4, 5)),
        ("float[7, 5, %d] x, float[1, 16, 3] w, float[1, 16, 4] r", "h, y = LSTM<hidden_size = 4>(x, w, r)", (3, 4)),
        ("float[7, %d, 3] x, float[1, 12, 3] w, float[1, 12, 4] r, float[1, 5, 4] s",
         "h, y = GRU<hidden_size = 4>(x, w, r, , , s)", (5, 4)),
        ("float[%d, 7, 3] x, float[1, 4, 3] w, float[1, 4, 4] r, float[5, 1, 4] s",
         "h, y = RNN<hidden_size = 4, layout = 1>(x, w, r, , , s)", (5, 4)),
    ],
)  # fmt: skip
def test_sizes_that_contradict_each_other_have_no_result(
    inputs: str, body: str, fitting: tuple[int, int]
) -> None:
    good, bad = (infer(loose(f"({inputs % size}) => (float[] y)", body)) for size in fitting)
    assert good.unknown == good.problems == ()
    assert "y" in bad.unknown
    assert len(bad.problems) == 1


@pytest.mark.usefixtures("with_silent_runtime")
def test_the_sizes_that_get_furthest_are_taken_where_none_fits() -> None:
    m = loose(
        "(float[N, 3] x) => (float[] y)",
        "a = Constant<value_ints = [2, 2]>() b = Reshape(x, a) c = Constant<value_ints = [1, 3]>() y = Reshape(x, c)",
    )
    assert infer(m).inputs == {"x": (1, 3)}


def test_problems_that_no_size_avoids_do_not_stop_inference() -> None:
    m = loose(
        "(float[N, 3] x) => (float[] y)", "a = Constant<value_ints = [2, 2]>() b = Reshape(x, a) y = Relu(x)"
    )
    shapes = infer(m)
    assert shapes.shape["y"] == (7, 3)
    assert shapes.unknown == ("b",)
    assert shapes.problems == ("node 'b' (Reshape): shapes [7, 3], [2] do not fit",)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[halves] y, z, w = Split<num_outputs = 2>(x)", "halves.* 3 outputs for 2 parts"),
        (
            "p = Constant<value_ints = [2, 4]>() [parts] y, z, w = Split(x, p)",
            "parts.* 3 outputs for 2 parts",
        ),
        ("[half] y = Add(x)", "half.* 1 input, its operator has 2"),
        ("[two] y, z = Relu(x)", "two.* 2 outputs, its operator has 1"),
    ],
)
def test_malformed_nodes_are_refused(body: str, message: str) -> None:
    with pytest.raises(InvalidModelError, match=message):
        infer(loose("(float[N, 6] x) => (float[] y)", body, opset=18))


# ---------------------------------------------------------------- one node


def test_evaluate_runs_one_node() -> None:
    node = helper.make_node("Slice", ["x", "b", "e", "", "s"], ["y"])
    opset = [helper.make_opsetid("", 13)]
    arrays = [np.arange(6), np.array([1]), np.array([6]), None, np.array([2])]
    (y,) = evaluate(node, opset, arrays)
    assert y.tolist() == [1, 3, 5]
    old = helper.make_node("Squeeze", ["x"], ["y"], axes=[0])
    assert evaluate(old, [helper.make_opsetid("ai.onnx", 11)], [np.zeros((1, 2))])[0].shape == (2,)


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        (helper.make_node("RandomNormal", [], ["y"], "noise", shape=[2]), []),
        (helper.make_node("Reshape", ["x", "s"], ["y"], "noise"), [np.arange(6), np.array([4, 4])]),
        (helper.make_node("Gelu", ["x"], ["y"], "noise", domain="com.microsoft"), [np.ones(2)]),
        (helper.make_node("NoSuchOperator", ["x"], ["y"], "noise"), [np.ones(2)]),
    ],
)
def test_evaluate_names_the_node_it_cannot_run(
    node: onnx.NodeProto, inputs: list[np.ndarray[Any, Any]]
) -> None:
    with pytest.raises(InvalidModelError, match="noise"):
        evaluate(node, [helper.make_opsetid("", 17)], inputs)


def test_evaluate_is_fast_enough_for_thousands_of_nodes() -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"], axis=0)
    opset = [helper.make_opsetid("", 17)]
    inputs = [np.array([7, 3, 8, 8]), np.array(0)]
    evaluate(node, opset, inputs)
    start = time.process_time()
    for _ in range(200):
        evaluate(node, opset, inputs)
    assert time.process_time() - start < 200 * 1e-3  # 20 µs each on a slow machine; the rest is mercy


@pytest.mark.usefixtures("without_runtime")
def test_time_is_linear_in_the_nodes() -> None:
    def seconds(count: int) -> float:
        nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
        made = helper.make_graph(
            nodes,
            "chain",
            [helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["N", 3])],
            [helper.make_tensor_value_info(f"t{count}", TensorProto.FLOAT, None)],
        )
        m = load(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
        start = time.process_time()
        infer(m)
        return time.process_time() - start

    seconds(100)
    assert seconds(8000) < 20 * seconds(1000)


# ---------------------------------------------------------------- real models


def real_models() -> list[Any]:
    index = SHARED / "models" / "index.json"
    entries = json.loads(index.read_text()) if index.exists() else []
    paths = [(SHARED / "models" / f"{entry['name']}.onnx", entry["inputs"]) for entry in entries]
    if ZOO:
        lines = (Path(ZOO) / "manifest.jsonl").read_text().splitlines()
        paths += [(Path(ZOO) / entry["file"], entry["inputs"]) for entry in map(json.loads, lines)]
    small = [(path, inputs) for path, inputs in paths if path.stat().st_size < 4 << 20]
    return [pytest.param(path, inputs, id=path.stem) for path, inputs in small]


@pytest.mark.skipif(not real_models(), reason="needs ../shared/models or ONNX_GROW_ZOO")
@pytest.mark.parametrize(("path", "inputs"), real_models())
def test_real_models_agree_with_onnxruntime(path: Path, inputs: dict[str, Any]) -> None:
    m = load(path)
    shapes = infer(m, {name: given["shape"] for name, given in inputs.items() if "shape" in given})
    if sum(map(prod, shapes.inputs.values())) > 1 << 20:
        pytest.skip("the run takes too long")
    names = [name for name in shapes.shape if name not in m.weights and name not in shapes.inputs]
    found = observation.run(m, shapes.inputs, names)
    if found is None:
        pytest.skip("the model needs inputs that are not constant")
    assert found == {name: (shapes.dtype[name], shapes.shape[name]) for name in names}


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("Relu(x)", "Relu(z)", True),
        ("Relu(x)", "Relu(t)", False),
        ("Relu(x)", "Sigmoid(x)", False),
        ("Transpose(x)", "Transpose(z)", True),
        ("Transpose <perm = [0, 1]> (x)", "Transpose <perm = [1, 0]> (x)", False),
        ("Reshape(x, one)", "Reshape(x, same)", True),
        ("Reshape(x, one)", "Reshape(x, other)", False),
        ("Clip(x, low)", "Clip(x, , low)", False),
    ],
)
def test_inference_is_asked_once_of_nodes_that_are_alike(
    monkeypatch: pytest.MonkeyPatch, first: str, second: str, alike: bool
) -> None:
    asked: list[str] = []
    real = walk.infer_node_outputs

    def counting(schema: Any, node: onnx.NodeProto, *rest: Any, **more: Any) -> Any:
        asked.append(node.output[0])
        return real(schema, node, *rest, **more)

    weights = "int64[2] one = {3, 3}, int64[2] same = {3, 3}, int64[2] other = {1, 9}, float low = {0}"
    text = f"(float[3, 3] x, float[3, 3] z, float[1, 9] t) => (float[M, N] y) <{weights}>"
    body = "a = " + first + " b = " + second + " c = Identity(a) y = Identity(b)"
    monkeypatch.setattr(walk, "infer_node_outputs", counting)
    shapes = infer(graph(text, body))
    assert ("b" in asked) is not alike
    alone = infer(graph(text, body.replace(first, "Identity(x)")))
    assert (shapes.shape["b"], shapes.dtype["b"]) == (alone.shape["b"], alone.dtype["b"])


def test_values_of_nodes_that_are_alike_are_theirs() -> None:
    shapes = infer(
        graph(
            "(float[2] x) => (float[2] y) <int64[1] one = {1}, int64[1] two = {2}>",
            "a = Add(one, one) b = Add(one, one) c = Add(one, two) d = Cast <to = 7> (one) e = Cast <to = 6> (one) y = Relu(x)",
        )
    )
    assert [shapes.value[name].tolist() for name in "abcde"] == [[2], [2], [3], [1], [1]]
    assert [shapes.value[name].dtype for name in "de"] == [np.int64, np.int32]


def test_what_speaks_against_a_node_is_said_of_each_that_is_alike() -> None:
    shapes = infer(
        graph(
            "(float[4] x) => (float[3] y) <int64[1] three = {3}>",
            "[first] a = Reshape(x, three) [second] b = Reshape(x, three) y = Add(a, b)",
        )
    )
    assert [problem.split()[1] for problem in shapes.problems] == ["'first'", "'second'"]
