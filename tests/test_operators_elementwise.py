from __future__ import annotations

import pytest
from graphs import Case, between, pictured, reference

IN_DOUBLE = "Abs Ceil Cos Exp Floor Identity Neg Reciprocal Relu Round Sigmoid Sign Sin Swish Tanh"
IN_FLOAT = """
    Asinh Atan Celu Cosh Elu Erf Gelu HardSigmoid HardSwish LeakyRelu Mish Selu Sinh Softplus Softsign Tan ThresholdedRelu
"""
OVER_UNIT = "Acos Asin Atanh Log Sqrt"  # functions of numbers between zero and one

FUNCTIONS = [
    *(Case(op, between(f"b = {op}(a)"), opset=24) for op in IN_DOUBLE.split()),
    *(Case(op, between(f"b = {op}(a)", dtype="float"), opset=24) for op in IN_FLOAT.split()),
    *(Case(op, between(f"c = Sigmoid(a) b = {op}(c)", dtype="float")) for op in OVER_UNIT.split()),
    Case("Acosh", between("c = Sigmoid(a) d = Exp(c) b = Acosh(d)", dtype="float")),
    Case("Shrink", between("b = Shrink <lambd=0.3, bias=0.2> (a)")),
    Case("Affine", between("b = Affine <alpha=2.0, beta=0.5> (a)", dtype="float"), opset=9),
    Case("SwiGLU", between("g = MatMul(x, u) b = SwiGLU(a, g)", "double[4, 6] u"), opset=28, by=reference),
    Case("FastGelu", between("b = com.microsoft.FastGelu(a, s)", "float[6] s", dtype="float")),
    Case("BiasGelu", between("b = com.microsoft.BiasGelu(a, s)", "float[6] s", dtype="float")),
    Case("QuickGelu", between("b = com.microsoft.QuickGelu(a)", dtype="float")),
    Case("Gelu of ONNX Runtime", between("b = com.microsoft.Gelu(a)", dtype="float")),
]

TRUTHS = [
    *(
        Case(op, between(f"c = {op}(a, s) b = Cast <to=11> (c)", "double[6] s"))
        for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
    ),
    Case("Equal", between("r = Relu(a) z = Relu(s) c = Equal(r, z) b = Cast <to=11> (c)", "double[6] s")),
    Case("Not", between("c = Less(a, s) d = Not(c) b = Cast <to=11> (d)", "double[6] s")),
    *(
        Case(
            op,
            between(
                f"c = Less(a, s) d = Less(a, t) e = {op}(c, d) b = Cast <to=11> (e)",
                "double[6] s, double[6] t",
            ),
        )
        for op in ("And", "Or", "Xor")
    ),
    Case("IsNaN", between("c = Log(a) d = IsNaN(c) b = Cast <to=11> (d)")),
    Case("IsInf", between("r = Relu(a) c = Log(r) d = IsInf(c) b = Cast <to=11> (d)")),
]

INTEGER = "t = Mul(a, ten) i = Cast <to=6> (t) {} b = Cast <to=11> (c)"
INTEGERS = [
    *(
        Case(
            op,
            between(INTEGER.format(f"c = {op}(i, s)"), "double ten = {10}, int32[6] s = {1, 2, 3, 4, 5, 6}"),
            opset=18,
        )
        for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor", "Mod")
    ),
    Case("BitwiseNot", between(INTEGER.format("c = BitwiseNot(i)"), "double ten = {10}"), opset=18),
    Case(
        "BitShift",
        between(
            """t = Abs(a) u = Mul(t, ten) i = Cast <to=13> (u) c = BitShift <direction="RIGHT"> (i, s) b = Cast <to=11> (c)""",
            "double ten = {100}, uint64[6] s = {1, 2, 3, 4, 1, 2}",
        ),
    ),
]

