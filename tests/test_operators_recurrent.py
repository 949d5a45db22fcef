from __future__ import annotations

import pytest
from graphs import Case, reference

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FORWARD = "f = Squeeze(h, one)"
BOTH = "t = Transpose <perm=[0, 2, 1, 3]> (h) f = Reshape(t, flat)"


def recurrent(
    operator: str,
    attributes: str = "",
    inputs: str = "a, w, r, b",
    outputs: str = "h",
    body: str = FORWARD,
    weights: str = "",
    directions: int = 1,
    out: str = "float[3, 2, 3] y",
) -> str:
    """Text of a graph: a hidden axis, a recurrent operator of hidden size 5, and a matrix that reads f, which `body` makes of h."""
    rows, read = 5 * GATES[operator], 5 * directions
    return f"""(float[3, 2, 4] x) => ({out}) <float[4, 6] v, float[{directions}, {rows}, 6] w, float[{directions}, {rows}, 5] r,
        float[{directions}, {2 * rows}] b, float[{read}, 3] u, int64[1] one = {{1}}, int64[3] flat = {{3, 2, -1}}{weights}> {{
        a = MatMul(x, v) {outputs} = {operator} <hidden_size=5{attributes}> ({inputs}) {body} y = MatMul(f, u) }}"""


STATE = ", float[1, 2, 5] h0"
LAST = "float[1, 2, 3] y"

CASES = [
    *(Case(op, recurrent(op), "a h") for op in GATES),
    *(Case(f"{op}: no bias", recurrent(op, inputs="a, w, r"), "a h") for op in GATES),
    *(
        Case(f"{op}: initial state", recurrent(op, inputs="a, w, r, b, , h0", weights=STATE), "a h")
        for op in GATES
    ),
    *(
        Case(
            f"{op}: lengths",
            recurrent(op, inputs="a, w, r, b, lengths", weights=", int32[2] lengths = {2, 3}"),
            "a h",
        )
        for op in GATES
    ),
    *(
        Case(f"{op}: last state", recurrent(op, outputs=", h", body="f = Identity(h)", out=LAST), "a h")
        for op in GATES
    ),
    *(
        Case(f"{op}: {direction}", recurrent(op, f', direction="{direction}"', directions=n, body=body), axes)
        for op in GATES
        for direction, n, body, axes in (("reverse", 1, FORWARD, "a h"), ("bidirectional", 2, BOTH, "a h:2"))
    ),
    *(
        Case(
            f"{op}: last states of both directions",
            recurrent(
                op,
                ', direction="bidirectional"',
                outputs=", h",
                body="t = Transpose <perm=[1, 0, 2]> (h) f = Reshape(t, merged)",
                weights=", int64[2] merged = {2, 10}",
                directions=2,
                out="float[2, 3] y",
            ),
            "a h:2",
        )
        for op in GATES
    ),
    *(
        Case(
            f"{op}: two layers",
            recurrent(
                op,
                body=f"{FORWARD} g = {op} <hidden_size=5> (f, w2, r, b) q = Squeeze(g, one) m = Add(f, q)",
                weights=f", float[1, {5 * gates}, 5] w2",
            ).replace("MatMul(f, u)", "MatMul(m, u)"),
            "a h",
        )
        for op, gates in GATES.items()
    ),
    *(
        Case(
            f"{op}: batch first",
            recurrent(op, ", layout=1", body="f = Squeeze(h, two)", weights=", int64[1] two = {2}"),
            "a h",
            by=reference,
        )
        for op in GATES
    ),
    *(
        Case(
            f"{op}: computed initial state",
            recurrent(
                op,
                inputs="a, w, r, b, , h0",
                body=FORWARD,
                weights=", int64[1] zero = {0}, int64[1] middle = {1}, int64[1] two = {2}, int64[1] five = {5}",
            ).replace(
                "a = MatMul(x, v)",
                """a = MatMul(x, v) s = Shape(a) n = Slice(s, middle, two) d = Concat <axis=0> (one, n, five)
                h0 = ConstantOfShape(d)""",
            ),
            "a h",
        )
        for op in GATES
    ),
    Case(
        "LSTM: all states",
        recurrent(
            "LSTM",
            inputs="a, w, r, b, , h0, c0",
            outputs="h, hn, cn",
            body=f"{FORWARD} g = Add(f, hn) k = Mul(g, cn)",
            weights=STATE + ", float[1, 2, 5] c0",
        ).replace("MatMul(f, u)", "MatMul(k, u)"),
        "a h",
    ),
    Case(
        "LSTM: peepholes",
        recurrent("LSTM", inputs="a, w, r, b, , , , p", weights=", float[1, 15] p"),
        "a h",
    ),
    Case("LSTM: one gate", recurrent("LSTM", ", input_forget=1"), "a h"),
    Case(
        "LSTM: clipped, other activations",
        recurrent("LSTM", ', clip=1.5, activations=["Sigmoid", "Relu", "Tanh"]'),
        "a h",
    ),
    Case("GRU: linear before reset", recurrent("GRU", ", linear_before_reset=1"), "a h"),
    Case("RNN: other activation", recurrent("RNN", ', activations=["Relu"]'), "a h"),
    Case(
        "RNN: no size",
        recurrent("RNN").replace("<hidden_size=5>", ""),
        "",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_recurrent(case: Case) -> None:
    case.check()
