"""The Fourier transform of real maps as products with cosines and sines: it exports everywhere, and sizes stay open."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dualtoken.backbone.layers import modulo


def rfft2(x: Tensor) -> tuple[Tensor, Tensor]:
    """The half spectrum of each channel of a map (B, H, W, C), orthonormal: `torch.fft.rfft2` over H and W.

    Returns:
        Real and imaginary parts, each (B, H, W // 2 + 1, C).
    """
    cos, sin = _waves(x.shape[2], x)
    half = x.shape[2] // 2 + 1
    real, imag = torch.matmul(cos[:half], x), -torch.matmul(sin[:half], x)
    cos, sin = _waves(x.shape[1], x)
    return _down(cos, real) + _down(sin, imag), _down(cos, imag) - _down(sin, real)


def irfft2(real: Tensor, imag: Tensor, width: int) -> Tensor:
    """The map (B, H, width, C) of a half spectrum, each part (B, H, width // 2 + 1, C): `torch.fft.irfft2`."""
    cos, sin = _waves(real.shape[1], real)
    real, imag = _down(cos, real) - _down(sin, imag), _down(cos, imag) + _down(sin, real)
    cos, sin = _waves(width, real)
    half = width // 2 + 1
    wave = torch.arange(half, device=real.device)
    times = (2 - (wave == 0).int() - (2 * wave == width).int()).to(real.dtype)  # each wave stands for its mirror too
    return torch.matmul(cos[:, :half] * times, real) - torch.matmul(sin[:, :half] * times, imag)


def _down(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.matmul(matrix, x.flatten(2)).unflatten(2, x.shape[2:])


def _waves(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all waves over `size` places, each (size, size)."""
    place = torch.arange(size, device=like.device)
    angle = modulo(place[:, None] * place, size).to(like.dtype) * (2 * math.pi / size)
    return angle.cos() / size**0.5, angle.sin() / size**0.5
