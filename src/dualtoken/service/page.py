"""What the page of `dualtoken app` does: pictures to answers, heat maps, files to take away, and corrections."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualtoken.errors import ConfigError
from dualtoken.files import unique
from dualtoken.images import ImageLimits, is_image_name
from dualtoken.outputs import Detections
from dualtoken.prediction import Predictor
from dualtoken.report import prediction_table
from dualtoken.service.corrections import Box, Corrections

MOST = 200  # images answered at a time: a page is for looking
_LARGEST = 1024  # pixels of a side on the page, where nothing is drawn in
_KEPT = 8  # answers whose files are still there
_TAKEN = {"csv": ".csv", "coco": ".json"}  # forms of predictions to take away


@dataclass(frozen=True)
class Seen:
    """What a model said of some images.

    Attributes:
        title: how many, and how long one took.
        pictures: (file, caption) with the answer drawn in.
        table: a row an answer, as tables of predictions have it.
        answers: by the number of the image; an `ImageError` where it could not be read.
        files: to take away: CSV, COCO where it has a place for such answers, PNG pictures.
    """

    title: str
    pictures: list[tuple[str, str]]
    table: list[list[str]]
    answers: list[Any]
    files: list[str]


class Page:
    """Everything behind the page but its looks.

    Args:
        models: by name; corrections are those of the first one's answers.
        folder: a temporary one, for pictures and files.
        corrections: folder of the data set that corrections become.
        limits: what an image may cost.
    """

    def __init__(self, models: Mapping[str, Predictor], folder: Path, corrections: Path, limits: ImageLimits) -> None:
        self.models, self.limits = models, limits
        self.first = next(iter(models.values()))
        self.corrections = Corrections(corrections, self.first.classes)
        self._folder, self._number = folder, 0
        self._kept: deque[Path] = deque()
        for model in models.values():
            model.warm()

    @property
    def columns(self) -> list[list[str]]:
        """Of each model's table."""
        return [["image", *model.kind.columns(3)] for model in self.models.values()]

    @property
    def has_threshold(self) -> bool:
        """Whether a threshold means something for some model."""
        return any("threshold" in model.kind.options for model in self.models.values())

    def images(self, *given: str | Sequence[str] | None) -> tuple[list[Path], int]:
        """The pictures among what was given, `MOST` of them, and how many there were.

        Raises:
            ConfigError: there are none.
        """
        each = [one for part in given if part for one in ([part] if isinstance(part, str) else part)]
        found = [Path(one) for one in each if is_image_name(Path(one).name)]
        if not found:
            raise ConfigError("Give a picture first: drop one, paste one, or take one with the camera.")
        return found[:MOST], len(found)

    def predict(self, images: Sequence[Path], threshold: float | None = None) -> list[Seen]:
        """What each model says of them, image by image, so that the time of each is known."""
        place = self._new_folder()
        return [self._seen(name, model, images, threshold, place / name) for name, model in self.models.items()]

    def explain(self, image: Path) -> tuple[list[tuple[str, str]], str]:
        """Heat maps of the first model that runs in torch, with what they are worth.

        Raises:
            ConfigError: there is none.
            MissingExtraError: captum is not installed.
        """
        model = next((one for one in self.models.values() if one.export is None), None)
        if model is None:
            raise ConfigError("An exported model has no gradients: give the page its model folder for heat maps.")
        from dualtoken.explanation import explain

        place = self._new_folder() / "why"
        (found,) = explain(model, [str(image)], place, limits=self.limits, progress=False)
        files = sorted(file for file in place.rglob("*.png"))
        return [(str(file), file.stem) for file in files], found.summary()

    def labels(self, answer: Any) -> list[str]:
        """The classes of a whole image, to be corrected."""
        return [answer.label] if self.first.kind.exclusive else [name for name, _ in answer.labels]

    @staticmethod
    def boxes(answer: Any) -> list[Box] | None:
        """The objects of an image, to be corrected; None for what has no boxes, or masks which a table cannot hold."""
        if not isinstance(answer, Detections) or answer.masks is not None:
            return None
        edges = [[round(edge, 1) for edge in box] for box in answer.boxes.tolist()]
        return [(name, *box) for name, box in zip(answer.names(), edges, strict=True)]

    def _seen(self, name: str, model: Predictor, images: Sequence[Path], threshold: float | None, place: Path) -> Seen:
        place.mkdir()
        answers, pictures, table, times = list[Any](), list[tuple[str, str]](), list[list[str]](), list[float]()
        forms = [form for form in _TAKEN if form in model.kind.forms]
        files = [place / f"{name}{_TAKEN[form]}" for form in forms]
        taken: set[str] = set()
        threshold = threshold if "threshold" in model.kind.options else None
        with ExitStack() as stack:
            writes = [stack.enter_context(prediction_table(file, model.kind, model.classes)) for file in files]
            packed = stack.enter_context(zipfile.ZipFile(place / f"{name}-pictures.zip", "w"))
            named = ((image.name, str(image)) for image in images)
            begun = time.perf_counter()
            for answer, image in model.stream_images(
                named, batch_size=1, workers=0, threshold=threshold, limits=self.limits
            ):
                times.append(time.perf_counter() - begun)
                for write in writes:
                    write(answer)
                if isinstance(answer, tuple) or image is None:
                    answers.append(answer[1])
                    table.append([answer[0], answer[1].message])
                else:
                    answers.append(answer)
                    table += [[str(answer.path), *row] for row in _cells(model, answer)]
                    stem = unique(Path(str(answer.path)).stem, taken)
                    small, drawn = image.convert("RGB"), model.kind.draw(image, answer)
                    small.thumbnail((_LARGEST, _LARGEST))
                    shown = drawn if drawn is not None and "pictures" in model.kind.options else small
                    shown.save(file := place / f"{stem}.png")
                    with packed.open(f"{stem}.png", "w") as picture:
                        (drawn or image.convert("RGB")).save(picture, "PNG")
                    pictures.append((str(file), " · ".join([str(answer.path), *_told(model, answer)])))
                begun = time.perf_counter()
        middle = sorted(times)[len(times) // 2]
        title = f"**{name}** · {1000 * middle:.0f} ms an image"
        return Seen(title, pictures, table, answers, [*map(str, files), str(place / f"{name}-pictures.zip")])

    def _new_folder(self) -> Path:
        """The next one; the oldest goes."""
        self._number += 1
        place = self._folder / str(self._number)
        place.mkdir()
        self._kept.append(place)
        if len(self._kept) > _KEPT:
            shutil.rmtree(self._kept.popleft(), ignore_errors=True)
        return place


def _told(model: Predictor, answer: Any) -> tuple[str, ...]:
    return model.kind.screen_cells(answer, 1)[:2]


def _cells(model: Predictor, answer: Any) -> list[list[str]]:
    found = [[row.get(name, "") for name in model.kind.columns(3)] for row in model.kind.cells(answer, 3) or [{}]]
    return [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in found]
