"""Figures from plain numbers. Each function returns a matplotlib `Figure` that no global state knows of."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from dualtoken.outputs import Bin
from dualtoken.report import fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

# Okabe and Ito's colours, told apart by colour-blind readers; lines differ in their dashes too.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
INK, SOFT, GRID = "#1f2933", "#6b7785", "#e3e8ee"
LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))

NAMED_CLASSES = 30  # a confusion matrix of more classes is drawn without names and numbers
_DPI = 150

Row = Mapping[str, float]


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def curves(history: Sequence[Row]) -> dict[str, Figure]:
    """How training went: title to figure, one each for the losses, the validation metrics and the learning rate.

    Args:
        history: one row an epoch, the rows of `metrics.csv`: `epoch` counted from 1, `train_loss`, `val_loss`,
            other `val_...` figures as shares, `lr`. What is missing is not drawn.
    """
    names = list(history[0]) if history else []
    losses = [name for name in names if name.endswith("loss")]
    shares = [name for name in names if name.startswith("val_") and name not in losses]
    panels = {"Loss": losses, "Validation": shares, "Learning rate": [name for name in names if name == "lr"]}
    return {title: _curve(history, title, keys) for title, keys in panels.items() if keys}


def _curve(history: Sequence[Row], title: str, keys: Sequence[str]) -> Figure:
    figure, axes = _figure(3.15, 2.7)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) <= 20 else None
    for key, (colour, dashes) in zip(keys, LINES, strict=False):
        values = [row[key] for row in history]
        axes.plot(epochs, values, dashes, color=colour, lw=1.8, marker=marker, ms=3.5, label=_label(key))
    if title == "Validation":
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        _mark_best(axes, epochs, [row[keys[0]] for row in history])
    if title == "Learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.set_ylim(bottom=0)
    axes.set(title=title, xlabel="Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(keys) > 1:
        axes.legend(frameon=False, fontsize=9)
    return figure


def _label(key: str) -> str:
    names = {"train_loss": "training", "val_loss": "validation", "val_top1": "top-1", "val_top5": "top-5"}
    return names.get(key, key.removeprefix("val_").replace("_", " "))


def _mark_best(axes: Axes, epochs: Sequence[float], values: Sequence[float]) -> None:
    best = int(np.argmax(values))
    axes.plot(epochs[best], values[best], "o", color=ORANGE, ms=7, mfc="none", mew=1.8, zorder=5)
    axes.annotate(
        f"best {100 * values[best]:.1f} %, epoch {epochs[best]:.0f}", (0.98, 0.04), xycoords="axes fraction",
        ha="right", fontsize=8.5, color=INK, bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1.5},
    )  # fmt: skip


def reliability_plot(bins: Sequence[Bin], *, images: int) -> Figure:
    """How often answers were right against how sure the model was, with 95 % intervals, and how many there are.

    A bin's interval is Wilson's (1927) for its number of images.
    """
    figure = Figure(figsize=(4.8, 5.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (top, bottom):
        _prepare(axes)
    top.plot([0, 1], [0, 1], "--", color=SOFT, lw=1.2, label="honest: as sure as right")
    sure, right = [part.confidence for part in bins], [part.accuracy for part in bins]
    ends = np.array([_wilson(part.accuracy, part.images) for part in bins]).reshape(-1, 2).T
    errors = np.abs(ends - np.array(right))
    top.errorbar(
        sure, right, errors, fmt="o", color=BLUE, ecolor=BLUE, elinewidth=1.2, capsize=2.5, ms=5, label="measured"
    )
    bottom.bar([p.low for p in bins], [p.images for p in bins], [p.high - p.low for p in bins], align="edge",
               color=BLUE, alpha=0.35, edgecolor="white")  # fmt: skip
    top.set(ylabel="Answers that are right", ylim=(-0.03, 1.03), title=f"Reliability ({images:,} images)")
    bottom.set(xlabel="Score of the answer", ylabel="Images", xlim=(-0.02, 1.02))
    for axis in (top.yaxis, bottom.xaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    bottom.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    top.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


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
    if number <= NAMED_CLASSES:
        return _named_confusion(confusion, shares, classes)
    figure, axes = _figure(6.6, 6.2, grid=False)
    image = axes.imshow(shares**0.5, cmap="Blues", vmin=0, vmax=1, interpolation="antialiased")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02, label="Share of the row")
    bar.set_ticks([0, 0.01**0.5, 0.1**0.5, 0.5**0.5, 1], labels=["0 %", "1 %", "10 %", "50 %", "100 %"])
    bar.outline.set_visible(False)
    axes.set(
        xlabel="Answer (number of the class)", ylabel="True class (number)",
        title=f"{confusion.sum():,} images of {number} classes",
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))
    return figure


def _named_confusion(confusion: NDArray[np.int64], shares: NDArray[np.float64], classes: Sequence[str]) -> Figure:
    number = len(classes)
    names = [fonts.drawable(fonts.shorten(name, 24)) for name in classes]
    cell = max(0.36, min(0.9, 4.2 / number))
    label = 0.085 * max(map(len, names)) + 0.7
    figure, axes = _figure(max(number * cell + label + 0.8, 3.8), max(number * cell + label + 0.5, 3.4), grid=False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    largest = len(f"{confusion.max():,}")
    size = min(11.0, cell * 72 / (0.72 * max(largest, 2)))
    for row, column in zip(*np.nonzero(confusion), strict=True):
        colour = "white" if shares[row, column] > 0.55 else INK
        axes.text(column, row, f"{confusion[row, column]:,}", ha="center", va="center", fontsize=size, color=colour)
    axes.set_xticks(range(number), names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(range(number), names)
    axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=GRID, lw=0.8)
    axes.tick_params(which="minor", length=0)
    for text in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        _plain(text)
    axes.set(xlabel="Answer", ylabel="True class", title=f"{confusion.sum():,} images, coloured by share of the row")
    return figure


def _figure(width: float, height: float, *, grid: bool = True) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _prepare(axes, grid=grid)
    return figure, axes


def _prepare(axes: Axes, *, grid: bool = True) -> None:
    """The look that all figures share; fonts first, since text made later takes them."""
    axes.tick_params(colors=INK, labelsize=9, length=3, color=SOFT, labelfontfamily=fonts.families())
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set(family=fonts.families(), color=INK, fontsize=10)
    for name, spine in axes.spines.items():
        spine.set(visible=grid and name in ("left", "bottom"), color=SOFT)
    if grid:
        axes.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)


def _plain(text: Text) -> None:
    """A class called $5$ is no formula."""
    text.set_parse_math(False)
