"""Pictures of explanations: heat maps with their proofs, and one figure of what the global tokens do.

Everything is placed by hand, in inches, since rows have different numbers of panels. Axes that show an image count in
pixels of the network's input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
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
_MARGIN = 0.35
_CAPTION = 2.3  # inches that the lines below a picture need
_DPI = 150  # of `to_png`: the width of letters depends on it
_PALE = 25  # times an even share is dark at least
_COLUMNS = 9  # panels beside each other: eight heads and the aggregation


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
        notes: sentences below it.
    """
    wide, high = _panel(view, 2.35)
    caption, gap, curve = 0.82, 0.2, 3.3
    head = 0.62 + 0.18 * len(notes)
    column = max(wide, _CAPTION)
    pictures = len(_pictures(view, rows[0]))
    width = 2 * _MARGIN + pictures * (column + gap) + 0.55 + curve
    page = _Page(width, head + len(rows) * (max(high, 1.9) + caption) + 0.15)
    page.text(_MARGIN, 0.3, title, size=13, weight="bold")
    for number, note in enumerate(notes):
        page.text(_MARGIN, 0.55 + 0.18 * number, note, size=8.5, colour=SOFT)
    top = head
    for row in rows:
        left = _MARGIN
        for picture, outlined, text in _pictures(view, row):
            axes = _image_axes(page, left, top, wide, high)
            _show(axes, view, picture)
            if outlined:
                _outline(axes, row.target)
            page.block(left, top + high + 0.13, text, column)
            left += column + gap
        axes = page.axes(left + 0.45, top + 0.2, curve, max(high, 1.9) - 0.55)
        _curves(axes, row.faithfulness)
        page.block(left + 0.45, top + max(high, 1.9) + 0.13, _worth(row.faithfulness), curve)
        top += max(high, 1.9) + caption
    return page.figure


class _Picture(NamedTuple):
    """A picture of a row, and what is written below it."""

    picture: Image.Image
    outlined: bool
    text: str


def _pictures(view: View, row: Row) -> list[_Picture]:
    target, heat, sanity = row.target, row.heat, row.sanity
    asked = "" if target.answered else "\nbelow its threshold" if target.box else "\nnot the model's answer"
    grid = " x ".join(map(str, heat.values.shape))
    levels = heat.levels[0] if len(heat.levels) == 1 else f"{len(heat.levels)} levels"
    where = f" at {levels}" if heat.levels else ""
    pictures = [
        _Picture(view.picture, True, f"**{target.name}**, score {short(target.score)}{asked}"),
        _Picture(overlay(view, heat), True, f"**{heat.method}**{where}, {grid}\norange speaks for it, blue against it"),
    ]
    if sanity is not None:
        number = "not known" if sanity.mean is None else f"{sanity.mean:.2f}"
        text = f"**fresh weights**: rank correlation {number}\n{sanity.verdict()}"
        pictures.append(_Picture(overlay(view, sanity.example), False, text))
    return pictures


def _worth(worth: Faithfulness) -> str:
    return (
        f"**deletion {short(worth.deletion)}**, **insertion {short(worth.insertion)}**\n"
        f"{worth.noise()} (dashed: mean, both ways)\n{worth.verdict()}"
    )


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
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.97), ncols=3, fontsize=7, frameon=False, handlelength=1.8,
        columnspacing=1.0,
    )  # fmt: skip


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
    groups = [_group(block, share) for block in chosen]
    norm = PowerNorm(0.5, vmin=0, vmax=_most(groups, chosen))
    wide, high = _panel(view, 1.12)
    lines = list(_lines(groups))
    path = record.path()
    page_width = 2 * _MARGIN + _COLUMNS * (wide + 0.1)
    big_wide, big_high = _panel(view, 2.5)
    line_high = high + 0.72
    path_high = _path_height(path, page_width)
    page = _Page(page_width, 0.55 + big_high + 0.35 + len(lines) * line_high + path_high + 0.2)
    page.text(_MARGIN, 0.3, title, size=13, weight="bold")
    axes = _image_axes(page, _MARGIN, 0.55, big_wide, big_high)
    _show(axes, view, view.picture)
    if record.positions:
        _draw_grid(axes, view, chosen[0].broadcast)
    _mark(axes, position, 9)
    _explain_reading(page, _MARGIN + big_wide + 0.35, 0.62, record, norm, notes, page_width)
    top = 0.55 + big_high + 0.35
    for line in lines:
        left = _MARGIN
        for group in line:
            page.text(left, top + 0.1, group[0].block, size=9.5, weight="bold")
            for panel in group:
                _draw_attention(page, view, panel, position, (left, top + 0.42, wide, high), norm)
                left += wide + 0.1
            left += wide + 0.1
        top += line_high
    if path:
        _draw_path(page, path, top, page_width)
    return page.figure


