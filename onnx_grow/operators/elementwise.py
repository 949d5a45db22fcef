"""Elementwise operators: every output index depends on the aligned index of every operand.

    y[i] = f(a[i], b[i], ...)      copies of index i see copies of the operands, so y's copies are equal

Operands are aligned at the right; a dimension of size 1 is broadcast and never grows.
"""

from __future__ import annotations

import numpy as np

from onnx_grow.axes.algebra import size
from onnx_grow.axes.equations import Node, Rule, Unsupported
from onnx_grow.axes.signature import broadcast

_FINITE = """
    Asinh Atan Ceil Celu Cos Elu Erf Floor Gelu HardSigmoid HardSwish IsInf IsNaN
    Mish Not Round Selu Shrink Sigmoid Sign Sin Softplus Softsign Swish Tanh ThresholdedRelu
    And BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Equal Greater GreaterOrEqual Less LessOrEqual Or Xor
    SwiGLU Affine ParametricSoftplus Scale ScaledTanh
"""
_NOT_EVERYWHERE = "Acos Acosh Asin Atanh BitShift Cosh Exp Log Mod Reciprocal Sinh Sqrt Tan"
"""Functions of some numbers only, or that make others too large."""
_OF_MICROSOFT = "BiasGelu FastGelu GatedAdd Gelu QuickGelu ScaledSiLU"


def elementwise(node: Node) -> None:
    """All operands broadcast against each other."""
    if node.version < 7 and node.attribute("broadcast"):
        raise Unsupported("it broadcasts by the rules of operator sets before 7")
    operands = [dims for dims in node.dims if dims is not None]
    dims = broadcast(node, operands)
    for o in range(len(node.out_shapes)):
        node.set(o, dims)
    node.origin = _origin(node)


def finite(node: Node) -> None:
    """An elementwise function that makes finite numbers of all finite numbers."""
    elementwise(node)
    node.apart()


def quotient(node: Node) -> None:
    """What divides must not become zero: copies do not."""
    finite(node)
    if not node.constant[1]:
        for dim in node.input(1):
            node.replicate(dim, "divides by it")


def power(node: Node) -> None:
    """Powers such as squares are there for all numbers."""
    elementwise(node)
    exponent = node.values[1]
    if exponent is not None and exponent.size and ((exponent >= 0) & (exponent == np.round(exponent))).all():
        node.apart()


def first_operand(node: Node) -> None:
    """Only input 0 is data; the others are scalars that configure the operator."""
    node.apart()
    node.set(0, node.input(0))
    node.set(1, node.input(0))
    node.origin = _origin(node)


def addition(node: Node) -> None:
    """A sum of tensors; where they were computed independently, the dimensions they share are carried by a skip connection."""
    finite(node)
    computed = [i for i, origin in enumerate(node.origins) if origin is not None]
    if len({node.origins[i] for i in computed}) < 2:
        return
    for k, dim in enumerate(reversed(node.outputs[0] or ()), start=1):
        if all(node.shape(i)[-k:][:1] == (size(dim),) for i in computed):
            node.role("residual", dim)


def slope(node: Node) -> None:
    """PRelu: one slope for all, or what broadcasts; before operator set 7, a slope for each channel."""
    if node.version < 7 and any(size(dim) > 1 for dim in node.input(1)):
        raise Unsupported("its slopes are those of the channels by the rules of operator sets before 7")
    finite(node)


def dropout(node: Node) -> None:
    """The identity in inference; random masks would differ between copies."""
    if (node.has(2) and bool(node.value(2))) or (node.version < 7 and not node.attribute("is_test", 0)):
        raise Unsupported("it drops values at random in training mode")
    first_operand(node)


def _origin(node: Node) -> int:
    """An elementwise result of one computed tensor still is that tensor, in a sense."""
    computed = {origin for origin in node.origins if origin is not None}
    return computed.pop() if len(computed) == 1 else node.index


RULES = {
    **{("", op): Rule(finite) for op in _FINITE.split()},
    **{("", op): Rule(elementwise) for op in _NOT_EVERYWHERE.split()},
    **{("com.microsoft", op): Rule(finite) for op in _OF_MICROSOFT.split()},
    ("", "Add"): Rule(addition, ((0,), (1,))),
    ("", "Sub"): Rule(finite, ((0,), (1,))),
    **{("", op): Rule(addition, "each") for op in ("Sum", "Mean")},
    **{("", op): Rule(finite, "each") for op in ("Max", "Min")},
    **{("", op): Rule(finite, ((0,),)) for op in ("Abs", "Identity", "LeakyRelu", "Neg", "Relu")},
    ("", "Mul"): Rule(finite, ((0, 1),)),
    ("", "Div"): Rule(quotient, ((0,),)),
    ("", "PRelu"): Rule(slope, ((0,),)),
    ("", "Pow"): Rule(power),
    ("", "Where"): Rule(finite, ((1,), (2,))),
    ("", "Clip"): Rule(first_operand),
    **{("", op): Rule(first_operand) for op in ("BitCast", "CastLike")},
    ("", "Cast"): Rule(first_operand, ((0,),)),
    ("", "Dropout"): Rule(dropout, ((0,),)),
}
