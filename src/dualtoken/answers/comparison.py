"""Two models on the same images: which is better, or that these images cannot tell. One for every kind of answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.bootstrap import draws, interval_ends
from dualtoken.answers.meter import Meter
from dualtoken.errors import DataError
from dualtoken.outputs import Interval
from dualtoken.words import counted

RESAMPLES = 1000
SIGNIFICANT = 0.05
_FEWEST = 6


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured.

    Attributes:
        a, b: the models' names.
        source, split: where the images come from.
        images: number of images, the same for both.
        metric, title: key of the metric, and how it is called.
        value_a, value_b: its values in [0, 1].
        difference: value_b - value_a, with its 95 % interval (both models measured on the same draws of images).
        better_a, better_b: images on which this model is the better one; of classes, that it alone got right.
        seed, resamples: of the bootstrap.
        p_value: of McNemar's exact test, two-sided, where an image is right or wrong: how often two equally good models
            would split their disagreements at least as unevenly; None for other kinds.
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
    p_value: float | None = None
    note: str = ""

    @property
    def better(self) -> str | None:
        """`a`, `b`, or None where they are not distinguishable: the interval of the difference holds 0.

        Where there is a test, it must agree. Where there is none, fewer than six images decide nothing: among them one
        model is the better one on all by chance more often than one time in twenty, whatever the interval says.
        """
        doubtful = self.images < _FEWEST if self.p_value is None else self.p_value >= SIGNIFICANT
        if doubtful or self.difference.low <= 0 <= self.difference.high:
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
        rows += [("McNemar's test", f"p = {self.p_value:.2g}")] if self.p_value is not None else []
        rows += [("Note", self.note)] if self.note else []
        return "\n".join([*(f"{head:<16}{text}" for head, text in rows), "", self.verdict()])

    def verdict(self) -> str:
        """One sentence."""
        sign = -1 if self.better == "a" else 1
        ends = sorted((sign * self.difference.low, sign * self.difference.high))
        value, low, high = (100 * part for part in (sign * self.difference.value, *ends))
        points = f"points of {self.title}"
        if self.better_a + self.better_b == 0 and self.difference.value == 0:
            return "A and B are not distinguishable: they are equally good on every image."
        if self.better is not None:
            return f"{self.better.upper()} is better by {value:.1f} {points} (95 % interval {low:.1f} to {high:.1f})."
        why = f"95 % interval {low:+.1f} to {high:+.1f}"
        if self.p_value is not None and not low <= 0 <= high:
            why = f"McNemar's test: p = {self.p_value:.2g}, too few disagreements for an interval"
        these = f"{'this' if self.images == 1 else 'these'} {counted(self.images, 'image')}"
        return f"A and B are not distinguishable on {these}: B minus A is {value:+.1f} {points} ({why}). More images could tell."  # noqa: E501


def compare_meters(
    a: Meter,
    b: Meter,
    *,
    names: tuple[str, str],
    source: str = "",
    split: str = "",
    seed: int = 0,
    resamples: int | None = None,
    note: str = "",
) -> Comparison:
    """Whether one of two models has the better leading metric on the same images, on the same draws of them.

    Raises:
        DataError: the meters saw other images or truths, or know other classes.
    """
    _check_pair(a, b)
    resamples = RESAMPLES if resamples is None else resamples
    scores = [meter.scorer() for meter in (a, b)]
    value_a, value_b = (float(np.nan_to_num(score(None))) for score in scores)
    drawn = [[score(weights) for score in scores] for weights in draws(len(a), seed=seed, resamples=resamples)]
    gain = np.diff(np.array(drawn).reshape(-1, 2), axis=1)[:, 0]
    first, second = a.image_scores(), b.image_scores()
    better_a, better_b = int((first > second).sum()), int((second > first).sum())
    kind = a.kind
    return Comparison(
        *names, source=source, split=split, images=len(a), metric=kind.leading, title=kind.metrics[kind.leading].title,
        value_a=value_a, value_b=value_b, difference=_difference(value_b - value_a, gain, len(a)), better_a=better_a,
        better_b=better_b, seed=seed, resamples=resamples,
        p_value=mcnemar(better_a, better_b) if kind.right_or_wrong else None, note=note,
    )  # fmt: skip


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value of the exact test of McNemar (1947).

    Between equally good models each disagreement is a coin's throw: the tail of the binomial distribution.
    """
    trials, fewer = only_a + only_b, min(only_a, only_b)
    if trials == 0:
        return 1.0
    k = np.arange(1, fewer + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((trials - k + 1) / k))]) - trials * np.log(2)  # ln C(n, k) / 2^n
    return min(1.0, 2 * float(np.exp(logs).sum()))


def _difference(value: float, drawn: NDArray[np.float64], images: int) -> Interval:
    """With its interval from the differences (resamples,) of the draws, NaN where one could not tell; of one image -1
    to 1."""
    if images < 2 or not len(drawn):
        return Interval(value, -1.0, 1.0)
    low, high = interval_ends(np.array([value]), drawn[:, None], lower=-1.0)
    return Interval(value, float(low[0]), float(high[0]))


def _check_pair(a: Meter, b: Meter) -> None:
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
    if a.truths() != b.truths():
        raise DataError("A and B were measured on images with different objects.", "Use the same labels for both.")
