"""The pages of detection and segmentation: what the labels hold, how training went, how well objects are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dualtoken.data import ImageData, MaskSamples, ObjectSamples
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import Interval
from dualtoken.outputs.mask_evaluation import SEGMENTATION_METRICS, SegmentationEvaluation
from dualtoken.outputs.object_evaluation import BACKGROUND, DETECTION_METRICS, SIZES, DetectionEvaluation
from dualtoken.report import plots, scene_plots
from dualtoken.report.html import frame, inline_figure, inline_image, write_page

SceneEvaluation = DetectionEvaluation | SegmentationEvaluation
Captioned = tuple[str, Image.Image]

TEMPLATE = "scene_report.html.j2"
_CONFUSED = 12
_PICTURE = (1280, 1280)


def scene_training_report(
    folder: str | Path,
    *,
    history: Sequence[Mapping[str, float]],
    evaluation: SceneEvaluation,
    data: ImageData,
    samples: ObjectSamples | MaskSamples,
    pictures: Sequence[Captioned] = (),
    batches: Sequence[Image.Image] = (),
    provenance: Mapping[str, Any],
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Path:
    """Write `folder/report.html` for a training run with objects or masks and return its path.

    Args:
        folder: of the run.
        history: the rows of `metrics.csv`, one an epoch: see `plots.curves`.
        evaluation: of the best model.
        data: all images of the run; what is labelled is drawn for its split `train`.
        samples: the split that `evaluation` is about.
        pictures: (caption, picture) of the best and worst images, truth beside answer.
        batches: augmented batches with their labels, such as `batch_mosaic` draws them.
        provenance: as in the model's config: `settings`, `versions`, `command`, all optional.
        limits: what an image may cost.

    Raises:
        OutputError: the page cannot be written.
    """
    labelled = _scenes(data).get("train", samples)
    page = _page("Training report", evaluation, data, labelled, pictures, provenance, limits)
    page["curves"] = [inline_figure(figure, title) for title, figure in plots.curves(history).items()]
    page["batches"] = [inline_image(batch, _PICTURE) for batch in batches]
    return write_page(folder, TEMPLATE, page)


def scene_evaluation_report(
    folder: str | Path,
    *,
    evaluation: SceneEvaluation,
    data: ImageData,
    samples: ObjectSamples | MaskSamples,
    pictures: Sequence[Captioned] = (),
    provenance: Mapping[str, Any],
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Path:
    """Write `folder/report.html` for an evaluation and return its path.

    Arguments as in `scene_training_report`; what is labelled is drawn for `samples`.
    """
    page = _page("Evaluation report", evaluation, data, samples, pictures, provenance, limits)
    return write_page(folder, TEMPLATE, page)


def scene_figures(evaluation: SceneEvaluation) -> dict[str, Figure]:
    """The figures of an evaluation, by the name that they have as files: all have `classes` and `confusion`.

    Objects have `curves`, precision against recall; `reliability` is there where answers have scores.
    """
    if isinstance(evaluation, DetectionEvaluation):
        return _object_figures(evaluation)
    return _region_figures(evaluation)


def _object_figures(evaluation: DetectionEvaluation) -> dict[str, Figure]:
    classes, per_class = evaluation.classes, evaluation.per_class
    metric = "mask_ap" if "mask_ap" in evaluation.metrics else "ap"
    figures = {
        "classes": scene_plots.class_scores_plot(
            classes,
            [scores.main for scores in per_class],
            metric=DETECTION_METRICS[metric].title,
            counts=[f"{scores.support:,}" for scores in per_class],
        ),
        "curves": scene_plots.precision_recall_plot(evaluation.curves, per_class, evaluation.metrics.get("ap50")),
        "confusion": scene_plots.object_confusion_plot(evaluation.confusion, classes),
    }
    if evaluation.reliability:
        answers = sum(part.images for part in evaluation.reliability)
        figures["reliability"] = plots.reliability_plot(evaluation.reliability, images=answers, counted="answers")
    return figures


def _region_figures(evaluation: SegmentationEvaluation) -> dict[str, Figure]:
    classes, per_class = evaluation.classes, evaluation.per_class
    figures = {
        "classes": scene_plots.class_scores_plot(
            classes,
            [scores.iou for scores in per_class],
            metric="IoU",
            counts=[scene_plots.percent_text(scores.share) for scores in per_class],
        ),
        "confusion": scene_plots.region_confusion_plot(evaluation.confusion, classes),
    }
    if evaluation.reliability:
        pixels = sum(part.images for part in evaluation.reliability)
        figures["reliability"] = plots.reliability_plot(
            evaluation.reliability, images=pixels, counted="pixels", intervals=False
        )
    return figures


# ---------------------------------------------------------------- what the template is filled with


def _page(
    kind: str,
    evaluation: SceneEvaluation,
    data: ImageData,
    labelled: ObjectSamples | MaskSamples,
    pictures: Sequence[Captioned],
    provenance: Mapping[str, Any],
    limits: ImageLimits,
) -> dict[str, Any]:
    """What both reports show."""
    figures = scene_figures(evaluation)
    labels = scene_plots.label_plots(labelled, data.classes, limits)
    own = _object_page(evaluation, figures) if isinstance(evaluation, DetectionEvaluation) else _region_page(evaluation)
    return (
        frame(kind, evaluation, provenance)
        | own
        | {
            **_splits(data),
            "notes": data.notes,
            "labelled": next((name for name, part in _scenes(data).items() if part is labelled), evaluation.split),
            "labels": [inline_figure(figure, title) for title, figure in labels.items()],
            "pictures": [{"caption": caption, "src": inline_image(image, _PICTURE)} for caption, image in pictures],
            "class_plot": inline_figure(figures["classes"], "Scores of the classes, as in the table below"),
            "confusion": inline_figure(figures["confusion"], "Confusion matrix"),
            "reliability": inline_figure(figures["reliability"], "Reliability") if "reliability" in figures else None,
        }
    )


def _object_page(evaluation: DetectionEvaluation, figures: Mapping[str, Figure]) -> dict[str, Any]:
    images, metrics = evaluation.images, evaluation.metrics
    masks = "mask_ap" in metrics
    by_size = {f"{prefix}ap_{size}" for prefix in ("", "mask_") for size in SIZES}
    sizes = {"boxes": "", "masks": "mask_"} if masks else {"boxes": ""}
    return {
        "metrics": [(DETECTION_METRICS[name], metrics[name]) for name in metrics if name not in by_size],
        "size_names": SIZES,
        "sizes": {
            name: [metrics.get(f"{prefix}ap_{size}") for size in SIZES]
            for name, prefix in sizes.items()
            if not by_size.isdisjoint(metrics)
        },
        "image_score": "F1",
        "threshold": f"{evaluation.threshold:.2f}",
        "objects": f"{images.objects.sum():,}",
        "found": f"{images.found.sum():,}",
        "invented": f"{images.false.sum():,}",
        "recall": inline_figure(figures["curves"], "Precision against recall of the classes"),
        "named": len(evaluation.classes) < plots.NAMED_CLASSES,
        "counted": "Objects",
        "confused": [
            {
                "truth": "nothing there" if pair.truth == BACKGROUND else pair.truth,
                "answer": "not found" if pair.predicted == BACKGROUND else pair.predicted,
                "count": f"{pair.objects:,}",
                "share": "–" if pair.truth == BACKGROUND else scene_plots.percent_text(pair.share),
            }
            for pair in evaluation.confused()[:_CONFUSED]
        ],
        "class_about": "In brackets: the number of objects. Classes without objects have no score.",
        "class_columns": ["Objects", "Answers", "Box AP", "Box AP50", *(["Mask AP", "Mask AP50"] if masks else [])],
        "class_rows": [
            _class_row(
                scores.name,
                (f"{scores.support:,}", f"{scores.detections:,}"),
                (scores.ap, scores.ap50, *((scores.mask_ap, scores.mask_ap50) if masks else ())),
            )
            for scores in evaluation.per_class
        ],
    }


def _region_page(evaluation: SegmentationEvaluation) -> dict[str, Any]:
    return {
        "metrics": [(SEGMENTATION_METRICS[name], interval) for name, interval in evaluation.metrics.items()],
        "sizes": {},
        "image_score": "mean IoU",
        "threshold": None,
        "named": len(evaluation.classes) <= plots.NAMED_CLASSES,
        "counted": "Pixels",
        "confused": [
            {
                "truth": pair.truth,
                "answer": pair.predicted,
                "count": plots.short_number(pair.pixels),
                "share": scene_plots.percent_text(pair.share),
            }
            for pair in evaluation.confused()[:_CONFUSED]
        ],
        "class_about": "In brackets: the share of the labelled pixels.",
        "class_columns": ["Pixels", "Share", "IoU", "Boundary IoU"],
        "class_rows": [
            _class_row(
                scores.name,
                (plots.short_number(scores.support), scene_plots.percent_text(scores.share)),
                (scores.iou, scores.boundary_iou),
            )
            for scores in evaluation.per_class
        ],
    }


def _class_row(name: str, counts: Sequence[str], scores: Sequence[Interval | None]) -> dict[str, Any]:
    return {"name": name, "counts": counts, "scores": scores}


def _scenes(data: ImageData) -> dict[str, ObjectSamples | MaskSamples]:
    splits: Mapping[str, object] = data.splits
    return {name: part for name, part in splits.items() if isinstance(part, ObjectSamples | MaskSamples)}


def _splits(data: ImageData) -> dict[str, Any]:
    """A table of the splits."""
    scenes = _scenes(data)
    objects = [(name, part) for name, part in scenes.items() if isinstance(part, ObjectSamples)]
    masks = [(name, part) for name, part in scenes.items() if isinstance(part, MaskSamples)]
    if objects:
        columns = ["Images", "Objects", "per image", "Images without any", "Crowds"]
        return {"split_columns": columns, "splits": [(name, _object_counts(part)) for name, part in objects]}
    return {
        "split_columns": ["Images", "Median size"],
        "splits": [(name, (f"{len(part):,}", _median_size(part))) for name, part in masks],
    }


def _object_counts(samples: ObjectSamples) -> tuple[str, ...]:
    objects, empty = int((~samples.crowd).sum()), int((np.diff(samples.offsets) == 0).sum())
    mean = objects / max(len(samples), 1)
    return f"{len(samples):,}", f"{objects:,}", f"{mean:.1f}", f"{empty:,}", f"{samples.crowd.sum():,}"


def _median_size(samples: MaskSamples) -> str:
    height, width = np.median(samples.sizes, axis=0).astype(int).tolist()
    return f"{width} × {height}"
