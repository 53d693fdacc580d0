"""Figures from plain numbers. Each function returns a matplotlib `Figure` that no global state knows of."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from dualtoken.outputs import Bin
from dualtoken.report import fonts
from dualtoken.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

# Okabe and Ito's colours, told apart by colour-blind readers; lines differ in their dashes too.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
INK, SOFT, GRID = "#1f2933", "#6b7785", "#e3e8ee"
SKY, AMBER = "#56B4E9", "#E69F00"
LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"), (SKY, "-"), (AMBER, "--"), (INK, "-."))

NAMED_CLASSES = 30  # a confusion matrix of more classes is drawn without names and numbers
_DPI = 150
_LABELS = {
    "train_loss": "training", "val_loss": "validation", "val_top1": "top-1", "val_top5": "top-5", "val_ap": "AP",
    "val_ap50": "AP50", "val_mask_ap": "mask AP", "val_mask_ap50": "mask AP50", "val_miou": "mIoU",
}  # fmt: skip

Row = Mapping[str, float]


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def curves(history: Sequence[Row]) -> dict[str, Figure]:
    """How training went: title to figure, one each for the losses, their parts, the validation metrics and the rest.

    Args:
        history: one row an epoch, the rows of `metrics.csv`: `epoch` counted from 1, `train_loss`, `val_loss`, other
            `..._loss...` figures as its parts, other `val_...` figures as shares, the first of them the one that the
            best epoch is chosen by, `lr` and further ones each on its own. What is missing is not drawn, nor are
            gaps: a figure may stand in some rows only, or be NaN in others.
    """
    names = list(dict.fromkeys(name for row in history for name in row if name not in ("epoch", "step")))
    losses = [name for name in names if name in ("train_loss", "val_loss")]
    parts = [name for name in names if "loss" in name and name not in losses]
    shares = [name for name in names if name.startswith("val_") and name not in (*losses, *parts)]
    rates = [name for name in names if name == "lr" or name.startswith("lr_")]
    grouped = {*losses, *parts, *shares, *rates}
    rest = {_label(name): [name] for name in names if name not in grouped}
    panels = {"Loss": losses, "Parts of the loss": parts, "Validation": shares, "Learning rate": rates} | rest
    return {title: _curve(history, title, keys) for title, keys in panels.items() if keys}


def _curve(history: Sequence[Row], title: str, keys: Sequence[str]) -> Figure:
    figure, axes = new_figure(3.15, 2.7)
    marker, below = "o" if len(history) <= 20 else None, "Epoch"
    for key, (colour, dashes) in zip(keys, cycle(LINES)):  # the colours never end
        epochs, values = _measured(history, key)
        axes.plot(epochs, values, dashes, color=colour, lw=1.8, marker=marker, ms=3.5, label=_label(key))
    if title == "Learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.set_ylim(bottom=0)
    if title == "Validation":
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        below += _mark_best(axes, *_measured(history, keys[0]))
    axes.set(title=title, xlabel=below)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(keys) > 1:
        axes.legend(frameon=False, fontsize=9 if len(keys) <= 3 else 7.5)
    return figure


def _measured(history: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """The epochs that have a figure, and the figures."""
    rows = [row for row in history if math.isfinite(row.get(key, math.nan))]
    return [row["epoch"] for row in rows], [row[key] for row in rows]


def _label(key: str) -> str:
    if key in _LABELS:
        return _LABELS[key]
    if "loss" in key:
        key = key.removeprefix("train_").replace("_loss", "").replace("loss_", "")
    return key.removeprefix("val_").replace("_", " ")


def _mark_best(axes: Axes, epochs: Sequence[float], values: Sequence[float]) -> str:
    """Circle the highest value and say where it is."""
    if not values:
        return ""
    best = int(np.argmax(values))
    axes.plot(epochs[best], values[best], "o", color=ORANGE, ms=7, mfc="none", mew=1.8, zorder=5)
    return f" (best {100 * values[best]:.1f} %, epoch {epochs[best]:.0f})"


def reliability_plot(bins: Sequence[Bin], *, images: int, counted: str = "images", intervals: bool = True) -> Figure:
    """How often answers were right against how sure the model was, and how many answers there are.

    Args:
        bins: parts of the scores' range that hold answers.
        images: answers in all.
        counted: what an answer is about, in the plural.
        intervals: whether each bin has its 95 % interval, Wilson's (1927) for its number of answers; it means little
            where these depend on each other, as neighbouring pixels do.
    """
    figure = Figure(figsize=(4.8, 5.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (top, bottom):
        prepare(axes)
    top.plot([0, 1], [0, 1], "--", color=SOFT, lw=1.2, label="honest: as sure as right")
    sure, right = [part.confidence for part in bins], [part.accuracy for part in bins]
    ends = np.array([_wilson(part.accuracy, part.images) for part in bins]).reshape(-1, 2).T
    top.errorbar(
        sure, right, np.abs(ends - np.array(right)) if intervals else None,
        fmt="o", color=BLUE, ecolor=BLUE, elinewidth=1.2, capsize=2.5, ms=5, label="measured",
    )  # fmt: skip
    bottom.bar([p.low for p in bins], [p.images for p in bins], [p.high - p.low for p in bins], align="edge",
               color=BLUE, alpha=0.35, edgecolor="white")  # fmt: skip
    top.set(ylabel="Answers that are right", ylim=(-0.03, 1.03), title=f"Reliability ({images:,} {counted})")
    bottom.set(xlabel="Score of the answer", ylabel=counted.capitalize(), xlim=(-0.02, 1.02))
    for axis in (top.yaxis, bottom.xaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    bottom.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    top.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def short_number(value: float) -> str:
    """Such as `12,345`, `123 k` or `4.5 M`."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= max(unit, 1e5):
            return f"{value / unit:.3g}{name}"
    return f"{value:,.0f}"


