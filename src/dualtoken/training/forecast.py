"""Before the first epoch: how long it will take and how much memory, measured on this machine and this data."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from dualtoken.errors import ConfigError
from dualtoken.machine import memory_bytes, peak_rss
from dualtoken.tasks import moved
from dualtoken.training.loop import Loop, seed_all
from dualtoken.training.optimizer import make_optimizer
from dualtoken.words import counted

TRIAL_STEPS = 4
TRIAL_SECONDS = 1.5  # in which fewer steps, but at least two, are enough
LEAST_BYTES = 64  # a pixel of a batch: itself in float32, and maps of a stem that are kept for the way back


@dataclass(frozen=True)
class Forecast:
    """Measured: seconds of a batch (loading included) and of one validation; bytes at the peak."""

    batch_seconds: float
    validation_seconds: float
    peak_bytes: int

    def steps_within(self, seconds: float, batches_between: float, accumulate: int) -> int:
        """Weight updates that fit into `seconds`, with a validation every `batches_between` batches."""
        per_batch = self.batch_seconds + self.validation_seconds / batches_between
        return max(1, int((seconds - self.validation_seconds) / per_batch) // accumulate)


def measure(loop: Loop) -> Forecast:
    """Run a few steps on copies of model and optimiser: the run itself is not touched.

    Raises:
        ConfigError: a batch does not fit into memory.
    """
    _require_memory(loop)
    try:
        return _measure(loop)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise _too_large(loop) from error
        raise


def _require_memory(loop: Loop) -> None:
    """Refuse what no network could hold, before the system ends the process without a word."""
    device, config = loop.fabric.device, loop.config
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else memory_bytes()
    height, width = config.image_size
    if total is not None and config.batch_size * height * width * LEAST_BYTES > total:
        raise _too_large(loop)


def _too_large(loop: Loop) -> ConfigError:
    (height, width), batch = loop.config.image_size, loop.config.batch_size
    return ConfigError(
        f"{counted(batch, 'image')} of {height} x {width} pixels a batch do not fit into memory.",
        f"Smaller batches: --batch-size {max(1, batch // 4)}, or smaller images: --image-size {max(32, height // 2)}.",
    )


def _measure(loop: Loop) -> Forecast:
    device = loop.fabric.device
    model = loop.copied().train()
    optimizer = make_optimizer(loop.config, model)
    seed_all(loop.config.seed)
    loop.training.set_epoch(0)
    times: list[float] = []
    batches = iter(loop.training)
    for _ in range(min(TRIAL_STEPS + 2, loop.batches)):
        if len(times) >= 2 and sum(times) > TRIAL_SECONDS:
            break
        start = time.monotonic()
        images, targets, _ = next(batches)
        images = images.to(device, memory_format=torch.channels_last)
        with loop.fabric.autocast():
            loss = loop.task.loss(model, images, moved(targets, device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        times.append(time.monotonic() - start)
    del batches
    warm = times[2:] or times[1:] or times
    return Forecast(
        batch_seconds=sum(warm) / len(warm),
        validation_seconds=_validation_seconds(loop),
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_rss(),
    )


@torch.inference_mode()
def _validation_seconds(loop: Loop) -> float:
    """Time a few batches of the validation images and scale to all of them."""
    model = loop.averaged.eval()
    times, images_seen = [], 0
    start = time.monotonic()
    meter = loop.new_meter()
    for images, targets, indices in loop.validation:
        with loop.fabric.autocast():
            raw = model(images.to(loop.fabric.device, memory_format=torch.channels_last))
        meter.add(raw, targets, indices)  # waits for the device
        times.append(time.monotonic() - start)
        images_seen += len(images)
        start = time.monotonic()
        if len(times) == TRIAL_STEPS or sum(times) > TRIAL_SECONDS:
            break
    batches_seen = images_seen / (loop.validation.batch_size or 1)
    return sum(times) * len(loop.validation) / max(batches_seen, 1)
