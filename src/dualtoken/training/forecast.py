"""Before the first epoch: how long it will take and how much memory, measured on this machine and this data."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch

from dualtoken.machine import peak_rss
from dualtoken.tasks import moved
from dualtoken.training.loop import Loop, seed_all
from dualtoken.training.optimizer import make_optimizer

TRIAL_STEPS = 4


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
    """Run a few steps on copies of model and optimiser: the run itself is not touched."""
    device = loop.fabric.device
    model = copy.deepcopy(loop.bare).train()
    optimizer = make_optimizer(loop.config, model)
    seed_all(loop.config.seed)
    loop.training.set_epoch(0)
    times = []
    batches = iter(loop.training)
    for _ in range(min(TRIAL_STEPS + 2, loop.batches)):
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
    counted = sorted(times[2:] or times)
    return Forecast(
        batch_seconds=sum(counted) / len(counted),
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
        if len(times) == TRIAL_STEPS:
            break
    batches_seen = images_seen / (loop.validation.batch_size or 1)
    return sum(times) * len(loop.validation) / max(batches_seen, 1)
