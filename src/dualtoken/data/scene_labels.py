"""What the readers of label formats share: the plan of a data set, and the checks of boxes and outlines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.scenes import Objects
from dualtoken.data.tree import Tree
from dualtoken.errors import DataError
from dualtoken.words import counted

TOLERANCE = 1.0  # pixels by which a box or outline may leave the image: rounding, or counting from one
SPLIT_ORDER = ("train", "val", "test", "all")

Problem = tuple[str, str]  # path, reason


class Frame(NamedTuple):
    """The frame of an image.

    Attributes:
        size: (height, width) upright, which is the frame of all boxes and masks.
        stored: (height, width) as in the file, before its EXIF orientation is applied.
        turned: whether there is an EXIF orientation other than upright.
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    turned: bool


@dataclass(eq=False)
class ScenePlan:
    """What a label format says about a data set with objects, before any image is opened.

    Attributes:
        tree: where everything is.
        layout: in words.
        classes: class names, in the format's order.
        images: name of each image in `tree`; the same one twice where two splits have it with labels of their own.
        splits: given splits, to indices into `images`; empty where the source gives none.
        read: puts the objects of image i into a list; raises `DataError` where labels are wrong. Asked once.
        problems: (path, reason) of what is wrong and belongs to no image that can be read.
        notes: what a person should know.
        named: whether the source names its classes; else they are class_0, class_1 ...
        notes_of_reading: further notes, once all objects are read.
    """

    tree: Tree
    layout: str
    classes: tuple[str, ...]
    images: list[str]
    splits: dict[str, list[int]]
    read: Callable[[int, ObjectList], None]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    named: bool = True
    notes_of_reading: Callable[[], list[str]] = list


