"""LabelMe's json beside each image: shapes with a label and points, polygons and rectangles."""

from __future__ import annotations

import posixpath
from typing import Any

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.plans import ObjectPlan
from dualtoken.data.records import Records, numbers
from dualtoken.data.tree import Tree
from dualtoken.errors import DataError
from dualtoken.readers import parse_json


def find(tree: Tree) -> ObjectPlan | None:
    """What the json files beside images say; the first of them tells whether they are LabelMe's."""
    names = tree.label_files(".json")
    if tree.given is None:
        names = [name for name in names if posixpath.splitext(name)[0] in tree.image_stems or _alone(tree, name)]
    records = Records(tree, "LabelMe json")
    passed, found = set[str](), False
    for name in names:
        try:
            content = parse_json(tree.text(name), tree.path(name))
        except DataError as error:
            records.plan.problems.append((tree.path(name), error.message))
            continue
        if not (isinstance(content, dict) and isinstance(content.get("shapes"), list)):
            if not found:
                return None
            records.plan.problems.append((tree.path(name), f"{tree.path(name)!r} has no list `shapes`."))
            continue
        found = True
        _add(records, name, content, passed)
    if not found:
        return None
    kinds = ", ".join(sorted(passed))
    records.plan.notes += [f"shapes that are neither polygons nor rectangles are not used: {kinds}"] if passed else []
    return records.done()


def _alone(tree: Tree, name: str) -> bool:
    """Whether a json may be LabelMe's although its image is called otherwise, or lies elsewhere."""
    return len(tree.images) > 0 and posixpath.basename(name).split(".")[0] in {
        posixpath.splitext(posixpath.basename(image))[0] for image in tree.images
    }


def _add(records: Records, name: str, content: dict[str, Any], passed: set[str]) -> None:
    own = records.tree.image_stems.get(posixpath.splitext(name)[0])
    path = posixpath.basename(own) if own else str(content.get("imagePath") or "")
    sides = [content.get("imageHeight"), content.get("imageWidth")]
    size = [float(side) for side in sides if isinstance(side, int | float)]
    image = records.image(name, 0, path, size)
    for shape in content["shapes"] if image is not None else ():
        assert image is not None
        kind = shape.get("shape_type", "polygon") if isinstance(shape, dict) else "no shape"
        if kind not in ("polygon", "rectangle"):
            passed.add(str(kind)[:40])
            continue
        try:
            flat = numbers(shape.get("points"))
        except ValueError as error:
            records.fault(image, name, 0, error)
            continue
        if kind == "polygon":
            records.add(image, name, 0, shape.get("label"), ring=flat)
        elif len(flat) == 4:
            xs, ys = flat[::2], flat[1::2]
            records.add(image, name, 0, shape.get("label"), box=(min(xs), min(ys), max(xs), max(ys)))
        else:
            passed.add("rectangle of other than two points")


FORMATS["labelme"] = Format(
    "objects", find, "LabelMe's json with `shapes` beside each image", rank=40, outlines=True, suffixes=(".json",)
)
