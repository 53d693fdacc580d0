"""Figures about what was measured: confusion, reliability, the classes, precision against recall. Plain numbers in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from dualtoken.outputs import Bin, Interval
from dualtoken.report import fonts, page
from dualtoken.report.page import Block
from dualtoken.report.plots import (
    BLUE,
    GRID,
    INK,
    LINES,
    SOFT,
    class_panels,
    new_figure,
    plain,
    prepare,
    short_name,
    short_number,
)

NAMED_CLASSES = 30  # a confusion matrix of more classes is drawn without names and numbers
NAMED_CURVES = 10


def confusion_plot(
    confusion: NDArray[np.int64], names: Sequence[str], title: str, *, percent: bool = False, background: bool = False
) -> Figure:
    """Counts by true class (row) and predicted one (column), coloured by the share of the row.

    Up to 30 classes have names and numbers; of more only the colours are drawn, pale ones strengthened. With a
    `background` the last column has the objects that were not found, coloured by the share of their class; the last
    row the false positives, coloured by the share of all predictions of that class. Both are orange, the rest is blue.

    Args:
        confusion: (n, n).
        names: of rows and columns, n of them.
        title: what is counted, such as `6 images`.
        percent: write shares of the row instead of counts; below 0.5 % nothing.
        background: whether the last row and column are that.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    if background:
        shares[-1] = confusion[-1] / np.maximum(confusion.sum(axis=0), 1)
        shares[-1, -1] = 0
    if len(names) > NAMED_CLASSES:
        figure, axes = numbered_matrix(shares, title=f"{title}{', the background last' * background}")
        return _with_background(figure, axes, shares**0.5) if background else figure
    if percent:
        texts = [[f"{100 * share:.0f}" if share >= 0.005 else "" for share in row] for row in shares.tolist()]
    else:
        texts = [[f"{count:,}" if count else "" for count in row] for row in confusion.tolist()]
    if background:
        texts[-1][-1] = ""
    figure, axes = named_matrix(shares, texts, names, names)
    if background:
        axes.set_title(title)
        return _with_background(figure, axes, shares)
    axes.set_title(f"{title}, {'% of the true class' if percent else 'coloured by share of the row'}")
    return figure


def _with_background(figure: Figure, axes: Axes, shares: NDArray[np.float64]) -> Figure:
    """Its row and column in another colour, and a line before them."""
    inner = np.ones(shares.shape, bool)
    inner[-1], inner[:, -1], inner[-1, -1] = False, False, True
    axes.imshow(np.ma.masked_array(shares, inner), cmap="Oranges", vmin=0, vmax=1)
    edge = len(shares) - 1.5
    axes.axhline(edge, color=SOFT, lw=1.2)
    axes.axvline(edge, color=SOFT, lw=1.2)
    return figure


def numbered_matrix(shares: NDArray[np.float64], *, title: str) -> tuple[Figure, Axes]:
    """Shares by true class (row) and predicted one (column) of many classes, as a picture without names."""
    figure, axes = new_figure(6.6, 6.2, grid=False)
    image = axes.imshow(shares**0.5, cmap="Blues", vmin=0, vmax=1, interpolation="antialiased")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02, label="Share of the row")
    bar.set_ticks([0, 0.01**0.5, 0.1**0.5, 0.5**0.5, 1], labels=["0 %", "1 %", "10 %", "50 %", "100 %"])
    bar.outline.set_visible(False)
    axes.set(xlabel="Predicted class (number)", ylabel="True class (number)", title=title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))
    return figure, axes


def named_matrix(
    shares: NDArray[np.float64], texts: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str]
) -> tuple[Figure, Axes]:
    """Shares by true class (row) and predicted one (column) as colours with a text in each cell, "" for none.

    Args:
        shares: (K, K) in [0, 1].
        texts: K rows of K.
        rows, columns: K names each.
    """
    number = len(rows)
    down, across = ([fonts.drawable(fonts.shorten(name, 24)) for name in names] for names in (rows, columns))
    longest = max(map(len, (*down, *across)))
    cell = max(0.36, min(0.9, 4.2 / number))
    label = 0.085 * longest + 0.7
    figure, axes = new_figure(max(number * cell + label + 0.8, 3.8), max(number * cell + label + 0.5, 3.4), grid=False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = min(11.0, cell * 72 / (0.72 * max(2, *(len(text) for row in texts for text in row))))
    for row, column in np.ndindex(shares.shape):
        if texts[row][column]:
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=size, color=colour)
    axes.set_xticks(range(number), across, rotation=90 if longest > 2 else 0)
    axes.set_yticks(range(number), down)
    axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=GRID, lw=0.8)
    axes.tick_params(which="minor", length=0)
    for text in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        plain(text)
    axes.set(xlabel="Predicted class", ylabel="True class")
    return figure, axes


