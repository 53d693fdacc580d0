"""Pixels of any stored kind to 8-bit RGB: nothing is cut off in silence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from dualtoken.errors import ImageError

Colour = tuple[int, int, int]

_TRANSPARENT_MODES = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_AS_VALUES = "--set window=[LOW,HIGH] says what black and white are, --set channels=all looks for it"
_AS_BANDS = "--set channels=all trains on all of them, channels=[0,1,3] on some"


def to_rgb(image: Image.Image, name: str, background: Colour) -> Image.Image:
    """Any mode of pillow's to a new RGB image with 8 bits a channel.

    Raises:
        ImageError: its values have no meaning as brightness, or its bands none as colours.
    """
    _refuse_bands(image, name)
    if image.mode.startswith("I"):
        return _from_grey(_scaled_integers(image, name))
    if image.mode == "F":
        return _from_grey(_scaled_floats(image, name))
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        return _blended(image, background)
    return image.convert("RGB")


def is_dark(image: Image.Image) -> bool:
    """Whether grey values of 16 bits, as those of a camera with 12, leave nearly all of their range unused."""
    return image.mode.startswith("I;16") and 0 < int(np.asarray(image).max()) < 2**12


def _tag(image: Image.Image, number: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """What a TIFF says of its samples; other formats say nothing."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    return tuple(tags.get(number, default))


def _signed(image: Image.Image) -> bool:
    return _tag(image, TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 2


def _refuse_bands(image: Image.Image, name: str) -> None:
    """Refuse bands that are neither colour nor alpha: pillow leaves them out, or blends with them."""
    extra = _tag(image, TiffImagePlugin.EXTRASAMPLES, ())
    if 0 in extra or len(extra) > 1:
        raise ImageError(f"{name!r} has {len(extra)} more bands than colours, which no alpha is: {_AS_BANDS}.")
    if extra and image.mode in ("RGBA", "RGBa"):
        alpha = np.asarray(image.getchannel("A"))
        if ((alpha > 0) & (alpha < 255)).mean() > 0.5:  # a border of an object fades, not a whole picture
            raise ImageError(
                f"{name!r} calls its fourth band alpha, but most of its pixels would be half transparent."
                f" Is it near infrared? {_AS_BANDS}."
            )
    if _signed(image) and image.mode in ("L", "RGB") and np.asarray(image).max() > 127:
        raise ImageError(f"{name!r} has values below 0: {_AS_VALUES}.")


def _blended(image: Image.Image, background: Colour) -> Image.Image:
    if image.mode == "La":  # pillow has no direct way from it
        image = image.convert("LA")
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, (*background, 255))
    canvas.alpha_composite(image)
    return canvas.convert("RGB")


def _scaled_integers(image: Image.Image, name: str) -> NDArray[np.float64]:
    """Grey integers to 0..1 by the range of their stored type: equal values stay equal in all files."""
    bits, signed = _tag(image, TiffImagePlugin.BITSPERSAMPLE, (16,))[0], _signed(image)
    values = np.asarray(image)
    if bits == 32 and not signed:
        values = values.view(np.uint32)  # pillow keeps the bits and calls them signed
    low, high, most = int(values.min()), int(values.max()), 2 ** (bits - signed) - 1
    if low < 0 or high > most:
        raise ImageError(f"{name!r} has values from {low:,} to {high:,}, expected 0 to {most:,}: {_AS_VALUES}.")
    return values / float(most)


def _scaled_floats(image: Image.Image, name: str) -> NDArray[np.float64]:
    values = np.asarray(image, np.float64)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # so written, NaN fails too
        raise ImageError(f"{name!r} has floating-point pixels from {low:g} to {high:g}, expected 0 to 1: {_AS_VALUES}.")
    return values


def _from_grey(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray((values * 255).round().astype(np.uint8)).convert("RGB")
