"""Input sizes that a graph's own constants ask for, where none of the usual ones fits.

A file may leave a size open that the network does not: windows of 28 x 28 pixels before a matrix product, a mask for 100 steps, the
state of a batch of 4. At the first node where sizes contradict each other, one of them changes with an input's size and another does
not. What convolutions, pools and reshapes leave grows with what they are given, so bisection finds where both are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import prod

from onnx_grow.errors import InvalidModelError
from onnx_grow.shapes.graph import Graph
from onnx_grow.shapes.observation import Sizes
from onnx_grow.shapes.sizes import OpenDims, Symbol
from onnx_grow.shapes.walk import Walk

MOST_WALKS = 400
"""Walks after which the search ends."""
MOST_MISFITS = 3
"""Nodes that ask for a size one after the other."""
LARGEST = 1 << 16
"""The largest size that is tried."""
_STARTS = (
    {"batch": 1, "steps": 1024, "spatial": 224, "channels": 3},
    {"batch": 1, "steps": 13, "spatial": 67, "channels": 3},
)
_ROUND = (32, 16, 8, 4, 2)

Choice = Mapping[Symbol, int]


def solved(graph: Graph, opened: OpenDims) -> Iterator[tuple[Sizes, Walk]]:
    """Sizes that fit all nodes, and the walk at these sizes, as long as the search may go on."""
    search = _Search(graph, opened)
    for start in _STARTS if opened.groups() else ():
        with suppress(InvalidModelError):  # of sizes at which a Squeeze leaves too few dimensions, say
            yield from search.fitting({s: start[role.kind] for s, role in opened.roles.items()}, MOST_MISFITS)


@dataclass
class _Search:
    graph: Graph
    opened: OpenDims
    walks: int = 0
    tried: set[tuple[int, ...]] = field(default_factory=set)

    def fitting(self, choice: Choice, misfits: int) -> Iterator[tuple[Sizes, Walk]]:
        """The walks without a problem that setting up to `misfits` sizes leads to."""
        key = tuple(choice.values())
        if key in self.tried or self.walks > MOST_WALKS:
            return
        self.tried.add(key)
        walk = self._walk(choice)
        if walk.misfit is None:
            yield self.opened.shapes(choice), walk
        elif misfits:
            for better in self._asked(choice, walk, walk.misfit):
                yield from self.fitting(better, misfits - 1)

    def _asked(self, choice: Choice, walk: Walk, misfit: int) -> Iterator[Choice]:
        """Choices with which a node fits that does not with this one."""
        before = self._facts(walk, misfit)
        for group in self.opened.groups():

            def resized(n: int, group: tuple[Symbol, ...] = group) -> Choice:
                return {**choice, **dict.fromkeys(group, n)}

            after = self._facts(self._walk(resized(2 * choice[group[0]] + 1), misfit), misfit)
            if len(before) != len(after):
                continue
            moving = [k for k, sizes in enumerate(zip(before, after, strict=True)) if len({*sizes}) > 1]
            goals = {n for k, n in enumerate(before) if k not in moving} | self._wanted(walk, misfit)
            for k in moving:
                for goal in sorted(goals - {before[k], 0, 1}):
                    for n in self._reaching(partial(self._fact, resized, misfit, k), goal):
                        later = self._walk(resized(n), misfit + 1)
                        if later.misfit is None:
                            yield resized(n)

    def _reaching(self, fact: Callable[[int], int], goal: int) -> Iterator[int]:
        """Sizes at which a fact is the goal: one that is the goal itself, or round ones of those that lead to it."""
        if fact(goal) == goal:
            yield goal
            return
        least, behind = self._least(fact, goal), self._least(fact, goal + 1)
        if least is None or behind is None or fact(least) != goal:
            return
        multiples = (-(-least // n) * n for n in _ROUND)
        yield from islice(dict.fromkeys([*(n for n in multiples if n < behind), least]), 2)

    def _least(self, fact: Callable[[int], int], goal: int) -> int | None:
        """The least size at which a fact that grows with it is no less than the goal."""
        low, high = 0, 1
        while fact(high) < goal:
            low, high = high, 2 * high
            if high > LARGEST or self.walks > MOST_WALKS:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fact(middle) >= goal else (middle, high)
        return high

    def _walk(self, choice: Choice, until: int | None = None) -> Walk:
        self.walks += 1
        return Walk.over(self.graph, self.opened.shapes(choice), {}, until)

    def _fact(self, resized: Callable[[int], Choice], node: int, k: int, n: int) -> int:
        """One of the facts about a node at size n; -1 where it is not known, as behind a window larger than its input."""
        facts = self._facts(self._walk(resized(n), node), node)
        return facts[k] if k < len(facts) else -1

    def _facts(self, walk: Walk, index: int) -> list[int]:
        """The sizes that have to agree at a node: elements of what is reshaped, else all dimensions of all inputs."""
        node = self.graph.nodes[index]
        shapes = [walk.shape(name) for name in node.input if name]
        if any(shape is None for shape in shapes):
            return []
        if node.op_type == "Reshape":
            return [prod(shapes[0] or ())]
        return [n for shape in shapes for n in shape or ()]

    def _wanted(self, walk: Walk, index: int) -> set[int]:
        """The elements that a Reshape asks for."""
        node = self.graph.nodes[index]
        shape, target = walk.shape(node.input[0]), walk.values.get(node.input[-1])
        if node.op_type != "Reshape" or shape is None or target is None:
            return set()
        copied = [shape[k] if n == 0 and k < len(shape) else int(n) for k, n in enumerate(target.reshape(-1))]
        return {abs(prod(copied))}
