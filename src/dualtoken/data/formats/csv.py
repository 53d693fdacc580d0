"""A CSV file with the columns path, label and, if you like, split: an image a line, paths relative to the file."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.formats.folders import Folders
from dualtoken.data.plans import ClassPlan
from dualtoken.data.tree import SPLIT_NAMES, Tree, unlisted
from dualtoken.errors import DataError, unknown_name
from dualtoken.readers import csv_rows
from dualtoken.words import counted

_COLUMNS = ("path", "label", "split")
LIKE_SPLIT = frozenset({"set", "subset", "partition", "fold", "phase", "is_valid"})
_EXAMPLE = "Its first line should be path,label or path,label,split; then one line an image: images/1.jpg,cat"


def find(tree: Tree) -> ClassPlan | None:
    """What the table says; in a folder it counts where there are neither split folders nor two class folders.

    Raises:
        DataError: there are several, a column is missing, or a line is wrong; the message has its number.
    """
    if tree.given:
        return _plan(tree, tree.given.name)
    folders = Folders(tree)
    base = folders.descend()
    if folders.split_folders(base) or len(folders.children[base]) > 1:
        return None
    names = [name for name in tree.with_suffix(".csv") if _is_above(posixpath.dirname(name), base)]
    names = [name for name in names if {"path", "label"} <= set(header(tree.text(name)))]
    if len(names) > 1:
        raise DataError(
            f"{tree.root!r} holds several CSV files: {', '.join(names)}.",
            "Give the path of one; a column `split` can tell train, val and test apart.",
        )
    return _plan(tree, names[0]) if names else None


def delimiter(text: str) -> str:
    """What stands between the columns."""
    first = text.partition("\n")[0]
    return max(",;\t|", key=first.count)


def header(text: str) -> list[str]:
    """The names of the columns, in lower case."""
    first = text.partition("\n")[0]
    return [column.strip().strip('"').lower() for column in first.split(delimiter(text))]


def like_split(columns: Iterable[str], table: str) -> list[str]:
    """A note on a column that seems to tell splits and is called otherwise; of `columns` in lower case."""
    named = sorted(LIKE_SPLIT & set(columns))
    return [f"the column {named[0]!r} of {table!r} is not used: as `split` it would be"] if named else []


def _is_above(folder: str, other: str) -> bool:
    return not folder or other == folder or other.startswith(f"{folder}/")


def _plan(tree: Tree, table: str) -> ClassPlan:
    plan, lines = ClassPlan(tree=tree, layout=f"CSV file {table}"), dict[str, int]()
    near = posixpath.dirname(table)
    for line, path, label, split in _records(tree.text(table), table):
        where = f"{table!r}, line {line}"
        if not path or not label:
            raise DataError(f"{where}: the {'label' if path else 'path'} is empty.")
        if split and split.lower() not in SPLIT_NAMES:
            raise DataError(f"{where}: {unknown_name('split', split, SPLIT_NAMES)}")
        name = tree.locate(path, near) or tree.locate(path.replace("\\", "/"), near)
        if name is None:
            raise DataError(
                f"{where}: there is no file {path!r} in {tree.root!r}.", "Paths are relative to the CSV file."
            )
        image = posixpath.normpath(name)
        if image in lines:
            before = plan.labels[list(lines).index(image)]
            other = f" as {before!r}: an image has one class here" if before != label else ""
            raise DataError(
                f"{where}: {path!r} stands in line {lines[image]} already{other}.",
                "Keep one of the two, or for several classes an image: --task multilabel.",
            )
        lines[image] = line
        plan.use(name, [SPLIT_NAMES.get(split.lower(), "")])
        plan.labels.append(unicodedata.normalize("NFC", label))
    plan.notes += like_split(header(tree.text(table)), table)
    if not plan.images:
        raise DataError(f"{table!r} lists no images.", _EXAMPLE)
    _refuse_several(plan.labels, list(lines.values()), table)
    given = {index for indices in plan.splits.values() for index in indices}
    if given and len(given) < len(plan.images):
        number = min(set(range(len(plan.images))) - given)
        raise DataError(f"{table!r}: the split of {plan.images[number]!r} is empty, others are given.")
    return plan


def _refuse_several(labels: list[str], lines: list[int], table: str) -> None:
    """Refuse a label such as `cat,dog` whose parts are labels elsewhere: it would silently be a class of its own."""
    parts = {label: [part.strip() for part in re.split("[,;|]", label)] for label in set(labels)}
    used = Counter(part for own in parts.values() for part in set(own))
    for label, line in zip(labels, lines, strict=True):
        if len(parts[label]) > 1 and any(used[part] > 1 for part in parts[label]):
            raise DataError(
                f"{table!r}, line {line}: {label!r} names {len(parts[label])} classes; an image has one class here.",
                "For several classes an image: --task multilabel. Where it is one name: join its words by another sign"
                " than a comma.",
            )


def _records(text: str, table: str) -> Iterator[tuple[int, str, str, str]]:
    """(number of the line, path, label, split) of each line that is not empty."""
    rows = csv_rows(text, table, delimiter=delimiter(text))
    columns = [column.lower() for column in next(rows, (0, []))[1]]
    for column in ("path", "label"):
        if column not in columns:
            others = [name for name in columns if name not in _COLUMNS and name]
            raise DataError(f"{table!r} has no column {column!r}. {_meant(others)}", _EXAMPLE)
    for line, fields in rows:
        if not any(fields):
            continue
        if len(fields) != len(columns):
            raise DataError(
                f"{table!r}, line {line}: {counted(len(fields), 'field')}, expected {len(columns)}.",
                "A field that contains the separator must stand in quotes.",
            )
        row = dict(zip(columns, fields, strict=True))
        yield line, row["path"], row["label"], row.get("split", "")


def _meant(others: list[str]) -> str:
    return f"Rename {others[0]!r}?" if len(others) == 1 else f"Its columns are {', '.join(others) or 'other ones'}."


FORMATS["csv"] = Format(
    "classes", find, "a CSV file with the columns path,label[,split]", rank=80, suffixes=(".csv",), around=unlisted
)
