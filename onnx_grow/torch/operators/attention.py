"""Attention, written out: scores, bias and masks, softmax, values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onnx_grow.torch.operators.unsupported import Unsupported

__all__ = ["TABLE", "rotary_embedding"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> tuple[Tensor | None, ...]:
    """ONNX's Attention: of heads (batch, heads, steps, size), or of rows in which the heads lie side by side."""
    flat = query.ndim == 3
    if flat:
        query, key, value = _heads(query, q_num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    past = 0 if past_key is None else past_key.shape[2]
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    repeats = query.shape[1] // key.shape[1]
    keys, values = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    factor = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    plain = (query * factor) @ (keys * factor).transpose(-1, -2)
    steps, total = plain.shape[-2:]
    bias = torch.zeros((), dtype=plain.dtype, device=plain.device)
    if mask is not None:
        bias = bias + _extended(_additive(mask, plain.dtype), total)
    offset: Any = past
    if lengths is not None:
        inside = torch.arange(total, device=query.device) < lengths[:, None, None, None]
        bias = bias + _additive(inside, plain.dtype)
        if past_key is None:
            offset = (lengths - steps)[:, None, None, None]
    if is_causal:
        rows, columns = (
            torch.arange(steps, device=query.device)[:, None],
            torch.arange(total, device=query.device),
        )
        bias = bias + _additive(columns <= rows + offset, plain.dtype)
    capped = softcap * torch.tanh(plain / softcap) if softcap else plain
    biased = capped + bias
    shares = torch.softmax(biased, -1).nan_to_num()
    y = shares @ values
    shown = (plain, capped, biased, shares)[qk_matmul_output_mode] if qk_matmul_output_mode < 4 else None
    return (_rows(y) if flat else y), key, value, shown


def multi_head_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    padding: Tensor | None = None,
    added: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> tuple[Tensor, ...]:
    """ONNX Runtime's MultiHeadAttention, of separate or of packed queries, keys and values."""
    if query.ndim == 5:
        query, key, value = (part.flatten(2) for part in query.unbind(3))
    elif key is not None and key.ndim == 5:
        key, value = (part.flatten(2) for part in key.unbind(3))
    if key is None or value is None:
        raise Unsupported("it has no keys")
    if bias is not None:
        size = query.shape[-1]
        query = query + bias[:size]
        if key.ndim == 3:
            key, value = key + bias[size : 2 * size], value + bias[2 * size :]
    queries = _heads(query, num_heads)
    keys = _heads(key, num_heads) if key.ndim == 3 else key
    values = _heads(value, num_heads) if value.ndim == 3 else value
    if past_key is not None and past_value is not None:
        keys, values = torch.cat([past_key, keys], 2), torch.cat([past_value, values], 2)
    scores = queries @ keys.transpose(-1, -2) * (scale or 1 / math.sqrt(queries.shape[-1]))
    if added is not None:
        scores = scores + added
    if padding is not None:
        scores = scores + _filtered(padding, scores, mask_filter_value)
    if unidirectional:
        scores = scores + _causal(scores, mask_filter_value)
    return _rows(torch.softmax(scores, -1) @ values), keys, values


def grouped_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    last: Tensor,
    total_length: Tensor,
    cosines: Tensor | None = None,
    sines: Tensor | None = None,
    positions: Tensor | None = None,
    bias: Tensor | None = None,
    sink: Tensor | None = None,
    *,
    do_rotary: int = 0,
    kv_num_heads: int,
    local_window_size: int = -1,
    num_heads: int,
    rotary_interleaved: int = 0,
    scale: float = 0.0,
    smooth_softmax: int = 0,
    softcap: float = 0.0,
) -> tuple[Tensor, ...]:
    """ONNX Runtime's GroupQueryAttention: causal, several heads of queries to one of keys, which are written behind those of the past.

    `last` is the place of every sample's last step: samples may be of different lengths.
    """
    if key is None or value is None:
        size = query.shape[-1] // (num_heads + 2 * kv_num_heads)
        query, key, value = query.split([size * n for n in (num_heads, kv_num_heads, kv_num_heads)], -1)
    steps, total = query.shape[1], int(total_length)
    starts = (last.reshape(-1, 1).long() + 1 - steps).clamp(min=0)
    places = starts + torch.arange(steps, device=query.device)
    if do_rotary and cosines is not None and sines is not None:
        at = places if positions is None else positions
        if positions is not None and not starts.any():  # of the first steps it reads one position only
            at = positions.flatten()[0] + places
        turned = {"interleaved": rotary_interleaved, "rotary_embedding_dim": 2 * cosines.shape[-1]}
        query = rotary_embedding(query, cosines, sines, at, num_heads=num_heads, **turned)
        key = rotary_embedding(key, cosines, sines, at, num_heads=kv_num_heads, **turned)
    keys = _behind(past_key, _heads(key, kv_num_heads), places, total)
    values = _behind(past_value, _heads(value, kv_num_heads), places, total)
    queries, repeats = _heads(query, num_heads), num_heads // kv_num_heads
    seen = torch.arange(total, device=query.device)
    distance = places[:, None, :, None] - seen
    hidden = distance < 0
    if local_window_size > 0:
        hidden = hidden | (distance >= local_window_size)
    scores = queries @ keys[:, :, :total].repeat_interleave(repeats, 1).transpose(-1, -2)
    scores = scores * (scale or 1 / math.sqrt(queries.shape[-1]))
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    scores = (scores if bias is None else scores + bias[..., :total]).masked_fill(hidden, -torch.inf)
    if smooth_softmax or sink is not None:  # one more thing to look at, of which nothing comes
        level = scores.new_zeros(num_heads) if sink is None else sink
        one_more = level.reshape(-1, 1, 1).expand(*scores.shape[:3], 1)
        shares = torch.softmax(torch.cat([scores, one_more], -1), -1)[..., :-1]
    else:
        shares = torch.softmax(scores, -1)
    y = shares @ values[:, :, :total].repeat_interleave(repeats, 1)
    return _rows(y), keys, values


