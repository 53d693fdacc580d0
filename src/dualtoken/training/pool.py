"""Images of several sets as one stream to learn from: each set with its weight, each image in a few fixed views.

A view is a random crop of an image whose randomness is a function of (seed, image, view). The same view is the same
picture whenever it comes again, so that what a teacher says of it can be kept.

Legend: row is an image's place in the pool; place = row * views + view, or the row itself where views are always new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from dualtoken.answers import CLASSIFIER
from dualtoken.data import BadImage, NoClassesError, Samples, find_data, open_tree
from dualtoken.data.addresses import ahead
from dualtoken.data.loading import Batch, Draw, seeded
from dualtoken.errors import ConfigError, DataError, ImageError
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.words import counted

UNLABELLED = -1
CENTRE = -1  # in place of a view's seed: the central square


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One source of images.

    Attributes:
        source: where it was found.
        samples: its images; labels are `UNLABELLED` where it has no classes.
        classes: class names, or none.
        fingerprint: of its images.
        bad_images: (path, reason) of those left out.
    """

    source: str
    samples: Samples
    classes: tuple[str, ...]
    fingerprint: str
    bad_images: tuple[BadImage, ...] = ()

    def describe(self) -> str:
        """One line: how many images, with how many classes."""
        kind = counted(len(self.classes), "class", "classes") if self.classes else "no labels"
        left_out = f", {counted(len(self.bad_images), 'image')} left out" if self.bad_images else ""
        return f"{self.source}: {counted(len(self.samples), 'image')}, {kind}{left_out}"


@dataclass(frozen=True, eq=False)
class Pool:
    """The images of all sets, row after row, in the order that the sets were given."""

    sets: tuple[ImageSet, ...]

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def starts(self) -> NDArray[np.int64]:
        """(sets + 1,) first row of each set, and the number of all images."""
        return np.cumsum([0, *(len(one.samples) for one in self.sets)]).astype(np.int64)

    def locate(self, row: int) -> tuple[int, int]:
        """The set of an image, and its place there."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return number, row - int(self.starts[number])

    def divide(self, held_out: int, seed: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """Rows to learn from, by set, and those kept for validation: `held_out` in all, by the sets' sizes.

        Raises:
            ConfigError: nothing would be left of a set.
        """
        learned, kept = [], []
        for number, (one, start) in enumerate(zip(self.sets, self.starts, strict=False)):
            share = round(held_out * len(one.samples) / len(self))
            if share >= len(one.samples):
                raise ConfigError(
                    f"held_out is {held_out}, but there are {counted(len(self), 'image')}.",
                    f"Type: --set held_out={max(2, len(self) // 10)}",
                )
            order = start + np.random.default_rng([seed, number]).permutation(len(one.samples))
            kept.append(np.sort(order[:share]))
            learned.append(np.sort(order[share:]))
        return learned, np.concatenate(kept)


def find_pool(sources: Sequence[str | Path], *, limits: ImageLimits = DEFAULT_LIMITS) -> Pool:
    """The images of folders, archives, shards and tables, with their classes where they have some.

    Of a source with splits the training images are taken. An image that cannot be read is left out and listed.

    Raises:
        DataError: a source has no images.
    """
    return Pool(tuple(_find_set(source, limits) for source in sources))


def _find_set(source: str | Path, limits: ImageLimits) -> ImageSet:
    try:
        data = find_data(
            source, task=CLASSIFIER, val_fraction=0, on_bad_image="skip", check_images="headers", limits=limits
        )
    except NoClassesError:
        tree = open_tree(source)
        if not tree.images:
            raise DataError(f"{str(source)!r} holds no images.", "Give folders or zip archives of images.") from None
        names, members = tree.arrays(tree.images)
        labels = np.full(len(names), UNLABELLED, np.int64)
        return ImageSet(str(source), Samples(tree.root, names, members, labels), (), _fingerprint(tree.images))
    samples = data.splits["train" if "train" in data.splits else "all"]
    return ImageSet(str(source), samples, data.classes, data.fingerprint, data.bad_images)


def _fingerprint(names: Sequence[str]) -> str:
    import hashlib

    return hashlib.sha256("\n".join(names).encode("utf-8", "backslashreplace")).hexdigest()


class PoolSampler(Sampler[list[Draw]]):
    """Batches of (place, seed), for epochs of a chosen length.

    Each set runs through its own endless sequence of shuffled passes and gives its share of each epoch; pass p shows
    view p mod views. Everything is a function of (seed, epoch), so that a run continues anywhere.

    Args:
        rows: to draw from, by set.
        weights: of the sets: their shares of an epoch.
        images: in an epoch, in all.
        batch_size: images in a batch, on each rank.
        views: of each image; 0 for a new one each time.
        seed: of the run.
        rank, world_size: the ranks take turns image by image.

    Raises:
        ConfigError: an epoch would have no batch.
    """

    def __init__(
        self,
        rows: Sequence[NDArray[np.int64]],
        weights: Sequence[float],
        *,
        images: int,
        batch_size: int,
        views: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.rows, self.views, self.seed = list(rows), views, seed
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size
        self.batches = images // (batch_size * world_size)
        if not self.batches:
            raise ConfigError(
                f"An epoch has {counted(images, 'image')}, but a batch {batch_size * world_size}.",
                f"Type: --set batch_size={max(1, images // world_size)}",
            )
        length = self.batches * batch_size * world_size
        edges = np.round(np.cumsum([0.0, *weights]) / sum(weights) * length).astype(np.int64)
        self.counts = np.diff(edges)  # images of each set in an epoch
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch that the next iteration gives, from its batch `start_batch` on."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        return self.batches - self.start_batch

    def __iter__(self) -> Iterator[list[Draw]]:
        parts = [self._draws(number) for number in range(len(self.rows))]
        rows, passes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        generator = np.random.default_rng([self.seed, self.epoch])
        order, fresh = generator.permutation(len(rows)), generator.integers(2**63, size=len(rows))
        whole = self.batch_size * self.world_size
        for batch in range(self.start_batch, self.batches):
            chosen = order[batch * whole : (batch + 1) * whole][self.rank :: self.world_size]
            if self.views:
                places = (rows[chosen] * self.views + passes[chosen] % self.views).tolist()
                yield [(place, _view_seed(self.seed, place)) for place in places]
            else:
                yield list(zip(rows[chosen].tolist(), fresh[chosen].tolist(), strict=True))

    def _draws(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of one set in this epoch, and in which pass over the set each of them comes."""
        rows, count = self.rows[number], int(self.counts[number])
        position = np.arange(self.epoch * count, (self.epoch + 1) * count)
        passes, place = position // len(rows), position % len(rows)
        drawn = np.empty(count, np.int64)
        for one in np.unique(passes):
            order = np.random.default_rng([self.seed, number, int(one)]).permutation(len(rows))
            drawn[passes == one] = rows[order[place[passes == one]]]
        return drawn, passes


