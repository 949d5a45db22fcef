"""Operators that read or make shapes. What they read changes by itself; what they make is regenerated."""

from __future__ import annotations

from onnx_grow.axes.algebra import axis
from onnx_grow.axes.equations import Node, Rule


def shape(node: Node) -> None:
    """A vector of sizes, whose own length is fixed."""
    node.apart()
    for o in range(len(node.out_shapes)):
        node.set(o, [node.frozen(n, "is a list of sizes") for n in node.out_shape(o)])


def filled(node: Node) -> None:
    """A tensor of one value, of any shape asked for."""
    node.apart()
    out = [axis(n) for n in node.out_shape()]
    node.set(0, out)
    node.size_input(0, out)


def counted(node: Node) -> None:
    """Numbers that count: each is different."""
    node.apart()
    node.set(0, [node.frozen(n, "counts") for n in node.out_shape()])


RULES = {
    ("", "Shape"): Rule(shape),
    ("", "Size"): Rule(shape),
    ("", "ConstantOfShape"): Rule(filled),
    ("", "Range"): Rule(counted),
    ("com.microsoft", "Range"): Rule(counted),
}
