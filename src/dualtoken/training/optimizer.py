"""What moves the weights, and how fast: AdamW, its warm-up and cosine, and what is frozen."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from dualtoken.training.config import TrainConfig


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with timm's groups: no decay for norms, biases and what the model names."""
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        model,
        "adamw",
        lr=config.peak_lr,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        fused=next(model.parameters()).device.type in ("cpu", "cuda"),  # one kernel instead of one per parameter
    )
    return optimizer


class Scheduler(Protocol):
    """Sets the learning rate of each group before a step."""

    def step_update(self, num_updates: int) -> Any:
        """`num_updates` steps are done."""


def make_scheduler(
    config: TrainConfig, optimizer: torch.optim.Optimizer, total_steps: int, steps_per_epoch: int
) -> Scheduler:
    """Linear warm-up, then a cosine that ends with the run, or a constant rate that falls at its end."""
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps // 10)
    lowest = min(config.min_lr, config.peak_lr)
    if config.schedule == "constant":
        return ConstantSchedule(
            optimizer, config.peak_lr, lowest, total_steps, warmup, round(config.cooldown * total_steps)
        )
    return CosineLRScheduler(
        optimizer,
        t_initial=max(2, total_steps - warmup),  # of a single step timm warns that its cosine has no effect
        lr_min=lowest,
        warmup_t=warmup,
        warmup_lr_init=config.peak_lr / max(1, warmup),
        warmup_prefix=True,
        t_in_epochs=False,
    )


class ConstantSchedule:
    """A linear warm-up, a constant rate, and a linear fall over the last steps: a run can be made longer at any time.

    Until the fall begins no step knows how long the run will be (warm-up, stable, decay: Hu et al. 2024,
    arXiv 2404.06395).
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, peak: float, lowest: float, total: int, warmup: int, cooldown: int
    ) -> None:
        self.optimizer, self.peak, self.lowest = optimizer, peak, lowest
        self.total, self.warmup, self.cooldown = total, warmup, cooldown

    def rate(self, step: int) -> float:
        """The learning rate of the step after `step` others."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        left = min(1.0, (self.total - step) / self.cooldown) if self.cooldown else 1.0
        return self.lowest + (self.peak - self.lowest) * max(0.0, left)

    def step_update(self, num_updates: int) -> None:
        """As timm's schedulers: groups with a scale of their own keep it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(num_updates) * group.get("lr_scale", 1.0)


def freeze_backbone(model: nn.Module) -> nn.Module:
    """Leave only the classifier trainable, or the head that stands on the backbone.

    Returns:
        The part that is to stay in evaluation mode, so that its batch norms keep their statistics.
    """
    if hasattr(model, "body"):
        backbone: nn.Module = cast(Any, model).body
        backbone.requires_grad_(False)
        return backbone
    classifier = cast(Any, model).get_classifier()
    model.requires_grad_(False)
    classifier.requires_grad_(True)
    return model
