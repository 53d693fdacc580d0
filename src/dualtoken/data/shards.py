"""Shards: tars in WebDataset's form, with an index that makes every image in them readable by itself.

A sample is all files of one key, which is the path up to the first dot: `cat/1.jpg`, `cat/1.cls`. `.cls` is the
number of a class (or its name), `.json` holds labels or objects, `.mask.png` a mask whose values are classes.
The index, `index.parquet` beside the tars, says of each image where it lies and all that is known about it. Without one
the tars are read through once.
"""

from __future__ import annotations

import glob
import json
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.addresses import exists, is_address, join, matching, opened
from dualtoken.data.archives import IN_TAR, MEMBER, Members
from dualtoken.errors import DataError, require
from dualtoken.images import is_image_name

INDEX, ABOUT = "index.parquet", b"dualtoken"
CLASS, LABELS, MASK = "cls", "json", "mask.png"
_MOST_LABELS = 64 * 2**20  # bytes of one image's labels
_HINT = "Write shards with an index: dualtoken pack DATA OUT"


@dataclass(frozen=True, eq=False)
class Index:
    """What is in the shards: N images, a row each.

    Attributes:
        root: the folder or address that names are relative to.
        kind: of the labels, `classes`, `labels`, `objects` or `masks`; empty where there are none.
        classes: class names; empty where nobody says them.
        columns: `name` (`train-00000.tar/cat/1.jpg`), `offset` and `size` in bytes; `crc`, 0 where it is not known;
            `label`, the text of `.cls` or `.json`; of masks `mask`, `mask_offset`, `mask_size`, `mask_crc`. Where
            shards were packed here also `split`, `height`, `width` and of masks `mask_values`, `mask_counts`.
    """

    root: str
    kind: str
    classes: tuple[str, ...]
    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(self.columns["name"])

    def list(self, column: str) -> list[Any]:
        """A column as Python's values."""
        found: list[Any] = self.columns[column].to_pylist()
        return found

    def array(self, column: str) -> NDArray[Any]:
        """A column of numbers."""
        return np.asarray(self.columns[column].to_numpy())

    def members(self, prefix: str = "") -> Members:
        """(N,) where the images lie, or with `mask_` their masks."""
        found = np.zeros(len(self), MEMBER)
        for key in ("offset", "size", "crc"):
            found[key] = self.array(prefix + key)
        found["packed"], found["method"] = found["size"], IN_TAR
        return found


def are_shards(source: str | Path) -> bool:
    """Whether `source` is an address, a tar, a pattern of tars, or a folder of nothing but tars or with an index."""
    if is_address(source) or str(source).endswith(".tar"):
        return True
    folder = Path(source)
    if not folder.is_dir():
        return False
    if (folder / INDEX).is_file() and _described(str(folder / INDEX)):
        return True
    visible = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return any(entry.suffix == ".tar" for entry in visible) and not any(
        entry.is_dir() or is_image_name(entry.name) for entry in visible
    )


def read_index(source: str) -> Index:
    """The index of a folder, an address, a tar or a pattern of tars; without one the tars are read through.

    Raises:
        DataError: there is none of them, or they cannot be read.
    """
    try:
        root, pattern = _divided(source)
        place = join(root, INDEX)
        if exists(place) and (about := _described(place)):
            return _chosen(Index(root, about["kind"], tuple(about["classes"]), _table(place)), pattern)
        tars = _tars(root, pattern)
        if not tars:
            raise DataError(f"{source!r} holds neither {INDEX} nor tars.", _HINT)
        return _scanned(root, tars)
    except tarfile.TarError as error:
        raise DataError(
            f"{source!r} is no tar, or a damaged one: {error}.", "Only tars that are not compressed."
        ) from error
    except OSError as error:
        raise DataError(f"{source!r} cannot be read: {error}.", "Check the address, and who may read it.") from error


def tars_of(source: str) -> list[str]:
    """The places of the tars that `source` means, each of which `read_index` reads by itself.

    Raises:
        DataError: there is none, or the address cannot be read.
    """
    root, pattern = _divided(source)
    try:
        tars = _tars(root, pattern)
    except OSError as error:
        raise DataError(f"{source!r} cannot be read: {error}.", "Check the address, and who may read it.") from error
    if not tars:  # an address whose folder cannot be listed, such as that of a web server
        tars = sorted({name[: name.index(".tar/") + 4] for name in read_index(source).list("name")})
    return [join(root, tar) for tar in tars]


def write_index(folder: Path, kind: str, classes: Sequence[str], columns: dict[str, Any]) -> None:
    """Write `index.parquet`; columns as of `Index`, as lists or arrays."""
    arrow, parquet = require("pyarrow", "shards"), require("pyarrow.parquet", "shards")
    about = {ABOUT: json.dumps({"kind": kind, "classes": list(classes)}).encode()}
    table = arrow.table(columns).replace_schema_metadata(about)
    parquet.write_table(table, folder / INDEX, compression="zstd")


def _described(place: str) -> dict[str, Any] | None:
    """What an index says of itself; None for another table."""
    parquet = require("pyarrow.parquet", "shards")
    try:
        with opened(place) as file:
            about = (parquet.read_schema(file).metadata or {}).get(ABOUT)
    except require("pyarrow", "shards").ArrowInvalid as error:
        raise DataError(f"{place!r} is damaged: {error}.", _HINT) from error
    return None if about is None else json.loads(about)


