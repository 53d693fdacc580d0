"""COCO's json: images, categories, and annotations with a box and polygons or run lengths.

Known are `annotations/instances_train2017.json` beside `train2017/`, one json in each split's folder
(`train/_annotations.coco.json`), and a single json with the images anywhere beside or below it.
"""

from __future__ import annotations

import codecs
import json
import math
import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.data import runs as run_lengths
from dualtoken.data.scene_labels import (
    ObjectList,
    Problem,
    ScenePlan,
    check_frame,
    refuse_doubles,
    side_given,
    size_words,
    some,
)
from dualtoken.data.scenes import Objects
from dualtoken.data.tree import Tree, split_named, split_of
from dualtoken.errors import DataError, unknown_name
from dualtoken.words import counted

_MANY = 50
_SHOWN = 3
_LINES_LOOKED_UP = 50  # each reads the file again
_PARTS = ("images", "annotations", "categories")
_OUTLINE = re.compile(rb'"segmentation"\s*:\s*(\[\s*\[|\{)')
_KEYS = [re.compile(rb'"' + part.encode() + rb'"\s*:\s*\[') for part in _PARTS]


def coco_files(tree: Tree) -> list[str]:
    """The json files in `tree` that have COCO's three lists; where some are called instances, those alone."""
    return _sorted_files(tree)[0]


def not_coco(tree: Tree) -> list[str]:
    """Of the json files in `tree` that are not COCO's, why not, a sentence each; the first few where they are many."""
    others = [name for name in _json_files(tree) if not _looks_like_coco(tree.read(name))]
    return [*_refusals(tree, others[:_SHOWN]), *([f"and {len(others) - _SHOWN} more"] if others[_SHOWN:] else [])]


def _json_files(tree: Tree) -> list[str]:
    names = tree.with_suffix(".json")
    if len(names) > _MANY:  # some tools write one beside each image: those are not read
        stems = {posixpath.splitext(name)[0] for name in tree.images}
        names = [name for name in names if posixpath.splitext(name)[0] not in stems]
    return names


def _sorted_files(tree: Tree) -> tuple[list[str], list[str]]:
    """The json files that have COCO's three lists, and those that end too early to tell."""
    found, cut = list[str](), list[str]()
    for name in _json_files(tree):
        content = tree.read(name)
        if _looks_like_coco(content):
            found.append(name)
        elif _without_mark(content).lstrip()[:1] == b"{" and content.rstrip()[-1:] != b"}":
            cut.append(name)
    instances = [name for name in found if _is_instances(name)]
    return (instances, list(filter(_is_instances, cut))) if instances else (found, cut)


def _is_instances(name: str) -> bool:
    return "instances" in posixpath.basename(name).lower()


def _refusals(tree: Tree, names: Sequence[str]) -> list[str]:
    reasons = []
    for name in names:
        try:
            _parsed(tree, name)
        except DataError as error:
            reasons.append(error.message)
    return reasons


def coco_has_outlines(tree: Tree) -> bool:
    """Whether a json file of COCO's has polygons or run lengths."""
    return any(_OUTLINE.search(tree.read(name)) for name in coco_files(tree))


def plan_coco(tree: Tree, files: Sequence[str] | None = None) -> ScenePlan:
    """What COCO's json files say; `files` where they are known.

    Raises:
        DataError: a file is damaged, or several are meant for one split.
    """
    names, cut = _sorted_files(tree) if files is None else (list(files), [])
    split_by_file = _splits(tree, names)
    files_read = [_File(tree, name, split_by_file[name]) for name in names]
    classes = _classes(files_read)
    plan = ScenePlan(tree, f"COCO json {', '.join(names)}", classes, [], {}, lambda i, found: entries[i].add_to(found))
    entries: list[_Entry] = []
    plan.problems += [(tree.path(name), reason) for name in cut for reason in _refusals(tree, [name])]
    for file in files_read:
        own = file.entries(plan.problems)
        splits = [file.split or split_of(entry.image) for entry in own]
        for entry, split in zip(own, splits if all(splits) else [""] * len(own), strict=True):
            plan.images.append(entry.image)
            if split:
                plan.splits.setdefault(split, []).append(len(entries))
            entries.append(entry)
        file.number_classes(classes)
        plan.notes += file.notes
    folders = {posixpath.dirname(name) for name in plan.images}
    unused = len({name for name in tree.images if posixpath.dirname(name) in folders} - set(plan.images))
    plan.notes += [f"{counted(unused, 'image stands', 'images stand')} in no json: not used"] if unused else []
    return plan


