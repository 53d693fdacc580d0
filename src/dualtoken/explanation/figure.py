"""Pictures of explanations: heat maps with their proofs, and one figure of what the global tokens do.

Matplotlib's constrained layout places everything. Axes that show an image count in pixels of the network's input.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from dualtoken.explanation.attention import Attention, BlockRecord, Step, TokenRecord
from dualtoken.explanation.faithfulness import Faithfulness, Sanity, short
from dualtoken.explanation.heat import Heat
from dualtoken.explanation.targets import Target
from dualtoken.explanation.views import View
from dualtoken.report import fonts
from dualtoken.report.plots import BLUE, INK, ORANGE, SOFT, plain, prepare
from dualtoken.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FOR, _AGAINST = np.array([230, 85, 0], np.float32), np.array([0, 105, 190], np.float32)
_COVER = 0.85  # of a colour where a map is strongest
_SHARES = LinearSegmentedColormap.from_list("shares", ["#fff7ec", "#fdbb84", "#e34a33", "#7f0000"])
_LIKENESS = "PRGn"  # of cosines: neither the colours of the heat maps nor those of shares
_PALE = 25  # times an even share is dark at least
_COLUMNS = 9  # panels beside each other: eight heads and the aggregation
_WIDTH = 11.7  # inches of the figure of the tokens


class Row(NamedTuple):
    """What a row of the heat figure shows."""

    target: Target
    heat: Heat
    faithfulness: Faithfulness
    sanity: Sanity | None


# ---------------------------------------------------------------- overlays


def overlay(view: View, heat: Heat) -> Image.Image:
    """The picture in grey with the map over it: orange speaks for the target, blue against it."""
    whole = heat.over(view.preprocessing.image_size)[view.part.rows, view.part.columns]
    values = np.asarray(Image.fromarray(whole).resize(view.picture.size, Image.Resampling.BILINEAR))
    strongest = float(np.abs(values).max())
    strength = np.abs(values)[..., None] / strongest * _COVER if strongest > 0 else np.zeros((*values.shape, 1))
    colour = np.where(values[..., None] > 0, _FOR, _AGAINST)
    mixed = _grey(view) * (1 - strength) + colour * strength
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def _grey(view: View, white: float = 0.25) -> NDArray[np.float32]:
    """(H, W, 3) the picture in pale grey, on which colours stand out."""
    grey = np.asarray(view.picture.convert("L"), np.float32) * (1 - white) + 255 * white
    return np.repeat(grey[..., None], 3, axis=2)


# ---------------------------------------------------------------- heat maps and their proofs


def heat_figure(view: View, rows: Sequence[Row], title: str, notes: Sequence[str] = ()) -> Figure:
    """A row a target: the image, the map, that of a network with fresh weights if there is one, deletion and insertion.

    Args:
        view: of the image.
        rows: at least one.
        title: of the whole.
        notes: sentences below the rows.
    """
    pictures = len(_pictures(view, rows[0]))
    high = max(2.5 * _shape(view), 2.0) + 0.8
    figure = Figure((2.7 * pictures + 4.2, 0.5 + high * len(rows) + 0.25 * len(notes)), layout="constrained")
    grid = figure.subplots(len(rows), pictures + 1, squeeze=False, width_ratios=[*[1] * pictures, 1.4])
    for row, line in zip(rows, grid, strict=True):
        for axes, (picture, outlined, text) in zip(line, _pictures(view, row), strict=False):
            _show(axes, view, picture)
            if outlined:
                _outline(axes, row.target)
            _caption(axes, text)
        _curves(line[-1], row.faithfulness)
        worth = row.faithfulness
        scores = f"deletion {short(worth.deletion)}, insertion {short(worth.insertion)}"
        _caption(line[-1], f"{scores}\n{worth.noise()} (dashed: mean, both ways)\n{worth.verdict()}", 60)
    return _finished(figure, title, notes)


class _Picture(NamedTuple):
    """A picture of a row, and what is written above it."""

    picture: Image.Image
    outlined: bool
    text: str


def _pictures(view: View, row: Row) -> list[_Picture]:
    target, heat, sanity = row.target, row.heat, row.sanity
    asked = "" if target.answered else "\nbelow its threshold" if target.box else "\nnot the model's prediction"
    grid = " x ".join(map(str, heat.values.shape))
    levels = heat.levels[0] if len(heat.levels) == 1 else f"{len(heat.levels)} levels"
    where = f" at {levels}" if heat.levels else ""
    pictures = [
        _Picture(view.picture, True, f"{target.name}, score {short(target.score)}{asked}"),
        _Picture(overlay(view, heat), True, f"{heat.method}{where}, {grid}\norange speaks for it, blue against it"),
    ]
    if sanity is not None:
        number = "not known" if sanity.mean is None else f"{sanity.mean:.2f}"
        text = f"fresh weights: rank correlation {number}\n{sanity.verdict()}"
        pictures.append(_Picture(overlay(view, sanity.example), False, text))
    return pictures


def _curves(axes: Axes, faithfulness: Faithfulness) -> None:
    prepare(axes)
    shares, random = faithfulness.shares, faithfulness.random_curve
    style: dict[str, Any] = {"color": SOFT, "lw": 1.1, "ls": (0, (3, 2))}
    axes.plot(shares, random, **style, label=f"mean of {len(faithfulness.random)} random maps")
    axes.plot(shares, random[::-1], **style)
    axes.plot(shares, faithfulness.deletion_curve, color=ORANGE, lw=1.9, label="deletion ↓")
    axes.plot(shares, faithfulness.insertion_curve, color=BLUE, lw=1.9, ls="-.", label="insertion ↑")
    largest = max(*random, *faithfulness.deletion_curve, *faithfulness.insertion_curve)
    top = 1.03 if largest > 0.5 else max(1.3 * largest, 1e-6)
    axes.set(xlim=(0, 1), ylim=(-0.03 * top, top), ylabel="score")
    what = "blurred" if faithfulness.baseline == "blur" else "grey"
    axes.set_xlabel(f"share of pixels {what} (insertion: no longer {what})")
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    axes.tick_params(labelsize=7.5)
    axes.legend(loc="best", fontsize=7, frameon=False)


# ---------------------------------------------------------------- tokens


def token_figure(
    view: View,
    record: TokenRecord,
    chosen: Sequence[BlockRecord],
    position: tuple[float, float],
    title: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Where one position of the image looks, whom its token listens to, and how the tokens change on their way.

    Args:
        view: of the image.
        record: of all blocks.
        chosen: blocks whose attention is drawn.
        position: x and y in pixels of the network's input.
        title: of the whole.
        notes: sentences below it.
    """
    height, width = view.preprocessing.image_size
    share = position[0] / width, position[1] / height
    groups, path = [_group(block, share) for block in chosen], record.path()
    # The darkest share is the largest, or where none is large one beside which an even share stays pale.
    largest = max(float(panel.values.max()) for group in groups for panel in group)
    keys = chosen[0].broadcast.keys if chosen[0].broadcast is not None else (1, 1)
    norm = PowerNorm(0.5, vmin=0, vmax=max(largest, min(1.0, _PALE / (keys[0] * keys[1]))))
    heights = [2.9, *[1.25 * _shape(view) + 0.65] * len(groups), *([2.4] if path else [])]
    figure = Figure((_WIDTH, sum(heights) + 0.5 + 0.25 * len(notes)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_reading(parts[0], view, record, chosen[0], position, norm)
    for part, group in zip(parts[1:], groups, strict=False):
        part.suptitle(group[0].block, x=0.01, ha="left", fontsize=9.5, weight="bold")
        grid = part.add_gridspec(1, _COLUMNS)
        for column, panel in enumerate(group):
            _draw_attention(part.add_subplot(grid[0, column]), view, panel, position, norm)
    if path:
        _draw_path(parts[-1], path)
    return _finished(figure, title, notes)


class _Panel(NamedTuple):
    """One grid of attention: its block's heading, its own caption, and the shares."""

    block: str
    caption: str
    values: NDArray[np.float32]
    gathers: bool  # aggregation, set apart by its frame
    marked: bool = True  # whether it is about the position at the cross


def _group(block: BlockRecord, share: tuple[float, float]) -> list[_Panel]:
    """The heads of the broadcast, and the aggregation's mean over its heads."""
    assert block.broadcast is not None
    stage, _, number = block.name.partition(".")
    heads = block.broadcast.from_position(*share)
    rows, columns = block.image_grid
    heading = f"Stage {stage}, block {number} · {rows} x {columns} image tokens, {counted(len(heads), 'head')}"
    shown = heads[: _COLUMNS - 1]
    if len(shown) < len(heads):
        heading += f" (the first {len(shown)})"
    panels = [
        _Panel(heading, f"head {head}: {_breadth(values)}", values, False) for head, values in enumerate(shown, 1)
    ]
    if block.aggregation is not None:
        mean, marked = _gathered(block.aggregation, share), block.aggregation.queries[0] > 1
        panels.append(_Panel(heading, f"gathers: {_breadth(mean)}", mean, True, marked))
    return panels


def _gathered(aggregation: Attention, share: tuple[float, float]) -> NDArray[np.float32]:
    """Whom the token below the position listens to, as a mean over heads; tokens without positions all together."""
    if aggregation.queries[0] > 1:
        return np.asarray(aggregation.from_position(*share).mean(axis=0))
    return np.asarray(aggregation.weights.mean(axis=(0, 1)).reshape(aggregation.keys))


def breadth(values: NDArray[np.float32]) -> float:
    """How many keys an attention is spread over: 1 for one alone, their number for all alike (exp of the entropy)."""
    known = values[values > 0].astype(np.float64)
    return float(np.exp(-(known * np.log(known)).sum()))


def _breadth(values: NDArray[np.float32]) -> str:
    return f"{breadth(values):.0f} of {values.size}"


def _draw_attention(axes: Axes, view: View, panel: _Panel, position: tuple[float, float], norm: PowerNorm) -> None:
    if panel.values.shape[0] == 1:  # tokens without positions
        axes.imshow(panel.values, cmap=_SHARES, norm=norm, aspect=0.25 * panel.values.shape[1])
    else:
        _show(axes, view, Image.fromarray(_grey(view, 0.45).astype(np.uint8)))
        height, width = view.preprocessing.image_size
        strength = 0.15 + 0.75 * np.asarray(norm(panel.values), np.float64)
        axes.imshow(panel.values, cmap=_SHARES, norm=norm, alpha=strength, extent=(0, width, height, 0),
                    interpolation="nearest", aspect=axes.get_aspect())  # fmt: skip
        _frame(axes, view)
        if panel.marked:
            _mark(axes, position, 5)
    axes.set(xticks=[], yticks=[])
    axes.set_title(panel.caption, loc="left", fontsize=7.5, color=BLUE if panel.gathers else INK)
    for spine in axes.spines.values():
        spine.set(visible=True, color=BLUE if panel.gathers else SOFT, linewidth=1.6 if panel.gathers else 0.6)


def _draw_reading(
    part: SubFigure, view: View, record: TokenRecord, first: BlockRecord, position: tuple[float, float], norm: PowerNorm
) -> None:
    """The image with the position that is asked about, how to read the figure, and the one scale of shares."""
    assert first.broadcast is not None
    image, text = part.subplots(1, 2, width_ratios=[1, 2.8])
    _show(image, view, view.picture)
    rows, columns = first.broadcast.keys
    if record.positions:
        height, width = view.preprocessing.image_size
        for row in range(1, rows):
            image.axhline(row * height / rows, color="white", lw=0.6, alpha=0.6)
        for column in range(1, columns):
            image.axvline(column * width / columns, color="white", lw=0.6, alpha=0.6)
    _mark(image, position, 9)
    text.axis("off")
    lines = "\n\n".join(textwrap.fill(line, 105) for line in _reading(record, first))
    text.text(0, 1, lines, va="top", fontsize=9, transform=text.transAxes)
    alike, most = 1 / (rows * columns), float(norm.vmax or 1)
    ticks = {0.0: "0", alike: f"{alike:.2g}\nall alike", most: f"{most:.2g}"}
    if alike > 0.8 * most:  # no head prefers a token: its tick would cover the last one
        ticks = {0.0: "0", most: f"{most:.2g}\nall alike"}
    _draw_scale(part, text, _SHARES, norm, ticks, "share of the attention (square-root scale)")


def _reading(record: TokenRecord, first: BlockRecord) -> list[str]:
    """How to read the figure, a paragraph each."""
    assert first.broadcast is not None
    rows, columns = first.broadcast.keys
    number = rows * columns
    tokens = f"{rows} x {columns}" if rows > 1 else f"{number}"
    one = record.positions or first.aggregation is None or first.aggregation.queries[0] > 1
    gathered = "whom the one below the cross listens to, mean over heads" if one else "where they look, mean over all"
    path = (
        "Path (below): how far each token moves in each block, in times its own length before it, and its cosine to"
        " itself at the start of its stage: 1 is alike, -1 the opposite. The numbers are means."
    )
    return [
        f"Broadcast: the image token at the cross looks at the {tokens} global tokens; one panel a head, darker for a"
        f" larger share (see the scale). “3 of {number}”: as concentrated as if it looked at 3 of {number} alike.",
        f"Aggregation (blue frame): before that, the tokens gather from the image: {gathered}.",
        *([path] if record.path() else []),
        *record.notes,
    ]


# ---------------------------------------------------------------- the path of the tokens


def _draw_path(part: SubFigure, path: Sequence[Step]) -> None:
    """Two grids a block: how far each token moved, and how like its start it is."""
    part.suptitle("Path of the global tokens, block by block", x=0.01, ha="left", fontsize=9.5, weight="bold")
    most = max(float(step.change.max()) for step in path)
    # The first block makes the tokens many times as long.
    moved = LogNorm(min(0.05, most / 2), max(most, 1e-6), clip=True)
    grid = part.subplots(2, len(path), squeeze=False)
    for column, step in zip(grid.T, path, strict=True):
        mean = float(step.change.mean())
        column[0].set_title(f"{step.block}: {mean:.0f}" if mean >= 10 else f"{step.block}: {mean:.2f}", fontsize=7.5)
        column[1].set_title(f"{step.cosine.mean():.2f}", fontsize=7.5)
        for axes, values, colours, norm in zip(
            column, (step.change, step.cosine), (_SHARES, _LIKENESS), (moved, Normalize(-1, 1)), strict=True
        ):
            aspect = 1.0 if values.shape[0] > 1 else 0.25 * values.shape[1]
            axes.imshow(values, cmap=colours, norm=norm, aspect=aspect)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=SOFT, linewidth=0.5)
    tens = [value for value in (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0) if float(moved.vmin or 0) <= value <= most]
    _draw_scale(part, list(grid[0]), _SHARES, moved, tens, "moved by,\ntimes its length", location="right")
    _draw_scale(part, list(grid[1]), _LIKENESS, Normalize(-1, 1), [-1.0, 0.0, 1.0], "cosine to start\nof the stage",
                location="right")  # fmt: skip


def _draw_scale(
    part: SubFigure, axes: Any, colours: Any, norm: Normalize, ticks: Any, label: str, location: str = "bottom"
) -> None:
    """What colours stand for; `ticks` are values, or values with their texts."""
    size: dict[str, Any] = {"shrink": 0.5, "aspect": 25} if location == "bottom" else {"shrink": 0.9, "aspect": 8}
    bar = part.colorbar(ScalarMappable(norm, colours), ax=axes, location=location, **size)
    bar.set_ticks(list(ticks), labels=list(ticks.values()) if isinstance(ticks, dict) else [f"{v:g}" for v in ticks])
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=7.5)
    bar.set_label(label, fontsize=7.5)


