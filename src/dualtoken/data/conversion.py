"""`convert`: a data set with labels in one format, written anew in another."""

from __future__ import annotations

import colorsys
import json
import posixpath
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from dualtoken.data.coco import annotations_of, category_list
from dualtoken.data.index import ImageData
from dualtoken.data.scene_sources import LABEL_KINDS, Labels, find_scenes
from dualtoken.data.scenes import IGNORE, MaskSamples, Objects, ObjectSamples
from dualtoken.data.sources import OnBadImage
from dualtoken.data.voc import annotation_text
from dualtoken.data.yolo import label_text
from dualtoken.errors import ConfigError, DataError, OutputError, cannot_write, unknown_name
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.words import counted

_SHADES = 0.618  # the golden section spreads hues evenly, however many there are


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
    task: str | None = None,
    labels: Labels = "auto",
    on_bad_image: OnBadImage = "fail",
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
        task: as for `find_scenes`; `detection` writes boxes even where there are outlines.
        labels, on_bad_image, limits, progress: as for `find_scenes`.

    Raises:
        DataError: the source cannot be used, or the new format cannot hold it.
        OutputError: the folder is not empty or cannot be written.
    """
    if to not in LABEL_KINDS:
        raise ConfigError(unknown_name("format", to, LABEL_KINDS), f"Formats are {', '.join(LABEL_KINDS)}.")
    output = Path(output)
    _refuse_full(output)
    data = find_scenes(
        source, task=task, labels=labels, val_fraction=0, on_bad_image=on_bad_image, limits=limits, progress=progress
    )
    writer = _Writer(data, boxes_only=task == "detection", limits=limits)
    with _whole_folder(output) as folder:
        writer.write(folder, to)
    return Conversion(output, writer.images, writer.objects, (*writer.losses(to), *data.notes), writer.masks)


def _refuse_full(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{str(output)!r} is there already and is not an empty folder.", "Choose another --output.")


@contextmanager
def _whole_folder(output: Path) -> Iterator[Path]:
    """A folder that becomes `output` in the end, or goes where anything fails."""
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    except OSError as error:
        raise cannot_write(output, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Writer:
    """Writes the images and labels of `data` below a folder."""

    def __init__(self, data: ImageData, *, boxes_only: bool, limits: ImageLimits) -> None:
        self.data, self.boxes_only, self.limits = data, boxes_only, limits
        self.images = self.objects = self.crowds = self.outlines = self.runs = self.boxes = self.masks = 0
        self.names = _new_names(data)

    def write(self, folder: Path, to: str) -> None:
        for split, samples in self.splits():
            if isinstance(samples, MaskSamples) and to != "masks":
                raise DataError(
                    f"{self.data.source!r} has masks: they do not tell one object from the next, as {to} must.",
                    "Masks are written as masks only: --to masks.",
                )
            writers: dict[str, Callable[[Path, str, Any], None]] = {
                "coco": self._coco, "yolo": self._yolo, "voc": self._voc, "masks": self._masks
            }  # fmt: skip
            writers[to](folder, split, samples)
        if to == "yolo":
            _write(folder / "data.yaml", self._data_yaml())
        if to == "masks":
            _write(folder / "classes.txt", "".join(f"{name}\n" for name in self._mask_classes()))

    def splits(self) -> Iterator[tuple[str, ObjectSamples | MaskSamples]]:
        """Each split with the folder name for it, "" where nothing is split."""
        for name, samples in self.data.splits.items():
            yield ("" if name == "all" else name), samples

    def losses(self, to: str) -> list[str]:
        """What the new format could not hold."""
        lost = []
        if to == "yolo" and self.crowds:
            lost.append(f"{counted(self.crowds, 'crowd')} left out: YOLO has no word for them")
        if self.crowds and to == "masks":
            lost.append(f"{counted(self.crowds, 'crowd')} became {IGNORE}, the value to ignore")
        if self.runs and to in ("yolo", "voc"):
            lost.append(f"{counted(self.runs, 'mask')} given as run lengths became {_boxes(self.runs)}")
        if self.outlines and (to == "voc" or (to == "yolo" and self.boxes_only)):
            lost.append(f"{counted(self.outlines, 'outline')} became {_boxes(self.outlines)}")
        if self.boxes and to == "masks":
            number = counted(self.boxes, "box without an outline", "boxes without outlines")
            lost.append(f"{number} became {'a rectangle' if self.boxes == 1 else 'rectangles'}: no shapes to learn")
        return lost

    def _each(self, samples: ObjectSamples, folder: Path) -> Iterator[tuple[str, Objects]]:
        """Copy each image to `folder` and give its new name and its objects."""
        for index in range(len(samples)):
            name = self._copy(samples, index, folder)
            objects = samples.objects(index)
            self.objects += len(objects.labels)
            self.crowds += int(objects.crowd.sum())
            self.outlines += sum(map(bool, objects.outlines))
            self.runs += sum(bool(runs) and not crowd for runs, crowd in zip(objects.runs, objects.crowd, strict=True))
            self.boxes += sum(
                not (rings or runs or crowd)
                for rings, runs, crowd in zip(objects.outlines, objects.runs, objects.crowd, strict=True)
            )
            yield name, objects

    def _copy(self, samples: ObjectSamples | MaskSamples, index: int, folder: Path) -> str:
        name, source = self.names[str(samples.names[index])], samples.source(index, self.limits)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            (folder / name).write_bytes(source)
        else:
            shutil.copyfile(source, folder / name)
        self.images += 1
        return name

    def _coco(self, folder: Path, split: str, samples: ObjectSamples) -> None:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for name, objects in self._each(samples, folder / "images" / split):
            height, width = objects.size
            file_name = posixpath.join("images", split, name)
            images.append({"id": len(images) + 1, "file_name": file_name, "width": width, "height": height})
            if self.boxes_only:
                objects = _without_outlines(objects)
            annotations += annotations_of(objects, len(images), len(annotations) + 1)
        content = {"images": images, "annotations": annotations, "categories": category_list(self.data.classes)}
        stem = f"instances_{split}" if split else "instances"
        _write(folder / "annotations" / f"{stem}.json", json.dumps(content, ensure_ascii=False, allow_nan=False))

    def _yolo(self, folder: Path, split: str, samples: ObjectSamples) -> None:
        for name, objects in self._each(samples, folder / "images" / split):
            text = label_text(objects, outlines=not self.boxes_only)
            _write(folder / "labels" / split / f"{posixpath.splitext(name)[0]}.txt", text)

    def _data_yaml(self) -> str:
        folders = {split or "train": posixpath.join("images", split).rstrip("/") for split, _ in self.splits()}
        content = {"path": ".", **folders, "names": dict(enumerate(self.data.classes))}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    def _voc(self, folder: Path, split: str, samples: ObjectSamples) -> None:
        stems = []
        for name, objects in self._each(samples, folder / "JPEGImages"):
            stems.append(posixpath.splitext(name)[0])
            _write(folder / "Annotations" / f"{stems[-1]}.xml", annotation_text(objects, self.data.classes, name))
        if split:
            _write(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))

    def _masks(self, folder: Path, split: str, samples: ObjectSamples | MaskSamples) -> None:
        target = folder / "masks" / split
        target.mkdir(parents=True, exist_ok=True)
        for name, mask in self._painted(samples, folder / "images" / split):
            image = Image.fromarray(mask)
            image.putpalette(_palette(len(self._mask_classes())))
            image.save(target / f"{posixpath.splitext(name)[0]}.png")

    def _painted(self, samples: ObjectSamples | MaskSamples, folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        if isinstance(samples, MaskSamples):
            for index in range(len(samples)):
                self.masks += 1
                yield self._copy(samples, index, folder), samples.open_mask(index, self.limits)
        else:
            for name, objects in self._each(samples, folder):
                yield name, _paint(objects)

    def _mask_classes(self) -> tuple[str, ...]:
        if isinstance(next(samples for _, samples in self.splits()), MaskSamples):
            return self.data.classes
        classes = ("background", *self.data.classes)
        if len(set(classes)) < len(classes) or len(classes) >= IGNORE:
            raise DataError(
                f"{len(classes) - 1} classes cannot become masks: one is called background, or they are too many."
            )
        return classes


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


def _palette(classes: int) -> list[int]:
    """A colour for each of 256 values: the first black, `IGNORE` white, the classes well apart."""
    colours = [colorsys.hsv_to_rgb(number * _SHADES % 1, 0.75, 0.9) for number in range(256)]
    flat = [round(255 * part) for colour in colours for part in colour]
    return [0, 0, 0, *flat[3 : 3 * IGNORE], 255, 255, 255]


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


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
