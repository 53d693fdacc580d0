"""The files of an evaluation and of a finished run: numbers, a row an image, figures, one page."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from dualtoken.answers import Evaluation
from dualtoken.data import ImageData, Samples
from dualtoken.data.dataset import LEFT_OUT
from dualtoken.files import atomic_path, write_json
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.report import plots
from dualtoken.report.page import (
    Section,
    Shown,
    figures,
    heading,
    interval_note,
    text,
    training_section,
    write_page,
)

FIGURES = ("classes", "confusion", "curves", "reliability")
# What the folder of an evaluation may hold: an older one is renewed, anything else is left alone.
EVALUATION_FILES = frozenset(
    {"evaluation.json", "report.html", "predictions.csv", LEFT_OUT, *(f"{name}.png" for name in FIGURES)}
)


def write_evaluation(
    folder: str | Path,
    evaluation: Evaluation,
    samples: Any,
    *,
    data: ImageData,
    provenance: Mapping[str, Any],
    answer: Any = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> None:
    """Write evaluation.json, predictions.csv, the kind's figures and report.html into `folder`.

    Args:
        folder: made as needed.
        evaluation: what was measured on `samples`.
        samples: the split; the labels that the page shows are its own.
        data: all images.
        provenance: of the model, as in its config: `settings`, `versions`, `command`, all optional.
        answer: from an image to its answer, for pictures; None for a page without.
        limits: what an image may cost.

    Raises:
        OutputError: a file cannot be written.
    """
    folder = Path(folder)
    drawn = evaluation.kind.figures(evaluation)
    write_json(folder / "evaluation.json", evaluation.to_dict())
    write_rows(folder / "predictions.csv", evaluation, samples)
    for name, figure in drawn.items():
        with atomic_path(folder / f"{name}.png") as path:
            path.write_bytes(plots.to_png(figure))
    shown = Shown(evaluation, samples, answer, limits)
    sections = _sections(shown, data, evaluation.split, drawn)
    write_page(folder, "Evaluation report", evaluation, sections, provenance)


def write_training_report(
    folder: str | Path,
    evaluation: Evaluation,
    samples: Any,
    *,
    history: Sequence[Mapping[str, float]],
    data: ImageData,
    provenance: Mapping[str, Any],
    answer: Any = None,
    batches: Sequence[Image.Image] = (),
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Path:
    """Write `folder/report.html` for a training run and return its path.

    Args:
        folder: of the run.
        evaluation: of the best model.
        samples: the split that it is about.
        history: the rows of `metrics.csv`, one an epoch: see `plots.curves`.
        data: all images of the run; the labels that the page shows are those of its split `train`.
        batches: augmented batches with their labels, such as `batch_mosaic` draws them.
        provenance, answer, limits: as in `write_evaluation`.

    Raises:
        OutputError: the page cannot be written.
    """
    labelled = "train" if "train" in data.splits else evaluation.split
    train = data.splits.get("train")
    trained = train.counts(len(data.classes)).tolist() if isinstance(train, Samples) else None
    shown = Shown(evaluation, samples, answer, limits, trained)
    first, *rest = _sections(shown, data, labelled, evaluation.kind.figures(evaluation))
    sections = [first, rest[0], training_section(history, batches), *rest[1:]]
    return write_page(folder, "Training report", evaluation, sections, provenance)


def write_rows(target: Path, evaluation: Evaluation, samples: Any) -> None:
    """One row an image: where it is, and what `Kind.rows` says of it."""
    rows = evaluation.kind.rows(evaluation)
    with (
        atomic_path(target) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.DictWriter(file, ["path", *(rows[0] if rows else {})], lineterminator="\n")
        table.writeheader()
        for index, row in zip(evaluation.images.index.tolist(), rows, strict=True):
            cells = {name: f"{cell:.6f}" if isinstance(cell, float) else cell for name, cell in row.items()}
            table.writerow({"path": samples.path(index)} | cells)


def _sections(shown: Shown, data: ImageData, labelled: str, drawn: Mapping[str, Figure]) -> list[Section]:
    """What every page shows, what its kind says of the data between it."""
    evaluation: Evaluation = shown.evaluation
    kind = evaluation.kind
    labels = kind.label_figures(data.splits.get(labelled, shown.samples), data.classes, shown.limits)
    notes = [text(f"Note: {note}.", soft=True) for note in data.notes]
    about = [heading(f"Labels of the split “{labelled}”"), figures(labels)] if labels else []
    return [
        Section("", [interval_note(evaluation), *kind.blocks(evaluation)]),
        Section("Data", [kind.split_table(data), *notes, *about]),
        *kind.sections(shown, drawn),
    ]
