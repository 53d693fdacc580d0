"""`convert`: a data set with labels in one format, written anew in another."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.dataset import ImageData
from dualtoken.data.finding import NEEDS, find_data
from dualtoken.data.formats import FORMATS, Format, writable
from dualtoken.data.reading import OnBadImage, OnBadLabel
from dualtoken.data.samples import IGNORE, MaskSamples, Objects, ObjectSamples, Samples
from dualtoken.errors import ConfigError, DataError, unknown_name
from dualtoken.files import alone, atomic_folder, refuse_existing
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.words import counted


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        output: the new folder.
        images, objects: how many, over all splits; objects is 0 for masks.
        masks: how many images came with a mask in place of objects.
        notes: what a person should know, first of all what the new format cannot hold.
    """

    output: Path
    images: int
    objects: int
    notes: tuple[str, ...]
    masks: int = 0

    def summary(self) -> str:
        """How much was written, in a few words."""
        content = counted(self.masks, "mask") if self.masks else counted(self.objects, "object")
        return f"{counted(self.images, 'image')}, {content}"


def convert(
    source: str | Path,
    output: str | Path,
    to: str,
    *,
    task: str = "auto",
    labels: str = "auto",
    on_bad_image: OnBadImage = "fail",
    on_bad_label: OnBadLabel = "fail",
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: bool = True,
) -> Conversion:
    """Write a data set anew, its images byte for byte and its labels in another format, whole or not at all.

    Splits stay as they are given; none is drawn. Objects become masks by painting the large ones first, on a class
    called background; masks never become objects.

    Args:
        source: a data set with boxes or masks: a folder, a file or a zip archive.
        output: folder to make: images byte for byte, labels anew.
        to: label format to write.
        task: as for `find_data`; `detection` writes boxes even where there are outlines.
        labels: label format to read where the data has several.
        on_bad_image, on_bad_label, limits, progress: as for `find_data`.

    Raises:
        DataError: the source cannot be used, or the new format cannot hold it.
        OutputError: the folder is not empty or cannot be written.
    """
    if to not in writable():
        raise ConfigError(unknown_name("format", to, writable()), f"--to is one of {', '.join(writable())}.")
    if labels in FORMATS and FORMATS[labels].of_whole_images:
        raise ConfigError(
            f"labels is {labels!r}: classes of whole images have nothing to convert.", "Give boxes or masks."
        )
    form = FORMATS[to]
    assert form.write is not None
    output = Path(output)
    refuse_existing(output, "--output")
    data = find_data(
        source, task=task, labels=labels, val_fraction=0, on_bad_image=on_bad_image, on_bad_label=on_bad_label,
        limits=limits, progress=progress,
    )  # fmt: skip
    if any(isinstance(samples, Samples) for samples in data.splits.values()):
        raise DataError(
            f"{data.source!r} has classes of whole images, which there is nothing to convert of.",
            "Boxes, outlines and masks can be converted.",
        )
    need = NEEDS.get(task)  # none where the labels decide: outlines are kept then
    writer = Writer(data, boxes_only=need is not None and not need.outlines, limits=limits)
    with alone(output), atomic_folder(output) as folder:
        form.write(writer, folder)
    return Conversion(output, writer.images, writer.count, (*writer.losses(form), *data.notes), writer.painted)


