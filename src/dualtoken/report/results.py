"""The files of an evaluation."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from dualtoken.data import ImageData, MaskSamples, ObjectSamples, Samples
from dualtoken.files import atomic_path, write_json
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import Evaluation
from dualtoken.outputs.object_evaluation import SceneScores
from dualtoken.report import plots
from dualtoken.report.html import evaluation_report
from dualtoken.report.scene_report import Captioned, SceneEvaluation, scene_evaluation_report, scene_figures

# What the folder of an evaluation may hold: an older one is renewed, anything else is left alone.
EVALUATION_FILES = frozenset(
    {
        "evaluation.json",
        "report.html",
        "predictions.csv",
        "classes.png",
        "confusion.png",
        "curves.png",
        "reliability.png",
    }
)
COLUMNS = ("path", "truth", "label", "score", "truth_score", "correct")


def write_evaluation(
    folder: str | Path,
    evaluation: Evaluation,
    samples: Samples,
    *,
    provenance: Mapping[str, Any],
    limits: ImageLimits = DEFAULT_LIMITS,
) -> None:
    """Write evaluation.json, predictions.csv, confusion.png, reliability.png and report.html into `folder`.

    Args:
        folder: made as needed.
        evaluation: what was measured on `samples`.
        samples: the split.
        provenance: of the model, for the report.
        limits: what an image may cost.

    Raises:
        OutputError: a file cannot be written.
    """
    folder = Path(folder)
    write_json(folder / "evaluation.json", evaluation.to_dict())
    write_answers(folder / "predictions.csv", evaluation, samples)
    figures = {
        "confusion.png": plots.confusion_plot(evaluation.confusion, evaluation.classes),
        "reliability.png": plots.reliability_plot(evaluation.reliability, images=evaluation.n),
    }
    _write_figures(folder, figures)
    evaluation_report(folder, evaluation=evaluation, samples=samples, provenance=provenance, limits=limits)


def write_scene_evaluation(
    folder: str | Path,
    evaluation: SceneEvaluation,
    samples: ObjectSamples | MaskSamples,
    *,
    data: ImageData,
    pictures: Sequence[Captioned] = (),
    provenance: Mapping[str, Any],
    limits: ImageLimits = DEFAULT_LIMITS,
) -> None:
    """Write evaluation.json, predictions.csv, confusion.png, classes.png, reliability.png and report.html.

    Detections have curves.png too, precision against recall; regions without confidence have no reliability.png.

    Args:
        folder: made as needed.
        evaluation: what was measured on `samples`.
        samples: the split.
        data: all images, for the report.
        pictures: (caption, picture) of the best and worst images, truth beside answer, for the report.
        provenance: of the model, for the report.
        limits: what an image may cost.

    Raises:
        OutputError: a file cannot be written.
    """
    folder = Path(folder)
    write_json(folder / "evaluation.json", evaluation.to_dict())
    write_scene_scores(folder / "predictions.csv", evaluation, samples)
    _write_figures(folder, {f"{name}.png": figure for name, figure in scene_figures(evaluation).items()})
    scene_evaluation_report(
        folder, evaluation=evaluation, data=data, samples=samples, pictures=pictures, provenance=provenance,
        limits=limits,
    )  # fmt: skip


def write_scene_scores(target: Path, evaluation: SceneEvaluation, samples: ObjectSamples | MaskSamples) -> None:
    """One row an image: where it is and how well its objects were found, or its pixels told apart."""
    images = evaluation.images
    if isinstance(images, SceneScores):
        columns: dict[str, NDArray[Any]] = {
            "f1": images.f1,
            "objects": images.objects,
            "found": images.found,
            "false": images.false,
        }
    else:
        columns = {"miou": images.miou, "pixel_accuracy": images.pixel_accuracy}
    rows = zip(images.index.tolist(), *(values.tolist() for values in columns.values()), strict=True)
    _write_csv(
        target,
        ("path", *columns),
        (
            (samples.path(index), *(f"{value:.6f}" if isinstance(value, float) else value for value in values))
            for index, *values in rows
        ),
    )


def _write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    for name, figure in figures.items():
        with atomic_path(folder / name) as path:
            path.write_bytes(plots.to_png(figure))


def _write_csv(target: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with (
        atomic_path(target) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows(rows)


def write_answers(target: Path, evaluation: Evaluation, samples: Samples) -> None:
    """One row an image: where it is, what it shows, what the model said and how surely."""
    images, classes = evaluation.images, evaluation.classes
    rows = zip(
        *(array.tolist() for array in (images.index, images.label, images.predicted, images.score, images.true_score)),
        strict=True,
    )
    _write_csv(
        target,
        COLUMNS,
        (
            (
                samples.path(index),
                classes[truth],
                classes[label],
                f"{score:.6f}",
                f"{true_score:.6f}",
                int(truth == label),
            )
            for index, truth, label, score, true_score in rows
        ),
    )
