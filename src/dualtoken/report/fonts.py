"""Text in pictures: a font that matplotlib ships, with the machine's own fonts for scripts that it lacks."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

MAIN = "DejaVu Sans"
MISSING = "□"
# Fonts with many scripts, by what Linux, macOS and Windows install; the first ones that are there are used.
_FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "Hiragino Sans", "PingFang SC",
    "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari",
    "Noto Sans Thai", "Noto Sans Bengali", "Noto Sans Tamil", "Nirmala UI", "Unifont",
)  # fmt: skip

# matplotlib tells every font file that it cannot read, once a process: not our reader's business.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def families() -> list[str]:
    """Names of the fonts to draw with, the first that has a character draws it."""
    return [MAIN, *(name for name in _FALLBACKS if name in font_manager.get_font_names())]


def drawable(text: str) -> str:
    """`text` with a box for each character that no font at hand can draw, and for line breaks."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if any(ord(char) in _characters(name) for name in families()) else MISSING for char in text)


def shorten(text: str, length: int) -> str:
    """`text` in at most `length` characters: the middle goes, since both ends tell names apart."""
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def font_file(texts: Iterable[str]) -> str:
    """The file of the font that can draw most characters of `texts`, for pillow, which takes one font at a time."""
    characters = {ord(char) for text in texts for char in text}
    best = max(families(), key=lambda name: len(characters & _characters(name)))
    return font_manager.findfont(best)


@cache
def _characters(family: str) -> frozenset[int]:
    return frozenset(FT2Font(font_manager.findfont(family)).get_charmap())
