"""Classification: the answer for one image, and what an evaluation measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.outputs.common import Bin, Interval, Metric, listed
from dualtoken.words import counted


@dataclass(frozen=True, eq=False)
class Classification:
    """The answer for one image.

    Attributes:
        classes: K class names, in the order of `probabilities`.
        probabilities: (K,) float32, each in [0, 1], summing to 1.
        path: the image's path or name, None for pixels without one.

    Raises:
        ValueError: the probabilities are none, or not one for each class.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    path: str | None = None

    def __post_init__(self) -> None:
        probabilities = np.asarray(self.probabilities, np.float32)
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "probabilities", probabilities)
        if probabilities.shape != (len(self.classes),) or not self.classes:
            raise ValueError(f"probabilities have shape {probabilities.shape}, expected ({len(self.classes)},).")
        if not np.all(probabilities >= 0) or abs(float(probabilities.sum(dtype=np.float64)) - 1) > 1e-3:
            raise ValueError(f"probabilities must be 0 or more and sum to 1, not to {probabilities.sum()}.")

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[int(self.probabilities.argmax())]

    @property
    def score(self) -> float:
        """The probability of `label`."""
        return float(self.probabilities.max())

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, best first; all, if there are fewer."""
        order = np.argsort(-self.probabilities, kind="stable")[: max(k, 0)]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]

    def to_dict(self, k: int = 5) -> dict[str, Any]:
        """As JSON-friendly values: `path`, `label`, `score` and the `k` best as `top`."""
        top = [{"label": label, "score": score} for label, score in self.top(k)]
        return {"path": self.path, "label": self.label, "score": self.score, "top": top}


METRICS = {
    "top1": Metric("Top-1 accuracy", True, "share of images whose first answer is right"),
    "top5": Metric("Top-5 accuracy", True, "share of images with the right class among the first five answers"),
    "macro_f1": Metric("Macro F1", True, "mean over the classes of F1, each class counting the same"),
    "nll": Metric("Log loss", False, "mean of -ln(probability of the right class); lower is better"),
    "ece": Metric("Calibration error", True, "how far stated probabilities are from the truth (ECE, 15 bins)"),
}


@dataclass(frozen=True)
class ClassScores:
    """How well one class is told apart.

    Attributes:
        name: of the class.
        support: images of this class.
        predicted: images that were taken for this class.
        correct: images of this class that were taken for it.
        precision, recall, f1: with intervals; None where the class occurs neither in truth nor in answers.
    """

    name: str
    support: int
    predicted: int
    correct: int
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None


@dataclass(frozen=True)
class Confused:
    """`images` images of `truth`, that is the `share` of its images, were taken for `predicted`."""

    truth: str
    predicted: str
    images: int
    share: float


@dataclass(frozen=True, eq=False)
class PerImage:
    """One number an image, N images in the order they were evaluated.

    Attributes:
        index: (N,) int64, place in the samples of the split.
        label, predicted: (N,) int64, the right class and the answer.
        rank: (N,) int64, how many classes were rated above the right one.
        score: (N,) float32, probability of the answer.
        true_score: (N,) float32, probability of the right class.
        nll: (N,) float64, -ln of it.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    rank: NDArray[np.int64]
    score: NDArray[np.float32]
    true_score: NDArray[np.float32]
    nll: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) whether the answer is right."""
        return self.label == self.predicted


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        model: path of the model folder, or the architecture's name.
        source, split: the data set's path and the name of its split.
        classes: K class names.
        temperature: the logits were divided by it.
        metrics: keys of `METRICS` with their intervals; no `top5` with five classes or fewer.
        per_class: one for each class, in the order of `classes`.
        confusion: (K, K) int64 numbers of images; a row is a true class, a column an answer.
        reliability: bins of the score that hold images, lowest first.
        images: the arrays that all of this was counted from.
        bad_images: (path, reason) of the images left out.
        seed, resamples: of the bootstrap that gave the intervals.
    """

    model: str
    source: str
    split: str
    classes: tuple[str, ...]
    temperature: float
    metrics: dict[str, Interval]
    per_class: tuple[ClassScores, ...]
    confusion: NDArray[np.int64]
    reliability: tuple[Bin, ...]
    images: PerImage
    bad_images: tuple[tuple[str, str], ...]
    seed: int
    resamples: int

    @property
    def n(self) -> int:
        """Number of images evaluated."""
        return len(self.images)

    def mistakes(self) -> NDArray[np.int64]:
        """Places in `images` of the wrong answers, the surest first."""
        wrong = np.flatnonzero(~self.images.correct)
        return wrong[np.argsort(-self.images.score[wrong], kind="stable")]

    def confused(self) -> list[Confused]:
        """Every pair of classes that was confused, most images first."""
        counts = self.confusion.copy()
        np.fill_diagonal(counts, 0)
        rows, columns = np.nonzero(counts)
        order = np.argsort(-counts[rows, columns], kind="stable")
        support = self.confusion.sum(axis=1)
        return [
            Confused(
                self.classes[row], self.classes[column], int(counts[row, column]), counts[row, column] / support[row]
            )
            for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
        ]

    def weakest(self) -> list[ClassScores]:
        """Classes that have images, lowest F1 first."""
        return sorted(
            (c for c in self.per_class if c.support and c.f1), key=lambda c: (c.f1.value if c.f1 else 0, c.name)
        )

    def headline(self) -> dict[str, Any]:
        """What a model's `config.json` keeps: split, number of images, and the metrics with intervals."""
        metrics = {name: asdict(interval) for name, interval in self.metrics.items()}
        return {"split": self.split, "images": self.n, "interval": "bootstrap over images, 95 %", **metrics}

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values, for `evaluation.json`. `per_class` and `confused` hold the whole confusion."""
        return {
            "model": self.model,
            "source": self.source,
            **self.headline(),
            "bootstrap": {"seed": self.seed, "resamples": self.resamples},
            "temperature": self.temperature,
            "per_class": [asdict(scores) for scores in self.per_class],
            "confused": [asdict(pair) for pair in self.confused()],
            "reliability": [asdict(part) for part in self.reliability],
            "bad_images": [{"path": path, "reason": reason} for path, reason in self.bad_images],
        }

    def summary(self) -> str:
        """A few lines for the terminal, without colour."""
        classes = counted(len(self.classes), "class", "classes")
        rows = [("Images", f"{self.n:,} of {classes}, split {self.split!r} of {self.source}")]
        rows += [(METRICS[name].title, METRICS[name].write(interval)) for name, interval in self.metrics.items()]
        weakest = [f"{c.name}: {100 * c.f1.value:.0f} % of {c.support}" for c in self.weakest()[:3] if c.f1]
        confused = [
            f"{p.truth} taken for {p.predicted}: {p.images} ({100 * p.share:.0f} %)" for p in self.confused()[:3]
        ]
        rows += listed("Weakest F1", weakest)
        rows += listed("Most confused", confused or ["nothing: every answer is right"])
        rows += [("Left out", f"{len(self.bad_images)} that cannot be used")] if self.bad_images else []
        lines = [f"{head:<19}{text}" for head, text in rows]
        return "\n".join([*lines, "In brackets: 95 % intervals, bootstrap over the images."])
