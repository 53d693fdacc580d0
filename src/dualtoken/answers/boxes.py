"""Boxes: where the objects are, and of which class; instances: with a mask each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.agreement import ObjectAgreement
from dualtoken.answers.box_meter import SIZES, BoxMeter, InstanceMeter, ObjectCounts, ObjectScores, metrics_of
from dualtoken.answers.evaluation import BACKGROUND, Confused, Evaluation
from dualtoken.answers.kinds import Card, Described, Kind, Size, register
from dualtoken.data import ImageData, Objects, ObjectSamples
from dualtoken.decode import MAX_DETECTIONS, DetectorSpec, Found, detect, most_objects
from dualtoken.engines import Engine
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import Detections, Interval, Metric
from dualtoken.postprocess import place_masks, require_finite
from dualtoken.preprocess import Preprocessing
from dualtoken.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from dualtoken.report.page import Block, Section, Shown

_EDGES = ("left", "top", "right", "bottom")


@register
class Boxes(Kind):
    """Boxes of the network's input become boxes of the image.

    Attributes:
        masks: whether objects have masks.
    """

    name = "detection"
    batch = 16
    leading = "ap"
    counts = "objects"
    class_title = "AP"
    image_score = "f1"
    image_score_title = "F1"
    forms: ClassVar[tuple[str, ...]] = ("coco", "yolo", "csv", "parquet", "jsonl")
    headlines: ClassVar[tuple[str, ...]] = ("ap50", "ap")
    card = Card(
        "object-detection",
        "finds objects of its classes and draws a box around each",
        "What is of no class that it knows it does not find, or takes for something that looks like it.",
        extras="train,detection",
    )
    options = frozenset({"form", "pictures", "threshold", "tile"})
    masks = False

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`box_meter.METRICS`, of boxes and where there are some of masks."""
        return metrics_of(self.masks)

    # ---------------------------------------------------------------- answers and their judgement

    def outputs(self, config: Described, engine: Engine, images: NDArray[np.float32]) -> list[Found]:
        """What `decode.detect` gives: boxes of the input, an entry an image."""
        return detect(_spec(config), engine, images)

    def read(self, config: Described, raw: Sequence[Found], sizes: Sequence[Size]) -> list[Detections]:
        return [
            _placed(config.classes, found, size, config.preprocessing) for found, size in zip(raw, sizes, strict=True)
        ]

    def shown(self, config: Described, answer: Detections, threshold: float | None) -> Detections:
        return answer.above(config.threshold if threshold is None else threshold)

    def agreement(self, config: Described, limit: float) -> ObjectAgreement:
        return ObjectAgreement(limit, _spec(config), config.threshold)

    def meter(self, config: Described) -> BoxMeter:
        """It counts all that the model may give, and at least as many as COCO."""
        return BoxMeter(config.classes, max(MAX_DETECTIONS, config.head_args.get("max_detections", 0)))

    def limited(self, config: Any, max_objects: int) -> Any:
        return replace(config, head_args=config.head_args | most_objects(max_objects))

    def truth(self, samples: ObjectSamples, row: int, limits: ImageLimits = DEFAULT_LIMITS) -> Objects:
        """The objects of an image."""
        return samples.objects(row)

    def worst(self, images: ObjectCounts) -> NDArray[np.int64]:
        """Lowest F1 first; among equals those with more mistakes."""
        return np.lexsort((-(images.objects - images.found + images.false), images.f1))

    def best(self, images: ObjectCounts) -> NDArray[np.int64]:
        """Highest F1 first; among equals those with more objects."""
        return np.lexsort((-images.objects, -images.f1))

    def class_score(self, scores: ObjectScores) -> Interval | None:
        """AP of masks where they were measured, else of boxes."""
        return scores.main

    # ---------------------------------------------------------------- telling

    def columns(self, top: int) -> list[str]:
        return ["label", "score", *_EDGES]

    def cells(self, answer: Detections, top: int) -> list[dict[str, Any]]:
        return [
            {"label": label, "score": score} | {edge: f"{place:.2f}" for edge, place in zip(_EDGES, box, strict=True)}
            for label, score, box in zip(answer.names(), answer.scores.tolist(), answer.boxes.tolist(), strict=True)
        ]

    def draw(self, image: Image.Image, answer: Any, *, inside: bool = False) -> Image.Image:
        from dualtoken.report.pictures import draw

        return draw(image, answer, legend="inside" if inside else "below")

    def arrays(self, answers: Sequence[Detections]) -> dict[str, NDArray[Any]]:
        """Of M objects in all `boxes` (M, 4), `scores` and `labels` (M,); `counts` (N,): how many an image has."""
        return {
            "boxes": np.concatenate([np.zeros((0, 4), np.float32), *[answer.boxes for answer in answers]]),
            "scores": np.concatenate([np.zeros(0, np.float32), *[answer.scores for answer in answers]]),
            "labels": np.concatenate([np.zeros(0, np.int64), *[answer.labels for answer in answers]]),
            "counts": np.array([len(answer) for answer in answers], np.int64),
        }

    def content(self, evaluation: Evaluation) -> str:
        objects = counted(int(evaluation.images.objects.sum()), "object")
        return f"{evaluation.n:,} with {objects} of {counted(len(evaluation.classes), 'class', 'classes')}"

    def tell_confused(self, pair: Confused) -> str:
        if pair.predicted == BACKGROUND:
            return f"{pair.truth} not found: {pair.count:,} ({100 * pair.share:.0f} %)"
        if pair.truth == BACKGROUND:
            return f"{pair.predicted} where there is none: {pair.count:,}"
        return super().tell_confused(pair)

    def tell_more(self, evaluation: Evaluation) -> list[tuple[str, str]]:
        found = counted(int(evaluation.images.found.sum()), "object")
        false = counted(int(evaluation.images.false.sum()), "false positive")
        rows = [("At confidence", f"{evaluation.settings['threshold']:.2f} and above: {found} found, {false}")]
        most, crowded = (
            evaluation.settings.get("max_objects", 0),
            int((evaluation.images.objects > MAX_DETECTIONS).sum()),
        )
        if crowded or most > MAX_DETECTIONS:
            more = f"{counted(crowded, 'image holds', 'images hold')} more than COCO's {MAX_DETECTIONS}"
            rows.append(("Counted", f"up to {most} of a class in an image; {more}: --max-objects N"))
        return rows

    def figures(self, evaluation: Evaluation) -> dict[str, Figure]:
        from dualtoken.report import score_plots

        assert evaluation.confusion is not None
        assert evaluation.curves is not None
        classes, per_class, confusion = evaluation.classes, evaluation.per_class, evaluation.confusion
        support = [scores.support for scores in per_class]
        title = f"{counted(int(confusion[:-1].sum()), 'object')}, {counted(int(confusion[:, :-1].sum()), 'detection')}"
        figures = {
            "classes": score_plots.class_scores_plot(
                classes, [scores.main for scores in per_class], metric=self.metrics[self.leading].title,
                counts=[f"{number:,}" for number in support],
            ),
            "curves": score_plots.precision_recall_plot(
                evaluation.curves, classes, [scores.ap50 for scores in per_class], support,
                evaluation.metrics.get("ap50"),
            ),
            "confusion": score_plots.confusion_plot(confusion, evaluation.names, title, background=True),
        }  # fmt: skip
        if evaluation.reliability:
            figures["reliability"] = score_plots.reliability_plot(
                evaluation.reliability, images=sum(part.images for part in evaluation.reliability),
                counted="detections",
            )  # fmt: skip
        return figures

    def label_figures(self, samples: ObjectSamples, classes: Sequence[str], limits: ImageLimits) -> dict[str, Figure]:
        from dualtoken.report.label_plots import object_label_plots

        return object_label_plots(samples, classes)

    def split_table(self, data: ImageData) -> Block:
        from dualtoken.report.page import table

        rows = []
        for name, samples in data.splits.items():
            objects, empty = int((~samples.crowd).sum()), int((np.diff(samples.offsets) == 0).sum())
            counts = (len(samples), objects, objects / max(len(samples), 1), empty, int(samples.crowd.sum()))
            rows.append((name, *(f"{count:,}" if isinstance(count, int) else f"{count:.1f}" for count in counts)))
        return table(["Split", "Images", "Objects", "per image", "Images without any", "Crowds"], rows)

    def blocks(self, evaluation: Evaluation) -> list[Block]:
        """Average precision by the size of the objects."""
        from dualtoken.report.page import heading, table

        kinds = {"boxes": "", "masks": "mask_"} if self.masks else {"boxes": ""}
        rows: list[Any] = [
            (name, *(evaluation.metrics.get(f"{prefix}ap_{size}") for size in SIZES)) for name, prefix in kinds.items()
        ]
        if not any(score for row in rows for score in row[1:]):
            return []
        columns = ["Average precision of", *(f"{name} {area}" for name, area in SIZES.items())]
        return [heading("By the size of the objects"), table(columns, rows)]

    def sections(self, shown: Shown, figures: Mapping[str, Figure]) -> list[Section]:
        from dualtoken.report.extremes import best_and_worst
        from dualtoken.report.page import Section, details, heading, table, text
        from dualtoken.report.page import figures as drawn
        from dualtoken.report.plots import percent_text
        from dualtoken.report.score_plots import confusion_blocks

        evaluation: Evaluation = shown.evaluation
        images, threshold = evaluation.images, f"{evaluation.settings['threshold']:.2f}"
        rows: list[Any] = [
            (c.name, f"{c.support:,}", f"{c.detections:,}", c.ap, c.ap50, *((c.mask_ap, c.mask_ap50) * self.masks))
            for c in evaluation.per_class
        ]
        columns = ["Class", "Objects", "Detections", "Box AP", "Box AP50", *["Mask AP", "Mask AP50"] * self.masks]
        pairs: list[Any] = [
            (
                "nothing there" if pair.truth == BACKGROUND else pair.truth,
                "not found" if pair.predicted == BACKGROUND else pair.predicted,
                f"{pair.count:,}",
                None if pair.truth == BACKGROUND else percent_text(pair.share),
            )
            for pair in evaluation.confused()[:12]
        ]
        confused = table(["Ground truth", "Detection", "Objects", "Share of the class"], pairs, names=2)
        sections = [
            *best_and_worst(shown, f", with the objects of confidence {threshold} and above"),
            Section("Classes", [
                drawn({"Scores of the classes, as in the table below": figures["classes"]}),
                text("In brackets: the number of objects. Classes without objects have no score. Lines are 95 %"
                     " intervals.", soft=True),
                details(f"All {len(rows)} classes as numbers", table(columns, rows, wide=True)),
            ]),
            Section("Precision and recall", [
                drawn({"Precision against recall of the classes": figures["curves"]}),
                text("From the highest confidence to the lowest: how many objects are found, and how many of the"
                     " detections are right. The area below a curve is the AP50 of its class. The classes with most"
                     " objects have names.", soft=True),
            ]),
            Section("Confusion", [
                text(f"At confidence {threshold} and above: {images.found.sum():,} of {images.objects.sum():,} objects"
                     f" are found, and {images.false.sum():,} detections are false positives."),
                *confusion_blocks(
                    figures["confusion"], len(evaluation.names),
                    "Boxes that overlap by IoU 0.5 or more. The last column has the objects that were not found, the"
                    " last row the false positives. Blue and the last column are coloured by the share of the true"
                    " class, the last row by the share of the detections of its class.",
                ),
                *([heading("Most frequent mistakes"), confused] if pairs else []),
            ]),
        ]  # fmt: skip
        if "reliability" in figures:
            note = (
                "Points below the dashed line are detections with more confidence than they deserve. A detection is"
                " right if it overlaps an object of its class by IoU 0.5 or more. Bars are the 95 % interval for the"
                " detections of a bin."
            )
            sections.append(
                Section("Reliability", [drawn({"Reliability": figures["reliability"]}), text(note, soft=True)])
            )
        return sections


