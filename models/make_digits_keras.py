"""Train a small convolutional net in Keras and export it: channels last, depthwise separable convolutions.

tf2onnx folds every BatchNormalization into the convolution before it and puts the channels first, but for
one Reshape at the input.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import digits
import keras
import onnx
from keras import layers

EPOCHS = 30
BATCH = 64


def separable(x: keras.KerasTensor, channels: int) -> keras.KerasTensor:
    """Return depthwise and pointwise convolution, BatchNormalization and ReLU applied to ``x``."""
    x = layers.SeparableConv2D(channels, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def build() -> keras.Model:
    """Return a net from images of shape (n, 8, 8, 1) to probabilities of shape (n, 10)."""
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(24, 3, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Add()([separable(x, 24), x])
    x = layers.MaxPooling2D()(separable(x, 48))
    x = layers.Add()([separable(x, 48), x])
    x = layers.GlobalAveragePooling2D()(separable(x, 64))
    x = layers.Dropout(0.2)(layers.Dense(32, activation="relu")(x))
    return keras.Model(image, {"probabilities": layers.Dense(10, activation="softmax")(x)})


def export(net: keras.Model) -> onnx.ModelProto:
    """Return ``net`` as ONNX, the number of images left open."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        signature = [keras.InputSpec(shape=(None, 8, 8, 1), dtype="float32", name="image")]
        net.export(path, format="onnx", input_signature=signature, opset_version=15, verbose=False)
        return onnx.load(path)


def main() -> None:
    keras.utils.set_random_seed(digits.SEED)
    data, _ = digits.split()
    net = build()
    steps = EPOCHS * -(-len(data.images) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, steps)
    net.compile(keras.optimizers.Adam(schedule), {"probabilities": "sparse_categorical_crossentropy"})
    net.fit(
        data.laid_out(digits.CHANNELS_LAST),
        {"probabilities": data.labels},
        batch_size=BATCH,
        epochs=EPOCHS,
        verbose=0,
    )
    digits.publish(
        export(net),
        layout=digits.CHANNELS_LAST,
        script=__file__,
        training="Adam, cosine learning rate from 1e-2, "
        f"{EPOCHS} epochs, batches of {BATCH}, seed {digits.SEED}",
        packages=["keras", "tensorflow-cpu", "tf2onnx", "onnx"],
    )


if __name__ == "__main__":
    main()
