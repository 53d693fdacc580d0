"""A recipe that fits the run: strength of augmentation, batch size, averaging and warm-up follow from passes and steps.

What hides a part of an image pays when the image comes a hundred times, and hinders when it comes ten times. Few images
and few passes make few steps, and smaller batches then make more of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dualtoken.training.config import TrainConfig

ENOUGH_STEPS = 1500
BATCHES = (64, 32, 16)
AVERAGED = 1 / 20  # of the run: how far back the averaged weights reach
WARMUP = 1 / 20  # of the run
# From so many passes on: what the images go through.
STRENGTHS: tuple[tuple[float, dict[str, Any]], ...] = (
    (0, {"rand_augment": None, "random_erasing": 0.0, "drop_path": 0.0, "scale": (0.35, 1.0)}),
    (20, {"rand_augment": "rand-m5-mstd0.5-inc1", "random_erasing": 0.05, "drop_path": 0.02, "scale": (0.3, 1.0)}),
    (60, {}),
)


def fitted(config: TrainConfig, images: int, passes: float, given: Collection[str]) -> TrainConfig:
    """The settings for a run of `passes` over `images`; those in `given` were asked for and stay.

    The peak rate stays that of the recipe, whatever the batch size.
    """
    chosen: dict[str, Any] = dict(next(strength for least, strength in reversed(STRENGTHS) if passes >= least))
    seen = passes * images
    batch = next((size for size in BATCHES if seen / size >= ENOUGH_STEPS), BATCHES[-1])
    batch = config.batch_size if "batch_size" in given else min(batch, config.batch_size, max(1, images))
    steps = max(1.0, seen / batch)
    chosen |= {
        "batch_size": batch,
        "base_batch": round(config.base_batch * batch / config.batch_size) or 1,
        "ema_decay": round(min(0.9998, max(0.9, 1 - 1 / (AVERAGED * steps))), 5) if config.ema_decay else None,
        "warmup_epochs": round(min(config.warmup_epochs, WARMUP * passes), 3),
    }
    return config.model_copy(update={name: value for name, value in chosen.items() if name not in given})


def differences(before: TrainConfig, after: TrainConfig) -> str:
    """What was chosen, in words: `batch_size 16, rand_augment null`."""
    names = [name for name in TrainConfig.model_fields if getattr(before, name) != getattr(after, name)]
    names = [name for name in names if name != "adapt"]  # that it was fitted is what is being said
    return ", ".join(f"{name} {_shown(getattr(after, name))}" for name in names)


def _shown(value: Any) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)
