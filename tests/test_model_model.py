from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from onnx_grow.errors import OutputError
from onnx_grow.model import Inline, Model, load


def model(
    header: str = 'ir_version: 8, opset_import: ["" : 17]', body: str = "y = Relu(x)"
) -> onnx.ModelProto:
    return parser.parse_model(f"<{header}> g (float[2] x) => (float[2] y) {{ {body} }}")


def test_the_digest_is_that_of_the_file_however_it_came(tmp_path: Path) -> None:
    content = model().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert load(tmp_path / "m.onnx").sha256 == load(content).sha256 == digest
    assert load(model()).sha256 is None
    left = load(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").unlink()
    assert left.sha256 is None


def test_parameters_count_floating_point_values_and_narrow_integers_once() -> None:
    proto = model()
    for name, array in {
        "f": np.zeros((2, 3), np.float32),
        "h": np.zeros(5, np.float16),
        "d": np.float64(1),
        "i": np.zeros(100, np.int64),
        "q": np.zeros(100, np.int8),
    }.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    proto.graph.initializer.append(helper.make_tensor("b", onnx.TensorProto.BFLOAT16, [7], [0.0] * 7))
    for name, value in {
        "c": np.zeros((4, 2), np.float32),
        "s": np.float32(1),
        "n": np.zeros(9, np.int64),
    }.items():
        proto.graph.node.append(
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, f"{name}_value"))
        )
    proto.graph.node.append(helper.make_node("Constant", [], ["l"], value_floats=[1.0, 2.0, 3.0]))
    assert load(proto).parameters == 6 + 5 + 1 + 7 + 8 + 3 + 100


@pytest.mark.parametrize(
    ("header", "opset"),
    [
        ('ir_version: 8, opset_import: ["" : 17]', 17),
        ('ir_version: 8, opset_import: ["com.microsoft" : 1, "" : 13]', 13),
        ('ir_version: 8, opset_import: ["ai.onnx" : 12]', 12),
    ],
)
def test_opset_is_that_of_the_default_domain(header: str, opset: int) -> None:
    assert load(model(header)).opset == opset


def test_a_model_without_operator_sets_is_of_the_first() -> None:
    proto = model()
    proto.ir_version = 2
    proto.ClearField("opset_import")
    assert load(proto).opset == 1


def test_metadata_is_that_of_the_file() -> None:
    proto = model()
    helper.set_model_props(proto, {"author": "someone", "accuracy": "0.9"})
    assert load(proto).metadata == {"author": "someone", "accuracy": "0.9"}


def test_models_remember_their_file(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx").path == tmp_path / "m.onnx"
    assert load(model()).path is None


def test_a_proto_beyond_two_gigabytes_is_refused_before_it_is_built() -> None:
    class Huge:
        dtype = onnx.TensorProto.FLOAT
        shape = (2**30,)
        nbytes = 2**32

        def array(self) -> np.ndarray:
            raise AssertionError("nobody reads it")

        def chunks(self) -> None:
            raise AssertionError("nobody reads it")

    proto = model()
    proto.graph.initializer.add(name="w", data_type=1, dims=[2**30])
    with pytest.raises(OutputError, match="2 GiB"):
        Model(proto, {"w": Huge()}).to_proto()  # type: ignore[dict-item]


def test_a_proto_is_the_callers_own() -> None:
    loaded = load(model())
    loaded.to_proto().graph.name = "changed"
    assert loaded.skeleton.graph.name == "g"
    weight = Inline.of(np.float32([1, 2]))
    skeleton = model()
    skeleton.graph.initializer.add(name="w", data_type=1, dims=[2])
    proto = Model(skeleton, {"w": weight}).to_proto()
    assert proto.graph.initializer[0].raw_data == np.float32([1, 2]).tobytes()
    assert not skeleton.graph.initializer[0].HasField("raw_data")
