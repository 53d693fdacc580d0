"""Labels: any number of classes for the whole image, also none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.agreement import LabelAgreement
from dualtoken.answers.classes import Classes
from dualtoken.answers.evaluation import Evaluation
from dualtoken.answers.kinds import Card, Described, Kind, Size, register
from dualtoken.answers.label_calibration import label_probabilities
from dualtoken.answers.label_meter import METRICS, LabelMeter, LabelScores
from dualtoken.data import Samples
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import Interval, Labels, Metric
from dualtoken.postprocess import require_finite
from dualtoken.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dualtoken.report.page import Section, Shown

_MISTAKES = 24  # shown in a report


@register
class MultiLabel(Classes):
    """Logits (B, K) become a probability for each class by itself; what reaches the threshold of its class is found."""

    name = "multilabel"
    leading = "map"
    right_or_wrong = False
    exclusive = False
    class_title = "AP"
    image_score = "f1"
    image_score_title = "F1 of its labels"
    forms = ("csv", "parquet", "jsonl", "label_list")
    screen_columns = ("Labels",)
    headlines = ("map", "macro_f1", "micro_f1")
    card = Card(
        "image-classification",
        "says which of its classes a picture shows: any number of them, or none",
        "Each class has a threshold of its own, chosen for the best F1 on validation images: where finding too much is"
        " worse than missing something, or the other way round, choose another.",
        'print(model.predict("photo.jpg").labels)',
    )
    options = frozenset({"form", "threshold"})
    worst, best, draw = Kind.worst, Kind.best, Kind.draw

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`label_meter.METRICS`."""
        return METRICS

    # ---------------------------------------------------------------- answers and their judgement

    def read(self, config: Described, raw: NDArray[np.float32], sizes: Sequence[Size]) -> list[Any]:
        require_finite(raw)
        limits = label_thresholds(config)
        probabilities = label_probabilities(raw, config.temperature, config.offsets)
        return [
            Labels(config.classes, row, limits, None, logits) for row, logits in zip(probabilities, raw, strict=True)
        ]

    def shown(self, config: Described, answer: Labels, threshold: float | None) -> Labels:
        return answer if threshold is None else answer.above(threshold)

    def agreement(self, config: Described, limit: float) -> Any:
        return LabelAgreement(limit, label_thresholds(config))

    def meter(self, config: Described) -> Any:
        return LabelMeter(config.classes)

    def truth(self, samples: Samples, row: int, limits: ImageLimits = DEFAULT_LIMITS) -> Any:
        """(K,) bool, which classes the image has."""
        return samples.labels[row]

    def class_score(self, scores: Any) -> Interval | None:
        """Average precision."""
        return scores.ap

    # ---------------------------------------------------------------- telling

    def content(self, evaluation: Evaluation) -> str:
        labels = counted(int(evaluation.images.truth.sum()), "label")
        return f"{evaluation.n:,} with {labels} of {counted(len(evaluation.classes), 'class', 'classes')}"

    def columns(self, top: int) -> list[str]:
        return ["label", "score"]

    def cells(self, answer: Labels, top: int) -> list[dict[str, Any]]:  # type: ignore[override]
        return [{"label": label, "score": score} for label, score in answer.labels]

    def screen_cells(self, answer: Any, top: int) -> tuple[str, ...]:
        return (answer.describe(),)

    def rows(self, evaluation: Evaluation) -> list[dict[str, Any]]:
        images, names = evaluation.images, np.array(evaluation.classes, object)
        return [
            {"truth": ";".join(names[truth]), "labels": ";".join(names[found]), "f1": f1}
            for truth, found, f1 in zip(images.truth, images.found, images.f1.tolist(), strict=True)
        ]

    def figures(self, evaluation: Evaluation) -> dict[str, Figure]:
        from dualtoken.report import score_plots

        return {
            "classes": score_plots.class_scores_plot(
                evaluation.classes, [scores.ap for scores in evaluation.per_class], metric="Average precision",
                counts=[f"{scores.support:,}" for scores in evaluation.per_class],
            ),
            "reliability": score_plots.reliability_plot(
                evaluation.reliability, images=evaluation.n * len(evaluation.classes), counted="probabilities",
                intervals=False,
            ),
        }  # fmt: skip

    def sections(self, shown: Shown, figures: Mapping[str, Figure]) -> list[Section]:
        from dualtoken.report.page import Section, details, gallery, table, text
        from dualtoken.report.page import figures as drawn

        evaluation: Evaluation = shown.evaluation
        wrong = [place for place in evaluation.worst().tolist() if evaluation.images.f1[place] < 1]
        about = f"{len(wrong):,} of {evaluation.n:,} images miss a label or have one too many; the worst first."
        rows: list[Any] = [
            (s.name, f"{s.support:,}", s.ap, s.f1, s.precision, s.recall, f"{s.threshold:.2f}", f"{100 * s.ece:.1f} %")
            for s in _by_score(evaluation)
        ]
        columns, rows = shown.with_trained(
            ["Class", "Images", "AP", "F1", "Precision", "Recall", "Threshold", "Calibration error"], rows
        )
        return [
            Section("Worst mistakes", [text(about, soft=True), gallery(list(_mistakes(shown, wrong[:_MISTAKES])))]),
            Section("Classes", [
                drawn({"Scores of the classes, as in the table below": figures["classes"]}),
                text("In brackets: the number of images with the class. Lines are 95 % intervals.", soft=True),
                details(f"All {len(rows)} classes as numbers", table(columns, rows, wide=True)),
            ]),
            Section("Reliability", [
                drawn({"Reliability": figures["reliability"]}),
                text("The probabilities of all classes of all images. Points below the dashed line are more confident"
                     " than they deserve.", soft=True),
            ]),
        ]  # fmt: skip


def label_thresholds(config: Described) -> NDArray[np.float32]:
    """(K,) those of the model, one for all where it has none for each class."""
    return np.array(config.thresholds or [config.threshold] * len(config.classes), np.float32)


def _by_score(evaluation: Evaluation) -> list[LabelScores]:
    """The weakest first, and last those that no image has."""
    known = evaluation.weakest()
    return [*known, *(scores for scores in evaluation.per_class if scores not in known)]


def _mistakes(shown: Shown, places: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Pictures with the labels that were missed, and those that were too many."""
    images, classes = shown.evaluation.images, shown.evaluation.classes
    for place in places:
        truth, found, chance = images.truth[place], images.found[place], images.probabilities[place]
        parts = (("Right", truth & found, "truth"), ("Missed", truth & ~found, "truth"),
                 ("Too many", found & ~truth, "answer"))  # fmt: skip
        lines = [
            (word, classes[label], style, f"{100 * chance[label]:.0f} %")
            for word, which, style in parts
            for label in np.flatnonzero(which).tolist()
        ]
        yield shown.example(int(images.index[place]), lines)
