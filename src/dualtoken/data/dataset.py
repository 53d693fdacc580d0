"""What `find_data` found: splits of images with their labels, and everything odd about them in words."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from dualtoken.errors import DataError, shown, shown_name, unknown_name
from dualtoken.files import atomic_path
from dualtoken.readers import read_text
from dualtoken.words import counted

BadImage = tuple[str, str]
LEFT_OUT, MANIFEST = "left_out.csv", "data.csv"
_SHOWN = 5
_WHERE = re.compile(r"(\'.*?\', (?:line|annotations|shapes|element).*?): (.*)", re.DOTALL)


class BadLabel(NamedTuple):
    """A label that was left out: path of its image, the reason in short, and in full with file and line."""

    path: str
    kind: str
    message: str


@dataclass(frozen=True, eq=False)
class ImageData:
    """A whole data set.

    Attributes:
        source: the path that it was found at.
        classes: class names; a label is an index into them.
        splits: name (`train`, `val`, `test`, or `all` where nothing was split) to its images: `Samples`, or with
            objects or masks `ObjectSamples` or `MaskSamples`.
        fingerprint: sha256 over names, sizes, labels and given splits of all images that are used.
        bad_images: (path, reason) of the images left out.
        notes: what a person should know before training.
        layout: in which form the images were found.
        val_drawn: whether `val` was drawn from the training images, since the data name none.
        task: what the labels are for; empty where nobody asked.
        bad_labels: labels left out while their images stay.
        redraw: the same images with `val` drawn by another (seed, fraction, most); nothing is read again.
    """

    source: str
    classes: tuple[str, ...]
    splits: dict[str, Any]
    fingerprint: str
    bad_images: tuple[BadImage, ...] = ()
    notes: tuple[str, ...] = ()
    layout: str = field(default="class folders")
    val_drawn: bool = False
    task: str = ""
    bad_labels: tuple[BadLabel, ...] = ()
    redraw: Callable[[int, float, int | None], ImageData] | None = None

    @cached_property
    def manifest(self) -> dict[tuple[str, str], str]:
        """(split, name) of each image, or of a sample of very many, to a digest of what its file holds."""
        return {
            (split, shown_name(path)): hashlib.sha256(mark).hexdigest()[:16]
            for split, samples in sorted(self.splits.items())
            for path, mark in samples.marks()
        }

    def content(self) -> str:
        """SHA-256 over what the images of all splits hold, where `fingerprint` is of their names, sizes and labels."""
        return hashlib.sha256(json.dumps(list(self.manifest.items())).encode()).hexdigest()

    def describe(self) -> str:
        """The table printed before training: what was found, how it is split, what is odd about it."""
        rows = [("Data", f"{self.source} ({self.layout})"), ("Classes", self._class_list())]
        rows += [(name, samples.describe(self.classes)) for name, samples in self.splits.items()]
        rows += [("Note", note) for note in self.notes]
        wrong = counted(len(self.bad_images), "image or label", "images or labels")
        rows += [("Left out", f"{wrong} that cannot be used")] if self.bad_images else []
        rows += _first([reason if path in reason else f"{path}: {reason}" for path, reason in self.bad_images])
        kinds = Counter(label.kind for label in self.bad_labels)
        words = ", ".join(f"{number:,} x {kind}" for kind, number in kinds.most_common())
        rows += [("Left out", f"{counted(len(self.bad_labels), 'label')}: {words}")] if kinds else []
        rows += _first([label.message for label in self.bad_labels])
        return shown("\n".join(f"{head:<12}{text}".rstrip() for head, text in rows))

    def _class_list(self, shown: int = 10) -> str:
        rest = f", and {len(self.classes) - shown} more" if len(self.classes) > shown else ""
        return f"{len(self.classes)}: {', '.join(self.classes[:shown])}{rest}"


def _first(lines: list[str]) -> list[tuple[str, str]]:
    rest = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [("", line) for line in (*lines[:_SHOWN], *rest)]


def write_manifest(folder: Path, data: ImageData) -> None:
    """Write `data.csv`: split, path and digest of each image, so that it can be told later which of them changed.

    Raises:
        OutputError: it cannot be written.
    """
    _write_table(folder / MANIFEST, [("split", "path", "digest"), *((*key, of) for key, of in data.manifest.items())])


def changes(folder: Path, data: ImageData) -> str:
    """What is other than in the `data.csv` of `folder`, in words: `1 file is missing: cats/3.jpg`; or empty."""
    place = folder / MANIFEST
    rows = list(csv.reader(read_text(place).splitlines()))[1:] if place.is_file() else []
    before, now = {(split, path): of for split, path, of in rows}, data.manifest
    kinds = {
        "changed": [path for key, of in before.items() if now.get(key, of) != of for path in key[1:]],
        "missing": [path for split, path in before if (split, path) not in now],
        "new": [path for split, path in now if (split, path) not in before],
    }
    words = [
        f"{counted(len(names), 'file')} {'is' if len(names) == 1 else 'are'} {kind}: {', '.join(names[:_SHOWN])}"
        + (", ..." if len(names) > _SHOWN else "")
        for kind, names in kinds.items()
        if names
    ]
    return "; ".join(words) if rows else ""


def _write_table(place: Path, rows: Iterable[Sequence[str]]) -> None:
    with (
        atomic_path(place) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_left_out(folder: Path, images: Iterable[BadImage], labels: Iterable[BadLabel] = ()) -> None:
    """Write `left_out.csv`: a line for each image and label that was left out, after those that stand there already.

    Raises:
        OutputError: it cannot be written.
    """
    rows = [["image", path, "", "", reason] for path, reason in images]
    for path, kind, message in labels:
        found = _WHERE.match(message)  # 'labels/1.txt', line 2: ...
        rows.append(["label", path, kind, *(found.groups() if found else ("", message))])
    place = folder / LEFT_OUT
    before = list(csv.reader(read_text(place).splitlines()))[1:] if place.is_file() else []
    new = [row for row in rows if row not in before]
    if new:
        _write_table(place, [("what", "image", "kind", "where", "reason"), *before, *new])


def find_split(data: ImageData, split: str | None = None) -> Any:
    """The images of a split; without a name those of `test`, else `val`, else of the only one.

    Raises:
        DataError: there is no such split, or none can be chosen.
    """
    if split is not None:
        if split not in data.splits:
            raise DataError(unknown_name("split", split, data.splits), f"These are the splits of {data.source!r}.")
        return data.splits[split]
    for name in ("test", "val"):
        if name in data.splits:
            return data.splits[name]
    if len(data.splits) == 1:
        return next(iter(data.splits.values()))
    raise DataError(f"{data.source!r} has neither a test nor a val split.", "Say which to use: --split NAME.")
