"""Two models on the same images: which is better, or that these images cannot tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.data import ImageData, OnBadImage, find_split
from dualtoken.errors import DataError
from dualtoken.evaluation.scenes import SCENE_BATCH, compare_scenes
from dualtoken.evaluation.sources import Draw, draw_of, open_data, open_predictor, split_name
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.metrics.bootstrap import RESAMPLES, draws, interval_ends
from dualtoken.metrics.pairs import SceneComparison
from dualtoken.outputs import Interval
from dualtoken.prediction import Logits, Predictor
from dualtoken.words import counted

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured.

    Attributes:
        a, b: the models' names.
        source, split: where the images come from.
        images: number of images, the same for both.
        top1_a, top1_b: shares of right answers.
        difference: top1_b - top1_a, with its 95 % interval (bootstrap over pairs of answers).
        only_a, only_b: images that only this model got right.
        p_value: of McNemar's exact test, two-sided: how often two equally good models would split their
            disagreements at least as unevenly.
        seed, resamples: of the bootstrap.
        note: why the comparison may be unfair, if it may.
    """

    a: str
    b: str
    source: str
    split: str
    images: int
    top1_a: float
    top1_b: float
    difference: Interval
    only_a: int
    only_b: int
    p_value: float
    seed: int
    resamples: int
    note: str = ""

    @property
    def better(self) -> str | None:
        """`a`, `b`, or None where they are not distinguishable: the test and the interval must agree."""
        if self.p_value >= SIGNIFICANT or self.difference.low <= 0 <= self.difference.high:
            return None
        return "b" if self.difference.value > 0 else "a"

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values."""
        return {**asdict(self), "better": self.better}

    def summary(self) -> str:
        """A few lines for the terminal; the last one is the verdict, in words."""
        rows = [
            ("Images", f"{self.images:,}, split {self.split!r} of {self.source}"),
            ("A", f"{100 * self.top1_a:.1f} % right   {self.a}"),
            ("B", f"{100 * self.top1_b:.1f} % right   {self.b}"),
            ("Only A right", counted(self.only_a, "image")),
            ("Only B right", counted(self.only_b, "image")),
            ("McNemar's test", f"p = {self.p_value:.2g}"),
        ]
        rows += [("Note", self.note)] if self.note else []
        return "\n".join([*(f"{head:<16}{text}" for head, text in rows), "", self.verdict()])

    def verdict(self) -> str:
        """One sentence."""
        sign = -1 if self.better == "a" else 1
        ends = sorted((sign * self.difference.low, sign * self.difference.high))
        value, low, high = (100 * part for part in (sign * self.difference.value, *ends))
        if self.only_a + self.only_b == 0:
            return "A and B are not distinguishable: they are right and wrong on the same images."
        if self.better is None:
            holds_zero = low <= 0 <= high
            why = (
                f"95 % interval {low:+.1f} to {high:+.1f}"
                if holds_zero
                else f"McNemar's test: p = {self.p_value:.2g}, too few disagreements for an interval"
            )
            return (
                f"A and B are not distinguishable on {'this' if self.images == 1 else 'these'}"
                f" {counted(self.images, 'image')}: B minus A is {value:+.1f} points ({why}). More images could tell."
            )
        return f"{self.better.upper()} is better by {value:.1f} points (95 % interval {low:.1f} to {high:.1f})."


def compare(
    a: str | Path | Predictor,
    b: str | Path | Predictor,
    data: str | Path | ImageData,
    *,
    split: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    seed: int = 0,
    labels: str = "auto",
    resamples: int | None = None,
    device: str = "auto",
    on_bad_image: OnBadImage = "fail",
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: bool = True,
) -> Comparison | SceneComparison:
    """Whether one of two models is better on the same images, or that they cannot be told apart.

    The models must have the same task and know the same classes, in any order. Arguments are those of `evaluate`.

    Raises:
        DataError: tasks or classes differ, or the data cannot be used.
        ModelError: a model folder cannot be loaded.
    """
    first, second = open_predictor(a, device), open_predictor(b, device)
    _check_classes(first, second)
    found, draw = open_data(
        data, first, second, labels=labels, on_bad_image=on_bad_image, limits=limits, progress=progress
    )
    samples: Any = find_split(found, split)
    if first.config.task != "classification":
        return compare_scenes(
            first, second, found, samples, batch_size=min(batch_size, SCENE_BATCH), workers=workers, limits=limits,
            on_bad_image=on_bad_image, progress=progress, seed=seed, resamples=resamples,
            note=_note(draw, first, second),
        )  # fmt: skip
    outputs = [
        predictor.logits(
            samples, batch_size=batch_size, workers=workers, limits=limits, on_bad_image=on_bad_image, progress=progress
        )
        for predictor in (first, second)
    ]
    right_a, right_b = _right(outputs[0], first, first), _right(outputs[1], second, first)
    comparison = _compare(
        right_a, right_b, (first.name, second.name), (found.source, split_name(found, samples)), seed,
        RESAMPLES if resamples is None else resamples,
    )  # fmt: skip
    return replace(comparison, note=_note(draw, first, second))


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


def _right(output: Logits, predictor: Predictor, reference: Predictor) -> NDArray[np.bool_]:
    """(N,) whether each answer is right; labels are indices into the classes of `reference`."""
    place = {name: label for label, name in enumerate(reference.classes)}
    meaning = np.array([place[name] for name in predictor.classes])
    return np.asarray(meaning[output.logits.argmax(axis=1)] == output.labels)


def _compare(
    right_a: NDArray[np.bool_],
    right_b: NDArray[np.bool_],
    names: tuple[str, str],
    place: tuple[str, str],
    seed: int,
    resamples: int,
) -> Comparison:
    images = len(right_a)
    gain = right_b.astype(np.float64) - right_a
    value = float(gain.mean())
    drawn = np.array([weights @ gain / images for weights in draws(images, seed=seed, resamples=resamples)])
    low, high = interval_ends(np.array([value]), drawn[:, None], lower=-1.0)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return Comparison(
        *names,
        *place,
        images=images,
        top1_a=float(right_a.mean()),
        top1_b=float(right_b.mean()),
        difference=Interval(value, float(low[0]), float(high[0])),
        only_a=only_a,
        only_b=only_b,
        p_value=mcnemar(only_a, only_b),
        seed=seed,
        resamples=resamples,
    )


def _note(draw: Draw | None, *predictors: Predictor) -> str:
    """A warning where `val` was drawn as one model's training drew it, and the other's drew another one."""
    for name, predictor in zip("AB", predictors, strict=True):
        own = draw_of(predictor)
        if draw and own and own.fingerprint == draw.fingerprint and own != draw:
            return f"{name} was trained on these data with another val split: it has seen some of these images."
    return ""


def _check_classes(a: Predictor, b: Predictor) -> None:
    if a.config.task != b.config.task:
        raise DataError(
            f"{a.name!r} is for {a.config.task}, {b.name!r} for {b.config.task}.",
            "Only models for the same task can be compared.",
        )
    only_a, only_b = sorted(set(a.classes) - set(b.classes)), sorted(set(b.classes) - set(a.classes))
    if only_a or only_b:
        lists = [
            f"only {name} knows {', '.join(map(repr, only[:5]))}"
            for name, only in (("A", only_a), ("B", only_b))
            if only
        ]
        raise DataError(
            f"{a.name!r} and {b.name!r} do not know the same classes: {'; '.join(lists)}.",
            "Only models for the same classes can be compared.",
        )
