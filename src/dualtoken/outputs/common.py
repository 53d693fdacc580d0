"""What every evaluation is made of: metrics and how they are written, intervals, bins of confidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A measured value with its 95 % interval, NaN-free."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """Such as `91.2 % (89.4 to 92.8)`."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def plain(self) -> str:
        """Such as `0.312 (0.280 to 0.347)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Metric:
    """How a metric is called, written, read and counted.

    Attributes:
        title: such as `Top-1 accuracy`.
        percent: whether it is a share in [0, 1] and written as one.
        about: what it is, in one line.
        of: the value from what the meter of its table counted, for any weighting of the images; NaN where there is
            nothing to measure. See `class_meter.METRICS`, `box_meter.METRICS`, `region_meter.METRICS`.
        exact: whether it is a share of images that are right: where all or none are, the binomial bound holds.
        always: whether it is listed where nothing can be measured, as 0 with the interval 0 to 1.
        hub: what the Hugging Face Hub calls it; "" where its tables do not list it.
    """

    title: str
    percent: bool
    about: str
    of: Callable[[Any], float] | None = None
    exact: bool = False
    always: bool = False
    hub: str = ""

    def write(self, interval: Interval) -> str:
        """The value with its interval, in the metric's own notation."""
        return interval.percent() if self.percent else interval.plain()


@dataclass(frozen=True)
class Bin:
    """Answers whose score lies in [low, high): their number, mean confidence, and the share that is right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def in_words(parts: Sequence[str], most: int) -> str:
    """The first `most` parts, how many more there are, or that there is nothing."""
    more = [f"and {len(parts) - most} more"] if len(parts) > most else []
    return ", ".join([*parts[:most], *more]) or "nothing"
