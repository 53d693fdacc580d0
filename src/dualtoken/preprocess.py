"""From an RGB image to the network's input, in pillow and numpy: the same bits in every engine.

Validation, prediction, export checks and the torch-free runtime all call this one function.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, normalise. Field names and meanings are timm's, so that timm reads them too.

    Attributes:
        image_size: (height, width) of the network's input, in pixels.
        crop_pct: share of the resized image that the central crop keeps, in (0, 1].
        crop_mode: `center` keeps the aspect ratio and crops; `squash` ignores it.
        interpolation: `bicubic`, `bilinear`, `nearest` or `lanczos`.
        mean, std: per channel, for pixels scaled to [0, 1].
    """

    image_size: tuple[int, int] = (224, 224)
    crop_pct: float = 0.95
    crop_mode: Literal["center", "squash"] = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 0 < self.crop_pct <= 1:
            raise ConfigError(f"crop_pct is {self.crop_pct}, expected a number above 0 and at most 1.")
        if self.crop_mode not in ("center", "squash"):
            raise ConfigError(f"crop_mode is {self.crop_mode!r}, expected 'center' or 'squash'.")
        if self.interpolation not in _FILTERS:
            raise ConfigError(f"interpolation is {self.interpolation!r}, expected one of {', '.join(_FILTERS)}.")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ConfigError(f"mean {self.mean} and std {self.std} must both have 1 or 3 numbers.")

    def resize(self, image: Image.Image) -> Image.Image:
        """An RGB image of any size to one of exactly `image_size`."""
        height, width = self.image_size
        resized_height, resized_width = math.floor(height / self.crop_pct), math.floor(width / self.crop_pct)
        if self.crop_mode == "center":  # the smallest size of the image's own shape that covers the resized one
            if resized_height * image.width >= resized_width * image.height:
                resized_width = max(width, int(resized_height * image.width / image.height))
            else:
                resized_height = max(height, int(resized_width * image.height / image.width))
        if image.size != (resized_width, resized_height):
            image = image.resize((resized_width, resized_height), _FILTERS[self.interpolation])
        left, top = round((resized_width - width) / 2), round((resized_height - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def normalise(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image to float32 (3, height, width), or (1, height, width) where mean has one number."""
        grey = len(self.mean) == 1
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        pixels = np.asarray(image.convert("L") if grey else image, dtype=np.float32)
        pixels = (pixels.reshape(image.height, image.width, -1) / np.float32(255) - mean) / std
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image of any size to the network's input, float32 (3, height, width)."""
        return self.normalise(self.resize(image))

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)
