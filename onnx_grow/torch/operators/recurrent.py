"""Recurrent layers: PyTorch's own where they have no more than it knows, step by step otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.torch.operators.elementwise import hard_sigmoid, scaled_tanh, softplus, thresholded_relu
from onnx_grow.torch.operators.unsupported import Unsupported

__all__ = ["TABLE"]

Activation = Callable[[Tensor], Tensor]
Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""What a step makes of what the input contributes, and of the states; the first of which is the output."""


def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """A long short-term memory; gates in the order input, output, forget, cell."""
    initial = (initial_h, initial_c)
    usual = _is_usual(activations, ("Sigmoid", "Tanh", "Tanh"), clip, lengths)
    if usual and not input_forget and peepholes is None:
        y, (last_h, last_c) = _fused(torch.lstm, x, w, r, b, initial, (0, 2, 3, 1), direction, layout)
        return y, last_h, last_c
    bounded = _bounded(clip)
    functions = _activations(
        activations, activation_alpha, activation_beta, ("Sigmoid", "Tanh", "Tanh"), len(w)
    )

    def cell(k: int) -> Cell:
        f, g, h = functions[3 * k : 3 * k + 3]
        bias = None if b is None else b[k].chunk(2)[1]
        peep_i, peep_o, peep_f = (0, 0, 0) if peepholes is None else peepholes[k].chunk(3)

        def step(gates: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden, memory = states
            i, o, f_, c = (gates + F.linear(hidden, r[k], bias)).chunk(4, -1)
            opened = f(bounded(i + peep_i * memory))
            kept = 1 - opened if input_forget else f(bounded(f_ + peep_f * memory))
            memory = kept * memory + opened * g(bounded(c))
            return f(bounded(o + peep_o * memory)) * h(memory), memory

        return step

    y, (last_h, last_c) = _layers(x, w, b, lengths, initial, cell, direction, layout, r.shape[-1])
    return y, last_h, last_c


def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
) -> tuple[Tensor, Tensor]:
    """A gated recurrent unit; gates in the order update, reset, hidden."""
    if linear_before_reset and _is_usual(activations, ("Sigmoid", "Tanh"), clip, lengths):
        y, (last_h,) = _fused(torch.gru, x, w, r, b, (initial_h,), (1, 0, 2), direction, layout)
        return y, last_h
    bounded = _bounded(clip)
    functions = _activations(activations, activation_alpha, activation_beta, ("Sigmoid", "Tanh"), len(w))
    size = r.shape[-1]

    def cell(k: int) -> Cell:
        f, g = functions[2 * k : 2 * k + 2]
        gates_r, hidden_r = r[k].split([2 * size, size])
        bias = r.new_zeros(3 * size) if b is None else b[k].chunk(2)[1]
        gates_b, hidden_b = bias.split([2 * size, size])

        def step(given: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (hidden,) = states
            gates, candidate = given.split([2 * size, size], -1)
            z, reset = f(bounded(gates + F.linear(hidden, gates_r, gates_b))).chunk(2, -1)
            if linear_before_reset:
                candidate = candidate + reset * F.linear(hidden, hidden_r, hidden_b)
            else:
                candidate = candidate + F.linear(reset * hidden, hidden_r, hidden_b)
            return ((1 - z) * g(bounded(candidate)) + z * hidden,)

        return step

    y, (last_h,) = _layers(x, w, b, lengths, (initial_h,), cell, direction, layout, size)
    return y, last_h


def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[Tensor, Tensor]:
    """A plain recurrent layer."""
    if _is_usual(activations, ("Tanh",), clip, lengths):
        y, (last_h,) = _fused(torch.rnn_tanh, x, w, r, b, (initial_h,), (0,), direction, layout)
        return y, last_h
    bounded = _bounded(clip)
    functions = _activations(activations, activation_alpha, activation_beta, ("Tanh",), len(w))

    def cell(k: int) -> Cell:
        bias = None if b is None else b[k].chunk(2)[1]

        def step(given: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (functions[k](bounded(given + F.linear(states[0], r[k], bias))),)

        return step

    y, (last_h,) = _layers(x, w, b, lengths, (initial_h,), cell, direction, layout, r.shape[-1])
    return y, last_h


def _is_usual(
    activations: Sequence[str], usual: Sequence[str], clip: float | None, lengths: Tensor | None
) -> bool:
    """Whether a layer is one of PyTorch's: its activations, nothing bounded, all sequences of one length."""
    directions = max(len(activations) // len(usual), 1)
    named = [name.lower() for name in activations or usual]
    return named == [name.lower() for name in usual] * directions and not clip and lengths is None


def _fused(
    layer: Callable[..., Any],
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    initial: Sequence[Tensor | None],
    gates: Sequence[int],
    direction: str,
    layout: int,
) -> tuple[Tensor, list[Tensor]]:
    """A layer of PyTorch, which has ONNX's gates in another order."""
    x, states = _inputs(x, initial, len(w), r.shape[-1], layout)
    x = x.flip(0) if direction == "reverse" else x
    weights = [
        torch.cat([matrix.chunk(len(gates))[gate] for gate in gates])
        for k in range(len(w))
        for matrix in (w[k], r[k], *(() if b is None else b[k].chunk(2)))
    ]
    given = states if len(states) > 1 else states[0]
    training = torch.is_grad_enabled()  # without which cuDNN keeps nothing for the way back
    y, *lasts = layer(x, given, weights, b is not None, 1, 0.0, training, len(w) == 2, False)
    y = y.unflatten(-1, (len(w), -1)).transpose(1, 2)
    return _laid_out(y.flip(0) if direction == "reverse" else y, lasts, layout)


def _layers(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    initial: Sequence[Tensor | None],
    cell: Callable[[int], Cell],
    direction: str,
    layout: int,
    size: int,
) -> tuple[Tensor, list[Tensor]]:
    """All directions of a layer, step by step."""
    x, states = _inputs(x, initial, len(w), size, layout)
    sequences, lasts = [], []
    for k in range(len(w)):
        given = F.linear(x, w[k], None if b is None else b[k].chunk(2)[0])
        backwards = direction == "reverse" or k == 1
        sequence, last = _steps(given, lengths, tuple(state[k] for state in states), cell(k), backwards)
        sequences.append(sequence)
        lasts.append(last)
    return _laid_out(
        torch.stack(sequences, 1), [torch.stack(each) for each in zip(*lasts, strict=True)], layout
    )


def _inputs(
    x: Tensor, initial: Sequence[Tensor | None], directions: int, size: int, layout: int
) -> tuple[Tensor, list[Tensor]]:
    """The input (steps, batch, features) and the first states (directions, batch, units), zeros where there are none."""
    x = x.transpose(0, 1) if layout else x
    zeros = x.new_zeros(directions, x.shape[1], size)
    states = [zeros if s is None else s.transpose(0, 1) if layout else s for s in initial]
    return x, [state.contiguous() for state in states]


def _laid_out(y: Tensor, lasts: Sequence[Tensor], layout: int) -> tuple[Tensor, list[Tensor]]:
    """Outputs (steps, directions, batch, units) and last states (directions, batch, units), or batch first."""
    if not layout:
        return y, list(lasts)
    return y.permute(2, 0, 1, 3), [last.transpose(0, 1) for last in lasts]


def _steps(
    given: Tensor, lengths: Tensor | None, states: tuple[Tensor, ...], cell: Cell, backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction; beyond its length a sequence keeps its states and gives zeros."""
    outputs: list[Tensor] = []
    order = range(given.shape[0])
    for t in reversed(order) if backwards else order:
        new = cell(given[t], states)
        if lengths is None:
            states = new
            outputs.append(new[0])
        else:
            inside = (lengths > t)[:, None]
            states = tuple(torch.where(inside, a, b) for a, b in zip(new, states, strict=True))
            outputs.append(torch.where(inside, new[0], torch.zeros_like(new[0])))
    return torch.stack(outputs[::-1] if backwards else outputs), states


def _bounded(clip: float | None) -> Activation:
    return partial(torch.clamp, min=-clip, max=clip) if clip else torch.Tensor.contiguous


def _activations(
    names: Sequence[str],
    alphas: Sequence[float],
    betas: Sequence[float],
    usual: Sequence[str],
    directions: int,
) -> list[Activation]:
    """The functions of all directions; each takes as many of the numbers given as it has parameters."""
    alpha, beta = list(alphas), list(betas)
    found: list[Activation] = []
    for name in names or list(usual) * directions:
        function, takes = _FUNCTIONS.get(name.lower(), (None, ""))
        if function is None:
            raise Unsupported(f"it has the activation {name!r}")
        given = {}
        if "a" in takes and alpha:
            given["alpha"] = alpha.pop(0)
        if "b" in takes and beta:
            given["beta"] = beta.pop(0)
        found.append(partial(function, **given) if given else function)
    return found


def _affine(x: Tensor, *, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    return alpha * x + beta


def _leaky(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


_FUNCTIONS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "relu": (torch.relu, ""),
    "tanh": (torch.tanh, ""),
    "sigmoid": (torch.sigmoid, ""),
    "softsign": (F.softsign, ""),
    "softplus": (softplus, ""),
    "affine": (_affine, "ab"),
    "leakyrelu": (_leaky, "a"),
    "thresholdedrelu": (thresholded_relu, "a"),
    "scaledtanh": (scaled_tanh, "ab"),
    "hardsigmoid": (hard_sigmoid, "ab"),
    "elu": (F.elu, "a"),
}

TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "GRU"): gru,
    ("", "LSTM"): lstm,
    ("", "RNN"): rnn,
}