@register
class Instances(Boxes):
    """As boxes, with a mask for each object."""

    name = "instance_segmentation"
    leading = "mask_ap"
    headlines = ("ap50", "mask_ap50", "mask_ap")
    card = Card(
        "image-segmentation",
        "finds objects of its classes and outlines each",
        "What is of no class that it knows it does not find, or takes for something like it.",
        extras="train,detection",
    )
    forms = ("coco", "yolo", "masks", "csv", "parquet", "jsonl")
    masks = True

    def meter(self, config: Described) -> InstanceMeter:
        return InstanceMeter(config.classes, super().meter(config).most)


def _spec(config: Described) -> DetectorSpec:
    return DetectorSpec.of(config.head, len(config.classes), config.head_args)


def _placed(classes: tuple[str, ...], found: Found, size: Size, preprocessing: Preprocessing) -> Detections:
    require_finite(found["boxes"], found["scores"])
    height, width = size
    boxes = preprocessing.placement(size).to_image(found["boxes"])
    inside = boxes.clip(0, np.array([width, height, width, height], np.float32))
    good = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])  # not all in the border
    masks, corners = (
        place_masks(found["masks"][good], boxes[good], size) if "masks" in found else (None, None)
    )  # of the whole boxes: a mask lies where its box did, before the image cuts it
    scores, labels = found["scores"][good].clip(0, 1), found["labels"][good].astype(np.int64)
    return Detections(classes, size, inside[good], scores, labels, masks, corners)
