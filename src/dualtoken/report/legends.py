"""Legends of pictures: a coloured square and a text for each entry, in as many rows as they need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from dualtoken.report import fonts
from dualtoken.report.class_colours import INK, WHITE, Colour

_MOST = 24  # entries


class Entry(NamedTuple):
    """A colour and what it means; white without hatching has no square."""

    colour: Colour
    text: str
    hatched: bool = False


def fitted(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """`text`, its middle cut out until it fits into `room` pixels."""
    text = fonts.drawable(text)
    for length in range(len(text), 1, -1):
        if font.getlength(short := fonts.shorten(text, length)) <= room:
            return short
    return text[:1]


def with_legend(picture: Image.Image, entries: Sequence[Entry], text: int, *, inside: bool) -> Image.Image:
    """`picture` with a legend in letters of `text` pixels: below it on white, or `inside` it on a dark veil."""
    if len(entries) > _MOST:
        more = len(entries) - _MOST
        entries = [*entries[:_MOST], Entry(WHITE, f"and {more} more")]
    font = fonts.font_for((entry.text for entry in entries), text)
    swatch, gap, line = text, max(3, text // 2), round(1.7 * text)
    wide = picture.width if inside else max(picture.width, 12 * text)  # a strip of an image has no room
    room = wide - 2 * gap
    texts = [fitted(entry.text, font, room - swatch - gap) for entry in entries]
    widths = [math.ceil(swatch + gap + font.getlength(words)) for words in texts]
    places = _flow(widths, room, step=2 * gap)
    height = line * (max(row for _, row in places) + 1) + gap
    sheet = picture if inside else Image.new("RGB", (wide, picture.height + height), WHITE)
    top = picture.height - height if inside else picture.height
    pen = ImageDraw.Draw(sheet, "RGBA")
    if inside:
        pen.rectangle((0, top, picture.width, picture.height), fill=(0, 0, 0, 150))
    else:
        sheet.paste(picture, (0, 0))
    for entry, words, (left, row) in zip(entries, texts, places, strict=True):
        middle = top + gap / 2 + row * line + line / 2
        corners = (gap + left, round(middle - swatch / 2), gap + left + swatch, round(middle + swatch / 2))
        _draw_swatch(pen, corners, entry)
        pen.text((gap + left + swatch + gap, middle), words, WHITE if inside else INK, font, anchor="lm")
    return sheet


def _draw_swatch(pen: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], entry: Entry) -> None:
    left, top, right, bottom = corners
    if entry.colour == WHITE and not entry.hatched:
        return
    pen.rounded_rectangle(
        corners, radius=(right - left) // 5, fill=entry.colour, outline=INK if entry.hatched else None
    )
    if entry.hatched:
        for start in range(0, right - left, 5):
            pen.line((left + start, bottom, right, top + start), fill=INK)
            pen.line((left, bottom - start, right - start, top), fill=INK)


def _flow(widths: Sequence[int], room: int, step: int) -> list[tuple[int, int]]:
    """(left, row) of each entry: side by side, and on in the next row where one does not fit."""
    places, left, row = [], 0, 0
    for width in widths:
        if left and left + width > room:
            left, row = 0, row + 1
        places.append((left, row))
        left += width + step
    return places
