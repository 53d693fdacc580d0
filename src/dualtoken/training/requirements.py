"""What a run needs and cannot do without, found out before its first step."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from torch import nn

from dualtoken.data import IGNORE, ImageData, MaskSamples, ObjectSamples
from dualtoken.decode import MAX_DETECTIONS
from dualtoken.engines.torch import choose_device
from dualtoken.errors import ConfigError, DataError, OutputError
from dualtoken.training.config import TrainConfig
from dualtoken.words import counted

FILES_AS_WEIGHTS = 14  # the best model; model, averages and two moments in the last states, three while one is written


def require_space(folder: Path, model: nn.Module) -> None:
    """Find a full disk now and not after the first epoch."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    needed, free = FILES_AS_WEIGHTS * weights, shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{str(folder)!r} has {free / 2**20:.0f} MiB free, but the run will write {needed / 2**20:.0f} MiB.",
            "Choose another place with --output, or make room there.",
        )


def require_splits(images: ImageData) -> None:
    """Refuse data without images to learn from, or without any to find the best epoch with."""
    if "train" not in images.splits and "all" not in images.splits:
        raise DataError(
            f"{images.source!r} has no images to learn from: its splits are {', '.join(images.splits)}, none is train.",
            "Add a train split, or give images without splits.",
        )
    if "val" not in images.splits:
        raise DataError(
            "There are no images to validate with, since --val-fraction is 0: training needs a val split to find its"
            " best epoch.",
            f"Leave --val-fraction out, or add a val split to {images.source!r}.",
        )


def require_work(config: TrainConfig, images: ImageData) -> None:
    """Refuse more processes than there is work or room for: they would all be started before one of them says so."""
    cores, length = os.cpu_count() or 1, len(images.splits["train"])
    if config.devices > length:
        raise ConfigError(
            f"devices is {config.devices}, but train has {counted(length, 'image')}.", f"Type: --devices {length}"
        )
    if config.devices > cores and choose_device(config.device).type == "cpu":
        raise ConfigError(
            f"devices is {config.devices}, but this machine has {counted(cores, 'CPU core')} and trains on them.",
            "Type: --devices 1",
        )


def crowded(config: TrainConfig, images: ImageData) -> str:
    """That some images hold more objects than will be found; "" where none does."""
    most = config.max_objects or config.head_args.get("max_detections", MAX_DETECTIONS)
    counts = [np.diff(part.offsets) for part in images.splits.values() if isinstance(part, ObjectSamples)]
    objects = np.concatenate([*counts, np.zeros(1, np.int64)])
    number = int((objects > most).sum())
    hold = counted(number, "image holds", "images hold")
    advice = f"{hold} more than {most} objects, of which {most} will be found: --set max_objects={objects.max()}"
    return advice if number else ""


def require_truth(images: ImageData) -> None:
    """Refuse a split in which nothing is labelled: nothing is learned there, and no epoch is better than another."""
    for name in ("train", "val"):
        samples = images.splits[name]
        if isinstance(samples, ObjectSamples) and not samples.counts(len(images.classes)).any():
            what = "has an object"
        elif isinstance(samples, MaskSamples) and not any(
            (samples.open_mask(index) != IGNORE).any() for index in range(len(samples))
        ):
            what = "has a pixel of any class"
        else:
            continue
        hint = "Draw others: --seed N, or more with --val-fraction." if images.val_drawn else "Are its labels there?"
        raise DataError(f"Of {counted(len(samples), 'image')} in the split {name!r} none {what}.", hint)
