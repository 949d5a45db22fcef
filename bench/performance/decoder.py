"""A decoder of any size, as language models are exported: weights of 16 bits in a file beside the model, drawn at random.

    python bench/performance/decoder.py OUT.onnx --gigabytes 8 --type bfloat16

Layers have the shapes of common decoders (grouped-query attention with rotary positions, a gated feed-forward network, RMS norms),
written in operators of opset 17. Weights are written piece by piece: no more than 64 MB are in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import click
import ml_dtypes
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

PIECE = 1 << 24
"""Elements drawn at a time."""
TYPES = {
    "float16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bfloat16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
    "float32": (TensorProto.FLOAT, np.dtype(np.float32)),
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder; those of a common model of 1.1 billion parameters, but for the number of layers."""

    layers: int
    hidden: int = 2048
    inner: int = 5632
    heads: int = 32
    shared: int = 4
    vocabulary: int = 32000

    @property
    def parameters(self) -> int:
        """Elements of all matrices."""
        size = self.hidden // self.heads
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.shared * size
        return 2 * self.vocabulary * self.hidden + self.layers * (attention + 3 * self.hidden * self.inner)

    @classmethod
    def of(cls, parameters: float, **sizes: int) -> Shape:
        """As many layers as have about that many parameters."""
        one, two = cls(1, **sizes).parameters, cls(2, **sizes).parameters
        return cls(max(1, round((parameters - one) / (two - one) + 1)), **sizes)


