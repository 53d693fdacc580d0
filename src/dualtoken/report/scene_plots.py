"""Figures about objects and masks: what is labelled, and how well it is found. Plain numbers in, as in `plots.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from dualtoken.data import IGNORE, MaskSamples, ObjectSamples
from dualtoken.errors import ImageError
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import Interval
from dualtoken.outputs.object_evaluation import BACKGROUND, ObjectScores
from dualtoken.report import fonts, plots
from dualtoken.words import counted

SHOWN_CLASSES = 30  # of more classes only the first and the last ones have bars
NAMED_CURVES = 10
SAMPLED_MASKS = 100
_SMALL, _LARGE = 32.0, 96.0  # sides of squares: where COCO's small objects end, and where its large ones begin
_PAPER = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1.0}  # behind texts that lie on bars

Figures = dict[str, Figure]


# ---------------------------------------------------------------- what is labelled


def label_plots(
    samples: ObjectSamples | MaskSamples, classes: Sequence[str], limits: ImageLimits = DEFAULT_LIMITS
) -> Figures:
    """What the labels of a split hold: title to figure.

    Of objects their classes, how many an image has, their sizes and shapes; crowds are left out. Of masks the share
    of pixels and of images that each class has, counted in at most 100 images spread over the split, since every
    mask must be read for it; masks that cannot be read are passed over.

    Args:
        samples: the split.
        classes: K names.
        limits: what a mask may cost.
    """
    if isinstance(samples, MaskSamples):
        return _mask_plots(count_pixels(samples, len(classes), limits), classes)
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


def _mask_plots(counts: PixelCounts, classes: Sequence[str]) -> Figures:
    if not counts.read:
        return {}
    labelled = max(int(counts.pixels.sum()), 1)
    shares, images = counts.pixels / labelled, counts.images / counts.read
    ignored = counts.ignored / (labelled + counts.ignored)
    rest = f", {100 * ignored:.1f} % of the pixels are unlabelled" if counts.ignored else ""
    title = f"Classes in {counted(counts.read, 'image')}{rest}"
    panels = [("Share of the labelled pixels", shares, None), ("Share of the images", images, None)]
    return {title: _class_panels(panels, classes, title, percent=True)}


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
    return _class_panels([("Objects", counts, None), ("Images with the class", images, None)], classes, title)


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
    _ticks(axes, [tick for tick in (1, 4, 16, 32, 96, 256, 1024, 4096) if low <= tick <= high])
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


def _ticks(axes: Axes, places: Sequence[float]) -> None:
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


# ---------------------------------------------------------------- how well it is found


def precision_recall_plot(
    curves: NDArray[np.float32], per_class: Sequence[ObjectScores], mean: Interval | None = None
) -> Figure:
    """Precision against recall of each class at IoU 0.5, and their mean over the classes.

    Up to ten classes, those with most objects, have colours and names with their AP50; the others are grey.

    Args:
        curves: (K, 101) precision at recall 0, 0.01, ... 1; NaN rows are not drawn.
        per_class: K scores, for the names, AP50 and the order.
        mean: AP50 over all classes, for the legend.
    """
    drawn = [place for place in range(len(curves)) if np.isfinite(curves[place]).all()]
    named = sorted(drawn, key=lambda place: -per_class[place].support)[:NAMED_CURVES]
    recall = np.linspace(0, 1, curves.shape[1])
    figure, axes = plots.new_figure(7.6, 4.6)
    others = [place for place in drawn if place not in named]
    for place in others:
        axes.plot(recall, _until_zero(curves[place]), color=plots.SOFT, alpha=0.35, lw=0.8)
    styles = [(colour, dashes) for dashes in ("-", "--") for colour, _ in plots.LINES[:6]]
    for place, (colour, dashes) in zip(named, styles, strict=False):
        (line,) = axes.plot(recall, _until_zero(curves[place]), dashes, color=colour, lw=1.6)
        line.set_label(_named(per_class[place].name, per_class[place].ap50))
    if len(drawn) > 1:
        axes.plot(recall, curves[drawn].mean(axis=0), color=plots.INK, lw=3, label=_named("mean of the classes", mean))
    if others:
        axes.plot([], [], color=plots.SOFT, alpha=0.6, lw=0.8, label=f"{len(others):,} more")
    axes.set(xlabel="Recall: objects that are found", ylabel="Precision: answers that are right",
             title="Precision and recall at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    if drawn:
        legend = axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1), title="AP50")
        legend.set_alignment("left")
        legend.get_title().set(fontsize=9, color=plots.SOFT)
        for text in legend.get_texts():
            plots.plain(text)
            text.set_fontfamily(fonts.families())
    return figure


def _until_zero(curve: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without the line along the bottom, where curves would hide each other."""
    return np.where(np.concatenate([[False], curve[:-1] == 0]), np.nan, curve)


