"""Masks: beside each image a picture of the same name whose values or colours are classes.

Known are `images/` beside `masks/` (or `annotations/`, `labels/`, `SegmentationClass/`), with train and val below or
above them. `classes.txt` names the classes: a name a line (value 0 first), `value, name`, or `name r g b` for coloured
masks.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.scene_labels import Frame, Problem, refuse_doubles, size_words, some
from dualtoken.data.scenes import IGNORE
from dualtoken.data.tree import Tree, split_of
from dualtoken.errors import DataError, ImageError
from dualtoken.images import ImageLimits, open_mask_image
from dualtoken.words import counted

_IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img", "jpegimages"})
_MASK_FOLDERS = frozenset({"masks", "mask", "annotations", "labels", "segmentationclass", "segmentation"})
_MASK_ENDINGS = ("", "_mask")
_OBJECT_MASKS = frozenset({"segmentationobject"})  # of VOC: they number objects, and train nothing
_CLASS_FILES = ("classes.txt", "classes.csv", "_classes.csv", "class_dict.csv", "labels.txt", "label_colors.txt")
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
_IGNORED_NAMES = frozenset({"ignore", "ignored", "void"})
_MAX_CLASSES = 254  # a mask in memory has 8 bits, and one value says ignore

_NUMBER = r"\s*(\d{1,3})\s*"
_SEPARATOR = r"[\s,;\t]"
_NAME_THEN_COLOUR = re.compile(rf"(.+?){_SEPARATOR}+{_NUMBER}{_SEPARATOR}{_NUMBER}{_SEPARATOR}{_NUMBER}")
_COLOUR_THEN_NAME = re.compile(rf"{_NUMBER}{_SEPARATOR}{_NUMBER}{_SEPARATOR}{_NUMBER}{_SEPARATOR}\s*(.+)")
_VALUE_THEN_NAME = re.compile(r"\s*(\d{1,5})\s*[,;:\t]\s*(.+)")
_HEADER = re.compile(r"\s*(name|class|label|pixel value|value|id|r)\s*[,;\t].*", re.IGNORECASE)


@dataclass(eq=False)
class MaskPlan:
    """What the names of files say about a data set with masks, before any is opened.

    Attributes:
        tree, layout, images, splits, problems, notes: as in `ScenePlan`.
        masks: name of each image's mask.
        key: what the class file says; None where there is none.
    """

    tree: Tree
    layout: str
    images: list[str]
    masks: list[str]
    splits: dict[str, list[int]]
    key: ClassKey | None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class ClassKey(NamedTuple):
    """Class names with the value (V,) or the colour (V, 3) of each, and the file that says so.

    A value may have no class: index `IGNORE` in `indices`.
    """

    classes: tuple[str, ...]
    values: NDArray[np.int64]
    indices: NDArray[np.uint8]
    where: str

    @property
    def coloured(self) -> bool:
        return self.values.ndim == 2


class MaskFacts(NamedTuple):
    """What one mask holds: (height, width), its values (V,) or colours (V, 3), and whether they are colours."""

    size: tuple[int, int]
    values: NDArray[np.int64]


def mask_pairs(tree: Tree) -> list[tuple[str, str]]:
    """(image, mask) of all images in `tree` with a mask of the same name in a folder for masks."""
    return _pairs(tree)[0]


def plan_masks(tree: Tree) -> MaskPlan:
    """What the names say; raises `DataError` where the class file is wrong."""
    pairs, images_alone, masks_alone = _pairs(tree)
    lists = _lists(tree)
    if lists:  # VOC: only a part of the images have masks, and lists say which
        listed = {stem for stems in lists.values() for stem in stems}
        pairs = [pair for pair in pairs if _stem(pair[0]) in listed]
        images_alone = [name for name in images_alone if _stem(name) in listed]
        masks_alone = []
    folders = sorted({posixpath.dirname(mask) for _, mask in pairs})
    names = [image for image, _ in pairs]
    splits = _listed_splits(names, lists) if lists else _folder_splits(names)
    plan = MaskPlan(tree, f"masks in {_words(folders)}", names, [mask for _, mask in pairs], splits, _class_key(tree))
    partly = any("segmentationclass" in folder.lower() for folder in folders)
    if images_alone and partly:
        plan.notes.append(f"{counted(len(images_alone), 'image')} without a mask: not used")
    else:
        plan.problems += [(tree.path(name), f"{tree.path(name)!r} has no mask.") for name in images_alone]
    plan.problems += [(tree.path(name), f"{tree.path(name)!r} is a mask without its image.") for name in masks_alone]
    return plan


def masks_among(names: Iterable[str], images: Iterable[str]) -> set[str]:
    """Those of `names` that are masks of `images`: files of the same name in a folder for masks.

    JPEGs are none, since masks do not survive them.
    """
    known = {(_place(name, _IMAGE_FOLDERS), _stem(name)) for name in images}
    found = set()
    for name in names:
        place = _place(name, _MASK_FOLDERS | _OBJECT_MASKS)
        if place is not None and not name.lower().endswith(_LOSSY):
            stems = [_stem(name).removesuffix(end) for end in _MASK_ENDINGS]
            found |= {name} if any((place, stem) in known for stem in stems) else set()
    return found


def image_folders(root: Path, folder: str) -> Iterator[str]:
    """Folders that would hold the images of masks in `folder`; all relative to `root`, with `/` between the parts."""
    place = _place(f"{folder}/", _MASK_FOLDERS | _OBJECT_MASKS)
    if place is None:
        return
    before, _, after = place.partition("*")
    for name in sorted(os.listdir(root / before)):  # noqa: PTH208
        if name.lower() in _IMAGE_FOLDERS and (root / (beside := f"{before}{name}{after}")).is_dir():
            yield beside


def _pairs(tree: Tree) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Pairs, and the images and masks that stay alone although their folder has pairs."""
    images: dict[tuple[str, str], str] = {}
    masks: dict[tuple[str, str], str] = {}
    for name in tree.images:
        for folders, found in ((_IMAGE_FOLDERS, images), (_MASK_FOLDERS, masks)):
            if (place := _place(name, folders)) is not None:
                found[place, _stem(name)] = name
    pairs, used = [], set()
    for (place, stem), image in images.items():
        mask = next((masks[place, stem + end] for end in _MASK_ENDINGS if (place, stem + end) in masks), None)
        if mask is not None and mask != image:
            pairs.append((image, mask))
            used |= {image, mask}
    places = {place for (place, _), image in images.items() if image in used}
    alone = [name for (place, _), name in images.items() if place in places and name not in used]
    alone_masks = [name for (place, _), name in masks.items() if place in places and name not in used]
    return pairs, alone, alone_masks