# ---------------------------------------------------------------- pieces of both figures


def _finished(figure: Figure, title: str, notes: Sequence[str]) -> Figure:
    """The figure with its title and notes, every text in letters that can be drawn."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, weight="bold")
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=8.5, color=SOFT)
    families = fonts.families()
    for text in figure.findobj(Text):
        text.set(family=families, text="\n".join(map(fonts.drawable, text.get_text().split("\n"))))
        plain(text)
    return figure


def _caption(axes: Axes, text: str, width: int = 46) -> None:
    """Above a picture, in lines that fit."""
    lines = "\n".join(textwrap.fill(line, width) for line in text.split("\n"))
    axes.set_title(lines, loc="left", fontsize=8, color=INK)


def _shape(view: View) -> float:
    """Height of a picture over its width, within what a page bears."""
    return min(max(view.picture.height / view.picture.width, 0.4), 2.5)


def _show(axes: Axes, view: View, picture: Image.Image) -> None:
    part = view.part
    across = (part.right - part.left) / (part.bottom - part.top)
    axes.imshow(np.asarray(picture), extent=(part.left, part.right, part.bottom, part.top),
                aspect=_shape(view) * across, interpolation="antialiased")  # fmt: skip
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=SOFT, linewidth=0.6)
    _frame(axes, view)


def _frame(axes: Axes, view: View) -> None:
    """Show the part that the image fills, and no border."""
    axes.set(xlim=(view.part.left, view.part.right), ylim=(view.part.bottom, view.part.top))


def _outline(axes: Axes, target: Target) -> None:
    """The box or the region that is asked about, white between dark lines."""
    for colour, width in (("black", 2.6), ("white", 1.2)):
        if target.box is not None:
            left, top, right, bottom = target.box
            thin = 1.0 if target.region is None else 0.6  # beside the outline of its mask
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=colour, lw=width * thin))
        if target.region is not None and target.region.any() and not target.region.all():
            rows, columns = (np.arange(side) + 0.5 for side in target.region.shape)
            axes.contour(columns, rows, target.region.astype(float), [0.5], colors=colour, linewidths=width * 0.7)


def _mark(axes: Axes, position: tuple[float, float], size: float) -> None:
    """A cross that is seen on any ground."""
    for colour, width in (("white", 3.2), ("black", 1.4)):
        axes.plot(*position, "+", color=colour, ms=size, mew=width, zorder=5)
