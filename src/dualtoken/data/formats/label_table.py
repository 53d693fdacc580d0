"""Any number of labels an image, in a table: `cat;dog` in a column, a line a label, a column of 0 and 1 a class; or in
a json list of `{"file": ..., "labels": [...]}`. A column `split`, or a table for each split, may tell the splits.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.formats.csv import LIKE_SPLIT, delimiter, like_split
from dualtoken.data.plans import LabelPlan
from dualtoken.data.tree import SPLIT_NAMES, Tree, split_named, split_of, stem_of, unlisted
from dualtoken.errors import DataError, unknown_name
from dualtoken.images import is_image_name
from dualtoken.readers import csv_rows, parse_json
from dualtoken.words import counted

_IMAGES = ("path", "file", "filename", "file_name", "image", "image_path", "image_name", "name")
_SEVERAL = ("labels", "tags", "classes", "categories")
_LABELS = ("label", "class", "category", *_SEVERAL)
_TRUTH = {"1": True, "1.0": True, "0": False, "0.0": False}
_JSON_HEAD = re.compile(rf'\s*\[?\s*\{{[^}}]*"({"|".join(_LABELS)})"\s*:\s*\[')


@dataclass
class _Table:
    """What a table says: (where, path, labels, split) of each row that can be used, and what is wrong with others."""

    name: str
    rows: list[tuple[str, str, set[str], str]] = field(default_factory=list)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plain: bool = True  # an image of several labels cannot be meant otherwise

    @property
    def split(self) -> str:
        return split_named(stem_of(self.name)) or split_of(self.name)


def find(tree: Tree) -> LabelPlan | None:
    """What the tables say; unless all tell their splits, those alone that hold several labels of an image.

    Raises:
        DataError: there are several, whose names do not tell splits.
    """
    tables = [*_tables(tree)]
    if not all(table.split for table in tables):
        tables = [table for table in tables if table.plain] or tables[:1]
    if len(tables) > 1 and not all(table.split for table in tables):
        raise DataError(
            f"{tree.root!r} holds several tables of labels: {', '.join(table.name for table in tables)}.",
            "Give the path of one; a column `split`, or names such as train.csv and val.csv, can tell splits apart.",
        )
    return _plan(tree, tables) if tables and (tree.given or tree.images) else None


def _tables(tree: Tree) -> Iterator[_Table]:
    for name in tree.label_files(".csv", ".json", ".jsonl"):
        try:
            table = _of_csv(tree, name) if name.lower().endswith(".csv") else _of_json(tree, name)
        except DataError:
            if tree.given:
                raise
            continue  # whose it is says why
        if table is not None:
            yield table


def _plan(tree: Tree, tables: Sequence[_Table]) -> LabelPlan:
    plan = LabelPlan(
        tree=tree, layout=f"labels in {', '.join(t.name for t in tables)}", plain=any(table.plain for table in tables)
    )
    places: dict[tuple[str, str], int] = {}
    twice = 0
    for table in tables:
        plan.problems += table.wrong
        plan.notes += table.notes
        others = dict[str, str]()
        for where, path, labels, given in table.rows:
            name = tree.find_image(path, near=table.name.rpartition("/")[0], others=others)
            if name is None:
                plan.problems.append((path, f"{where}: there is no file {path!r} in {tree.root!r}."))
                continue
            split = SPLIT_NAMES.get(given.lower(), "") or table.split or split_of(name)
            if (name, split) not in places:
                places[name, split] = plan.use(name, [split])
                plan.labels.append(set())
            own = plan.labels[places[name, split]]
            twice += bool(labels) and labels <= own
            own |= labels
    plan.all_or_no_splits()
    unused = tree.not_listed(plan.images)
    plan.notes += [f"{counted(unused, 'image')} in no table: not used"] if unused else []
    plan.notes += [f"{counted(twice, 'row says', 'rows say')} again what another says"] if twice else []
    if plan.labels and all(len(own) == 1 for own in plan.labels):
        plan.notes.append("every image has exactly one label: columns path,label are for one class an image")
    return plan


def _of_csv(tree: Tree, name: str) -> _Table | None:
    """None where the columns are others."""
    text = tree.text(name)
    (_, head), *lines = [row for row in csv_rows(text, name, delimiter=delimiter(text)) if any(row[1])] or [(0, [])]
    lower = [column.lower() for column in head]
    whole = [fields for _, fields in lines if len(fields) == len(head)]
    if not whole or "xmin" in lower:
        return None
    image = next((lower.index(column) for column in _IMAGES if column in lower), None)
    image = next((n for n, cell in enumerate(whole[0]) if is_image_name(cell)), None) if image is None else image
    label = next((lower.index(column) for column in _LABELS if column in lower), None)
    hot = [] if label is not None else [
        n for n in range(len(head))
        if n != image and head[n] and lower[n] not in LIKE_SPLIT and all(fields[n] in _TRUTH for fields in whole)
    ]  # fmt: skip
    if image is None or (label is None and len(hot) < 2):
        return None
    table, split = _Table(name, notes=like_split(lower, name)), lower.index("split") if "split" in lower else None
    sign = "" if label is None else _sign([fields[label] for fields in whole])
    for line, fields in lines:
        where = f"{name!r}, line {line}"
        if len(fields) != len(head):
            fault = f"{counted(len(fields), 'field')}, expected {len(head)}"
        elif split is not None and fields[split] and fields[split].lower() not in SPLIT_NAMES:
            fault = unknown_name("split", fields[split], SPLIT_NAMES)
        else:
            given = fields[label].split(sign or None) if label is not None and sign else [fields[label or 0]]
            given = [head[n] for n in hot if _TRUTH[fields[n]]] if label is None else given
            table.rows.append((where, fields[image], _named(given), "" if split is None else fields[split]))
            continue
        table.wrong.append((name, f"{where}: {fault}."))
    table.plain = label is None or _is_plain(table, lower[label], sign)
    return table


def _sign(labels: Sequence[str]) -> str:
    """What stands between the labels of an image; "" where nothing does."""
    return next((sign for sign in ";|," if any(sign in label for label in labels)), "")


def _named(given: Sequence[Any]) -> set[str]:
    """Names without blanks, quotes and brackets around them, as lists that were written as text have."""
    names = (unicodedata.normalize("NFC", str(name)).strip(" \t'\"[]") for name in given)
    return {name for name in names if name}


def _is_plain(table: _Table, column: str, sign: str) -> bool:
    """Whether several labels must be meant: commas alone may belong to names, whose parts then stand nowhere else."""
    if sign and (sign != "," or column in _SEVERAL):
        return True
    by_path = defaultdict[str, set[frozenset[str]]](set)
    for _, path, labels, _ in table.rows:
        by_path[path].add(frozenset(labels))
    if any(len(sets) > 1 for sets in by_path.values()):
        return True
    sets = {labels for own in by_path.values() for labels in own}
    used = Counter(label for labels in sets for label in labels)
    return any(len(labels) > 1 and any(used[label] > 1 for label in labels) for labels in sets)


def _of_json(tree: Tree, name: str) -> _Table | None:
    """None where it is no list of images with lists of labels, or a line for each."""
    if not _JSON_HEAD.match(tree.head(name).decode("utf-8-sig", "ignore")):
        return None
    text, where = tree.text(name), tree.path(name)
    lines = [line for line in text.splitlines() if line.strip()] if name.lower().endswith("l") else []
    content = [parse_json(line, where) for line in lines] if lines else parse_json(text, where)
    if not isinstance(content, list):
        return None
    table = _Table(name)
    for number, entry in enumerate(content, start=1):
        where, known = f"{name!r}, entry {number}", entry if isinstance(entry, dict) else {}
        path = next((known[key] for key in _IMAGES if key in known), None)
        labels = next((known[key] for key in _LABELS if key in known), None)
        split = known.get("split") or ""
        if not isinstance(path, str) or not path:
            fault = f"it names no image; expected one of {', '.join(_IMAGES)}"
        elif not isinstance(labels, list) or not all(isinstance(label, str | int) for label in labels):
            fault = f"its labels are {labels!r}, expected a list of names"
        elif split and str(split).lower() not in SPLIT_NAMES:
            fault = unknown_name("split", str(split), SPLIT_NAMES)
        else:
            table.rows.append((where, path, _named(labels), str(split)))
            continue
        table.wrong.append((name, f"{where}: {fault}."))
    return table if table.rows else None


FORMATS["label_table"] = Format(
    "labels", find, "a CSV file or json list with any number of labels for each image", rank=68,
    suffixes=(".csv", ".json", ".jsonl"), around=unlisted,
)  # fmt: skip
