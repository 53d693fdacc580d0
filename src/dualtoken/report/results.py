"""The files of an evaluation."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualtoken.data.index import Samples
from dualtoken.files import atomic_path, write_json
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import Evaluation
from dualtoken.report import plots
from dualtoken.report.html import evaluation_report

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
    for name, figure in figures.items():
        with atomic_path(folder / name) as path:
            path.write_bytes(plots.to_png(figure))
    evaluation_report(folder, evaluation=evaluation, samples=samples, provenance=provenance, limits=limits)


def write_answers(target: Path, evaluation: Evaluation, samples: Samples) -> None:
    """One row an image: where it is, what it shows, what the model said and how surely."""
    images, classes = evaluation.images, evaluation.classes
    with (
        atomic_path(target) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for i in range(len(images)):
            path, truth, label = samples.path(int(images.index[i])), images.label[i], images.predicted[i]
            score, true_score = f"{images.score[i]:.6f}", f"{images.true_score[i]:.6f}"
            table.writerow((path, classes[truth], classes[label], score, true_score, int(truth == label)))
