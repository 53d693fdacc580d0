"""How fast a run would get its images, how fast it could use them, and what holds it up. `dualtoken throughput`.

Reading, decoding and augmenting are timed one image after the other in this process; loading with all workers; a step
of training on a batch that lies in memory; and both together, as a run has them. Nothing is trained or written.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from dualtoken.data import ImageLoader
from dualtoken.data.samples import ImageFiles
from dualtoken.tasks import moved
from dualtoken.training.loop import Loop, seed_all
from dualtoken.training.optimizer import make_optimizer
from dualtoken.training.run import rehearsed
from dualtoken.words import counted

MOST_IMAGES = 256  # that are looked at one by one
LEAST_STEPS = 3
ENOUGH = 0.15  # share of the time that may pass waiting for images before loading is what to improve
STAGES = {
    "read": "one process, from disk or the system's cache",
    "decode": "one process, JPEG or PNG to pixels",
    "augment": "one process, to the input of the network",
    "load": "all of these",
    "copy": "to the device",
    "train": "a step on a batch in memory",
    "run": "loading and training together",
}


@dataclass(frozen=True)
class Throughput:
    """Images a second of each stage, and what they mean.

    Attributes:
        rates: images a second, by the names of `STAGES`; `copy` only where there is a GPU.
        waiting: share of a run's time that passes waiting for images, 0 to 1.
        workers: loading processes; 0 loads in the training process.
        batch_size: images in a batch.
        image_size: height and width of the network's input, in pixels.
        pixels: mean number of an image as it is stored.
        bytes: mean size of an image's file.
        bottleneck: `train`, or the slowest of `read`, `decode`, `augment`.
    """

    rates: dict[str, float]
    waiting: float
    workers: int
    batch_size: int
    image_size: tuple[int, int]
    pixels: int
    bytes: int
    bottleneck: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the sentence."""
        return asdict(self) | {"sentence": self.sentence()}

    def sentence(self) -> str:
        """What holds a run up, and what to do about it."""
        waits = f"A run waits for images {self.waiting:.0%} of its time"
        if self.bottleneck == "train":
            return f"{waits}: the network is the bottleneck. Smaller images, a smaller network or a GPU make it faster."
        height, width = self.image_size
        wanted = {
            "read": "Pack them into shards (dualtoken pack), or put them on a faster disk.",
            "decode": f"Store them smaller: they have {self.pixels / 1e6:.1f} million pixels, the network sees"
            f" {height} x {width}.",
            "augment": "Take a lighter recipe: --set rand_augment=null.",
        }[self.bottleneck]
        what = {"read": "reading", "decode": "decoding", "augment": "augmenting"}[self.bottleneck]
        return f"{waits}, and {what} them takes longest. {wanted} More workers (--workers N) help while cores are idle."

    def summary(self) -> str:
        """A line for each stage, and the sentence."""
        with_workers = (
            f"all of these, {counted(self.workers, 'worker')}" if self.workers else "all of these, no workers"
        )
        lines = [
            f"{name:<8} {rate:>9,.1f} images/s   {with_workers if name == 'load' else STAGES[name]}"
            for name, rate in self.rates.items()
        ]
        height, width = self.image_size
        about = f"Batches of {self.batch_size}, {height} x {width} pixels; files of {self.bytes / 1e3:,.0f} kB"
        return "\n".join([about, *lines, self.sentence()])


