"""One self-contained page for a run or an evaluation: pictures inline, nothing fetched, every text escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from dualtoken.data.index import ImageData, Samples
from dualtoken.errors import ImageError
from dualtoken.files import write_text
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import METRICS, Evaluation
from dualtoken.report import plots

REPORT = "report.html"
_MISTAKES, _CONFUSED, _WEAKEST = 24, 12, 10
_THUMBNAIL = (224, 224)


def training_report(
    folder: str | Path,
    *,
    history: Sequence[Mapping[str, float]],
    evaluation: Evaluation,
    data: ImageData,
    samples: Samples,
    provenance: Mapping[str, Any],
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Path:
    """Write `folder/report.html` for a training run and return its path.

    Args:
        folder: of the run.
        history: the rows of `metrics.csv`, one an epoch: see `plots.curves`.
        evaluation: of the best model.
        data: all images of the run.
        samples: the split that `evaluation` is about; the worst mistakes are shown from it.
        provenance: as in the model's config: `settings`, `versions`, `command`, all optional.
        limits: what an image may cost.

    Raises:
        OutputError: the page cannot be written.
    """
    page = _page("Training report", evaluation, samples, provenance, limits)
    page["curves"] = [_picture(figure, title) for title, figure in plots.curves(history).items()]
    page["epochs"] = len(history)
    page["splits"] = list(_splits(data))
    page["notes"] = data.notes
    return _write(folder, page)


def evaluation_report(
    folder: str | Path,
    *,
    evaluation: Evaluation,
    samples: Samples,
    provenance: Mapping[str, Any],
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Path:
    """Write `folder/report.html` for an evaluation and return its path. Arguments as in `training_report`."""
    return _write(folder, _page("Evaluation report", evaluation, samples, provenance, limits))


def _page(
    kind: str, evaluation: Evaluation, samples: Samples, provenance: Mapping[str, Any], limits: ImageLimits
) -> dict[str, Any]:
    """What both reports show."""
    wrong = evaluation.mistakes()
    confusion = plots.confusion_plot(evaluation.confusion, evaluation.classes)
    reliability = plots.reliability_plot(evaluation.reliability, images=evaluation.n)
    return {
        "kind": kind,
        "evaluation": evaluation,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "metrics": [(METRICS[name], interval) for name, interval in evaluation.metrics.items()],
        "confusion": _picture(confusion, "Confusion matrix"),
        "named": len(evaluation.classes) <= plots.NAMED_CLASSES,
        "reliability": _picture(reliability, "Reliability"),
        "confused": evaluation.confused()[:_CONFUSED],
        "wrong": len(wrong),
        "mistakes": list(_mistakes(evaluation, samples, wrong[:_MISTAKES].tolist(), limits)),
        "weakest": evaluation.weakest(),
        "shown_classes": _WEAKEST,
        "settings": dict(provenance.get("settings") or {}),
        "versions": dict(provenance.get("versions") or {}),
        "command": provenance.get("command"),
    }


def _write(folder: str | Path, page: Mapping[str, Any]) -> Path:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dualtoken.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    path = Path(folder) / REPORT
    text = environment.get_template("report.html.j2").render(page)
    # Names of files that are not UTF-8 hold what cannot be written as it is.
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return path


def _picture(figure: Figure, title: str) -> dict[str, Any]:
    """An inline picture, at the size of its figure in CSS pixels."""
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return {"title": title, "src": _inline(plots.to_png(figure), "png"), "width": width, "height": height}


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _mistakes(
    evaluation: Evaluation, samples: Samples, places: Sequence[int], limits: ImageLimits
) -> Iterator[dict[str, Any]]:
    """The surest wrong answers with their pictures; a file that has gone since has none."""
    images = evaluation.images
    for place in places:
        index = int(images.index[place])
        try:
            picture = samples.open(index, limits)
            picture.thumbnail(_THUMBNAIL)
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=85)
            src = _inline(buffer.getvalue(), "jpeg")
        except ImageError:
            src = None
        yield {
            "src": src,
            "path": samples.path(index),
            "truth": evaluation.classes[images.label[place]],
            "answer": evaluation.classes[images.predicted[place]],
            "score": float(images.score[place]),
            "true_score": float(images.true_score[place]),
        }


def _splits(data: ImageData) -> Iterator[dict[str, Any]]:
    for name, samples in data.splits.items():
        counts = samples.counts(len(data.classes))
        small, large = int(counts.argmin()), int(counts.argmax())
        yield {
            "name": name,
            "images": len(samples),
            "smallest": (data.classes[small], int(counts[small])),
            "largest": (data.classes[large], int(counts[large])),
            "equal": small == large,
        }
