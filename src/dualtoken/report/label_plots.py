"""Figures about labels: what the objects and masks of a data set hold. Plain numbers in, as in `plots.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from dualtoken.data import IGNORE, MaskSamples, ObjectSamples
from dualtoken.errors import ImageError
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.report import plots
from dualtoken.report.plots import SHOWN_CLASSES, class_panels
from dualtoken.words import counted

SAMPLED_MASKS = 100
_SMALL, _LARGE = 32.0, 96.0  # sides of squares: where COCO's small objects end, and where its large ones begin
_PAPER = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1.0}  # behind texts that lie on bars

Figures = dict[str, Figure]


def object_label_plots(samples: ObjectSamples, classes: Sequence[str]) -> Figures:
    """The classes of objects, how many an image has, their sizes and shapes; crowds are left out."""
    figures = {"Objects of each class": _object_classes(samples, classes)}
    figures["Objects in an image"] = _objects_in_an_image(samples)
    counted = ~samples.crowd
    if counted.any():
        boxes = samples.boxes[counted].astype(np.float64)
        figures["Size of the objects"] = _object_sizes(samples.areas[counted].astype(np.float64))
        figures["Shape of the boxes"] = _box_shapes(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return figures


class PixelCounts(NamedTuple):
    """What the masks of some images hold.

    Attributes:
        pixels: (K,) int64, pixels of each class.
        images: (K,) int64, images that have such pixels.
        ignored: pixels without a label.
        read: images that were read.
    """

    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    ignored: int
    read: int


def count_pixels(samples: MaskSamples, classes: int, limits: ImageLimits = DEFAULT_LIMITS) -> PixelCounts:
    """Count the pixels of each class in at most 100 masks, spread over the split."""
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), SAMPLED_MASKS)).round().astype(int))
    pixels, images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    ignored = read = 0
    for index in chosen.tolist():
        try:
            mask = samples.open_mask(index, limits)
        except ImageError:
            continue
        counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
        pixels += counts[:classes]
        images += counts[:classes] > 0
        ignored += int(counts[IGNORE])
        read += 1
    return PixelCounts(pixels, images, ignored, read)


def mask_label_plots(samples: MaskSamples, classes: Sequence[str], limits: ImageLimits = DEFAULT_LIMITS) -> Figures:
    """The share of pixels and of images that each class has; masks that cannot be read are passed over."""
    counts = count_pixels(samples, len(classes), limits)
    if not counts.read:
        return {}
    labelled = max(int(counts.pixels.sum()), 1)
    shares, images = counts.pixels / labelled, counts.images / counts.read
    ignored = counts.ignored / (labelled + counts.ignored)
    rest = f", {100 * ignored:.1f} % of the pixels are unlabelled" if counts.ignored else ""
    title = f"Classes in {counted(counts.read, 'image')}{rest}"
    panels = [("Share of the labelled pixels", shares, None), ("Share of the images", images, None)]
    return {title: class_panels(panels, classes, title, percent=True)}


def _object_classes(samples: ObjectSamples, classes: Sequence[str]) -> Figure:
    number = len(classes)
    counts = samples.counts(number)
    owners = np.repeat(np.arange(len(samples)), np.diff(samples.offsets))[~samples.crowd]
    pairs = np.unique(owners * number + samples.labels[~samples.crowd])
    images = np.bincount(pairs % number, minlength=number)
    title = f"{counted(int(counts.sum()), 'object')} in {counted(len(samples), 'image')}"
    absent = int((counts == 0).sum())
    if number > SHOWN_CLASSES and 0 < absent < number:
        title += f", none of {absent:,} of the {number:,} classes"
        classes, counts, images = (
            [classes[place] for place in np.flatnonzero(counts).tolist()],
            counts[counts > 0],
            images[counts > 0],
        )
    return class_panels([("Objects", counts, None), ("Images with the class", images, None)], classes, title)


def _objects_in_an_image(samples: ObjectSamples) -> Figure:
    owners = np.repeat(np.arange(len(samples)), np.diff(samples.offsets))
    counts = np.bincount(owners[~samples.crowd], minlength=len(samples))
    figure, axes = plots.new_figure(3.15, 2.7)
    most = int(counts.max(initial=0))
    step = -(-(most + 1) // 30)
    axes.hist(counts, (np.arange(0, most + step + 1, step) - 0.5).tolist(), color=plots.BLUE, edgecolor="white", lw=0.5)
    mean = counts.mean() if len(counts) else 0
    axes.axvline(mean, color=plots.ORANGE, ls="--", lw=1.4)
    axes.set(title=f"Objects in an image (mean {mean:.1f})", xlabel="Objects", ylabel="Images")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return figure


def _object_sizes(areas: NDArray[np.float64]) -> Figure:
    """The side of a square of the object's area, with COCO's limits between small, medium and large."""
    sides = np.sqrt(np.maximum(areas, 1))
    figure, axes = plots.new_figure(3.15, 2.7)
    low, high = min(8.0, sides.min()), max(256.0, sides.max())
    axes.hist(sides, np.geomspace(low, high, 31).tolist(), color=plots.BLUE, edgecolor="white", lw=0.5)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ends = (low, _SMALL, _LARGE, high)
    for edge in (_SMALL, _LARGE):
        axes.axvline(edge, color=plots.SOFT, ls="--", lw=1)
    shares = [(sides < _SMALL).mean(), ((sides >= _SMALL) & (sides <= _LARGE)).mean(), (sides > _LARGE).mean()]
    for start, end, name, share in zip(ends, ends[1:], ("small", "medium", "large"), shares, strict=False):
        axes.text(np.sqrt(start * end), 1.0, f"{name}\n{100 * share:.0f} %", transform=axes.get_xaxis_transform(),
                  ha="center", va="top", fontsize=8, color=plots.INK, bbox=_PAPER)  # fmt: skip
    axes.margins(y=0.35)
    axes.set(title="Size of the objects", xlabel="Square root of the area, pixels", ylabel="Objects")
    axes.xaxis.set_major_locator(FixedLocator([t for t in (1, 4, 16, 32, 96, 256, 1024, 4096) if low <= t <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return figure


def _box_shapes(widths: NDArray[np.float64], heights: NDArray[np.float64]) -> Figure:
    shapes = np.log2(np.maximum(widths, 1e-3) / np.maximum(heights, 1e-3)).clip(-3, 3)
    figure, axes = plots.new_figure(3.15, 2.7)
    axes.hist(shapes, np.linspace(-3, 3, 31).tolist(), color=plots.BLUE, edgecolor="white", lw=0.5)
    axes.axvline(0, color=plots.SOFT, ls="--", lw=1)
    axes.set_xticks(range(-3, 4), ["1:8", "1:4", "1:2", "1:1", "2:1", "4:1", "8:1"])
    axes.set(title="Shape of the boxes", xlabel="Width : height (tall left, wide right)", ylabel="Objects")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return figure
