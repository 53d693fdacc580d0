"""Pascal VOC's xml: a file an image, boxes in whole pixels counted from one.

`Annotations/1.xml` belongs to `JPEGImages/1.jpg`, or to the image of the same name beside it;
`ImageSets/Main/train.txt` and its like tell the splits, else folders do. Objects marked difficult are taken as crowds,
which neither train nor count, as VOC's own evaluation has it.
"""

from __future__ import annotations

import math
import posixpath
import re
from array import array
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.objects import Fault, ObjectTable
from dualtoken.data.plans import ObjectPlan, side_given
from dualtoken.data.samples import Objects
from dualtoken.data.tree import Tree, split_named, split_of, stem_of
from dualtoken.errors import DataError
from dualtoken.readers import XmlElement, parse_xml
from dualtoken.words import counted

if TYPE_CHECKING:
    from dualtoken.data.conversion import Writer

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_FLAG = re.compile(r"\s+-?[01]$")  # whether an image shows a class, in lists of one
_OF_MASKS = frozenset({"segmentationclass", "segmentationobject", "masks"})


def find(tree: Tree) -> ObjectPlan | None:
    """What VOC's files say.

    Raises:
        DataError: lists name images that are not there.
    """
    labels = [
        name
        for name in tree.label_files(".xml")
        if "annotations" in posixpath.dirname(name).lower().split("/")
        or posixpath.splitext(name)[0] in tree.image_stems
    ]
    if not labels:
        return None
    lists = image_sets(tree, "main")
    listed = set().union(*lists.values())
    images, table, sizes, names = _by_stem(tree), ObjectTable(), array("d"), list[str]()
    plan = ObjectPlan(
        tree=tree, layout="VOC xml", classes=(), read=lambda: table,
        where=lambda rows: [_where(tree, used[table.file[row]], table.place[row]) for row in rows.tolist()],
        where_image=lambda image: repr(tree.path(used[image])),
    )  # fmt: skip
    used: list[str] = []
    taken: dict[str, str] = {}  # each image to its xml file
    for label in labels:
        if lists and stem_of(label) not in listed:
            continue
        path = tree.path(label)
        try:
            root = parse_xml(tree.read(label), path)
            filename, size = root.said("filename"), _size(root, path)
            objects = [(element, _name(element, path)) for element in root.iterfind("object")]
        except DataError as error:
            plan.problems.append((path, error.message))
            continue
        image = _image_of(tree, images, label, filename)
        if image is None:
            plan.problems.append((path, f"{path!r} has no image {filename!r} beside it."))
            continue
        other = taken.setdefault(image, path)
        if other != path:
            plan.problems.append((path, f"{path!r} and {other!r} are both for the image {image!r}: is one missing?"))
            continue
        own = [split for split, stems in lists.items() if stem_of(label) in stems] or [split_of(image)]
        number = plan.use(image, own)
        used.append(label)
        sizes.extend(size)
        for element, name in objects:
            names.append(name) if _add(table, number, element, path) else None
    plan.classes = tuple(sorted(set(names)))
    table.label = array("q", map({name: number for number, name in enumerate(plan.classes)}.__getitem__, names))
    plan.sizes = np.array(sizes).reshape(-1, 2)
    plan.all_or_no_splits()
    _report_missing(plan, lists, {stem_of(name) for name in labels})
    return plan


def image_sets(tree: Tree, purpose: str) -> dict[str, set[str]]:
    """Split to stems of images, by VOC's lists `ImageSets/PURPOSE/{train,val,trainval,test}.txt`.

    A list of another name, such as CVAT's default.txt, tells which images are used; its split is "".
    """
    found: dict[str, set[str]] = {}
    known: set[str] = set()
    for name in tree.with_suffix(".txt"):
        *_, sets, folder, base = ["", "", *name.lower().split("/")]
        if sets == "imagesets" and folder == purpose:
            stem = base.removesuffix(".txt")
            if stem == "trainval" or stem == "default" or split_named(stem):
                known = known or set(map(stem_of, tree.names))
                lines = {posixpath.basename(line.strip()) for line in tree.text(name).splitlines() if line.strip()}
                key = stem if stem == "trainval" else split_named(stem)
                found[key] = found.get(key, set()) | {line if line in known else _FLAG.sub("", line) for line in lines}
    both = found.pop("trainval", None)
    if both is not None and not {"train", "val"} & set(found):
        found["train"] = both
    return found


