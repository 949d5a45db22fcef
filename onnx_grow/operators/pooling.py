"""Operators that work on positions, channel by channel: pooling, resampling, padding of pictures.

y[c, p] = f(x[c, :])      copies of a channel give copies of the result; positions keep their number
"""

from __future__ import annotations

from onnx_grow.axes.algebra import Dim, size
from onnx_grow.axes.equations import Element, Node, Rule, Unsupported
from onnx_grow.axes.signature import Signature

_POOL = Signature("N c !* -> N c !*, N c !*")
_LAST = Signature("N !* c -> N !* c")
_REGIONS = Signature("!N c !*, !R !q -> R c !*")
_REGIONS_OF = Signature("!N c !*, !R !q, !R, - -> R c !*")
_GRID = Signature("N c !*, N !* -> N c !*")


def pool(node: Node) -> None:
    """Each channel is pooled alone; indices into the flattened tensor change when anything is added."""
    names = _POOL(node)
    if any(map(node.is_read, range(1, len(node.outputs)))):
        for name in ("N", "c"):
            node.freeze(names[name], "its second output holds indices that count channels")


def resize(node: Node) -> None:
    """Resampling of some dimensions; a dimension whose size stays is passed through, and its target follows it."""
    node.apart()
    dims, out = node.input(0), node.out_shape()
    axes = [node.axis(a) for a in node.attribute("axes", range(len(dims)))]
    if node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise Unsupported("it crops")
    for i in range(1, len(node.dims)):
        for dim in node.input(i) if node.has(i) else ():
            node.freeze(dim, "has one number for each dimension")
    scales = _scales(node)
    result: list[Dim] = list(dims)
    elements: list[Element] = []
    for k, position in enumerate(axes):
        kept = size(dims[position]) == out[position] and (not scales or scales[k] == 1)
        elements.append(dims[position] if kept else None)
        if not kept:
            node.freeze(dims[position], "resamples this dimension")
            result[position] = node.frozen(out[position], "resamples this dimension")
    node.set(0, result)
    if node.op == "Resize" and node.has(3):
        node.size_input(3, elements)


def _scales(node: Node) -> list[float]:
    """The factor of each dimension; none when target sizes are given instead, whose factors follow from them."""
    listed = node.attribute("scales")
    if listed is None:
        i = 2 if node.op == "Resize" and node.version > 10 else 1
        listed = node.value(i).reshape(-1) if node.has(i) else []
    return [float(v) for v in listed]


RULES = {
    **{
        ("", op): Rule(pool, ((0,),))
        for op in (
            "AveragePool",
            "GlobalLpPool",
            "LpPool",
            "MaxPool",
            "Crop",
        )
    },
    ("", "Resize"): Rule(resize),
    ("", "Upsample"): Rule(resize),
    ("", "MaxRoiPool"): Rule(_REGIONS),
    ("", "RoiAlign"): Rule(_REGIONS_OF),
    ("com.microsoft", "CropAndResize"): Rule(_REGIONS_OF),
    ("", "GridSample"): Rule(_GRID),
    ("com.microsoft", "GridSample"): Rule(_GRID),
    ("com.microsoft", "NhwcMaxPool"): Rule(_LAST),
}
