"""Train a multilayer perceptron in scikit-learn and convert it with skl2onnx."""

from __future__ import annotations

import digits
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.neural_network import MLPClassifier


def main() -> None:
    data, _ = digits.split()
    net = MLPClassifier(hidden_layer_sizes=(64, 32), max_iter=300, random_state=digits.SEED)
    net.fit(data.laid_out(digits.FLAT), data.labels)
    model = to_onnx(
        net,
        initial_types=[("image", FloatTensorType([None, 64]))],
        options={"zipmap": False},  # probabilities as a tensor, not as a list of dictionaries
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    digits.publish(
        model,
        layout=digits.FLAT,
        script=__file__,
        training=f"Adam, {net.n_iter_} epochs, random_state {digits.SEED}",
        packages=["scikit-learn", "skl2onnx", "onnx"],
    )


if __name__ == "__main__":
    main()
