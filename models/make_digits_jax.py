"""Train a small convolutional net without BatchNormalization in JAX (Flax) and export it with jax2onnx."""

from __future__ import annotations

import digits
import jax
import optax
from flax import nnx
from jax2onnx import to_onnx

STEPS = 1000
BATCH = 64


class Residual(nnx.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(channels, channels, (3, 3), rngs=rngs)
        self.second = nnx.Conv(channels, channels, (3, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(x + self.second(nnx.relu(self.first(x))))


class DigitsJax(nnx.Module):
    """Return logits of shape (n, 10) for images of shape (n, 8, 8, 1)."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.first = Residual(16, rngs)
        self.down = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.second = Residual(32, rngs)
        self.hidden = nnx.Linear(32, 32, rngs=rngs)
        self.classifier = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = self.first(nnx.relu(self.stem(image)))
        x = self.second(nnx.relu(self.down(x)))
        return self.classifier(nnx.relu(self.hidden(x.mean(axis=(1, 2)))))


@nnx.jit
def step(net: DigitsJax, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> None:
    def loss(net: DigitsJax) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(net(images), labels).mean()

    optimizer.update(net, nnx.grad(loss)(net))


def train(net: DigitsJax, images: jax.Array, labels: jax.Array) -> None:
    """Fit ``net`` with AdamW and a one-cycle learning rate on random batches."""
    optimizer = nnx.Optimizer(net, optax.adamw(optax.cosine_onecycle_schedule(STEPS, 1e-2)), wrt=nnx.Param)
    for key in jax.random.split(jax.random.key(digits.SEED), STEPS):
        batch = jax.random.choice(key, len(images), (BATCH,), replace=False)
        step(net, optimizer, images[batch], labels[batch])


def main() -> None:
    data, _ = digits.split()
    net = DigitsJax(nnx.Rngs(digits.SEED))
    train(net, jax.numpy.asarray(data.laid_out(digits.CHANNELS_LAST)), jax.numpy.asarray(data.labels))
    model = to_onnx(
        net,
        [("batch", *digits.CHANNELS_LAST)],
        model_name="digits_jax",
        opset=21,
        input_names=["image"],
        output_names=["logits"],
    )
    digits.publish(
        model,
        layout=digits.CHANNELS_LAST,
        script=__file__,
        training=f"AdamW, one-cycle learning rate to 1e-2, {STEPS} batches of {BATCH}, seed {digits.SEED}",
        packages=["jax", "flax", "jax2onnx", "onnx"],
    )


if __name__ == "__main__":
    main()
