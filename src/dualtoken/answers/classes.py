"""Classes: one of them for the whole image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.agreement import ClassAgreement
from dualtoken.answers.class_meter import METRICS, ClassMeter, ClassScores, PerImage
from dualtoken.answers.evaluation import Evaluation
from dualtoken.answers.kinds import CLASSIFIER, Card, Described, Kind, Size, register, require_shape
from dualtoken.data import ImageData, Samples
from dualtoken.engines import Engine, outputs_of
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import Classification, Interval, Metric
from dualtoken.postprocess import require_finite, softmax
from dualtoken.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from dualtoken.report.page import Block, Section, Shown

_MISTAKES, _CONFUSED, _WEAKEST = 24, 12, 10  # shown in a report


@register
class Classes(Kind):
    """Logits (B, K) become probabilities that sum to 1."""

    name = CLASSIFIER
    leading = "top1"
    right_or_wrong = True
    class_title = "F1"
    nothing_confused = "nothing: every image is right"
    forms: ClassVar[tuple[str, ...]] = ("jsonl", "csv", "parquet")
    screen_columns: ClassVar[tuple[str, ...]] = ("Class", "Confidence", "Next")
    headlines: ClassVar[tuple[str, ...]] = ("top1",)
    card = Card(
        "image-classification",
        "says which of its classes a picture shows",
        "Every picture gets one of these classes, also one that shows none of them: there is no class"
        ' "something else", and a high score does not rule it out.',
        'print(model.predict("photo.jpg").label)',
    )
    model_api = "Classification"
    options = frozenset({"sheet"})

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`class_meter.METRICS`."""
        return METRICS

    # ---------------------------------------------------------------- answers and their judgement

    def outputs(self, config: Described, engine: Engine, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, K), before the temperature."""
        (logits,) = outputs_of(engine, "network", [images], 1)
        require_shape(logits, (len(images), len(config.classes)), 2)
        require_finite(logits)
        return logits

    def read(self, config: Described, raw: NDArray[np.float32], sizes: Sequence[Size]) -> list[Classification]:
        require_finite(raw)
        probabilities = softmax(raw, config.temperature)
        return [Classification(config.classes, *row) for row in zip(probabilities, [None] * len(raw), raw, strict=True)]

    def agreement(self, config: Described, limit: float) -> ClassAgreement:
        return ClassAgreement(limit)

    def meter(self, config: Described) -> ClassMeter:
        return ClassMeter(config.classes, config.temperature)

    def truth(self, samples: Samples, row: int, limits: ImageLimits = DEFAULT_LIMITS) -> int:
        """Index of the right class."""
        return int(samples.labels[row])

    def size(self, samples: Any, row: int) -> Size:
        """It does not matter here, and labels of classes do not know it."""
        return 1, 1

    def worst(self, images: PerImage) -> NDArray[np.int64]:
        """Wrong ones, the highest confidence first; the others do not belong to them."""
        wrong = np.flatnonzero(~images.correct)
        return wrong[np.argsort(-images.score[wrong], kind="stable")]

    def best(self, images: PerImage) -> NDArray[np.int64]:
        """Right ones, the highest confidence first."""
        right = np.flatnonzero(images.correct)
        return right[np.argsort(-images.score[right], kind="stable")]

    def class_score(self, scores: ClassScores) -> Interval | None:
        """F1."""
        return scores.f1

    # ---------------------------------------------------------------- telling

    def columns(self, top: int) -> list[str]:
        others = [f"{name}_{place}" for place in range(2, top + 1) for name in ("label", "score")]
        return ["label", "score", *others]

    def cells(self, answer: Classification, top: int) -> list[dict[str, Any]]:
        row: dict[str, Any] = {"label": answer.label, "score": answer.score}
        for place, (label, score) in enumerate(answer.top(top)[1:], start=2):
            row |= {f"label_{place}": label, f"score_{place}": score}
        return [row]

    def screen_cells(self, answer: Classification, top: int) -> tuple[str, ...]:
        others = ", ".join(f"{label} {score:.1%}" for label, score in answer.top(top)[1:])
        return answer.label, f"{answer.score:.1%}", others

    def draw(self, image: Image.Image, answer: Any, *, inside: bool = False) -> Image.Image | None:
        from dualtoken.report.sheets import contact_sheet

        return contact_sheet([(image, answer, None)])

    def arrays(self, answers: Sequence[Classification]) -> dict[str, NDArray[Any]]:
        """`probabilities` (N, K)."""
        return {"probabilities": np.array([answer.probabilities for answer in answers], np.float32)}

    def rows(self, evaluation: Evaluation) -> list[dict[str, Any]]:
        images, classes = evaluation.images, evaluation.classes
        arrays = (images.label, images.predicted, images.score, images.true_score)
        return [
            {"truth": classes[truth], "label": classes[label], "score": score, "truth_score": true_score,
             "correct": int(truth == label)}
            for truth, label, score, true_score in zip(*(array.tolist() for array in arrays), strict=True)
        ]  # fmt: skip

    def figures(self, evaluation: Evaluation) -> dict[str, Figure]:
        from dualtoken.report import score_plots

        assert evaluation.confusion is not None
        images = counted(evaluation.n, "image")
        return {
            "confusion": score_plots.confusion_plot(evaluation.confusion, evaluation.classes, images),
            "reliability": score_plots.reliability_plot(evaluation.reliability, images=evaluation.n),
        }

    def split_table(self, data: ImageData) -> Block:
        from dualtoken.report.page import table

        rows = []
        for name, samples in data.splits.items():
            counts = samples.counts(len(data.classes))
            ends = [f"{data.classes[int(place)]} ({counts[place]:,})" for place in (counts.argmin(), counts.argmax())]
            equal = [f"{counts.min():,} in each class", ""]
            rows.append((name, f"{len(samples):,}", *(equal if counts.min() == counts.max() else ends)))
        return table(["Split", "Images", "Smallest class", "Largest class"], rows)

    def sections(self, shown: Shown, figures: Mapping[str, Figure]) -> list[Section]:
        from dualtoken.report.page import Section, gallery, heading, table, text
        from dualtoken.report.page import figures as drawn
        from dualtoken.report.score_plots import confusion_blocks

        evaluation: Evaluation = shown.evaluation
        wrong = evaluation.worst()
        some = wrong[:_MISTAKES].tolist()
        if not some:
            mistakes = [text(f"None: all {evaluation.n:,} images are right.")]
        else:
            which = "All of them, the highest confidence first." if len(some) == len(wrong) else (
                f"These {len(some)} have the highest confidence.")  # fmt: skip
            about = f"{len(wrong):,} of {evaluation.n:,} images are wrong. {which} Some may be labels to correct."
            mistakes = [text(about, soft=True), gallery(list(_mistakes(shown, some)))]
        pairs = [
            (pair.truth, pair.predicted, f"{pair.count:,}", f"{100 * pair.share:.1f} %")
            for pair in evaluation.confused()[:_CONFUSED]
        ]
        confused = table(["Ground truth", "taken for", "Images", "Share of the class"], pairs, names=2)
        reliability = text(
            "Points below the dashed line are predictions with more confidence than they deserve. Bars are the 95 %"
            " interval for the images of a bin. Confidence is the softmax of the logits divided by the temperature"
            f" {evaluation.settings['temperature']:.3f}.",
            soft=True,
        )
        return [
            Section("Worst mistakes", mistakes),
            Section("Classes", _class_tables(shown, evaluation.weakest())),
            Section(
                "Confusion",
                confusion_blocks(figures["confusion"], len(evaluation.names))
                + ([heading("Most confused"), confused] if pairs else []),
            ),
            Section("Reliability", [drawn({"Reliability": figures["reliability"]}), reliability]),
        ]


def _class_tables(page: Shown, weakest: Sequence[ClassScores]) -> list[Block]:
    """The weakest classes; of many the rest is folded away."""
    from dualtoken.report.page import details, table, text

    def shown(classes: Sequence[ClassScores]) -> Block:
        rows = [(c.name, f"{c.support:,}", f"{c.correct:,}", c.f1, c.precision, c.recall) for c in classes]
        columns, filled = page.with_trained(["Class", "Images", "Right", "F1", "Precision", "Recall"], rows)
        return table(columns, filled, bar=columns.index("F1"), wide=True)

    if len(weakest) <= 2 * _WEAKEST:
        return [shown(weakest)]
    return [
        text(f"The {_WEAKEST} with the lowest F1.", soft=True),
        shown(weakest[:_WEAKEST]),
        details(f"All {len(weakest)} classes with images", shown(weakest)),
    ]


def _mistakes(shown: Shown, places: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The wrong predictions with their pictures."""
    images, classes = shown.evaluation.images, shown.evaluation.classes
    for place in places:
        yield shown.example(
            int(images.index[place]),
            [
                ("Prediction", classes[images.predicted[place]], "answer", f"{100 * images.score[place]:.0f} %"),
                ("Truth", classes[images.label[place]], "truth", f"{100 * images.true_score[place]:.0f} %"),
            ],
        )
