"""COCO's json: images, categories, and annotations with a box and polygons or run lengths.

Known are `annotations/instances_train2017.json` beside `train2017/`, one json in each split's folder
(`train/_annotations.coco.json`), and a single json with the images anywhere beside or below it. A file is read once,
and its annotations go into flat columns one by one, since COCO's own has 860,000 of them.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.data import runs as run_lengths
from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.objects import Fault, ObjectTable, Runs
from dualtoken.data.plans import ObjectPlan, refuse_doubles, side_given, some
from dualtoken.data.samples import Objects
from dualtoken.data.tree import Tree, split_named, split_of
from dualtoken.errors import DataError, unknown_name
from dualtoken.readers import json_items
from dualtoken.words import counted

if TYPE_CHECKING:
    from dualtoken.data.conversion import Writer

_SHOWN = 3
_PARTS = ("images", "annotations", "categories")
_NUMBERS = {int, float}
_HINT = f"COCO's format has {', '.join(_PARTS)}."


def find(tree: Tree) -> ObjectPlan | None:
    """What COCO's json files say; where some are called instances, those alone.

    Raises:
        DataError: a file is damaged, or several are meant for one split.
    """
    files, cut = list[_File](), list[tuple[str, str]]()
    for name in _candidates(tree):
        file = _File(tree, name)
        if file.is_coco:
            files.append(file)
        elif file.cut or tree.given:
            cut.append((tree.path(name), file.reason))
    if tree.given and cut:
        raise DataError(cut[0][1], _HINT)
    if not files or not tree.images:
        return None
    return _plan(tree, files, cut)


def why_not(tree: Tree) -> list[str]:
    """Of the json files that are not COCO's, why not; the first few where they are many."""
    others = [file for name in _candidates(tree) if not (file := _File(tree, name)).is_coco]
    reasons = [file.reason for file in others[:_SHOWN]]
    if not tree.images and len(others) < len(_candidates(tree)):
        reasons.append(f"{tree.path(_candidates(tree)[0])!r} is a COCO json, but its images are not there.")
    return [*reasons, *([f"and {len(others) - _SHOWN} more"] if others[_SHOWN:] else [])]


def _candidates(tree: Tree) -> list[str]:
    names = tree.label_files(".json")
    if not tree.given:  # some tools write one beside each image, which is none of COCO's
        names = [name for name in names if posixpath.splitext(name)[0] not in tree.image_stems]
    instances = [name for name in names if "instances" in posixpath.basename(name).lower()]
    return instances or names


def _plan(tree: Tree, files: list[_File], cut: list[tuple[str, str]]) -> ObjectPlan:
    _tell_splits(tree, files)
    classes = _classes(files)
    table, sizes, where_images = ObjectTable(), array("d"), list[str]()
    plan = ObjectPlan(
        tree=tree, layout=f"COCO json {', '.join(file.name for file in files)}", classes=classes, problems=cut,
        read=lambda: table, where=lambda rows: _where(files, table, rows), where_image=lambda i: where_images[i],
    )  # fmt: skip
    for number, file in enumerate(files):
        file.add_images(plan, sizes, where_images)
        file.add_objects(number, classes, table, sizes)
        plan.notes += file.notes
    plan.all_or_no_splits()
    plan.sizes = np.array(sizes).reshape(-1, 2)
    unused = tree.not_listed(plan.images)
    plan.notes += [f"{counted(unused, 'image stands', 'images stand')} in no json: not used"] if unused else []
    return plan


def _tell_splits(tree: Tree, files: Sequence[_File]) -> None:
    """The split of each json, by its name or its folder."""
    found = [file.split for file in files]
    if len(files) > 1 and (len(set(found)) < len(files) or "" in found):
        raise DataError(
            f"{tree.root!r} holds several COCO json files whose names do not tell their splits:"
            f" {some([file.name for file in files])}.",
            "Give the path of one, or put train, val or test into their names.",
        )