def _most(groups: Sequence[Sequence[_Panel]], chosen: Sequence[BlockRecord]) -> float:
    """The share that is darkest: the largest, or where none is large one beside which an even share stays pale."""
    largest = max(float(panel.values.max()) for group in groups for panel in group)
    keys = chosen[0].broadcast.keys if chosen[0].broadcast is not None else (1, 1)
    return max(largest, min(1.0, _PALE / (keys[0] * keys[1])))


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
        mean = _gathered(block.aggregation, share)
        panels.append(
            _Panel(heading, f"gathers: {_breadth(mean)}", mean, True, marked=block.aggregation.queries[0] > 1)
        )
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


def _lines(groups: Sequence[Sequence[_Panel]]) -> Iterator[list[Sequence[_Panel]]]:
    """Groups in lines of at most `_COLUMNS` panels, one panel's room between two groups."""
    line: list[Sequence[_Panel]] = []
    used = 0
    for group in groups:
        needed = len(group) + (1 if line else 0)
        if line and used + needed > _COLUMNS:
            yield line
            line, used, needed = [], 0, len(group)
        line.append(group)
        used += needed
    if line:
        yield line


def _draw_attention(
    page: _Page, view: View, panel: _Panel, position: tuple[float, float], place: tuple[float, ...], norm: PowerNorm
) -> None:
    left, top, wide, high = place
    page.text(left, top - 0.1, panel.caption, size=7.5, colour=INK if not panel.gathers else BLUE)
    rows = panel.values.shape[0]
    if rows == 1:  # tokens without positions
        axes = page.axes(left, top + high / 2 - 0.14, wide, 0.28)
        axes.imshow(panel.values, cmap=_SHARES, norm=norm, aspect="auto")
    else:
        axes = _image_axes(page, left, top, wide, high)
        _show(axes, view, Image.fromarray(_grey(view, 0.45).astype(np.uint8)))
        height, width = view.preprocessing.image_size
        strength = 0.15 + 0.75 * np.asarray(norm(panel.values), np.float64)
        axes.imshow(panel.values, cmap=_SHARES, norm=norm, alpha=strength, extent=(0, width, height, 0),
                    interpolation="nearest", aspect="auto")  # fmt: skip
        _frame(axes, view)
        if panel.marked:
            _mark(axes, position, 5)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=BLUE if panel.gathers else SOFT, linewidth=1.6 if panel.gathers else 0.6)


def _explain_reading(
    page: _Page, left: float, top: float, record: TokenRecord, norm: PowerNorm, notes: Sequence[str], width: float
) -> None:
    """How to read the figure, and its one scale."""
    first = next(block for block in record.blocks if block.broadcast is not None)
    assert first.broadcast is not None
    keys = first.broadcast.keys
    number = keys[0] * keys[1]
    tokens = f"{keys[0]} x {keys[1]}" if keys[0] > 1 else f"{number}"
    text = [
        f"**Broadcast.** The image token at the cross looks at the {tokens} global tokens; one panel a head, darker for"
        f" a larger share (see the scale). “3 of {number}”: as concentrated as if it looked at 3 of {number} alike.",
        "**Aggregation** (blue frame). Before that, the tokens gather from the image: whom the one below the cross"
        " listens to, mean over heads."
        if record.positions or first.aggregation is None or first.aggregation.queries[0] > 1
        else "**Aggregation** (blue frame). Before that, the tokens gather from the image: where they look, mean over"
        " tokens and heads.",
        "**Path** (below). How far each token moves in each block, in times its own length before it, and its cosine"
        " to itself at the start of its stage: 1 is alike, -1 the opposite. The figures are means."
        if record.path()
        else "",
        *record.notes,
        *notes,
    ]
    for part in filter(None, text):
        top = page.block(left, top + 0.1, part, width - left - _MARGIN, size=9) + 0.06
    _draw_scale(page.axes(left + 0.05, top + 0.2, 2.6, 0.13), norm, 1 / number)
    page.text(left + 2.8, top + 0.26, "share of the attention (square-root scale)", size=8)