@dataclass(eq=False)
class ObjectList:
    """The objects of one image, growing; every one is checked against the image's frame.

    Attributes:
        frame: of the image.
        outlines_needed: whether each object must have an outline, crowds aside.
    """

    frame: Frame
    outlines_needed: bool = False
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    outlines: list[tuple[NDArray[np.float32], ...]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright image."""
        return self.frame.size

    def add(
        self,
        label: int,
        where: str,
        *,
        box: Sequence[float] | None = None,
        rings: Sequence[NDArray[np.float64]] = (),
        runs: str = "",
        area: float | None = None,
        crowd: bool = False,
    ) -> None:
        """Add one object; without a box that of its rings counts, without an area that of rings or box.

        Raises:
            DataError: box or outline leave the image, have no area or are no numbers; it begins with `where`.
        """
        if self.outlines_needed and not (rings or runs or crowd):
            raise DataError(
                f"{where}: a box without an outline, which instance segmentation needs and detection does not."
            )
        outline = tuple(ring_within(ring, self.size, where) for ring in rings)
        if box is None:
            points = np.concatenate(outline).astype(float)
            box = [*points.min(0).tolist(), *points.max(0).tolist()]
        box = box_within(box, self.size, where)
        if area is None or not (math.isfinite(area) and area > 0):
            width, height = box[2] - box[0], box[3] - box[1]
            area = sum(map(ring_area, outline)) if outline else width * height
        self.boxes.append(box)
        self.labels.append(label)
        self.crowd.append(crowd)
        self.areas.append(area)
        self.outlines.append(outline)
        self.runs.append(runs)

    def done(self) -> Objects:
        """As arrays."""
        return Objects(
            self.size,
            np.array(self.boxes, np.float32).reshape(-1, 4),
            np.array(self.labels, np.int64),
            np.array(self.crowd, bool),
            np.array(self.areas, np.float32),
            tuple(self.outlines),
            tuple(self.runs),
        )


def box_within(box: Sequence[float], size: tuple[int, int], where: str) -> tuple[float, float, float, float]:
    """`box` (left, top, right, bottom) cut at the edges of an image of `size` (height, width).

    Raises:
        DataError: it leaves the image by more than a pixel, has no area or is no numbers.
    """
    left, top, right, bottom = map(float, box)
    height, width = size
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise DataError(f"{where}: a box with coordinates that are no numbers: {_box_words(box)}.")
    if right <= left or bottom <= top:
        raise DataError(f"{where}: a box without area: {_box_words(box)}.")
    if min(left, top) < -TOLERANCE or right > width + TOLERANCE or bottom > height + TOLERANCE:
        raise DataError(f"{where}: a box outside the image: {_box_words(box)}, the image is {size_words(size)}.")
    inside = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise DataError(f"{where}: a box of which nothing lies in the image: {_box_words(box)}.")
    return inside


def ring_within(ring: NDArray[np.float64], size: tuple[int, int], where: str) -> NDArray[np.float32]:
    """`ring` (points, 2) of x and y, cut at the edges of the image; errors as for `box_within`."""
    if len(ring) < 3:
        raise DataError(f"{where}: a polygon with {counted(len(ring), 'point')}, at least 3 make an outline.")
    low, high = ring.min(0).tolist(), ring.max(0).tolist()
    if not all(map(math.isfinite, (*low, *high))):
        raise DataError(f"{where}: a polygon with coordinates that are no numbers.")
    height, width = size
    if min(low) < -TOLERANCE or high[0] > width + TOLERANCE or high[1] > height + TOLERANCE:
        raise DataError(
            f"{where}: a polygon outside the image: {_box_words(low + high)}, the image is {size_words(size)}."
        )
    if min(low) < 0 or high[0] > width or high[1] > height:
        ring = ring.clip(0, (width, height))
        low, high = ring.min(0).tolist(), ring.max(0).tolist()
    if high[0] <= low[0] or high[1] <= low[1]:
        raise DataError(f"{where}: a polygon without area.")
    return ring.astype(np.float32)


def ring_area(ring: NDArray[np.float32]) -> float:
    """Area that a ring encloses, in square pixels."""
    x, y = ring.astype(np.float64).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def check_frame(given: tuple[int, int], frame: Frame, where: str) -> None:
    """Compare the (height, width) that labels were made for with the image's.

    Raises:
        DataError: they differ; where the labels belong to the image before its EXIF orientation, it says so.
    """
    if given == frame.size:
        return
    if given == frame.stored:
        raise DataError(
            f"{where}: labels for {size_words(given)}, but EXIF turns the image to {size_words(frame.size)}: they were "
            "drawn on the image lying on its side. Remove the orientation from the file (exiftool -Orientation= FILE), "
            "or label it upright."
        )
    raise DataError(f"{where}: labels for {size_words(given)}, but the image is {size_words(frame.size)}.")


def side_given(given: object, side: str, where: str) -> int | None:
    """The width or height that a label file gives, as a number or as text; None where it gives none.

    Raises:
        DataError: it is no number of pixels.
    """
    if given is None or given == "":
        return None
    try:
        number = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not number.is_integer():  # neither are inf and nan
        raise DataError(f"{where}: {side} is {given!r}, expected a number of pixels.")
    return int(number)


def size_words(size: tuple[int, int]) -> str:
    """`640 x 480`, width first, of a (height, width)."""
    return f"{size[1]} x {size[0]}"


def _box_words(box: Sequence[float]) -> str:
    left, top, right, bottom = (f"{value:.6g}" for value in box)
    return f"x {left} to {right}, y {top} to {bottom}"


def refuse_doubles(classes: Sequence[str], where: str) -> None:
    """Raise `DataError` where a class name stands twice: its objects would be torn apart."""
    double = [name for name, count in Counter(classes).items() if count > 1]
    if double:
        raise DataError(f"{where}: the class name {double[0]!r} stands there twice.", "Give each class its own name.")


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few of `names`, and how many more."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + rest


def refuse(problems: Sequence[Problem], hint: str, shown: int = 5) -> None:
    """Raise `DataError` with the first few problems."""
    if problems:
        lines = [f"  {reason}" for _, reason in problems[:shown]]
        lines += [f"  and {len(problems) - shown} more"] if len(problems) > shown else []
        what = counted(len(problems), "image or label", "images or labels")
        raise DataError("\n".join([f"{what} cannot be used:", *lines]), hint)
