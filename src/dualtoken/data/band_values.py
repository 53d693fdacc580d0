"""Which of a data set's values become 0 to 255: looked for in a sample of its training images, once for all of them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualtoken.bands import Bands
from dualtoken.data.dataset import ImageData
from dualtoken.data.samples import ImageFiles
from dualtoken.errors import ConfigError, DataError, ImageError
from dualtoken.images import ImageLimits, open_values
from dualtoken.words import counted

USUAL = (0.5, 99.5)  # percentiles, of other values than 8 bits without a sign
_IMAGES, _PIXELS = 200, 20_000  # of the sample, and of each of its images
_LEAST_STD = 1e-3


class BandFacts(NamedTuple):
    """What was fixed: the bands, mean and std of each channel in [0, 1], and the same in words."""

    bands: Bands
    mean: tuple[float, ...]
    std: tuple[float, ...]
    words: str


def with_counted_bands(files: ImageFiles, asked: Bands, limits: ImageLimits) -> ImageFiles:
    """`files` with the bands that are asked for, as many as their first readable image has.

    Raises:
        ConfigError: that image has no such channels, or too many.
    """
    if asked.stored:
        return replace(files, bands=asked)
    for index in range(len(files)):
        with suppress(ImageError):
            whole = replace(asked, channels=(), low=(), high=())
            stored = open_values(files.source(index, limits), whole, name=files.path(index), limits=limits).shape[2]
            break
    else:  # each is named by the check of all images
        return replace(files, bands=asked)
    channels = asked.channels or tuple(range(stored))
    try:
        bands = replace(asked, stored=stored, channels=channels, low=(), high=())
        bands = replace(bands, low=asked.low * len(channels), high=asked.high * len(channels))
    except ValueError as error:
        raise ConfigError(
            f"{error}: {files.path(index)!r} has {counted(stored, 'band')}.", "Choose some: --set channels=[0,1,2]"
        ) from None
    return replace(files, bands=bands)


def fix_bands(data: ImageData, percentiles: tuple[float, float] | None, seed: int, limits: ImageLimits) -> BandFacts:
    """The window and the mean of each channel, from a sample of the training images.

    Args:
        data: whose training images have bands; a window that these name is kept.
        percentiles: of the sample's values, which become 0 and 255; None for the usual ones, and for values of 8 bits
            without a sign 0 to 255 as they are.
        seed: draws the sample.
        limits: what an image may cost.

    Raises:
        DataError: no image can be read, or none has a number in one of its channels.
    """
    samples = data.splits["train"]
    bands, (values, kind) = samples.bands, _sample(samples, seed, limits)
    if not bands.low:
        if kind == np.uint8 and percentiles is None:
            ends = np.array([[0.0], [255.0]]).repeat(values.shape[1], 1)
        else:
            ends = _ends(values, percentiles or USUAL, data.source)
        bands = replace(bands, low=tuple(ends[0].tolist()), high=tuple(ends[1].tolist()))
    scaled, outside = bands.scaled(values[None])
    shares = scaled[0].astype(np.float64) / 255
    mean, std = (tuple(np.round(part, 4).tolist()) for part in (shares.mean(0), shares.std(0).clip(_LEAST_STD)))
    return BandFacts(bands, mean, std, bands.words(kind.name, outside))


def _sample(samples: ImageFiles, seed: int, limits: ImageLimits) -> tuple[NDArray[np.generic], np.dtype[np.generic]]:
    """Pixels (n, channels) of images drawn by `seed`, as they are stored."""
    generator = np.random.default_rng(seed)
    parts = []
    for index in generator.permutation(len(samples))[:_IMAGES].tolist():
        with suppress(ImageError):  # told where its turn comes in training
            source = samples.source(index, limits)
            values = open_values(source, samples.bands or Bands(), name=samples.path(index), limits=limits)
            pixels = values.reshape(-1, values.shape[2])
            parts.append(pixels if len(pixels) <= _PIXELS else pixels[generator.integers(len(pixels), size=_PIXELS)])
    if not parts:
        raise DataError(f"No training image of {samples.root!r} can be read.")
    kinds = sorted({part.dtype for part in parts}, key=str)
    return np.concatenate(parts), kinds[0] if len(kinds) == 1 else np.result_type(*kinds)


def _ends(values: NDArray[np.generic], percentiles: tuple[float, float], source: str) -> NDArray[np.float64]:
    """(2, channels) lowest and highest value of each channel's window."""
    numbers = np.where(np.isfinite(values.astype(np.float64)), values, np.nan).astype(np.float64)
    if np.isnan(numbers).all(axis=0).any():
        raise DataError(f"A band of the images in {source!r} holds no number.", "Choose others: --set channels=[0,1]")
    low, high = np.nanpercentile(numbers, percentiles, axis=0)
    return np.array([low, np.where(high > low, high, low + 1)])  # a constant band has nothing to show
