"""Files to batches: what is drawn when, decoded where, and what happens to an image that cannot be read.

All randomness is a function of (seed, epoch, image). It depends neither on the number of workers nor on
where training was resumed, so no state of a generator ever needs to be saved.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dualtoken.data.addresses import ahead
from dualtoken.data.dataset import BadImage
from dualtoken.data.joint_transforms import DrawOther, JointPreprocessing, JointTransform, Target, ToInput
from dualtoken.data.reading import OnBadImage
from dualtoken.data.samples import Example, ImageFiles, Samples
from dualtoken.errors import ConfigError, ImageError
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.preprocess import Preprocessing
from dualtoken.words import counted

Transform = ToInput | Callable[[Image.Image], Tensor | NDArray[np.float32]]
Draw = tuple[int, int]  # (index of the image, seed of its augmentation)
MAX_WORKERS = 8
_TRIES = 8  # for another image that can be read


class Item(NamedTuple):
    """One image: the network's input (3, H, W), its target and its row in the samples."""

    image: Tensor
    target: Target
    row: int


class PackedTargets(NamedTuple):
    """The objects of a batch, one tensor a key: each tensor that a worker sends costs a file handle.

    Attributes:
        columns: key to the values of all images, one after the other.
        counts: objects of each image.
    """

    columns: dict[str, Tensor]
    counts: list[int]

    @classmethod
    def of(cls, targets: Sequence[dict[str, Tensor]]) -> PackedTargets:
        """From the target of each image."""
        keys = targets[0] if targets else ()
        columns = {key: torch.cat([target[key] for target in targets]) for key in keys}
        return cls(columns, [len(target.get("labels", ())) for target in targets])

    def unpacked(self) -> list[dict[str, Tensor]]:
        """The target of each image again, as views."""
        parts = {key: column.split(self.counts) for key, column in self.columns.items()}
        return [{key: part[image] for key, part in parts.items()} for image in range(len(self.counts))]


class Batch(NamedTuple):
    """What a worker sends: images (B, 3, H, W), targets, rows int64 (B,), and what failed.

    Targets are int64 labels (B,), uint8 masks (B, H, W), or objects.
    """

    images: Tensor
    targets: PackedTargets | Tensor
    indices: Tensor
    errors: tuple[tuple[str, ImageError], ...]


class ImageDataset(Dataset[Item]):
    """Images with what is known about them, transformed together.

    An index alone gives the image as `transform` makes it; an (index, seed) pair seeds `random`, numpy and torch around
    the transform, the choice of other images for mosaics included, so that its randomness is that of the seed, and
    leaves all three as they were.

    Args:
        samples: the images.
        transform: of an `Example`, such as `joint_transform` makes, or for classes of an image.
        masks: give the objects' masks too, rasterised now.
        limits: what an image may cost.
    """

    def __init__(
        self, samples: ImageFiles, transform: Transform, *, masks: bool = False, limits: ImageLimits = DEFAULT_LIMITS
    ) -> None:
        self.samples, self.masks, self.limits = samples, masks, limits
        self.transform = OfImage(transform) if isinstance(samples, Samples) else cast(ToInput, transform)

    def __len__(self) -> int:
        return len(self.samples)

    def example(self, index: int) -> Example:
        """An image with what is known about it; raises `ImageError` where it or its mask cannot be read."""
        return self.samples.example(index, self.limits)._replace(wants_masks=self.masks)

    def __getitem__(self, key: int | Draw) -> Item:
        """One image.

        Raises:
            ImageError: it cannot be read.
        """
        index, seed = key if isinstance(key, tuple) else (key, None)
        example = self.example(index)
        draw_other = self._other(index if seed is None else seed)
        with nullcontext() if seed is None else seeded(seed):
            return Item(*self.transform(example, draw_other), index)

    def __getitems__(self, keys: Sequence[int | Draw]) -> Batch:
        """A batch; images that cannot be read are in its `errors` and nowhere else.

        Errors travel as values: one raised in a worker would reach the user wrapped in a traceback.
        """
        items, errors = [], []
        rows = [key[0] if isinstance(key, tuple) else key for key in keys]
        with ahead([part for row in rows for part in self.samples.parts(row)]):
            for row, key in zip(rows, keys, strict=True):
                try:
                    items.append(self[key])
                except ImageError as error:
                    errors.append((self.samples.path(row), error))
        images = torch.stack([item.image for item in items]) if items else torch.empty(0)
        indices = torch.tensor([item.row for item in items], dtype=torch.int64)
        return Batch(images, _together([item.target for item in items]), indices, tuple(errors))

    def _other(self, seed: int) -> Callable[[], Example]:
        """Draws other images of the data set; one that cannot be read is passed over: its own turn tells of it."""
        generator = None

        def draw() -> Example:
            nonlocal generator
            generator = generator or np.random.default_rng(seed)
            for _ in range(_TRIES - 1):
                try:
                    return self.example(int(generator.integers(len(self))))
                except ImageError:
                    continue
            return self.example(int(generator.integers(len(self))))

        return draw


class OfImage:
    """A transform of an image as one of an example: its target is its class."""

    def __init__(self, transform: Transform) -> None:
        self.transform = cast(Callable[[Image.Image], Tensor | NDArray[np.float32]], transform)

    def __call__(self, example: Example, draw_other: DrawOther) -> tuple[Tensor, Target]:
        """float32 (3, H, W), and the label, or which classes there are as float32 (K,)."""
        label = example.label
        target = label if isinstance(label, int) else torch.from_numpy(label.astype(np.float32))
        return torch.as_tensor(self.transform(example.image)), target


