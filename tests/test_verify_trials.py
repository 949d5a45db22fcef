import numpy as np
import pytest
from graphs import build

from onnx_grow.errors import InvalidModelError, InvalidRequestError
from onnx_grow.verification.inputs import signature
from onnx_grow.verification.sessions import RunError
from onnx_grow.verification.trials import LARGE, Trials, made_up

ANY = "(float[N, C, H, W] x) => (float[N, C, H, W] y) { y = Relu(x) }"


def tried(text, accepts=lambda **shapes: True, shapes=None, seeds=3):
    """The trials over a runtime that runs what `accepts` says, and the shapes that were run."""
    model = build(text)

    def run(arrays):
        if not accepts(**{name: array.shape for name, array in arrays.items()}):
            raise RunError("invalid dimensions")
        return {"y": np.zeros(1, np.float32)}

    trials = Trials(run)
    made_up(trials, model, signature(model), shapes, seeds)
    return trials, [next(iter(feed.arrays.values())).shape for feed in trials.feeds]


def test_every_open_dim_is_tried_at_two_sizes():
    _, shapes = tried(ANY)
    assert len(shapes) == 3
    assert all(first != second for first, second in zip(shapes[0], shapes[1], strict=True))
    assert shapes[2] == shapes[0]


def test_static_sizes_stay():
    _, shapes = tried("(float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }", seeds=4)
    assert shapes == [(2, 3)] * 4


def test_sizes_that_do_not_run_are_left_out_with_a_note():
    trials, shapes = tried(
        "(float[N, 3, H, H] x) => (float[N, 3, H, H] y) { y = Relu(x) }",
        lambda x: x[2] % 32 == 0 and x[2] < 200,
    )
    assert all(shape[2] % 32 == 0 for shape in shapes)
    assert shapes[0] != shapes[1]

    trials, shapes = tried("(float[N, S] x) => (float[N, S] y) { y = Relu(x) }", lambda x: x[1] == 16)
    assert {shape[1] for shape in shapes} == {16}
    assert any("left out" in note for note in trials.notes)


def test_batches_of_large_inputs_are_small():
    _, shapes = tried("(float[N, 3, 720, 720] x) => (float[N, 3, 720, 720] y) { y = Relu(x) }")
    assert [shape[0] for shape in shapes] == [1, 2, 1]
    assert LARGE < 3 * 720 * 720
    _, shapes = tried("(float[N, 3, 64, 64] x) => (float[N, 3, 64, 64] y) { y = Relu(x) }")
    assert 1 < shapes[0][0] < 7


def test_the_second_size_is_not_much_larger_than_the_first():
    _, shapes = tried("(float[N, S] x) => (float[N, S] y) { y = Relu(x) }")
    assert np.prod(shapes[1]) <= 4 * np.prod(shapes[0])


def test_shapes_given_are_taken_as_they_are():
    _, shapes = tried(ANY, shapes={"x": (40, 3, 64, 64)})
    assert shapes == [(40, 3, 64, 64)] * 3


def test_an_original_that_never_runs_is_an_error_with_a_way_out():
    with pytest.raises(InvalidModelError, match=r"does not run: invalid dimensions .*--shape"):
        tried(ANY, lambda x: False)
    with pytest.raises(InvalidRequestError, match="with the shapes given: invalid dimensions"):
        tried(ANY, lambda x: False, shapes={"x": (1, 2, 3, 4)})


def test_later_seeds_that_do_not_run_are_noted():
    calls = iter([True, True, False, True])
    trials, shapes = tried("(float[2] x) => (float[2] y) { y = Relu(x) }", lambda x: next(calls), seeds=4)
    assert len(shapes) == 3
    assert len(trials.notes) == 1
    assert "seed 2" in trials.notes[0]
