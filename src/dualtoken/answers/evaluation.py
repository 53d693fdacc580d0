"""What `evaluate` measured: one result for every kind of answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.kinds import Kind, kind_of
from dualtoken.outputs import Bin, Interval

BACKGROUND = "background"  # where there is no object, or none was found: the last row and column of its confusion


@dataclass(frozen=True)
class Confused:
    """`count` images, objects or pixels of `truth`, that is the `share` of its own, were taken for `predicted`.

    Of objects either may be `BACKGROUND`: found where there is none, or not found.
    """

    truth: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        task: key in `KINDS`.
        model: path of the model folder, or the architecture's name.
        source, split: the data set's path and the name of its split.
        classes: K class names.
        metrics: keys of `kind.metrics` with their intervals; without those that these images cannot tell.
        per_class: one for each class, in the order of `classes`, with `name`, `support` and its scores: `ClassScores`,
            `ObjectScores`, `RegionScores`.
        images: arrays with one number an image, N images in the order of the split, `index` among them: `PerImage`,
            `ObjectCounts`, `PixelScores`.
        bad_images: (path, reason) of the images left out.
        seed, resamples: of the bootstrap that gave the intervals.
        confusion: int64 counts, a row is a true class, a column a prediction: (K, K) images or pixels, or (K + 1,
            K + 1) objects with `BACKGROUND` last; None for a kind that confuses nothing.
        reliability: bins of the score that hold something, lowest first.
        curves: (K, 101) float32, precision at recall 0, 0.01, ... 1 and IoU 0.5; NaN for classes without objects.
        settings: what the numbers hold for, such as `temperature` or `threshold`; JSON-friendly.
    """

    task: str
    model: str
    source: str
    split: str
    classes: tuple[str, ...]
    metrics: dict[str, Interval]
    per_class: tuple[Any, ...]
    images: Any
    bad_images: tuple[tuple[str, str], ...]
    seed: int
    resamples: int
    confusion: NDArray[np.int64] | None = None
    reliability: tuple[Bin, ...] = ()
    curves: NDArray[np.float32] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """How it is told and drawn."""
        return kind_of(self.task)

    @property
    def n(self) -> int:
        """Number of images evaluated."""
        return len(self.images.index)

    @property
    def leading(self) -> Interval:
        """The metric that models of this kind are judged by."""
        return self.metrics[self.kind.leading]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows and columns of `confusion`."""
        return (*self.classes, *[BACKGROUND] * (self.confusion is not None and len(self.confusion) > len(self.classes)))

    def confused(self) -> list[Confused]:
        """Every mistake between two classes, most frequent first."""
        if self.confusion is None:
            return []
        counts, total = self.confusion.copy(), self.confusion.sum(axis=1)
        np.fill_diagonal(counts, 0)
        rows, columns = np.nonzero(counts)
        order = np.argsort(-counts[rows, columns], kind="stable")
        return [
            Confused(self.names[i], self.names[k], int(counts[i, k]), float(counts[i, k] / total[i]))
            for i, k in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
        ]

    def weakest(self) -> list[Any]:
        """Classes that occur, the lowest leading score first."""
        known = [(self.kind.class_score(scores), scores) for scores in self.per_class if scores.support]
        return [scores for score, scores in sorted(
            ((score.value, scores) for score, scores in known if score), key=lambda pair: (pair[0], pair[1].name)
        )]  # fmt: skip

    def worst(self) -> NDArray[np.int64]:
        """(N,) places in `images`, the worst first."""
        return self.kind.worst(self.images)

    def best(self) -> NDArray[np.int64]:
        """(N,) places in `images`, the best first."""
        return self.kind.best(self.images)

    def headline(self) -> dict[str, Any]:
        """What a model's `config.json` keeps: split, number of images, and the metrics with intervals."""
        metrics = {name: asdict(interval) for name, interval in self.metrics.items()}
        return {"split": self.split, "images": self.n, "interval": "bootstrap over images, 95 %", **metrics}

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values, for `evaluation.json`.

        `per_class` and `confused` hold the whole confusion but what the background is taken for itself, which nobody
        can count. `curves` has a list of 101 precisions for each class that has objects.
        """
        content = {
            "task": self.task, "model": self.model, "source": self.source, **self.headline(),
            "bootstrap": {"seed": self.seed, "resamples": self.resamples}, **self.settings,
            "per_class": [self._class_row(place) for place in range(len(self.per_class))],
            "confused": [
                {"truth": pair.truth, "predicted": pair.predicted, self.kind.counts: pair.count, "share": pair.share}
                for pair in self.confused()
            ],
            "reliability": [asdict(part) for part in self.reliability],
            "bad_images": [{"path": path, "reason": reason} for path, reason in self.bad_images],
        }  # fmt: skip
        if self.curves is not None:
            content["curves"] = {
                name: [round(value, 4) for value in curve]
                for name, curve in zip(self.classes, self.curves.tolist(), strict=True)
                if curve[0] == curve[0]
            }
        return content

    def _class_row(self, place: int) -> dict[str, Any]:
        row = asdict(self.per_class[place])
        return row if self.confusion is None else row | {"correct": int(self.confusion[place, place])}

    def summary(self) -> str:
        """A few lines for the terminal, without colour."""
        kind = self.kind
        rows = [("Images", f"{kind.content(self)}, split {self.split!r} of {self.source}")]
        rows += [(kind.metrics[name].title, kind.metrics[name].write(value)) for name, value in self.metrics.items()]
        rows += _listed(f"Weakest {kind.class_title}", [kind.tell_class(scores) for scores in self.weakest()[:3]])
        rows += kind.tell_more(self)
        if self.confusion is not None:
            pairs = [kind.tell_confused(pair) for pair in self.confused()[:3]]
            rows += _listed("Most confused", pairs or [kind.nothing_confused])
        rows += [("Left out", f"{len(self.bad_images)} that cannot be used")] if self.bad_images else []
        lines = [f"{head:<19}{text}" for head, text in rows]
        return "\n".join([*lines, "In brackets: 95 % intervals, bootstrap over the images."])


def _listed(head: str, texts: list[str]) -> list[tuple[str, str]]:
    """Rows of a summary: the head stands before the first text only."""
    return [(head if number == 0 else "", text) for number, text in enumerate(texts)]
