"""Data sets of formats that are not read here: by what each is recognised, and which library leads from it to here."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dualtoken.data.plans import NoClassesError
from dualtoken.data.tree import Tree

_RECORDS = re.compile(r"\.(tfrecords?|record)\b|-\d{5}-of-\d{5}$", re.IGNORECASE)
_DATUMARO = "pip install datumaro, then: datum convert -if {0} -i {{root}} -f coco -o CONVERTED -- --save-media"


class Foreign(NamedTuple):
    """A format: its name, the files that show it, and what to type to convert it."""

    title: str
    shown_by: Callable[[Tree], Iterator[str]]
    way: str


def _of_datumaro(tree: Tree) -> Iterator[str]:
    for name in tree.with_suffix(".json"):
        if posixpath.basename(posixpath.dirname(name)).lower() == "annotations":
            head = tree.head(name)
            if b"dm_format_version" in head or (b'"items"' in head and b'"categories"' in head):
                yield name


def _of_open_images(tree: Tree) -> Iterator[str]:
    for name in tree.with_suffix(".csv"):
        first = tree.head(name).partition(b"\n")[0].lower().split(b",")
        if b"imageid" in first and b"labelname" in first:
            yield name


def _of_supervisely(tree: Tree) -> Iterator[str]:
    if any(posixpath.basename(posixpath.dirname(name)) == "ann" for name in tree.with_suffix(".json")):
        yield from (name for name in tree.with_suffix("meta.json") if b'"classes"' in tree.head(name))


def _of_records(tree: Tree) -> Iterator[str]:
    yield from (name for name in tree.names if not tree.images and _RECORDS.search(name))


def _of_tables(tree: Tree) -> Iterator[str]:
    yield from (name for name in tree.with_suffix(".parquet", ".arrow") if not tree.images)


FOREIGN = (
    Foreign("Datumaro", _of_datumaro, _DATUMARO.format("datumaro")),
    Foreign("Open Images", _of_open_images, _DATUMARO.format("open_images")),
    Foreign("TFRecord", _of_records, _DATUMARO.format("tf_detection_api")),
    Foreign(
        "Supervisely", _of_supervisely,
        'pip install supervisely, then in Python: supervisely.convert.to_coco("{root}", dest_dir="CONVERTED")',
    ),
    Foreign(
        "Hugging Face's tables", _of_tables,
        "pip install 'dualtoken[huggingface]', then: dualtoken pack {root} CONVERTED",
    ),
)  # fmt: skip


def refuse_foreign(tree: Tree) -> None:
    """Refuse a data set of a format that another library converts.

    Raises:
        NoClassesError: it is one; the message says what to type.
    """
    for title, shown_by, way in FOREIGN:
        for name in shown_by(tree):
            raise NoClassesError(
                f"{tree.root!r} looks like a data set of the format {title} ({name!r}), which is not read here.",
                f"Convert it: {way.format(root=tree.root)}. Then: dualtoken train CONVERTED --output RUN",
            )
