"""YOLO's text files: a file an image, a line an object, all as shares of the image's width and height.

A line is `class x y width height` (the box's centre and sides) or `class x1 y1 x2 y2 x3 y3 ...` (an outline). The
label file of `images/train/1.jpg` is `labels/train/1.txt`, or `1.txt` beside it. `data.yaml` names the classes and says
where train, val and test lie; without it `classes.txt` names them, and folders tell the splits. A box may have a sixth
number, a score, as predictions have: it is not used.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dualtoken.data.scene_labels import ObjectList, ScenePlan, refuse_doubles, some
from dualtoken.data.scenes import Objects
from dualtoken.data.tree import Tree, split_of
from dualtoken.errors import DataError
from dualtoken.words import counted

_SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_USUAL_NAMES = ("data.", "dataset.")
_NO_LABELS = frozenset({*_NAME_FILES, "train.txt", "val.txt", "test.txt", "readme.txt", "notes.txt", "license.txt"})


def yolo_config(tree: Tree) -> str | None:
    """The file in `tree` that names classes and splits as YOLO's data.yaml does: the one nearest to the root.

    Raises:
        DataError: several are equally near.
    """
    found = [name for name in tree.with_suffix(".yaml", ".yml") if _is_config(tree, name)]
    if not found:
        return None
    depth = min(name.count("/") for name in found)
    nearest = [name for name in found if name.count("/") == depth]
    usual = [name for name in nearest if posixpath.basename(name).startswith(_USUAL_NAMES)]
    if len(nearest) > 1 and len(usual) != 1:
        raise DataError(f"{tree.root!r} holds several YOLO data files: {some(nearest)}.", "Give the path of one.")
    return usual[0] if usual else nearest[0]


def yolo_labels(tree: Tree) -> dict[str, str]:
    """Name of each image in `tree` that has a label file, to the name of that file."""
    texts = {name for name in tree.with_suffix(".txt") if posixpath.basename(name).lower() not in _NO_LABELS}
    if not texts:
        return {}
    return {image: label for image in tree.images for label in _label_names(image) if label in texts}


def yolo_has_outlines(tree: Tree) -> bool:
    """Whether a line in a label file of YOLO's is an outline."""
    texts = (tree.text(label) for label in yolo_labels(tree).values())
    return any(len(line.split()) > 6 for text in texts for line in text.splitlines())


def plan_yolo(tree: Tree, given: Path | None = None) -> ScenePlan:
    """What YOLO's files say; `given` is a data.yaml that need not lie in the tree.

    Raises:
        DataError: data.yaml is wrong, or says of a split where it does not lie.
    """
    settings = _Config.from_file(tree, given) if given else _Config.from_tree(tree)
    labels = yolo_labels(tree)
    splits = settings.splits() if settings else _splits_of_folders(tree, labels)
    images = sorted({name for names in splits.values() for name in names})
    if images and not any(name in labels for name in images):
        raise DataError(
            _nothing_labelled(tree, images), "Put a text file with a line for each object there; see docs/data.md."
        )
    place = {name: index for index, name in enumerate(images)}
    notes: list[str] = list(settings.notes) if settings else []
    classes, source, named = _classes(tree, settings, labels, notes)
    reader = _Reader(tree, labels, images, len(classes), source)
    plan = ScenePlan(
        tree,
        f"YOLO txt, {settings.name}" if settings else "YOLO txt",
        classes,
        images,
        {split: [place[name] for name in names] for split, names in splits.items() if split},
        reader.add_to,
        notes=notes,
        named=named,
        notes_of_reading=reader.notes,
    )
    plan.problems += [
        (tree.path(name), f"{tree.path(name)!r} is a label file without an image of that name.")
        for name in _stray_labels(tree, labels)
    ]
    without = sum(name not in labels for name in images)
    number = counted(without, "image has", "images have")
    plan.notes += [f"{number} no label file: taken for images without objects"] if without else []
    return plan


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
    ]


def _splits_of_folders(tree: Tree, labels: dict[str, str]) -> dict[str, list[str]]:
    """Images in the folders that hold labelled ones, by the split that their path tells; all or none has one."""
    folders = {posixpath.dirname(name) for name in labels}
    return _by_split([name for name in tree.images if posixpath.dirname(name) in folders])