def _looks_like_coco(content: bytes) -> bool:
    return _without_mark(content).lstrip()[:1] == b"{" and all(key.search(content) for key in _KEYS)


def _without_mark(content: bytes) -> bytes:
    return content.removeprefix(codecs.BOM_UTF8)  # some editors write it


def _splits(tree: Tree, names: Sequence[str]) -> dict[str, str]:
    """The split of each json, by its name or its folder."""
    found = {name: _split_of_file(name) for name in names}
    if len(names) > 1 and (len(set(found.values())) < len(names) or "" in found.values()):
        raise DataError(
            f"{tree.root!r} holds several COCO json files whose names do not tell their splits: {some(names)}.",
            "Give the path of one, or put train, val or test into their names.",
        )
    return found


def _split_of_file(name: str) -> str:
    stem = posixpath.splitext(posixpath.basename(name))[0]
    words = [split_named(word) for word in re.split(r"[_\-. ]", stem)]
    return next(filter(None, words), "") or split_of(name)


def _classes(files: Sequence[_File]) -> tuple[str, ...]:
    """Those of train, else of all, in the order of their ids; other files may have fewer but no others."""
    reference = next((file for file in files if file.split == "train"), files[0])
    classes = tuple(reference.categories.values())
    for file in files:
        strangers = [name for name in file.categories.values() if name not in classes]
        if strangers:
            raise DataError(
                f"{file.where!r} has {counted(len(strangers), 'category', 'categories')} that {reference.where!r}"
                f" has not: {some(strangers)}.",
                unknown_name("class", strangers[0], classes),
            )
    return classes


class _File:
    """One json file, parsed."""

    def __init__(self, tree: Tree, name: str, split: str) -> None:
        self.tree, self.name, self.split, self.where = tree, name, split, tree.path(name)
        self.notes: list[str] = []
        content = _parsed(tree, name)
        self.images, self.annotations = content["images"], content["annotations"]
        self.categories = self._categories(content["categories"])
        self.labels: dict[int, int] = {}
        self.lines_left = _LINES_LOOKED_UP

    def number_classes(self, classes: Sequence[str]) -> None:
        """Fix which index each category id stands for."""
        self.labels = {number: classes.index(name) for number, name in self.categories.items()}

    def _categories(self, given: list[Any]) -> dict[int, str]:
        for place, category in enumerate(given):
            if not (
                isinstance(category, dict) and _is_id(category.get("id")) and isinstance(category.get("name"), str)
            ):
                raise DataError(f"{self.where!r}, categories[{place}]: expected an id (a whole number) and a name.")
        found = {category["id"]: category["name"] for category in sorted(given, key=lambda category: category["id"])}
        if len(found) < len(given):
            raise DataError(f"{self.where!r}: two categories have the same id.", "Give each its own.")
        refuse_doubles(list(found.values()), f"{self.where!r}, categories")
        named = (item.get("category_id") for item in self.annotations if isinstance(item, dict))
        used = {number for number in named if _is_id(number)}
        # Some exports put the group of all classes first, as a category that nothing belongs to.
        groups = {
            category.get("supercategory") for category in given if category["name"] != category.get("supercategory")
        }
        for number, name in list(found.items()):
            if number not in used and name in groups and len(found) > 1:
                del found[number]
                self.notes.append(f"the category {name!r} is only the group of others and has no objects: not a class")
        if not found:
            raise DataError(f"{self.where!r} names no categories.")
        return found

    def entries(self, problems: list[Problem]) -> list[_Entry]:
        """One for each image that is there, with its annotations; what is wrong goes to `problems`."""
        by_image: dict[int, list[tuple[int, Any]]] = defaultdict(list)
        numbers = (image.get("id") for image in self.images if isinstance(image, dict))
        known = {number for number in numbers if _is_id(number)}
        for place, annotation in enumerate(self.annotations):
            number = annotation.get("image_id") if isinstance(annotation, dict) else None
            if isinstance(number, int) and _is_id(number) and number in known:
                by_image[number].append((place, annotation))
            else:
                reason = f"{self.at(place, annotation)}: it belongs to the image {number!r}, which is not listed."
                problems.append((self.where, reason))
        self.annotations = []
        found, seen = [], set[int]()
        for place, image in enumerate(self.images):
            where = f"{self.where!r}, images[{place}]"
            if (
                not isinstance(image, dict)
                or not _is_id(image.get("id"))
                or not isinstance(image.get("file_name"), str)
            ):
                problems.append((self.where, f"{where}: expected an id (a whole number) and a file_name."))
                continue
            if image["id"] in seen:
                raise DataError(f"{where}: the id {image['id']} stands there twice.", "Give each image its own.")
            seen.add(image["id"])
            name = self._find(image["file_name"])
            if name is None:
                reason = f"{where}: there is no image {image['file_name']!r} in {self.tree.root!r}."
                problems.append((image["file_name"], reason))
                continue
            found.append(_Entry(self, name, where, image.get("height"), image.get("width"), by_image[image["id"]]))
        self.images = []
        return found

    def _find(self, path: str) -> str | None:
        return self.tree.find_image(path, near=posixpath.dirname(self.name), split=self.split)

    def at(self, place: int, annotation: Any) -> str:
        """Where an annotation stands, in words, with its line where the file has lines."""
        number = annotation.get("id") if isinstance(annotation, dict) else None
        line = self._line(number) if isinstance(number, int) else None
        words = [f"{self.where!r}" + (f", line {line}" if line else ""), f"annotations[{place}]"]
        return ", ".join(words) + (f" (id {number})" if number is not None else "")

    def _line(self, number: int) -> int | None:
        """Line of the annotation with that id; asked where something is wrong, so the file is read again."""
        if self.lines_left == 0:
            return None
        self.lines_left -= 1
        content = self.tree.read(self.name)
        start = _KEYS[1].search(content)
        match = re.compile(rb'"id"\s*:\s*%d\b' % number).search(content, start.end() if start else 0)
        before = content[: match.start()].count(b"\n") if match else 0
        return before + 1 if before else None


