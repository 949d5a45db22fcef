"""Copies of residual branches that begin as zero: y + f'(y) = y, bit for bit.

f' has the nodes of f and copies of its weights, except those that make it zero (`silence`); where there are none such, f' is
scaled by a new scalar that is zero (ReZero, Bachlechner et al., arXiv 2003.04887). Copying blocks with a zero last layer:
Wu et al., LLaMA Pro, ACL 2024; zero scale of a last norm: Goyal et al., arXiv 1706.02677.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import takewhile

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.dataflow import Dataflow, Reach
from onnx_grow.growth.deepen_plan import ResidualBranch, ResidualLayer
from onnx_grow.growth.initial import Zeros
from onnx_grow.growth.insertion import Insertion, bare
from onnx_grow.growth.skips import weights_of
from onnx_grow.model import Draft

__all__ = ["home", "insert_residual"]


def insert_residual(draft: Draft, flow: Dataflow, reach: Reach, layer: ResidualLayer, prefix: str) -> None:
    """Insert copies of the branches of one layer, one behind the other; `reach` knows their sources.

    Without a tail, or with an idempotent one phi:    z' = phi(z + f'(z)),      z the layer's output.
    With another tail psi (`inside`):                 z' = psi'(y + f'(z)),     y the sum before it, z = psi(y), psi' a copy.

    Where branches stand on tensors of other shapes with the same elements, the layer's output is reshaped to the first source.

    Raises InvalidRequestError if the layer was planned for another model.
    """
    branches = [(branch, *_found(flow, reach, layer, branch)) for branch in layer.branches]
    *tail, _ = [_producer(flow, layer, name) for name in (*layer.tail, layer.output)]
    members = [index for _, join, nodes in branches for index in (join, *nodes)]
    copies = _Copies(flow, Insertion(draft, flow, layer.output, prefix), [*members, *tail])
    output = copies.insertion.start
    total = layer.branches[-1].total if layer.tail else output
    if any(branch.views for branch in layer.branches):
        output = copies.insertion.add(
            "Reshape", [output, copies.insertion.add("Shape", [layer.branches[0].source])]
        )
    for branch, join, nodes in branches:
        if branch.views:
            output = copies.add(_views(flow, layer, branch), {_before(flow, layer, branch): output})[
                branch.source
            ]
        end = copies.add(nodes, {branch.source: output}, branch.zeroed)[branch.end]
        if not branch.zeroed:
            end = copies.scaled(end, layer.dtype)
        operands = flow.nodes[join].input
        base = total if layer.inside else output
        renamed = {name: end if name == branch.end else base for name in operands}
        total = copies.add([join], renamed)[branch.total]
        output = copies.add(tail, {layer.branches[-1].total: total}).get(layer.output, total)
    copies.insertion.close(output)


def home(names: Iterable[str]) -> str:
    """The path that names have in common, up to a slash or dot; empty if they have none."""
    names = list(names)
    low, high = min(names, default=""), max(names, default="")
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False)))
    return low[: max(low.rfind("/", 0, same), low.rfind(".", 0, same)) + 1]


class _Copies:
    """Copies of nodes with their weights, at one place of a model."""

    def __init__(self, flow: Dataflow, insertion: Insertion, members: Iterable[int]) -> None:
        self.insertion = insertion
        self._flow = flow
        self._node_home = home(bare(flow.nodes[index].name) for index in members)

    def add(
        self, nodes: list[int], renamed: Mapping[str, str], zeroed: Collection[str] = ()
    ) -> dict[str, str]:
        """Copy nodes that read `renamed` tensors, and the weights they train; the names of everything in the copy."""
        names = dict(renamed)
        roots, carriers = weights_of(self._flow, nodes, zeroed)
        weight_home = home(map(bare, roots))
        for root in roots:
            weight = self._flow.stored(root)
            assert weight is not None
            name = bare(root).removeprefix(weight_home) or bare(root)
            names[root] = self.insertion.weight(
                name, Zeros(weight.dtype, weight.shape) if root in zeroed else weight
            )
        for index in (*carriers, *nodes):
            node = self._flow.nodes[index]
            own = bare(node.name).removeprefix(self._node_home) or node.op_type
            inputs = [names.get(name, name) for name in node.input]
            copied = self.insertion.copy(node, inputs, own, node.output)
            names.update(zip(filter(None, node.output), filter(None, copied), strict=True))
        return names

    def scaled(self, tensor: str, dtype: int) -> str:
        """The tensor times a trainable zero."""
        return self.insertion.add("Mul", [tensor, self.insertion.weight("scale", Zeros(dtype, (1,)))])


def _found(
    flow: Dataflow, reach: Reach, layer: ResidualLayer, branch: ResidualBranch
) -> tuple[int, list[int]]:
    join = _producer(flow, layer, branch.total)
    nodes = reach.between(branch.source, branch.end)
    trained, _ = weights_of(flow, nodes or (), branch.zeroed)
    if not nodes or branch.end not in flow.nodes[join].input or not set(branch.zeroed) <= set(trained):
        raise _foreign(layer)
    return join, nodes


def _views(flow: Dataflow, layer: ResidualLayer, branch: ResidualBranch) -> list[int]:
    return [_producer(flow, layer, name) for name in branch.views]


def _before(flow: Dataflow, layer: ResidualLayer, branch: ResidualBranch) -> str:
    """The tensor that the views of a branch reshape."""
    return str(flow.nodes[_views(flow, layer, branch)[0]].input[0])


def _producer(flow: Dataflow, layer: ResidualLayer, tensor: str) -> int:
    index = flow.producer(tensor)
    if index is None:
        raise _foreign(layer)
    return index


def _foreign(layer: ResidualLayer) -> InvalidRequestError:
    return InvalidRequestError(
        f"the plan copies a residual branch before {layer.name!r} that this model does not have",
        hint="a plan replays on the file that it was made for",
    )
