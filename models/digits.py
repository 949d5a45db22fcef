"""What the example models share: the data, its split, and what is written into every file.

Run as a script, writes the test images and their labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import Message
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FLOAT = onnx.TensorProto.FLOAT
FOLDER = Path(__file__).parent
SEED = 0
CALIBRATION_IMAGES = 64

# The shape of one image. Every model has one input, named `image`, in one of these layouts.
CHANNELS_FIRST = (1, 8, 8)
CHANNELS_LAST = (8, 8, 1)
FLAT = (64,)


class Digits(NamedTuple):
    """Images of digits, float32 in [0, 1], shape (n, 8, 8), and their labels, int64, shape (n,)."""

    images: np.ndarray
    labels: np.ndarray

    def laid_out(self, layout: tuple[int, ...]) -> np.ndarray:
        """Return the images with each in the shape ``layout``."""
        return self.images.reshape(-1, *layout)


def split() -> tuple[Digits, Digits]:
    """Return 1347 images to train on and 450 to test on, the classes in equal proportion in both."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)  # pixels are counts from 0 to 16
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target.astype(np.int64), test_size=0.25, stratify=digits.target, random_state=SEED
    )
    return Digits(train_x, train_y), Digits(test_x, test_y)


def predict(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Return the class ONNX Runtime finds most likely per image, from the only output of shape (n, 10)."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = [output for output in session.run(None, {"image": images}) if output.shape[1:] == (10,)]
    return scores.argmax(axis=1)


def publish(
    model: onnx.ModelProto, *, layout: tuple[int, ...], script: str, training: str, packages: Iterable[str]
) -> None:
    """Write ``model`` beside ``script``, under its name, and an .npz of inputs for it.

    The metadata of the file says what it is and how well it does: the accuracy is measured on the exported
    graph. ``packages`` are the distributions that made it, the framework first; their versions are recorded.
    """
    data, test = split()
    accuracy = float(np.mean(predict(model, test.laid_out(layout)) == test.labels))
    versions = [f"{package} {version(package)}" for package in packages]
    _strip_traces(model)
    onnx.helper.set_model_props(
        model,
        {
            "accuracy": f"{accuracy:.4f}",
            "dataset": "scikit-learn digits: 1797 images of 8x8 pixels, divided by 16",
            "split": f"stratified, random_state {SEED}: 1347 to train, 450 to test; accuracy is on the 450",
            "training": training,
            "framework": versions[0],
            "versions": ", ".join(versions),
            "script": f"models/{Path(script).name}",
        },
    )
    onnx.checker.check_model(model, full_check=True)
    target = FOLDER / Path(script).with_suffix(".onnx").name.removeprefix("make_")
    contents = model.SerializeToString(deterministic=True)
    target.write_bytes(contents)
    # Training images, for calibration: statistics of test images would leak into what these test.
    inputs = data.laid_out(layout)[:CALIBRATION_IMAGES]
    np.savez_compressed(target.with_suffix(".npz"), image=inputs)
    parameters = sum(
        int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type == FLOAT
    )
    print(f"{target.name}: accuracy {accuracy:.4f}, {parameters:,} parameters, {len(contents):,} bytes")


def main() -> None:
    _, test = split()
    np.savez_compressed(FOLDER / "digits_test.npz", images=test.images, labels=test.labels)


def _strip_traces(message: Message) -> None:
    """Clear every doc string and inner metadata: exporters put stack traces, with paths, there."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in value if field.is_repeated else [value]:
                _strip_traces(child)


if __name__ == "__main__":
    main()
