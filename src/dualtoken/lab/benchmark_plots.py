"""Figures of measured rows: accuracy or cost against time, and growth with the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from dualtoken.errors import DataError
from dualtoken.files import atomic_path
from dualtoken.lab.benchmark_tables import cells
from dualtoken.lab.rows import Row
from dualtoken.report.plots import BLUE, INK, LINES, ORANGE, SOFT, plain, prepare, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

OURS = ("dualtoken",)


def save(figure: Figure, path: str | Path, description: str | None = None) -> None:
    """Write a figure as PNG with its description, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_png(figure, description))


def scatter(rows: Sequence[Row]) -> Figure:
    """Models by time, with a panel for each engine, batch, size and number of threads.

    Upwards is published accuracy where each model has it, else multiply-accumulates.

    Args:
        rows: of a benchmark; those with an error are left out.

    Raises:
        DataError: no row can be drawn.
    """
    against = height(rows)
    drawn = [row for row in rows if "error" not in row and row[against] is not None]
    if not drawn:
        raise DataError("No model was timed: there is nothing to draw.", "The rows have the reasons.")
    panels = list(cells(drawn))
    across = len({row["batch_size"] for row in drawn}) if len(panels) > 3 else len(panels)
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(5.6 * across, 4.2 * down + 0.4), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, group) in zip(grid.flat, panels, strict=False):
        prepare(axes)
        _panel(axes, title, group, against)
    if against == "top1":
        figure.supxlabel(_ACCURACY_NOTE, fontsize=8.5, color=SOFT)
    figure.draw_without_rendering()  # the layout must stand before labels are placed
    figure.set_layout_engine("none")
    for axes, (_, group) in zip(grid.flat, panels, strict=False):
        _label_points(axes, group, against, figure.dpi)
    return figure


def height(rows: Sequence[Row]) -> str:
    """What a point's height shows: `top1` where every row has one, else `gmacs`.

    Raises:
        DataError: no row has either.
    """
    if all(row["top1"] is not None for row in rows):
        return "top1"
    if all(row["gmacs"] is None for row in rows):
        raise DataError(
            "There is nothing to draw: neither accuracy nor multiply-accumulates of these models are known.",
            "Leave out --plot, or give files that `dualtoken export` wrote.",
        )
    return "gmacs"


_ACCURACY_NOTE = "Accuracy: ImageNet-1K, as published. Hollow: published for another size of the image than is timed."


def _panel(axes: Axes, title: str, group: Sequence[Row], against: str) -> None:
    for row in group:
        colour = ORANGE if _is_ours(row) else BLUE
        face = "white" if against == "top1" and row["top1_image_size"] != row["image_size"] else colour
        low, high = row["latency_quartiles_ms"]
        middle = row["latency_ms"]
        axes.errorbar(
            middle, row[against], xerr=[[max(middle - low, 0)], [max(high - middle, 0)]], fmt="o", ms=6,
            zorder=4 if _is_ours(row) else 3,
            color=colour, mfc=face, mew=1.4, elinewidth=1.0,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set(title=title, xlabel="ms (median, quartiles)")
    axes.margins(x=0.16, y=0.14)
    if against == "gmacs":
        axes.set_yscale("log")
        axes.set_ylabel("multiply-accumulates, G")
        _plain_ticks(axes.yaxis)
    else:
        axes.set_ylabel("top-1, %")
    _plain_ticks(axes.xaxis)


def _is_ours(row: Row) -> bool:
    return str(row["model"]).startswith(OURS)


def _plain_ticks(axis: Axis) -> None:
    """Round numbers on a logarithmic axis, written out; more of them where it is short."""
    low, high = axis.get_view_interval()
    subs = (1, 2, 3, 5, 7) if high / low > 4 else (1, 1.2, 1.5, 1.8, *(part / 2 for part in range(4, 20)))
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _label_points(axes: Axes, group: Sequence[Row], against: str, dpi: float) -> None:
    """A name beside each point: the nearest place where it touches no point, no other name and no edge."""
    points = [axes.transData.transform((row["latency_ms"], row[against])) for row in group]
    frame = Box(*axes.get_window_extent().extents)
    unit = dpi / 72  # a typographic point in pixels
    taken = [Box(x - 5 * unit, y - 5 * unit, x + 5 * unit, y + 5 * unit) for x, y in points]
    whiskers = []
    for row in group:
        left, right = (axes.transData.transform((end, row[against])) for end in row["latency_quartiles_ms"])
        whiskers.append(Box(left[0], left[1] - unit, right[0], left[1] + unit))
    to_axes = axes.transAxes.inverted().transform
    # Ours first; then the most crowded ones, which have the fewest places to choose from.
    crowd = [sum(math.dist(point, other) < 60 * unit for other in points) for point in points]
    for place in sorted(range(len(group)), key=lambda place: (not _is_ours(group[place]), -crowd[place])):
        ours, point = _is_ours(group[place]), points[place]
        text = axes.text(
            0, 0, _short(group[place]["model"]), fontsize=8.5, color=ORANGE if ours else INK,
            fontweight="bold" if ours else "normal", va="center", ha="center", transform=axes.transAxes,
        )  # fmt: skip
        plain(text)
        extent = text.get_window_extent()
        others = [box for number, box in enumerate(taken) if number != place] + whiskers
        box = _free_place(point, (extent.width + 3 * unit, extent.height + unit), others, frame, unit)
        x, y = to_axes(((box.left + box.right) / 2, (box.bottom + box.top) / 2))
        text.set_position((float(x), float(y)))
        line = _leader(point, box, unit)
        taken += [box, *line]
        if line:
            ends = to_axes(np.array([point, _nearest(point, box)]))
            axes.plot(ends[:, 0], ends[:, 1], color=SOFT, lw=0.6, transform=axes.transAxes, zorder=1)


class Box(NamedTuple):
    """A rectangle on the canvas."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def area(self) -> float:
        """In square pixels."""
        return (self.right - self.left) * (self.top - self.bottom)

    def overlap(self, other: Box) -> float:
        """The common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0) * max(height, 0)


