"""Contact sheets: predictions as small pictures with captions, in pillow."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dualtoken.outputs import Classification
from dualtoken.report import fonts

SheetItem = tuple[Image.Image, Classification, str | None]

_TILE, _GAP, _CAPTION_LINES = 192, 16, 2
_FONT_SIZE, _LINE = 15, 21
_INK, _RIGHT, _WRONG, _FRAME = "#1f2933", "#0072b2", "#b94a00", "#e3e8ee"


def contact_sheet(items: Sequence[SheetItem], columns: int = 5) -> Image.Image:
    """Draw images with their answers, row by row.

    Under each image stands the answer with its score; where the truth is given, a tick or a cross, and under a
    wrong answer the truth. Blue is right and orange is wrong, and the marks say it without colours.

    Args:
        items: (image, answer, true class or None).
        columns: images in a row; fewer items make fewer columns.

    Raises:
        ValueError: there are no items, or no columns.
    """
    if not items or columns < 1:
        raise ValueError(f"{len(items)} items in {columns} columns: at least one of each is needed.")
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    step_x, step_y = _TILE + _GAP, _TILE + _CAPTION_LINES * _LINE + _GAP
    sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = _font(items)
    for number, item in enumerate(items):
        row, column = divmod(number, columns)
        _draw_item(sheet, draw, font, item, (_GAP + column * step_x, _GAP + row * step_y))
    return sheet


def _draw_item(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    item: SheetItem,
    corner: tuple[int, int],
) -> None:
    image, answer, truth = item
    left, top = corner
    draw.rectangle((left - 1, top - 1, left + _TILE, top + _TILE), outline=_FRAME)
    picture = _fitted(image)
    sheet.paste(picture, (left + (_TILE - picture.width) // 2, top + (_TILE - picture.height) // 2))
    right = truth is None or truth == answer.label
    mark = "" if truth is None else "✓ " if right else "✗ "
    colour = _INK if truth is None else _RIGHT if right else _WRONG
    score = f" {100 * answer.score:.0f} %"
    room = _TILE - font.getlength(mark + score)
    draw.text((left, top + _TILE + 4), mark + _fit(answer.label, font, room) + score, colour, font)
    if not right and truth is not None:
        text = f"truth: {_fit(truth, font, _TILE - font.getlength('truth: '))}"
        draw.text((left, top + _TILE + 4 + _LINE), text, _INK, font)


def _fitted(image: Image.Image) -> Image.Image:
    """The whole image in a tile; tiny ones are enlarged with their pixels sharp."""
    image = image.convert("RGB")
    enlarge = max(image.size) <= _TILE // 2
    return ImageOps.contain(image, (_TILE, _TILE), Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, its middle cut out until it fits into `width` pixels."""
    text = fonts.drawable(text)
    for length in range(len(text), 1, -1):
        if font.getlength(short := fonts.shorten(text, length)) <= width:
            return short
    return text[:1]


def _font(items: Sequence[SheetItem]) -> ImageFont.FreeTypeFont:
    texts = [part for _, answer, truth in items for part in (answer.label, truth or "")]
    return fonts.font_for(texts, _FONT_SIZE)