def _draw_scale(axes: Axes, norm: PowerNorm, alike: float) -> None:
    """The one scale of all shares, whose small ones are drawn apart; `alike`: the share if all had the same."""
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=_SHARES, aspect="auto", extent=(0, 1, 0, 1))
    prepare(axes, grid=False)
    most = float(norm.vmax or 1)
    ticks = {0.0: "0", alike: f"{alike:.2g}\nall alike", most: f"{most:.2g}"}
    if alike > 0.8 * most:  # no head prefers a token: its tick would cover the last one
        ticks = {0.0: "0", most: f"{most:.2g}\nall alike"}
    axes.set_xticks([float(norm(value)) for value in ticks], list(ticks.values()), fontsize=7.5)
    axes.set(yticks=[], xlim=(0, 1))


def _draw_grid(axes: Axes, view: View, attention: Attention | None) -> None:
    assert attention is not None
    height, width = view.preprocessing.image_size
    rows, columns = attention.keys
    for row in range(1, rows):
        axes.axhline(row * height / rows, color="white", lw=0.6, alpha=0.6)
    for column in range(1, columns):
        axes.axvline(column * width / columns, color="white", lw=0.6, alpha=0.6)


# ---------------------------------------------------------------- the path of the tokens


_PATH_LABEL = 0.95
_PATH_SCALES = 0.45


def _path_cell(path: Sequence[Step], width: float) -> tuple[float, int]:
    """Side of a block's grid in inches, and how many blocks stand in a line."""
    room = width - 2 * _MARGIN - _PATH_LABEL
    line = min(len(path), 14)
    return min(0.78, room / line - 0.1), line


def _path_height(path: Sequence[Step], width: float) -> float:
    if not path:
        return 0.0
    side, line = _path_cell(path, width)
    return 0.45 + -(-len(path) // line) * (2 * (_ratio(path[0]) * side + 0.1) + 0.5) + _PATH_SCALES


def _ratio(step: Step) -> float:
    return max(step.change.shape[0] / step.change.shape[1], 0.45)  # the labels need room


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def _draw_path(page: _Page, path: Sequence[Step], top: float, width: float) -> None:
    """Two grids a block: how far each token moved, and how like its start it is."""
    side, line = _path_cell(path, width)
    high = _ratio(path[0]) * side
    most = max(float(step.change.max()) for step in path)
    change = LogNorm(
        min(0.05, most / 2), max(most, 1e-6), clip=True
    )  # the first block makes the tokens many times as long
    page.text(_MARGIN, top + 0.1, "Path of the global tokens, block by block", size=9.5, weight="bold")
    top += 0.5
    for start in range(0, len(path), line):
        for label, offset in (("moved by\n(times its length)", 0.0), ("cosine to start\nof the stage", high + 0.1)):
            page.text(_MARGIN, top + offset + high / 2, label, size=7.5)
        for number, step in enumerate(path[start : start + line]):
            left = _MARGIN + _PATH_LABEL + number * (side + 0.1)
            page.text(left, top - 0.13, f"{step.block}", size=8, weight="bold")
            page.text(left + side, top - 0.13, _short(float(step.change.mean())), size=7.5, align="right")
            for values, place, colours, scale in (
                (step.change, top, _SHARES, change),
                (step.cosine, top + high + 0.1, _LIKENESS, _COSINES),
            ):
                axes = page.axes(left, place, side, high)
                axes.imshow(values, aspect="auto", cmap=colours, norm=scale)
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    spine.set(color=SOFT, linewidth=0.5)
            page.text(left + side / 2, top + 2 * high + 0.2, f"{step.cosine.mean():.2f}", size=7.5, align="center")
        top += 2 * (high + 0.1) + 0.5
    left = _MARGIN + _PATH_LABEL
    ticks = [value for value in (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0) if float(change.vmin or 0) <= value <= most]
    _draw_key(page, left, top, _SHARES, change, ticks, "moved by, in times its length (logarithmic scale)")
    _draw_key(page, left + 4.9, top, _LIKENESS, _COSINES, [-1.0, 0.0, 1.0], "cosine to the start of the stage")


_COSINES = Normalize(-1, 1)


def _draw_key(
    page: _Page, left: float, top: float, colours: Any, norm: Normalize, ticks: Sequence[float], label: str
) -> None:
    """What the colours of a row of the path stand for."""
    axes = page.axes(left, top - 0.05, 1.7, 0.12)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=colours, vmin=0, vmax=1, aspect="auto", extent=(0, 1, 0, 1))
    prepare(axes, grid=False)
    axes.set_xticks([float(norm(value)) for value in ticks], [f"{value:g}" for value in ticks], fontsize=7.5)
    axes.set(yticks=[], xlim=(0, 1))
    page.text(left + 1.85, top + 0.01, label, size=7.5)


