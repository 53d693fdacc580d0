"""Contact sheets: predictions as small pictures with captions, in pillow."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dualtoken.errors import OutputError
from dualtoken.files import atomic_path, refuse_existing
from dualtoken.outputs import Classification
from dualtoken.report.fonts import font_for
from dualtoken.report.legends import fitted

SheetItem = tuple[Image.Image, Classification, str | None]

PAGE = 40  # images of a file
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_LARGEST = (256, 256)  # pixels kept of each image until its page is drawn

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
    font = font_for((text for _, answer, truth in items for text in (answer.label, truth or "")), _FONT_SIZE)
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
    draw.text((left, top + _TILE + 4), mark + fitted(answer.label, font, room) + score, colour, font)
    if not right and truth is not None:
        text = f"truth: {fitted(truth, font, _TILE - font.getlength('truth: '))}"
        draw.text((left, top + _TILE + 4 + _LINE), text, _INK, font)


def _fitted(image: Image.Image) -> Image.Image:
    """The whole image in a tile; tiny ones are enlarged with their pixels sharp."""
    image = image.convert("RGB")
    enlarge = max(image.size) <= _TILE // 2
    return ImageOps.contain(image, (_TILE, _TILE), Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


@contextmanager
def sheet_files(path: str | Path) -> Iterator[Callable[[Image.Image, Classification], None]]:
    """Collect images with their answers; 40 make a page: `sheet.png`, then `sheet-2.png`, `sheet-3.png`, ...

    Raises:
        OutputError: `path` does not end in .png, .jpg or .webp, a further page of it is there already, or it cannot be
            written.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise OutputError(
            f"{str(path)!r} is not the name of a picture, expected {', '.join(_SUFFIXES)}.", "Example: sheet.png"
        )
    pattern = f"{glob.escape(path.stem)}-[2-9]*{glob.escape(path.suffix)}"  # further pages are known when they are full
    for other in sorted(path.parent.glob(pattern)):
        if other.stem.removeprefix(f"{path.stem}-").isdecimal():
            refuse_existing(other, f"A further page of {path.name!r}")
    items: list[SheetItem] = []
    pages = 0

    def write_page() -> None:
        nonlocal pages
        pages += 1
        target = path if pages == 1 else path.with_stem(f"{path.stem}-{pages}")
        with atomic_path(target) as temporary:
            contact_sheet(items).save(temporary)
        items.clear()

    def add(image: Image.Image, answer: Classification) -> None:
        small = image.convert("RGB")
        small.thumbnail(_LARGEST)
        items.append((small, answer, None))
        if len(items) == PAGE:
            write_page()

    yield add
    if items:
        write_page()
