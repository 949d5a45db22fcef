"""Recurrent operators: the hidden state is one axis of all gates, and contracted with itself over time.

    LSTM, GRU, RNN with 4, 3, 1 gates      W: (gates h) x i      R: (gates h) x h      B: (2 gates h)

Both directions share `h`. The recurrent weights are divided along their last dimension, as any consumer of copies is.
"""

from __future__ import annotations

from onnx_grow.axes.equations import Node, Rule
from onnx_grow.axes.signature import Signature

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


RULES = {
    ("", "LSTM"): _recurrent(4, ", D (3 h)", states=2),
    ("", "GRU"): _recurrent(3),
    ("", "RNN"): _recurrent(1),
}
