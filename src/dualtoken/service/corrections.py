"""Answers that a person corrected, as a data set that `dualtoken train` reads."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from dualtoken.errors import ConfigError, OutputError, unknown_name
from dualtoken.files import atomic_path, digest
from dualtoken.readers import csv_rows, read_text

Box = tuple[str, float, float, float, float]  # class, then left, top, right, bottom in pixels

_LABELS = ("labels.csv", ("path", "label"))
_BOXES = ("_annotations.csv", ("filename", "class", "xmin", "ymin", "xmax", "ymax"))


class Corrections:
    """A folder with copies of images and a table of their labels; an image corrected again has its last ones.

    Args:
        folder: made with the first correction, and added to where it is there.
        classes: that a label may be.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.classes = folder, tuple(classes)

    def add_labels(self, image: Path, labels: Sequence[str]) -> int:
        """The classes of a whole image; how many images are corrected now.

        Raises:
            ConfigError: there are none, or one that the model does not know.
            OutputError: it cannot be written, or the table there is another.
        """
        if not labels:
            raise ConfigError("Choose a class.")
        self._check(labels)
        return self._add(image, _LABELS, [[";".join(labels)]])

    def add_boxes(self, image: Path, boxes: Sequence[Box]) -> int:
        """All objects of an image, or none; how many images are corrected now.

        Raises:
            ConfigError: a class that the model does not know, or a box without area.
            OutputError: it cannot be written, or the table there is another.
        """
        self._check([name for name, *_ in boxes])
        for name, left, top, right, bottom in boxes:
            if not (-math.inf < left < right < math.inf and -math.inf < top < bottom < math.inf):
                raise ConfigError(
                    f"The box of {name!r} has no area: left {left}, top {top}, right {right}, bottom {bottom}."
                )
        return self._add(image, _BOXES, [list(map(str, box)) for box in boxes] or [[""] * 5])

    def _check(self, names: Sequence[str]) -> None:
        if wrong := [name for name in names if name not in self.classes]:
            raise ConfigError(unknown_name("class", wrong[0], self.classes))

    def _add(self, image: Path, table: tuple[str, tuple[str, ...]], labels: list[list[str]]) -> int:
        name, columns = table
        path = self.folder / name
        before = self._rows(path, columns)
        copy = f"images/{digest(image)[:16]}{image.suffix.lower()}"
        with atomic_path(self.folder / copy) as temporary:
            shutil.copyfile(image, temporary)
        rows = [row for row in before if row[0] != copy] + [[copy, *label] for label in labels]
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *rows])
        return len({row[0] for row in rows})

    @staticmethod
    def _rows(path: Path, columns: Sequence[str]) -> list[list[str]]:
        """Those of the table that is there, which must be one of ours: another's columns would be lost."""
        if not path.exists():
            return []
        text = read_text(path, error=OutputError)
        header, *rows = [row for _, row in csv_rows(text, str(path), error=OutputError) if row] or [[]]
        if tuple(header) != tuple(columns) or any(len(row) != len(columns) for row in rows):
            raise OutputError(
                f"{str(path)!r} has the columns {', '.join(header)}, a table of corrections {', '.join(columns)}.",
                "Give a folder of their own: --corrections FOLDER",
            )
        return rows
