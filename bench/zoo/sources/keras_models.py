"""Keras: the applications, thin, and small networks around every kind of layer; exported by tf2onnx."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from keras import layers

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

EXPORTERS = ("tf2onnx",)
NETWORKS: dict[str, tuple[Callable[[], keras.Model], int]] = {}
APPLICATIONS = {
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "MobileNetV3Large": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "DenseNet121": 64,
    "NASNetMobile": 64,
    "VGG16": 32,
    "VGG19": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "ResNet101": 32,
    "Xception": 71,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "ConvNeXtTiny": 32,
}
"""Their sides of the image."""
WHOLE = ("MobileNet", "EfficientNet", "NASNet", "ConvNeXt")
"""Those that are small, or use numbers of channels outside layers."""


def network(opset: int) -> Callable[[Callable[[], keras.Model]], Callable[[], keras.Model]]:
    """Registers a function that builds a network, to be exported at this opset."""

    def registered(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
        NETWORKS[build.__name__] = build, opset
        return build

    return registered


def names() -> list[str]:
    """The applications, and the networks below."""
    return [*APPLICATIONS, *NETWORKS]


def export(name: str, exporter: str, file: Path) -> dict[str, Any]:
    """Build the network, draw its norms and biases, and export it."""
    keras.utils.set_random_seed(0)
    build, opset = NETWORKS.get(name, (partial(_application, name), 15))
    network, draw = build(), np.random.default_rng(0)
    for weight in network.weights:
        if any(word in weight.path for word in ("variance", "gamma")):
            weight.assign(draw.uniform(0.5, 1.5, weight.shape))
        elif any(word in weight.path for word in ("moving_mean", "beta", "bias", "alpha")):
            weight.assign(draw.normal(0, 0.2, weight.shape))
    inputs = [
        tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name=f"input{k}")
        for k, tensor in enumerate(network.inputs)
    ]
    called = tf.function(
        lambda *tensors: network(list(tensors) if len(tensors) > 1 else tensors[0], training=False),
        input_signature=inputs,
    )
    tf2onnx.convert.from_function(called, input_signature=inputs, opset=opset, output_path=str(file))
    shapes = {spec.name: {"shape": [2, *spec.shape[1:]]} for spec in inputs}
    return {"exporter": exporter, "opset": opset, "inputs": shapes}


def _application(name: str) -> keras.Model:
    build, side = getattr(keras.applications, name), APPLICATIONS[name]
    shape = (side, side, 3)
    if name.startswith(WHOLE):
        thin = {"alpha": 0.35} if name == "MobileNetV2" else {"alpha": 0.25} if name == "MobileNet" else {}
        return build(input_shape=shape, weights=None, classes=10, **thin)
    with _thin_layers(4):
        return build(input_shape=shape, weights=None, classes=12)


@contextmanager
def _thin_layers(divisor: int) -> Iterator[None]:
    """Within it, layers are built with that part of their channels."""

    def thinned(init: Callable[..., None]) -> Callable[..., None]:
        return lambda self, channels, *args, **kwargs: init(
            self, max(1, channels // divisor), *args, **kwargs
        )

    originals = {kind: kind.__init__ for kind in (layers.Conv2D, layers.SeparableConv2D, layers.Dense)}
    try:
        for kind, init in originals.items():
            kind.__init__ = thinned(init)
        yield
    finally:
        for kind, init in originals.items():
            kind.__init__ = init


def given(*shape: int, **how: Any) -> Any:
    """An input of the network."""
    return keras.Input(shape, **how)


def model(inputs: Any, outputs: Any) -> keras.Model:
    """The network between them."""
    return keras.Model(inputs, outputs)


@network(9)
def stack_dense_bn() -> keras.Model:
    x0 = given(12)
    x = x0
    for n in (32, 24, 16):
        x = layers.Dense(n, use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.Activation("relu")(x)
        x = layers.Dropout(0.3)(x)
    return model(x0, layers.Dense(3, activation="softmax")(x))


@network(13)
def sepconv_mult() -> keras.Model:
    x0 = given(32, 32, 3)
    x = layers.SeparableConv2D(16, 3, padding="same", activation="relu", depth_multiplier=2)(x0)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=3, strides=2, padding="same")(x)
    x = layers.ReLU(6.0)(x)
    x = layers.Conv2D(12, 1)(x)
    x = layers.LeakyReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return model(x0, layers.Dense(5)(x))


@network(13)
def conv1d_causal() -> keras.Model:
    x0 = given(40, 4)
    x = layers.Conv1D(12, 3, padding="causal", dilation_rate=2, activation="relu")(x0)
    x = layers.Conv1D(16, 3, strides=2, activation="elu")(x)
    x = layers.SeparableConv1D(12, 3, activation="relu")(x)
    x = layers.MaxPooling1D()(x)
    x = layers.SpatialDropout1D(0.2)(x)
    x = layers.Conv1D(8, 3)(x)
    x = layers.LayerNormalization()(x)
    x = layers.Flatten()(x)
    return model(x0, layers.Dense(5)(x))


@network(13)
def conv3d() -> keras.Model:
    x0 = given(8, 16, 16, 1)
    x = layers.Conv3D(8, 3, padding="same", activation="relu")(x0)
    x = layers.MaxPooling3D()(x)
    x = layers.Conv3D(12, 3)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.Conv3DTranspose(6, 3, strides=2)(x)
    x = layers.ZeroPadding3D(1)(x)
    x = layers.Cropping3D(2)(x)
    x = layers.GlobalMaxPooling3D()(x)
    return model(x0, layers.Dense(4)(x))


@network(13)
def convt() -> keras.Model:
    x0 = given(16)
    x = layers.Dense(4 * 4 * 12, use_bias=False)(x0)
    x = layers.BatchNormalization()(x)
    x = layers.LeakyReLU(0.2)(x)
    x = layers.Reshape((4, 4, 12))(x)
    x = layers.Conv2DTranspose(16, 5, strides=1, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.LeakyReLU()(x)
    x = layers.Conv2DTranspose(8, 4, strides=2, padding="same")(x)
    x = layers.ReLU()(x)
    return model(x0, layers.Conv2DTranspose(1, 4, strides=2, padding="same", activation="tanh")(x))


@network(13)
def upsample_crop_pad() -> keras.Model:
    x0 = given(30, 30, 3)
    x = layers.ZeroPadding2D(((1, 2), (2, 1)))(x0)
    a = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.MaxPooling2D()(a)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    c = layers.Cropping2D(((0, 1), (1, 0)))(a) if False else a
    h = min(x.shape[1], c.shape[1])
    x = layers.Cropping2D(((0, x.shape[1] - h), (0, x.shape[2] - h)))(x)
    c = layers.Cropping2D(((0, c.shape[1] - h), (0, c.shape[2] - h)))(c)
    x = layers.Concatenate()([x, c])
    x = layers.Conv2D(8, 3, padding="same", activation="swish")(x)
    return model(x0, layers.Conv2D(3, 1, activation="softmax")(x))


@network(17)
def norms() -> keras.Model:
    x0 = given(16, 16, 3)
    x = layers.Conv2D(16, 3)(x0)
    x = layers.GroupNormalization(4)(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(16, 3)(x)
    x = layers.LayerNormalization()(x)
    x = layers.Activation("tanh")(x)
    x = layers.Conv2D(16, 3)(x)
    x = layers.GroupNormalization(-1)(x)
    x = layers.PReLU(shared_axes=[1, 2])(x)
    x = layers.Conv2D(8, 3)(x)
    x = layers.PReLU()(x)
    x = layers.UnitNormalization()(x)
    x = layers.Flatten()(x)
    return model(x0, layers.Dense(4)(x))


def _convolved(x: Any, channels: int) -> Any:
    return layers.Conv2D(channels, 3, padding="same", activation="relu")(x)


@network(13)
def merges() -> keras.Model:
    x0 = given(16, 16, 3)
    j = given(10)
    f = partial(_convolved, x0)
    x = layers.Maximum()([f(8), f(8)])
    y = layers.Average()([f(8), f(8), f(8)])
    z = layers.Multiply()([x, y])
    w = layers.Subtract()([z, f(8)])
    w = layers.Minimum()([w, f(8)])
    g = layers.Concatenate()([layers.GlobalMaxPooling2D()(w), layers.GlobalAveragePooling2D()(z)])
    d = layers.Dense(16, activation="tanh")(j)
    t = layers.Dot(1)([layers.Dense(16)(g), d])
    return model([x0, j], [layers.Dense(3, activation="softmax")(layers.Concatenate()([g, d])), t])


@network(13)
def embed_conv1d() -> keras.Model:
    x0 = given(20, dtype="int32")
    x = layers.Embedding(50, 12)(x0)
    c = [layers.GlobalMaxPooling1D()(layers.Conv1D(8, k, activation="relu")(x)) for k in (2, 3, 4)]
    x = layers.Concatenate()(c)
    x = layers.Dropout(0.5)(x)
    return model(x0, layers.Dense(3, activation="sigmoid")(layers.Dense(16, activation="relu")(x)))


@network(9)
def embed_flatten_dense() -> keras.Model:
    x0 = given(8, dtype="int32")
    x = layers.Flatten()(layers.Embedding(50, 6)(x0))
    return model(x0, layers.Dense(1, activation="sigmoid")(layers.Dense(16, activation="relu")(x)))


@network(13)
def timedist_cnn_lstm() -> keras.Model:
    x0 = given(5, 16, 16, 1)
    x = layers.TimeDistributed(layers.Conv2D(8, 3, activation="relu"))(x0)
    x = layers.TimeDistributed(layers.MaxPooling2D())(x)
    x = layers.TimeDistributed(layers.Flatten())(x)
    x = layers.TimeDistributed(layers.Dense(12, activation="relu"))(x)
    x = layers.LSTM(10, return_sequences=True)(x)
    x = layers.TimeDistributed(layers.Dense(6))(x)
    return model(x0, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@network(13)
def timedist_dense() -> keras.Model:
    x0 = given(5, 7)
    x = layers.TimeDistributed(layers.Dense(16, activation="relu"))(x0)
    x = layers.TimeDistributed(layers.Dense(12, activation="relu"))(x)
    x = layers.Permute((2, 1))(x)
    x = layers.Dense(9, activation="relu")(x)
    x = layers.Flatten()(x)
    return model(x0, layers.Dense(3)(x))


@network(13)
def resnet_v2_small() -> keras.Model:
    x0 = given(32, 32, 3)
    x = layers.Conv2D(12, 3, padding="same")(x0)
    for n, self in ((12, 1), (24, 2), (24, 1)):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        sc = layers.Conv2D(n, 1, strides=self)(y) if self > 1 else x
        y = layers.Conv2D(n, 3, strides=self, padding="same", use_bias=False)(y)
        y = layers.Conv2D(n, 3, padding="same")(layers.ReLU()(layers.BatchNormalization()(y)))
        x = layers.Add()([y, sc])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    return model(x0, layers.Dense(10, activation="softmax")(x))


@network(13)
def se_keras() -> keras.Model:
    x0 = given(32, 32, 3)
    x = layers.Conv2D(16, 3, activation="relu")(x0)
    self = layers.GlobalAveragePooling2D(keepdims=False)(x)
    self = layers.Reshape((1, 1, 16))(self)
    self = layers.Dense(4, activation="relu")(self)
    self = layers.Dense(16, activation="sigmoid")(self)
    x = layers.Multiply()([x, self])
    x = layers.Conv2D(12, 3, activation="relu")(x)
    self = layers.GlobalAveragePooling2D()(x)
    self = layers.Dense(12, activation="hard_sigmoid")(layers.Dense(3, activation="relu")(self))
    x = x * self[:, None, None, :]
    x = layers.Flatten()(x)
    return model(x0, layers.Dense(4)(x))


@network(13)
def rescale_norm() -> keras.Model:
    x0 = given(32, 32, 3)
    x = layers.Rescaling(1 / 255.0)(x0)
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(x)
    x = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.AveragePooling2D(3, padding="same")(x)
    x = layers.Conv2D(12, 3, dilation_rate=2, padding="same", activation="selu")(x)
    x = layers.Conv2D(12, 3, padding="same", activation="softplus")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.ActivityRegularization()(x)
    return model(x0, layers.Dense(4)(x))


@network(13)
def shared_siamese() -> keras.Model:
    a, b = (given(20), given(20))
    d = keras.Sequential([layers.Dense(24, activation="relu"), layers.Dense(12)])
    x, y = (d(a), d(b))
    return model([a, b], layers.Dense(1, activation="sigmoid")(keras.ops.abs(x - y)))


@network(13)
def wide_deep() -> keras.Model:
    a = given(4)
    c = given(1, dtype="int32")
    e = layers.Flatten()(layers.Embedding(20, 5)(c))
    x = layers.Concatenate()([a, e])
    d = layers.Dense(8, activation="relu")(layers.Dense(24, activation="relu")(x))
    w = layers.Dense(1)(x)
    return model([a, c], layers.Add()([w, layers.Dense(1)(d)]))


@network(13)
def maxout_lambda() -> keras.Model:
    x0 = given(20)
    x = layers.Dense(36)(x0)
    x = layers.Reshape((12, 3))(x)
    x = layers.Lambda(lambda t: tf.reduce_max(t, -1), output_shape=(12,))(x)
    x = layers.Dense(16)(x)
    x = layers.Lambda(lambda t: tf.nn.crelu(t), output_shape=(32,))(x)
    return model(x0, layers.Dense(3)(x))


@network(13)
def d2s_super_res() -> keras.Model:
    x0 = given(16, 16, 1)
    x = layers.Conv2D(16, 5, padding="same", activation="tanh")(x0)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(32, 3, padding="same")(x)
    x = layers.Lambda(lambda t: tf.nn.depth_to_space(t, 2), output_shape=(32, 32, 8))(x)
    x = layers.Conv2D(4, 3, padding="same")(x)
    return model(x0, layers.Lambda(lambda t: tf.nn.depth_to_space(t, 2), output_shape=(64, 64, 1))(x))


@network(13)
def s2d_unet() -> keras.Model:
    x0 = given(32, 32, 3)
    x = layers.Lambda(lambda t: tf.nn.space_to_depth(t, 2), output_shape=(16, 16, 12))(x0)
    a = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(a)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Concatenate()([a, x])
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return model(x0, layers.Conv2DTranspose(2, 2, strides=2)(x))


@network(13)
def attention_mlp() -> keras.Model:
    x0 = given(10, 12)
    q = layers.Dense(16)(x0)
    v = layers.Dense(16)(x0)
    a = layers.Attention()([q, v])
    b = layers.AdditiveAttention()([q, v])
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(a), layers.GlobalMaxPooling1D()(b)])
    return model(x0, layers.Dense(3)(x))


@network(13)
def bidir_gru() -> keras.Model:
    x0 = given(12, 5)
    x = layers.Bidirectional(layers.GRU(8, return_sequences=True))(x0)
    x = layers.Dense(12, activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    return model(x0, layers.Dense(3)(x))


@network(13)
def locally_connected_like() -> keras.Model:
    x0 = given(16, 4)

    class LC(layers.Layer):
        def build(self, sh):
            self.w = self.add_weight(shape=(14, 12, 10))
            self.b = self.add_weight(shape=(14, 10))

        def call(self, x):
            p = tf.concat([x[:, k : k + 14] for k in range(3)], -1)
            return tf.einsum("btk,tko->bto", p, self.w) + self.b

    x = layers.Conv1D(4, 1, activation="relu")(x0)
    x = LC()(x)
    x = layers.ReLU()(x)
    return model(x0, layers.Dense(3)(layers.Flatten()(x)))


@network(13)
def l2norm_cos_head() -> keras.Model:
    x0 = given(20)
    x = layers.Dense(24, activation="relu")(x0)
    x = layers.Lambda(lambda t: tf.math.l2_normalize(t, 1), output_shape=(24,))(x)
    return model(x0, layers.Dense(6, use_bias=False)(x))


@network(13)
def mixed_f16() -> keras.Model:
    x0 = given(16, 16, 3)
    p = "mixed_float16"
    x = layers.Conv2D(8, 3, activation="relu", dtype=p)(x0)
    x = layers.BatchNormalization(dtype=p)(x)
    x = layers.Conv2D(12, 3, activation="relu", dtype=p)(x)
    x = layers.GlobalAveragePooling2D(dtype=p)(x)
    return model(x0, layers.Dense(3, dtype="float32")(x))


@network(13)
def f64_mlp() -> keras.Model:
    x0 = given(10, dtype="float64")
    x = layers.Dense(16, activation="relu", dtype="float64")(x0)
    x = layers.BatchNormalization(dtype="float64")(x)
    return model(x0, layers.Dense(3, dtype="float64")(x))


@network(13)
def convlstm() -> keras.Model:
    x0 = given(4, 8, 8, 2)
    x = layers.ConvLSTM2D(4, 3, padding="same")(x0)
    return model(x0, layers.Dense(3)(layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(x))))


@network(13)
def channels_first_perm() -> keras.Model:
    x0 = given(3, 16, 16)
    x = layers.Permute((2, 3, 1))(x0)
    x = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.Flatten()(x)
    x = layers.RepeatVector(4)(x)
    x = layers.Conv1D(6, 2)(x)
    return model(x0, layers.Dense(3)(layers.Flatten()(x)))
