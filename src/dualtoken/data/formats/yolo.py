"""YOLO's text files: a file an image, a line an object, all as shares of the image's width and height.

A line is `class x y width height` (the box's centre and sides) or `class x1 y1 x2 y2 x3 y3 ...` (an outline). The
label file of `images/train/1.jpg` is `labels/train/1.txt`, or `1.txt` beside it. `data.yaml`, or darknet's `obj.data`,
names the classes and says where train, val and test lie; without it `classes.txt` names them, and lists of images or
folders tell the splits. A box may have a sixth number, a score, as predictions have: it is not used. Of keypoints
behind a box nothing but the box is read.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.objects import Fault, ObjectTable
from dualtoken.data.plans import ObjectPlan, refuse_doubles, some
from dualtoken.data.samples import Objects
from dualtoken.data.tree import Tree, open_tree, split_named, splits_of_folders, stem_of
from dualtoken.errors import DataError
from dualtoken.images import is_image_name
from dualtoken.readers import parse_yaml, read_text
from dualtoken.words import counted

if TYPE_CHECKING:
    from dualtoken.data.conversion import Writer

_SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_USUAL_NAMES = ("data.", "dataset.")
_NO_LABELS = frozenset(
    {
        *_NAME_FILES,
        "readme.txt",
        "readme.roboflow.txt",
        "readme.dataset.txt",
        "notes.txt",
        "license.txt",
        "labelmap.txt",
    }
)
_MOST_CLASSES = 10_000


def find(tree: Tree) -> ObjectPlan | None:
    """What YOLO's files say.

    Raises:
        DataError: data.yaml is wrong, or says of a split where it does not lie.
    """
    labels = _label_files(tree)
    settings = _Config.of(tree)
    if not labels and (settings is None or not tree.images):
        return None
    given = (settings.splits() if settings else {}) or _lists(tree)
    images, splits = _images(tree, given, labels, settings is not None)
    if images and not any(name in labels for name in images):
        raise DataError(
            _nothing_labelled(tree, images), "Put a text file with a line for each object there; see docs/data.md."
        )
    reader = _Reader(tree, [labels.get(name) for name in images], settings.keypoints if settings else 0)
    plan = ObjectPlan(
        tree=tree, layout=f"YOLO txt, {settings.name}" if settings else "YOLO txt", images=images, splits=splits,
        classes=(), read=reader.table, notes_of_reading=lambda: reader.notes,
        where=lambda rows: [reader.where(plan.table.file[row], plan.table.place[row]) for row in rows.tolist()],
    )  # fmt: skip
    plan.notes += settings.notes if settings else []
    plan.classes, reader.source, plan.named = _classes(tree, settings, reader, plan.notes)
    reader.classes = len(plan.classes)
    plan.problems += [
        (tree.path(name), f"{tree.path(name)!r} is a label file without an image of that name.")
        for name in _stray_labels(tree, labels)
    ]
    without = sum(name not in labels for name in images)
    number = counted(without, "image has", "images have")
    plan.notes += [f"{number} no label file: taken for images without objects"] if without else []
    return plan


def _label_files(tree: Tree) -> dict[str, str]:
    """Name of each image in `tree` that has a label file, to the name of that file."""
    texts = set(tree.with_suffix(".txt"))
    texts -= {name for name in texts if split_named(stem_of(name)) and _is_list(tree, name)}
    if not texts:
        return {}
    return {image: label for image in tree.images for label in _label_names(image) if label in texts}


def _images(
    tree: Tree, given: dict[str, list[str]], labels: dict[str, str], configured: bool
) -> tuple[list[str], dict[str, list[int]]]:
    """The images, sorted, and the splits by their places: those given, else those of the folders."""
    if given:
        images = sorted({name for names in given.values() for name in names})
        place = {name: index for index, name in enumerate(images)}
        return images, {split: [place[name] for name in names] for split, names in given.items()}
    folders = {posixpath.dirname(name) for name in labels}
    images = tree.images if configured else [name for name in tree.images if posixpath.dirname(name) in folders]
    return images, splits_of_folders(images)


def _is_list(tree: Tree, name: str) -> bool:
    """Whether a text file names images, as train.txt does."""
    first = next((line.strip() for line in tree.text(name).split("\n") if line.strip()), "")
    return is_image_name(first.replace("\\", "/"))


def _lists(tree: Tree) -> dict[str, list[str]]:
    """Split to its images, by the lists train.txt, valid.txt ... nearest to the root."""
    names = [name for name in tree.with_suffix(".txt") if split_named(stem_of(name)) and _is_list(tree, name)]
    found: dict[str, list[str]] = {}
    for name in names:
        if name.count("/") == min(other.count("/") for other in names):
            found.setdefault(split_named(stem_of(name)), []).extend(_listed(tree, name))
    return found


def _listed(tree: Tree, name: str) -> list[str]:
    images, others = list[str](), dict[str, str]()
    for number, line in enumerate(tree.text(name).splitlines(), 1):
        if line.strip():
            image = tree.find_image(line.strip(), near=posixpath.dirname(name), others=others)
            if image is None:
                raise DataError(f"{tree.path(name)!r}, line {number}: there is no image {line.strip()!r}.")
            images.append(image)
    return images


def _nothing_labelled(tree: Tree, images: list[str]) -> str:
    names = [name for name in _label_names(images[0]) if "Labels" not in name.split("/")]  # as well as labels
    looked_for = [repr(tree.path(name)) for name in names]
    none = "none has" if len(images) > 1 else "it has not"
    return (
        f"{tree.root!r} has {counted(len(images), 'image')} for YOLO, but {none} a label file: for"
        f" {images[0]!r} there is neither {' nor '.join(looked_for)}."
    )


def _label_names(image: str) -> Iterator[str]:
    """Where the label file of an image may be: below `labels` in place of `images`, or beside it."""
    parts = posixpath.splitext(image)[0].split("/")
    for place in range(len(parts) - 2, -1, -1):
        if parts[place].lower() == "images":
            for word in ("labels", "Labels"):
                yield "/".join([*parts[:place], word, *parts[place + 1 :]]) + ".txt"
            break
    yield "/".join(parts) + ".txt"


def _stray_labels(tree: Tree, labels: dict[str, str]) -> list[str]:
    used = set(labels.values())
    return [
        name
        for name in tree.with_suffix(".txt")
        if name not in used
        and "labels" in posixpath.dirname(name).lower().split("/")
        and posixpath.basename(name).lower() not in _NO_LABELS
        and not split_named(stem_of(name))
    ]


def _classes(
    tree: Tree, config: _Config | None, reader: _Reader, notes: list[str]
) -> tuple[tuple[str, ...], str, bool]:
    """Class names, the file that says them, and whether one does."""
    if config:
        return config.classes(), config.name, True
    files = [name for name in tree.names if posixpath.basename(name).lower() in _NAME_FILES]
    if files:
        name = min(files, key=lambda name: name.count("/"))
        classes = tuple(line.strip() for line in tree.text(name).splitlines() if line.strip())
        refuse_doubles(classes, repr(tree.path(name)))
        return classes, name, True
    highest = reader.highest_class()
    if highest > _MOST_CLASSES:
        raise DataError(
            f"The label files in {tree.root!r} have class {highest}.", "Classes count from 0; see data.yaml."
        )
    notes.append("no data.yaml or classes.txt names the classes: they are called class_0, class_1 ...")
    return tuple(f"class_{number}" for number in range(highest + 1)), "the label files", False


@dataclass
class _Reader:
    """Reads all label files, once.

    Attributes:
        files: label file of each image, None for one without.
        keypoints: numbers of keypoints behind each box, as data.yaml declares them.
    """

    tree: Tree
    files: list[str | None]
    keypoints: int = 0
    classes: int = 0
    source: str = ""
    notes: list[str] = field(default_factory=list)

    @cached_property
    def lines(self) -> list[tuple[int, int, list[str]]]:
        """(image, number of the line, its fields) of each line that is not empty."""
        return [
            (image, number, fields)
            for image, label in enumerate(self.files)
            if label is not None
            for number, line in enumerate(self.tree.text(label).splitlines(), 1)
            if (fields := line.split())
        ]

    def highest_class(self) -> int:
        """The largest class number, by value: 2.0e+00 is 2."""
        highest = 0
        for _, _, fields in self.lines:
            try:
                value = float(fields[0])
            except ValueError:
                continue
            highest = max(highest, int(value)) if math.isfinite(value) else highest
        return highest

    def table(self) -> ObjectTable:
        """All objects; lines that are none become faults."""
        table, scored = ObjectTable(shares=True), 0
        keypoints = self.keypoints or self._keypoints()
        for image, number, fields in self.lines:
            try:
                self._add(table, image, number, fields, keypoints)
                scored += len(fields) == 6
            except ValueError as error:
                table.faults.append(Fault(image, self.where(image, number), "line that cannot be read", str(error)))
        lines = counted(scored, "line has", "lines have")
        self.notes += [f"{lines} a sixth number, a score, as predictions have: it is not used"] if scored else []
        if keypoints:
            self.notes.append(f"keypoints ({keypoints} numbers behind each box) are not used, the boxes are")
        del self.lines
        return table

    def _keypoints(self) -> int:
        """How many numbers of keypoints stand behind each box, by the shape of the lines: 0 for none.

        Lines of outlines differ in length. Those of keypoints all have the same, and all points lie in their boxes, or
        every third number is 0, 1 or 2.
        """
        lengths = {len(fields) for _, _, fields in self.lines}
        length = lengths.pop() if len(lengths) == 1 else 0
        if length < 10:  # three points and more; an outline of four corners has nine numbers
            return 0
        try:
            values = np.array([fields for _, _, fields in self.lines], np.float64)
        except ValueError:
            return 0
        rest = values[:, 5:]
        if rest.shape[1] % 3 == 0 and np.isin(rest[:, 2::3], (0, 1, 2)).all():
            return int(rest.shape[1])
        if rest.shape[1] % 2:
            return 0
        apart = np.abs(rest.reshape(len(rest), -1, 2) - values[:, None, 1:3])
        return int(rest.shape[1]) if (apart <= values[:, None, 3:5] / 2 + 1e-3).all() else 0

    def _add(self, table: ObjectTable, image: int, line: int, fields: list[str], keypoints: int) -> None:
        try:
            label, *values = map(float, fields)
        except ValueError:
            raise ValueError(f"{' '.join(fields)[:60]!r}, expected numbers") from None
        if not (math.isfinite(label) and label == int(label) and 0 <= label < self.classes):
            raise ValueError(f"class {fields[0]}, expected 0 to {self.classes - 1} ({self.source})")
        if keypoints and len(values) == 4 + keypoints:
            values = values[:4]
        if len(values) in (4, 5):
            if len(values) == 5 and not 0 <= values[4] <= 1:
                raise ValueError(f"6 numbers, of which the last, {fields[5]}, is no score from 0 to 1")
            x, y, width, height = values[:4]
            box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            table.add(image, int(label), image, line, box=box)
        elif keypoints or len(values) < 6 or len(values) % 2:
            points = counted(len(fields) // 2, "point")
            what = f"a polygon with {points}" if len(fields) % 2 else counted(len(fields), "number")
            expected = "`class x y width height`" + (
                f" and {keypoints} numbers of keypoints" if keypoints else " or a class and 3 points or more"
            )
            raise ValueError(f"{what}, expected {expected}")
        else:
            table.add(image, int(label), image, line, rings=[values])

    def where(self, image: int, line: int) -> str:
        """File and line."""
        return f"{self.tree.path(self.files[image] or '')!r}, line {line}"


class _Config:
    """YOLO's data.yaml, or darknet's obj.data."""

    def __init__(self, tree: Tree, name: str, where: str, content: Any, home: str) -> None:
        """`home` is the folder in the tree that its paths start from."""
        self.tree, self.name, self.where, self.content, self.home = tree, name, where, content, home
        self.notes: list[str] = []
        if not isinstance(self.content, dict) or "names" not in self.content:
            raise DataError(f"{self.where!r} has no `names`.", "A list of class names is expected: names: [cat, dog]")

    @classmethod
    def of(cls, tree: Tree) -> _Config | None:
        """The one that was given itself, else the one nearest to the root of the tree.

        Raises:
            DataError: several are equally near.
        """
        if tree.given:
            return cls(tree, tree.given.name, str(tree.given), _load(tree.given), "")
        found = dict[str, Any]()
        for name in tree.with_suffix(".yaml", ".yml", ".data"):
            content = _content(tree, name)
            if content is not None:
                found[name] = content
        if not found:
            return None
        depth = min(name.count("/") for name in found)
        nearest = [name for name in found if name.count("/") == depth]
        usual = [name for name in nearest if posixpath.basename(name).startswith(_USUAL_NAMES)]
        if len(nearest) > 1 and len(usual) != 1:
            raise DataError(f"{tree.root!r} holds several YOLO data files: {some(nearest)}.", "Give the path of one.")
        name = usual[0] if usual else nearest[0]
        if isinstance(found[name], DataError):
            raise found[name]
        return cls(tree, name, tree.path(name), found[name], posixpath.dirname(name))

    @property
    def keypoints(self) -> int:
        """How many numbers of keypoints stand behind each box: the product of `kpt_shape`."""
        shape = self.content.get("kpt_shape")
        return math.prod(shape) if isinstance(shape, list) and shape and set(map(type, shape)) == {int} else 0

    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their numbers."""
        names = self.content["names"]
        if isinstance(names, list):
            names = dict(enumerate(names))
        if not isinstance(names, dict) or not names:
            raise DataError(f"{self.where!r}: `names` is {names!r}, expected a list of class names.")
        for number, name in names.items():
            if isinstance(name, bool | list | dict | set) or name is None:
                raise DataError(
                    f"{self.where!r}: the name of class {number} is {name!r}, expected a text.",
                    "YAML reads yes, no, on, off and null as other things: put them in quotes.",
                )
        names = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
        missing = sorted(set(range(len(names))) - set(names))
        if missing:
            entries = counted(len(names), "entry", "entries")
            raise DataError(f"{self.where!r}: `names` has {entries} but none for class {missing[0]}.")
        classes = tuple(str(names[number]) for number in range(len(names)))
        refuse_doubles(classes, repr(self.where))
        count = self.content.get("nc")
        if count is not None and str(count) != str(len(classes)):
            raise DataError(f"{self.where!r}: `nc` is {count}, but `names` has {counted(len(classes), 'name')}.")
        return classes

    def splits(self) -> dict[str, list[str]]:
        """Images of each split that the file names."""
        found: dict[str, list[str]] = {}
        for key, split in _SPLIT_KEYS.items():
            value = self.content.get(key)
            if value and (images := self._images(key, value)):
                found[split] = sorted({*found.get(split, []), *images})
        return found

    def _images(self, key: str, value: Any) -> list[str]:
        images: list[str] = []
        for path in value if isinstance(value, list) else [value]:
            if not isinstance(path, str):
                raise DataError(f"{self.where!r}: `{key}` is {value!r}, expected a folder or a list of folders.")
            part = self._folder(path) if not path.lower().endswith(".txt") else self._list(path)
            if part is None and _SPLIT_KEYS[key] == "test":  # often promised, seldom shipped
                self.notes.append(f"{self.name} names {path!r} for test, which is not there: no test split")
            elif part is None:
                raise DataError(
                    f"{self.where!r}: `{key}` is {path!r}, and there are no images there in {self.tree.root!r}.",
                    "The path is relative to `path`, or to the file where there is no `path`.",
                )
            images += part or []
        return images

    def _candidates(self, path: str) -> Iterator[str]:
        """Names in the tree that a path may mean: as it stands, else its ends, for data that was moved."""
        home, base = self.home, str(self.content.get("path") or "")
        path = path.replace("\\", "/")
        for start in (posixpath.join(home, base), home, ""):
            yield posixpath.normpath(posixpath.join(start, path))
        parts = [part for part in posixpath.normpath(path).split("/") if part not in ("", "..", ".")]
        for first in range(len(parts)):
            for start in (home, ""):
                yield posixpath.normpath(posixpath.join(start, *parts[first:]))

    def _folder(self, path: str) -> list[str] | None:
        for folder in self._candidates(path):
            prefix = "" if folder == "." else f"{folder}/"
            images = [name for name in self.tree.images if name.startswith(prefix)]
            if images:
                return images
        return None

    def _list(self, path: str) -> list[str] | None:
        """The images listed in a text file, a path a line."""
        name = next((name for name in self._candidates(path) if name in self.tree.rows), None)
        return None if name is None else _listed(self.tree, name)