def _together(targets: Sequence[Target]) -> PackedTargets | Tensor:
    if targets and isinstance(targets[0], Tensor):
        return torch.stack(cast(list[Tensor], targets))
    if targets and isinstance(targets[0], dict):
        return PackedTargets.of(cast(Sequence[dict[str, Tensor]], targets))
    return torch.tensor(targets, dtype=torch.int64)


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

    With weights there are as many draws, each image among them as often as its weight says, rounded up or down by a
    draw: systematic sampling. A repeated image is augmented anew each time.

    Args:
        length: number of images.
        batch_size: images in a batch, on each rank. A data set smaller than that gives one batch of all.
        seed: of the run.
        drop_last: leave out a last batch that is not full, so that every step sees as many images.
        rank, world_size: the ranks take turns image by image; each gets as many batches as every other,
            for which up to `world_size - 1` images are left out in an epoch.
        weights: (length,) how often each image comes, beside the others; None for once.
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
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.weights = weights
        self.length, self.seed, self.rank, self.world_size = length, seed, rank, world_size
        self.per_rank = length // world_size
        if self.per_rank == 0:
            raise ConfigError(
                f"{counted(length, 'image')} cannot be shared by {counted(world_size, 'device')}.",
                f"Use fewer devices: --devices {max(1, length)}",
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
        order = generator.permutation(self.length)
        seeds = generator.integers(2**63, size=self.length)  # by image, not by place in the order
        if self.weights is None:
            seeds = seeds[order]
        else:
            ends = np.cumsum(self.weights / self.weights.sum()) * self.length
            drawn = np.searchsorted(ends, np.arange(self.length) + generator.random(), side="right")
            order = drawn.clip(max=self.length - 1)[order]
        order, seeds = (part[self.rank :: self.world_size][: self.per_rank] for part in (order, seeds))
        for batch in range(self.start_batch, self.batches):
            chosen = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            yield list(zip(order[chosen].tolist(), seeds[chosen].tolist(), strict=True))


class ImageLoader(DataLoader[Any]):
    """A DataLoader of (images float32 (B, 3, H, W), targets, indices int64 (B,)).

    Targets are labels int64 (B,), masks uint8 (B, H, W), or for objects a list of dicts.

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
                yield images, targets.unpacked() if isinstance(targets, PackedTargets) else targets, indices

    def _handle(self, path: str, error: ImageError) -> None:
        if self.on_bad_image != "skip":
            hint = f"{error.hint} To go on without such images: --on-bad-image skip.".strip()
            raise ImageError(error.message, hint)
        self._bad[path] = error.message


def training_loader(
    samples: ImageFiles,
    transform: Transform,
    *,
    batch_size: int,
    masks: bool = False,
    balanced: bool = False,
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
        transform: random; for classes a PIL image to float32 (3, H, W), else an example to that and its target.
        batch_size: images in a batch, on each rank.
        masks: give the objects' masks too.
        balanced: draw as many images of each class, see `Samples.rarity`.
        workers: loading processes; 0 loads in this one, None takes one a CPU core, 8 at most.
        seed, epoch, start_batch, drop_last, rank, world_size: as in `EpochSampler`.
        limits: what an image may cost.
        on_bad_image: `fail` or `skip`.
        pin_memory: for quicker copies to a GPU.

    Raises:
        ConfigError: `transform` pastes objects, but there is none with an outline.
    """
    if isinstance(transform, JointTransform):
        transform.require_outlines(samples)
    sampler = EpochSampler(
        len(samples), batch_size, seed=seed, drop_last=drop_last, rank=rank, world_size=world_size,
        weights=samples.rarity() if balanced and isinstance(samples, Samples) else None,
    )  # fmt: skip
    sampler.set_epoch(epoch, start_batch)
    return ImageLoader(
        ImageDataset(samples, transform, masks=masks, limits=limits),
        on_bad_image=on_bad_image,
        workers=workers,
        batch_sampler=sampler,
        persistent_workers=True,
        pin_memory=pin_memory,
    )


def evaluation_loader(
    samples: ImageFiles,
    preprocessing: Preprocessing | Transform,
    *,
    batch_size: int,
    workers: int | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    on_bad_image: OnBadImage = "fail",
    pin_memory: bool = False,
    persistent_workers: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> ImageLoader:
    """Every image once, in the order of `samples`, through `preprocessing`; arguments as in `training_loader`.

    Of several processes each gets every `world_size`-th image.

    Of objects nothing comes along, since they are compared in the pixels of the image, not of the input.
    """
    joint = not isinstance(samples, Samples) and isinstance(preprocessing, Preprocessing)
    transform = JointPreprocessing(preprocessing) if joint else preprocessing  # type: ignore[arg-type]
    return ImageLoader(
        ImageDataset(samples, transform, limits=limits),
        on_bad_image=on_bad_image,
        workers=workers,
        batch_size=batch_size,
        sampler=range(rank, len(samples), world_size),
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
    parent = multiprocessing.parent_process()
    if (
        parent is not None and not parent.is_alive()
    ):  # killed meanwhile: torch looks only whether it changes from now on
        sys.exit()
    # Ctrl-C reaches every process of the terminal, and SLURM's SIGTERM every one of the job: the main one decides, and
    # workers end when it does. A second SIGTERM ends a worker that does not listen.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    torch.set_num_threads(1)
