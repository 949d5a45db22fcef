"""Recurrent operators: the hidden state is one axis of all gates, and contracted with itself over time.

    LSTM, GRU, RNN with 4, 3, 1 gates      W: (gates h) x i      R: (gates h) x h      B: (2 gates h)

Both directions share `h`. The recurrent weights are divided along their last dimension, as any consumer of copies is.
"""

from __future__ import annotations

from onnx_grow.axes.equations import Node, Rule
from onnx_grow.axes.signature import Signature
from onnx_grow.operators.quantization import summed

_SIZES = {"hidden_size": "h"}


def _signatures(gates: int, rest: str, states: int) -> tuple[Signature, Signature]:
    weights = f"!D ({gates} h) /i, D ({gates} h) /h, D ({2 * gates} h), N"
    time_first = "!T !N i, {w}, {s}{r} -> !T !D !N h, {s}".format(
        w=weights, s=", ".join(["D N h"] * states), r=rest
    )
    batch_first = "!N !T i, {w}, {s}{r} -> !N !T !D h, {s}".format(
        w=weights, s=", ".join(["N D h"] * states), r=rest
    )
    return Signature(time_first, _SIZES), Signature(batch_first, _SIZES)


def _recurrent(gates: int, rest: str = "", states: int = 1) -> Rule:
    signatures = _signatures(gates, rest, states)

    def state(node: Node) -> None:
        names = signatures[int(node.attribute("layout", 0))](node)
        node.role("state", names["h"])

    return Rule(state)


_QUANTIZED = Signature(
    "!T !N i, !D /i (4 h), D /h (4 h), D (8 h), N, D N h, D N h, D (3 h), -, -, -, - -> !T !D !N h, D N h, D N h",
    _SIZES,
)


def quantized(node: Node) -> None:
    """DynamicQuantizeLSTM: the weights are integers, transposed, with scales for each direction or for each column as well."""
    names = _QUANTIZED(node)
    node.role("state", names["h"])
    for weight, scale, zero, over in ((1, 8, 9, "i"), (2, 10, 11, "h")):
        summed(node, names[over], (weight, zero))
        node.replicate(names[over], "quantizes by the smallest and the largest of all")
        for i in (scale, zero):
            if len(node.input(i)) == 2:
                node.unify(node.input(i)[1], node.input(weight)[2])


RULES = {
    ("com.microsoft", "DynamicQuantizeLSTM"): Rule(quantized),
    ("", "LSTM"): _recurrent(4, ", D (3 h)", states=2),
    ("", "GRU"): _recurrent(3),
    ("", "RNN"): _recurrent(1),
}
