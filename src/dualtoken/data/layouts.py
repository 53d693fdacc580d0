"""From names of files to classes and splits: class folders, split folders, CSV files."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dualtoken.data.archives import read_member
from dualtoken.data.listing import Listing
from dualtoken.errors import DataError, ImageError, unknown_name
from dualtoken.images import ImageLimits
from dualtoken.words import counted

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Beside `images`, these tell a data set for detection or segmentation.
_ANNOTATIONS = frozenset({"labels", "masks", "annotations"})
_COLUMNS = ("path", "label", "split")
_CSV_EXAMPLE = "Its first line should be path,label or path,label,split; then one line an image: images/1.jpg,cat"


class NoClassesError(DataError):
    """Images, if any, are not in class folders: the data may be of another kind."""


@dataclass
class Assignment:
    """Class and split of each image that is used.

    Attributes:
        listing: where the images are.
        rows: index into `listing.names` of each image used, rising.
        labels: its class name.
        splits: its split, or "" where the source gives none.
        layout: in words.
        empty: class folders without an image.
        notes: what a person should know.
    """

    listing: Listing
    layout: str
    rows: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: int, label: str, split: str) -> None:
        """Use image `row`."""
        self.rows.append(row)
        # The same accent may be stored in two ways, and macOS changes one into the other.
        self.labels.append(unicodedata.normalize("NFC", label))
        self.splits.append(split)


def assign(listing: Listing) -> Assignment:
    """Recognise the layout of a folder or archive.

    Split folders are looked for first, then class folders; a CSV file counts where there are neither.

    Raises:
        DataError: no layout is recognised.
    """
    tree = _Tree(listing)
    base = tree.descend()
    splits = tree.split_folders(base)
    if splits:
        return _by_splits(listing, tree, base, splits)
    if len(tree.children[base]) < 2:
        tables = [name for name in sorted(listing.tables) if _is_above(posixpath.dirname(name), base)]
        tables = [name for name in tables if {"path", "label"} <= set(_header(_table_text(listing, name)))]
        if len(tables) > 1:
            raise DataError(
                f"{listing.root!r} holds several CSV files: {', '.join(tables)}.",
                "Give the path of one; a column `split` can tell train, val and test apart.",
            )
        if tables:
            return _by_table(listing, tables[0])
    if not listing.names:
        raise NoClassesError(f"{listing.root!r} holds no images.", _layout_hint())
    return _by_classes(listing, tree, base)


def assign_csv(path: Path) -> Assignment:
    """Read a CSV file with the columns path, label and, if you like, split. Paths are relative to the file.

    Raises:
        DataError: a column is missing, or a line is wrong; the message has its number.
    """
    listing = Listing(str(path.parent))

    def find(name: str) -> int | None:
        try:
            size = os.stat(path.parent / name).st_size  # noqa: PTH116
        except (OSError, ValueError):
            return None
        listing.names.append(name)
        listing.sizes.append(size)
        return len(listing.names) - 1

    return _assign_rows(listing, path.name, _decoded(path.read_bytes(), str(path)), find)


class _Tree:
    """The folders of a listing: which lie in which, and which hold images themselves."""

    def __init__(self, listing: Listing) -> None:
        self.images = Counter(map(posixpath.dirname, listing.names))
        self.children: dict[str, set[str]] = defaultdict(set)
        for folder in {*listing.folders, *self.images}:
            while folder:
                parent = posixpath.dirname(folder)
                self.children[parent].add(folder)
                folder = parent
        self.holders: set[str] = set()  # folders with an image in them or below
        for folder in self.images:
            while folder not in self.holders:
                self.holders.add(folder)
                folder = posixpath.dirname(folder)

    def descend(self) -> str:
        """Through folders that hold one folder and nothing else, down to the splits or classes."""
        base = ""
        while not self.images[base] and len(self.children[base]) == 1:
            (child,) = self.children[base]
            if self.images[child] or not self.children[child] or _split_of(child):
                break
            base = child
        return base

    def split_folders(self, base: str) -> dict[str, str]:
        """Split folders in `base` that have class folders, to the names of their splits."""
        return {
            child: split
            for child in sorted(self.children[base])
            if (split := _split_of(child)) and any(sub in self.holders for sub in self.children[child])
        }


def _split_of(folder: str) -> str | None:
    return SPLIT_NAMES.get(posixpath.basename(folder).lower())


def _split_like(folder: str) -> bool:
    """Whether a folder is called as a split, perhaps with a year, such as COCO's train2017."""
    return posixpath.basename(folder).lower().rstrip("0123456789_- ") in SPLIT_NAMES


def _is_above(folder: str, other: str) -> bool:
    return not folder or other == folder or other.startswith(f"{folder}/")


def _by_splits(listing: Listing, tree: _Tree, base: str, splits: dict[str, str]) -> Assignment:
    if len(set(splits.values())) < len(splits):
        raise DataError(f"{listing.root!r} has two folders for one split: {', '.join(splits)}.", "Rename one.")
    found = Assignment(listing, f"class folders in {', '.join(posixpath.basename(s) for s in splits)}")
    _add_classes(found, tree, splits)
    others = sorted((tree.children[base] - set(splits)) & tree.holders)
    found.notes += [f"{folder!r} beside the splits is not used" for folder in others]
    return found


