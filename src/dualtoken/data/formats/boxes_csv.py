"""A table of boxes, as TensorFlow's tools and Roboflow write it: `_annotations.csv`, a box a line.

The columns are filename, class, xmin, ymin, xmax, ymax and perhaps width and height; a table may lie in each split's
folder.
"""

from __future__ import annotations

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.formats.csv import delimiter, header
from dualtoken.data.plans import ObjectPlan
from dualtoken.data.records import Records
from dualtoken.data.tree import SPLIT_NAMES, Tree
from dualtoken.errors import DataError
from dualtoken.readers import csv_rows

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_IMAGES = ("filename", "file_name", "image", "image_path", "path")
_CLASSES = ("class", "label", "class_name", "name")


def find(tree: Tree) -> ObjectPlan | None:
    """What the tables with the columns of boxes say."""
    names = [name for name in tree.label_files(".csv") if set(_SIDES) <= set(header(tree.text(name)))]
    if not names:
        return None
    records = Records(tree, f"CSV of boxes {', '.join(names)}")
    for name in names:
        _read(records, name)
    return records.done()


def _read(records: Records, name: str) -> None:
    text, where = records.tree.text(name), records.tree.path(name)
    rows = csv_rows(text, where, delimiter=delimiter(text))
    columns = [column.lower() for column in next(rows, (0, []))[1]]
    image_column = next((column for column in _IMAGES if column in columns), None)
    class_column = next((column for column in _CLASSES if column in columns), None)
    if image_column is None or class_column is None:
        raise DataError(
            f"{where!r} has the columns {', '.join(columns)}, expected filename and class beside the sides."
        )
    for line, fields in rows:
        if not any(fields):
            continue
        if len(fields) != len(columns):
            raise DataError(f"{where!r}, line {line}: {len(fields)} fields, expected {len(columns)}.")
        row = dict(zip(columns, fields, strict=True))
        size = [float(row[side]) for side in ("height", "width") if row.get(side, "").isdecimal()]
        split = SPLIT_NAMES.get(row.get("split", "").lower(), "")
        image = records.image(name, line, row[image_column], size, split)
        if image is not None and any(row[side] for side in _SIDES):  # without sides: an image without objects
            records.add(image, name, line, row[class_column], box=[row[side] for side in _SIDES])


FORMATS["boxes_csv"] = Format(
    "objects", find, "a CSV file with the columns filename,class,xmin,ymin,xmax,ymax", rank=46, suffixes=(".csv",)
)
