"""Random networks of everything that sites and skip connections are made of, deepened in every way."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from deepening import assert_identical
from onnx import TensorProto, helper, numpy_helper

from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.deepen_plan import DeepenPlan
from onnx_grow.growth.deepening import apply_deepen, plan_deepen
from onnx_grow.model import Model, load

CASES = int(os.environ.get("ONNX_GROW_CASES", "48"))


class Network:
    """A random network, written front to back; `tensor` is its end so far, of shape (batch, channels, *pixels)."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list = []
        self.weights: list = []
        self.outputs: list = []
        self.count = 0
        dims = int(self.rng.integers(0, 3))
        self.shape = (2, self.pick(2, 3, 4, 6), *(int(n) for n in self.rng.integers(5, 9, dims)))
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape[1:]])
        self.tensor = "x"

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def weight(self, *shape: int, positive: bool = False) -> str:
        values = self.rng.uniform(0.5, 1.5, shape) if positive else self.rng.standard_normal(shape)
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array((values / np.sqrt(fan_in)).astype(np.float32), name))
        return name

    def integers(self, *values: int) -> str:
        name = f"integers{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def scalar(self, value: float) -> str:
        name = f"scalar{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def node(self, op_type: str, *inputs: str, **attributes) -> str:
        self.count += 1
        name = self.pick("", f"{op_type}_{self.count}", f"/block{self.count // 6}/{op_type}{self.count}")
        output = f"t{self.count}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name, **attributes))
        return output

    def then(self, op_type: str, *others: str, **attributes) -> None:
        self.tensor = self.node(op_type, self.tensor, *others, **attributes)

    def show(self) -> None:
        """Make the end so far an output."""
        self.outputs.append((self.tensor, ["N", *(f"d{i}" for i in range(1, len(self.shape)))]))

    def linear(self, channels: int, *, keep: bool = False) -> None:
        """A layer with weights; with `keep` it leaves the pixels as they are."""
        own, pixels = self.shape[1], self.shape[2:]
        if not pixels:
            self.dense(own, channels)
        else:
            groups = self.pick(1, 1, 2, own) if channels % own == 0 else 1
            groups = groups if own % groups == 0 and channels % groups == 0 else 1
            kernel = [self.pick(1, 3) if keep else min(self.pick(1, 2, 3, 3), size) for size in pixels]
            pads = [size // 2 for size in kernel] * 2 if keep else [0] * 2 * len(kernel)
            strides = [1 if keep else self.pick(1, 1, 2) for _ in kernel]
            inputs = [self.weight(channels, own // groups, *kernel)]
            if self.pick(True, False):
                inputs.append(self.weight(channels))
            if self.pick(True, False, False):
                self.channels_last(inputs, group=groups, pads=pads, strides=strides)
            else:
                self.then("Conv", *inputs, group=groups, pads=pads, strides=strides)
            pixels = tuple(
                (n + 2 * (k // 2) * keep - k) // s + 1
                for n, k, s in zip(pixels, kernel, strides, strict=True)
            )
        self.shape = (self.shape[0], channels, *pixels)

    def dense(self, own: int, channels: int) -> None:
        match self.pick("gemm", "transposed", "matmul", "bias"):
            case "gemm":
                self.then("Gemm", self.weight(own, channels), self.weight(channels))
            case "transposed":
                self.then("Gemm", self.weight(channels, own), transB=1)
            case "matmul":
                self.then("MatMul", self.node("Transpose", self.weight(channels, own)))
            case "bias":
                self.then("MatMul", self.weight(own, channels))
                self.then("Add", self.weight(channels))

    def channels_last(self, inputs: list[str], **attributes) -> None:
        """A convolution between transposes, as some exporters write it; what follows sees channels first again."""
        rank = len(self.shape)
        last, first = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
        self.then("Transpose", perm=last)
        self.then("Transpose", perm=first)
        self.then("Conv", *inputs, **attributes)
        self.then("Transpose", perm=last)
        if self.pick(True, False):
            self.then("Relu")
        self.then("Transpose", perm=first)

    def norm(self) -> None:
        channels = self.shape[1]
        match self.pick("none", "none", "batch", "batch", "instance", "scale", "nothing"):
            case "batch":
                vectors = [self.weight(channels) for _ in range(3)]
                epsilon = self.pick(1e-5, 1e-3)
                self.then(
                    "BatchNormalization", *vectors, self.weight(channels, positive=True), epsilon=epsilon
                )
            case "instance" if len(self.shape) > 2 and np.prod(self.shape[2:]) > 1:
                self.then("InstanceNormalization", self.weight(channels), self.weight(channels))
            case "scale":
                ones = [1] * (len(self.shape) - 2)
                self.then("Mul", self.weight(channels, *ones))
                self.then("Add", self.weight(1, channels, *ones))
            case "nothing":
                self.then(self.pick("Identity", "Dropout"))

    def activation(self) -> None:
        match self.pick(
            "relu", "relu", "relu", "clip", "max", "abs", "smooth", "leaky", "silu", "gelu", "none"
        ):
            case "relu":
                self.then("Relu")
            case "clip":
                self.then("Clip", self.scalar(self.pick(-1.0, 0.0, 0.25)), self.scalar(self.pick(1.0, 6.0)))
            case "max":
                self.then("Max", self.scalar(0.0))
                self.then("Min", self.scalar(6.0))
            case "abs":
                self.then("Abs")
            case "smooth":
                self.then(self.pick("Tanh", "Sigmoid", "Softplus", "Elu"))
            case "leaky":
                self.then("LeakyRelu", alpha=0.1)
            case "silu":
                self.tensor = self.node("Mul", self.node("Sigmoid", self.tensor), self.tensor)
            case "gelu":
                inner = self.node("Erf", self.node("Div", self.tensor, self.scalar(1.4142135)))
                self.then("Mul", self.node("Add", inner, self.scalar(1.0)))

    def attention(self) -> None:
        """Squeeze and excitation, or a gate."""
        channels, stream = self.shape[1], self.tensor
        gate = self.node("GlobalAveragePool", stream) if len(self.shape) > 2 else stream
        if len(self.shape) > 2:
            gate = self.node("Conv", gate, self.weight(channels, channels, *[1] * (len(self.shape) - 2)))
        else:
            gate = self.node("MatMul", gate, self.weight(channels, channels))
        self.tensor = self.node("Mul", stream, self.node(self.pick("Sigmoid", "HardSigmoid"), gate))

    def layer(self, channels: int | None = None, *, keep: bool = False) -> None:
        self.linear(channels or self.pick(2, 3, 4, 6), keep=keep)
        self.norm()
        self.activation()

    def residual(self, depth: int = 0) -> None:
        source, shape = self.tensor, self.shape
        if self.pick(True, False):
            self.norm()
            self.activation()
        for _ in range(int(self.rng.integers(0, 3))):
            self.layer(keep=True)
        if depth < 1 and self.pick(True, False, False):
            self.residual(depth + 1)
        if self.pick(True, False, False):
            self.attention()
        self.layer(shape[1], keep=True)
        if self.pick(True, False):
            scale = self.weight(shape[1], *[1] * (len(shape) - 2))
            self.tensor = self.node("Mul", scale, self.tensor)
        operands = [source, self.tensor]
        self.rng.shuffle(operands)
        if self.pick(True, False, False, False):
            self.show()
        self.tensor = self.node(self.pick("Add", "Add", "Sum"), *operands)
        if self.pick(True, False):
            self.activation()

    def joined(self) -> None:
        source, shape = self.tensor, self.shape
        self.layer(keep=True)
        one, channels = self.tensor, self.shape[1]
        self.tensor, self.shape = source, shape
        self.layer(self.pick(2, channels), keep=True)
        if self.shape[1] == channels and self.pick(True, False):
            self.tensor = self.node("Add", one, self.tensor)
        else:
            self.tensor = self.node("Concat", one, self.tensor, axis=1)
            self.shape = (shape[0], channels + self.shape[1], *shape[2:])

    def flattened(self) -> None:
        if len(self.shape) > 2:
            self.then("GlobalAveragePool")
            self.then("Reshape", self.integers(0, -1))
            self.shape = self.shape[:2]

    def model(self) -> Model:
        steps: list[Callable[[], None]] = [self.layer, self.layer, self.residual, self.residual, self.joined]
        for _ in range(int(self.rng.integers(2, 5))):
            self.pick(*steps)()
            if self.pick(True, False, False, False):
                self.show()
        self.flattened()
        for _ in range(int(self.rng.integers(0, 3))):
            self.pick(*steps)()
        self.show()
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}_{d}" for d in dims])
            for name, dims in dict(self.outputs).items()
        ]
        graph = helper.make_graph(self.nodes, "random", [self.input], values, self.weights)
        imports = [helper.make_opsetid("", self.pick(13, 17, 20))]
        return load(helper.make_model(graph, opset_imports=imports, ir_version=8))


@pytest.mark.parametrize("block", range(12))
def test_random_networks_keep_their_function_to_the_last_bit(block: int) -> None:
    deepened = 0
    for seed in range(block, CASES, 12):
        model = Network(seed).model()
        every = [None, 1, 2][seed % 3]
        for scheme in ("identity", "residual-copy", None):
            try:
                plan = plan_deepen(model, scheme=scheme, every=every, after=["*"] if seed % 4 == 3 else None)  # type: ignore[arg-type]
            except NothingToGrowError:
                continue
            deep = apply_deepen(model, DeepenPlan.from_json(plan.to_json()))
            assert deep.parameters - model.parameters == sum(layer.parameters for layer in plan.layers), seed
            try:
                assert_identical(model, deep, alive=False)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, scheme {scheme}: {error}") from error
            deepened += 1
    assert deepened
