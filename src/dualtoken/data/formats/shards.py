"""Shards (`data.shards`): tars in WebDataset's form, whose index or files say a class, labels, objects or a mask."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.formats.coco import runs_of
from dualtoken.data.objects import Fault, ObjectTable
from dualtoken.data.plans import ClassKey, ClassPlan, LabelPlan, MaskPlan, ObjectPlan, Plan
from dualtoken.data.records import number
from dualtoken.data.shards import INDEX, Index
from dualtoken.data.tree import SPLIT_NAMES, Tree, split_of
from dualtoken.errors import DataError
from dualtoken.readers import parse_json
from dualtoken.words import counted


def _find(kind: str, tree: Tree) -> Plan | None:
    """The plan of shards of this kind."""
    index = tree.index
    if index is None or index.kind != kind:
        return None
    images = tree.names[: len(index)]
    tars = len({name[: name.index(".tar/")] for name in images})
    common: dict[str, Any] = {
        "tree": tree, "layout": f"{counted(tars, 'shard')} of {kind}", "images": images,
        "splits": _splits(index), "named": bool(index.classes),
    }  # fmt: skip
    if "height" in index.columns:
        common["looked_at"] = np.stack([index.array("height"), index.array("width")], 1).astype(np.int64)
    else:
        common["notes"] = [f"there is no {INDEX}: the tars were read through; dualtoken pack writes shards with one"]
    return _PLANS[kind](index, common)


def _splits(index: Index) -> dict[str, list[int]]:
    """Those of the index, else those that the names of the tars tell, if all do."""
    if "split" in index.columns:
        splits = np.array(index.list("split"), object)
    else:
        splits = np.array([_split_of(name) for name in index.list("name")], object)
    found = {name: np.flatnonzero(splits == name).tolist() for name in dict.fromkeys(splits.tolist())}
    return {} if "" in found else found


def _split_of(name: str) -> str:
    """`imagenet-train-000.tar/1.jpg` and `train/000.tar/1.jpg` are of `train`."""
    tar = name[: name.index(".tar/")]
    words = tar.rpartition("/")[2].lower().replace("_", "-").replace(".", "-").split("-")
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), split_of(f"{tar}/"))


def _classes(index: Index, common: dict[str, Any]) -> ClassPlan:
    texts = index.list("label")
    if all(text.isdecimal() for text in set(texts)):
        numbers = np.array(texts, np.int64)
        names = index.classes or tuple(f"class_{n:0{len(str(numbers.max()))}d}" for n in range(int(numbers.max()) + 1))
        wrong = np.flatnonzero(numbers >= len(names))
        if len(wrong):
            where = index.list("name")[int(wrong[0])]
            raise DataError(
                f"{where!r} has the class {numbers[wrong[0]]}, but there are {len(names)} names of classes."
            )
        texts = np.array(names, object)[numbers].tolist()
    return ClassPlan(labels=texts, **common)


def _labels(index: Index, common: dict[str, Any]) -> LabelPlan:
    labels = []
    for name, text in zip(index.list("name"), index.list("label"), strict=True):
        own = parse_json(text, name)["labels"]
        if not all(isinstance(label, str) and label for label in own):
            raise DataError(f"{name!r}: labels are {own!r}, expected a list of names.")
        labels.append(set(own))
    return LabelPlan(labels=labels, **common)


def _objects(index: Index, common: dict[str, Any]) -> ObjectPlan:
    names, texts, numbers = index.list("name"), index.list("label"), {name: n for n, name in enumerate(index.classes)}
    sizes = np.full((len(names), 2), np.nan)
    table, found = ObjectTable(), list[str]()
    for image, text in enumerate(texts):
        content = parse_json(text, names[image])
        sizes[image] = [_side(content.get(side)) for side in ("height", "width")]
        for place, given in enumerate(content["objects"]):
            try:
                found.append(_add(table, image, place, given, sizes[image]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                where = f"{names[image]!r}, objects[{place}]"
                table.faults.append(
                    Fault(image, where, "label that cannot be read", f"{type(error).__name__}: {error}")
                )
    classes = index.classes if set(found) <= set(numbers) else tuple(sorted(set(found) | set(numbers)))
    numbers = {name: n for n, name in enumerate(classes)}
    table.label = array("q", [numbers[name] for name in found])
    return ObjectPlan(
        classes=classes, read=lambda: table, sizes=sizes, where_image=lambda image: repr(names[image]),
        where=lambda rows: [f"{names[table.image[row]]!r}, objects[{table.place[row]}]" for row in rows.tolist()],
        **common | {"named": True},
    )  # fmt: skip


def _side(given: object) -> float:
    return float(given) if isinstance(given, int) and given > 0 else np.nan


def _add(table: ObjectTable, image: int, place: int, given: dict[str, Any], size: Any) -> str:
    """One object; its class."""
    name = given["class"]
    if not isinstance(name, str) or not name:
        raise ValueError(f"the class is {name!r}, expected a name")
    box = [number(value) for value in given["box"]]
    if len(box) != 4:
        raise ValueError(f"a box of {counted(len(box), 'number')}, expected left, top, right, bottom")
    rings = [[number(value) for value in ring] for ring in given.get("outline", [])]
    runs = runs_of({"size": [int(side) for side in size], "counts": given["runs"]}) if "runs" in given else None
    area = number(given.get("area", "nan"))
    table.add(image, 0, 0, place, box=box, rings=rings, runs=runs, area=area, crowd=bool(given.get("crowd", False)))
    return name


def _masks(index: Index, common: dict[str, Any]) -> MaskPlan:
    key, values = None, None
    if index.classes:
        numbers = np.arange(len(index.classes))
        key = ClassKey(index.classes, numbers, numbers.astype(np.uint8), INDEX)
    if "mask_values" in index.columns:
        values = list(zip(index.list("mask_values"), index.list("mask_counts"), strict=True))
    return MaskPlan(masks=index.list("mask"), key=key, values=values, **common)


_PLANS: dict[str, Callable[[Index, dict[str, Any]], Plan]] = {
    "classes": _classes, "labels": _labels, "objects": _objects, "masks": _masks
}  # fmt: skip
for _kind in _PLANS:
    FORMATS[f"shards_{_kind}"] = Format(
        _kind, partial(_find, _kind), f"shards with {INDEX} (dualtoken pack), or tars in WebDataset's form",
        rank=95, outlines=_kind == "objects",
    )  # fmt: skip
