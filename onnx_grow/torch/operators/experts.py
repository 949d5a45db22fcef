"""Mixtures of experts: a router chooses some of them for every token, and adds up what they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.torch.operators.packed import unpacked
from onnx_grow.torch.operators.unsupported import Unsupported

__all__ = ["TABLE"]


def mixture(
    x: Tensor,
    router: Tensor,
    first: Tensor,
    bias1: Tensor | None,
    second: Tensor,
    bias2: Tensor | None = None,
    third: Tensor | None = None,
    bias3: Tensor | None = None,
    *,
    activation_alpha: float = 1.0,
    activation_beta: float = 0.0,
    activation_type: str = "relu",
    k: int = 1,
    normalize_routing_weights: int = 0,
    swiglu_fusion: int = 0,
    swiglu_limit: float = float("inf"),
    use_sparse_mixer: int = 0,
) -> Tensor:
    """MoE: two matrices for every expert; the third one is the other factor of a gated activation."""
    if use_sparse_mixer or activation_type not in (*_ACTIVATIONS, "swiglu"):
        raise Unsupported("it mixes sparsely" if use_sparse_mixer else f"it activates by {activation_type!r}")
    tokens = x.reshape(-1, x.shape[-1])
    odds, chosen = torch.softmax(router.reshape(len(tokens), -1), -1).topk(k, -1)
    if normalize_routing_weights:
        odds = odds / odds.sum(-1, keepdim=True)
    shares = torch.zeros(len(tokens), len(first), dtype=x.dtype, device=x.device).scatter(-1, chosen, odds)
    inner = _layer(tokens, first, bias1)
    if activation_type == "swiglu":
        if swiglu_fusion == 1:
            gate, linear = inner[..., 0::2], inner[..., 1::2]
        elif swiglu_fusion == 2:
            gate, linear = inner.chunk(2, -1)
        elif third is not None:
            gate, linear = inner, _layer(tokens, third, bias3)
        else:
            raise Unsupported("it has nothing to gate")
        gate, linear = gate.clamp(max=swiglu_limit), linear.clamp(-swiglu_limit, swiglu_limit)
        inner = gate * torch.sigmoid(activation_alpha * gate) * (linear + activation_beta)
    else:
        inner = _ACTIVATIONS[activation_type](inner)
        inner = inner if third is None else inner * _layer(tokens, third, bias3)
    y = torch.einsum("eti,eoi->eto", inner, second)
    y = y if bias2 is None else y + bias2.unsqueeze(1)
    return torch.einsum("eto,te->to", y, shares).reshape(x.shape)


def quantized_mixture(
    x: Tensor,
    router: Tensor,
    first: Tensor,
    scales1: Tensor,
    bias1: Tensor | None,
    second: Tensor,
    scales2: Tensor,
    bias2: Tensor | None = None,
    third: Tensor | None = None,
    scales3: Tensor | None = None,
    bias3: Tensor | None = None,
    zeros1: Tensor | None = None,
    zeros2: Tensor | None = None,
    zeros3: Tensor | None = None,
    *,
    expert_weight_bits: int = 4,
    block_size: int = 0,
    **mixing: Any,
) -> Tensor:
    """QMoE: the same with packed weights; the odds of the chosen experts add up to one, whatever the attribute says, as in ONNX Runtime."""

    def matrix(packed: Tensor, scales: Tensor, zeros: Tensor | None) -> Tensor:
        blocks = scales if scales.ndim == 3 else scales.unsqueeze(-1)
        length = packed.shape[-1] * 8 // expert_weight_bits
        return unpacked(packed, blocks, zeros, expert_weight_bits, block_size or length).to(x.dtype)

    one, two = matrix(first, scales1, zeros1), matrix(second, scales2, zeros2)
    three = None if third is None or scales3 is None else matrix(third, scales3, zeros3)
    return mixture(
        x, router, one, bias1, two, bias2, three, bias3, **{**mixing, "normalize_routing_weights": 1}
    )


def _layer(tokens: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """What every expert makes of every token: experts, tokens, channels."""
    y = torch.einsum("tc,eic->eti", tokens, weights)
    return y if bias is None else y + bias.unsqueeze(1)


def _same(x: Tensor) -> Tensor:
    return x


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "identity": _same,
    "relu": torch.relu,
    "silu": F.silu,
}

TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("com.microsoft", "MoE"): mixture,
    ("com.microsoft", "QMoE"): quantized_mixture,
}
