"""The objects of a whole data set in flat columns: read by every format alike, then checked all at once.

A reader fills an `ObjectTable` with what its files say. When the images' sizes are known, `check_objects` finds every
box and outline that cannot be used, with a reason, and gives the others in pixels of their images.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.samples import ranges, starts
from dualtoken.words import counted

TOLERANCE = 1.0  # pixels by which a box or outline may leave the image: rounding, or counting from one
_NAN = float("nan")
_NO_BOX = (_NAN,) * 4
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class Fault(NamedTuple):
    """One label that cannot be used.

    Attributes:
        image: index of its image; -1 where it belongs to none that is known.
        where: file and line.
        kind: the reason in short, in the singular; to count by.
        reason: in full.
    """

    image: int
    where: str
    kind: str
    reason: str

    @property
    def message(self) -> str:
        """Where and why."""
        return f"{self.where}: {self.reason}."


class Runs(NamedTuple):
    """A mask as COCO's compressed run lengths, of an image of `size` (height, width)."""

    text: str
    size: tuple[int, int]
    area: float
    box: tuple[float, float, float, float]


@dataclass(eq=False)
class ObjectTable:
    """Objects as the files say them, growing; M rows.

    Attributes:
        shares: whether boxes and points are shares of the image's sides, not pixels.
        image, label: index of each object's image and class.
        file, place: where it stands: the reader's number of the file, and the line or place in it.
        box: four values an object, left, top, right, bottom; NaN where it has no box of its own.
        area: NaN where none is given.
        crowd: 1 for a box around many.
        rings: number of rings of each object.
        ring_lengths, points: points of each ring, and x and y of each point.
        runs: masks given as run lengths, by row.
        unread: why the outline of some rows could not be read; that matters where outlines are needed.
        faults: what could not even be put into a row.
    """

    shares: bool = False
    image: array[int] = field(default_factory=lambda: array("q"))
    label: array[int] = field(default_factory=lambda: array("q"))
    file: array[int] = field(default_factory=lambda: array("q"))
    place: array[int] = field(default_factory=lambda: array("q"))
    box: array[float] = field(default_factory=lambda: array("d"))
    area: array[float] = field(default_factory=lambda: array("d"))
    crowd: array[int] = field(default_factory=lambda: array("b"))
    rings: array[int] = field(default_factory=lambda: array("q"))
    ring_lengths: array[int] = field(default_factory=lambda: array("q"))
    points: array[float] = field(default_factory=lambda: array("d"))
    runs: dict[int, Runs] = field(default_factory=dict)
    unread: dict[int, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def has_outlines(self) -> bool:
        """Whether any object has an outline or run lengths."""
        return bool(self.ring_lengths or self.runs or self.unread)

    def add(
        self,
        image: int,
        label: int,
        file: int,
        place: int,
        *,
        box: Sequence[float] | None = None,
        rings: Sequence[Sequence[float]] = (),
        runs: Runs | None = None,
        area: float = _NAN,
        crowd: bool = False,
    ) -> None:
        """One object; without a box that of its rings or runs counts, without an area that of rings or box.

        A ring is x and y of its points in turn.
        """
        if runs is not None:
            self.runs[len(self.label)] = runs
        self.image.append(image)
        self.label.append(label)
        self.file.append(file)
        self.place.append(place)
        self.box.extend(_NO_BOX if box is None else box)
        self.area.append(area)
        self.crowd.append(crowd)
        self.rings.append(len(rings))
        for ring in rings:
            self.ring_lengths.append(len(ring) // 2)
            self.points.extend(ring)

    def extend(self, other: ObjectTable, rows: Indices) -> None:
        """Append some rows of another table; faults are left where they are."""
        first, places = len(self), {int(row): place for place, row in enumerate(rows)}
        object_rings, ring_points = (
            starts(_column(other.rings, np.int64)),
            starts(_column(other.ring_lengths, np.int64)),
        )
        rings, _ = ranges(object_rings, rows)
        points, _ = ranges(ring_points, rings)
        for key in ("image", "label", "file", "place", "area", "crowd", "rings"):
            column = getattr(other, key)
            getattr(self, key).frombytes(_column(column, np.dtype(column.typecode))[rows].tobytes())
        self.box.frombytes(_column(other.box, np.float64).reshape(-1, 4)[rows].tobytes())
        self.ring_lengths.frombytes(_column(other.ring_lengths, np.int64)[rings].tobytes())
        self.points.frombytes(_column(other.points, np.float64).reshape(-1, 2)[points].tobytes())
        self.runs |= {first + places[row]: runs for row, runs in other.runs.items() if row in places}
        self.unread |= {first + places[row]: why for row, why in other.unread.items() if row in places}


@dataclass(eq=False)
class CheckedObjects:
    """Objects in pixels of their images, sorted by image; columns as those of `ObjectSamples`.

    Attributes:
        outlines_lost: objects whose outline cannot be used, and whose box is.
        duplicates: objects that stood there twice, once of them left out.
        cut: objects cut at the image's edge by more than a pixel.
    """

    offsets: Indices
    boxes: NDArray[np.float32]
    labels: Indices
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]
    runs: NDArray[np.str_]
    object_rings: Indices
    ring_points: Indices
    points: NDArray[np.float32]
    outlines_lost: int = 0
    duplicates: int = 0
    cut: int = 0


def check_objects(
    table: ObjectTable, sizes: Indices, where: Callable[[Indices], list[str]], *, outlines: bool, clip: bool
) -> tuple[CheckedObjects, list[Fault]]:
    """The objects that can be used, and why the others cannot.

    Args:
        table: M objects.
        sizes: (N, 2) height and width of each image; 0 where it cannot be used, and its objects with it.
        where: in words where the objects of some rows stand.
        outlines: whether each object must have an outline, crowds aside.
        clip: cut what leaves the image, however far; else more than a pixel outside is a fault.
    """
    check = _Check(table, sizes, outlines, clip)
    good = check.rings()
    check.runs()
    check.outlines()
    check.boxes_of_outlines()
    check.all_boxes()
    failed = np.zeros(len(table), bool)
    failed[list(check.failed)] = True
    rows = np.flatnonzero(failed & check.present)
    words = where(rows) if len(rows) else []
    faults = [
        Fault(int(check.image[row]), text, *check.failed[row]) for row, text in zip(rows.tolist(), words, strict=True)
    ]
    return check.collected(np.flatnonzero(~failed & check.present), good), faults


class _Check:
    """One pass over all objects; `failed` has the first reason against each, in short and in full."""

    def __init__(self, table: ObjectTable, sizes: Indices, outlines_needed: bool, clip: bool) -> None:
        self.table, self.outlines_needed, self.clip, self.count = table, outlines_needed, clip, len(sizes)
        self.image = _column(table.image, np.int64)
        self.frame = sizes[self.image][:, ::-1].astype(np.float64)  # (M, 2) width, height
        self.present = self.frame.min(axis=1, initial=np.inf) > 0
        self.boxes = _column(table.box, np.float64).reshape(-1, 4)
        self.points = _column(table.points, np.float64).reshape(-1, 2)
        self.ring_points = starts(_column(table.ring_lengths, np.int64))
        self.object_rings = starts(_column(table.rings, np.int64))
        self.owner = np.repeat(np.arange(len(table)), np.diff(self.object_rings))  # (R,) the object of each ring
        self.crowd = _column(table.crowd, np.int8).astype(bool)
        self.has_runs = np.zeros(len(table), bool)
        self.has_runs[list(table.runs)] = True
        self.cut = np.zeros(len(table), bool)
        self.lost = np.zeros(len(table), bool)  # the outline, beside a good box
        self.failed: dict[int, tuple[str, str]] = {}
        if table.shares:
            with np.errstate(over="ignore"):  # beyond any image all the same
                self.boxes = self.boxes * np.tile(self.frame, 2)
                self.points = self.points * np.repeat(self.frame[self.owner], np.diff(self.ring_points), axis=0)
        self.low, self.high = self._extent()
        self.no_box = np.isnan(self.boxes).all(1)

    # ---------------------------------------------------------------- outlines

    def rings(self) -> NDArray[np.bool_]:
        """(R,) which rings can be used; of the others those that matter fail their objects."""
        lengths, frame = np.diff(self.ring_points), self.frame[self.owner]
        with np.errstate(invalid="ignore"):
            beyond = (self.low < 0).any(1) | (self.high > frame).any(1)
            outside = (self.low < -TOLERANCE).any(1) | (self.high > frame + TOLERANCE).any(1)
            inside = self.low.clip(0, frame), self.high.clip(0, frame)
            flat = (inside[1] <= inside[0]).any(1)
        if self.clip:
            self.cut[self.owner[outside]] = True
        good = np.ones(len(lengths), bool)
        for wrong, kind, words in (
            (lengths < 3, "outline of fewer than 3 points", "a polygon with {points}, at least 3 make an outline"),
            (~np.isfinite(self.low + self.high).all(1), "outline of no numbers",
             "a polygon with coordinates that are no numbers"),
            (outside & (not self.clip), "outline outside the image",
             "a polygon outside the image: {extent}, the image is {frame}"),
            (flat, "outline without area", "a polygon without area"),
        ):  # fmt: skip
            self._fail_rings(np.flatnonzero(wrong & good), kind, words)
            good &= ~wrong
        self._cut_rings(np.flatnonzero(beyond & good))
        self.low, self.high = inside
        self.low[~good] = self.high[~good] = np.nan
        return good

    def _extent(self) -> tuple[Floats, Floats]:
        """(R, 2) least and greatest x and y of each ring, NaN for one without points."""
        low = np.full((len(self.ring_points) - 1, 2), np.nan)
        high = low.copy()
        filled = np.diff(self.ring_points) > 0
        if filled.any():
            low[filled] = np.minimum.reduceat(self.points, self.ring_points[:-1][filled])
            high[filled] = np.maximum.reduceat(self.points, self.ring_points[:-1][filled])
        return low, high

    def _cut_rings(self, rings: Indices) -> None:
        if len(rings):
            points, begins = ranges(self.ring_points, rings)
            frame = np.repeat(self.frame[self.owner[rings]], np.diff(begins), axis=0)
            self.points = self.points.copy()
            self.points[points] = self.points[points].clip(0, frame)

    def _fail_rings(self, rings: Indices, kind: str, words: str) -> None:
        """Wrong rings fail an object that needs its outline, or has its box from nothing else.

        A stray ring of one or two points beside whole ones is nothing but dropped.
        """
        lengths = np.diff(self.ring_points)
        for ring in rings.tolist():
            row, length = int(self.owner[ring]), int(lengths[ring])
            needed = self.outlines_needed or self.no_box[row]
            own = lengths[self.object_rings[row] : self.object_rings[row + 1]]
            if needed and not (length < 3 and (own >= 3).any()):
                extent = box_words([*self.low[ring], *self.high[ring]])
                said = words.format(points=counted(length, "point"), extent=extent, frame=self._frame_words(row))
                self.failed.setdefault(row, (kind, said))

    def runs(self) -> None:
        """Masks of another size than their image fail where they are needed, else are lost."""
        for row, runs in self.table.runs.items():
            width, height = self.frame[row].astype(int).tolist()
            if runs.size == (height, width) or not self.present[row]:
                continue
            self.lost[row] = True
            if self.outlines_needed or self.no_box[row]:
                words = f"run lengths for {size_words(runs.size)}, the image is {self._frame_words(row)}"
                self.failed.setdefault(row, ("mask of another size than its image", words))

    def outlines(self) -> None:
        """Boxes alone fail where outlines are needed."""
        if self.outlines_needed:
            for row, why in self.table.unread.items():
                self.failed.setdefault(row, ("outline that cannot be read", why))
            reason = "a box without an outline, which instance segmentation needs and detection does not"
            bare = (np.diff(self.object_rings) == 0) & ~self.has_runs & ~self.crowd
            for row in np.flatnonzero(bare).tolist():
                self.failed.setdefault(row, ("box without an outline", reason))

    # ---------------------------------------------------------------- boxes

    def boxes_of_outlines(self) -> None:
        """An object without a box gets that of its outline or run lengths."""
        self.boxes = self.boxes.copy()
        for row, runs in self.table.runs.items():
            if self.no_box[row]:
                self.boxes[row] = runs.box
        outlined = np.flatnonzero(np.diff(self.object_rings) > 0)
        if len(outlined):
            first = self.object_rings[:-1][outlined]
            around = np.hstack([np.fmin.reduceat(self.low, first), np.fmax.reduceat(self.high, first)])
            missing = self.no_box[outlined]
            self.boxes[outlined[missing]] = around[missing]

    def all_boxes(self) -> None:
        """Boxes outside, without area or of no numbers fail; the others are cut at the image's edges."""
        given, frame = self.boxes, np.tile(self.frame, 2)
        with np.errstate(invalid="ignore"):
            outside = (given[:, :2] < -TOLERANCE).any(1) | (given[:, 2:] > self.frame + TOLERANCE).any(1)
            self.boxes = given.clip(0, frame)
            wrong = (
                (~np.isfinite(given).all(1), "box of no numbers", "a box with coordinates that are no numbers: {box}"),
                ((given[:, 2:] <= given[:, :2]).any(1), "box without area", "a box without area: {box}"),
                (outside & (not self.clip), "box outside the image",
                 "a box outside the image: {box}, the image is {frame}"),
                ((self.boxes[:, 2:] <= self.boxes[:, :2]).any(1), "box outside the image",
                 "a box of which nothing lies in the image: {box}"),
            )  # fmt: skip
        if self.clip:
            self.cut |= outside
        for rows, kind, words in wrong:
            for row in np.flatnonzero(rows).tolist():
                said = words.format(box=box_words(given[row]), frame=self._frame_words(row)) + self._meant(row)
                self.failed.setdefault(row, (kind, said))

    def _meant(self, row: int) -> str:
        """A hint where shares are so large that pixels were written."""
        given = self.table.box[4 * row : 4 * row + 4]
        large = self.table.shares and any(value > 2 for value in given)
        return ". YOLO's numbers are shares of the image, 0 to 1, not pixels" if large else ""

    def _frame_words(self, row: int) -> str:
        width, height = self.frame[row].astype(int).tolist()
        return f"{width} x {height}"

    # ---------------------------------------------------------------- what is left

    def collected(self, kept: Indices, good: NDArray[np.bool_]) -> CheckedObjects:
        """The rows `kept`, sorted by image, with their `good` rings."""
        order = kept[np.argsort(self.image[kept], kind="stable")]
        areas = self._areas(order, good)
        single = ~self._doubles(order, areas)
        duplicates = len(order) - int(single.sum())
        order, areas = order[single], areas[single]
        all_rings, _ = ranges(self.object_rings, order)
        rings = all_rings[good[all_rings]]
        self.lost[self.owner[all_rings[~good[all_rings]]]] = True
        self.lost[list(self.table.unread)] = True
        points, ring_points = ranges(self.ring_points, rings)
        texts: NDArray[Any] = np.full(len(self.image), "", np.dtypes.StringDType())
        for row, runs in self.table.runs.items():
            texts[row] = "" if self.lost[row] else runs.text
        return CheckedObjects(
            offsets=starts(np.bincount(self.image[order], minlength=self.count)),
            boxes=self.boxes[order].astype(np.float32),
            labels=_column(self.table.label, np.int64)[order],
            crowd=self.crowd[order],
            areas=areas.astype(np.float32),
            runs=texts[order],
            object_rings=starts(np.bincount(self.owner[rings], minlength=len(self.image))[order]),
            ring_points=ring_points,
            points=self.points[points].astype(np.float32),
            outlines_lost=int(self.lost[order].sum()),
            duplicates=duplicates,
            cut=int(self.cut[order].sum()),
        )

    def _areas(self, order: Indices, good: NDArray[np.bool_]) -> Floats:
        """(n,) those given, else of outlines by the shoelace formula, else of boxes."""
        given = _column(self.table.area, np.float64)[order]
        sides = self.boxes[order, 2:] - self.boxes[order, :2]
        areas = np.where(np.isfinite(given) & (given > 0), given, sides.prod(1))
        shaped = self.has_runs | (np.diff(self.object_rings) > 0)
        for place in np.flatnonzero((areas != given) & shaped[order]).tolist():
            row = int(order[place])
            own = range(self.object_rings[row], self.object_rings[row + 1])
            rings = [self.points[self.ring_points[ring] : self.ring_points[ring + 1]] for ring in own if good[ring]]
            if rings:
                areas[place] = sum(map(ring_area, rings))
            elif row in self.table.runs:
                areas[place] = self.table.runs[row].area
        return areas

    def _doubles(self, order: Indices, areas: Floats) -> NDArray[np.bool_]:
        """(n,) which objects stand there a second time: the same image, class, box and outline."""
        columns = [self.image[order], _column(self.table.label, np.int64)[order], self.crowd[order], areas]
        columns += list(self.boxes[order].T)
        sorting = np.lexsort(columns[::-1])
        same = np.ones(max(0, len(order) - 1), bool)
        for column in columns:
            same &= column[sorting[1:]] == column[sorting[:-1]]
        double = np.zeros(len(order), bool)
        for place in np.flatnonzero(same).tolist():
            one, other = sorting[place], sorting[place + 1]  # the sort is stable: the first of each stays
            double[other] = self._shape(int(order[one])) == self._shape(int(order[other]))
        return double

    def _shape(self, row: int) -> tuple[bytes, str]:
        first, last = self.ring_points[self.object_rings[row]], self.ring_points[self.object_rings[row + 1]]
        return self.points[first:last].tobytes(), self.table.runs[row].text if row in self.table.runs else ""


def ring_area(ring: Floats) -> float:
    """Area that a ring (points, 2) encloses."""
    x, y = ring.astype(np.float64).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _column(values: array[Any], dtype: type[np.generic] | np.dtype[Any]) -> NDArray[Any]:
    """A column as an array on the same memory."""
    return np.frombuffer(values, dtype) if len(values) else np.empty(0, dtype)


def size_words(size: Sequence[int]) -> str:
    """`640 x 480`, width first, of a (height, width)."""
    return f"{size[1]} x {size[0]}"


def box_words(box: Sequence[float] | Floats) -> str:
    """A box (left, top, right, bottom) in words."""
    left, top, right, bottom = (f"{value:.6g}" for value in box)
    return f"x {left} to {right}, y {top} to {bottom}"