def write(path: Path, shape: Shape, kind: str, seed: int = 0) -> None:
    """Write a decoder of this shape, whose weights are of the type `kind` ("float16", "bfloat16", "float32"), to `path` and `path`.data."""
    graph = _Graph(kind, shape)
    proto = graph.built()
    rng = np.random.default_rng(seed)
    with open(f"{path}.data", "wb") as data:
        for tensor, spread in graph.external:
            data.seek(-(-data.tell() // 4096) * 4096)
            tensor.data_location = TensorProto.EXTERNAL
            count = prod(tensor.dims)
            entries = {
                "location": f"{path.name}.data",
                "offset": data.tell(),
                "length": count * graph.type.itemsize,
            }
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            for start in range(0, count, PIECE):
                drawn = rng.standard_normal(min(PIECE, count - start), np.float32)
                data.write((spread * drawn).astype(graph.type).view(np.uint8).data)
    proto.graph.initializer.extend(tensor for tensor, _ in graph.external)
    path.write_bytes(proto.SerializeToString())


@dataclass
class _Graph:
    kind: str
    shape: Shape
    nodes: list[NodeProto] = field(default_factory=list)
    small: list[TensorProto] = field(default_factory=list)
    external: list[tuple[TensorProto, float]] = field(default_factory=list)

    @property
    def type(self) -> np.dtype:
        return TYPES[self.kind][1]

    def built(self) -> onnx.ModelProto:
        """The model, without its matrices."""
        shape = self.shape
        size = shape.hidden // shape.heads
        angles = np.arange(4096)[:, None] / 10000.0 ** (np.arange(size) % (size // 2) * 2 / size)
        self.const("cos_table", np.cos(angles), self.type)
        self.const("sin_table", np.sin(angles), self.type)
        for name, value in {"epsilon": 1e-5, "two": 2.0, "scale": size**-0.5}.items():
            self.const(name, np.array(value), self.type)
        self.const("queries", np.array([0, 0, shape.heads, size]), np.int64)
        self.const("keys", np.array([0, 0, shape.shared, size]), np.int64)
        self.const("repeats", np.array([1, 1, shape.heads // shape.shared, 1, 1]), np.int64)
        self.const("all_heads", np.array([0, shape.heads, -1, size]), np.int64)
        self.const("flat", np.array([0, 0, shape.hidden]), np.int64)
        self.const("half", np.array([size // 2]), np.int64)
        for name, value in {"zero": 0, "one": 1, "last": 3, "end": 1 << 40}.items():
            self.const(name, np.array([value]), np.int64)
        sizes = self.op("Shape", "ids")
        self.op("Gather", sizes, self.const("second", np.array(1), np.int64), out="length")
        self.op(
            "Range",
            self.const("from", np.array(0), np.int64),
            "length",
            self.const("step", np.array(1), np.int64),
            out="positions",
        )
        self.op("Gather", "cos_table", "positions", out="cos")
        self.op("Gather", "sin_table", "positions", out="sin")
        self.op(
            "Less",
            self.op("Unsqueeze", "positions", "one"),
            self.op("Unsqueeze", "positions", "zero"),
            out="later",
        )
        self.const("never", np.array(-1e4), self.type)
        self.const("nothing", np.array(0.0), self.type)
        self.op("Where", "later", "never", "nothing", out="mask")
        x = self.op("Gather", self.matrix("embedding", shape.vocabulary, shape.hidden), "ids", out="embedded")
        for layer in range(shape.layers):
            x = self.layer(f"layer{layer}", x)
        logits = self.linear("head", self.norm("final", x), shape.hidden, shape.vocabulary)
        self.op("Cast", logits, out="logits", to=TensorProto.FLOAT)
        graph = helper.make_graph(
            self.nodes,
            "decoder",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
            [
                helper.make_tensor_value_info(
                    "logits", TensorProto.FLOAT, ["batch", "sequence", shape.vocabulary]
                )
            ],
            self.small,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def layer(self, name: str, x: str) -> str:
        """Attention and a gated feed-forward network, each behind a norm and beside a skip connection."""
        shape = self.shape
        kept = shape.shared * (shape.hidden // shape.heads)
        normed = self.norm(f"{name}/attention_norm", x)
        q = self.turned(self.apart(self.linear(f"{name}/q", normed, shape.hidden, shape.hidden), "queries"))
        k = self.repeated(
            self.turned(self.apart(self.linear(f"{name}/k", normed, shape.hidden, kept), "keys"))
        )
        v = self.repeated(self.apart(self.linear(f"{name}/v", normed, shape.hidden, kept), "keys"))
        scores = self.op("MatMul", self.op("Mul", q, "scale"), self.op("Transpose", k, perm=[0, 1, 3, 2]))
        weights = self.op("Softmax", self.op("Add", scores, "mask"), axis=-1)
        mixed = self.op("Transpose", self.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        read = self.linear(f"{name}/o", self.op("Reshape", mixed, "flat"), shape.hidden, shape.hidden)
        x = self.op("Add", x, read)
        normed = self.norm(f"{name}/feed_forward_norm", x)
        gate = self.linear(f"{name}/gate", normed, shape.hidden, shape.inner)
        up = self.linear(f"{name}/up", normed, shape.hidden, shape.inner)
        inner = self.op("Mul", self.op("Mul", gate, self.op("Sigmoid", gate)), up)
        return self.op("Add", x, self.linear(f"{name}/down", inner, shape.inner, shape.hidden))

    def norm(self, name: str, x: str) -> str:
        mean = self.op("ReduceMean", self.op("Pow", x, "two"), axes=[-1])
        root = self.op("Sqrt", self.op("Add", mean, "epsilon"))
        self.const(f"{name}/gamma", np.ones(self.shape.hidden), self.type)
        return self.op("Mul", self.op("Div", x, root), f"{name}/gamma")

    def apart(self, x: str, heads: str) -> str:
        return self.op("Transpose", self.op("Reshape", x, heads), perm=[0, 2, 1, 3])

    def turned(self, x: str) -> str:
        """Rotary positions."""
        first = self.op("Slice", x, "zero", "half", "last")
        second = self.op("Slice", x, "half", "end", "last")
        rotated = self.op("Concat", self.op("Neg", second), first, axis=-1)
        return self.op("Add", self.op("Mul", x, "cos"), self.op("Mul", rotated, "sin"))

    def repeated(self, x: str) -> str:
        """Every head of keys or values once for each head of queries that reads it."""
        wide = self.op(
            "Tile", self.op("Unsqueeze", x, self.const("third", np.array([2]), np.int64)), "repeats"
        )
        return self.op("Reshape", wide, "all_heads")

    def linear(self, name: str, x: str, inputs: int, outputs: int) -> str:
        return self.op("MatMul", x, self.matrix(f"{name}/weight", inputs, outputs), out=name)

    def matrix(self, name: str, rows: int, columns: int) -> str:
        tensor = TensorProto(name=name, data_type=TYPES[self.kind][0], dims=[rows, columns])
        self.external.append((tensor, 0.02 if name == "embedding" else rows**-0.5))
        return name

    def const(self, name: str, value: np.ndarray, dtype: object) -> str:
        if all(tensor.name != name for tensor in self.small):
            self.small.append(numpy_helper.from_array(np.asarray(value).astype(dtype), name))
        return name

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        out = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], out, **attributes))
        return out


@click.command(help=__doc__)
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--gigabytes", default=1.0, show_default=True)
@click.option("--type", "kind", type=click.Choice(list(TYPES)), default="float16", show_default=True)
def main(path: Path, gigabytes: float, kind: str) -> None:
    """Write one decoder."""
    write(path, Shape.of(gigabytes * 1e9 / TYPES[kind][1].itemsize), kind)


if __name__ == "__main__":
    main()
