"""Data sets of Hugging Face's library `datasets`, on disk, in memory or as a stream: their rows, to be packed.

An image column is needed, and one of: a `ClassLabel`; a list of them; `objects` with `bbox` (left, top, width, height
in pixels, as that library's own guide has it) and `category`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from dualtoken.data.shards import CLASS, LABELS, are_shards
from dualtoken.data.tree import SPLIT_NAMES
from dualtoken.errors import DataError, require
from dualtoken.images import is_image_name

_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves
_BUFFER = 1000  # rows of a stream that are shuffled among each other


class Row(NamedTuple):
    """An image as it is in its file, and the text of its labels."""

    image: bytes
    label: str


@dataclass(frozen=True)
class Rows:
    """The rows of each split, which is empty where there is one data set alone.

    Attributes:
        kind: of the labels, as of `Index`; `suffix` is that of their files.
    """

    kind: str
    suffix: str
    classes: tuple[str, ...]
    splits: dict[str, Iterator[Row]]


def rows_of(source: Any, seed: int) -> Rows | None:
    """The rows of a data set, shuffled; None where `source` is something else.

    Args:
        source: a `Dataset`, `IterableDataset` or a dictionary of them by split; a folder of `save_to_disk`, or one of
            parquet files.
        seed: shuffles the rows; those of a stream a thousand at a time.

    Raises:
        DataError: it has no image column, or none or several columns of labels.
    """
    data = _opened(Path(source)) if isinstance(source, str | Path) else source
    if data is None:
        return None
    parts = dict(data) if isinstance(data, Mapping) else {"": data}
    named = {SPLIT_NAMES.get(name.lower(), "") if name else "": part for name, part in parts.items()}
    if not parts or len(named) < len(parts) or ("" in named and "" not in parts):
        raise DataError(
            f"The splits are {', '.join(parts)}, expected train, val (or validation) and test.", "Rename them."
        )
    image, kind, column, classes = _columns(next(iter(parts.values())).features)
    label = {"classes": _class, "labels": _labels, "objects": _objects}[kind](classes)
    splits: dict[str, Iterator[Row]] = {}
    for name, part in named.items():
        own = part.cast_column(image, require("datasets", "huggingface").Image(decode=False))
        streamed = not hasattr(own, "__len__")
        own = own.shuffle(seed=seed, buffer_size=_BUFFER) if streamed else own.shuffle(seed=seed)
        splits[name] = (Row(_bytes(row[image]), label(row[column])) for row in own)
    return Rows(kind, CLASS if kind == "classes" else LABELS, classes, splits)


def _opened(folder: Path) -> Any:
    """The data set that lies in a folder; parquet is read as a stream, which copies nothing."""
    if not folder.is_dir():
        return None
    if any((folder / name).is_file() for name in _SAVED):
        return require("datasets", "huggingface").load_from_disk(str(folder))
    tables = [*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]
    if tables and not are_shards(folder) and not any(is_image_name(path.name) for path in folder.iterdir()):
        return require("datasets", "huggingface").load_dataset(str(folder), streaming=True)
    return None


def _columns(features: Any) -> tuple[str, str, str, tuple[str, ...]]:
    """The image column; the kind, the column and the class names of the labels."""
    datasets = require("datasets", "huggingface")
    known = dict(features or {})
    told = f"The columns are {', '.join(f'{name} ({type(feature).__name__})' for name, feature in known.items())}"
    images = [name for name, feature in known.items() if isinstance(feature, datasets.Image)]
    found = [(kind, name, label) for name, feature in known.items() for kind, label in _label_kinds(feature)]
    if not images:
        raise DataError(f"{told}: none holds images.", 'Cast it: data.cast_column("image", datasets.Image()).')
    if len(found) != 1:
        number = "none holds classes" if not found else f"{', '.join(name for _, name, _ in found)} all hold classes"
        hint = "Cast one to datasets.ClassLabel, as data.class_encode_column does; remove the others by remove_columns."
        raise DataError(f"{told}: {number}.", hint)
    kind, name, label = found[0]
    return images[0], kind, name, tuple(label.names)


def _label_kinds(feature: Any) -> Iterator[tuple[str, Any]]:
    """The kind of labels in a column, and their ClassLabel. A list of dictionaries may be a dictionary of lists."""
    datasets = require("datasets", "huggingface")
    inner = getattr(feature, "feature", None)
    if isinstance(feature, datasets.ClassLabel):
        yield "classes", feature
    elif isinstance(inner, datasets.ClassLabel):
        yield "labels", inner
    else:
        fields = feature if isinstance(feature, dict) else inner
        if isinstance(fields, dict) and {"bbox", "category"} <= set(fields):
            category = fields["category"]
            yield "objects", category if isinstance(category, datasets.ClassLabel) else category.feature


def _bytes(image: dict[str, Any]) -> bytes:
    content: bytes | None = image["bytes"]
    return Path(image["path"]).read_bytes() if content is None else content


def suffix_of(content: bytes) -> str:
    """`.jpg`, `.png` ... by what the image is; `.jpg` where it cannot be told, which the check of images then says."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return f".{(image.format or 'jpg').lower()}".replace(".jpeg", ".jpg")
    except OSError:
        return ".jpg"


def _known(classes: tuple[str, ...], label: Any) -> int:
    """A label; raises `DataError` at -1 and None, by which that library says that nobody knows the class."""
    if not (isinstance(label, int) and 0 <= label < len(classes)):
        raise DataError(
            f"A row has the label {label!r}, expected 0 to {len(classes) - 1}.",
            "Rows without a class, as of many test splits, cannot be used: remove them, or their split.",
        )
    return label


def _class(classes: tuple[str, ...]) -> Callable[[Any], str]:
    return lambda label: str(_known(classes, label))


def _labels(classes: tuple[str, ...]) -> Callable[[Any], str]:
    return lambda own: json.dumps({"labels": [classes[_known(classes, label)] for label in own]}, ensure_ascii=False)


def _objects(classes: tuple[str, ...]) -> Callable[[Any], str]:
    def told(objects: Any) -> str:
        if isinstance(objects, dict):
            objects = [dict(zip(objects, values, strict=True)) for values in zip(*objects.values(), strict=True)]
        rows = []
        for row in objects:
            left, top, width, height = row["bbox"]
            box = [left, top, left + width, top + height]
            rows.append(
                {"class": classes[_known(classes, row["category"])], "box": box}
                | ({"crowd": True} if row.get("iscrowd") else {})
            )
        return json.dumps({"objects": rows}, ensure_ascii=False)

    return told
