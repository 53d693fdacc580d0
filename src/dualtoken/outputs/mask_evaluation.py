"""What an evaluation of semantic segmentation measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.outputs.common import Bin, Interval, Metric, listed
from dualtoken.words import counted

SEGMENTATION_METRICS = {
    "miou": Metric("Mean IoU", True, "mean over the classes of the IoU of their pixels"),
    "boundary_iou": Metric(
        "Boundary IoU", True, "the same, of the pixels near an edge only: within 2 % of the image's diagonal"
    ),
    "pixel_accuracy": Metric("Pixel accuracy", True, "share of pixels whose class is right"),
}


@dataclass(frozen=True)
class RegionScores:
    """How well the pixels of one class are told apart.

    Attributes:
        name: of the class.
        support: its pixels.
        share: of all labelled pixels, in [0, 1].
        iou, boundary_iou: with intervals; None where the class occurs neither in truth nor in answers.
    """

    name: str
    support: int
    share: float
    iou: Interval | None
    boundary_iou: Interval | None


@dataclass(frozen=True, eq=False)
class PixelScores:
    """One number an image, N images in the order of the split; images without a labelled pixel are not among them.

    Attributes:
        index: (N,) int64, place in the samples of the split.
        miou: (N,) float64, mean IoU over the classes in truth or answer of this image.
        pixel_accuracy: (N,) float64, share of its labelled pixels whose class is right.
    """

    index: NDArray[np.int64]
    miou: NDArray[np.float64]
    pixel_accuracy: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class MistakenPixels:
    """`pixels` pixels of `truth`, that is the `share` of its pixels, were taken for `predicted`."""

    truth: str
    predicted: str
    pixels: int
    share: float


@dataclass(frozen=True, eq=False)
class SegmentationEvaluation:
    """What `evaluate` measured of the classes of pixels. Pixels without a label count nowhere.

    Attributes:
        task: `semantic_segmentation`.
        model: path of the model folder, or the architecture's name.
        source, split: the data set's path and the name of its split.
        classes: K class names.
        metrics: keys of `SEGMENTATION_METRICS` with their intervals.
        per_class: one for each class, in the order of `classes`.
        confusion: (K, K) int64 numbers of pixels; a row is a true class, a column an answer.
        reliability: bins of the confidence that hold pixels (`Bin.images` counts pixels), lowest first; none where
            the answers tell no confidence.
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
    per_class: tuple[RegionScores, ...]
    confusion: NDArray[np.int64]
    reliability: tuple[Bin, ...]
    images: PixelScores
    bad_images: tuple[tuple[str, str], ...]
    seed: int
    resamples: int

    @property
    def n(self) -> int:
        """Number of images evaluated."""
        return len(self.images)

    def best(self) -> NDArray[np.int64]:
        """(N,) places in `images`, highest mean IoU first."""
        return np.argsort(-self.images.miou, kind="stable")

    def worst(self) -> NDArray[np.int64]:
        """(N,) places in `images`, lowest mean IoU first."""
        return np.argsort(self.images.miou, kind="stable")

    def confused(self) -> list[MistakenPixels]:
        """Every pair of classes that was confused, most pixels first."""
        counts = self.confusion.copy()
        np.fill_diagonal(counts, 0)
        rows, columns = np.nonzero(counts)
        order = np.argsort(-counts[rows, columns], kind="stable")
        support = self.confusion.sum(axis=1)
        return [
            MistakenPixels(
                self.classes[row],
                self.classes[column],
                int(counts[row, column]),
                float(counts[row, column] / support[row]),
            )
            for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
        ]

    def weakest(self) -> list[RegionScores]:
        """Classes that have pixels, lowest IoU first."""
        return sorted(
            (c for c in self.per_class if c.support and c.iou), key=lambda c: (c.iou.value if c.iou else 0, c.name)
        )

    def headline(self) -> dict[str, Any]:
        """What a model's `config.json` keeps: split, number of images, and the metrics with intervals."""
        metrics = {name: asdict(interval) for name, interval in self.metrics.items()}
        return {"split": self.split, "images": self.n, "interval": "bootstrap over images, 95 %", **metrics}

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values, for `evaluation.json`. `per_class` and `confused` hold the whole confusion."""
        return {
            "task": self.task,
            "model": self.model,
            "source": self.source,
            **self.headline(),
            "bootstrap": {"seed": self.seed, "resamples": self.resamples},
            "per_class": [
                asdict(scores) | {"correct": int(self.confusion[place, place])}
                for place, scores in enumerate(self.per_class)
            ],
            "confused": [asdict(pair) for pair in self.confused()],
            "reliability": [asdict(part) for part in self.reliability],
            "bad_images": [{"path": path, "reason": reason} for path, reason in self.bad_images],
        }

    def summary(self) -> str:
        """A few lines for the terminal, without colour."""
        classes = counted(len(self.classes), "class", "classes")
        rows = [("Images", f"{self.n:,} of {classes}, split {self.split!r} of {self.source}")]
        rows += [
            (SEGMENTATION_METRICS[name].title, SEGMENTATION_METRICS[name].write(interval))
            for name, interval in self.metrics.items()
        ]
        weakest = [
            f"{c.name}: {100 * c.iou.value:.0f} %, {100 * c.share:.1f} % of the pixels"
            for c in self.weakest()[:3]
            if c.iou
        ]
        confused = [
            f"{p.truth} taken for {p.predicted}: {100 * p.share:.0f} % of its pixels" for p in self.confused()[:3]
        ]
        rows += listed("Weakest IoU", weakest)
        rows += listed("Most confused", confused or ["nothing: every pixel is right"])
        rows += [("Left out", f"{len(self.bad_images)} that cannot be used")] if self.bad_images else []
        lines = [f"{head:<19}{text}" for head, text in rows]
        return "\n".join([*lines, "In brackets: 95 % intervals, bootstrap over the images."])
