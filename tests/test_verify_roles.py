import numpy as np
import pytest
from graphs import build

from onnx_grow.verification.roles import Role, roles

TABLE = "float[10, 4] table"


@pytest.mark.parametrize(
    ("body", "role"),
    [
        ("y = Gather(table, ids)", Role(rows=10)),
        ("y = Gather<axis = 1>(table, ids)", Role(rows=4)),
        ("a = Cast<to = 7>(ids) b = Identity(a) y = Gather(table, b)", Role(rows=10)),
        ("a = Add(ids, three) y = Gather(table, a)", Role(rows=7)),
        ("a = Sub(ids, three) y = Gather(table, a)", Role(rows=13, low=3)),
        ("t = Identity(table) y = Gather(t, ids)", Role(rows=10)),
        ("a, b = Split(ids) c = Gather(table, a) y = Gather<axis = 1>(table, b)", Role(rows=4)),
        ("t = Relu(table) y = Gather(t, ids)", Role(rows=1)),
        ("a = Cast<to = 1>(ids) y = Mul(a, a)", Role()),
        ("a = Equal(ids, three) y = Cast<to = 1>(a)", Role(choices=(3,))),
        ("a = Add(ids, three) b = Equal(a, three) y = Cast<to = 1>(b)", Role(choices=(0,))),
        ("a = ConstantOfShape(ids) y = Identity(a)", Role(length=True)),
        (
            "depth = Constant<value_int = 5>() on = Constant<value = float[2] {0.0, 1.0}>() y = OneHot(ids, depth, on)",
            Role(rows=5),
        ),
    ],
)
def test_the_walk_finds_what_an_input_is_for(body, role):
    model = build(f"(int64[N] ids) => (float[N, M] y) <{TABLE}, int64 three> {{ {body} }}", three=np.array(3))
    assert roles(model, ["ids"])["ids"] == role


def test_an_input_used_in_a_branch_is_found():
    model = build(
        """(int64[N] ids, bool pick) => (float[N, 4] y) <float[10, 4] table> {
          y = If(pick) <
            then_branch = one () => (float[N, 4] a) { a = Gather(table, ids) },
            else_branch = two () => (float[N, 4] b) { b = Gather(table, ids) }
          >
        }"""
    )
    assert roles(model, ["ids"])["ids"].rows == 10


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("attention_mask", Role(mask=True)),
        ("lengths", Role(length=True)),
        ("len_mask", Role(mask=True)),
        ("x", Role()),
    ],
)
def test_names_tell_where_the_graph_does_not(name, role):
    model = build(f"(int64[N] {name}) => (float[N] y) {{ y = Cast<to = 1>({name}) }}")
    assert roles(model, [name])[name] == role


def test_sequence_lengths_of_recurrent_layers_are_lengths():
    model = build(
        """(float[S, N, 3] x, int32[N] valid) => (float[S, 1, N, 2] y) <float[1, 8, 3] w, float[1, 8, 2] r, float[1, 16] b> {
          y = LSTM<hidden_size = 2>(x, w, r, b, valid)
        }"""
    )
    assert roles(model, ["valid"])["valid"] == Role(length=True)
