"""A study as a picture: a line an arm, the best on top, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from dualtoken.lab.rows import MAIN, Row
from dualtoken.lab.study_table import heads, lines
from dualtoken.report.plots import BLUE, ORANGE, SOFT, new_figure

_NOTE = "95 % intervals. Filled: over seeds. Hollow: one seed, over its images; another seed may turn it round."


def dots(rows: Sequence[Row], base: str) -> Figure:
    """The main figure of each arm.

    Args:
        rows: of one study, scale and task; one at least.
        base: name of the arm that the others are compared with; it has a colour and a line down the figure.
    """
    task = rows[0]["task"]
    parts = sorted(lines(rows, base), key=lambda line: line.measured.value)
    figure, axes = new_figure(6.4, 0.23 * len(parts) + 1.1)
    for place, part in enumerate(parts):
        value, low, high = part.measured.value, part.measured.low, part.measured.high
        if low is None or high is None:
            low, high = _over_images(next(row for row in rows if row["arm"] == part.arm), value)
        colour = ORANGE if part.arm == base else BLUE
        axes.errorbar(
            value, place, xerr=[[max(value - low, 0)], [max(high - value, 0)]], fmt="o", ms=5, color=colour,
            mfc=colour if part.measured.number > 1 else "white", mew=1.3, elinewidth=1.1,
        )  # fmt: skip
        if part.arm == base:
            axes.axvline(value, color=ORANGE, lw=0.8, ls="--", zorder=0)
    axes.set_yticks(range(len(parts)), [part.arm for part in parts])
    axes.set_ylim(-0.7, len(parts) - 0.3)
    axes.set_xlabel(heads(task)[5])
    figure.supxlabel(_NOTE, fontsize=8, color=SOFT)
    return figure


def _over_images(row: Row, value: float) -> tuple[float, float]:
    """The interval that a run measured over its own images, per cent."""
    figure = row["metrics"][MAIN[row["task"]][0]]
    return 100 * figure.get("low", value / 100), 100 * figure.get("high", value / 100)
