"""Hydra: two state spaces, one from either end of the raster (Hwang et al. 2024, arXiv 2407.09941).

Facts from github.com/goombalab/hydra. What is a scan there is a product under a triangular mask here: the same
function, quadratic in the positions, and exportable. The mixer alone; positions come row by row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.modules import draw_steps

_KERNEL = 7


class TwoWayStateSpace(nn.Module):
    """Values of twice the channels; each position gathers from all before it and from all behind it, with a decay."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.heads, self.state, self.inner = place.heads, place.options.get("state", 64), 2 * place.channels
        mixed = self.inner + 4 * self.state
        self.proj_in = nn.Linear(place.channels, self.inner + mixed + 2 * self.heads, bias=False, **dd)
        self.conv = nn.Conv1d(mixed, mixed, _KERNEL, padding=_KERNEL // 2, groups=mixed, **dd)
        self.act = nn.SiLU()
        self.step_bias = nn.Parameter(torch.empty(self.heads, **dd))
        self.log_decay = nn.Parameter(torch.empty(self.heads, **dd))
        self.skip = nn.Linear(self.inner, self.heads, **dd)
        self.norm = nn.RMSNorm(self.inner, eps=1e-5, **dd)
        self.proj_out = nn.Linear(self.inner, place.channels, bias=False, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Steps from 0.001 to 0.1, evenly by their logarithm; a decay of one."""
        draw_steps(self.step_bias)
        nn.init.zeros_(self.log_decay)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        mixed_channels = self.inner + 4 * self.state
        gate, mixed, step = self.proj_in(x.flatten(1, 2)).split([self.inner, mixed_channels, 2 * self.heads], -1)
        mixed = self.act(self.conv(mixed.mT).mT)
        values, *states = mixed.split([self.inner, *[self.state] * 4], -1)
        steps = F.softplus(step.unflatten(-1, (2, self.heads)) + self.step_bias).permute(2, 0, 3, 1)  # (2, B, nh, N)
        heads = values.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, nh, N, hd)
        forth = self._gather(heads, steps[0], states[0], states[1])
        back = self._gather(heads.flip(2), steps[1].flip(2), states[2].flip(1), states[3].flip(1)).flip(2)
        y = forth + back + heads * (self.skip(values) + 1).mT[..., None]
        y = self.norm(y.transpose(1, 2).flatten(2)) * F.silu(gate)
        return self.proj_out(y).unflatten(1, (height, width))

    def _gather(self, values: Tensor, step: Tensor, write: Tensor, read: Tensor) -> Tensor:
        """What the positions before each one have left in the state when the last of them reads it.

        Args:
            values: (B, nh, N, hd).
            step: (B, nh, N).
            write, read: (B, N, S).
        """
        passed = (step if step.dtype == torch.float64 else step.float()).cumsum(-1)  # long sums in half precision drift
        number = step.shape[-1]
        place = torch.arange(number, device=step.device)
        decay = -self.log_decay.exp()[:, None, None] * (passed[..., :, None] - passed[..., None, :])
        decay = decay.masked_fill(place > place[:, None], -torch.inf).exp()  # (B, nh, N, N): nothing from behind
        seen = torch.matmul(read, write.mT)[:, None] * decay.to(read.dtype)
        y = torch.matmul(seen, values * step[..., None])
        return F.pad(y, (0, 0, 1, 0))[:, :, :number]  # a position reads what was there before it


register_branch("hydra", TwoWayStateSpace)