def _classes(files: Sequence[_File]) -> tuple[str, ...]:
    """Those of train, else of all, in the order of their ids; other files may have fewer but no others."""
    for file in files:
        file.name_categories()
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
    """One json file, read from beginning to end: annotations become columns, the rest is kept as it is."""

    def __init__(self, tree: Tree, name: str) -> None:
        self.tree, self.name, self.where = tree, name, tree.path(name)
        stem = posixpath.splitext(posixpath.basename(name))[0]
        words = [split_named(word) for word in re.split(r"[_\-. ]", stem)]
        self.split = next(filter(None, words), "") or split_of(name)
        self.notes: list[str] = []
        self.images: list[Any] = []
        self.given: list[Any] = []  # categories
        self.categories: dict[Any, str] = {}
        self.annotations = _Annotations()
        self.cut, self.reason = False, ""
        self._read()

    @property
    def is_coco(self) -> bool:
        return not self.reason

    def _read(self) -> None:
        parts, keys = set[str](), list[str]()
        content = self.tree.read(self.name).removeprefix(b"\xef\xbb\xbf")
        is_object = content[:4096].lstrip()[:1] == b"{"
        self.cut = is_object and content[-4096:].rstrip()[-1:] != b"}"
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            self.reason = f"{self.where!r} is not UTF-8 in line {content[: error.start].count(10) + 1}."
            return
        del content
        try:
            for key, is_list, position, value in json_items(text, self.where, _PARTS):
                if position < 0:  # a key begins
                    keys.append(key)
                    parts |= {key} & set(_PARTS) if is_list else set()
                elif key == "annotations":
                    self.annotations.add(value, position)
                else:
                    (self.images if key == "images" else self.given).append(value)
        except DataError as error:
            self.reason = error.message
            return
        if not is_object:
            kind = {"[": "list", '"': "str"}.get(text.lstrip()[:1], "a single value")
            self.reason = f"{self.where!r} is no COCO json: it holds {kind}, expected three lists."
            return
        missing = [part for part in _PARTS if part not in parts]
        if missing:
            has = f"its keys are {some(keys)}" if keys else "it is empty"
            self.reason = f"{self.where!r} is no COCO json: it has no list {' and no list '.join(missing)}; {has}."

    def name_categories(self) -> None:
        """Category ids to names, in the order of the ids, without those that only group others."""
        for place, category in enumerate(self.given):
            if not (isinstance(category, dict) and _id(category) is not None and isinstance(category.get("name"), str)):
                raise DataError(f"{self.where!r}, categories[{place}]: expected an id (a number or a text) and a name.")
        found = {_id(category): category["name"] for category in sorted(self.given, key=_order)}
        if len(found) < len(self.given):
            raise DataError(f"{self.where!r}: two categories have the same id.", "Give each its own.")
        refuse_doubles(list(found.values()), f"{self.where!r}, categories")
        # Some exports put the group of all classes first, as a category that nothing belongs to.
        used = set(self.annotations.categories)
        groups = {item.get("supercategory") for item in self.given if item["name"] != item.get("supercategory")}
        for number, name in list(found.items()):
            if number not in used and name in groups and len(found) > 1:
                del found[number]
                self.notes.append(f"the category {name!r} is only the group of others and has no objects: not a class")
        if not found:
            raise DataError(f"{self.where!r} names no categories.")
        self.categories = found

    def add_images(self, plan: ObjectPlan, sizes: array[float], where_images: list[str]) -> None:
        """Put the images that are there into the plan; what is wrong becomes its problems."""
        self.rows: dict[Any, int] = {}  # id of each listed image to its index; -1 where it is not there
        near, others, used, twice = posixpath.dirname(self.name), dict[str, str](), dict[str, int](), 0
        for place, image in enumerate(self.images):
            where = f"{self.where!r}, images[{place}]"
            number = _id(image) if isinstance(image, dict) else None
            if number is None or not isinstance(image.get("file_name"), str):
                plan.problems.append((self.where, f"{where}: expected an id (a number or a text) and a file_name."))
                continue
            if number in self.rows:
                raise DataError(f"{where}: the id {number} stands there twice.", "Give each image its own.")
            path = image["file_name"]
            name = self.tree.find_image(path, near=near, split=self.split, others=others)
            self.rows[number] = -1
            if name is None:
                plan.problems.append((path, f"{where}: there is no image {path!r} in {self.tree.root!r}."))
                continue
            if name in used:
                self.rows[number], twice = used[name], twice + 1
                continue
            where = f"{where} ({name!r})"
            try:
                size = [side_given(image.get(side), side, where) for side in ("height", "width")]
            except DataError as error:
                plan.problems.append((name, error.message))
                continue
            self.rows[number] = used[name] = plan.use(name, [self.split or split_of(name)])
            sizes.extend(size if not any(map(math.isnan, size)) else (math.nan, math.nan))
            where_images.append(where)
        again = counted(twice, "image stands", "images stand")
        self.notes += [f"{again} in {self.name} again, under another id: the objects are put together"] if twice else []
        self.images = []

    def add_objects(self, number: int, classes: Sequence[str], table: ObjectTable, sizes: array[float]) -> None:
        """Put the annotations of these images into the table of all files."""
        own, labels = self.annotations, {key: classes.index(name) for key, name in self.categories.items()}
        images = [self.rows.get(key, -2) for key in own.images]
        strangers = [row for row, image in enumerate(images) if image == -2]
        unknown = [row for row, key in enumerate(own.categories) if key not in labels and images[row] >= 0]
        for row in strangers:
            own.fail(row, f"it belongs to the image {own.images[row]!r}, which is not listed", "label of no image")
        ids = [key for key in labels if isinstance(key, int)]
        of = f"the {len(ids)} ids from {min(ids)} to {max(ids)}" if len(ids) == len(labels) else some(list(labels))
        for row in unknown:
            own.fail(row, f"category {own.categories[row]!r}, expected one of {of}", "class that is not there")
        failed = {row: told for row, told in own.failed.items() if images[row] != -1}  # else its image is missing
        words = self.places(list(failed)) if failed else []
        for (row, (kind, reason)), text in zip(failed.items(), words, strict=True):
            table.faults.append(Fault(max(images[row], -1), text, kind, reason))
        bad = {*own.failed, *(row for row, image in enumerate(images) if image < 0)}
        own.move(table, number, images, [labels.get(key, 0) for key in own.categories], bad)

    def places(self, rows: Sequence[int]) -> list[str]:
        """Where some annotations stand, in words; the file is read again, since something is wrong."""
        text = self.tree.text(self.name)
        decoder, line, last, lines = json.JSONDecoder(), 1, 0, dict[int, int]()
        for row in sorted(set(rows)):
            position = self.annotations.positions[row]
            line, last = line + text.count("\n", last, position), position
            lines[row] = line
        words = []
        for row in rows:
            annotation = decoder.raw_decode(text, self.annotations.positions[row])[0]
            number = annotation.get("id") if isinstance(annotation, dict) else None
            own = self.annotations.positions[row]
            if number is not None:  # the line of its id, where an annotation has several
                key = text.find('"id"', own)
                lines[row] += text.count("\n", own, key) if key > 0 else 0
            parts = [f"{self.where!r}" + (f", line {lines[row]}" if lines[row] > 1 else ""), f"annotations[{row}]"]
            words.append(", ".join(parts) + (f" (id {number})" if number is not None else ""))
        return words


