"""Which known values may be others at other input sizes, although they are the same at two.

What is computed from sizes by sums, products and exact quotients is told by its values at two choices of the open dimensions: where
those agree, it does not depend on them. A comparison, an extremum, a remainder or a rounded quotient may agree at both and jump elsewhere:
min(length, 512) is 7 at length 7 and 11 at 11, or 4 at both where 4 is the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from onnx_grow.errors import InvalidModelError
from onnx_grow.model.nodes import is_default
from onnx_grow.shapes.evaluation import evaluate
from onnx_grow.shapes.types import Array

Values = Mapping[str, Array]

_MOVES = """
    Cast Concat Expand Flatten Gather Identity Reshape Shape Size Slice Split Squeeze Tile Transpose Unsqueeze
"""
_CALM = "Add Exp Log Mean Mul Neg Pow Reciprocal Sqrt Sub Sum"
_REDUCES = "ReduceMean ReduceProd ReduceSum"
_ROUNDS = "Cast Ceil Div Floor Round"
_COMPARES = """
    Abs And Clip Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Not Or Relu Sign Where Xor
"""
_MOVING, _SMOOTH, _SMOOTH_REDUCTIONS, _ROUNDING, _STEPPING = (
    frozenset(names.split()) for names in (_MOVES, _CALM, _REDUCES, _ROUNDS, _COMPARES)
)
_ELEMENTWISE = _SMOOTH | _ROUNDING | _STEPPING


def may_jump(node: onnx.NodeProto) -> bool:
    """Whether an operator's result may be the same at two sizes of its operands and another at a third."""
    calm = _MOVING | _SMOOTH | _SMOOTH_REDUCTIONS | {"Constant"}
    return bool(node.input) and (
        not is_default(node) or node.op_type not in calm or node.op_type in _ROUNDING
    )


def jumps(
    nodes: Iterable[onnx.NodeProto],
    opset_imports: Sequence[onnx.OperatorSetIdProto],
    here: Values,
    there: Values,
) -> dict[str, Array]:
    """Per value that has any, which of its elements may jump.

    `nodes` stand in topological order; `here` and `there` are the known values at two choices of the open dimensions.
    """
    found: dict[str, Array] = {}
    for node in nodes:
        known = [name for name in node.output if name in here]
        if not known or not any(name in found or _differs(name, here, there).any() for name in node.input):
            continue
        masks = _masks(node, opset_imports, here, there, found)
        found |= {name: masks[name] for name in known if masks[name].any()}
    return found


def _masks(
    node: onnx.NodeProto,
    opset_imports: Sequence[onnx.OperatorSetIdProto],
    here: Values,
    there: Values,
    found: Values,
) -> dict[str, Array]:
    """For each known result of a node, which elements may jump."""
    op = node.op_type if is_default(node) else ""
    outputs = [name for name in node.output if name in here]
    jumping = [_jumping(name, here, found) for name in node.input]
    open_ = [_differs(name, here, there) | mask for name, mask in zip(node.input, jumping, strict=True)]
    if op in ("Shape", "Size"):
        return {name: np.zeros(here[name].shape, bool) for name in outputs}
    if op == "Where":
        condition, first, second = open_[0], jumping[1], jumping[2]
        chosen = np.where(here[node.input[0]], first, second) if node.input[0] in here else first | second
        return {name: np.broadcast_to(condition | chosen, here[name].shape) for name in outputs}
    if op in _MOVING and op != "Cast":
        if (moved := _moved(node, opset_imports, here, jumping, open_)) is not None:
            return dict(zip(node.output, moved, strict=False))
    elif op in _ELEMENTWISE:
        calm = op in _SMOOTH or (op in _ROUNDING and _is_exact(node, here) and _is_exact(node, there))
        return {name: _aligned(jumping if calm else open_, here[name].shape) for name in outputs}
    reads = jumping if op in _SMOOTH_REDUCTIONS else open_
    anything = any(mask.any() for mask in reads)
    return {name: np.full(here[name].shape, anything) for name in outputs}


def _moved(
    node: onnx.NodeProto,
    opset_imports: Sequence[onnx.OperatorSetIdProto],
    here: Values,
    jumping: Sequence[Array],
    open_: Sequence[Array],
) -> list[Array] | None:
    """The masks of the data, moved as the data is; None where open sizes say how."""
    data = len(jumping) if node.op_type == "Concat" else 1
    if any(mask.any() for mask in open_[data:]):
        return None
    inputs = [mask.astype(np.int64) for mask in jumping[:data]]
    try:
        moved = evaluate(node, opset_imports, [*inputs, *(here.get(name) for name in node.input[data:])])
    except InvalidModelError:
        return None
    return [mask != 0 for mask in moved]


def _aligned(masks: Sequence[Array], shape: tuple[int, ...]) -> Array:
    """The elements of an elementwise result for which some operand's is marked."""
    out = np.zeros(shape, bool)
    for mask in masks:
        out |= mask
    return out


def _is_exact(node: onnx.NodeProto, values: Values) -> bool:
    """Whether a quotient or a conversion to integers has nothing to round."""
    inputs = [values.get(name) for name in node.input]
    if any(value is None for value in inputs):
        return False
    first, *others = (np.asarray(value) for value in inputs)
    result = values.get(node.output[0])
    kind = first.dtype.kind if result is None else result.dtype.kind
    if node.op_type == "Div":
        return kind not in "iu" or bool(np.all(others[0] != 0) and not np.any(first % others[0]))
    if node.op_type == "Cast" and kind not in "iu":
        return kind != "b"
    return bool(np.all(first == np.round(first)))


def _jumping(name: str, here: Values, found: Values) -> Array:
    mask = found.get(name)
    return np.zeros(here[name].shape if name in here else (), bool) if mask is None else mask


def _differs(name: str, here: Values, there: Values) -> Array:
    """The elements of a value that differ at the other sizes; what is not known is of no value."""
    if name not in here:
        return np.zeros((), bool)
    old, new = here[name], there.get(name)
    if old is new:
        return np.zeros(old.shape, bool)
    return np.full(old.shape, True) if new is None or new.shape != old.shape else np.asarray(new != old)
