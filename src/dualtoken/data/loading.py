"""Files to batches: what is drawn when, decoded where, and what happens to an image that cannot be read.

All randomness is a function of (seed, epoch, image). It depends neither on the number of workers nor on
where training was resumed, so no state of a generator ever needs to be saved.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dualtoken.data.index import BadImage, Samples
from dualtoken.errors import ConfigError, ImageError
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.words import counted

OnBadImage = Literal["fail", "skip"]
Transform = Callable[[Image.Image], Tensor | NDArray[np.float32]]
Draw = tuple[int, int]  # (index of the image, seed of its augmentation)
MAX_WORKERS = 8


class Item(NamedTuple):
    """One image: float32 (3, H, W), its label and its row in the samples."""

    image: Tensor
    label: int
    row: int


class Batch(NamedTuple):
    """What a worker sends: images float32 (B, 3, H, W), labels and indices int64 (B,), and what failed."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    errors: tuple[tuple[str, ImageError], ...]


class ImageDataset(Dataset[Item]):
    """Images with their labels, transformed.

    An index alone gives the image as `transform` makes it; an (index, seed) pair seeds `random`, numpy and
    torch around the transform, so that its randomness is that of the seed, and leaves all three as they were.
    """

    def __init__(self, samples: Samples, transform: Transform, *, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        self.samples = samples
        self.transform = transform
        self.limits = limits

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | Draw) -> Item:
        """One image.

        Raises:
            ImageError: it cannot be read.
        """
        index, seed = key if isinstance(key, tuple) else (key, None)
        image = self.samples.open(index, self.limits)
        if seed is None:
            transformed = self.transform(image)
        else:
            with seeded(seed):
                transformed = self.transform(image)
        return Item(torch.as_tensor(transformed), int(self.samples.labels[index]), index)

    def __getitems__(self, keys: Sequence[int | Draw]) -> Batch:
        """A batch; images that cannot be read are in its `errors` and nowhere else.

        Errors travel as values: one raised in a worker would reach the user wrapped in a traceback.
        """
        items, errors = [], []
        for key in keys:
            try:
                items.append(self[key])
            except ImageError as error:
                index = key[0] if isinstance(key, tuple) else key
                errors.append((self.samples.path(index), error))
        images = torch.stack([item.image for item in items]) if items else torch.empty(0)
        labels = torch.tensor([item.label for item in items], dtype=torch.int64)
        indices = torch.tensor([item.row for item in items], dtype=torch.int64)
        return Batch(images, labels, indices, tuple(errors))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed `random`, numpy and torch on the CPU for the block, and put their states back after it."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class EpochSampler(Sampler[list[Draw]]):
    """Batches of (index, seed) for one epoch: every image once, in an order that (seed, epoch) decides.

    Args:
        length: number of images.
        batch_size: images in a batch, on each rank. A data set smaller than that gives one batch of all.
        seed: of the run.
        drop_last: leave out a last batch that is not full, so that every step sees as many images.
        rank, world_size: the ranks take turns image by image; each gets as many batches as every other,
            for which up to `world_size - 1` images are left out in an epoch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.length, self.seed, self.rank, self.world_size = length, seed, rank, world_size
        self.per_rank = length // world_size
        if self.per_rank == 0:
            raise ConfigError(
                f"{counted(length, 'image')} cannot be shared by {counted(world_size, 'device')}.",
                f"Use fewer devices: --set devices={max(1, length)}",
            )
        self.batch_size = min(batch_size, self.per_rank)
        self.batches = self.per_rank // self.batch_size if drop_last else -(-self.per_rank // self.batch_size)
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch that the next iteration gives, from its batch `start_batch` on."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        return self.batches - self.start_batch

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.length)[self.rank :: self.world_size][: self.per_rank]
        seeds = generator.integers(2**63, size=self.length)  # by image, not by place in the order
        for batch in range(self.start_batch, self.batches):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield list(zip(chosen.tolist(), seeds[chosen].tolist(), strict=True))


class ImageLoader(DataLoader[Any]):
    """A DataLoader of (images float32 (B, 3, H, W), labels int64 (B,) or other targets, indices int64 (B,)).

    An image that cannot be read raises its `ImageError` here, or with `on_bad_image="skip"` is left out of
    its batch and listed in `bad_images`; a batch of which nothing is left is left out.
    """

    def __init__(self, dataset: Dataset[Any], *, on_bad_image: OnBadImage, workers: int | None, **options: Any) -> None:
        workers = usable_workers(workers)
        self.on_bad_image: OnBadImage = on_bad_image
        self._bad: dict[str, str] = {}
        super().__init__(
            dataset,
            num_workers=workers,
            collate_fn=_as_is,
            generator=torch.Generator(),  # else each epoch would draw from torch's own
            worker_init_fn=_prepare_worker,
            persistent_workers=options.pop("persistent_workers", False) and workers > 0,
            prefetch_factor=4 if workers else None,
            **options,
        )

    @property
    def bad_images(self) -> tuple[BadImage, ...]:
        """(path, reason) of the images left out so far, each once."""
        return tuple(self._bad.items())

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """For a training loader: choose what the next iteration gives, as `EpochSampler.set_epoch` does."""
        sampler = self.batch_sampler
        assert isinstance(sampler, EpochSampler)
        sampler.set_epoch(epoch, start_batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Any, Tensor]]:  # type: ignore[override]
        for images, targets, indices, errors in super().__iter__():
            for path, error in errors:
                self._handle(path, error)
            if len(indices):
                yield images, targets, indices

    def _handle(self, path: str, error: ImageError) -> None:
        if self.on_bad_image != "skip":
            hint = f"{error.hint} To go on without such images: --on-bad-image skip.".strip()
            raise ImageError(error.message, hint)
        self._bad[path] = error.message


def training_loader(
    samples: Samples,
    transform: Transform,
    *,
    batch_size: int,
    workers: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    start_batch: int = 0,
    drop_last: bool = True,
    rank: int = 0,
    world_size: int = 1,
    limits: ImageLimits = DEFAULT_LIMITS,
    on_bad_image: OnBadImage = "fail",
    pin_memory: bool = False,
) -> ImageLoader:
    """Shuffled, augmented batches; `loader.set_epoch(epoch, start_batch)` before each epoch.

    The workers stay alive from one epoch to the next.

    Args:
        samples: the images.
        transform: a PIL image to float32 (3, H, W), random.
        batch_size: images in a batch, on each rank.
        workers: loading processes; 0 loads in this one, None takes one a CPU core, 8 at most.
        seed, epoch, start_batch, drop_last, rank, world_size: as in `EpochSampler`.
        limits: what an image may cost.
        on_bad_image: `fail` or `skip`.
        pin_memory: for quicker copies to a GPU.
    """
    sampler = EpochSampler(len(samples), batch_size, seed=seed, drop_last=drop_last, rank=rank, world_size=world_size)
    sampler.set_epoch(epoch, start_batch)
    return ImageLoader(
        ImageDataset(samples, transform, limits=limits),
        on_bad_image=on_bad_image,
        workers=workers,
        batch_sampler=sampler,
        persistent_workers=True,
        pin_memory=pin_memory,
    )


def evaluation_loader(
    samples: Samples,
    preprocessing: Transform,
    *,
    batch_size: int,
    workers: int | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    on_bad_image: OnBadImage = "fail",
    pin_memory: bool = False,
    persistent_workers: bool = False,
) -> ImageLoader:
    """Every image once, in the order of `samples`, through `preprocessing`; arguments as in `training_loader`."""
    return ImageLoader(
        ImageDataset(samples, preprocessing, limits=limits),
        on_bad_image=on_bad_image,
        workers=workers,
        batch_size=batch_size,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers,
    )


def usable_workers(workers: int | None) -> int:
    """The number of loading processes; None means one a CPU core that this process may use, 8 at most.

    Raises:
        ConfigError: it is negative.
    """
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux: a container may own fewer cores than there are
        return min(len(affinity(0)) if affinity else os.cpu_count() or 1, MAX_WORKERS)
    if workers < 0:
        raise ConfigError(f"workers is {workers}, expected 0 or more.")
    return workers


def _as_is(batch: Any) -> Any:
    return batch  # `__getitems__` has made it already


def _prepare_worker(_: int) -> None:
    # Ctrl-C reaches every process of the terminal: the main one decides, workers end when it does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
