"""The paper's mixer: how it starts."""

from __future__ import annotations

import timm
import torch

import dualtoken  # noqa: F401  (registers the networks)
from dualtoken.backbone.area import area_resize
from dualtoken.backbone.mixers.dual_token import PositionAwareTokens


def test_fresh_down_sampling_is_the_average() -> None:
    """Else the travelling tokens hear nothing of the image in the first two stages, and never learn to."""
    torch.manual_seed(0)
    model = timm.create_model("dualtoken_vit_t_mix", channels=(16, 24, 32), heads=(2, 2, 2), depths=(1, 1, 1)).eval()
    seen = []

    def look(module: PositionAwareTokens, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        x, _ = inputs
        seen.append((module.downsample(x), area_resize(x, 7, 7)))

    for module in model.modules():
        if isinstance(module, PositionAwareTokens):
            module.register_forward_pre_hook(look)
    with torch.no_grad():
        model(torch.randn(2, 3, 224, 224))

    assert len(seen) == 3
    for sampled, average in seen:
        torch.testing.assert_close(sampled, average, rtol=0, atol=1e-5)
        assert average.std() > 0.1