def _wilson(share: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return min(share, middle - half), max(share, middle + half)


def confusion_plot(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Numbers of images by true class (row) and answer (column), coloured by the share of the row.

    Up to 30 classes have names and numbers; of more only the colours are drawn, pale ones strengthened.

    Args:
        confusion: (K, K).
        classes: K names.
    """
    number = len(classes)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    if number > NAMED_CLASSES:
        return numbered_matrix(shares, title=f"{counted(int(confusion.sum()), 'image')} of {number} classes")[0]
    texts = [[f"{count:,}" if count else "" for count in row] for row in confusion.tolist()]
    figure, axes = named_matrix(shares, texts, classes, classes)
    axes.set_title(f"{counted(int(confusion.sum()), 'image')}, coloured by share of the row")
    return figure


def numbered_matrix(shares: NDArray[np.float64], *, title: str) -> tuple[Figure, Axes]:
    """Shares by true class (row) and answer (column) of many classes, as a picture without names."""
    figure, axes = new_figure(6.6, 6.2, grid=False)
    image = axes.imshow(shares**0.5, cmap="Blues", vmin=0, vmax=1, interpolation="antialiased")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02, label="Share of the row")
    bar.set_ticks([0, 0.01**0.5, 0.1**0.5, 0.5**0.5, 1], labels=["0 %", "1 %", "10 %", "50 %", "100 %"])
    bar.outline.set_visible(False)
    axes.set(xlabel="Answer (number of the class)", ylabel="True class (number)", title=title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))
    return figure, axes


def named_matrix(
    shares: NDArray[np.float64], texts: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str]
) -> tuple[Figure, Axes]:
    """Shares by true class (row) and answer (column) as colours with a text in each cell, "" for none.

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
    axes.set(xlabel="Answer", ylabel="True class")
    return figure, axes


def new_figure(width: float, height: float, *, grid: bool = True) -> tuple[Figure, Axes]:
    """One pair of axes in a figure of `width` x `height` inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    prepare(axes, grid=grid)
    return figure, axes


def prepare(axes: Axes, *, grid: bool = True) -> None:
    """The look that all figures share; fonts first, since text made later takes them."""
    axes.tick_params(colors=INK, labelsize=9, length=3, color=SOFT, labelfontfamily=fonts.families())
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set(family=fonts.families(), color=INK, fontsize=10)
    for name, spine in axes.spines.items():
        spine.set(visible=grid and name in ("left", "bottom"), color=SOFT)
    if grid:
        axes.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)


def plain(text: Text) -> None:
    """A class called $5$ is no formula."""
    text.set_parse_math(False)
