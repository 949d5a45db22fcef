import numpy as np
import pytest
from graphs import build

from onnx_grow.errors import InvalidRequestError
from onnx_grow.model import load
from onnx_grow.verification.inputs import SCALES, signature


def feed(text, shapes, seed=0, **values):
    return signature(build(text, **values)).feed(shapes, seed).arrays


def test_floats_are_normal_at_several_scales():
    text = "(float[N, 100] x) => (float[N, 100] y) { y = Relu(x) }"
    for seed, scale in enumerate(SCALES):
        x = feed(text, {"x": (20, 100)}, seed)["x"]
        assert x.dtype == np.float32
        assert x.std() == pytest.approx(np.sqrt(3) * scale, rel=0.2)
    assert x.mean(axis=1).std() > scale / 2  # samples differ in level


def test_pictures_have_patches_in_every_direction():
    text = "(float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }"
    x = feed(text, {"x": (8, 3, 40, 40)})["x"]
    x = x - x.mean(axis=(2, 3), keepdims=True)
    near, far = (np.mean(x[:, :, shift:, shift:] * x[:, :, : 40 - shift, : 40 - shift]) for shift in (1, 10))
    assert near > 0.4
    assert abs(far) < 0.2


def test_the_same_seed_gives_the_same_values():
    wanted = signature(build("(float[N] x, float[N] z) => (float[N] y) { y = Add(x, z) }"))
    shapes = {"x": (9,), "z": (9,)}
    first, again, other = wanted.feed(shapes, 3), wanted.feed(shapes, 3), wanted.feed(shapes, 6)
    assert np.array_equal(first.arrays["x"], again.arrays["x"])
    assert not np.array_equal(first.arrays["x"], other.arrays["x"])
    assert not np.array_equal(first.arrays["x"], first.arrays["z"])
    assert first.label == "seed 3, scale 1: x 9, z 9"


def test_rows_are_legal_and_visited_in_turn():
    wanted = signature(
        build("(int64[N] ids) => (float[N, 4] y) <float[10, 4] table> { y = Gather(table, ids) }")
    )
    drawn = np.concatenate([wanted.feed({"ids": (4,)}, seed).arrays["ids"] for seed in range(5)])
    assert drawn.dtype == np.int64
    assert sorted(drawn) == sorted([*range(10), *range(10)])


def test_masks_are_ones_with_some_zeros():
    text = "(int64[N, S] attention_mask, bool[N, S] b) => (float[N, S] y) { a = Cast<to = 1>(attention_mask) y = Identity(a) }"
    arrays = feed(text, {"attention_mask": (8, 40), "b": (8, 40)})
    for mask in arrays.values():
        assert 0.6 < mask.mean() < 0.95
        assert mask[:, 0].all()
    assert arrays["b"].dtype == np.bool_


def test_bytes_use_their_range():
    text = "(uint8[N, 3, 8, 8] x, int8[N, 64] z) => (float[N, 3, 8, 8] y) { y = Cast<to = 1>(x) }"
    arrays = feed(text, {"x": (4, 3, 8, 8), "z": (8, 64)})
    assert (arrays["x"].min(), arrays["x"].max()) == (0, 255)
    assert arrays["z"].min() < -100
    assert arrays["z"].max() > 100


def test_lengths_are_legal():
    text = "(float[N, S] x, int32[N] lengths) => (float[N, S] y) { y = Relu(x) }"
    lengths = feed(text, {"x": (50, 6), "lengths": (50,)})["lengths"]
    assert set(lengths.tolist()) == {1, 2, 3, 4, 5, 6}


def test_strings_come_from_what_the_model_knows():
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]> g (string[N] x) => (int64[N] y) {
      y = ai.onnx.ml.LabelEncoder<keys_strings = ["red", "green"], values_int64s = [1, 2]>(x)
    }"""
    x = feed(text, {"x": (200,)})["x"]
    assert x.dtype == object
    assert {"red", "green"} < set(x)


def test_a_switch_takes_the_values_it_is_compared_with():
    text = "(int64 rate) => (bool y) <int64 known> { y = Equal(rate, known) }"
    assert feed(text, {"rate": ()}, known=np.array(16000))["rate"] == 16000


def test_initializers_that_are_inputs_are_not_fed():
    model = build(
        "(float[N, 3] x, float[3, 2] w) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }",
        ir=3,
    )
    assert list(signature(model).dtypes) == ["x"]


def test_inputs_that_are_no_tensors_are_refused():
    model = build("(seq(float[N]) xs) => (int64 y) { y = SequenceLength(xs) }")
    with pytest.raises(InvalidRequestError, match="'xs' is no tensor but sequence"):
        signature(load(model.to_proto()))


def test_scalars_are_arrays_too():
    arrays = feed("(float x, int64 ids) => (float y) { y = Relu(x) }", {"x": (), "ids": ()})
    assert {name: (type(array), array.shape) for name, array in arrays.items()} == {
        "x": (np.ndarray, ()),
        "ids": (np.ndarray, ()),
    }