# ---------------------------------------------------------------- a page measured in inches


class _Page:
    """A figure on which things are placed by inches from the left and the top."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))
        self.families = fonts.families()
        self.ruler = FigureCanvasAgg(Figure(dpi=_DPI))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def text(
        self, left: float, middle: float, text: str, *, size: float = 8.5, colour: str = INK, weight: str = "normal",
        align: str = "left",
    ) -> None:  # fmt: skip
        plain(
            self.figure.text(
                left / self.width, 1 - middle / self.height, _drawable(text), fontsize=size, color=colour,
                fontweight=weight, ha=align, va="center", family=self.families,
            )
        )  # fmt: skip

    def block(self, left: float, top: float, text: str, width: float, size: float = 8.0) -> float:
        """Text in lines of at most `width`, longer words alone; what is between ** is bold. Returns where it ends."""
        line_high = size * 0.0185
        for paragraph in text.split("\n"):
            for line in self._wrapped(_words(paragraph), width, size):
                self._line(left, top, line, size)
                top += line_high
        return top

    def _wrapped(self, words: Sequence[_Word], width: float, size: float) -> Iterator[list[_Word]]:
        """Words in lines that fit."""
        line: list[_Word] = []
        used = 0.0
        for word in words:
            needed = self._width(word.text + (" " if word.space else ""), size, word.weight)
            if line and word.starts and used + self._width(word.text, size, word.weight) > width:
                yield line
                line, used = [], 0.0
            line.append(word)
            used += needed
        if line:
            yield line

    def _line(self, left: float, middle: float, line: Sequence[_Word], size: float) -> None:
        """One line, neighbours of one weight in one piece."""
        for weight, words in groupby(line, key=lambda word: word.weight):
            text = "".join(word.text + (" " if word.space else "") for word in words)
            self.text(left, middle, text.rstrip(), size=size, weight=weight)
            left += self._width(text, size, weight)

    def _width(self, text: str, size: float, weight: str) -> float:
        """Of a line as it will be drawn, in inches."""
        return (self._extent(f"|{text}|", size, weight) - self._extent("||", size, weight)) / _DPI

    def _extent(self, text: str, size: float, weight: str) -> float:
        """Of a text without spaces at its ends, which have no extent, in pixels."""
        line = self.ruler.figure.text(0, 0, _drawable(text), fontsize=size, fontweight=weight, family=self.families)
        plain(line)
        return float(line.get_window_extent(self.ruler.get_renderer()).width)


class _Word(NamedTuple):
    """A word, or the part of it that is bold or is not."""

    text: str
    weight: str
    starts: bool  # whether a line may begin with it
    space: bool  # whether a space follows


def _words(paragraph: str) -> list[_Word]:
    words: list[_Word] = []
    for number, part in enumerate(paragraph.split("**")):
        for text in re.findall(r"\S+|\s+", part):
            if not text.isspace():
                words.append(_Word(text, "bold" if number % 2 else "normal", not words or words[-1].space, False))
            elif words:
                words[-1] = words[-1]._replace(space=True)
    return words


def _drawable(text: str) -> str:
    return "\n".join(fonts.drawable(line) for line in text.split("\n"))


def _panel(view: View, side: float) -> tuple[float, float]:
    """Width and height of a picture in inches: its shape, with `side` as the side of a square of the same area."""
    ratio = min(max(view.picture.height / view.picture.width, 0.4), 2.5)
    wide = side if ratio <= 1 else side / ratio**0.5
    return wide, wide * ratio


def _image_axes(page: _Page, left: float, top: float, wide: float, high: float) -> Axes:
    axes = page.axes(left, top, wide, high)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=SOFT, linewidth=0.6)
    return axes


def _show(axes: Axes, view: View, picture: Image.Image) -> None:
    part = view.part
    axes.imshow(np.asarray(picture), extent=(part.left, part.right, part.bottom, part.top), aspect="auto",
                interpolation="antialiased")  # fmt: skip
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
