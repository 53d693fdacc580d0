"""Two models for boxes or masks on the same images: which is better, or that these images cannot tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dualtoken.errors import DataError
from dualtoken.metrics.bootstrap import interval_ends
from dualtoken.metrics.matching import Floats
from dualtoken.outputs import Interval
from dualtoken.words import counted

_FEWEST = 6


@dataclass(frozen=True)
class SceneComparison:
    """What `compare_objects` and `compare_regions` measured.

    Attributes:
        a, b: the models' names.
        source, split: where the images come from.
        images: number of images, the same for both.
        metric, title: key of the metric, and how it is called.
        value_a, value_b: its values in [0, 1].
        difference: value_b - value_a, with its 95 % interval (both models measured on the same draws of images).
        better_a, better_b: images on which this model is the better one.
        seed, resamples: of the bootstrap.
        note: why the comparison may be unfair, if it may.
    """

    a: str
    b: str
    source: str
    split: str
    images: int
    metric: str
    title: str
    value_a: float
    value_b: float
    difference: Interval
    better_a: int
    better_b: int
    seed: int
    resamples: int
    note: str = ""

    @property
    def better(self) -> str | None:
        """`a`, `b`, or None where they are not distinguishable: the interval of the difference holds 0.

        Among fewer than six images one model is the better one on all of them by chance more often than one time in
        twenty, whatever the interval says.
        """
        if self.images < _FEWEST or self.difference.low <= 0 <= self.difference.high:
            return None
        return "b" if self.difference.value > 0 else "a"

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values."""
        return {**asdict(self), "better": self.better}

    def summary(self) -> str:
        """A few lines for the terminal; the last one is the verdict, in words."""
        rows = [
            ("Images", f"{self.images:,}, split {self.split!r} of {self.source}"),
            ("A", f"{self.title} {100 * self.value_a:.1f} %   {self.a}"),
            ("B", f"{self.title} {100 * self.value_b:.1f} %   {self.b}"),
            ("A is better on", counted(self.better_a, "image")),
            ("B is better on", counted(self.better_b, "image")),
        ]
        rows += [("Note", self.note)] if self.note else []
        return "\n".join([*(f"{head:<16}{text}" for head, text in rows), "", self.verdict()])

    def verdict(self) -> str:
        """One sentence."""
        sign = -1 if self.better == "a" else 1
        ends = sorted((sign * self.difference.low, sign * self.difference.high))
        value, low, high = (100 * part for part in (sign * self.difference.value, *ends))
        if self.better_a + self.better_b == 0 and self.difference.value == 0:
            return "A and B are not distinguishable: they are equally good on every image."
        if self.better is None:
            return (
                f"A and B are not distinguishable on {'this' if self.images == 1 else 'these'}"
                f" {counted(self.images, 'image')}: B minus A is {value:+.1f} points of"
                f" {self.title} (95 % interval {low:+.1f} to {high:+.1f}). More images could tell."
            )
        return (
            f"{self.better.upper()} is better by {value:.1f} points of {self.title}"
            f" (95 % interval {low:.1f} to {high:.1f})."
        )


def difference_of(a: float, b: float, drawn: Floats, images: int) -> Interval:
    """b - a with its interval from the differences (resamples,) of the draws; of one image -1 to 1.

    Draws that could not tell are NaN.
    """
    if images < 2 or not len(drawn):
        return Interval(b - a, -1.0, 1.0)
    low, high = interval_ends(np.array([b - a]), drawn[:, None], lower=-1.0)
    return Interval(b - a, float(low[0]), float(high[0]))


def check_pair(a: Any, b: Any) -> None:
    """Two meters must have seen the same images and know the same classes, in any order.

    Raises:
        DataError: they have not, or no image at all.
    """
    if set(a.classes) != set(b.classes):
        differ = sorted(set(a.classes) ^ set(b.classes))
        raise DataError(
            f"A and B do not know the same classes: only one of them knows {', '.join(map(repr, differ[:5]))}.",
            "Only models for the same classes can be compared.",
        )
    if not len(a) or not np.array_equal(a.indices(), b.indices()):
        raise DataError(
            f"A was measured on {counted(len(a), 'image')}, B on {len(b):,}: they must be the same, and one at least.",
            "Images that only one of them could read must be left out of both.",
        )
