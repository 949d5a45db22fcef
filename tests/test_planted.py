"""Faults that tools for growing networks have had, planted on purpose: each is found, and without it growth is found right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from graphs import build
from onnx import numpy_helper

from onnx_grow.axes.table import KINDS
from onnx_grow.growth import deepen, widen
from onnx_grow.model import Model, load
from onnx_grow.verification import verify

IMAGE = "(float[N, 3, 8, 7] x) => (float[N, 5] y)"
POOLED = "p = GlobalMaxPool(b) f = Flatten(p) y = MatMul(f, o)"
ROWS = "(float[N, 6] x) => (float[N, 5] y)"
HEADS = "(float[2, 3, 6] x) => (float[2, 3, 5] y)"


class File:
    """A grown file to plant a fault in: its weights and nodes by name."""

    def __init__(self, grown: Model) -> None:
        self.proto = grown.to_proto()

    def node(self, op: str, nth: int = 0) -> onnx.NodeProto:
        """The nth node of an operator."""
        return [node for node in self.proto.graph.node if node.op_type == op][nth]

    def tensor(self, name: str) -> onnx.TensorProto:
        """A weight as it is stored."""
        return next(tensor for tensor in self.proto.graph.initializer if tensor.name == name)

    def __getitem__(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.tensor(name)).copy()

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        old = self[name]
        assert array.dtype == old.dtype
        assert array.shape == old.shape
        assert not np.array_equal(array, old), "nothing was planted"
        self.tensor(name).CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def attribute(self, op: str, name: str, value: float, nth: int = 0) -> None:
        """Give an attribute another value."""
        found = next(a for a in self.node(op, nth).attribute if a.name == name)
        assert onnx.helper.get_attribute_value(found) != value, "nothing was planted"
        found.CopyFrom(onnx.helper.make_attribute(name, value))


def wider(model: Model) -> Model:
    return widen(model, kind=KINDS, scheme="copy")


def padded(model: Model) -> Model:
    return widen(model, factor=1.5, scheme="pad")


def heads(model: Model) -> Model:
    return widen(model, kind="heads")


def head_channels(model: Model) -> Model:
    return widen(model, kind="head_dim")


def deeper(model: Model) -> Model:
    return deepen(model, scheme="identity", every=1)


@dataclass(frozen=True)
class Planted:
    """A model, how it grows, and the fault; `runs` tells whether the file with the fault still runs, as the worst ones do."""

    text: str
    grow: Callable[[Model], Model]
    fault: Callable[[File], None]
    opset: int = 17
    runs: bool = True


def shifted_kernel(file: File) -> None:
    name = file.node("Conv", 1).input[1]
    file[name] = np.roll(file[name], 1, axis=-1)


def last_channel_only(file: File) -> None:
    """Statistics of the new normalisation for the last channel, defaults for all others."""
    _, scale, bias, mean, variance = file.node("BatchNormalization", 1).input
    for name, default in ((scale, 1), (bias, 0), (mean, 0), (variance, 1)):
        array = file[name]
        array[:-1] = default
        file[name] = array


def last_copy_only(file: File) -> None:
    """Parameters of the copies from the last channel instead of from their own."""
    array = file["scale"]
    array[4:] = array[3]
    file["scale"] = array


def own_map(file: File) -> None:
    """One branch of a skip connection copies other channels than the other."""
    array = file["w"]
    array[4:] = np.roll(array[4:], 1, axis=0)
    file["w"] = array


def tiled_heads(file: File) -> None:
    """Queries in the order (rep, kv) instead of (kv, rep)."""
    node = file.node("Attention")
    kv, queries = (onnx.helper.get_node_attr_value(node, name) for name in ("kv_num_heads", "q_num_heads"))
    array = file["wq"]
    rows, columns = array.shape
    grouped = array.reshape(rows, kv, queries // kv, columns // queries)
    file["wq"] = grouped.transpose(0, 2, 1, 3).reshape(rows, columns)


def default_scale(file: File) -> None:
    """1 / sqrt(d) of the new d."""
    node = file.node("Attention")
    kept = [attribute for attribute in node.attribute if attribute.name != "scale"]
    assert len(kept) < len(node.attribute), "nothing was planted"
    del node.attribute[:]
    node.attribute.extend(kept)


def new_root(file: File) -> None:
    """1 / sqrt(d) of the new d, as a constant."""
    file["scale"] = file["scale"] / np.float32(np.sqrt(2))


def channels_inside(file: File) -> None:
    """Positions outside and channels inside, where a flattened picture has them the other way."""
    array = file["o"]
    file["o"] = array.reshape(8, 6, -1).transpose(1, 0, 2).reshape(array.shape)


def other_blocks(file: File) -> None:
    """Channels in the order (c, 2, 2) where DepthToSpace reads (2, 2, c)."""
    array = file["v"]
    file["v"] = array.reshape(2, 2, 4, *array.shape[1:]).transpose(2, 0, 1, 3, 4, 5).reshape(array.shape)


def swapped_parts(file: File) -> None:
    """Rows for the second of two joined tensors before those for the first."""
    array = file["o"]
    file["o"] = np.concatenate([array[8:], array[:8]])


def other_gates(file: File) -> None:
    """Gates in the order i f o c, as PyTorch and Keras have them, instead of ONNX's i o f c."""
    for name in ("w", "r"):
        blocks = np.split(file[name], 4, axis=1)
        file[name] = np.concatenate([blocks[k] for k in (0, 2, 1, 3)], axis=1)