def _parsed(tree: Tree, name: str) -> dict[str, list[Any]]:
    path = tree.path(name)
    try:
        content = json.loads(tree.text(name))
    except json.JSONDecodeError as error:
        raise DataError(f"{path!r} is no JSON in line {error.lineno}: {error.msg}.", "Save it again.") from None
    except RecursionError:
        raise DataError(f"{path!r} is nested too deeply for COCO's format.") from None
    hint = f"COCO's format has {', '.join(_PARTS)}."
    if not isinstance(content, dict):
        raise DataError(f"{path!r} is no COCO json: it holds {type(content).__name__}, expected three lists.", hint)
    missing = [part for part in _PARTS if not isinstance(content.get(part), list)]
    if missing:
        has = f"its keys are {some(list(content))}" if content else "it is empty"
        raise DataError(f"{path!r} is no COCO json: it has no list {' and no list '.join(missing)}; {has}.", hint)
    return {part: content[part] for part in _PARTS}


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass
class _Entry:
    """One image of a json with its annotations, which are let go once they have become arrays."""

    file: _File
    image: str
    where: str
    height: Any
    width: Any
    annotations: list[tuple[int, Any]]

    def add_to(self, found: ObjectList) -> None:
        where = f"{self.where} ({self.image!r})"
        height, width = side_given(self.height, "height", where), side_given(self.width, "width", where)
        if height is not None and width is not None:
            check_frame((height, width), found.frame, where)
        for place, annotation in self.annotations:
            try:
                self._add(found, annotation, found.size)
            except DataError as error:  # where it stands is looked up only now
                raise DataError(f"{self.file.at(place, annotation)}{error.message}", error.hint) from None
        self.annotations = []

    def _add(self, found: ObjectList, annotation: dict[str, Any], size: tuple[int, int]) -> None:
        number = annotation.get("category_id")
        if not _is_id(number) or number not in self.file.labels:
            ids = list(self.file.labels)
            raise DataError(f": category {number!r}, expected one of the {len(ids)} ids from {min(ids)} to {max(ids)}.")
        box = None if annotation.get("bbox") is None else _corners(annotation["bbox"])
        area = annotation.get("area")
        area = area if isinstance(area, float) or _is_id(area) else None
        crowd = bool(annotation.get("iscrowd", 0))
        shape = annotation.get("segmentation")
        label = self.file.labels[number]
        if isinstance(shape, dict):
            runs, pixels, around = _runs(shape, size)
            found.add(label, "", box=around if box is None else box, runs=runs, area=area or pixels, crowd=crowd)
        elif isinstance(shape, list) and shape:
            found.add(label, "", box=box, rings=[_ring(flat) for flat in shape], area=area, crowd=crowd)
        elif box is None:
            raise DataError(": neither a bbox nor a segmentation.")
        else:
            found.add(label, "", box=box, area=area, crowd=crowd)