class Writer:
    """Gives a format's `write` the images and labels of a data set, and counts what was written.

    Attributes:
        classes: class names of the data set.
        boxes_only: write boxes even where there are outlines.
    """

    def __init__(self, data: ImageData, *, boxes_only: bool, limits: ImageLimits) -> None:
        self.data, self.boxes_only, self.limits = data, boxes_only, limits
        self.classes = data.classes
        self.images = self.count = self.crowds = self.outlines = self.runs = self.bare = self.painted = 0
        self.names = _new_names(data)

    def splits(self) -> Iterator[tuple[str, ObjectSamples | MaskSamples]]:
        """Each split with the folder name for it, "" where nothing is split."""
        for name, samples in self.data.splits.items():
            yield ("" if name == "all" else name), samples

    def objects(self, samples: ObjectSamples | MaskSamples, folder: Path) -> Iterator[tuple[str, Objects]]:
        """Copy each image to `folder` and give its new name and its objects.

        Raises:
            DataError: these samples have masks.
        """
        if not isinstance(samples, ObjectSamples):
            raise DataError(
                f"{self.data.source!r} has masks: they do not tell one object from the next, as this format must.",
                "Masks are written as masks only: --to masks.",
            )
        for index in range(len(samples)):
            name = self._copy(samples, index, folder)
            objects = samples.objects(index)
            self.count += len(objects.labels)
            self.crowds += int(objects.crowd.sum())
            self.outlines += sum(map(bool, objects.outlines))
            shapes = list(zip(objects.outlines, objects.runs, objects.crowd.tolist(), strict=True))
            self.runs += sum(bool(runs) and not crowd for _, runs, crowd in shapes)
            self.bare += sum(not (rings or runs or crowd) for rings, runs, crowd in shapes)
            yield name, _without_outlines(objects) if self.boxes_only else objects

    def masks(self, samples: ObjectSamples | MaskSamples, folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Copy each image to `folder` and give its new name and its mask; objects are painted."""
        if isinstance(samples, ObjectSamples):
            for name, objects in self.objects(samples, folder):
                yield name, _paint(objects)
        else:
            for index in range(len(samples)):
                self.painted += 1
                yield self._copy(samples, index, folder), samples.open_mask(index, self.limits)

    def mask_classes(self) -> tuple[str, ...]:
        """Class names of masks: those of painted objects begin with the background."""
        if any(isinstance(samples, MaskSamples) for _, samples in self.splits()):
            return self.classes
        classes = ("background", *self.classes)
        if len(set(classes)) < len(classes) or len(classes) >= IGNORE:
            raise DataError(
                f"{len(classes) - 1} classes cannot become masks: one is called background, or they are too many."
            )
        return classes

    def text(self, path: Path, text: str) -> None:
        """Write a file, and the folders above it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _copy(self, samples: ObjectSamples | MaskSamples, index: int, folder: Path) -> str:
        name, source = self.names[str(samples.names[index])], samples.source(index, self.limits)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            (folder / name).write_bytes(source)
        else:
            shutil.copyfile(source, folder / name)
        self.images += 1
        return name

    def losses(self, form: Format) -> list[str]:
        """What the new format could not hold."""
        lost = []
        if self.crowds and "crowds" not in form.holds:
            became = (
                f"became {IGNORE}, the value to ignore"
                if form.target == "masks"
                else "left out: it has no word for them"
            )
            lost.append(f"{counted(self.crowds, 'crowd')} {became}")
        if self.runs and "runs" not in form.holds:
            lost.append(f"{counted(self.runs, 'mask')} given as run lengths became {_boxes(self.runs)}")
        if self.outlines and form.target == "objects" and (self.boxes_only or "outlines" not in form.holds):
            lost.append(f"{counted(self.outlines, 'outline')} became {_boxes(self.outlines)}")
        if self.bare and form.target == "masks":
            number = counted(self.bare, "box without an outline", "boxes without outlines")
            lost.append(f"{number} became {'a rectangle' if self.bare == 1 else 'rectangles'}: no shapes to learn")
        return lost


def _boxes(number: int) -> str:
    return "a box" if number == 1 else "boxes"


def _without_outlines(objects: Objects) -> Objects:
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    none = len(objects.labels)
    return objects._replace(outlines=((),) * none, runs=("",) * none, areas=sides.prod(1))


def _paint(objects: Objects) -> NDArray[np.uint8]:
    """(height, width): 0 for background, then the classes; small objects lie over large ones, crowds are ignored."""
    painted = np.zeros(objects.size, np.uint8)
    masks = objects.masks()
    for crowd in (True, False):
        for index in np.argsort(-masks.sum((1, 2)), kind="stable"):
            if objects.crowd[index] == crowd:
                painted[masks[index]] = IGNORE if crowd else objects.labels[index] + 1
    return painted


def _new_names(data: ImageData) -> dict[str, str]:
    """A file name for each image, by its old name: the same if it can be, always of its own stem."""
    found: dict[str, str] = {}
    stems: set[str] = set()
    for samples in data.splits.values():
        for old in map(str, samples.names):
            if old in found:
                continue
            stem, suffix = posixpath.splitext(posixpath.basename(old))
            if stem in stems:
                stem = posixpath.splitext(old.strip("/").replace("/", "_"))[0]
            number, free = 2, stem
            while free in stems:
                free, number = f"{stem}_{number}", number + 1
            stems.add(free)
            found[old] = free + suffix
    return found
