"""Fourier transforms and their windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onnx_grow.torch.values import DTYPES, Host, sizes

__all__ = ["TABLE"]


def dft(
    x: Tensor,
    length: Host | None = None,
    at: Host | None = None,
    *,
    axis: int | None = None,
    inverse: int = 0,
    onesided: int = 0,
    opset: int,
) -> Tensor:
    """The discrete Fourier transform along an axis; the last dimension holds real and imaginary parts."""
    dim = sizes(at)[0] if at is not None else axis if axis is not None else (1 if opset < 20 else -2)
    dim = dim % x.ndim
    count = None if length is None else int(sizes(length)[0])
    numbers = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    if inverse and onesided:
        return torch.fft.irfft(numbers, count, dim).unsqueeze(-1)
    transform = torch.fft.ifft if inverse else torch.fft.fft
    y = torch.view_as_real(transform(numbers, count, dim))
    return y.narrow(dim, 0, y.shape[dim] // 2 + 1) if onesided else y


def stft(
    x: Tensor, step: Host, window: Tensor | None = None, length: Host | None = None, *, onesided: int = 1
) -> Tensor:
    """Fourier transforms of frames."""
    size = (
        window.shape[0] if window is not None else int(sizes(length)[0]) if length is not None else x.shape[1]
    )
    numbers = (
        torch.view_as_complex(x.contiguous()) if x.ndim == 3 and x.shape[-1] == 2 else x.reshape(x.shape[:2])
    )
    frames = numbers.unfold(1, size, int(sizes(step)[0]))
    frames = frames if window is None else frames * window
    if frames.is_complex():
        return torch.view_as_real(torch.fft.fft(frames))
    return torch.view_as_real(torch.fft.rfft(frames) if onesided else torch.fft.fft(frames))


def hann_window(size: Host, *, output_datatype: int = 1, periodic: int = 1, device: torch.device) -> Tensor:
    """The window of Hann."""
    return _cosines((0.5, 0.5), size, output_datatype, periodic, device)


def hamming_window(
    size: Host, *, output_datatype: int = 1, periodic: int = 1, device: torch.device
) -> Tensor:
    """The window of Hamming."""
    return _cosines((25 / 46, 1 - 25 / 46), size, output_datatype, periodic, device)


def blackman_window(
    size: Host, *, output_datatype: int = 1, periodic: int = 1, device: torch.device
) -> Tensor:
    """The window of Blackman."""
    return _cosines((0.42, 0.5, 0.08), size, output_datatype, periodic, device)


def _cosines(terms: tuple[float, ...], size: Host, dtype: int, periodic: int, device: torch.device) -> Tensor:
    count = int(sizes(size)[0])
    angles = (
        2
        * torch.pi
        * torch.arange(count, dtype=torch.float64, device=device)
        / (count if periodic else count - 1)
    )
    window = sum((-1) ** k * term * torch.cos(k * angles) for k, term in enumerate(terms))
    return torch.as_tensor(window).to(DTYPES[dtype])


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "BlackmanWindow"): blackman_window,
    ("", "DFT"): dft,
    ("", "HammingWindow"): hamming_window,
    ("", "HannWindow"): hann_window,
    ("", "STFT"): stft,
}