class _Annotations:
    """The annotations of one file in columns, with the ids as they are."""

    def __init__(self) -> None:
        self.table = ObjectTable()
        self.images: list[Any] = []
        self.categories: list[Any] = []
        self.positions: array[int] = array("q")
        self.failed: dict[int, tuple[str, str]] = {}  # row to kind and reason

    def fail(self, row: int, reason: str, kind: str) -> None:
        self.failed.setdefault(row, (kind, reason))

    def add(self, annotation: Any, position: int) -> None:
        """Take one annotation."""
        row = len(self.positions)
        self.positions.append(position)
        if not isinstance(annotation, dict):
            annotation = {}
        self.images.append(_value(annotation.get("image_id")))
        self.categories.append(_value(annotation.get("category_id")))
        box, runs = None, None
        rings: list[list[float]] = []
        try:
            if (given := annotation.get("bbox")) is not None:
                left, top, width, height = _four(given)
                box = (left, top, left + width, top + height)
            if shape := annotation.get("segmentation"):
                try:
                    runs, rings = _shape(shape)
                except ValueError as error:  # matters little beside a box
                    if box is None:
                        raise
                    self.table.unread[row] = str(error)
            if box is None and not rings and runs is None:
                raise ValueError("neither a bbox nor a segmentation")
        except ValueError as error:
            self.fail(row, str(error), "label that cannot be read")
        area, crowd = _area(annotation.get("area"), runs), _value(annotation.get("iscrowd", 0)) not in (0, None, "")
        self.table.add(0, 0, 0, row, box=box, rings=rings, runs=runs, area=area, crowd=crowd)

    def move(self, table: ObjectTable, file: int, images: list[int], labels: list[int], bad: Iterable[int]) -> None:
        """Append all rows but the `bad` ones to the table of all files."""
        own = self.table
        own.image, own.label = array("q", images), array("q", labels)
        own.file = array("q", [file]) * len(images)
        kept = np.ones(len(own), bool)
        kept[list(bad)] = False
        if kept.all() and not len(table):
            for key in ("image", "label", "file", "place", "box", "area", "crowd", "rings", "ring_lengths", "points"):
                setattr(table, key, getattr(own, key))
            table.runs, table.unread = own.runs, own.unread
        else:
            table.extend(own, np.flatnonzero(kept))
        self.table, self.images, self.categories = ObjectTable(), [], []


