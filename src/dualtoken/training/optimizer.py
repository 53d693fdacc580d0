"""What moves the weights, and how fast: AdamW, its warm-up and cosine, and what is frozen."""

from __future__ import annotations

from typing import Any, cast

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


def make_scheduler(
    config: TrainConfig, optimizer: torch.optim.Optimizer, total_steps: int, steps_per_epoch: int
) -> CosineLRScheduler:
    """Linear warm-up, then a cosine that ends with the run."""
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps // 10)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(2, total_steps - warmup),  # of a single step timm warns that its cosine has no effect
        lr_min=min(config.min_lr, config.peak_lr),
        warmup_t=warmup,
        warmup_lr_init=config.peak_lr / max(1, warmup),
        warmup_prefix=True,
        t_in_epochs=False,
    )


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
