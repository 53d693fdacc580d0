"""Label Studio's json: a list of tasks, each an image with the results of its annotations, in percent of the image."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.plans import ObjectPlan
from dualtoken.data.records import Records
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
        sides = isinstance(width, int | float) and isinstance(height, int | float)
        if kind == "rectanglelabels" and sides and not value.get("rotation"):
            x, y, w, h = (value.get(key, float("nan")) for key in ("x", "y", "width", "height"))
            box = [x * width / 100, y * height / 100, (x + w) * width / 100, (y + h) * height / 100]
            records.add(image, name, 0, label, box=box)
        elif kind == "polygonlabels" and sides:
            ring = [
                side * total / 100
                for point in value.get("points", ())
                for side, total in zip(point, (width, height), strict=True)
            ]
            records.add(image, name, 0, label, ring=ring)
        elif kind:
            passed.add(f"rotated {kind}" if kind == "rectanglelabels" else kind)


FORMATS["label_studio"] = Format(
    "objects",
    find,
    "Label Studio's json, a list of tasks with annotations",
    rank=44,
    outlines=True,
    suffixes=(".json",),
)
