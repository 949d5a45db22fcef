"""Whether the sizes at a node fit together, where inference does not say.

Inference was made for shapes that are partly unknown: it lets a Reshape change the number of elements, a window be
larger than its input (it rounds towards zero), a convolution take any number of channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from onnx import NodeProto, helper

from onnx_grow.shapes.types import Array

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Facts:
    inputs: Sequence[Shape | None]
    values: Sequence[Array | None]
    output: Shape | None
    given: Mapping[str, Any]

    def input(self, i: int) -> Shape | None:
        return self.inputs[i] if i < len(self.inputs) else None


def fits(node: NodeProto, shape: Callable[[str], Shape | None], value: Callable[[str], Array | None]) -> bool:
    """False where known sizes contradict each other; for nodes of the default domain."""
    checks = _CHECKS.get(node.op_type)
    if checks is None or not node.output:
        return True
    facts = _Facts(
        inputs=[shape(name) for name in node.input],
        values=[value(name) for name in node.input],
        output=shape(node.output[0]),
        given={attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute},
    )
    return all(check(facts) for check in checks)


def _has_room(facts: _Facts) -> bool:
    """Padded size >= dilation * (kernel - 1) + 1 in every direction; same-padding and ceil mode make room."""
    image, weight, given = facts.input(0), facts.input(1), facts.given
    kernel = given.get("kernel_shape") or (weight or ())[2:]
    if (
        image is None
        or given.get("ceil_mode")
        or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    ):
        return True
    directions = len(kernel)
    pads = given.get("pads") or [0] * 2 * directions
    dilations = given.get("dilations") or [1] * directions
    rows = zip(image[2:], kernel, dilations, pads[:directions], pads[directions:], strict=False)
    return all(size + before + after > dilation * (k - 1) for size, k, dilation, before, after in rows)


def _has_channels(facts: _Facts) -> bool:
    """Channels of the image = group * channels of the kernel (dimension 1 of its weight)."""
    image, weight = facts.input(0), facts.input(1)
    if image is None or weight is None or len(image) < 2 or len(weight) < 2:
        return True
    return image[1] == weight[1] * int(facts.given.get("group", 1))


def _has_transposed_channels(facts: _Facts) -> bool:
    image, weight = facts.input(0), facts.input(1)
    return image is None or weight is None or image[1:2] == weight[:1]


def _leaves_something(facts: _Facts) -> bool:
    return all(size > 0 for size in facts.output or ())


def _keeps_elements(facts: _Facts) -> bool:
    before = facts.input(0)
    return before is None or facts.output is None or prod(before) == prod(facts.output)


def _is_in_range(facts: _Facts) -> bool:
    """-size <= index < size; an embedding of positions ends somewhere."""
    table, indices = facts.input(0), facts.values[1] if len(facts.values) > 1 else None
    axis = facts.given.get("axis", 0)
    if table is None or indices is None or not indices.size or not -len(table) <= axis < len(table):
        return True
    return bool(indices.min() >= -table[axis] and indices.max() < table[axis])


def _is_divisible(facts: _Facts) -> bool:
    image, block = facts.input(0), facts.given.get("blocksize", 1)
    return image is None or all(size % block == 0 for size in image[2:])


def _matches_cell(facts: _Facts) -> bool:
    """Features of the steps = columns of W [directions, gates * hidden, features], batch = batch of the state."""
    steps, weight, state = facts.input(0), facts.input(1), facts.input(5)
    if steps is None or weight is None or len(steps) != 3 or len(weight) != 3:
        return True
    layout = facts.given.get("layout", 0)
    matching = state is None or len(state) != 3 or state[1 - layout] == steps[1 - layout]
    return matching and steps[2] == weight[2]


def _labels_agree(facts: _Facts) -> bool:
    """In an Einsum each label stands for one size, where no ellipsis hides the positions."""
    terms = (
        facts.given.get("equation", b"").decode(errors="replace").replace(" ", "").split("->")[0].split(",")
    )
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, facts.inputs, strict=False):
        if shape is None or "." in term or len(term) != len(shape):
            continue
        if any(sizes.setdefault(label, size) != size for label, size in zip(term, shape, strict=True)):
            return False
    return True


_CHECKS: Mapping[str, Sequence[Callable[[_Facts], bool]]] = {
    "AveragePool": (_has_room, _leaves_something),
    "Conv": (_has_room, _has_channels, _leaves_something),
    "ConvTranspose": (_has_transposed_channels, _leaves_something),
    "Crop": (_leaves_something,),
    "Einsum": (_labels_agree,),
    "GRU": (_matches_cell,),
    "Gather": (_is_in_range,),
    "LSTM": (_matches_cell,),
    "LpPool": (_has_room, _leaves_something),
    "MaxPool": (_has_room, _leaves_something),
    "RNN": (_matches_cell,),
    "Reshape": (_keeps_elements,),
    "Resize": (_leaves_something,),
    "SpaceToDepth": (_is_divisible,),
    "Upsample": (_leaves_something,),
}
