"""Where maps are read inside a network: the levels of its backbone, as maps (B, C, h, w) whatever its own layout.

captum hooks modules whose output is one map with the channels first. Stages give maps with the channels last, pairs of
maps, or columns of tokens: a `Tap` is put behind them for a while, and gets their map as captum wants it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.answers import kind_of
from dualtoken.errors import ConfigError, ModelError
from dualtoken.explanation.targets import Scorer

ENOUGH = 7  # positions of a map's shorter side; on fewer nothing can be seen


class Tap(nn.Module):
    """Behind a level of the network: its map (1, C, h, w) passes through unchanged.

    What comes out is another tensor for gradients: of several maps that a head is given, each counts for what the head
    makes of it, and not for the later maps that the backbone has made of it before.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.view_as(x)


@dataclass(frozen=True)
class Level:
    """A place where a map can be read.

    Attributes:
        module: name of the module whose output holds the map; the network itself is "".
        item: which element of that output, for a list or tuple; None for a tensor.
        stride: pixels of the image for one position, each way; 0 where it is not known.
        channels: of the map; None where they come first for certain.
        prefix: tokens before those of the positions, where positions are in one column.
    """

    module: str
    item: int | None = None
    stride: int = 0
    channels: int | None = None
    prefix: int = 0


def find_levels(model: nn.Module, task: str) -> list[Level]:
    """Where maps of `model` may be read, finest first: of a classifier its stages, else what its head is given."""
    if kind_of(task).counts != "images":
        body = model.body
        name = next(name for name, module in model.named_modules() if module is body)
        outputs = len(getattr(body, "strides", ())) or len(getattr(body, "out_channels", ()))
        return [Level(name, item) for item in range(outputs)]
    from dualtoken.backbone.dualtoken import Stage

    info = getattr(model, "feature_info", None) or []
    names = {name for name, _ in model.named_modules()}
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    levels = []
    for entry in info if isinstance(info, list) else info.info:
        if (name := str(entry["module"])) in names:
            item = 0 if isinstance(model.get_submodule(name), Stage) else None  # of image tokens and global tokens
            levels.append(Level(name, item, int(entry["reduction"]), int(entry["num_chs"]), prefix))
    return levels


@contextmanager
def tapped(model: nn.Module, levels: Sequence[Level], size: tuple[int, int]) -> Iterator[list[Tap]]:
    """Put a tap behind each level; afterwards, whatever happens, the model is as before.

    Args:
        model: the network.
        levels: places in it.
        size: (height, width) of the images that it will be given.
    """
    taps, hooks = [Tap() for _ in levels], []
    try:
        for level, tap in zip(levels, taps, strict=True):
            hook = _hook(level, tap, size)
            hooks.append(model.get_submodule(level.module).register_forward_hook(hook))
        yield taps
    finally:
        for handle in hooks:
            handle.remove()


def _hook(level: Level, tap: Tap, size: tuple[int, int]) -> Callable[[nn.Module, Any, Any], Any]:
    def passed(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if level.item is None:
            return _through(tap, output, level, size)
        parts = list(output)
        parts[level.item] = _through(tap, parts[level.item], level, size)
        return type(output)(parts)

    return passed


def _through(tap: Tap, x: Any, level: Level, size: tuple[int, int]) -> Any:
    """`x` through the tap with the channels first, and back; what is no map stays as it is."""
    if not isinstance(x, Tensor):
        return x
    if x.ndim == 4 and _channels_last(x, level, size):
        return tap(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    if x.ndim == 4:
        return tap(x)
    if x.ndim == 3 and (grid := _grid(x.shape[1] - level.prefix, size)) is not None:
        before, tokens = x[:, : level.prefix], x[:, level.prefix :]
        tokens = tap(tokens.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
        return torch.cat([before, tokens], dim=1)
    return x


def _channels_last(x: Tensor, level: Level, size: tuple[int, int]) -> bool:
    """Which axis holds the channels: the one with as many as the level says; in doubt the grid's shape decides."""
    if level.channels is None:
        return False
    first, last = x.shape[1] == level.channels, x.shape[3] == level.channels
    if first != last:
        return last
    wanted = size[0] / size[1]
    return abs(math.log(x.shape[1] / x.shape[2] / wanted)) < abs(math.log(x.shape[2] / x.shape[3] / wanted))


def _grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of a column of tokens: as the image's, or None where no such grid has as many."""
    height = round(math.sqrt(max(tokens, 0) * size[0] / size[1]))
    if height < 1 or tokens % height:
        return None
    return height, tokens // height


def choose_levels(model: nn.Module, task: str, scorer: Scorer, image: Tensor, stride: int | None = None) -> list[Level]:
    """The levels to explain at: those that the answer depends on.

    Of a classifier one level: the deepest with at least 7 x 7 positions (small images: the finest), or the one at
    `stride`. Of other networks every map that their head reads.

    Args:
        model: the network.
        task: of it.
        scorer: what is asked.
        image: (1, 3, H, W).
        stride: pixels of the image for one position, of classifiers.

    Raises:
        ModelError: no map can be read.
        ConfigError: there is no such stride, or it is no classifier.
    """
    if stride is not None and kind_of(task).counts != "images":
        raise ConfigError(
            "stride is given, but the maps of boxes and masks are read at every stride that the head uses.",
            "Leave it out.",
        )
    shapes = _used(model, find_levels(model, task), scorer, image)
    if not shapes:
        raise ModelError(
            "No map of this network can be read: none of its stages has positions that its prediction depends on.",
            "Take the method integrated_gradients, which asks the pixels themselves.",
        )
    if kind_of(task).counts != "images":
        return list(shapes)
    if stride is not None:
        at_stride = [level for level in shapes if level.stride == stride]
        if not at_stride:
            known = sorted({level.stride for level in shapes})
            raise ConfigError(f"stride is {stride}, but the network has maps at {known} only.")
        return at_stride[-1:]
    large = [level for level, shape in shapes.items() if min(shape) >= ENOUGH]
    return large[-1:] or [max(shapes, key=lambda level: math.prod(shapes[level]))]


def _used(model: nn.Module, levels: Sequence[Level], scorer: Scorer, image: Tensor) -> dict[Level, tuple[int, int]]:
    """Height and width of the maps of those levels that have one and that the evidence depends on."""
    seen: dict[Level, Tensor] = {}
    with tapped(model, levels, (image.shape[2], image.shape[3])) as taps, torch.enable_grad():
        for level, tap in zip(levels, taps, strict=True):
            tap.register_forward_hook(lambda _module, _inputs, output, level=level: seen.update({level: output}))
        evidence = scorer.evidence(image.detach().clone().requires_grad_())
    seen = {
        level: map_
        for level, map_ in seen.items()
        if map_.shape[1] > 0 and map_.requires_grad and map_.shape[2:] != image.shape[2:]
    }
    if not seen:
        return {}
    # Not all with the same weight: what speaks for one class may speak as much against another.
    weights = torch.arange(1, evidence.shape[1] + 1, device=image.device).sqrt()
    gradients = torch.autograd.grad((evidence * weights).sum(), list(seen.values()), allow_unused=True)
    return {
        level: (map_.shape[2], map_.shape[3])
        for (level, map_), gradient in zip(seen.items(), gradients, strict=True)
        if gradient is not None and bool(gradient.abs().sum() > 0)
    }