def wrong_side(file: File) -> None:
    """What is written is divided by the number of copies, and what reads it is not: tanh does not let that pass."""
    file["w"], file["b"] = file["w"] / 2, file["b"] / 2
    file["o"] = file["o"] * 2


def cancelling(file: File) -> None:
    """Two outputs are off, one by as much up as the other is down."""
    array = file["c"]
    array[0] += np.float32(0.01)
    array[1] -= np.float32(0.01)
    file["c"] = array


def old_epsilon(op: str) -> Callable[[File], None]:
    """Statistics over more channels, some of them zero, with the epsilon for fewer."""
    return lambda file: file.attribute(op, "epsilon", 0.01)


def zeros_for_means(file: File) -> None:
    """Channels that a norm over all takes for zero where they have to be the mean of the others."""
    array = file["w"]
    array[:, 4:] = 0
    file["w"] = array


def unscaled(file: File) -> None:
    """Copies are summed whole."""
    file["o"] = file["o"] * 2


def literal(name: str, *values: int) -> Callable[[File], None]:
    """Sizes that an input holds, as they were."""

    def fault(file: File) -> None:
        file[name] = np.array(values, np.int64)

    return fault


def old_groups(file: File) -> None:
    file.attribute("Conv", "group", 4, nth=1)


NORMED = f"{ROWS} <float[6, 4] w, float[4] s, float[4, 5] o> {{{{ a = MatMul(x, w) b = {{}} (a, s) y = MatMul(b, o) }}}}"
PROJECTED = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
SKIPPED = f"{IMAGE} <float[4, 3, 3, 3] v, float[4, 4, 3, 3] w, float[4, 5] o> {{"
PLANTED = {
    "an identity kernel is off by one": Planted(
        f"{IMAGE} <float[4, 3, 3, 3] v, float[4, 5] o> {{ a = Conv(x, v) b = Relu(a) {POOLED} }}",
        deeper,
        shifted_kernel,
    ),
    "a new normalisation knows the last channel only": Planted(
        f"{IMAGE} <float[4, 3, 3, 3] v, float[4] s, float[4] t, float[4] m, float[4] r = {{1.0, 2.0, 0.5, 1.5}}, float[4, 5] o> "
        f"{{ a = Conv(x, v) n = BatchNormalization(a, s, t, m, r) b = Relu(n) {POOLED} }}",
        deeper,
        last_channel_only,
    ),
    "a normalisation copies its last channel only": Planted(
        f"{IMAGE} <float[4, 3, 3, 3] v, float[4] scale, float[4] t, float[4] m, float[4] r = {{1.0, 2.0, 0.5, 1.5}}, float[4, 5] o> "
        f"{{ a = Conv(x, v) n = BatchNormalization(a, scale, t, m, r) b = Relu(n) {POOLED} }}",
        wider,
        last_copy_only,
    ),
    "a skip connection has two maps": Planted(
        f"{SKIPPED} a = Conv(x, v) c = Conv <pads=[1, 1, 1, 1]> (a, w) b = Add(a, c) {POOLED} }}",
        wider,
        own_map,
    ),
    "heads of queries in another order": Planted(
        f"{HEADS} <float[6, 24] wq, float[6, 6] wk, float[6, 4] wv, float[16, 5] o> "
        f"{{ {PROJECTED} b = Attention <q_num_heads=8, kv_num_heads=2> (q, k, v) y = MatMul(b, o) }}",
        heads,
        tiled_heads,
        opset=23,
    ),
    "another epsilon": Planted(
        "(float[N, 6] x) => (float[N, 5] y) <float[6, 4] w, float[4] s, float[4, 5] o> "
        "{ a = MatMul(x, w) b = LayerNormalization(a, s) y = MatMul(b, o) }",
        wider,
        lambda file: file.node("LayerNormalization").attribute.append(
            onnx.helper.make_attribute("epsilon", 3e-5)
        ),
    ),
    "the epsilon of fewer channels": Planted(
        NORMED.format("LayerNormalization <epsilon=0.01>"), padded, old_epsilon("LayerNormalization")
    ),
    "the epsilon of fewer channels, without means": Planted(
        NORMED.format("RMSNormalization <epsilon=0.01>"), padded, old_epsilon("RMSNormalization"), opset=23
    ),
    "new channels off the mean": Planted(
        NORMED.format("LayerNormalization <epsilon=0.01>"), padded, zeros_for_means
    ),
    "the scale of attention follows the new width": Planted(
        f"{HEADS} <float[6, 8] wq, float[6, 8] wk, float[6, 6] wv, float[6, 5] o> "
        f"{{ {PROJECTED} b = Attention <q_num_heads=2, kv_num_heads=2> (q, k, v) y = MatMul(b, o) }}",
        head_channels,
        default_scale,
        opset=23,
    ),
    "the scale of attention spelt out follows the new width": Planted(
        f"{HEADS} <float[6, 8] wq, float[6, 8] wk, float[6, 6] wv, float scale = {{0.35355339}}, float[6, 5] o> "
        f"{{ {PROJECTED} t = Transpose <perm=[0, 2, 1]> (k) z = MatMul(q, t) s = Mul(z, scale) p = Softmax(s) b = MatMul(p, v) "
        "y = MatMul(b, o) }",
        wider,
        new_root,
    ),
    "a flattened picture is read channels last": Planted(
        "(float[N, 3, 3, 2] x) => (float[N, 5] y) <float[4, 3, 1, 1] v, float[24, 5] o> "
        "{ a = Conv(x, v) b = Relu(a) f = Flatten(b) y = MatMul(f, o) }",
        wider,
        channels_inside,
    ),
    "channels that become positions in another order": Planted(
        f"{IMAGE} <float[8, 3, 1, 1] v, float[2, 5] o> "
        f"{{ a = Conv(x, v) c = DepthToSpace <blocksize=2> (a) b = Relu(c) {POOLED} }}",
        wider,
        other_blocks,
    ),
    "errors cancel": Planted(
        f"{ROWS} <float[6, 4] w, float[4, 5] o, float[5] c> {{ a = MatMul(x, w) b = Tanh(a) d = MatMul(b, o) y = Add(d, c) }}",
        wider,
        cancelling,
    ),
    "a stale shape": Planted(
        "(float[N, 6] x) => (float m) <float[6, 4] w, int64[2] shape = {-1, 4}> "
        "{ a = MatMul(x, w) r = Reshape(a, shape) s = ReduceMean <axes=[1], keepdims=0> (r) t = Exp(s) m = ReduceSum <keepdims=0> (t) }",
        wider,
        literal("shape", -1, 4),
    ),
    "a stale end": Planted(
        f"{ROWS} <float[6, 4] w, float[4, 5] o, int64[1] start = {{0}}, int64[1] end = {{3}}, int64[1] axis = {{1}}> "
        "{ a = MatMul(x, w) s = Slice(a, start, end, axis) t = ReduceSum <keepdims=1> (s, axis) b = Add(a, t) y = MatMul(b, o) }",
        wider,
        literal("end", 3),
    ),
    "stale lengths": Planted(
        f"{ROWS} <float[6, 6] w, float[6, 5] o, int64[2] lengths = {{2, 4}}, int64[1] axis = {{1}}> "
        "{ a = MatMul(x, w) s, t = Split <axis=1> (a, lengths) u = ReduceSum <keepdims=1> (s, axis) b = Add(a, u) y = MatMul(b, o) }",
        wider,
        literal("lengths", 2, 10),
    ),
    "stale sizes of a picture": Planted(
        "(float[1, 3, 4, 4] x) => (float m) <float[4, 3, 1, 1] v, int64[4] sizes = {1, 4, 8, 8}> "
        '{ a = Conv(x, v) b = Resize <mode="nearest"> (a, "", "", sizes) c = Exp(b) m = ReduceMean <keepdims=0> (c) }',
        wider,
        literal("sizes", 1, 4, 8, 8),
    ),
    "joined tensors are read in another order": Planted(
        f"{ROWS} <float[6, 4] v, float[6, 4] w, float[8, 5] o> "
        "{ c = MatMul(x, v) a = MatMul(x, w) b = Concat <axis=1> (c, a) y = MatMul(b, o) }",
        wider,
        swapped_parts,
    ),
    "gates in another order": Planted(
        "(float[3, 2, 6] x) => (float[3, 2, 5] y) <float[1, 16, 6] w, float[1, 16, 4] r, float[4, 5] o, int64[1] one = {1}> "
        "{ a, h, c = LSTM <hidden_size=4> (x, w, r) b = Squeeze(a, one) y = MatMul(b, o) }",
        wider,
        other_gates,
    ),
    "a stale number of groups": Planted(
        f"{IMAGE} <float[4, 3, 3, 3] v, float[4, 1, 3, 3] w, float[4, 5] o> "
        f"{{ a = Conv(x, v) c = Relu(a) b = Conv <group=4> (c, w) {POOLED} }}",
        wider,
        old_groups,
        runs=False,
    ),
    "divided on the wrong side": Planted(
        f"{ROWS} <float[6, 4] w, float[4] b, float[4, 5] o> {{ a = MatMul(x, w) c = Add(a, b) d = Tanh(c) y = MatMul(d, o) }}",
        wider,
        wrong_side,
    ),
    "not divided at all": Planted(
        f"{ROWS} <float[6, 4] w, float[4, 5] o> {{ a = MatMul(x, w) b = Relu(a) y = MatMul(b, o) }}",
        wider,
        unscaled,
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found(name: str) -> None:
    planted = PLANTED[name]
    model = build(planted.text, opset=planted.opset, ir=10)
    grown = planted.grow(model)
    report = verify(model, grown, provider="cpu")
    assert report.ok, str(report)
    file = File(grown)
    planted.fault(file)
    report = verify(model, load(file.proto), provider="cpu")
    assert not report.ok, str(report)
    assert bool(report.outputs) == planted.runs