def _place(name: str, folders: frozenset[str]) -> str | None:
    """The folder of `name` with a star for the last part that is one of `folders`; None where none is."""
    parts = posixpath.dirname(name).split("/")
    for index in range(len(parts) - 1, -1, -1):
        if parts[index].lower() in folders:
            return "/".join([*parts[:index], "*", *parts[index + 1 :]])
    return None


def _stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0]


def _words(folders: Sequence[str]) -> str:
    return ", ".join(f"{folder}/" for folder in folders[:3]) + (" ..." if len(folders) > 3 else "")


def _lists(tree: Tree) -> dict[str, set[str]]:
    """Stems of each split by VOC's `ImageSets/Segmentation/*.txt`."""
    return image_sets(tree, "segmentation")


def image_sets(tree: Tree, purpose: str) -> dict[str, set[str]]:
    """Split to stems of images, by VOC's lists `ImageSets/PURPOSE/{train,val,trainval,test}.txt`."""
    found: dict[str, set[str]] = {}
    for name in tree.with_suffix(".txt"):
        *_, sets, folder, base = ["", "", *name.lower().split("/")]
        if sets == "imagesets" and folder == purpose and base in ("train.txt", "val.txt", "trainval.txt", "test.txt"):
            stems = {line.split()[0] for line in tree.text(name).splitlines() if line.strip()}
            found[base.removesuffix(".txt")] = stems
    both = found.pop("trainval", None)
    if both is not None and not {"train", "val"} & set(found):
        found["train"] = both
    return found


def _listed_splits(images: Sequence[str], lists: dict[str, set[str]]) -> dict[str, list[int]]:
    stems = [_stem(name) for name in images]
    found = {split: [i for i, stem in enumerate(stems) if stem in listed] for split, listed in lists.items()}
    return {split: indices for split, indices in found.items() if indices}


