"""What timm asks of a model, beside its forward: features by level, a classifier to replace, groups of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from dualtoken.backbone.layers import channels_first, start_weights
from dualtoken.errors import ConfigError


class TimmContract(nn.Module):
    """A network of stages, in which a second stream may travel beside the map: timm's contract for it.

    Whoever derives from it sets these attributes, and has two methods: `levels` gives each level of `feature_info` as
    a map (B, H, W, C) with what travels beside it, and `final` makes of the last one what the head reads.
    """

    if TYPE_CHECKING:  # TorchScript would take them for its own
        stages: nn.ModuleList
        norm: nn.Module
        neck: nn.Module
        head: nn.Module
        feature_info: list[dict[str, Any]]
        head_hidden_size: int
        levels: Callable[[Tensor], Iterator[tuple[Tensor, Tensor | None]]]
        final: Callable[[Tensor, Tensor | None], Tensor]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of the levels of `feature_info` that `indices` names, and the final map.

        Args:
            x: images (B, in_chans, H, W).
            indices: levels to take: a list, or a number n for the last n; all when None.
            norm: apply the final norm to the last level.
            stop_early: compute no further than the last level asked for.
            output_fmt: `NCHW` is the only one.
            intermediates_only: leave the final map out.
        """
        if output_fmt != "NCHW":
            raise ConfigError(f"output_fmt is {output_fmt!r}, expected 'NCHW'.")
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        found = list(islice(self.levels(x), last + 1 if stop_early else None))
        taken = [found[level][0] for level in wanted]
        if norm and wanted[-1] == len(self.feature_info) - 1:
            taken[-1] = self.norm(taken[-1])
        maps = [channels_first(level) for level in taken]
        return maps if intermediates_only else (self.final(*found[-1]), maps)

    def get_intermediate_layers(self, x: Tensor, n: int | list[int] = 1, norm: bool = True) -> tuple[Tensor, ...]:
        """The last n maps (or those listed): DINO's name for `forward_intermediates`."""
        return tuple(cast(list[Tensor], self.forward_intermediates(x, n, norm=norm, intermediates_only=True)))

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last level in `indices`; returns the levels taken."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        early = len(self.feature_info) - len(self.stages)  # levels of the stem
        self.stages = self.stages[: max(0, last + 1 - early)]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.neck = nn.Identity()
            self.reset_classifier(0, "")
        return list(wanted)

    make_head: Callable[..., nn.Module] = nn.Linear  # (inputs, classes)

    @torch.jit.ignore
    def fold(self) -> Self:
        """Merge in place what inference can compute as one, for `eval` only; answers change by rounding alone.

        Returns:
            This model, in evaluation mode.
        """
        for module in [*self.eval().modules()]:
            if module is not self and hasattr(module, "fold"):
                cast(Any, module).fold()
        return self

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for `num_classes`, or none for 0."""
        if global_pool is not None:
            self.global_pool = global_pool
        like = next(self.parameters())
        self.num_classes = num_classes
        dd = {"device": like.device, "dtype": like.dtype}
        self.head = self.make_head(self.head_hidden_size, num_classes, **dd) if num_classes else nn.Identity()
        self.head.apply(start_weights)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that group parameters from input to output, for layer decay and freezing."""
        stage = r"^stages\.(\d+)"
        blocks = (
            [(stage, None)]
            if coarse
            else [
                (stage + r"\.(?:merge|token_merge|position)", (0,)),
                (stage + r"\.blocks\.(\d+)", None),
                (stage + r"\.norm", (99998,)),
            ]
        )
        return {"stem": r"^stem|^global_tokens", "blocks": [*blocks, (r"^norm|^neck", (99999,))]}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone, beside norms and biases."""
        tables = ("local.bias", "attention.bias", "global_tokens", "position.map")
        return {name for name, _ in self.named_parameters() if name.endswith(tables)}
