"""Whether an input is large enough for the windows that slide over it.

Inference does not say: it rounds towards zero, and so finds one position for a window that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx import NodeProto, helper

Shape = tuple[int, ...]

_WEIGHT = {
    "Conv": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
    "AveragePool": None,
    "LpPool": None,
    "MaxPool": None,
}
_SCALED = frozenset({"ConvTranspose", "Crop", "DeformConv", "Resize", "Upsample"})


def is_too_small(node: NodeProto, shape: Callable[[str], Shape | None]) -> bool:
    """Whether a convolution or pooling has no room for its kernel, or a crop or resize leaves nothing.

    For nodes of the default domain with all the inputs they need."""
    if node.op_type in _WEIGHT:
        return _lacks_room(node, shape)
    return node.op_type in _SCALED and any(size <= 0 for size in shape(node.output[0]) or ())


def _lacks_room(node: NodeProto, shape: Callable[[str], Shape | None]) -> bool:
    """(Padded size) < dilation * (kernel - 1) + 1 for some direction; same-padding and ceil mode make room."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or given.get("ceil_mode"):
        return False
    image, weight = shape(node.input[0]), _WEIGHT[node.op_type]
    kernel = given.get("kernel_shape") or (weight and (shape(node.input[weight]) or ())[2:])
    if image is None or not kernel:
        return False
    directions = len(kernel)
    pads = given.get("pads") or [0] * 2 * directions
    dilations = given.get("dilations") or [1] * directions
    rows = zip(image[2:], kernel, dilations, pads[:directions], pads[directions:], strict=False)
    return any(size + before + after < dilation * (k - 1) + 1 for size, k, dilation, before, after in rows)