# Beside comes first, then above and below, then what lies between.
_ANGLES = (0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240, 15, 345, 165, 195, 75, 285, 105, 255)
_DISTANCES = (6, 10, 15, 21, 28, 36, 46, 58, 72, 90)  # typographic points


def _free_place(point: Any, size: tuple[float, float], taken: Sequence[Box], frame: Box, unit: float) -> Box:
    """The first free place around a point, from near to far; the least covered where none is."""
    width, height = size
    best, least = None, math.inf
    for distance, angle in product(_DISTANCES, _ANGLES):
        across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        x = point[0] + across * (distance * unit + width / 2)
        y = point[1] + up * (distance * unit + height / 2)
        box = Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        parts = [box, *_leader(point, box, unit)]
        covered = sum(part.overlap(other) for part in parts for other in taken) + box.area - box.overlap(frame)
        if covered < least - 1e-6:
            best, least = box, covered
        if least < 1e-6:
            break
    assert best is not None
    return best


def _leader(point: Any, box: Box, unit: float) -> list[Box]:
    """The line from a point to its name as small boxes; none where they are side by side."""
    end = _nearest(point, box)
    length = math.dist(point, end)
    if length < 9 * unit:
        return []
    steps = [step / length for step in range(int(5 * unit), int(length), 2)]
    middles = [(point[0] + share * (end[0] - point[0]), point[1] + share * (end[1] - point[1])) for share in steps]
    return [Box(x - 1, y - 1, x + 1, y + 1) for x, y in middles]


def _nearest(point: Any, box: Box) -> tuple[float, float]:
    return min(max(point[0], box.left), box.right), min(max(point[1], box.bottom), box.top)


def _short(name: str) -> str:
    """Without folders, and without what timm's names say of the size of patches, windows and images."""
    name = Path(name).name if "/" in name else name
    parts = [part for part in name.split("_") if not part.startswith(("patch", "window")) and part != "224"]
    return "_".join(parts)


def growth_plot(rows: Sequence[Row]) -> Figure:
    """Multiply-accumulates, time and memory over the number of pixels, all relative to the smallest image.

    Args:
        rows: of `dualtoken.lab.growth`, one or more models.
    """
    figure = Figure(figsize=(12.6, 4.4), layout="constrained")
    panels = {"gmacs": "multiply-accumulates", "latency": "time", "peak": "memory"}
    grid = figure.subplots(1, len(panels), sharey=True)
    most = max(row["pixels_ratio"] for row in rows)
    sizes = {row["pixels_ratio"]: row["image_size"] for row in rows}
    for axes, (key, title) in zip(grid, panels.items(), strict=True):
        prepare(axes)
        axes.plot([1, most], [1, most], "--", color=SOFT, lw=1.2, label="as the pixels")
        for number, (model, part) in enumerate(groupby(rows, lambda row: row["model"])):
            group = list(part)
            colour, dashes = LINES[number % len(LINES)]
            ratios = [row["pixels_ratio"] for row in group], [row[f"{key}_ratio"] for row in group]
            axes.plot(*ratios, dashes, color=colour, marker="o", ms=4, lw=1.8, label=model)
        axes.set(xscale="log", yscale="log", title=title, xlabel="side of the image, pixels")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(list(sizes), [str(size) for size in sizes.values()])
        _plain_ticks(axes.yaxis)
    grid[0].set_ylabel(f"times that of {min(sizes.values())} pixels")
    grid[0].legend(frameon=False, fontsize=8.5, loc="upper left")
    return figure
