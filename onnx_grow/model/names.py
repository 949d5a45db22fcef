"""How messages name things: on one line, whatever a file that is not trusted calls them."""

from __future__ import annotations

from onnx import NodeProto

__all__ = ["describe", "quoted"]

_LONGEST = 120


def quoted(name: object) -> str:
    """A name in quotes, control characters escaped and the middle of a very long one left out."""
    text = repr(name)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"


def describe(index: int, node: NodeProto) -> str:
    """A node by its name and operator; by its position where it has no name."""
    return (
        f"node {quoted(node.name)} ({_operator(node)})" if node.name else f"node #{index} ({_operator(node)})"
    )


def _operator(node: NodeProto) -> str:
    return quoted(node.op_type)[1:-1]
