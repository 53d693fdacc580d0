"""CVAT for images 1.1: one annotations.xml with an element for each image, and in it boxes and polygons."""

from __future__ import annotations

import posixpath

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.plans import ObjectPlan
from dualtoken.data.records import Records
from dualtoken.data.tree import Tree, split_named
from dualtoken.errors import DataError
from dualtoken.readers import XmlElement, parse_xml


def find(tree: Tree) -> ObjectPlan | None:
    """What the xml files say whose root is `annotations`.

    Raises:
        DataError: it is the export of a video, whose pictures are not there.
    """
    names = [
        name
        for name in tree.label_files(".xml")
        if posixpath.splitext(name)[0] not in tree.image_stems and b"<annotations" in tree.head(name)
    ]
    if not names or not tree.images:
        return None
    records, classes, passed = Records(tree, f"CVAT xml {', '.join(names)}"), list[str](), set[str]()
    for name in names:
        root = parse_xml(tree.read(name), tree.path(name))
        if root.find("track") is not None:
            raise DataError(
                f"{tree.path(name)!r} has tracks of a video, whose pictures are not in it.",
                "Export it as `CVAT for images 1.1`, or as COCO, with the images saved.",
            )
        classes += [label.text.strip() for label in root.iterfind(".//labels/label/name") if label.text]
        for element in root.iterfind("image"):
            assert isinstance(element, XmlElement)
            _add(records, name, element, passed)
    kinds = ", ".join(sorted(passed))
    records.plan.notes += [f"shapes that are neither polygons nor boxes are not used: {kinds}"] if passed else []
    return records.done(list(dict.fromkeys(classes)))


def _add(records: Records, name: str, element: XmlElement, passed: set[str]) -> None:
    given = element.attrib
    sides = [given.get("height", ""), given.get("width", "")]
    size = [float(side) for side in sides if side.isdecimal()]
    path, split = given.get("name", ""), split_named(given.get("subset", ""))
    image = records.image(name, element.line, path, size, split)
    for shape in element if image is not None else ():
        assert image is not None
        assert isinstance(shape, XmlElement)
        label, own = shape.get("label", ""), shape.attrib
        if shape.tag == "box" and own.get("rotation", "0").strip("-0.") == "":
            box = [own.get(side, "") for side in ("xtl", "ytl", "xbr", "ybr")]
            records.add(image, name, shape.line, label, box=box)
        elif shape.tag == "polygon":
            ring = own.get("points", "").replace(";", ",").split(",")
            records.add(image, name, shape.line, label, ring=ring)
        elif shape.tag != "tag":
            passed.add(f"rotated {shape.tag}" if shape.tag == "box" else shape.tag)


FORMATS["cvat"] = Format(
    "objects", find, "CVAT's annotations.xml with an element for each image", rank=42, outlines=True, suffixes=(".xml",)
)
