"""What a label format says about a data set before any image is opened: one plan for each kind of target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.objects import ObjectTable
from dualtoken.data.tree import Tree
from dualtoken.errors import DataError

SPLIT_ORDER = ("train", "val", "test", "all")
HINT = (
    "Correct or remove them, or leave out single labels: --on-bad-label drop, or whole images: --on-bad-image skip."
    " The formats are described in docs/data.md."
)
Problem = tuple[str, str]  # path, reason


class NoClassesError(DataError):
    """Images, if any, are not in class folders: the data may be of another kind."""


@dataclass(eq=False, kw_only=True)
class Plan:
    """What is common to all kinds of targets.

    Attributes:
        tree: where everything is.
        layout: in words.
        images: name of each image in `tree`; the same one twice where two splits have it with labels of their own.
        splits: given splits, to indices into `images`; empty where the source gives none.
        problems: (path, reason) of what is wrong and belongs to no image that can be read.
        notes: what a person should know.
        named: whether the source names its classes; else they are class_0, class_1 ...
        looked_at: (N, 2) height and width of each upright image, where all were found good before; else None.
        plain: whether the source itself shows that it is for this; else it is taken only where its task is asked for.
        format: the format's name; task: what is to be learned. Both are filled in by the finder.
    """

    tree: Tree
    layout: str
    images: list[str] = field(default_factory=list)
    splits: dict[str, list[int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    named: bool = True
    looked_at: NDArray[np.int64] | None = None
    plain: bool = True
    format: str = ""
    task: str = ""

    def use(self, image: str, splits: Sequence[str] = ()) -> int:
        """Add an image, in the given splits; its index."""
        self.images.append(image)
        for split in filter(None, splits):
            self.splits.setdefault(split, []).append(len(self.images) - 1)
        return len(self.images) - 1

    def all_or_no_splits(self) -> None:
        """Forget the splits where some images have none."""
        if len({index for indices in self.splits.values() for index in indices}) < len(self.images):
            self.splits = {}


@dataclass(eq=False, kw_only=True)
class ClassPlan(Plan):
    """A class for each image.

    Attributes:
        labels: name of each image's class.
        empty: class folders without an image.
    """

    labels: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


@dataclass(eq=False, kw_only=True)
class LabelPlan(Plan):
    """Any number of classes for each image.

    Attributes:
        labels: names of each image's classes.
    """

    labels: list[set[str]] = field(default_factory=list)


@dataclass(eq=False, kw_only=True)
class ObjectPlan(Plan):
    """Objects in each image.

    Attributes:
        classes: class names, in the format's order.
        read: gives the objects of all images, as the files say them; called once.
        where: in words where the objects of some rows of the table stand, with file and line.
        sizes: (N, 2) height and width that the files give for each image, NaN where they give none; or None.
        where_image: in words where image i is described, for messages about its size.
        notes_of_reading: further notes, once the objects are read.
    """

    classes: tuple[str, ...]
    read: Callable[[], ObjectTable]
    where: Callable[[NDArray[np.int64]], list[str]]
    sizes: NDArray[np.float64] | None = None
    where_image: Callable[[int], str] = lambda _: ""
    notes_of_reading: Callable[[], list[str]] = list

    @cached_property
    def table(self) -> ObjectTable:
        """The objects of all images, read when first asked for."""
        return self.read()

    def forget(self) -> None:
        """Let the table go once it has been read into samples."""
        self.read, self.where, self.where_image = ObjectTable, lambda _: [], lambda _: ""
        self.table = ObjectTable()


class ClassKey(NamedTuple):
    """Class names with the value (V,) or the colour (V, 3) of each, and the file that says so.

    A value may have no class: index `IGNORE` in `indices`.
    """

    classes: tuple[str, ...]
    values: NDArray[np.int64]
    indices: NDArray[np.uint8]
    where: str

    @property
    def coloured(self) -> bool:
        """Whether colours are classes, not values."""
        return self.values.ndim == 2


@dataclass(eq=False, kw_only=True)
class MaskPlan(Plan):
    """A mask for each image.

    Attributes:
        masks: name of each image's mask.
        key: what the class file says; None where there is none.
        values: values of each mask, and how many pixels have them, where that was found before; else None.
    """

    masks: list[str] = field(default_factory=list)
    key: ClassKey | None = None
    values: list[tuple[list[int], list[int]]] | None = None


def side_given(given: object, side: str, where: str) -> float:
    """The width or height that a label file gives, as a number or as text; NaN where it gives none.

    Raises:
        DataError: it is no number of pixels.
    """
    if given is None or given == "":
        return math.nan
    try:
        number = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not number.is_integer():  # neither are inf and nan
        raise DataError(f"{where}: {side} is {given!r}, expected a number of pixels.")
    return number


def refuse_doubles(classes: Sequence[str], where: str) -> None:
    """Raise `DataError` where a class name stands twice: its objects would be torn apart."""
    double = [name for name, count in Counter(classes).items() if count > 1]
    if double:
        raise DataError(f"{where}: the class name {double[0]!r} stands there twice.", "Give each class its own name.")


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few of `names`, and how many more."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + rest
