"""BatchNormalization put back where exporters have folded it into convolutions.

    gamma (x - mu) / sqrt(sigma^2 + eps) + beta = x    with gamma = sqrt(sigma^2 + eps), beta = mu

where mu and sigma^2 are the statistics that a convolution's output has on real data: what BatchNormalization would see in
training. So the function stays, in training too as far as batches are like the data, and high learning rates are safe again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import TensorProto

from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.calibration import Calibration, channel_statistics
from onnx_grow.growth.dataflow import Dataflow, operator
from onnx_grow.growth.insertion import Insertion
from onnx_grow.growth.normalization import identity_normalization
from onnx_grow.model import Draft, Model
from onnx_grow.shapes import infer as infer_shapes

__all__ = ["reinsert_normalization"]

EPSILON = 1e-5
CHANNELS = 1
"""The axis of channels in what a convolution computes."""


def reinsert_normalization(
    model: Model, calibration: Calibration, *, shapes: Mapping[str, Sequence[int]] | None = None
) -> Model:
    """The model with a BatchNormalization behind every convolution that may have lost its own; it computes the same function.

    These are convolutions with a bias, which folding leaves, whose output is neither normalised nor an output of the model.
    `calibration` and `shapes` are those of `deepen`.

    Raises NothingToGrowError where there is no such convolution, InvalidRequestError for data that do not fit the model.
    """
    flow = Dataflow(model)
    known = infer_shapes(model, shapes or None)
    places = {flow.nodes[index].output[0]: index for index in _folded(flow)}
    places = {name: index for name, index in places.items() if len(known.shape.get(name, ())) > CHANNELS}
    if not places:
        raise NothingToGrowError(
            "no convolution has lost a BatchNormalization: none has a bias and an output that nothing normalises",
            hint="leave out --reinsert-bn",
        )
    statistics = channel_statistics(model, known, dict.fromkeys(places, CHANNELS), calibration, 0)
    draft = Draft(model)
    for name, index in places.items():
        found, dtype = statistics[name], known.dtype.get(name, TensorProto.FLOAT)
        parameters = identity_normalization(
            np.array(found.mean), np.array(found.variance), EPSILON, dtype, dtype
        )
        insertion = Insertion(draft, flow, name, f"{flow.label(index)}/normalization")
        inputs = [insertion.weight(part, weight) for part, weight in parameters.weights()]
        insertion.close(insertion.add("BatchNormalization", [insertion.start, *inputs], epsilon=EPSILON))
    return draft.freeze()


def _folded(flow: Dataflow) -> Iterator[int]:
    """The convolutions behind which a BatchNormalization may have been."""
    for index, node in enumerate(flow.nodes):
        if operator(node) not in ("Conv", "ConvTranspose") or len(node.input) < 3 or not node.input[2]:
            continue
        if node.input[1] not in flow.constants or flow.is_visible(node.output[0]):
            continue
        readers = [operator(flow.nodes[reader]) for reader in flow.readers(node.output[0])]
        if readers and not any(reader.endswith("Normalization") for reader in readers):
            yield index
