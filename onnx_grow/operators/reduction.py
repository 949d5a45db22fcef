"""Operators that reduce a dimension, or depend on all of its indices at once.

max over copies    the same                 sum over copies      c times as much: divide by the number of copies
mean over copies   the same when uniform    sum of squares       c times as much: divide by its square root
"""

from __future__ import annotations

from collections.abc import Callable

from onnx_grow.axes.algebra import size
from onnx_grow.axes.equations import Node, Rule, unsupported


def _reduced(node: Node) -> list[int]:
    if node.op.startswith("Global"):
        return list(range(2, len(node.input(0))))
    axes = node.integers("axes", 1)
    if not axes:
        none = node.attribute("noop_with_empty_axes", 0)
        return [] if none else list(range(len(node.input(0))))
    return [node.axis(a) for a in axes]


def _reduce(of: Callable[[Node, int], None]) -> Callable[[Node], None]:
    def state(node: Node) -> None:
        node.apart()
        dims = node.input(0)
        reduced = _reduced(node)
        for position in reduced:
            of(node, position)
        kept = bool(node.attribute("keepdims", 1))
        out = [() if k in reduced else dim for k, dim in enumerate(dims) if kept or k not in reduced]
        node.set(0, out)

    return state


def _uniform(node: Node, position: int) -> None:
    node.uniform(node.input(0)[position])


def _frozen(node: Node, position: int) -> None:
    node.freeze(node.input(0)[position], "its result depends on how many there are")
    for dim in node.input(0):
        node.replicate(dim, "its result may not be finite")


def _nothing(node: Node, position: int) -> None:
    """Copies change neither maximum nor minimum; anything else may."""
    node.replicate(node.input(0)[position], "its result depends on all of them")


def _scaled(power: float) -> Callable[[Node, int], None]:
    def of(node: Node, position: int) -> None:
        node.contract(node.input(0)[position], (0, position), power=power)

    return of


def softmax(node: Node) -> None:
    """m copies of an index with its logit less log m share its probability: p / m each; where all have m, they do without.

    Before operator set 13 all dimensions from `axis` on are one.
    """
    node.apart()
    dims = node.input(0)
    at = node.axis(node.attribute("axis", -1 if node.version >= 13 else 1))
    over = [k for k in (range(at, len(dims)) if node.version < 13 else [at]) if size(dims[k]) > 1]
    for k in over:
        if node.op == "Softmax" and len(over) == 1:
            node.replicate(dims[k], "normalises over this dimension, which random channels would change")
            node.dilute(k, 1.0, logits=True)
        else:
            node.freeze(dims[k], "normalises over this dimension, so that every copy would count")
    node.set(0, dims)


def extremum_index(node: Node) -> None:
    """The result is an index into the dimension."""
    dims = node.input(0)
    at = node.axis(node.attribute("axis", 0))
    node.freeze(dims[at], "gives indices into this dimension")
    kept = [()] if node.attribute("keepdims", 1) else []
    node.set(0, [*dims[:at], *kept, *dims[at + 1 :]])


def top(node: Node) -> None:
    """Copies would be among the largest as well."""
    dims = node.input(0)
    at = node.axis(node.attribute("axis", -1))
    node.freeze(dims[at], "orders this dimension")
    for o in range(len(node.out_shapes)):
        if node.out_shapes[o] is not None:
            chosen = node.frozen(node.out_shape(o)[at], "is an order, not channels")
            node.set(o, [*dims[:at], chosen, *dims[at + 1 :]])


def cumulative(node: Node) -> None:
    """Every index depends on those before it."""
    dims = node.input(0)
    node.freeze(dims[node.axis(int(node.value(1).reshape(-1)[0]))], "accumulates along this dimension")
    node.set(0, dims)


RULES = {
    **{("", op): Rule(_reduce(_nothing)) for op in ("GlobalMaxPool", "ReduceMax", "ReduceMin")},
    **{("", op): Rule(_reduce(_frozen)) for op in ("ReduceProd", "ReduceLogSum", "ReduceLogSumExp")},
    **{("", op): Rule(_reduce(_scaled(-1.0))) for op in ("ReduceSum", "ReduceL1")},
    **{("", op): Rule(_reduce(_scaled(-0.5))) for op in ("ReduceL2", "ReduceSumSquare")},
    **{("", op): Rule(softmax) for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{("", op): Rule(extremum_index) for op in ("ArgMax", "ArgMin")},
    **{("", op): Rule(cumulative) for op in ("CumSum", "CumProd")},
    **{
        ("", op): Rule(unsupported("it draws random values, which would differ between copies"))
        for op in [
            "Bernoulli",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ]
    },
    **{("", op): Rule(_reduce(_uniform)) for op in ("GlobalAveragePool", "ReduceMean")},
    ("", "TopK"): Rule(top),
}