def _where(files: Sequence[_File], table: ObjectTable, rows: NDArray[np.int64]) -> list[str]:
    words = dict[int, str]()
    for number, file in enumerate(files):
        own = [row for row in rows.tolist() if table.file[row] == number]
        words |= dict(zip(own, file.places([table.place[row] for row in own]), strict=True)) if own else {}
    return [words[row] for row in rows.tolist()]


def _id(item: dict[str, Any]) -> Any:
    return _value(item.get("id"))


def _value(given: Any) -> Any:
    """An id or a flag by its value: a whole number, also where it is written as text or with a point; else the text."""
    kind = type(given)
    if kind is int or given is None:
        return given
    if kind is bool:
        return int(given)
    if kind is str:
        return int(given) if given.isascii() and given.lstrip("-").isdecimal() and len(given) < 19 else given
    return int(given) if kind is float and given.is_integer() else repr(given)


def _order(category: dict[str, Any]) -> tuple[bool, Any]:
    number = _id(category)
    return isinstance(number, str), number


def _numbers(given: Any) -> list[float]:
    """A list of numbers, which may be written as text.

    Raises:
        ValueError: it is something else.
    """
    # json has whole numbers without a limit, and true is a number to Python.
    if not isinstance(given, list) or not set(map(type, given)) <= _NUMBERS:
        if isinstance(given, list) and set(map(type, given)) <= {int, float, str}:
            try:
                return [float(number) for number in given]
            except ValueError:
                pass
        raise ValueError(f"expected a list of numbers, found {str(given)[:60]}")
    if not given or -1e300 < min(given) <= max(given) < 1e300:  # nearly always, and told in a fifth of the time
        return given
    return [number if abs(number) < 1e300 else math.nan for number in given]


def _four(given: Any) -> list[float]:
    numbers = _numbers(given)
    if len(numbers) != 4:
        raise ValueError(f"a bbox of {counted(len(numbers), 'number')}, expected left, top, width, height")
    return numbers


def _shape(given: Any) -> tuple[Runs | None, list[list[float]]]:
    """Run lengths or rings."""
    if isinstance(given, dict):
        return runs_of(given), []
    if not isinstance(given, list):
        raise ValueError(f"a segmentation that is neither polygons nor run lengths: {str(given)[:60]}")
    if not isinstance(given[0], list):
        given = [given]  # one ring without the list around it
    rings = []
    for flat in given:
        ring = _numbers(flat)
        if len(ring) % 2:
            raise ValueError(f"a polygon of {counted(len(ring), 'number')}, expected x and y in turn")
        rings.append(ring)
    return None, rings


def _area(given: Any, runs: Runs | None) -> float:
    if type(given) in _NUMBERS and 0 < given < 1e300:
        return float(given)
    return math.nan if runs is None else runs.area


def runs_of(shape: dict[str, Any]) -> Runs:
    """Run lengths (`size`, `counts`), with their area and box; raises `ValueError` where they are none."""
    size, counts = shape.get("size"), shape.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not set(map(type, size)) <= {int}:
        raise ValueError(f"run lengths for {size!r}, expected height and width")
    if isinstance(counts, str):
        lengths = run_lengths.unpack(counts)
    elif isinstance(counts, list) and set(map(type, counts)) <= {int}:
        lengths = counts
    else:
        raise ValueError("counts is neither a string nor a list of whole numbers")
    run_lengths.check(lengths, (size[0], size[1]))
    area, box = run_lengths.area_and_box(lengths, size[0])
    if box is None:
        raise ValueError("run lengths of an empty mask")
    return Runs(run_lengths.pack(lengths), (size[0], size[1]), float(area), box)


# ---------------------------------------------------------------- writing


def write(writer: Writer, folder: Path) -> None:
    """`annotations/instances_SPLIT.json` and `images/SPLIT/`."""
    for split, samples in writer.splits():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for name, objects in writer.objects(samples, folder / "images" / split):
            height, width = objects.size
            file_name = posixpath.join("images", split, name)
            images.append({"id": len(images) + 1, "file_name": file_name, "width": width, "height": height})
            annotations += annotations_of(objects, len(images), len(annotations) + 1)
        content = {"images": images, "annotations": annotations, "categories": category_list(writer.classes)}
        stem = f"instances_{split}" if split else "instances"
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        writer.text(folder / "annotations" / f"{stem}.json", text)


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


FORMATS["coco"] = Format(
    "objects", find, "COCO's json with the lists images, annotations and categories", rank=10, outlines=True,
    suffixes=(".json",), why_not=why_not, write=write, holds=frozenset({"crowds", "outlines", "runs"}),
)  # fmt: skip
