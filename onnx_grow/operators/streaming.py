"""Operators that carry a state from step to step: linear attention and causal convolutions.

    S[t] = exp(g[t]) S[t-1] + k[t] v[t]^T      y[t] = scale S[t]^T q[t]      S: d channels of keys x dv of values, one for each head

Copies of the d channels are summed once, where the queries read: they are shared there. The delta rules also compare the keys with the
state that they have written, so that keys and queries each become 1 / sqrt(c) of what they were, and with them the state.
"""

from __future__ import annotations

from math import sqrt

from onnx_grow.axes.algebra import axis, size
from onnx_grow.axes.equations import Node, Rule, Unsupported
from onnx_grow.axes.signature import Signature

_CAUSAL = {
    0: Signature("N c !*, c !*, c, N c !* -> N c !*, N c !*"),
    1: Signature("N !* c, c !*, c, N !* c -> N !* c, N !* c"),
}
_GATE = Signature("N T h, h, h, N T h -> N T h, N T h")
_STEPS = "carries a state along this dimension"


def linear_attention(node: Node) -> None:
    """Linear attention, plain or with decay, by sums or by the delta rule; operands are (N, T, heads channels)."""
    if node.attribute("state_window", 0):
        raise Unsupported("it keeps several states")
    q, k, v = (node.input(i) for i in range(3))
    queries, keys = int(node.attribute("q_num_heads", 0)), int(node.attribute("kv_num_heads", 0))
    if not keys or queries % keys:
        raise Unsupported(f"it has {queries} heads of queries and {keys} of keys")
    kv, rep, d, dv = (axis(n) for n in (keys, queries // keys, size(k[2]) // keys, size(v[2]) // keys))
    for operand, dim in ((q, (*kv, *rep, *d)), (k, (*kv, *d)), (v, (*kv, *dv))):
        node.freeze(operand[0], "has a state for each of these")
        node.freeze(operand[1], _STEPS)
        node.unify(operand[2], dim)
    for i in (4, 5):
        if node.has(i):
            n, steps, gates = node.input(i)
            node.freeze(n, "has a state for each of these")
            node.freeze(steps, _STEPS)
            if size(gates) > 1:
                node.unify(gates, kv if size(gates) == keys else (*kv, *d))
    state = (q[0], kv, d, dv)
    for dim, given in zip(state, node.input(3) if node.has(3) else state, strict=True):
        node.unify(dim, given)
    keeps = node.has(3) or any(map(node.is_read, range(1, len(node.outputs))))
    if "delta" not in node.attribute("update_rule", "gated_delta"):
        node.contract(d, (0, 2))
    elif keeps:
        node.freeze(d, "compares keys with a state of these channels that comes from outside, or is told")
    else:
        node.contract(d, (0, 2), power=-0.5)
        node.contract(d, (1, 2), power=-0.5)
    node.tune("scale", node.attribute("scale") or 1 / sqrt(size(d)), d)
    node.size_attribute("q_num_heads", (*kv, *rep))
    node.size_attribute("kv_num_heads", kv)
    for dim in (kv, rep):
        node.role("heads", dim)
    for dim in (d, dv):
        node.role("head_dim", dim)
    node.set(0, [q[0], q[1], (*kv, *rep, *dv)])
    node.set(1, state)


def causal_conv(node: Node) -> None:
    """A convolution of each channel alone with what came before; what it needs of that is its state."""
    if node.attribute("state_window", 0):
        raise Unsupported("it keeps several states")
    _CAUSAL[node.attribute("channels_last", 0)](node)


RULES = {
    **{(domain, "CausalConvWithState"): Rule(causal_conv) for domain in ("", "com.microsoft")},
    **{(domain, "LinearAttention"): Rule(linear_attention) for domain in ("", "com.microsoft")},
    ("com.microsoft", "LinearAttentionGate"): Rule(_GATE),
}
