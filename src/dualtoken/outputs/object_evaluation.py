"""What an evaluation of objects measured: detection and instance segmentation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.outputs.common import Bin, Interval, Metric, listed
from dualtoken.words import counted

BACKGROUND = "background"  # where there is no object, or no answer: the last row and column of the confusion
SIZES = {"small": "below 32 x 32 pixels", "medium": "32 x 32 to 96 x 96 pixels", "large": "above 96 x 96 pixels"}


def _metrics(kind: str, prefix: str) -> dict[str, Metric]:
    """The rows of `DETECTION_METRICS` for boxes or masks."""
    of = f"average precision of {kind.lower()}{'es' if kind == 'Box' else 's'}"
    return {
        f"{prefix}ap": Metric(f"{kind} AP", True, f"{of}, mean over the classes and IoU 0.50, 0.55, ... 0.95"),
        f"{prefix}ap50": Metric(f"{kind} AP50", True, f"{of}, mean over the classes, at IoU 0.5"),
        f"{prefix}ap75": Metric(f"{kind} AP75", True, f"{of}, mean over the classes, at IoU 0.75"),
    } | {
        f"{prefix}ap_{size}": Metric(f"{kind} AP {size}", True, f"{kind} AP of objects {area}")
        for size, area in SIZES.items()
    }


DETECTION_METRICS = _metrics("Box", "") | _metrics("Mask", "mask_")


@dataclass(frozen=True)
class ObjectScores:
    """How well the objects of one class are found.

    Attributes:
        name: of the class.
        support: its objects, without crowds.
        detections: answers of this class that are at least as sure as the threshold.
        ap, ap50: of boxes, over IoU 0.50 to 0.95 and at 0.5; None for a class without objects.
        mask_ap, mask_ap50: of masks; None also where only boxes were measured.
    """

    name: str
    support: int
    detections: int
    ap: Interval | None
    ap50: Interval | None
    mask_ap: Interval | None = None
    mask_ap50: Interval | None = None

    @property
    def main(self) -> Interval | None:
        """AP of the masks where they were measured, else of the boxes."""
        return self.mask_ap or self.ap


@dataclass(frozen=True, eq=False)
class SceneScores:
    """One number an image, N images in the order of the split; of boxes, at IoU 0.5 and the threshold.

    Attributes:
        index: (N,) int64, place in the samples of the split.
        f1: (N,) float64, 2 found / (objects + found + false); 1 where there is nothing and nothing was found.
        objects: (N,) int64, objects without crowds.
        found: (N,) int64, objects that were found, with the right class.
        false: (N,) int64, answers that are no such object.
    """

    index: NDArray[np.int64]
    f1: NDArray[np.float64]
    objects: NDArray[np.int64]
    found: NDArray[np.int64]
    false: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Mistaken:
    """`objects` objects of `truth`, that is the `share` of its row, were answered as `predicted`.

    Either may be `BACKGROUND`: an answer where there is no object, or an object without an answer.
    """

    truth: str
    predicted: str
    objects: int
    share: float


@dataclass(frozen=True, eq=False)
class DetectionEvaluation:
    """What `evaluate` measured of boxes, and of masks for instance segmentation.

    Boxes give all but the metrics and scores called `mask_...`.

    Attributes:
        task: `detection` or `instance_segmentation`.
        model: path of the model folder, or the architecture's name.
        source, split: the data set's path and the name of its split.
        classes: K class names.
        metrics: keys of `DETECTION_METRICS` with their intervals; a size without objects has no key.
        per_class: one for each class, in the order of `classes`.
        curves: (K, 101) float32, precision at recall 0, 0.01, ... 1 and IoU 0.5; NaN for classes without objects.
        confusion: (K + 1, K + 1) int64 numbers of objects at IoU 0.5 and the threshold; a row is the truth, a column
            an answer, the last one `BACKGROUND`.
        reliability: bins of the score that hold answers, lowest first: how often they are right at IoU 0.5.
        threshold: the score from which on answers count, in [0, 1]: it gives the best F1 over all objects.
        images: the scores of each image.
        bad_images: (path, reason) of the images left out.
        seed, resamples: of the bootstrap that gave the intervals.
    """

    task: str
    model: str
    source: str
    split: str
    classes: tuple[str, ...]
    metrics: dict[str, Interval]
    per_class: tuple[ObjectScores, ...]
    curves: NDArray[np.float32]
    confusion: NDArray[np.int64]
    reliability: tuple[Bin, ...]
    threshold: float
    images: SceneScores
    bad_images: tuple[tuple[str, str], ...]
    seed: int
    resamples: int

    @property
    def n(self) -> int:
        """Number of images evaluated."""
        return len(self.images)

    @property
    def names(self) -> tuple[str, ...]:
        """(K + 1,) names of the rows and columns of `confusion`."""
        return (*self.classes, BACKGROUND)

    def best(self) -> NDArray[np.int64]:
        """(N,) places in `images`, highest F1 first; among equals those with more objects."""
        return np.lexsort((-self.images.objects, -self.images.f1))

    def worst(self) -> NDArray[np.int64]:
        """(N,) places in `images`, lowest F1 first; among equals those with more mistakes."""
        mistakes = self.images.objects - self.images.found + self.images.false
        return np.lexsort((-mistakes, self.images.f1))

    def confused(self) -> list[Mistaken]:
        """Every kind of mistake that was made, most frequent first, with those against the background."""
        counts = self.confusion.copy()
        np.fill_diagonal(counts, 0)
        rows, columns = np.nonzero(counts)
        order = np.argsort(-counts[rows, columns], kind="stable")
        total = self.confusion.sum(axis=1)
        return [
            Mistaken(
                self.names[row], self.names[column], int(counts[row, column]), float(counts[row, column] / total[row])
            )
            for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
        ]

    def weakest(self) -> list[ObjectScores]:
        """Classes that have objects, lowest AP first: of masks where they were measured, else of boxes."""
        return sorted(
            (c for c in self.per_class if c.support and c.main), key=lambda c: (c.main.value if c.main else 0, c.name)
        )

    def headline(self) -> dict[str, Any]:
        """What a model's `config.json` keeps: split, number of images, and the metrics with intervals."""
        metrics = {name: asdict(interval) for name, interval in self.metrics.items()}
        return {"split": self.split, "images": self.n, "interval": "bootstrap over images, 95 %", **metrics}

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values, for `evaluation.json`.

        `per_class` and `confused` hold the whole confusion but what the background is taken for itself, which nobody
        can count. `curves` has a list of 101 precisions for each class that has objects.
        """
        curves = {
            name: [round(value, 4) for value in curve]
            for name, curve in zip(self.classes, self.curves.tolist(), strict=True)
            if curve[0] == curve[0]
        }
        return {
            "task": self.task,
            "model": self.model,
            "source": self.source,
            **self.headline(),
            "bootstrap": {"seed": self.seed, "resamples": self.resamples},
            "threshold": self.threshold,
            "per_class": [
                asdict(scores) | {"correct": int(self.confusion[place, place])}
                for place, scores in enumerate(self.per_class)
            ],
            "confused": [asdict(pair) for pair in self.confused()],
            "reliability": [asdict(part) for part in self.reliability],
            "curves": curves,
            "bad_images": [{"path": path, "reason": reason} for path, reason in self.bad_images],
        }

    def summary(self) -> str:
        """A few lines for the terminal, without colour."""
        objects = counted(int(self.images.objects.sum()), "object")
        classes = counted(len(self.classes), "class", "classes")
        rows = [("Images", f"{self.n:,} with {objects} of {classes}, split {self.split!r} of {self.source}")]
        rows += [
            (DETECTION_METRICS[name].title, DETECTION_METRICS[name].write(interval))
            for name, interval in self.metrics.items()
        ]
        weakest = [f"{c.name}: {100 * c.main.value:.0f} % of {c.support:,}" for c in self.weakest()[:3] if c.main]
        found = counted(int(self.images.found.sum()), "object")
        false = counted(int(self.images.false.sum()), "false answer")
        rows += listed("Weakest AP", weakest)
        rows += [("At score", f"{self.threshold:.2f} and above: {found} found, {false}")]
        rows += listed("Most confused", [_in_words(pair) for pair in self.confused()[:3]] or ["nothing"])
        rows += [("Left out", f"{len(self.bad_images)} that cannot be used")] if self.bad_images else []
        lines = [f"{head:<19}{text}" for head, text in rows]
        return "\n".join([*lines, "In brackets: 95 % intervals, bootstrap over the images."])


def _in_words(pair: Mistaken) -> str:
    if pair.predicted == BACKGROUND:
        return f"{pair.truth} not found: {pair.objects:,} ({100 * pair.share:.0f} %)"
    if pair.truth == BACKGROUND:
        return f"{pair.predicted} where there is none: {pair.objects:,}"
    return f"{pair.truth} taken for {pair.predicted}: {pair.objects:,} ({100 * pair.share:.0f} %)"