def _numbers(given: Any) -> NDArray[np.float64]:
    # json has whole numbers without a limit, and true is a number to Python.
    if not isinstance(given, list) or not set(map(type, given)) <= {int, float}:
        raise DataError(f": expected a list of numbers, found {str(given)[:60]}.")
    try:
        return np.array(given, np.float64)
    except OverflowError:
        return np.full(len(given), np.nan)


def _corners(given: Any) -> list[float]:
    numbers = _numbers(given).tolist()
    if len(numbers) != 4:
        raise DataError(f": a bbox of {counted(len(numbers), 'number')}, expected left, top, width, height.")
    left, top, width, height = numbers
    return [left, top, left + width, top + height]


def _ring(given: Any) -> NDArray[np.float64]:
    numbers = _numbers(given)
    if len(numbers) % 2:
        raise DataError(f": a polygon of {counted(len(numbers), 'number')}, expected x and y in turn.")
    return numbers.reshape(-1, 2)


def _runs(shape: dict[str, Any], size: tuple[int, int]) -> tuple[str, float, tuple[int, int, int, int]]:
    """Compressed run lengths, their area and box; `size` is the image's."""
    given, counts = shape.get("size"), shape.get("counts")
    if given != list(size):
        words = size_words((given[0], given[1])) if isinstance(given, list) and len(given) == 2 else repr(given)
        raise DataError(f": run lengths for {words}, the image is {size_words(size)}.")
    try:
        if isinstance(counts, str):
            lengths = run_lengths.unpack(counts)
        elif isinstance(counts, list) and all(map(_is_id, counts)):
            lengths = counts
        else:
            raise ValueError("counts is neither a string nor a list of whole numbers")
        run_lengths.check(lengths, size)
    except ValueError as error:
        raise DataError(f": {error}.") from None
    area, box = run_lengths.area_and_box(lengths, size[0])
    if box is None:
        raise DataError(": run lengths of an empty mask.")
    return run_lengths.pack(lengths), float(area), box


def category_list(classes: Sequence[str]) -> list[dict[str, Any]]:
    """COCO's categories for `classes`, numbered from 1."""
    return [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(classes, 1)]


def annotations_of(objects: Objects, image: int, first: int) -> list[dict[str, Any]]:
    """COCO's annotations of one image's objects, numbered from `first`; categories as in `category_list`."""
    found = []
    for number, (box, label, crowd, area, outline, runs) in enumerate(
        zip(
            objects.boxes.tolist(), objects.labels.tolist(), objects.crowd.tolist(), objects.areas.tolist(),
            objects.outlines, objects.runs, strict=True,
        ),
        first,
    ):  # fmt: skip
        shape: Any = [_rounded(ring.ravel().tolist()) for ring in outline]
        if runs:
            # Crowds are stored uncompressed, as COCO itself does.
            shape = {"size": list(objects.size), "counts": run_lengths.unpack(runs) if crowd else runs}
        corner = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        found.append(
            {
                "id": number, "image_id": image, "category_id": label + 1, "bbox": _rounded(corner),
                "area": round(area, 4), "iscrowd": int(crowd), "segmentation": shape,
            }
        )  # fmt: skip
    return found


def _rounded(numbers: list[float]) -> list[float]:
    return [round(number, 4) for number in numbers if math.isfinite(number)]
