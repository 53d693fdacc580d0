"""The images of an evaluation that its model answers best and worst, ground truth beside prediction."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from dualtoken.errors import ImageError
from dualtoken.report.page import Section, Shown, pictures, text
from dualtoken.report.pictures import side_by_side

_SHOWN = 6  # of each


def best_and_worst(shown: Shown, about: str = "") -> list[Section]:
    """A section with the pictures; none where nothing answers, or no image can be read."""
    drawn = list(_pictures(shown)) if shown.answer else []
    if not drawn:
        return []
    note = (
        f"By the {shown.evaluation.kind.image_score_title} of each image{about}. Some of the worst may be labels to"
        " correct. A click enlarges a picture."
    )
    return [Section("Best and worst pictures", [text(note, soft=True), pictures(drawn)])]


def _pictures(shown: Shown) -> Iterator[tuple[str, Image.Image]]:
    evaluation, samples, kind = shown.evaluation, shown.samples, shown.evaluation.kind
    worst = evaluation.worst()[:_SHOWN].tolist()
    best = [place for place in evaluation.best()[:_SHOWN].tolist() if place not in worst]
    for word, place in [*(("worst", place) for place in worst), *(("best", place) for place in best)]:
        row = int(evaluation.images.index[place])
        try:
            image = samples.open(row, shown.limits)
        except ImageError:  # gone since
            continue
        assert shown.answer is not None
        truth = kind.truth(samples, row, shown.limits)
        yield f"{word}: {samples.path(row)}", side_by_side(image, truth, shown.answer(image))
