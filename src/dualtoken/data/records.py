"""A plan from records: for formats that name classes and images in words, one object after the other."""

from __future__ import annotations

import math
import reprlib
from array import array
from collections.abc import Sequence

import numpy as np

from dualtoken.data.objects import Fault, ObjectTable
from dualtoken.data.plans import ObjectPlan
from dualtoken.data.tree import Tree, split_of
from dualtoken.words import counted


class Records:
    """Images and objects, growing; `plan` gives what they make.

    Args:
        tree: where everything is.
        layout: in words.
    """

    def __init__(self, tree: Tree, layout: str) -> None:
        self.tree, self.table, self.names = tree, ObjectTable(), list[str]()
        self.files: dict[str, int] = {}
        self.sizes: list[tuple[float, float]] = []
        self.where_images: list[str] = []
        self.rows: dict[tuple[str, str], int] = {}
        self.others: dict[str, dict[str, str]] = {}  # of each label file, as `Tree.find_image` takes them
        self.plan = ObjectPlan(
            tree=tree, layout=layout, classes=(), read=lambda: self.table,
            where_image=lambda row: self.where_images[row],
            where=lambda rows: [self._where(self.table.file[row], self.table.place[row]) for row in rows.tolist()],
        )  # fmt: skip

    def image(self, label: str, line: int, path: str, size: Sequence[float] = (), split: str = "") -> int | None:
        """The index of the image that a label file means by `path`; None, and a problem, where it is not there.

        Args:
            label: the label file.
            line: where in it; 0 for all of it.
            path: the image, relative to the label file.
            size: (height, width) that the labels are for.
            split: that the file gives; else its folders tell it.
        """
        others = self.others.setdefault(label, {})
        name = self.tree.find_image(path, near=label.rpartition("/")[0], others=others)
        where = self._where(self._file(label), line)
        if name is None:
            self.plan.problems.append((path, f"{where}: there is no image {path!r} in {self.tree.root!r}."))
            return None
        split = split or split_of(name)
        if (name, split) not in self.rows:
            self.rows[name, split] = self.plan.use(name, [split])
            known = len(size) == 2 and all(math.isfinite(side) and side > 0 for side in size)
            self.sizes.append((size[0], size[1]) if known else (math.nan, math.nan))
            self.where_images.append(where)
        return self.rows[name, split]

    def add(
        self,
        image: int,
        label: str,
        line: int,
        name: object,
        *,
        box: Sequence[object] | None = None,
        ring: Sequence[object] = (),
        crowd: bool = False,
    ) -> None:
        """One object, with its box or the ring of its outline; what is no name or number becomes a fault."""
        try:
            if not isinstance(name, str | int) or not str(name).strip():
                raise ValueError(f"the class is {reprlib.repr(name)}, expected a name")
            corners = None if box is None else [number(value) for value in box]
            points = [number(value) for value in ring]
        except ValueError as error:
            self.fault(image, label, line, error)
            return
        rings = [points] if points else []
        self.table.add(image, 0, self._file(label), line, box=corners, rings=rings, crowd=crowd)
        self.names.append(str(name).strip())

    def fault(self, image: int, label: str, line: int, reason: ValueError) -> None:
        """An object that cannot be read."""
        where = self._where(self._file(label), line)
        self.table.faults.append(Fault(image, where, "label that cannot be read", str(reason)))

    def done(self, classes: Sequence[str] = ()) -> ObjectPlan:
        """The plan, with `classes` or those found, in the order of the alphabet."""
        plan = self.plan
        plan.classes = tuple(classes) if set(self.names) <= set(classes) else tuple(sorted({*classes, *self.names}))
        number = {name: index for index, name in enumerate(plan.classes)}
        self.table.label = array("q", [number[name] for name in self.names])
        plan.sizes = np.array(self.sizes, np.float64).reshape(-1, 2)
        plan.all_or_no_splits()
        unused = plan.tree.not_listed(plan.images)
        plan.notes += [f"{counted(unused, 'image')} without labels: not used"] if unused else []
        return plan

    def _file(self, label: str) -> int:
        return self.files.setdefault(label, len(self.files))

    def _where(self, file: int, line: int) -> str:
        label = list(self.files)[file]
        return repr(self.tree.path(label)) + (f", line {line}" if line else "")


def numbers(points: object) -> list[float]:
    """A list of points as their numbers, one after the other; raises `ValueError` where it is none."""
    if not isinstance(points, list) or not all(isinstance(point, list) for point in points):
        raise ValueError("its points are no list of points")
    return [number(value) for point in points for value in point]


def number(given: object) -> float:
    """A number, which may be written as text; raises `ValueError`."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError(f"{reprlib.repr(given)} is no number")
    try:
        return float(given)
    except (ValueError, OverflowError):
        raise ValueError(f"{reprlib.repr(given)} is no number") from None