def _folder_splits(images: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, name in enumerate(images):
        found.setdefault(split_of(name), []).append(index)
    return found if "" not in found else {}


# --- class files ---------------------------------------------------------------------------------------------------


def _class_key(tree: Tree) -> ClassKey | None:
    found = [name for name in tree.names if posixpath.basename(name).lower() in _CLASS_FILES]
    found = [name for name in found if "labels" not in posixpath.dirname(name).lower().split("/")] or found
    if not found:
        return None
    order = {name: place for place, name in enumerate(_CLASS_FILES)}
    name = min(found, key=lambda name: (name.count("/"), order[posixpath.basename(name).lower()]))
    return parse_class_file(tree.text(name), tree.path(name))


def parse_class_file(text: str, where: str) -> ClassKey:
    """The classes of a class file: a name a line, `value, name`, `name r g b` or `r g b name`.

    A class called void or ignore is none: its pixels neither train nor count.

    Raises:
        DataError: its lines are not of one kind, or a class, value or colour stands there twice.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if lines and _HEADER.fullmatch(lines[0][1]) and not any(c.isdigit() for c in lines[0][1]):
        lines = lines[1:]
    if not lines:
        raise DataError(f"{where!r} names no classes.", "Write a class name a line; the first is value 0.")
    names, values = _parsed_lines(lines, where)
    if len(np.unique(values, axis=0)) < len(values):
        raise DataError(f"{where!r}: two classes have the same value or colour.", "Give each its own.")
    kept = [name for name in names if name.lower() not in _IGNORED_NAMES]
    refuse_doubles(kept, repr(where))
    if not 2 <= len(kept) <= _MAX_CLASSES:
        raise DataError(f"{where!r} names {counted(len(kept), 'class', 'classes')}, expected 2 to {_MAX_CLASSES}.")
    index = np.array([kept.index(name) if name in kept else IGNORE for name in names], np.uint8)
    return ClassKey(tuple(kept), values, index, where)


def _parsed_lines(lines: list[tuple[int, str]], where: str) -> tuple[list[str], NDArray[np.int64]]:
    for pattern, parts in (
        (_NAME_THEN_COLOUR, lambda m: (m[1], [m[2], m[3], m[4]])),
        (_COLOUR_THEN_NAME, lambda m: (m[4], [m[1], m[2], m[3]])),
        (_VALUE_THEN_NAME, lambda m: (m[2], m[1])),
    ):
        matches = [pattern.fullmatch(line) for _, line in lines]
        if all(matches):
            found = [parts(match) for match in matches]
            values = np.array([value for _, value in found]).astype(np.int64)
            if values.ndim == 2 and values.max() > 255:
                number, line = lines[int(values.max(1).argmax())]
                raise DataError(f"{where!r}, line {number}: a colour has parts from 0 to 255, found {line!r}.")
            return [name.strip(" ,;\t\"'") for name, _ in found], values
        if pattern is not _VALUE_THEN_NAME and 2 * sum(map(bool, matches)) > len(lines):
            number, line = lines[matches.index(None)]
            raise DataError(f"{where!r}, line {number}: {line!r}, expected a name and a colour as in the other lines.")
    return [line for _, line in lines], np.arange(len(lines))


# --- masks themselves ----------------------------------------------------------------------------------------------


def mask_facts(source: str | bytes, name: str, limits: ImageLimits, *, coloured: bool) -> MaskFacts:
    """Decode one mask and list what is in it: its colours if `coloured`, else its values.

    Raises:
        ImageError: it cannot be read, is stored with loss, or has colours where values are expected.
    """
    if name.lower().endswith(_LOSSY):
        raise ImageError(f"The mask {name!r} is a JPEG, which changes values: save masks as PNG.")
    image = open_mask_image(source, name=name, limits=limits)
    size = image.height, image.width
    if coloured:
        pixels = np.asarray(image.convert("RGB")).astype(np.int64) @ np.array([65536, 256, 1])
        colours = np.unique(pixels)
        return MaskFacts(size, np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1))
    values = np.asarray(image)
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ImageError(
                f"The mask {name!r} is coloured, and no class file gives the colours: "
                "write classes.txt with a line `name r g b` for each class."
            )
        values = values[..., 0]
    if values.dtype == np.uint8:
        return MaskFacts(size, np.flatnonzero(np.bincount(values.ravel(), minlength=256)))
    return MaskFacts(size, np.unique(values).astype(np.int64))


@dataclass
class MaskKey:
    """What the values in masks mean, once all are known.

    Attributes:
        classes: their names.
        table: for `MaskSamples`.
        named: whether a file names the classes.
        notes: what a person should know.
        unknown: the values or colours that mean nothing, as rows; their masks are wrong.
    """

    classes: tuple[str, ...]
    table: NDArray[np.uint8]
    named: bool
    notes: list[str]
    unknown: NDArray[np.int64]


def decide_key(plan: MaskPlan, found: Sequence[NDArray[np.int64]]) -> MaskKey:
    """What values mean, from the class file and the values `found` in each mask.

    Raises:
        DataError: without a class file, there are too few or too many values.
    """
    key = plan.key
    if key is not None and key.coloured:
        return _coloured_key(key, found)
    values = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    if key is None:
        return _invented_key(plan, values)
    notes = _ignored_note(key)
    known, index = key.values, key.indices
    if len(key.classes) == 2 and known.tolist() == [0, 1] and values.tolist() in ([0, IGNORE], [IGNORE]):
        known = np.array([0, IGNORE])
        notes.append(f"the masks hold 0 and 255 only: 255 is {key.classes[1]!r}")
    table = _table(known, index)
    unknown = np.setdiff1d(values, [*known.tolist(), IGNORE])
    if len(unknown) == 1:
        notes.append(f"the value {unknown[0]} has no class in {key.where!r}: its pixels neither train nor count")
        unknown = unknown[:0]
    return MaskKey(key.classes, table, True, notes, unknown)


def _coloured_key(key: ClassKey, found: Sequence[NDArray[np.int64]]) -> MaskKey:
    kept = key.indices != IGNORE
    table = key.values[kept][np.argsort(key.indices[kept])].astype(np.uint8)
    colours = np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 3), np.int64)
    known = {tuple(colour) for colour in key.values.tolist()}
    unknown = np.array([colour for colour in colours.tolist() if tuple(colour) not in known]).reshape(-1, 3)
    notes = _ignored_note(key)
    if len(unknown) == 1:
        colour = " ".join(map(str, unknown[0]))
        notes.append(f"the colour {colour} has no class in {key.where!r}: its pixels neither train nor count")
        unknown = unknown[:0]
    return MaskKey(key.classes, table, True, notes, unknown)


def _invented_key(plan: MaskPlan, values: NDArray[np.int64]) -> MaskKey:
    binary = set(values.tolist()) <= {0, IGNORE} and IGNORE in values
    kept = values if binary else values[values != IGNORE]
    if len(kept) < 2:
        raise DataError(
            f"The masks in {plan.tree.root!r} hold {counted(len(kept), 'value')} besides {IGNORE}, expected 2 or more.",
            "A class file, classes.txt with a name a line, says which values are classes.",
        )
    if len(kept) > _MAX_CLASSES:
        raise DataError(
            f"The masks in {plan.tree.root!r} hold {len(kept)} values, expected at most {_MAX_CLASSES} classes.",
            "Do they number the objects rather than the classes?",
        )
    classes = tuple(f"class_{value}" for value in kept)
    notes = [f"no classes.txt names the classes: they are called after the values found, {some(classes)}"]
    notes += ["the masks hold 0 and 255 only: 255 is taken as a class"] if binary else []
    return MaskKey(classes, _table(kept, np.arange(len(kept))), False, notes, values[:0])


def _ignored_note(key: ClassKey) -> list[str]:
    ignored = int((key.indices == IGNORE).sum())
    if not ignored:
        return []
    return [f"{counted(ignored, 'class is', 'classes are')} called void or ignore: such pixels neither train nor count"]


def _table(values: NDArray[np.int64], index: NDArray[np.integer]) -> NDArray[np.uint8]:
    table = np.full(int(values.max()) + 1, IGNORE, np.uint8)
    table[values] = index
    return table


def classes_in(facts: MaskFacts, table: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Which class indices a mask with these values holds."""
    if table.ndim == 1:
        index = table[facts.values[facts.values < len(table)]]
        return np.unique(index[index != IGNORE]).astype(np.int64)
    places = {tuple(colour): place for place, colour in enumerate(table.tolist())}
    return np.array(sorted({places[c] for c in map(tuple, facts.values.tolist()) if c in places}), np.int64)


def mask_problem(facts: MaskFacts, frame: Frame, key: MaskKey, path: str) -> str | None:
    """What is wrong with a mask; None where nothing is."""
    if facts.size != frame.size:
        turned = ""
        if facts.size == frame.stored:
            turned = (
                " EXIF turns the image, the mask was drawn on it lying on its side: remove the orientation from it."
            )
        return f"The mask {path!r} is {size_words(facts.size)}, its image {size_words(frame.size)}.{turned}"
    unknown = {tuple(np.atleast_1d(value).tolist()) for value in key.unknown}
    wrong = [value for value in facts.values.tolist() if tuple(np.atleast_1d(value).tolist()) in unknown]
    if not wrong:
        return None
    shown = ", ".join(" ".join(map(str, np.atleast_1d(value).tolist())) for value in wrong[:5])
    expected = "colours of the class file" if key.table.ndim == 2 else f"{len(key.classes)} classes and {IGNORE}"
    return f"The mask {path!r} has values without a class: {shown}; expected {expected}."