def _by_split(images: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in images:
        found.setdefault(split_of(name), []).append(name)
    return found if "" not in found else {"": images}


def _classes(
    tree: Tree, config: _Config | None, labels: dict[str, str], notes: list[str]
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
    highest = max((_highest_class(tree.text(label)) for label in labels.values()), default=0)
    if highest > 10_000:
        raise DataError(
            f"The label files in {tree.root!r} have class {highest}.", "Classes count from 0; see data.yaml."
        )
    notes.append("no data.yaml or classes.txt names the classes: they are called class_0, class_1 ...")
    return tuple(f"class_{number}" for number in range(highest + 1)), "the label files", False


def _highest_class(text: str) -> int:
    numbers = [line.split()[0] for line in text.splitlines() if line.strip()]
    return max((int(number) for number in numbers if number.isascii() and number.isdecimal()), default=0)


@dataclass
class _Reader:
    """Reads the objects of one image after the other."""

    tree: Tree
    labels: dict[str, str]
    images: list[str]
    classes: int
    source: str
    scored: int = 0  # lines with a score

    def notes(self) -> list[str]:
        """What a person should know once all is read."""
        lines = counted(self.scored, "line has", "lines have")
        return [f"{lines} a sixth number, a score, as predictions have: it is not used"] if self.scored else []

    def add_to(self, index: int, found: ObjectList) -> None:
        label = self.labels.get(self.images[index])
        if label is None:
            return
        for number, line in enumerate(self.tree.text(label).splitlines(), 1):
            if fields := line.split():
                self._add(found, fields, f"{self.tree.path(label)!r}, line {number}")

    def _add(self, found: ObjectList, fields: list[str], where: str) -> None:
        try:
            values = np.array(fields, np.float64)
        except ValueError:
            raise DataError(f"{where}: {' '.join(fields)[:60]!r}, expected numbers.") from None
        label = values[0]
        if not (math.isfinite(label) and label == int(label) and 0 <= label < self.classes):
            raise DataError(f"{where}: class {fields[0]}, expected 0 to {self.classes - 1} ({self.source}).")
        if len(fields) == 6:
            if not 0 <= values[5] <= 1:
                raise DataError(f"{where}: 6 numbers, of which the last, {fields[5]}, is no score from 0 to 1.")
        elif len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
            points = counted(len(fields) // 2, "point")
            what = f"a polygon with {points}" if len(fields) % 2 else counted(len(fields), "number")
            raise DataError(f"{where}: {what}, expected `class x y width height` or a class and 3 points or more.")
        height, width = found.size
        if len(fields) <= 6:
            x, y, w, h = (values[1:5] * [width, height, width, height]).tolist()
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            self._explained(values, where, lambda: found.add(int(label), where, box=box))
            self.scored += len(fields) == 6
        else:
            ring = values[1:].reshape(-1, 2) * [width, height]
            self._explained(values, where, lambda: found.add(int(label), where, rings=[ring]))

    @staticmethod
    def _explained(values: Any, where: str, add: Any) -> None:
        try:
            add()
        except DataError as error:
            if np.nanmax(values[1:]) > 2:
                raise DataError(
                    f"{error.message} YOLO's numbers are shares of the image, 0 to 1, not pixels."
                ) from None
            raise


class _Config:
    """YOLO's data.yaml."""

    def __init__(self, tree: Tree, name: str, where: str, content: Any, home: str) -> None:
        """`home` is the folder in the tree that its paths start from."""
        self.tree, self.name, self.where, self.content, self.home = tree, name, where, content, home
        self.notes: list[str] = []
        if not isinstance(self.content, dict) or "names" not in self.content:
            raise DataError(f"{self.where!r} has no `names`.", "A list of class names is expected: names: [cat, dog]")

    @classmethod
    def from_tree(cls, tree: Tree) -> _Config | None:
        name = yolo_config(tree)
        if name is None:
            return None
        return cls(tree, name, tree.path(name), parse_config(tree.text(name), tree.path(name)), posixpath.dirname(name))

    @classmethod
    def from_file(cls, tree: Tree, path: Path) -> _Config:
        return cls(tree, path.name, str(path), load_config(path), "")

    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their numbers."""
        names = self.content["names"]
        if isinstance(names, list):
            names = dict(enumerate(names))
        if not isinstance(names, dict) or not names:
            raise DataError(f"{self.where!r}: `names` is {names!r}, expected a list of class names.")
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
        """Images of each split, by their folders where the file names none."""
        found: dict[str, list[str]] = {}
        for key, split in _SPLIT_KEYS.items():
            value = self.content.get(key)
            if value and (images := self._images(key, value)):
                found[split] = sorted({*found.get(split, []), *images})
        return found or _by_split(self.tree.images)

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
        if name is None:
            return None
        images = []
        for number, line in enumerate(self.tree.text(name).splitlines(), 1):
            if line.strip():
                image = self.tree.find_image(line.strip(), near=posixpath.dirname(name))
                if image is None:
                    raise DataError(f"{self.tree.path(name)!r}, line {number}: there is no image {line.strip()!r}.")
                images.append(image)
        return images


def load_config(path: Path) -> Any:
    """The content of a data.yaml, whatever it is.

    Raises:
        DataError: it cannot be read or is no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}.") from error
    return parse_config(text, str(path))


def data_root(path: Path) -> Path:
    """The folder that a data.yaml calls `path`, if it is there; else its own folder."""
    content = load_config(path)
    given = content.get("path") if isinstance(content, dict) else None
    root = path.parent / str(given or "")
    return root if root.is_dir() and not root.resolve().is_relative_to(path.parent.resolve()) else path.parent


def parse_config(text: str, where: str) -> Any:
    """The content of YAML text; raises `DataError` with the line where it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "it cannot be parsed"
        raise DataError(f"{where!r} is no YAML{line}: {reason}.") from None


def _is_config(tree: Tree, name: str) -> bool:
    try:
        content = parse_config(tree.text(name), tree.path(name))
    except DataError:
        # One that is damaged must not be passed over in silence where it bears the usual name.
        return posixpath.basename(name).lower() in ("data.yaml", "data.yml")
    if not isinstance(content, dict) or "names" not in content:
        return False
    return posixpath.basename(name).startswith(_USUAL_NAMES) or bool({"train", "val", "nc"} & set(content))


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


def _joined(rings: tuple[np.ndarray[Any, np.dtype[np.float32]], ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Several rings as one, joined by lines of no width to and from the nearest points of the first."""
    joined = rings[0]
    for ring in rings[1:]:
        distances = ((joined[:, None] - ring[None]) ** 2).sum(-1)
        here, there = divmod(int(distances.argmin()), len(ring))
        turned = np.roll(ring, -there, axis=0)
        joined = np.concatenate([joined[: here + 1], turned, turned[:1], joined[here:]])
    return joined
