"""Figures from plain numbers. Each function returns a matplotlib `Figure` that no global state knows of."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from dualtoken.report import fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

# Okabe and Ito's colours, told apart by colour-blind readers; lines differ in their dashes too.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
INK, SOFT, GRID = "#1f2933", "#6b7785", "#e3e8ee"
SKY, AMBER = "#56B4E9", "#E69F00"
LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"), (SKY, "-"), (AMBER, "--"), (INK, "-."))

SHOWN_CLASSES = 30  # of more classes only the first and the last ones have bars
_DPI = 150
_LABELS = {
    "train_loss": "training", "val_loss": "validation", "val_top1": "top-1", "val_top5": "top-5", "val_ap": "AP",
    "val_ap50": "AP50", "val_mask_ap": "mask AP", "val_mask_ap50": "mask AP50", "val_miou": "mIoU",
}  # fmt: skip

Row = Mapping[str, float]


def to_png(figure: Figure, description: str | None = None) -> bytes:
    """The figure as the bytes of a PNG file, which holds its description."""
    buffer = io.BytesIO()
    metadata = {"Software": None, "Description": description}
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata=metadata)
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
    rest = {_label(name).capitalize(): [name] for name in names if name not in grouped}
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


def short_number(value: float) -> str:
    """Such as `12,345`, `123 k` or `4.5 M`."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= max(unit, 1e5):
            return f"{value / unit:.3g}{name}"
    return f"{value:,.0f}"


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


def percent_text(share: float) -> str:
    """Such as `12.3 %`; what is not quite nothing is not written as nothing."""
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def short_name(name: str) -> str:
    """A class's name as it stands in a figure."""
    return fonts.drawable(fonts.shorten(name, 32))


Panel = tuple[str, NDArray[Any], "NDArray[np.float64] | None"]


def class_panels(
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
    labels = [short_name(names[place]) for place in shown.tolist()]
    height = 0.2 * (rows.max(initial=0) + 1) + 1.0
    width = 3.3 * len(panels) + 0.075 * max(map(len, labels), default=0) + (2.2 if len(panels) == 1 else 0.4)
    figure = Figure(figsize=(min(width, 9.8), max(height, 1.8)), layout=ConstrainedLayoutEngine(wspace=0.06))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for part, (label, values, ends) in zip(axes, panels, strict=True):
        prepare(part)
        part.grid(visible=False, axis="y")
        _bars(part, rows, values[shown], None if ends is None else ends[:, shown], percent=percent)
        part.set(xlabel=label, ylim=(rows.max(initial=0) + 0.6, -0.6))
        part.xaxis.set_major_locator(MaxNLocator(4, integer=not percent, min_n_ticks=1))
        if percent:
            part.set_xticks([tick for tick in part.get_xticks() if tick <= 1])
        part.xaxis.set_major_formatter(
            PercentFormatter(1, symbol=" %") if percent else FuncFormatter(lambda value, _: short_number(value))
        )
        part.tick_params(axis="y", length=0)
    axes[0].set_yticks(rows, labels)
    for text in axes[0].get_yticklabels():
        plain(text)
    if left_out:
        axes[0].text(0.01, half, f"… {left_out:,} further classes between …", fontsize=8.5, va="center", style="italic",
                     color=SOFT, transform=axes[0].get_yaxis_transform())  # fmt: skip
    figure.suptitle(title, fontsize=10, color=INK, family=fonts.families())
    return figure


def _bars(
    axes: Axes, rows: NDArray[np.int64], values: NDArray[Any], ends: NDArray[np.float64] | None, *, percent: bool
) -> None:
    """Bars with their values behind them, or behind the intervals; what is 0 has a number in orange."""
    axes.barh(rows, values, height=0.72, color=BLUE, alpha=0.85 if ends is None else 0.55)
    if ends is not None:
        axes.hlines(rows, ends[0], ends[1], color=INK, lw=1.2)
    reach = values if ends is None else ends[1]
    for row, value, end in zip(rows.tolist(), values.tolist(), reach.tolist(), strict=True):
        text = percent_text(value) if percent else f"{value:,}"
        axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=8,
                      color=INK if value else ORANGE)  # fmt: skip
    axes.set_xlim(0, max(1.22 * float(reach.max(initial=0)), 1e-9))
