"""Pascal VOC's xml: a file an image, boxes in whole pixels counted from one.

`Annotations/1.xml` belongs to `JPEGImages/1.jpg`, or to the image of the same name beside it;
`ImageSets/Main/train.txt` and its like tell the splits, else folders do. Objects marked difficult are taken as crowds,
which neither train nor count, as VOC's own evaluation has it.
"""

from __future__ import annotations

import math
import posixpath
from collections import defaultdict
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from dualtoken.data.masks import image_sets
from dualtoken.data.scene_labels import ObjectList, Problem, ScenePlan, check_frame, side_given
from dualtoken.data.scenes import Objects
from dualtoken.data.tree import Tree, split_of
from dualtoken.errors import DataError
from dualtoken.words import counted

_BOX = "annotation/object/bndbox/"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_WANTED = {"annotation/filename", "annotation/size/width", "annotation/size/height",
           "annotation/object/name", "annotation/object/difficult", *(_BOX + side for side in _SIDES)}  # fmt: skip


def voc_labels(tree: Tree) -> list[str]:
    """The xml files in `tree` that annotate an image: those in a folder Annotations, or beside an image."""
    stems = {posixpath.splitext(name)[0] for name in tree.images}
    return [
        name
        for name in tree.with_suffix(".xml")
        if "annotations" in posixpath.dirname(name).lower().split("/") or posixpath.splitext(name)[0] in stems
    ]


def plan_voc(tree: Tree) -> ScenePlan:
    """What VOC's files say.

    Raises:
        DataError: none of them is right, or lists name images that are not there.
    """
    labels = voc_labels(tree)
    plan = ScenePlan(tree, "VOC xml", (), [], {}, lambda index, found: records[index].add_to(found, numbers))
    records: list[_Record] = []
    lists = image_sets(tree, "main")
    listed = set().union(*lists.values())
    finder = _Finder(tree)
    for label in labels:
        if lists and _stem(label) not in listed:
            continue
        record = _parsed(tree, label, plan.problems)
        image = record and finder.image_of(label, record.filename)
        if record and image:
            plan.images.append(image)
            records.append(record)
        elif record:
            plan.problems.append(
                (tree.path(label), f"{tree.path(label)!r} has no image {record.filename!r} beside it.")
            )
    plan.classes = tuple(sorted({item.name for record in records for item in record.items}))
    numbers = {name: number for number, name in enumerate(plan.classes)}
    for index, image in enumerate(plan.images):
        own = [name for name, stems in lists.items() if _stem(records[index].label) in stems] or [split_of(image)]
        for split in own:
            plan.splits.setdefault(split, []).append(index)
    plan.splits = plan.splits if "" not in plan.splits else {}
    _report_missing(plan, tree, lists, {_stem(record.label) for record in records} | {_stem(name) for name in labels})
    return plan


def _report_missing(plan: ScenePlan, tree: Tree, lists: dict[str, set[str]], labelled: set[str]) -> None:
    missing = sorted(set().union(*lists.values()) - labelled)
    where = tree.path("ImageSets/Main")
    plan.problems += [(stem, f"{where!r} lists {stem!r}, which has no xml file.") for stem in missing]
    folders = {posixpath.dirname(name) for name in plan.images}
    unused = sum(posixpath.dirname(name) in folders for name in tree.images) - len(set(plan.images))
    plan.notes += [f"{counted(unused, 'image')} without an xml file or in no list: not used"] if unused else []


