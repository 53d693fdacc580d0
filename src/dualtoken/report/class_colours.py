"""A colour for each class, the same in every picture and mask file."""

from __future__ import annotations

import colorsys
import math
from functools import cache

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
INK: Colour = (31, 41, 51)
UNLABELLED: Colour = (128, 128, 128)

# Told apart by colour-blind readers too (after Okabe and Ito), strong ones first; more classes get computed ones.
_FIRST: tuple[Colour, ...] = (
    (0, 114, 178), (230, 120, 0), (0, 158, 115), (204, 90, 160), (86, 180, 233), (240, 228, 66), (200, 40, 40),
    (120, 81, 169),
)  # fmt: skip
_GOLDEN = (3 - math.sqrt(5)) / 2  # steps of this part of the circle of hues never meet again
_LEVELS = ((0.55, 0.75), (0.38, 0.75), (0.68, 0.7), (0.46, 0.5))  # lightness and saturation


@cache
def class_colour(label: int) -> Colour:
    """The colour of class `label`, which does not depend on how many classes there are.

    From the ninth class on, hues are spread evenly and four levels of lightness alternate.
    """
    if label < len(_FIRST):
        return _FIRST[label]
    number = label - len(_FIRST)
    lightness, saturation = _LEVELS[number % len(_LEVELS)]
    red, green, blue = colorsys.hls_to_rgb((0.35 + number * _GOLDEN) % 1, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever is easier to read on `background` (the contrast of WCAG 2)."""
    linear = [(part / 255) ** 2.2 for part in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else WHITE


def palette() -> list[int]:
    """The 256 colours of a mask file, red, green and blue in turn; the last, for unlabelled pixels, is grey."""
    return [part for label in range(255) for part in class_colour(label)] + list(UNLABELLED)
