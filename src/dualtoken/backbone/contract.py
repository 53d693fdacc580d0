"""What timm asks of a model, beside its forward: features by level, a classifier to replace, groups of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from dualtoken.backbone.layers import channels_first, start_weights
from dualtoken.errors import ConfigError


class TimmContract(nn.Module):
    """A network of stages that carry two streams: timm's contract for it.

    Whoever derives from it sets these attributes, and has `stem`, `_start_tokens` and `_final`.
    """

    if TYPE_CHECKING:  # TorchScript would take them for its own
        stem: nn.Module
        stages: nn.ModuleList
        norm: nn.Module
        neck: nn.Module
        head: nn.Module
        feature_info: list[dict[str, Any]]
        head_hidden_size: int
        _start_tokens: Callable[[Tensor], Tensor | None]
        _final: Callable[[Tensor, Tensor | None], Tensor]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of the five levels (strides 2, 4, 8, 16, 32) that `indices` names, and the final map.

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
        half, quarter, x = self.stem(x)
        taken = {0: half, 1: quarter}
        g = self._start_tokens(x)
        for level, stage in enumerate(self.stages, start=2):
            if stop_early and level > last:
                break
            x, g = stage(x, g)
            level_map = self.norm(x) if norm and level == len(self.stages) + 1 else x
            taken[level] = channels_first(level_map)
        maps = [taken[level] for level in wanted]
        return maps if intermediates_only else (self._final(x, g), maps)

    def get_intermediate_layers(self, x: Tensor, n: int | list[int] = 1, norm: bool = True) -> tuple[Tensor, ...]:
        """The last n maps (or those listed): DINO's name for `forward_intermediates`."""
        return tuple(cast(list[Tensor], self.forward_intermediates(x, n, norm=norm, intermediates_only=True)))

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last level in `indices`; returns the levels taken."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        self.stages = self.stages[: max(0, last - 1)]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.neck = nn.Identity()
            self.reset_classifier(0, "")
        return list(wanted)

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
        self.head = (
            nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
            if num_classes
            else nn.Identity()
        )
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
                (stage + r"\.(?:merge|token_merge)", (0,)),
                (stage + r"\.blocks\.(\d+)", None),
            ]
        )
        return {"stem": r"^stem|^global_tokens", "blocks": [*blocks, (r"^norm|^neck", (99999,))]}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone, beside norms and biases."""
        tables = {name for name, _ in self.named_parameters() if name.endswith(("local.bias", "attention.bias"))}
        return tables if self.global_tokens is None else tables | {"global_tokens"}