def _content(tree: Tree, name: str) -> Any:
    """What a file in the tree says if it is like YOLO's data.yaml, an error if it is a damaged one; None for others."""
    usual = posixpath.basename(name).startswith(_USUAL_NAMES)
    if name.lower().endswith(".data"):
        return _darknet(tree, name)
    try:
        content = parse_yaml(tree.text(name), tree.path(name))
    except DataError as error:
        # One that is damaged must not be passed over in silence where it bears the usual name.
        return error if posixpath.basename(name).lower() in ("data.yaml", "data.yml") else None
    if not isinstance(content, dict) or "names" not in content:
        return None
    return content if usual or {"train", "val", "nc"} & set(content) else None


def _darknet(tree: Tree, name: str) -> dict[str, Any] | None:
    """`key = value` lines, with the class names of the file that `names` gives."""
    pairs = [line.partition("=") for line in tree.text(name).splitlines()]
    content: dict[str, Any] = {key.strip(): value.strip() for key, _, value in pairs}
    listed = [
        other for other in tree.names if posixpath.basename(other) == posixpath.basename(content.get("names", "-"))
    ]
    if not listed:
        return None
    lines = tree.text(min(listed, key=lambda other: other.count("/"))).splitlines()
    return content | {"names": [line.strip() for line in lines if line.strip()], "path": ""}


