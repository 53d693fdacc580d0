"""Training images that stay on the device: decoded once, cropped, resized and mirrored there in batches.

For many epochs over small images, where decoding would take longer than the network does. A random crop that is resized
is two small matrix products an image, with the weights that pillow's bicubic filter has, so that any device gives
the same pictures as the usual loader up to rounding. All randomness is a function of the (index, seed) pairs of
`EpochSampler`.

Legend: N images, B of them in a batch, C channels, H x W the largest image, h x w the network's input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dualtoken.data.dataset import BadImage
from dualtoken.data.loading import Draw, EpochSampler, usable_workers
from dualtoken.data.reading import OnBadImage
from dualtoken.data.samples import Samples
from dualtoken.errors import ConfigError, ImageError
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.preprocess import Preprocessing

ROOM = 1.5  # an image's shorter side is kept up to so many times the longer one of the input
_SHARE = 0.5  # of the device's free memory that images may take
_TRIES = 10  # of drawing a crop that fits, as timm has it
_RATIO = (3 / 4, 4 / 3)  # width of a crop over its height
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Store:
    """Decoded images on a device.

    Attributes:
        pixels: uint8 (N, C, H, W); an image fills its upper left corner.
        sizes: int64 (N, 2), height and width of each; 0 x 0 where it could not be read.
        bad: (path, error) of those.
    """

    pixels: Tensor
    sizes: NDArray[np.int64]
    bad: tuple[tuple[str, ImageError], ...]


class ResidentLoader:
    """Batches like those of `ImageLoader`: images float32 (B, C, h, w), labels and indices int64 (B,), on the device.

    Args:
        samples: the images.
        preprocessing: gives the input's size, mean and std.
        sampler: which images when, and their seeds.
        device: where the images stay.
        scale: least and greatest share of an image that a crop keeps.
        hflip: probability of a mirror image.
        workers: threads that decode.
        limits: what an image may cost.
        on_bad_image: `fail` or `skip`.

    Raises:
        ImageError: an image cannot be read, unless such are skipped.
        ConfigError: the device has no room for the images.
    """

    def __init__(
        self,
        samples: Samples,
        preprocessing: Preprocessing,
        sampler: EpochSampler,
        device: torch.device,
        *,
        scale: tuple[float, float],
        hflip: float,
        workers: int | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
        on_bad_image: OnBadImage = "fail",
    ) -> None:
        self.samples, self.batch_sampler = samples, sampler
        self.size, self.scale, self.hflip = preprocessing.image_size, scale, hflip
        channels = len(preprocessing.mean)
        self.store = _store(samples, round(ROOM * max(self.size)), channels, device, usable_workers(workers), limits)
        if self.store.bad and on_bad_image != "skip":
            error = self.store.bad[0][1]
            raise ImageError(error.message, f"{error.hint} To go on without such images: --on-bad-image skip.".strip())
        self.labels = torch.as_tensor(samples.labels, device=device)
        self.mean, self.std = (
            torch.tensor(part, device=device).view(1, -1, 1, 1) for part in (preprocessing.mean, preprocessing.std)
        )

    @property
    def bad_images(self) -> tuple[BadImage, ...]:
        """(path, reason) of the images left out."""
        return tuple((path, error.message) for path, error in self.store.bad)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """As `ImageLoader.set_epoch`."""
        self.batch_sampler.set_epoch(epoch, start_batch)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for draws in self.batch_sampler:
            readable = [draw for draw in draws if self.store.sizes[draw[0]].any()]
            if readable:
                yield self.batch(readable)

    @torch.no_grad()
    def batch(self, draws: Sequence[Draw]) -> tuple[Tensor, Tensor, Tensor]:
        """The images at some indices, each cropped and mirrored as its seed says."""
        rows = np.array([index for index, _ in draws])
        chance = uniform(np.array([seed for _, seed in draws], np.uint64), 4 * _TRIES + 1)  # (B, draws)
        boxes = crops(self.store.sizes[rows], chance[:, 1:].reshape(len(rows), _TRIES, 4), self.scale)
        indices = torch.as_tensor(rows, device=self.labels.device)
        images = self.store.pixels[indices].float()  # (B, C, H, W)
        images = self._resize(images, boxes, mirrored=chance[:, 0] < self.hflip)  # (B, C, h, w)
        return (images / 255 - self.mean) / self.std, self.labels[indices], indices

    def _resize(self, images: Tensor, boxes: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> Tensor:
        """Crops (top, left, height, width) of images (B, C, H, W), resized to (B, C, h, w), values 0 to 255."""
        top, left, height, width = torch.as_tensor(boxes, device=images.device).T
        down = bicubic_weights(top, height, images.shape[2], self.size[0])  # (B, h, H)
        across = bicubic_weights(left, width, images.shape[3], self.size[1])  # (B, w, W)
        turned = torch.as_tensor(mirrored, device=images.device)[:, None, None]
        across = torch.where(turned, across.flip(1), across)
        resized = down[:, None] @ images @ across[:, None].mT  # (B, C, h, H) (H, W) (W, w)
        return resized.round().clamp(0, 255)


def resident_loader(
    samples: Samples,
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    batch_size: int,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    balanced: bool = False,
    **options: Any,
) -> ResidentLoader:
    """As `training_loader`, on a device; options as of `ResidentLoader`."""
    options.pop("pin_memory", None)  # nothing is copied
    weights = samples.rarity() if balanced else None
    sampler = EpochSampler(len(samples), batch_size, seed=seed, rank=rank, world_size=world_size, weights=weights)
    return ResidentLoader(samples, preprocessing, sampler, device, **options)


# ---------------------------------------------------------------- what is drawn


def uniform(seeds: NDArray[np.uint64], number: int) -> Floats:
    """`number` values in [0, 1) for each of (B,) seeds: (B, number). SplitMix64 (Steele, Lea and Flood 2014)."""
    steps = np.arange(1, number + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = seeds[:, None] + steps  # wraps around, as it is meant to
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return np.asarray((state >> np.uint64(11)) * 2.0**-53, np.float64)


def crops(sizes: NDArray[np.int64], chance: Floats, scale: tuple[float, float]) -> NDArray[np.int64]:
    """Random crops as timm draws them: (B, 4) top, left, height, width in whole pixels.

    Args:
        sizes: (B, 2) height and width.
        chance: (B, tries, 4) values in [0, 1): for area, ratio, top and left of each try.
        scale: least and greatest share of the area.
    """
    height, width = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)  # (B, 1)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * chance[..., 0])  # (B, tries)
    low, high = np.log(_RATIO)
    ratio = np.exp(low + (high - low) * chance[..., 1])
    tall, wide = np.round(np.sqrt(area / ratio)), np.round(np.sqrt(area * ratio))
    fits = (tall <= height) & (wide <= width) & (tall > 0) & (wide > 0)
    first = fits.argmax(axis=1)
    each = np.arange(len(sizes))
    tall, wide = tall[each, first], wide[each, first]
    top = np.floor(chance[each, first, 2] * (height[:, 0] - tall + 1))
    left = np.floor(chance[each, first, 3] * (width[:, 0] - wide + 1))
    drawn = np.stack([top, left, tall, wide], axis=1)
    return np.where(fits.any(axis=1)[:, None], drawn, _central(height[:, 0], width[:, 0])).astype(np.int64)


def _central(height: Floats, width: Floats) -> Floats:
    """Where no try fits: the largest central crop of an allowed ratio."""
    wide = np.minimum(width, np.maximum(1, np.round(height * _RATIO[1])))
    tall = np.minimum(height, np.maximum(1, np.round(width / _RATIO[0])))
    return np.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], axis=1)


def bicubic_weights(start: Tensor, length: Tensor, size: int, wanted: int) -> Tensor:
    """How much each pixel of a line counts for each pixel of its resized part: (B, wanted, size), rows sum to 1.

    The filter is pillow's: Keys' cubic with a = -0.5, stretched where the line becomes shorter; only pixels of the
    part count.

    Args:
        start, length: (B,) int64, the part, in pixels.
        size: pixels of the line.
        wanted: pixels of the result.
    """
    place = torch.arange(size, device=start.device)
    step = length.double() / wanted  # (B,) pixels of the line to one of the result
    out = torch.arange(wanted, device=start.device) + 0.5
    middle = start[:, None] + out * step[:, None]  # (B, wanted)
    stretch = step.clamp(min=1)[:, None, None]
    distance = ((place + 0.5 - middle[..., None]) / stretch).abs()  # (B, wanted, size)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
    inside = (place >= start[:, None]) & (place < (start + length)[:, None])  # (B, size)
    weights = weights * inside[:, None]
    return (weights / weights.sum(2, keepdim=True)).float()


# ---------------------------------------------------------------- decoding, once

_last: tuple[str, Store] | None = None  # several runs of one process learn from the same images


def _store(
    samples: Samples, bound: int, channels: int, device: torch.device, workers: int, limits: ImageLimits
) -> Store:
    """The decoded images; those of the call before where they are the same."""
    global _last
    key = _key(samples, bound, channels, device)
    if _last is None or _last[0] != key:
        _last = None  # frees the memory first
        _last = (key, _decode(samples, bound, channels, device, workers, limits))
    return _last[1]


def _key(samples: Samples, bound: int, channels: int, device: torch.device) -> str:
    digest = hashlib.sha256("\n".join(samples.names.tolist()).encode("utf-8", "surrogateescape"))
    modified = Path(samples.root).stat().st_mtime_ns if Path(samples.root).exists() else 0
    digest.update(f"{samples.root} {modified} {bound} {channels} {samples.bands} {device}".encode())
    return digest.hexdigest()


def _decode(
    samples: Samples, bound: int, channels: int, device: torch.device, workers: int, limits: ImageLimits
) -> Store:
    read = partial(_read, samples, bound=bound, channels=channels, limits=limits)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        images = list(pool.map(read, range(len(samples))))
    bad = tuple((samples.path(row), image) for row, image in enumerate(images) if isinstance(image, ImageError))
    shapes = [(0, 0) if isinstance(image, ImageError) else image.shape[:2] for image in images]
    sizes = np.array(shapes, np.int64)
    height, width = (max(int(side), 1) for side in sizes.max(axis=0))
    _require_room(len(images) * channels * height * width, device)
    pixels = np.zeros((len(images), channels, height, width), np.uint8)
    for row, image in enumerate(images):
        if not isinstance(image, ImageError):
            pixels[row, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    return Store(torch.from_numpy(pixels).to(device), sizes, bad)


def _read(
    samples: Samples, row: int, *, bound: int, channels: int, limits: ImageLimits
) -> NDArray[np.uint8] | ImageError:
    """One image (height, width, C), made smaller where its shorter side is above `bound`; or why it cannot be read."""
    try:
        image = samples.open(row, limits)
    except ImageError as error:
        return error
    shorter = min(image.size)
    if shorter > bound:
        size = tuple(max(1, round(side * bound / shorter)) for side in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = np.asarray(image.convert("L") if channels == 1 else image, np.uint8)
    return pixels.reshape(image.height, image.width, channels)


def _require_room(needed: int, device: torch.device) -> None:
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if needed > _SHARE * free:
        raise ConfigError(
            f"resident would keep {needed / 2**30:.1f} GiB of images on a device with {free / 2**30:.1f} GiB free.",
            "Leave it out, or choose a smaller --image-size: images are kept at up to 1.5 times its size.",
        )
