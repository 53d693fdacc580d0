"""What the results of every task are made of: intervals, how metrics are written, bins of confidence."""

from __future__ import annotations

from dataclasses import dataclass


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
    """How a metric is called, written and read."""

    title: str
    percent: bool
    about: str

    def write(self, interval: Interval) -> str:
        """The value with its interval, in the metric's own notation."""
        return interval.percent() if self.percent else interval.plain()


@dataclass(frozen=True)
class Bin:
    """Images whose score lies in [low, high): how sure the model was, and how often it was right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def listed(head: str, texts: list[str]) -> list[tuple[str, str]]:
    """Rows of a summary: the head stands before the first text only."""
    return [(head if number == 0 else "", text) for number, text in enumerate(texts)]