def throughput(
    data: str | Path,
    *,
    recipe: str | Path | None = None,
    from_scratch: bool = False,
    seconds: float = 5.0,
    **settings: Any,
) -> Throughput:
    """Measure how fast images are read, decoded, augmented and trained on, and what holds a run up.

    Args:
        data: labelled images, as for `train`.
        recipe: as for `train`.
        from_scratch: as for `train`: a network with random weights.
        seconds: roughly what each measurement takes.
        **settings: as for `train`.

    Raises:
        UserError: data, settings or model cannot be used.
        ImageError: an image cannot be read.
    """
    loop = rehearsed(data, recipe=recipe, from_scratch=from_scratch, **settings | {"freeze": "none"})
    training = cast(ImageLoader, loop.training)
    rates, pixels, size = _one_by_one(training, seconds)
    batches = _batches(training)
    rates["load"], batch = _loading(batches, seconds)
    step = _step(loop)
    if loop.fabric.device.type == "cuda":
        rates["copy"] = _rate(lambda: len(_on_device(loop, batch)[0]), seconds)
    rates["train"] = _rate(lambda: step(*_on_device(loop, batch)), seconds)
    rates["run"], waiting = _together(batches, lambda batch: step(*_on_device(loop, batch)), seconds)
    slowest = min(("read", "decode", "augment"), key=rates.__getitem__)
    return Throughput(
        rates=rates, waiting=waiting, workers=training.num_workers, batch_size=len(batch[0]),
        image_size=cast(tuple[int, int], tuple(batch[0].shape[-2:])), pixels=pixels, bytes=size,
        bottleneck="train" if waiting <= ENOUGH else slowest,
    )  # fmt: skip


def _one_by_one(training: ImageLoader, seconds: float) -> tuple[dict[str, float], int, int]:
    """Rates of reading, decoding and augmenting; mean pixels and bytes of an image."""
    dataset = cast(Any, training.dataset)
    samples = cast(ImageFiles, dataset.samples)
    draws = [draw for _, batch in zip(range(MOST_IMAGES), _sampler(training), strict=False) for draw in batch]
    spent, seen, pixels, size = [0.0, 0.0, 0.0], 0, 0, 0
    for row, seed in draws[:MOST_IMAGES]:
        start = time.perf_counter()
        source = samples.source(row)
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        read = time.perf_counter()
        image = dataset.example(row).image
        decoded = time.perf_counter()
        dataset[row, seed]
        done = time.perf_counter()
        reading, opening, whole = read - start, decoded - read, done - decoded  # each of these does the former again
        for place, part in enumerate((reading, opening - reading, whole - opening)):
            spent[place] += max(0.0, part)
        seen, pixels, size = seen + 1, pixels + image.width * image.height, size + len(content)
        if sum(spent) > seconds:
            break
    rates = dict(zip(("read", "decode", "augment"), (seen / max(part, 1e-9) for part in spent), strict=True))
    return rates, pixels // seen, size // seen


def _sampler(training: ImageLoader) -> Iterator[Any]:
    training.set_epoch(0)
    return iter(cast(Any, training.batch_sampler))


def _batches(training: ImageLoader) -> Iterator[Any]:
    """Batches without end."""
    for epoch in itertools.count():
        training.set_epoch(epoch)
        yield from training


def _loading(batches: Iterator[Any], seconds: float) -> tuple[float, Any]:
    """Images a second of the loader alone, after what its workers had ready, and a batch."""
    batch = next(batches)
    for _ in range(LEAST_STEPS):
        batch = next(batches)
    return _rate(lambda: len(next(batches)[0]), seconds), batch


def _step(loop: Loop) -> Callable[[Any, Any], int]:
    """A step of training on a copy of the model; gives the number of images."""
    model = loop.copied().train()
    optimizer = make_optimizer(loop.config, model)
    seed_all(loop.config.seed)

    def step(images: Any, targets: Any) -> int:
        with loop.fabric.autocast():
            loss = loop.task.loss(model, images, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        return len(images)

    return step


def _on_device(loop: Loop, batch: Any) -> tuple[Any, Any]:
    images, targets, _ = batch
    device = loop.fabric.device
    moved_images = images.to(device, memory_format=torch.channels_last)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return moved_images, moved(targets, device)


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Images a second of `work`, which gives their number; the first turn does not count."""
    work()
    images, turns, start = 0, 0, time.perf_counter()
    while turns < LEAST_STEPS or time.perf_counter() - start < seconds:
        images += work()
        turns += 1
    return images / (time.perf_counter() - start)


def _together(batches: Iterator[Any], step: Callable[[Any], int], seconds: float) -> tuple[float, float]:
    """Images a second of loading and training, and the share of the time that passes waiting for images."""
    step(next(batches))
    waited, images, turns, start = 0.0, 0, 0, time.perf_counter()
    while turns < LEAST_STEPS or time.perf_counter() - start < seconds:
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        images += step(batch)
        turns += 1
    spent = time.perf_counter() - start
    return images / spent, waited / spent
