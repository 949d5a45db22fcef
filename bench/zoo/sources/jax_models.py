"""JAX: small flax networks, one for every habit of writing them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax2onnx import to_onnx

EXPORTERS = ("jax2onnx",)
RNGS = nnx.Rngs(0)
NETWORKS: dict[str, tuple[Callable[[], nnx.Module], tuple[int | str, ...]]] = {}


def network(*shape: int | str) -> Callable[[Callable[[], nnx.Module]], Callable[[], nnx.Module]]:
    """Registers a function that builds a network whose input has this shape; "B" is a dynamic batch."""

    def registered(build: Callable[[], nnx.Module]) -> Callable[[], nnx.Module]:
        NETWORKS[build.__name__] = build, shape
        return build

    return registered


def names() -> list[str]:
    """The networks below."""
    return list(NETWORKS)


def export(name: str, exporter: str, file: Path) -> dict[str, Any]:
    """Build the network, draw its norms and biases, and export it."""
    build, shape = NETWORKS[name]
    model, draw = build(), np.random.default_rng(0)
    for path, value in nnx.iter_graph(model):
        if isinstance(value, nnx.Variable) and path:
            if path[-1] in ("mean", "bias"):
                value[...] = jnp.asarray(draw.normal(0, 0.2, value[...].shape), jnp.float32)
            if path[-1] in ("var", "scale"):
                value[...] = jnp.asarray(draw.uniform(0.5, 1.5, value[...].shape), jnp.float32)
    model.eval()
    to_onnx(model, [shape], return_mode="file", output_path=str(file))
    return {
        "exporter": exporter,
        "inputs": {"in_0": {"shape": [2 if size == "B" else size for size in shape]}},
    }


class ConvNorm(nnx.Module):
    """Convolution, BatchNormalization, Relu."""

    def __init__(self, fan_in: int, fan_out: int, k: int = 3, st: int = 1, g: int = 1) -> None:
        self.conv = nnx.Conv(fan_in, fan_out, (k, k), strides=st, feature_group_count=g, rngs=RNGS)
        self.norm = nnx.BatchNorm(fan_out, use_running_average=True, rngs=RNGS)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(x)))


@network("B", 16, 16, 3)
def cnn_bn() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.a = ConvNorm(3, 8)
            self.b = ConvNorm(8, 12, st=2)
            self.l = nnx.Linear(12 * 64, 16, rngs=RNGS)
            self.o = nnx.Linear(16, 4, rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = self.b(self.a(x))
            x = x.reshape(x.shape[0], -1)
            return self.o(jax.nn.relu(self.l(x)))

    return Network()


@network("B", 16, 16, 3)
def resnet() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.a = ConvNorm(3, 8)
            self.b = ConvNorm(8, 8)
            self.c = nnx.Conv(8, 8, (3, 3), rngs=RNGS)
            self.o = nnx.Linear(8, 4, rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = self.a(x)
            x = jax.nn.relu(x + self.c(self.b(x)))
            return self.o(x.mean((1, 2)))

    return Network()


@network(2, 16, 16, 3)
def sepconv_pool() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.a = ConvNorm(3, 8)
            self.d = ConvNorm(8, 8, g=8)
            self.p = ConvNorm(8, 16, 1)
            self.o = nnx.Linear(16, 4, rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.max_pool(self.a(x), window_shape=(2, 2), strides=(2, 2))
            x = nnx.avg_pool(self.p(self.d(x)), window_shape=(2, 2), strides=(2, 2))
            return self.o(x.max((1, 2)))

    return Network()


@network(3, 10)
def mlp_acts() -> nnx.Module:
    activations = (jax.nn.relu, jax.nn.silu, jnp.tanh, jax.nn.gelu, jax.nn.elu, jax.nn.softmax)

    class Network(nnx.Module):
        def __init__(self) -> None:
            sizes = ((10, 16), (16, 16), (16, 16), (16, 16), (16, 16), (16, 4))
            self.layers = nnx.List([nnx.Linear(*size, rngs=RNGS) for size in sizes])

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer, activation in zip(self.layers, activations, strict=True):
                x = activation(layer(x))
            return x

    return Network()


@network("B", 10)
def ln_residual_mlp() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.i = nnx.Linear(10, 16, rngs=RNGS)
            self.n = nnx.LayerNorm(16, rngs=RNGS)
            self.a = nnx.Linear(16, 32, rngs=RNGS)
            self.b = nnx.Linear(32, 16, rngs=RNGS)
            self.o = nnx.Linear(16, 3, rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = self.i(x)
            x = x + self.b(jax.nn.relu(self.a(self.n(x))))
            return self.o(x)

    return Network()


@network(2, 16, 16, 1)
def autoenc_convt() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Conv(1, 8, (3, 3), strides=2, rngs=RNGS)
            self.b = nnx.ConvTranspose(8, 6, (3, 3), strides=(2, 2), rngs=RNGS)
            self.c = nnx.Conv(6, 1, (3, 3), rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.c(jax.nn.relu(self.b(jax.nn.relu(self.a(x)))))

    return Network()


@network(1, 16, 16, 1)
def unet_cat() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Conv(1, 8, (3, 3), rngs=RNGS)
            self.b = nnx.Conv(8, 12, (3, 3), rngs=RNGS)
            self.c = nnx.Conv(20, 6, (3, 3), rngs=RNGS)
            self.o = nnx.Conv(6, 2, (1, 1), rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            a = jax.nn.relu(self.a(x))
            b = jax.nn.relu(self.b(nnx.max_pool(a, window_shape=(2, 2), strides=(2, 2))))
            b = jnp.repeat(jnp.repeat(b, 2, 1), 2, 2)
            return self.o(jax.nn.relu(self.c(jnp.concatenate([a, b], -1))))

    return Network()


@network(2, 12, 12, 3)
def groupnorm_glu() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Conv(3, 16, (3, 3), rngs=RNGS)
            self.n = nnx.GroupNorm(16, num_groups=4, rngs=RNGS)
            self.b = nnx.Conv(16, 24, (1, 1), rngs=RNGS)
            self.o = nnx.Linear(12, 4, rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = jax.nn.relu(self.n(self.a(x)))
            return self.o(jax.nn.glu(self.b(x), -1).mean((1, 2)))

    return Network()


@network(2, 20, 4)
def conv1d_dilated() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Conv(4, 8, (3,), padding="CAUSAL", kernel_dilation=2, rngs=RNGS)
            self.b = nnx.Conv(8, 8, (3,), padding="VALID", rngs=RNGS)
            self.o = nnx.Linear(8 * 18, 3, rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = jax.nn.relu(self.b(jax.nn.relu(self.a(x))))
            return self.o(x.reshape(2, -1))

    return Network()


@network(3, 10)
def embed_bag_einsum() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jax.random.normal(jax.random.key(0), (10, 4, 6)))
            self.o = nnx.Linear(24, 3, rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            h = jax.nn.relu(jnp.einsum("bi,ijk->bjk", x, self.w[...]))
            return self.o(h.reshape(3, 24))

    return Network()


@network(2, 8, 10)
def mixer() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.n = nnx.LayerNorm(10, rngs=RNGS)
            self.t = nnx.Linear(8, 12, rngs=RNGS)
            self.u = nnx.Linear(12, 8, rngs=RNGS)
            self.a = nnx.Linear(10, 20, rngs=RNGS)
            self.b = nnx.Linear(20, 10, rngs=RNGS)
            self.o = nnx.Linear(10, 3, rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = x + self.u(jax.nn.gelu(self.t(self.n(x).swapaxes(1, 2)))).swapaxes(1, 2)
            x = x + self.b(jax.nn.gelu(self.a(x)))
            return self.o(x.mean(1))

    return Network()


@network(2, 6, 12)
def mha() -> nnx.Module:

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.m = nnx.MultiHeadAttention(3, 12, decode=False, rngs=RNGS)
            self.o = nnx.Linear(12, 3, rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.o((x + self.m(x)).mean(1))

    return Network()