def class_scores_plot(
    names: Sequence[str], scores: Sequence[Interval | None], *, metric: str, counts: Sequence[str]
) -> Figure:
    """A bar for each class that has a score, the highest first, with its 95 % interval; up to 30, then both ends.

    Args:
        names: K classes.
        scores: K shares in [0, 1].
        metric: what they are.
        counts: K texts that stand beside the names, such as the number of objects.
    """
    known = [(name, score, count) for name, score, count in zip(names, scores, counts, strict=True) if score]
    known.sort(key=lambda entry: (-entry[1].value, entry[0]))
    values = np.array([score.value for _, score, _ in known])
    ends = np.array([(score.low, score.high) for _, score, _ in known]).reshape(-1, 2).T
    labels = [f"{_short(name)}  ({count})" for name, _, count in known]
    figure = _class_panels([(metric, values, ends)], labels, f"{metric} of each class", percent=True, sort=False)
    figure.axes[0].set_xlim(0, 1.14)  # room for the numbers
    figure.axes[0].set_xticks(np.linspace(0, 1, 6))
    return figure


def object_confusion_plot(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Numbers of objects by true class (row) and answer (column), with what was missed and what was invented.

    The last column has the objects without an answer, coloured by the share of their class; the last row the answers
    where there is no object, coloured by the share of all answers of that class. Both are orange, the rest is blue.

    Args:
        confusion: (K + 1, K + 1), the background last.
        classes: K names.
    """
    rows = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    rows[-1] = confusion[-1] / np.maximum(confusion.sum(axis=0), 1)
    rows[-1, -1] = 0
    title = f"{counted(int(confusion[:-1].sum()), 'object')}, {counted(int(confusion[:, :-1].sum()), 'answer')}"
    if len(classes) >= plots.NAMED_CLASSES:
        figure, axes = plots.numbered_matrix(rows, title=f"{title}, the background last")
        return _with_background(figure, axes, rows**0.5)
    names = (*classes, BACKGROUND)
    texts = [[f"{count:,}" if count else "" for count in row] for row in confusion.tolist()]
    texts[-1][-1] = ""
    figure, axes = plots.named_matrix(rows, texts, names, names)
    axes.set_title(title)
    return _with_background(figure, axes, rows)


def _with_background(figure: Figure, axes: Axes, shares: NDArray[np.float64]) -> Figure:
    """Its row and column in another colour, and a line before them."""
    inner = np.ones(shares.shape, bool)
    inner[-1], inner[:, -1], inner[-1, -1] = False, False, True
    axes.imshow(np.ma.masked_array(shares, inner), cmap="Oranges", vmin=0, vmax=1)
    edge = len(shares) - 1.5
    axes.axhline(edge, color=plots.SOFT, lw=1.2)
    axes.axvline(edge, color=plots.SOFT, lw=1.2)
    return figure


def region_confusion_plot(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Shares of the pixels of each true class (row) by answer (column), in per cent; below 0.5 % nothing is written.

    Args:
        confusion: (K, K) pixels.
        classes: K names.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    total = plots.short_number(float(confusion.sum()))
    if len(classes) > plots.NAMED_CLASSES:
        return plots.numbered_matrix(shares, title=f"{total} pixels of {len(classes)} classes")[0]
    texts = [[f"{100 * share:.0f}" if share >= 0.005 else "" for share in row] for row in shares.tolist()]
    figure, axes = plots.named_matrix(shares, texts, classes, classes)
    axes.set_title(f"{total} pixels, % of the true class")
    return figure


# ---------------------------------------------------------------- what both share

Panel = tuple[str, NDArray[Any], "NDArray[np.float64] | None"]


def _class_panels(
    panels: Sequence[Panel], names: Sequence[str], title: str, *, percent: bool = False, sort: bool = True
) -> Figure:
    """Horizontal bars, a row for each class, one or two panels beside each other.

    Args:
        panels: (label, K values, (2, K) ends of their intervals or None).
        names: K classes.
        title: of the figure.
        percent: whether values are shares.
        sort: by the first panel, the largest on top; else the order is kept.
    """
    number = len(names)
    order = np.argsort(-panels[0][1], kind="stable") if sort else np.arange(number)
    half = SHOWN_CLASSES // 2
    left_out = number - 2 * half if number > SHOWN_CLASSES else 0
    shown = np.concatenate([order[:half], order[-half:]]) if left_out else order
    rows = np.arange(len(shown)) + np.where(np.arange(len(shown)) >= half, 1, 0) * bool(left_out)
    labels = [_short(names[place]) for place in shown.tolist()]
    height = 0.2 * (rows.max(initial=0) + 1) + 1.0
    width = 3.3 * len(panels) + 0.075 * max(map(len, labels), default=0) + (2.2 if len(panels) == 1 else 0.4)
    figure = Figure(figsize=(min(width, 9.8), max(height, 1.8)), layout=ConstrainedLayoutEngine(wspace=0.06))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for part, (label, values, ends) in zip(axes, panels, strict=True):
        plots.prepare(part)
        part.grid(visible=False, axis="y")
        _bars(part, rows, values[shown], None if ends is None else ends[:, shown], percent=percent)
        part.set(xlabel=label, ylim=(rows.max(initial=0) + 0.6, -0.6))
        part.xaxis.set_major_locator(MaxNLocator(4, integer=not percent, min_n_ticks=1))
        if percent:
            part.set_xticks([tick for tick in part.get_xticks() if tick <= 1])
        part.xaxis.set_major_formatter(
            PercentFormatter(1, symbol=" %") if percent else FuncFormatter(lambda value, _: plots.short_number(value))
        )
        part.tick_params(axis="y", length=0)
    axes[0].set_yticks(rows, labels)
    for text in axes[0].get_yticklabels():
        plots.plain(text)
    if left_out:
        axes[0].text(0.01, half, f"… {left_out:,} further classes between …", fontsize=8.5, va="center", style="italic",
                     color=plots.SOFT, transform=axes[0].get_yaxis_transform())  # fmt: skip
    figure.suptitle(title, fontsize=10, color=plots.INK, family=fonts.families())
    return figure


def _bars(
    axes: Axes, rows: NDArray[np.int64], values: NDArray[Any], ends: NDArray[np.float64] | None, *, percent: bool
) -> None:
    """Bars with their values behind them, or behind the intervals; what is 0 has a number in orange."""
    axes.barh(rows, values, height=0.72, color=plots.BLUE, alpha=0.85 if ends is None else 0.55)
    if ends is not None:
        axes.hlines(rows, ends[0], ends[1], color=plots.INK, lw=1.2)
    reach = values if ends is None else ends[1]
    for row, value, end in zip(rows.tolist(), values.tolist(), reach.tolist(), strict=True):
        text = percent_text(value) if percent else f"{value:,}"
        axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=8,
                      color=plots.INK if value else plots.ORANGE)  # fmt: skip
    axes.set_xlim(0, max(1.22 * float(reach.max(initial=0)), 1e-9))


def percent_text(share: float) -> str:
    """Such as `12.3 %`; what is not quite nothing is not written as nothing."""
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def _named(name: str, score: Interval | None) -> str:
    return f"{_short(name)}  {100 * score.value:.1f} %" if score else _short(name)


def _short(name: str) -> str:
    return fonts.drawable(fonts.shorten(name, 32))