def _view_seed(seed: int, place: int) -> int:
    return int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0] >> 1)


class Views(Dataset[Tensor]):
    """Views of the pool's images as pixels, uint8 (3, size, size), by (place, seed).

    Args:
        pool: the images.
        size: of a view, in pixels.
        views: of each image; 0 where they are always new.
        scale: least and greatest share of the image's area that a crop keeps.
        hflip: probability of a mirror image.
        color_jitter: strength of random brightness, contrast and saturation.
        limits: what an image may cost.
    """

    def __init__(
        self,
        pool: Pool,
        size: int,
        *,
        views: int = 0,
        scale: tuple[float, float] = (0.35, 1.0),
        hflip: float = 0.5,
        color_jitter: float = 0.0,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        self.pool, self.views, self.limits = pool, max(1, views), limits
        bicubic = v2.InterpolationMode.BICUBIC
        jitter = [v2.ColorJitter(color_jitter, color_jitter, color_jitter)] if color_jitter else []
        crop = v2.RandomResizedCrop(size, scale=scale, interpolation=bicubic)
        self.random = v2.Compose([crop, v2.RandomHorizontalFlip(hflip), *jitter, v2.PILToTensor()])
        self.central = v2.Compose([v2.Resize(size, interpolation=bicubic), v2.CenterCrop(size), v2.PILToTensor()])

    @property
    def samples(self) -> Pool:
        """The images."""
        return self.pool

    def __len__(self) -> int:
        return len(self.pool) * self.views

    def __getitem__(self, draw: Draw) -> Tensor:
        """One view; the central square for the seed `CENTRE`.

        Raises:
            ImageError: the image cannot be read.
        """
        place, seed = draw
        number, row = self.pool.locate(place // self.views)
        image = self.pool.sets[number].samples.open(row, self.limits)
        if seed == CENTRE:
            return self.central(image)
        with seeded(seed):
            return self.random(image)

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """Pixels (B, 3, size, size), (set, label) of each image as int64 (B, 2), places (B,), and what failed."""
        pixels, labels, places, errors = [], [], [], []
        rows = [self.pool.locate(place // self.views) for place, _ in draws]
        with ahead([part for number, row in rows for part in self.pool.sets[number].samples.parts(row)]):
            for (number, row), (place, seed) in zip(rows, draws, strict=True):
                samples = self.pool.sets[number].samples
                try:
                    pixels.append(self[place, seed])
                except ImageError as error:
                    errors.append((samples.path(row), error))
                    continue
                labels.append((number, int(samples.labels[row])))
                places.append(place)
        return Batch(
            torch.stack(pixels) if pixels else torch.empty(0),
            torch.tensor(labels, dtype=torch.int64).reshape(-1, 2),
            torch.tensor(places, dtype=torch.int64),
            tuple(errors),
        )
