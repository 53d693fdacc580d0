"""One self-contained page for a run or an evaluation: pictures inline, nothing fetched, every text escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from matplotlib.figure import Figure
from PIL import Image

from dualtoken.data import ImageData, Samples
from dualtoken.errors import ImageError
from dualtoken.files import write_text
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import METRICS, Evaluation
from dualtoken.report import plots
from dualtoken.words import counted

if TYPE_CHECKING:
    from dualtoken.outputs.mask_evaluation import SegmentationEvaluation
    from dualtoken.outputs.object_evaluation import DetectionEvaluation

REPORT = "report.html"
TEMPLATE = "report.html.j2"
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
    page["curves"] = [inline_figure(figure, title) for title, figure in plots.curves(history).items()]
    page["epochs"] = len(history)
    page["splits"] = list(_splits(data))
    page["notes"] = data.notes
    return write_page(folder, TEMPLATE, page)


def evaluation_report(
    folder: str | Path,
    *,
    evaluation: Evaluation,
    samples: Samples,
    provenance: Mapping[str, Any],
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Path:
    """Write `folder/report.html` for an evaluation and return its path. Arguments as in `training_report`."""
    return write_page(folder, TEMPLATE, _page("Evaluation report", evaluation, samples, provenance, limits))


def frame(
    kind: str, evaluation: Evaluation | DetectionEvaluation | SegmentationEvaluation, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """What the frame of every page, `page.html.j2`, is filled with."""
    return {
        "kind": kind,
        "evaluation": evaluation,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "settings": dict(provenance.get("settings") or {}),
        "versions": dict(provenance.get("versions") or {}),
        "command": provenance.get("command"),
    }


def write_page(folder: str | Path, template: str, page: Mapping[str, Any]) -> Path:
    """Fill a template of this folder with `page`, write `folder/report.html` and return its path.

    Raises:
        OutputError: it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dualtoken.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    path = Path(folder) / REPORT
    environment.filters["counted"] = counted
    text = environment.get_template(template).render(page)
    # Names of files that are not UTF-8 hold what cannot be written as it is.
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return path


def inline_figure(figure: Figure, title: str) -> dict[str, Any]:
    """A figure for the macro `picture`, at its size in CSS pixels; `title` is read to those who cannot see it."""
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return {"title": title, "src": _inline(plots.to_png(figure), "png"), "width": width, "height": height}


def inline_image(image: Image.Image, size: tuple[int, int]) -> str:
    """The address of a picture within the page, scaled down to fit into `size` (width, height), as JPEG."""
    image = image.convert("RGB")  # a copy, since thumbnail works in place
    image.thumbnail(size)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return _inline(buffer.getvalue(), "jpeg")


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _page(
    kind: str, evaluation: Evaluation, samples: Samples, provenance: Mapping[str, Any], limits: ImageLimits
) -> dict[str, Any]:
    """What both reports show."""
    wrong = evaluation.mistakes()
    confusion = plots.confusion_plot(evaluation.confusion, evaluation.classes)
    reliability = plots.reliability_plot(evaluation.reliability, images=evaluation.n)
    return frame(kind, evaluation, provenance) | {
        "metrics": [(METRICS[name], interval) for name, interval in evaluation.metrics.items()],
        "confusion": inline_figure(confusion, "Confusion matrix"),
        "named": len(evaluation.classes) <= plots.NAMED_CLASSES,
        "reliability": inline_figure(reliability, "Reliability"),
        "confused": evaluation.confused()[:_CONFUSED],
        "wrong": len(wrong),
        "mistakes": list(_mistakes(evaluation, samples, wrong[:_MISTAKES].tolist(), limits)),
        "weakest": evaluation.weakest(),
        "shown_classes": _WEAKEST,
    }


def _mistakes(
    evaluation: Evaluation, samples: Samples, places: Sequence[int], limits: ImageLimits
) -> Iterator[dict[str, Any]]:
    """The surest wrong answers with their pictures; a file that has gone since has none."""
    images = evaluation.images
    for place in places:
        index = int(images.index[place])
        try:
            src = inline_image(samples.open(index, limits), _THUMBNAIL)
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