def _by_classes(listing: Listing, tree: _Tree, base: str) -> Assignment:
    children = tree.children[base]
    if not children:
        images = counted(len(listing.names), "image")
        raise NoClassesError(f"{listing.root!r} holds {images} but no class folders.", _layout_hint())
    if all(map(_split_like, children)):
        raise NoClassesError(
            f"In {listing.root!r} the images lie in {', '.join(sorted(children))} without class folders.",
            _layout_hint(),
        )
    parts = {posixpath.basename(child).lower() for child in children}
    if "images" in parts and parts & _ANNOTATIONS:
        raise NoClassesError(
            f"{listing.root!r} has folders {', '.join(sorted(parts))}: boxes or masks, but no classes of images.",
            _layout_hint(),
        )
    found = Assignment(listing, "class folders")
    _add_classes(found, tree, {base: ""})
    return found


def _add_classes(found: Assignment, tree: _Tree, bases: dict[str, str]) -> None:
    """Use all images in class folders of `bases`, which are folders to names of splits."""
    stray: Counter[str] = Counter()
    for base in bases:
        found.empty += sorted(tree.children[base] - tree.holders)
    prefixes = [(f"{base}/" if base else "", split) for base, split in bases.items()]
    for row, name in enumerate(found.listing.names):
        for prefix, split in prefixes:
            if name.startswith(prefix):
                label, _, rest = name[len(prefix) :].partition("/")
                if rest:
                    found.add(row, label, split)
                else:
                    stray[prefix or "."] += 1
    found.notes += [
        f"{counted(n, f'image directly in {folder!r} is', f'images directly in {folder!r} are')} in no class: not used"
        for folder, n in stray.items()
    ]


def _by_table(listing: Listing, table: str) -> Assignment:
    if listing.members is None:
        return assign_csv(Path(listing.root) / table)
    rows = {name: row for row, name in enumerate(listing.names)}
    folder = posixpath.dirname(table)
    text = _table_text(listing, table)
    return _assign_rows(listing, table, text, lambda name: rows.get(posixpath.normpath(posixpath.join(folder, name))))


def _table_text(listing: Listing, table: str) -> str:
    path, member = os.path.join(listing.root, table), listing.tables[table]  # noqa: PTH118
    try:
        content = Path(path).read_bytes() if member is None else read_member(listing.root, member, path, ImageLimits())
    except (ImageError, OSError) as error:
        raise DataError(f"{path!r} cannot be read: {error}.") from error
    return _decoded(content, path)


def _decoded(content: bytes, path: str) -> str:
    try:
        return content.decode("utf-8-sig")  # spreadsheets begin UTF-8 with a byte order mark
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path!r} is not UTF-8 in line {line}.", "Save it as `CSV UTF-8`.") from None


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",;\t|", key=first.count)


def _header(text: str) -> list[str]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    return [column.strip().lower() for column in next(reader, [])]


def _records(text: str, table: str) -> Iterator[tuple[int, str, str, str]]:
    """(number of the line, path, label, split) of each line that is not empty."""
    columns = _header(text)
    for column in ("path", "label"):
        if column not in columns:
            others = [name for name in columns if name not in _COLUMNS and name]
            raise DataError(f"{table!r} has no column {column!r}. {_meant(column, others)}", _CSV_EXAMPLE)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), skipinitialspace=True)
    next(reader)
    for fields in reader:
        if not any(map(str.strip, fields)):
            continue
        if len(fields) != len(columns):
            raise DataError(
                f"{table!r}, line {reader.line_num}: {counted(len(fields), 'field')}, expected {len(columns)}.",
                "A field that contains the separator must stand in quotes.",
            )
        row = dict(zip(columns, map(str.strip, fields), strict=True))
        yield reader.line_num, row["path"], row["label"], row.get("split", "")


def _meant(column: str, others: list[str]) -> str:
    return f"Rename {others[0]!r}?" if len(others) == 1 else f"Its columns are {', '.join(others) or 'other ones'}."


def _assign_rows(listing: Listing, table: str, text: str, find: Callable[[str], int | None]) -> Assignment:
    found, lines = Assignment(listing, f"CSV file {table}"), dict[str, int]()
    for line, path, label, split in _records(text, table):
        where = f"{table!r}, line {line}"
        if not path or not label:
            raise DataError(f"{where}: the {'label' if path else 'path'} is empty.")
        if split and split.lower() not in SPLIT_NAMES:
            raise DataError(f"{where}: {unknown_name('split', split, SPLIT_NAMES)}")
        if path in lines:
            raise DataError(f"{where}: {path!r} stands in line {lines[path]} already.", "Keep one of the two.")
        lines[path] = line
        row = find(path)
        if row is None:
            row = find(path.replace("\\", "/"))
        if row is None:
            raise DataError(
                f"{where}: there is no file {path!r} in {listing.root!r}.",
                "Paths are relative to the CSV file.",
            )
        found.add(row, label, SPLIT_NAMES.get(split.lower(), ""))
    if not found.rows:
        raise DataError(f"{table!r} lists no images.", _CSV_EXAMPLE)
    if len({bool(split) for split in found.splits}) == 2:
        number = found.splits.index("")
        raise DataError(f"{table!r}: the split of {listing.names[found.rows[number]]!r} is empty, others are given.")
    return found


def _layout_hint() -> str:
    return (
        "Expected DIR/CLASS/*.jpg, or DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg, "
        "or a CSV file with the columns path,label[,split]."
    )