OPERANDS = {
    "a vector": "double[6] s",
    "a row": "double[1, 6] s",
    "a number": "double s = {0.7}",
    "a vector of one": "double[1] s = {0.7}",
    "a matrix of one": "double[1, 1] s = {0.7}",
    "a column": "double[3, 1] s",
    "all": "double[3, 6] s",
    "more dimensions": "double[1, 1, 6] s",
}
PAIRS = [
    *(
        Case(f"{op}: {name}", between(f"b = {op}(a, s)", weights))
        for op in ("Add", "Mul", "Sub", "Div", "PRelu")
        for name, weights in OPERANDS.items()
        if op != "PRelu" or name not in ("a column", "all", "more dimensions")
    ),
    *(Case(f"{op}: the other way round", between(f"b = {op}(s, a)", "double[6] s")) for op in ("Sub", "Div")),
    *(
        Case(f"{op}: three", between(f"b = {op}(a, s, t)", "float[6] s, float[1] t", "float"))
        for op in ("Sum", "Mean", "Max", "Min")
    ),
    *(Case(f"{op}: one", between(f"b = {op}(a)", dtype="float")) for op in ("Sum", "Mean", "Max", "Min")),
    Case("Pow", between("c = Abs(a) b = Pow(c, s)", "double[6] s")),
    Case("Pow: square", between("b = Pow(a, s)", "int64 s = {2}")),
    Case("Mod: of numbers", between("b = Mod <fmod=1> (a, s)", "double[6] s")),
    Case("Where", between("c = Less(a, s) b = Where(c, a, s)", "double[6] s")),
    Case(
        "Where: with a condition of one",
        between("b = Where(c, s, a)", "double[6] s, bool[3, 1] c = {1, 0, 1}"),
    ),
    Case(
        "Where: with a condition of each",
        between("b = Where(c, s, a)", "double[1] s, bool[6] c = {1, 0, 1, 1, 0, 0}"),
    ),
    Case("Add: itself", between("b = Add(a, a)")),
    Case("Mul: itself", between("b = Mul(a, a)")),
    Case("Mul: gate", between("g = MatMul(x, u) s = Sigmoid(g) b = Mul(a, s)", "double[4, 6] u")),
    Case(
        "Mul: gate of one channel", between("g = MatMul(x, u) s = Sigmoid(g) b = Mul(a, s)", "double[4, 1] u")
    ),
    Case("Add: computed twice", between("g = MatMul(x, u) b = Add(a, g)", "double[4, 6] u")),
    Case("Add: per channel of a picture", pictured("b = Add(a, s)", "float[6, 1, 1] s")),
    Case("PRelu: per channel of a picture", pictured("b = PRelu(a, s)", "float[6, 1, 1] s")),
    Case("PRelu: one for all", pictured("b = PRelu(a, s)", "float[1, 1, 1] s = {0.2}")),
    Case(
        "Mul: squeeze and excite",
        pictured(
            "p = GlobalAveragePool(a) q = Conv(p, t) r = Relu(q) e = Conv(r, u) s = Sigmoid(e) b = Mul(a, s)",
            "float[2, 6, 1, 1] t, float[6, 2, 1, 1] u",
        ),
        "a q",
    ),
]

CONFIGURED = [
    Case("Clip: attributes", between("b = Clip <min=-0.5, max=0.5> (a)", dtype="float"), opset=6),
    Case("Clip: inputs", between("b = Clip(a, low, high)", "double low = {-0.5}, double high = {0.5}")),
    Case("Clip: one bound", between("b = Clip(a, , high)", "double high = {0.5}")),
    Case("Cast", between("c = Cast <to=1> (a) b = Cast <to=11> (c)"), tolerance=1e-5),
    Case("CastLike", between("c = CastLike(a, s) b = CastLike(c, a)", "float s"), opset=19, tolerance=1e-5),
    Case("Dropout: attribute", between("b = Dropout <ratio=0.4> (a)"), opset=10),
    Case("Dropout: input", between("b = Dropout(a, ratio)", "float ratio = {0.4}")),
    Case(
        "Dropout: not in training", between("b = Dropout(a, ratio, t)", "float ratio = {0.4}, bool t = {0}")
    ),
    Case("Dropout: mask", between("c, d = Dropout(a) e = Cast <to=11> (d) b = Mul(c, e)")),
]

FROZEN = [
    Case(
        "Dropout: in training",
        between("b = Dropout(a, ratio, t)", "float ratio = {0.0}, bool t = {1}"),
        "",
        {"a": "Dropout 'b': it drops values at random in training mode"},
    ),
    Case(
        "Dropout: of the past, in training",
        between("b = Dropout(a)", dtype="float"),
        "",
        {"a": "Dropout 'b': it drops values at random in training mode"},
        opset=6,
    ),
    Case(
        "PRelu: of the past, a slope for each channel, of which there are as many as columns",
        """(float[2, 4, 4, 4] x) => (float[2, 2, 4, 4] y) <float[4, 4, 1, 1] v, float[2, 4, 1, 1] w, float[4] s> {
            a = Conv(x, v) b = PRelu(a, s) y = Conv(b, w) }""",
        "",
        {"a": "its slopes are those of the channels"},
        opset=6,
    ),
    Case(
        "Add: old broadcasting",
        """(float[2, 4] x) => (float[2, 2] y) <float[4, 2] v, float[2, 2] w, float[2] s> {
            a = MatMul(x, v) b = Add <broadcast=1, axis=0> (a, s) y = MatMul(b, w) }""",
        "",
        {"a": "Add 'b': it broadcasts by the rules of operator sets before 7"},
        opset=6,
    ),
]


@pytest.mark.parametrize("case", FUNCTIONS + TRUTHS + INTEGERS + PAIRS + CONFIGURED + FROZEN, ids=str)
def test_elementwise(case: Case) -> None:
    case.check()