def reliability_plot(bins: Sequence[Bin], *, images: int, counted: str = "images", intervals: bool = True) -> Figure:
    """How often predictions were right against their confidence, and how many there are.

    Args:
        bins: parts of the range of confidence that hold predictions.
        images: predictions in all.
        counted: what they are about, in the plural.
        intervals: whether each bin has its 95 % interval, Wilson's (1927) for its number of answers; it means little
            where these depend on each other, as neighbouring pixels do.
    """
    figure = Figure(figsize=(4.8, 5.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (top, bottom):
        prepare(axes)
    top.plot([0, 1], [0, 1], "--", color=SOFT, lw=1.2, label="calibrated: confidence equals precision")
    sure, right = [part.confidence for part in bins], [part.accuracy for part in bins]
    ends = np.array([_wilson(part.accuracy, part.images) for part in bins]).reshape(-1, 2).T
    top.errorbar(
        sure, right, np.abs(ends - np.array(right)) if intervals else None,
        fmt="o", color=BLUE, ecolor=BLUE, elinewidth=1.2, capsize=2.5, ms=5, label="measured",
    )  # fmt: skip
    bottom.bar([p.low for p in bins], [p.images for p in bins], [p.high - p.low for p in bins], align="edge",
               color=BLUE, alpha=0.35, edgecolor="white")  # fmt: skip
    top.set(ylabel="Share that is right", ylim=(-0.03, 1.03), title=f"Reliability ({images:,} {counted})")
    bottom.set(xlabel="Confidence", ylabel=counted.capitalize(), xlim=(-0.02, 1.02))
    for axis in (top.yaxis, bottom.xaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    bottom.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    top.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def _wilson(share: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return min(share, middle - half), max(share, middle + half)


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
    labels = [f"{short_name(name)}  ({count})" for name, _, count in known]
    figure = class_panels([(metric, values, ends)], labels, f"{metric} of each class", percent=True, sort=False)
    figure.axes[0].set_xlim(0, 1.14)  # room for the numbers
    figure.axes[0].set_xticks(np.linspace(0, 1, 6))
    return figure


def precision_recall_plot(
    curves: NDArray[np.float32],
    names: Sequence[str],
    scores: Sequence[Interval | None],
    support: Sequence[int],
    mean: Interval | None = None,
) -> Figure:
    """Precision against recall of each class at IoU 0.5, and their mean over the classes.

    Up to ten classes, those with most objects, have colours and names with their AP50; the others are grey.

    Args:
        curves: (K, 101) precision at recall 0, 0.01, ... 1; NaN rows are not drawn.
        names, scores, support: K names, AP50 and numbers of objects.
        mean: AP50 over all classes, for the legend.
    """
    drawn = [place for place in range(len(curves)) if np.isfinite(curves[place]).all()]
    named = sorted(drawn, key=lambda place: -support[place])[:NAMED_CURVES]
    recall = np.linspace(0, 1, curves.shape[1])
    figure, axes = new_figure(7.6, 4.6)
    others = [place for place in drawn if place not in named]
    for place in others:
        axes.plot(recall, _until_zero(curves[place]), color=SOFT, alpha=0.35, lw=0.8)
    styles = [(colour, dashes) for dashes in ("-", "--") for colour, _ in LINES[:6]]
    for place, (colour, dashes) in zip(named, styles, strict=False):
        (line,) = axes.plot(recall, _until_zero(curves[place]), dashes, color=colour, lw=1.6)
        line.set_label(_named(names[place], scores[place]))
    if len(drawn) > 1:
        axes.plot(recall, curves[drawn].mean(axis=0), color=INK, lw=3, label=_named("mean of the classes", mean))
    if others:
        axes.plot([], [], color=SOFT, alpha=0.6, lw=0.8, label=f"{len(others):,} more")
    axes.set(xlabel="Recall: objects that are found", ylabel="Precision: detections that are right",
             title="Precision and recall at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    if drawn:
        legend = axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1), title="AP50")
        legend.set_alignment("left")
        legend.get_title().set(fontsize=9, color=SOFT)
        for text in legend.get_texts():
            plain(text)
            text.set_fontfamily(fonts.families())
    return figure


def _until_zero(curve: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without the line along the bottom, where curves would hide each other."""
    return np.where(np.concatenate([[False], curve[:-1] == 0]), np.nan, curve)


def _named(name: str, score: Interval | None) -> str:
    return f"{short_name(name)}  {100 * score.value:.1f} %" if score else short_name(name)


def confusion_blocks(figure: Figure, classes: int, about: str = "") -> list[Block]:
    """A confusion matrix on a page, with what its rows and columns mean where they have no names."""
    numbered = "Classes are numbered from 0 in the order of the model's config.json. Weak colours are strengthened."
    notes = [*([about] if about else []), *([numbered] if classes > NAMED_CLASSES else [])]
    return [page.figures({"Confusion matrix": figure}), *(page.text(note, soft=True) for note in notes)]
