"""What the network was shown of an image: the part of its input that the image fills, and a picture of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from PIL import Image

from dualtoken.errors import ConfigError
from dualtoken.preprocess import Preprocessing

_LONGEST = 640  # pixels of a picture's longer side; smaller images are enlarged to it, at most 8 times
_MOST_ENLARGED = 8


class Part(NamedTuple):
    """A rectangle of the network's input, in its pixels; `right` and `bottom` lie just outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)


@dataclass(frozen=True, eq=False)
class View:
    """An image as a network sees it.

    Attributes:
        picture: RGB, what fills `part`, large enough to look at.
        part: of the network's input that the image fills; the rest is border.
        size: (height, width) of the image itself.
        preprocessing: that made the input.
    """

    picture: Image.Image
    part: Part
    size: tuple[int, int]
    preprocessing: Preprocessing

    def to_input(self, pixel: tuple[float, float]) -> tuple[float, float]:
        """A pixel (x, y) of the image to a position (x, y) of the network's input.

        Raises:
            ConfigError: the image has no such pixel, or the network does not see it.
        """
        x, y = pixel
        height, width = self.size
        if not (0 <= x < width and 0 <= y < height):
            raise ConfigError(
                f"pixel is {x:g},{y:g}, but the image is {width} x {height} (width x height).",
                "Give X,Y, counted from 0 at the left and top.",
            )
        placement = self.preprocessing.placement(self.size)
        inside = (x + 0.5) * placement.scale[1] + placement.left, (y + 0.5) * placement.scale[0] + placement.top
        left, top, right, bottom = self.part
        if not (left <= inside[0] < right and top <= inside[1] < bottom):
            seen = self.to_image((left, top)) + self.to_image((right, bottom))
            raise ConfigError(
                f"pixel is {x:g},{y:g}, which the network does not see: it is cut off.",
                f"It sees columns {seen[0]:.0f} to {seen[2]:.0f} and rows {seen[1]:.0f} to {seen[3]:.0f}.",
            )
        return inside

    def to_image(self, position: tuple[float, float]) -> tuple[float, float]:
        """A position (x, y) of the network's input to one of the image, in its pixels."""
        placement = self.preprocessing.placement(self.size)
        x, y = position
        return (x - placement.left) / placement.scale[1], (y - placement.top) / placement.scale[0]

    def pixel_at(self, position: tuple[float, float]) -> tuple[int, int]:
        """The pixel (x, y) of the image, counted from 0, that holds a position of the network's input."""
        x, y = self.to_image(position)
        height, width = self.size
        return min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)


def view(image: Image.Image, preprocessing: Preprocessing) -> View:
    """What a network with this pre-processing sees of an image; of many bands the picture shows three."""
    height, width = preprocessing.image_size
    (rows, columns), _, left, top = preprocessing.placement((image.height, image.width))
    part = Part(max(left, 0), max(top, 0), min(left + columns, width), min(top + rows, height))
    factor = max(1, min(_MOST_ENLARGED, round(_LONGEST / max(height, width))))
    large = replace(preprocessing, image_size=(factor * height, factor * width)).resize(image).convert("RGB")
    picture = large.crop((factor * part.left, factor * part.top, factor * part.right, factor * part.bottom))
    return View(picture, part, (image.height, image.width), preprocessing)
