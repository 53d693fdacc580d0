"""From an image to the network's input, in pillow and numpy: the same bits in every engine.

Validation, prediction, export checks and the torch-free runtime all call this one function.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.bands import Bands, canvas, coloured
from dualtoken.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MOST_PIXELS_A_SIDE = 4096  # of a network's input

_FAR_MORE = 16  # times the pixels of the network's input: no photograph is resized to so many
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


class Placement(NamedTuple):
    """Where an image of its own size lies in the network's input.

    Attributes:
        size: (height, width) of the resized image, in pixels of the input.
        scale: (vertical, horizontal), pixels of the input for each of the image.
        left, top: corner of the resized image in the input; below 0 where the input is a crop of it.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    left: int
    top: int

    def to_input(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (n, 4) left, top, right, bottom in the image's pixels to those of the input."""
        scale_y, scale_x = self.scale
        scaled = np.asarray(boxes, np.float32) * np.array([scale_x, scale_y] * 2, np.float32)
        return scaled + np.array([self.left, self.top] * 2, np.float32)

    def to_image(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inverse of `to_input`; what lies outside the image is not clipped."""
        scale_y, scale_x = self.scale
        moved = np.asarray(boxes, np.float32) - np.array([self.left, self.top] * 2, np.float32)
        return (moved / np.array([scale_x, scale_y] * 2, np.float32)).astype(np.float32)


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, normalise. Field names and meanings are timm's, so that timm reads them too.

    Attributes:
        image_size: (height, width) of the network's input, in pixels.
        crop_pct: share of the resized image that the central crop keeps, in (0, 1].
        crop_mode: `center` keeps the aspect ratio and crops; `squash` ignores it; `border` keeps it and the whole
            image, and fills the rest with the mean colour.
        interpolation: `bicubic`, `bilinear`, `nearest` or `lanczos`.
        mean, std: per channel, for pixels scaled to [0, 1].
        bands: what of the images' bands the network sees; None for red, green and blue, or grey made of them.
    """

    image_size: tuple[int, int] = (224, 224)
    crop_pct: float = 0.95
    crop_mode: Literal["center", "squash", "border"] = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    bands: Bands | None = None

    def __post_init__(self) -> None:
        if not all(1 <= side <= MOST_PIXELS_A_SIDE for side in self.image_size):
            most = MOST_PIXELS_A_SIDE
            raise ConfigError(f"image_size is {self.image_size}, expected two sides of 1 to {most} pixels.")
        if not 0 < self.crop_pct <= 1:
            raise ConfigError(f"crop_pct is {self.crop_pct}, expected a number above 0 and at most 1.")
        if self.crop_mode not in ("center", "squash", "border"):
            raise ConfigError(f"crop_mode is {self.crop_mode!r}, expected 'center', 'squash' or 'border'.")
        if self.interpolation not in _FILTERS:
            raise ConfigError(f"interpolation is {self.interpolation!r}, expected one of {', '.join(_FILTERS)}.")
        numbers = (1, 3) if self.bands is None else (len(self.bands.channels),)
        if len(self.mean) != len(self.std) or len(self.mean) not in numbers:
            words = " or ".join(map(str, numbers))
            raise ConfigError(f"mean {self.mean} and std {self.std} must both have {words} numbers.")

    def placement(self, size: tuple[int, int]) -> Placement:
        """Where an image of `size`, (height, width), will lie in the input."""
        height, width = self.image_size
        rows, columns = size
        if self.crop_mode == "border":
            fit = min(height / rows, width / columns)
            resized_height = min(height, max(1, round(rows * fit)))
            resized_width = min(width, max(1, round(columns * fit)))
        else:
            resized_height, resized_width = math.floor(height / self.crop_pct), math.floor(width / self.crop_pct)
        if self.crop_mode == "center":  # the smallest size of the image's own shape that covers the resized one
            if resized_height * columns >= resized_width * rows:
                resized_width = max(width, int(resized_height * columns / rows))
            else:
                resized_height = max(height, int(resized_width * rows / columns))
        return Placement(
            (resized_height, resized_width),
            (resized_height / rows, resized_width / columns),
            left=-round((resized_width - width) / 2),
            top=-round((resized_height - height) / 2),
        )

    @property
    def colours(self) -> bool:
        """Whether an image is an RGB one on its way into the network: of one or three channels."""
        return len(self.mean) in (1, 3)

    @property
    def fill(self) -> tuple[int, ...]:
        """The mean colour, 0 to 255, that fills what an image leaves free: three numbers, or one a band."""
        return tuple(round(255 * mean) for mean in (self.mean * 3 if len(self.mean) == 1 else self.mean))

    def resize(self, image: Image.Image) -> Image.Image:
        """An image of any size to one of exactly `image_size`."""
        image = coloured(image)
        height, width = self.image_size
        (rows, columns), _, left, top = self.placement((image.height, image.width))
        if rows * columns > _FAR_MORE * height * width:  # a line of pixels: as wide as asked it would fill the memory
            return self._resize_part(image)
        if image.size != (columns, rows):
            image = image.resize((columns, rows), _FILTERS[self.interpolation])
        if self.crop_mode != "border":
            return image.crop((-left, -top, width - left, height - top))
        whole = canvas((width, height), self.fill)
        whole.paste(image, (left, top))
        return whole

    def _resize_part(self, image: Image.Image) -> Image.Image:
        """What `resize` gives where it crops, made of the part that is seen; the last bit of a value may differ."""
        height, width = self.image_size
        _, (scale_y, scale_x), left, top = self.placement((image.height, image.width))
        seen = (-left / scale_x, -top / scale_y, (width - left) / scale_x, (height - top) / scale_y)
        return image.resize((width, height), _FILTERS[self.interpolation], box=seen)

    def normalise(self, image: Image.Image) -> NDArray[np.float32]:
        """An image to float32 (C, height, width), one channel for each number of the mean."""
        pixels = np.asarray(image.convert("L") if len(self.mean) == 1 else image)
        pixels = pixels.reshape(image.height, image.width, -1)
        result = np.empty((len(self.mean), image.height, image.width), np.float32)
        for channel, (plane, mean, std) in enumerate(zip(result, self.mean, self.std, strict=True)):
            # In place and a channel at a time, memory is read once: many times as fast as whole images, the same bits.
            np.divide(pixels[..., channel], np.float32(255), out=plane, dtype=np.float32)
            plane -= np.float32(mean)
            plane /= np.float32(std)
        return result

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An image of any size to the network's input, float32 (C, height, width)."""
        return self.normalise(self.resize(image))

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        bands = fields.pop("bands", None)
        return cls(**fields, bands=None if bands is None else Bands(**bands))