def _where(tree: Tree, label: str, line: int) -> str:
    return f"{tree.path(label)!r}, line {line}"


def _by_stem(tree: Tree) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in tree.images:
        if not _OF_MASKS & set(posixpath.dirname(name).lower().split("/")):
            found[stem_of(name)].append(name)
    return found


def _image_of(tree: Tree, images: dict[str, list[str]], label: str, filename: str) -> str | None:
    """The image of an xml file: by its own name, as people rename files and forget what is in them."""
    same, folder = images.get(stem_of(label), []), posixpath.dirname(label)
    if same:
        said = posixpath.basename(filename.replace("\\", "/"))  # tells 1.png from 1.jpg beside it

        def fit(name: str) -> tuple[int, bool]:
            return len(posixpath.commonprefix([name, folder + "/"])), posixpath.basename(name) == said

        return max(same, key=fit)
    return tree.find_image(filename, near=folder) if filename else None


def _size(root: XmlElement, path: str) -> tuple[float, float]:
    height, width = (side_given(root.said(f"size/{side}"), side, repr(path)) for side in ("height", "width"))
    return (height, width) if height and width else (math.nan, math.nan)  # some tools write 0 for both


def _name(element: object, path: str) -> str:
    assert isinstance(element, XmlElement)
    if not element.said("name"):
        raise DataError(f"{path!r}, line {element.line}: an object without a name.")
    return element.said("name")


def _add(table: ObjectTable, image: int, element: object, path: str) -> bool:
    assert isinstance(element, XmlElement)
    sides = []
    for side in _SIDES:
        said = element.said(f"bndbox/{side}")
        try:
            sides.append(float(said))
        except ValueError:
            reason = f"{side} is {said!r}, expected a number" if said else f"an object without {side}"
            table.faults.append(Fault(image, f"{path!r}, line {element.line}", "box that cannot be read", reason))
            return False
    left, top, right, bottom = sides
    crowd = element.said("difficult") not in ("0", "")
    # The first pixel is 1, and the last one belongs to the object.
    table.add(image, 0, image, element.line, box=(left - 1, top - 1, right, bottom), crowd=crowd)
    return True


def _report_missing(plan: ObjectPlan, lists: dict[str, set[str]], labelled: set[str]) -> None:
    missing = sorted(set().union(*lists.values()) - labelled)
    where = plan.tree.path("ImageSets/Main")
    plan.problems += [(stem, f"{where!r} lists {stem!r}, which has no xml file.") for stem in missing]
    unused = plan.tree.not_listed(plan.images)
    plan.notes += [f"{counted(unused, 'image')} without an xml file or in no list: not used"] if unused else []


# ---------------------------------------------------------------- writing


def write(writer: Writer, folder: Path) -> None:
    """`Annotations/`, `JPEGImages/` and `ImageSets/Main/SPLIT.txt`."""
    for split, samples in writer.splits():
        stems = []
        for name, objects in writer.objects(samples, folder / "JPEGImages"):
            stems.append(posixpath.splitext(name)[0])
            writer.text(folder / "Annotations" / f"{stems[-1]}.xml", annotation_text(objects, writer.classes, name))
        if split:
            writer.text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))


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


FORMATS["voc"] = Format(
    "objects", find, "VOC's xml in Annotations/ or beside its image", rank=30, write=write, holds=frozenset({"crowds"})
)