def _load(path: Path) -> Any:
    return parse_yaml(read_text(path), str(path))


def _around(path: Path) -> Tree:
    """The folder that a data.yaml calls `path`, if it is there; else its own folder."""
    content = _load(path)
    given = content.get("path") if isinstance(content, dict) else None
    root = path.parent / str(given or "")
    away = root.is_dir() and not root.resolve().is_relative_to(path.parent.resolve())
    tree = open_tree(root if away else path.parent)
    tree.given = path
    return tree


# ---------------------------------------------------------------- writing


def write(writer: Writer, folder: Path) -> None:
    """`labels/SPLIT/`, `images/SPLIT/` and `data.yaml`."""
    for split, samples in writer.splits():
        for name, objects in writer.objects(samples, folder / "images" / split):
            text = label_text(objects, outlines=not writer.boxes_only)
            writer.text(folder / "labels" / split / f"{posixpath.splitext(name)[0]}.txt", text)
    folders = {split or "train": posixpath.join("images", split).rstrip("/") for split, _ in writer.splits()}
    content = {"path": ".", **folders, "names": dict(enumerate(writer.classes))}
    writer.text(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def label_text(objects: Objects, *, outlines: bool = True) -> str:
    """YOLO's lines for one image's objects: outlines if asked for, their rings joined, else boxes; no crowds."""
    height, width = objects.size
    lines = []
    for box, label, crowd, rings in zip(
        objects.boxes.astype(float), objects.labels.tolist(), objects.crowd.tolist(), objects.outlines, strict=True
    ):
        if crowd:
            continue
        if rings and outlines:
            numbers = (_joined(rings).astype(float) / [width, height]).ravel()
        else:
            centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
            numbers = np.concatenate([centre, sides]) / [width, height, width, height]
        lines.append(f"{label} " + " ".join(f"{number:.9f}".rstrip("0").rstrip(".") for number in numbers))
    return "".join(line + "\n" for line in lines)


def _joined(rings: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    """Several rings as one, joined by lines of no width to and from the nearest points of the first."""
    joined = rings[0]
    for ring in rings[1:]:
        distances = ((joined[:, None] - ring[None]) ** 2).sum(-1)
        here, there = divmod(int(distances.argmin()), len(ring))
        turned = np.roll(ring, -there, axis=0)
        joined = np.concatenate([joined[: here + 1], turned, turned[:1], joined[here:]])
    return joined


FORMATS["yolo"] = Format(
    "objects", find, "YOLO's labels/NAME.txt for images/NAME.jpg, or NAME.txt beside it, or a data.yaml", rank=20,
    outlines=True, suffixes=(".yaml", ".yml"), around=_around, write=write, holds=frozenset({"outlines"}),
)  # fmt: skip
