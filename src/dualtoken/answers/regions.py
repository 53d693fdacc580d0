"""Regions: a class for every pixel."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.agreement import PixelAgreement
from dualtoken.answers.evaluation import Confused, Evaluation
from dualtoken.answers.kinds import Card, Described, Kind, Size, register, require_shape
from dualtoken.answers.region_meter import METRICS, RegionMeter, RegionScores
from dualtoken.data import ImageData, MaskSamples
from dualtoken.engines import Engine, outputs_of
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import Interval, Metric, Segmentation
from dualtoken.postprocess import regions, require_finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from dualtoken.report.page import Block, Section, Shown


@register
class Regions(Kind):
    """Logits (B, K, H, W) of the input become the classes of the image's pixels."""

    name = "semantic_segmentation"
    batch = 16
    leading = "miou"
    counts = "pixels"
    class_title = "IoU"
    image_score = "miou"
    image_score_title = "mean IoU"
    nothing_confused = "nothing: every pixel is right"
    forms = ("masks", "csv", "parquet", "jsonl")
    headlines = ("miou", "pixel_accuracy")
    card = Card(
        "image-segmentation",
        "says of every pixel which of its classes it belongs to",
        "Every pixel gets one of these classes, also where the picture shows none of them.",
        'print(model.predict("photo.jpg").shares())',
        "train,segmentation",
    )
    model_api = "Segmentation"
    options = frozenset({"form", "pictures", "tile"})

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`region_meter.METRICS`."""
        return METRICS

    # ---------------------------------------------------------------- answers and their judgement

    def outputs(self, config: Described, engine: Engine, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, K, H, W)."""
        (logits,) = outputs_of(engine, "network", [images], 1)
        require_shape(logits, (len(images), len(config.classes)), 4)
        require_finite(logits)
        return logits

    def read(self, config: Described, raw: NDArray[np.float32], sizes: Sequence[Size]) -> list[Segmentation]:
        require_finite(raw)
        return [
            Segmentation(config.classes, *regions(maps, config.preprocessing.placement(size), size, config.temperature))
            for maps, size in zip(raw, sizes, strict=True)
        ]

    def agreement(self, config: Described, limit: float) -> PixelAgreement:
        return PixelAgreement(limit)

    def meter(self, config: Described) -> RegionMeter:
        return RegionMeter(config.classes)

    def truth(self, samples: MaskSamples, row: int, limits: ImageLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
        """(height, width), the class of each pixel or IGNORE."""
        return samples.open_mask(row, limits)

    def class_score(self, scores: RegionScores) -> Interval | None:
        """IoU."""
        return scores.iou

    # ---------------------------------------------------------------- telling

    def columns(self, top: int) -> list[str]:
        return ["label", "score", "share"]

    def cells(self, answer: Segmentation, top: int) -> list[dict[str, Any]]:
        return list(answer.to_dict()["regions"])

    def draw(self, image: Image.Image, answer: Any, *, inside: bool = False) -> Image.Image:
        from dualtoken.report.pictures import draw

        return draw(image, answer, legend="inside" if inside else "below")

    def arrays(self, answers: Sequence[Segmentation]) -> dict[str, NDArray[Any]]:
        """`masks` (N,): PNG files, a class each pixel."""
        from dualtoken.report.tables import mask_image

        files = [io.BytesIO() for _ in answers]
        for file, answer in zip(files, answers, strict=True):
            mask_image(answer.mask).save(file, "PNG")
        return {"masks": np.array([file.getvalue() for file in files], object)}

    def tell_class(self, scores: RegionScores) -> str:
        value = scores.iou.value if scores.iou else 0
        return f"{scores.name}: {100 * value:.0f} %, {100 * scores.share:.1f} % of the pixels"

    def tell_confused(self, pair: Confused) -> str:
        return f"{pair.truth} taken for {pair.predicted}: {100 * pair.share:.0f} % of its pixels"

    def figures(self, evaluation: Evaluation) -> dict[str, Figure]:
        from dualtoken.report import score_plots
        from dualtoken.report.plots import percent_text, short_number

        assert evaluation.confusion is not None
        per_class = evaluation.per_class
        shares = [percent_text(scores.share) for scores in per_class]
        pixels = f"{short_number(float(evaluation.confusion.sum()))} pixels"
        figures = {
            "classes": score_plots.class_scores_plot(
                evaluation.classes, [scores.iou for scores in per_class], metric="IoU", counts=shares
            ),
            "confusion": score_plots.confusion_plot(evaluation.confusion, evaluation.classes, pixels, percent=True),
        }
        if evaluation.reliability:
            figures["reliability"] = score_plots.reliability_plot(
                evaluation.reliability, images=sum(part.images for part in evaluation.reliability), counted="pixels",
                intervals=False,
            )  # fmt: skip
        return figures

    def label_figures(self, samples: MaskSamples, classes: Sequence[str], limits: ImageLimits) -> dict[str, Figure]:
        from dualtoken.report.label_plots import mask_label_plots

        return mask_label_plots(samples, classes, limits)

    def split_table(self, data: ImageData) -> Block:
        from dualtoken.report.page import table

        rows = []
        for name, samples in data.splits.items():
            height, width = np.median(samples.sizes, axis=0).astype(int).tolist()
            rows.append((name, f"{len(samples):,}", f"{width} × {height}"))
        return table(["Split", "Images", "Median size"], rows)

    def sections(self, shown: Shown, figures: Mapping[str, Figure]) -> list[Section]:
        from dualtoken.report.extremes import best_and_worst
        from dualtoken.report.page import Section, details, heading, table, text
        from dualtoken.report.page import figures as drawn
        from dualtoken.report.plots import percent_text, short_number
        from dualtoken.report.score_plots import confusion_blocks

        evaluation: Evaluation = shown.evaluation
        rows = [
            (c.name, short_number(c.support), percent_text(c.share), c.iou, c.boundary_iou)
            for c in evaluation.per_class
        ]
        pairs: list[Any] = [
            (pair.truth, pair.predicted, short_number(pair.count), percent_text(pair.share))
            for pair in evaluation.confused()[:12]
        ]
        confused = table(["Ground truth", "Prediction", "Pixels", "Share of the class"], pairs, names=2)
        sections = [
            *best_and_worst(shown),
            Section("Classes", [
                drawn({"Scores of the classes, as in the table below": figures["classes"]}),
                text("In brackets: the share of the labelled pixels. Lines are 95 % intervals.", soft=True),
                details(
                    f"All {len(rows)} classes as numbers",
                    table(["Class", "Pixels", "Share", "IoU", "Boundary IoU"], rows, wide=True),
                ),
            ]),
            Section(
                "Confusion",
                confusion_blocks(figures["confusion"], len(evaluation.names))
                + ([heading("Most frequent mistakes"), confused] if pairs else []),
            ),
        ]  # fmt: skip
        if "reliability" in figures:
            note = "Points below the dashed line are predictions with more confidence than they deserve."
            sections.append(
                Section("Reliability", [drawn({"Reliability": figures["reliability"]}), text(note, soft=True)])
            )
        return sections