class _Finder:
    """Finds the image of an xml file: by its own name, as people rename files and forget what is in them."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for name in tree.images:
            parts = posixpath.dirname(name).lower().split("/")
            if not {"segmentationclass", "segmentationobject", "masks"} & set(parts):
                self.by_stem[_stem(name)].append(name)

    def image_of(self, label: str, filename: str) -> str | None:
        same = self.by_stem.get(_stem(label), [])
        if len(same) > 1:
            folder = posixpath.dirname(label)
            same = sorted(same, key=lambda name: -len(posixpath.commonprefix([name, folder + "/"])))
        if same:
            return same[0]
        return self.tree.find_image(filename, near=posixpath.dirname(label)) if filename else None


def _stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0]


@dataclass
class _Item:
    line: int
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.texts.get("name", "")

    def number(self, key: str, where: str) -> float:
        try:
            return float(self.texts[key])
        except KeyError:
            raise DataError(f"{where}: an object without {key}.") from None
        except ValueError:
            raise DataError(f"{where}: {key} is {self.texts[key]!r}, expected a number.") from None


@dataclass
class _Record:
    """What one xml file says."""

    label: str
    where: str
    filename: str = ""
    size: dict[str, str] = field(default_factory=dict)
    items: list[_Item] = field(default_factory=list)

    def add_to(self, found: ObjectList, numbers: dict[str, int]) -> None:
        height, width = (side_given(self.size.get(key), key, repr(self.where)) for key in ("height", "width"))
        if height and width:  # some tools write 0 for both
            check_frame((height, width), found.frame, repr(self.where))
        for item in self.items:
            where = f"{self.where!r}, line {item.line}"
            left, top, right, bottom = (item.number(side, where) for side in _SIDES)
            # The first pixel is 1, and the last one belongs to the object.
            box = (left - 1, top - 1, right, bottom)
            found.add(numbers[item.name], where, box=box, crowd=item.texts.get("difficult", "0") not in ("0", ""))
        self.items = []


def _parsed(tree: Tree, label: str, problems: list[Problem]) -> _Record | None:
    path = tree.path(label)
    try:
        return parse(tree.read(label), label, path)
    except DataError as error:
        problems.append((path, error.message))
        return None


def parse(content: bytes, label: str, where: str) -> _Record:
    """The annotation in an xml file, called `label`, with the line of each object.

    Raises:
        DataError: it is no VOC annotation.
    """
    record, parents, texts = _Record(label, where), list[str](), list[str]()
    parser = expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        parents.append(tag)
        texts.clear()
        if "/".join(parents) == "annotation/object":
            record.items.append(_Item(parser.CurrentLineNumber))

    def end(tag: str) -> None:
        path = "/".join(parents)
        parents.pop()
        text = "".join(texts).strip()
        if path not in _WANTED:
            return
        if path.startswith("annotation/object"):
            record.items[-1].texts[tag] = text
        elif path.startswith("annotation/size"):
            record.size[tag] = text
        else:
            record.filename = text

    def refuse_entities(*_: object) -> None:
        raise DataError(f"{where!r}, line {parser.CurrentLineNumber}: a document type; VOC's files have none.")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = texts.append
    # Entities can be nested until memory ends.
    parser.StartDoctypeDeclHandler = refuse_entities
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise DataError(f"{where!r}, line {error.lineno}: {expat.ErrorString(error.code)}.") from None
    nameless = next((item for item in record.items if not item.name), None)
    if nameless:
        raise DataError(f"{where!r}, line {nameless.line}: an object without a name.")
    return record


def annotation_text(objects: Objects, classes: tuple[str, ...], filename: str) -> str:
    """VOC's xml for one image's objects: their boxes; crowds become difficult ones."""
    height, width = objects.size
    lines = [
        "<annotation>", f"  <filename>{escape(filename)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]  # fmt: skip
    for box, label, crowd in zip(objects.boxes.tolist(), objects.labels.tolist(), objects.crowd.tolist(), strict=True):
        corners = (box[0] + 1, box[1] + 1, box[2], box[3])
        sides = "".join(f"<{side}>{_short(value)}</{side}>" for side, value in zip(_SIDES, corners, strict=True))
        lines += [
            "  <object>", f"    <name>{escape(classes[label])}</name>", "    <truncated>0</truncated>",
            f"    <difficult>{int(crowd)}</difficult>", f"    <bndbox>{sides}</bndbox>", "  </object>",
        ]  # fmt: skip
    return "\n".join([*lines, "</annotation>", ""])


def _short(value: float) -> str:
    return str(int(value)) if value == math.floor(value) else f"{value:.4f}"
