"""One self-contained page for a run or an evaluation: pictures inline, nothing fetched, every text escaped.

A page is a list of sections, a section a title with blocks: texts, tables, figures, pictures. What stands in them is
the kind of answers' to say (`answers.Kind`); how they look stands here and in `report.html.j2`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from matplotlib.figure import Figure
from PIL import Image

from dualtoken.errors import ImageError
from dualtoken.files import write_text
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import Interval
from dualtoken.report import plots
from dualtoken.words import counted

REPORT = "report.html"
_THUMBNAIL, _PICTURE = (224, 224), (1280, 1280)

Block = dict[str, Any]
Cell = str | Interval | None


class Section(NamedTuple):
    """A title and what stands below it."""

    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Shown:
    """What a page is about.

    Attributes:
        evaluation: an `answers.Evaluation`.
        samples: the split that it is about.
        answer: from an image to its answer, for pictures of the best and the worst; None for a page without.
        limits: what an image may cost.
        trained: (K,) how many training images have each class; None where they are not known.
    """

    evaluation: Any
    samples: Any
    answer: Callable[[Image.Image], Any] | None = None
    limits: ImageLimits = DEFAULT_LIMITS
    trained: Sequence[int] | None = None

    def example(self, row: int, lines: Sequence[tuple[str, str, str, str]]) -> dict[str, Any]:
        """An image of the split for `gallery`, with the lines below it; a file that has gone since has no pixels."""
        try:
            image = self.samples.open(row, self.limits)
        except ImageError:
            image = None
        return {"image": image, "path": self.samples.path(row), "lines": lines}

    def with_trained(
        self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]
    ) -> tuple[list[str], list[list[Cell]]]:
        """The columns and rows of a table of classes, with the number of training images behind their names."""
        if self.trained is None:
            return [*columns], [[*row] for row in rows]
        number = dict(zip(self.evaluation.classes, self.trained, strict=True))
        return [columns[0], "Trained on", *columns[1:]], [[n, f"{number[n]:,}", *rest] for n, *rest in rows]


def text(words: str, *, soft: bool = False) -> Block:
    """A paragraph; soft ones are small and grey."""
    return {"type": "text", "text": words, "soft": soft}


def heading(title: str) -> Block:
    """A title within a section."""
    return {"type": "heading", "text": title}


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    names: int = 1,
    bar: int | None = None,
    wide: bool = False,
) -> Block:
    """A table whose first `names` columns are names, the others numbers; an interval is a share, None a dash.

    Column number `bar` holds intervals that are drawn as bars too.
    """
    return {"type": "table", "columns": columns, "rows": rows, "names": names, "bar": bar, "wide": wide}


def figures(drawn: Mapping[str, Figure]) -> Block:
    """Figures beside each other, by the title that is read to those who cannot see them."""
    return {"type": "figures", "figures": [inline_figure(figure, title) for title, figure in drawn.items()]}


def pictures(shown: Sequence[tuple[str, Image.Image]]) -> Block:
    """(caption, picture) each, large ones that a click enlarges."""
    return {"type": "pictures", "pictures": [(caption, inline_image(image, _PICTURE)) for caption, image in shown]}


def gallery(entries: Sequence[Mapping[str, Any]]) -> Block:
    """Small pictures: `image` (None if it cannot be read), `path`, and `lines` of (word, name, style, number)."""
    return {
        "type": "gallery",
        "entries": [
            {**entry, "src": None if entry["image"] is None else inline_image(entry["image"], _THUMBNAIL)}
            for entry in entries
        ],
    }


def details(summary: str, block: Block) -> Block:
    """A block that a click unfolds."""
    return {"type": "details", "text": summary, "block": block}


def interval_note(evaluation: Any) -> Block:
    """What the intervals below the metrics mean."""
    return text(
        "Below each value stands its 95 % interval: where it would lie with other images of the same kind (bootstrap"
        f" over the {counted(evaluation.n, 'image')}, {evaluation.resamples:,} draws, seed {evaluation.seed}; exact"
        " binomial where all or no images are right). It does not cover another training run.",
        soft=True,
    )


def training_section(history: Sequence[Mapping[str, float]], batches: Sequence[Image.Image] = ()) -> Section:
    """How training went, and augmented batches with their labels.

    Args:
        history: the rows of `metrics.csv`, one an epoch: see `plots.curves`.
        batches: such as `batch_mosaic` draws them.
    """
    curves = plots.curves(history)
    blocks = [figures(curves) if curves else text("No epoch was finished, so there are no curves.")]
    if batches:
        about = (
            "Images of the training set after augmentation, with the labels that moved along. If a label does not fit"
            " its object here, it does not in training."
        )
        named = [(f"Augmented batch {number}", batch) for number, batch in enumerate(batches, start=1)]
        blocks += [heading("What the network saw"), text(about, soft=True), pictures(named)]
    return Section("Training", blocks)


def write_page(
    folder: str | Path, kind: str, evaluation: Any, sections: Sequence[Section], provenance: Mapping[str, Any]
) -> Path:
    """Write `folder/report.html` and return its path.

    Args:
        folder: made as needed.
        kind: of report, the first words of the page.
        evaluation: an `answers.Evaluation`; its metrics stand on top, what it left out at the end. None for a page
            about a run that is not evaluated as others are.
        sections: all between; the first one's title is not written.
        provenance: as in the model's config: `settings`, `versions`, `command`, all optional.

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
    environment.filters["counted"] = counted
    path = Path(folder) / REPORT
    metrics = evaluation.metrics if evaluation else {}
    page = environment.get_template("report.html.j2").render(
        kind=kind,
        name=evaluation.model if evaluation else path.absolute().parent.name,
        evaluation=evaluation,
        metrics=[(evaluation.kind.metrics[key], interval) for key, interval in metrics.items()],
        sections=sections,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=[(title, dict(provenance.get(title.lower()) or {})) for title in ("Settings", "Versions")],
        command=provenance.get("command"),
    )
    # Names of files that are not UTF-8 hold what cannot be written as it is.
    write_text(path, page.encode("utf-8", "backslashreplace").decode("utf-8"))
    return path


def inline_figure(figure: Figure, title: str) -> dict[str, Any]:
    """A figure at its size in CSS pixels."""
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
