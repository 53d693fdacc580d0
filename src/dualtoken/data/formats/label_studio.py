"""Label Studio's json: a list of tasks, each an image with the results of its annotations, in percent of the image."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.plans import ObjectPlan
from dualtoken.data.records import Records, number, numbers
from dualtoken.data.tree import Tree
from dualtoken.errors import DataError
from dualtoken.readers import parse_json


def find(tree: Tree) -> ObjectPlan | None:
    """What the json files say that are lists of tasks with results."""
    records, passed, used = Records(tree, "Label Studio json"), set[str](), list[str]()
    for name in tree.label_files(".json"):
        if tree.head(name).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":
            continue
        try:
            content = parse_json(tree.text(name), tree.path(name))
        except DataError as error:
            if tree.given:
                raise
            records.plan.problems.append((tree.path(name), error.message))
            continue
        tasks = [task for task in content if isinstance(task, dict) and _results(task) is not None]
        if not tasks:
            continue
        used.append(name)
        for task in tasks:
            _add(records, name, task, passed)
    if not used or not tree.images:
        return None
    records.plan.layout = f"Label Studio json {', '.join(used)}"
    kinds = ", ".join(sorted(passed))
    records.plan.notes += [f"results that are neither polygons nor boxes are not used: {kinds}"] if passed else []
    return records.done()


def _results(task: dict[str, Any]) -> list[Any] | None:
    """The results of the annotation that counts: the first that was not cancelled."""
    given = task.get("annotations", task.get("completions"))
    if not isinstance(given, list) or not isinstance(task.get("data"), dict):
        return None
    own = [part for part in given if isinstance(part, dict) and not part.get("was_cancelled")]
    results = own[0].get("result", []) if own else []
    return results if isinstance(results, list) else None


def _path(task: dict[str, Any]) -> str:
    """The image's file, which may stand in a URL, behind a hash that Label Studio put before its name."""
    given = next((value for value in task["data"].values() if isinstance(value, str)), "")
    parsed = urlparse(given)
    path = unquote(parse_qs(parsed.query).get("d", [parsed.path])[0])
    return path.removeprefix("/data/upload/").lstrip("/")


def _add(records: Records, name: str, task: dict[str, Any], passed: set[str]) -> None:
    path = _path(task)
    hashed, _, rest = posixpath.basename(path).partition("-")
    known = records.tree.find_image(path) is not None
    image = records.image(name, 0, path if known or not rest or len(hashed) != 8 else rest)
    for result in _results(task) or () if image is not None else ():
        assert image is not None
        said = result if isinstance(result, dict) else {}
        value = said["value"] if isinstance(said.get("value"), dict) else {}
        kind = said.get("type", "")
        width, height = (said.get(f"original_{side}") for side in ("width", "height")) if value else (0, 0)
        names = next((value[key] for key in ("rectanglelabels", "polygonlabels") if key in value), None)
        label = names[0] if isinstance(names, list) and names else None
        boxed = kind == "rectanglelabels" and not value.get("rotation")
        if not boxed and kind != "polygonlabels":
            passed |= {f"rotated {kind}" if kind == "rectanglelabels" else str(kind)[:40]} if kind else set()
            continue
        try:
            scale = number(width) / 100, number(height) / 100
            if boxed:
                x, y, w, h = (number(value.get(key)) for key in ("x", "y", "width", "height"))
                ring = [x, y, x + w, y + h]
            else:
                ring = numbers(value.get("points"))
        except ValueError as error:
            records.fault(image, name, 0, error)
            continue
        ring = [side * scale[place % 2] for place, side in enumerate(ring)]
        records.add(image, name, 0, label, box=ring if boxed else None, ring=() if boxed else ring)


FORMATS["label_studio"] = Format(
    "objects",
    find,
    "Label Studio's json, a list of tasks with annotations",
    rank=44,
    outlines=True,
    suffixes=(".json",),
)
