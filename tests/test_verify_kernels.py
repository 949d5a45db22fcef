from __future__ import annotations

import numpy as np
import pytest
from graphs import build, feeds, run
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_conv import Conv as Dense

from onnx_grow.verification.kernels import LRN, Conv


def convolved(
    kind: type, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, **attributes: object
) -> np.ndarray:
    """What a convolution of that implementation gives."""
    arrays = {"x": x, "w": w} | ({} if b is None else {"b": b})
    node = helper.make_node("Conv", list(arrays), ["y"], **attributes)
    inputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, a.shape) for name, a in arrays.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)]
    )
    return ReferenceEvaluator(model, new_ops=[kind]).run(None, arrays)[0]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((2, 4, 9, 8), (6, 4, 3, 2), {"dilations": [2, 3]}),
        (
            (2, 4, 9, 8),
            (6, 2, 3, 2),
            {"dilations": [2, 1], "group": 2, "strides": [1, 2], "pads": [2, 1, 0, 3]},
        ),
        ((1, 4, 20), (4, 1, 3), {"dilations": [4], "group": 4}),
        ((1, 2, 5, 6, 7), (3, 2, 2, 2, 2), {"dilations": [1, 2, 3], "pads": [0, 1, 2, 1, 0, 1]}),
        ((2, 4, 9, 8), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((2, 4, 9, 8), (6, 4, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ],
)
def test_agrees_with_the_reference(
    x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, object], biased: bool
) -> None:
    rng = np.random.default_rng(0)
    data, kernel = rng.standard_normal(x), rng.standard_normal(w)
    bias = rng.standard_normal(w[0]) if biased else None
    mine, theirs = (convolved(kind, data, kernel, bias, **attributes) for kind in (Conv, Dense))
    np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_zeros_of_dilated_kernels_are_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Dense, "_run")
    x, w = np.ones((2, 4, 16, 16)), np.ones((8, 4, 3, 3))
    assert convolved(Conv, x, w, None, dilations=[36, 36], pads=[36] * 4)[0, 0, 0, 0] == 4


@pytest.mark.parametrize("size", [1, 3, 5])
def test_every_channel_is_normalised_by_its_neighbours(size: int) -> None:
    model = build(
        f"(float[2, 6, 3, 2] x) => (float[2, 6, 3, 2] y) {{ y = LRN <size={size}, alpha=0.9, beta=0.6, bias=0.5> (x) }}"
    )
    inputs = feeds(model)
    (found,) = ReferenceEvaluator(model.to_proto(), new_ops=[LRN]).run(None, inputs)
    np.testing.assert_allclose(found, run(model, inputs)[0], rtol=1e-5)