def _behind(past: Tensor | None, new: Tensor, places: Tensor, total: int) -> Tensor:
    """The past with new steps at some places of every sample, long enough for them."""
    if past is None or not past.shape[2]:
        past = new.new_zeros((*new.shape[:2], 0, new.shape[3]))
    written = torch.arange(past.shape[2], device=new.device)[:, None] < places[:, :1, None, None]
    room = torch.nn.functional.pad(past * written, (0, 0, 0, max(total - past.shape[2], 0)))
    return room.scatter(2, places[:, None, :, None].expand(new.shape), new)


def packed_attention(
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    *,
    do_rotary: int = 0,
    mask_filter_value: float = -10000.0,
    num_heads: int,
    past_present_share_buffer: int = 0,
    qkv_hidden_sizes: list[int] | None = None,
    rotary_embedding_dim: int = 0,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> tuple[Tensor, ...]:
    """ONNX Runtime's Attention: one matrix makes queries, keys and values."""
    if do_rotary or past_present_share_buffer:
        raise Unsupported("it rotates, or shares its buffer")
    y = x @ weights if bias is None else x @ weights + bias
    sizes = qkv_hidden_sizes or [weights.shape[-1] // 3] * 3
    queries, keys, values = (_heads(part, num_heads) for part in y.split(sizes, -1))
    if past is not None:
        keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
    scores = queries @ keys.transpose(-1, -2) * (scale or 1 / math.sqrt(queries.shape[-1]))
    if unidirectional:
        scores = scores + _causal(scores, mask_filter_value)
    if mask is not None:
        scores = scores + _filtered(mask, scores, mask_filter_value)
    if added is not None:
        scores = scores + added
    present = torch.stack([keys, values]) if keys.shape == values.shape else keys
    return _rows(torch.softmax(scores, -1) @ values), present


def rotary_embedding(
    x: Tensor,
    cosines: Tensor,
    sines: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Pairs of features turned by angles that depend on the position."""
    flat = x.ndim == 3
    y = x.reshape(*x.shape[:2], num_heads, -1) if flat else x.transpose(1, 2)
    size = rotary_embedding_dim or y.shape[-1]
    turned, rest = y[..., :size], y[..., size:]
    if positions is not None:
        cosines, sines = cosines[positions], sines[positions]
    cosine, sine = (table[..., : size // 2].unsqueeze(2) for table in (cosines, sines))
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = (cosine * a - sine * b, sine * a + cosine * b)
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    y = torch.cat([turned, rest], -1)
    return y.reshape(x.shape) if flat else y.transpose(1, 2)


def rotary_embedding_of_microsoft(
    x: Tensor,
    positions: Tensor,
    cosines: Tensor,
    sines: Tensor,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """ONNX Runtime's RotaryEmbedding; one position is that of the first step."""
    steps = x.shape[1] if x.ndim == 3 else x.shape[2]
    if positions.numel() == 1:
        positions = (positions.reshape(1) + torch.arange(steps, device=x.device))[None].expand(x.shape[0], -1)
    if x.ndim == 3 and not num_heads:
        num_heads = x.shape[-1] // (rotary_embedding_dim or 2 * cosines.shape[-1])
    turned = {
        "interleaved": interleaved,
        "num_heads": num_heads,
        "rotary_embedding_dim": rotary_embedding_dim,
    }
    return rotary_embedding(x, cosines, sines, positions, **turned)


def _heads(x: Tensor, count: int) -> Tensor:
    """(batch, steps, heads x size) as (batch, heads, steps, size)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: a mask of numbers as it is, minus infinity where one of truths is false."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)


def _extended(mask: Tensor, total: int) -> Tensor:
    """A mask over all keys: those beyond its end are not seen."""
    short = total - mask.shape[-1]
    return torch.nn.functional.pad(mask, (0, short), value=-torch.inf) if short > 0 else mask


def _filtered(mask: Tensor, scores: Tensor, value: float) -> Tensor:
    """The value where a padding mask, of lengths or of zeros and ones, hides a key."""
    total = scores.shape[-1]
    if mask.ndim == 1:
        if mask.shape[0] != scores.shape[0]:
            raise Unsupported("its mask tells where sequences begin and end")
        mask = torch.arange(total, device=scores.device) < mask[:, None]
    seen = mask != 0
    shaped = seen[:, None, None] if mask.ndim == 2 else seen[:, None] if mask.ndim == 3 else seen
    return torch.zeros(shaped.shape, dtype=scores.dtype, device=scores.device).masked_fill(~shaped, value)


def _causal(scores: Tensor, value: float) -> Tensor:
    steps, total = scores.shape[-2:]
    later = torch.ones(steps, total, dtype=torch.bool, device=scores.device).triu(total - steps + 1)
    return torch.zeros(steps, total, dtype=scores.dtype, device=scores.device).masked_fill(later, value)


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "Attention"): attention,
    ("", "RotaryEmbedding"): rotary_embedding,
    ("com.microsoft", "Attention"): packed_attention,
    ("com.microsoft", "GroupQueryAttention"): grouped_attention,
    ("com.microsoft", "MultiHeadAttention"): multi_head_attention,
    ("com.microsoft", "RotaryEmbedding"): rotary_embedding_of_microsoft,
}