def _table(place: str) -> dict[str, Any]:
    with opened(place) as file:
        table = require("pyarrow.parquet", "shards").read_table(file)
    return dict(zip(table.column_names, table.columns, strict=True))


def _divided(source: str) -> tuple[str, str]:
    """The folder, and a pattern of tars below it; `*.tar` where none was given."""
    if not source.endswith(".tar"):
        return source.rstrip("/") if is_address(source) else source, ""
    parts = source.split("/")
    magic = next((place for place, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return "/".join(parts[:magic]) or ".", "/".join(parts[magic:])


def _tars(root: str, pattern: str) -> list[str]:
    """Names below the root."""
    if pattern and not glob.has_magic(pattern):
        return [pattern] if exists(join(root, pattern)) else []
    patterns = [pattern] if pattern else ["*.tar", "*/*.tar"]
    if is_address(root):
        return [place[len(root) + 1 :] for one in patterns for place in matching(f"{root}/{one}")]
    return [path.relative_to(root).as_posix() for one in patterns for path in sorted(Path(root).glob(one))]


def _chosen(index: Index, pattern: str) -> Index:
    """The images of the tars that match."""
    if not pattern:
        return index
    tars = [name[: name.index(".tar/") + 4] for name in index.list("name")]
    kept = {tar for tar in set(tars) if posixpath.normpath(tar) == pattern or _matches(tar, pattern)}
    if not kept:
        raise DataError(
            f"No tar of {join(index.root, INDEX)!r} is called {pattern!r}.", f"It has {min(set(tars))!r} ..."
        )
    rows = [row for row, tar in enumerate(tars) if tar in kept]
    columns = {key: column.take(rows) for key, column in index.columns.items()}
    return Index(index.root, index.kind, index.classes, columns)


def _matches(name: str, pattern: str) -> bool:
    import fnmatch

    return fnmatch.fnmatchcase(name, pattern)


# ---------------------------------------------------------------- without an index


@dataclass
class _Found:
    """The files of one sample, as they come."""

    image: tuple[str, int, int] | None = None
    mask: tuple[str, int, int] | None = None
    label: str | None = None
    kind: str = ""


def _scanned(root: str, tars: Sequence[str]) -> Index:
    arrow = require("pyarrow", "shards")
    samples = [sample for tar in tars for sample in _samples(root, tar) if sample.image]
    kinds = sorted({sample.kind for sample in samples} - {""})
    if len(kinds) > 1:
        raise DataError(
            f"The tars in {root!r} hold labels of several kinds: {', '.join(kinds)}.", "Give some: 'DATA/a*.tar'"
        )
    kind = kinds[0] if kinds else ""
    kept = [sample for sample in samples if sample.kind == kind]
    places = np.array([sample.image[1:] for sample in kept if sample.image], np.int64).reshape(-1, 2)
    columns: dict[str, Any] = {
        "name": [sample.image[0] for sample in kept if sample.image],
        "offset": places[:, 0],
        "size": places[:, 1],
        "crc": np.zeros(len(kept), np.uint32),
    }
    if kind == "masks":
        masks = [sample.mask for sample in kept if sample.mask]
        columns |= {
            "mask": [mask[0] for mask in masks],
            "mask_offset": [mask[1] for mask in masks],
            "mask_size": [mask[2] for mask in masks],
            "mask_crc": np.zeros(len(kept), np.uint32),
        }
    elif kind:
        columns["label"] = [sample.label for sample in kept]
    return Index(
        root, kind, _class_names(root), {key: arrow.chunked_array([column]) for key, column in columns.items()}
    )


def _samples(root: str, tar: str) -> Iterator[_Found]:
    """The samples of one tar, in their order."""
    found: dict[str, _Found] = {}
    with opened(join(root, tar)) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            folder, _, base = info.name.removeprefix("./").rpartition("/")
            stem, _, suffix = base.partition(".")
            if not info.isfile() or not stem:
                continue
            sample, suffix = found.setdefault(posixpath.join(folder, stem), _Found()), suffix.lower()
            place = f"{tar}/{info.name}", info.offset_data, info.size
            if suffix == MASK:
                sample.mask, sample.kind = place, "masks"
            elif is_image_name(f"x.{suffix}"):
                sample.image = sample.image or place
            elif suffix in (CLASS, LABELS) and info.size <= _MOST_LABELS and sample.kind != "classes":
                content = archive.extractfile(info)
                text = content.read().decode("utf-8", "replace").strip() if content else ""
                kind = "classes" if suffix == CLASS else _kind_of(text)
                if kind:
                    sample.label, sample.kind = text, kind
    yield from found.values()


def _kind_of(text: str) -> str:
    """Of a `.json`; many hold other things than labels."""
    try:
        content = json.loads(text)
    except ValueError:
        return ""
    known = content if isinstance(content, dict) else {}
    return next((key for key in ("objects", "labels") if isinstance(known.get(key), list)), "")


def _class_names(root: str) -> tuple[str, ...]:
    """Those of `classes.txt` beside the tars, a name a line."""
    place = join(root, "classes.txt")
    if not exists(place):
        return ()
    with opened(place) as file:
        return tuple(line for line in file.read().decode("utf-8-sig", "replace").splitlines() if line)
