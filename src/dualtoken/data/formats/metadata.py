"""Tables as the library `datasets` reads them: `metadata.csv` or `metadata.jsonl`, above the images or in each split.

The column `file_name` is relative to the table; a further column holds the class. Splits are the folders' names.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterator
from typing import Any

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.formats.csv import delimiter
from dualtoken.data.plans import ClassPlan
from dualtoken.data.tree import SPLIT_NAMES, Tree
from dualtoken.errors import DataError
from dualtoken.readers import csv_rows, parse_json
from dualtoken.words import counted

_FILE = "file_name"
_LABELS = ("label", "labels", "class", "class_name", "category", "class_label", "label_name")
_NAMES = ("metadata.csv", "metadata.jsonl")


def find(tree: Tree) -> ClassPlan | None:
    """What the tables say; None where none has a column of classes, since they may hold captions.

    Raises:
        DataError: a line is wrong; the message has its number.
    """
    tables = [name for name in tree.label_files(*_NAMES) if posixpath.basename(name) in _NAMES]
    plan = ClassPlan(tree=tree, layout=f"tables {', '.join(tables[:3])}")
    for table in tables:
        for line, row in _rows(tree, table):
            if not plan.images and not _label_of(row):
                return None
            _use(plan, table, line, row)
    if not plan.images:
        return None
    unused = len(tree.images) - len(set(plan.images))
    plan.notes += [f"{counted(unused, 'image is', 'images are')} in no table: not used"] if unused > 0 else []
    plan.all_or_no_splits()
    return plan


def _rows(tree: Tree, table: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line, columns) of each line that is not empty."""
    text, where = tree.text(table), tree.path(table)
    if table.endswith(".jsonl"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                row = parse_json(line, f"{where}, line {number}")
                if not isinstance(row, dict):
                    raise DataError(f"{where!r}, line {number}: expected names with their values.")
                yield number, row
        return
    rows = csv_rows(text, where, delimiter=delimiter(text))
    columns = next(rows, (0, []))[1]
    for number, fields in rows:
        if any(fields):
            if len(fields) != len(columns):
                raise DataError(f"{where!r}, line {number}: {counted(len(fields), 'field')}, expected {len(columns)}.")
            yield number, dict(zip(columns, fields, strict=True))


def _label_of(row: dict[str, Any]) -> str:
    """The name of the column of classes; "" for none."""
    return next((name for name in _LABELS if name in row), "") if _FILE in row else ""


def _use(plan: ClassPlan, table: str, line: int, row: dict[str, Any]) -> None:
    where, column = f"{plan.tree.path(table)!r}, line {line}", _label_of(row)
    file, label = row.get(_FILE), row.get(column)
    if not isinstance(file, str) or not file or not column:
        raise DataError(f"{where}: expected {_FILE} and a class, such as label; found {', '.join(row)}.")
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        raise DataError(f"{where}: the {column} of {file!r} is {label!r}, expected one class.")
    name = plan.tree.locate(file, posixpath.dirname(table))
    if name is None:
        raise DataError(f"{where}: there is no file {file!r} beside the table.")
    folders = (SPLIT_NAMES.get(part.lower(), "") for part in posixpath.dirname(name).split("/"))
    plan.use(name, [next(filter(None, folders), "")])
    plan.labels.append(unicodedata.normalize("NFC", str(label)))


FORMATS["metadata"] = Format(
    "classes", find, "a table metadata.csv or metadata.jsonl with file_name and label", rank=70, suffixes=(".jsonl",)
)
