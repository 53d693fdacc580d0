"""Text in pictures: a font that matplotlib ships, with the machine's own fonts for scripts that it lacks.

Without matplotlib (exported models need none) the machine's own fonts serve, and in the end the one inside pillow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from typing import Any

from PIL import ImageFont

MAIN = "DejaVu Sans"
MISSING = "□"
# Fonts with many scripts, by what Linux, macOS and Windows install; the first ones that are there are used.
_FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "Hiragino Sans", "PingFang SC",
    "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari",
    "Noto Sans Thai", "Noto Sans Bengali", "Noto Sans Tamil", "Nirmala UI", "Unifont",
)  # fmt: skip
_FILES = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf", "Helvetica.ttc",
    "NotoSansCJK-Regular.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "malgun.ttf", "Nirmala.ttf",
    "Arial Unicode.ttf", "unifont.ttf",
)  # fmt: skip
_PROBE = 16  # pixels


def families() -> list[str]:
    """Names of the fonts to draw with, the first that has a character draws it; needs matplotlib."""
    return [MAIN, *(name for name in _FALLBACKS if name in _manager().get_font_names())]


def drawable(text: str) -> str:
    """`text` with a box for each character that no font at hand can draw, and for line breaks."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if any(_draws(file, char) for file in _files()) else MISSING for char in text)


def shorten(text: str, length: int) -> str:
    """`text` in at most `length` characters: the middle goes, since both ends tell names apart."""
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def font_for(texts: Iterable[str], size: int) -> ImageFont.FreeTypeFont:
    """The font that draws most of the characters of `texts`, in letters of `size` pixels: pillow takes one font."""
    characters = {char for text in texts for char in text}
    return _font(max(_files(), key=lambda file: sum(_draws(file, char) for char in characters)), size)


def _manager() -> Any:
    """matplotlib's list of fonts, or None where it is not installed."""
    try:
        from matplotlib import font_manager
    except ModuleNotFoundError:
        return None
    # It tells every font file that it cannot read, once a process: not our reader's business.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    return font_manager


@cache
def _files() -> tuple[str, ...]:
    """Files of the fonts to draw with; an empty name is the one inside pillow."""
    manager = _manager()
    if manager is not None:
        return tuple(manager.findfont(name) for name in families())
    return (*(name for name in _FILES if _is_there(name)), "")


def _is_there(name: str) -> bool:
    try:
        ImageFont.truetype(name, _PROBE)
    except OSError:
        return False
    return True


def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this pillow was built without FreeType, which text in pictures needs")
    return font


@cache
def _draws(file: str, char: str) -> bool:
    if not char.isprintable():
        return False
    if _manager() is not None:
        return ord(char) in _characters(file)
    return char.isspace() or _shape(file, char) != _shape(file, "\uffff")  # which no font has


@cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())


def _shape(file: str, char: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(file, _PROBE).getmask(char)
    return mask.size, bytes(mask)
