"""Heat maps: how much each place of an image speaks for a target. The gradients are captum's.

A map is signed: places that speak against the target have negative numbers. Its sum is comparable between levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dualtoken.errors import ConfigError, require, unknown_name
from dualtoken.explanation.levels import Level, tapped
from dualtoken.explanation.targets import Scorer

Floats = NDArray[np.float32]

_CELL = 8  # pixels of a side, over which the numbers of single pixels are added
_STEPS, _AT_ONCE = 32, 8  # of integrated gradients: points on the way, and images at a time


@dataclass(frozen=True, eq=False)
class Heat:
    """A heat map.

    Attributes:
        values: (h, w) float32, over the network's whole input; above 0 where a place speaks for the target.
        method: a key of `METHODS`.
        levels: modules whose maps were read; none where pixels were asked.
    """

    values: Floats
    method: str
    levels: tuple[str, ...]

    def over(self, size: tuple[int, int]) -> Floats:
        """The map at `size`, (height, width), bilinearly."""
        whole = F.interpolate(torch.from_numpy(self.values)[None, None], size, mode="bilinear", align_corners=False)
        return np.asarray(whole[0, 0].numpy(), np.float32)


def check_method(method: str) -> None:
    """Refuse an unknown method.

    Raises:
        ConfigError: with the nearest name.
        MissingExtraError: captum is not installed.
    """
    if method not in METHODS:
        raise ConfigError(unknown_name("method", method, METHODS))
    require("captum", "explain")


def heat_map(
    method: str, model: nn.Module, levels: Sequence[Level], scorer: Scorer, image: Tensor, target: int
) -> Heat:
    """The heat map of one target.

    Args:
        method: a key of `METHODS`.
        model: the network, in evaluation mode; it is left as it was.
        levels: where to read maps, as `choose_levels` gave them; not used by `integrated_gradients`.
        scorer: what is asked of that very network.
        image: (1, 3, H, W), pre-processed.
        target: which of the scorer's questions.
    """
    image = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        if method == "integrated_gradients":
            return Heat(_array(_integrated(scorer, image, target)), method, ())
        with tapped(model, levels, (image.shape[2], image.shape[3])) as taps:
            maps = METHODS[method](scorer, taps, image, target)
    names = (level.module if level.channels is not None else f"{level.module}[{level.item}]" for level in levels)
    return Heat(_array(_added(maps)), method, tuple(names))


def _array(values: Tensor) -> Floats:
    return np.ascontiguousarray(values.detach().cpu().numpy(), np.float32)


def _added(maps: Sequence[Tensor]) -> Tensor:
    """Maps (h, w) of several levels on the finest grid; a cell's number is shared out among the cells within it."""
    size = max((level.shape for level in maps), key=lambda shape: shape.numel())
    whole = torch.zeros(size, device=maps[0].device)
    for level in maps:
        fine = F.interpolate(level[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]
        whole += fine * (level.numel() / size.numel())
    return whole


# ---------------------------------------------------------------- methods


def _gradcam(scorer: Scorer, taps: Sequence[nn.Module], image: Tensor, target: int) -> list[Tensor]:
    """Grad-CAM (Selvaraju et al. 2017): activations weighted by each channel's mean gradient."""
    from captum.attr import LayerGradCam

    cams = [LayerGradCam(scorer.evidence, tap).attribute(image, target=target) for tap in taps]
    return [cam[0, 0].detach() for cam in cams]


def _hirescam(scorer: Scorer, taps: Sequence[nn.Module], image: Tensor, target: int) -> list[Tensor]:
    """HiResCAM (Draelos and Carin 2020): activations times gradients, place by place."""
    from captum.attr import LayerGradientXActivation

    products = LayerGradientXActivation(scorer.evidence, list(taps)).attribute(image, target=target)
    return [product[0].sum(dim=0).detach() for product in products]


def _integrated(scorer: Scorer, image: Tensor, target: int) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017) of the pixels from the mean colour on, added over cells."""
    from captum.attr import IntegratedGradients

    pixels = IntegratedGradients(scorer.evidence).attribute(
        image, baselines=torch.zeros_like(image), target=target, n_steps=_STEPS, internal_batch_size=_AT_ONCE
    )
    summed = pixels.sum(dim=1, keepdim=True).float()
    cell = min(_CELL, *summed.shape[2:])
    return F.avg_pool2d(summed, cell, ceil_mode=True, count_include_pad=False)[0, 0] * cell**2


Method = Callable[[Scorer, Sequence[nn.Module], Tensor, int], list[Tensor]]

METHODS: dict[str, Any] = {"hirescam": _hirescam, "gradcam": _gradcam, "integrated_gradients": _integrated}
