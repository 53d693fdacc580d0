"""95 % intervals by drawing the images again, with replacement, and measuring each draw (Efron 1979)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dualtoken.outputs import Interval

_ENDS = (0.025, 0.975)


def draws(images: int, *, seed: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """How often each of N images was drawn: (N,) arrays that sum to N, `resamples` of them."""
    random = np.random.default_rng(seed)
    for _ in range(resamples if images else 0):
        yield np.bincount(random.integers(images, size=images), minlength=images)


def interval_ends(
    value: NDArray[np.float64], drawn: NDArray[np.float64], *, lower: float = 0.0, upper: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the 95 % intervals of `value` (M,) from its redrawn values (resamples, M); NaN values are left out.

    The percentiles are shifted by the mean difference between draws and value: a draw has fewer distinct images
    than the sample, so the calibration error of draws lies above the sample's own, and unshifted percentiles
    could lie beside the value.
    """
    valid = ~np.isnan(drawn)
    number = valid.sum(axis=0)
    shift = np.where(number > 0, np.where(valid, drawn, 0).sum(axis=0) / np.maximum(number, 1) - value, 0)
    ordered = np.sort(drawn, axis=0)  # NaN last
    low, high = (_quantile(ordered, number, end) - shift for end in _ENDS)
    return np.clip(np.fmin(low, value), lower, upper), np.clip(np.fmax(high, value), lower, upper)


def intervals(
    value: NDArray[np.float64], drawn: NDArray[np.float64], trials: NDArray[np.int64]
) -> list[Interval | None]:
    """95 % intervals of shares in [0, 1]; None where the value is NaN.

    A draw cannot tell more than the images do. Of one image it repeats the same value: the interval is then 0 to 1.
    Where all is right, or nothing, each draw says so too: the exact binomial bound takes the interval's place.

    Args:
        value: (M,) as measured.
        drawn: (resamples, M) measured again on the draws; NaN where a draw could not tell.
        trials: (M,) images that the value rests on.
    """
    drawn = drawn if len(drawn) else value[None]
    low, high = interval_ends(np.nan_to_num(value), drawn)
    ends = zip(value.tolist(), low.tolist(), high.tolist(), trials.tolist(), strict=True)
    return [None if part[0] != part[0] else _interval(*part) for part in ends]


def _interval(value: float, low: float, high: float, trials: int) -> Interval:
    return Interval(value, 0.0, 1.0) if trials < 2 else widened(Interval(value, low, high), trials)


def _quantile(ordered: NDArray[np.float64], number: NDArray[np.int64], end: float) -> NDArray[np.float64]:
    """The quantile of the first `number[m]` values of each column, between neighbours as numpy does it."""
    place = np.maximum(number - 1, 0) * end
    below = np.floor(place).astype(np.int64)
    above, columns = np.ceil(place).astype(np.int64), np.arange(ordered.shape[1])
    return ordered[below, columns] + (ordered[above, columns] - ordered[below, columns]) * (place - below)


def widened(interval: Interval, trials: int) -> Interval:
    """A share of exactly 0 or 1 gets the exact binomial bound (Clopper and Pearson 1934).

    Drawing again from images that were all right finds only right ones: the bootstrap would claim certainty.
    """
    far = 1 - _ENDS[0] ** (1 / trials)
    if interval.value == 1:
        return Interval(1.0, min(interval.low, 1 - far), 1.0)
    if interval.value == 0:
        return Interval(0.0, 0.0, max(interval.high, far))
    return interval
