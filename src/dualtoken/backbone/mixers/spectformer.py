"""SpectFormer: learned factors for the spectrum first, attention later (Patro et al. 2023, arXiv 2304.06446).

Facts from github.com/badripatro/SpectFormers. The factors belong to one grid (of images of 224 pixels): maps of another
size are resized to it and back (ours). The mixer alone: the network's head learns from labels of tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone.area import area_resize
from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.fourier import irfft2, rfft2
from dualtoken.backbone.modules import Attention


class SpectralGate(nn.Module):
    """Each wave of each channel times a learned complex number."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.grid = place.grid
        self.weight = nn.Parameter(torch.empty(self.grid, self.grid // 2 + 1, place.channels, 2, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small normal numbers, as the official code draws them."""
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        whole = x if x.dtype == torch.float64 else x.float()  # spectra are too wide for half precision
        real, imag = rfft2(area_resize(whole, self.grid, self.grid))  # each (B, grid, grid / 2 + 1, C)
        down, up = self.weight.to(whole.dtype).unbind(-1)
        y = irfft2(real * down - imag * up, real * up + imag * down, self.grid)
        return area_resize(y, x.shape[1], x.shape[2]).to(x.dtype)


def _by_stage(place: Place, **dd: Any) -> nn.Module:
    return Attention(place, **dd) if place.stage > 1 else SpectralGate(place, **dd)


register_branch("spectformer", _by_stage)
