"""Names: how messages show those of a file that is not trusted, and new ones that nothing has yet."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

__all__ = ["Names", "one_line", "quoted", "title"]

_LONGEST = 120


def quoted(name: object) -> str:
    """A name in quotes, control characters escaped and the middle of a very long one left out."""
    text = repr(name)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"


def title(node: NodeProto) -> str:
    """A node by its name, or its first output where it has none, and by its operator."""
    name = node.name or next(filter(None, node.output), "")
    return f"node {quoted(name)} ({quoted(node.op_type)[1:-1]})"


def one_line(text: object, longest: int = 300) -> str:
    """A text, such as what a library says went wrong, on one line, its end left out where that gets too long."""
    line = " ".join(str(text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


class Names:
    """The names that are taken."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._counts: dict[str, int] = {}

    def take(self, names: Iterable[str]) -> None:
        """Add names."""
        self._taken.update(names)

    def fresh(self, base: str) -> str:
        """A name that is not taken, and is from now on: `base`, else `base_1`, `base_2` …"""
        name = base
        while name in self._taken:
            self._counts[base] = self._counts.get(base, 0) + 1
            name = f"{base}_{self._counts[base]}"
        self._taken.add(name)
        return name
