"""Augmentation for training, built from timm's parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from PIL import Image, ImageOps
from timm.data.auto_augment import RandAugment
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torchvision.transforms import Compose, Grayscale

from dualtoken.bands import coloured
from dualtoken.errors import ConfigError
from dualtoken.preprocess import Preprocessing

ImageTransform = Callable[[Image.Image], Tensor]

# timm passes over a part that it cannot parse; a mistyped policy would silently be another one.
_RAND_AUGMENT = re.compile(r"rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?|-t\w+)*")


def training_transform(
    preprocessing: Preprocessing,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    hflip: float = 0.5,
    rand_augment: str | None = None,
    color_jitter: float = 0.0,
    random_erasing: float = 0.0,
) -> ImageTransform:
    """A random transform: an image of any size to float32 (C, H, W), normalised as `preprocessing` says.

    RandAugment and colour jitter are for colours: an image of other bands than one or three goes without them.

    Args:
        preprocessing: gives size, interpolation, mean and std.
        scale: least and greatest share of the image's area that the random crop keeps, in (0, 1].
        ratio: least and greatest width of the crop over its height.
        hflip: probability of a mirror image, 0 to 1.
        rand_augment: timm's name of a policy, such as `rand-m9-mstd0.5-inc1`; None for none.
        color_jitter: strength of random brightness, contrast and saturation, 0 for none.
        random_erasing: probability that a rectangle is replaced by noise, 0 to 1.

    Raises:
        ConfigError: a value is impossible; it names the key.
    """
    _check(scale, ratio, hflip=hflip, random_erasing=random_erasing, color_jitter=color_jitter)
    grey = len(preprocessing.mean) == 1
    if not preprocessing.colours:
        rand_augment, color_jitter = None, 0.0
    crop, augment, normalise = _timm_steps(
        rand_augment,
        img_size=preprocessing.image_size,
        scale=scale,
        ratio=ratio,
        hflip=hflip,
        color_jitter=color_jitter or None,
        force_color_jitter=True,  # timm would drop it beside RandAugment without a word
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean * (3 if grey else 1),
        std=preprocessing.std * (3 if grey else 1),
        re_prob=random_erasing,
        re_mode="pixel",
    )
    # RandAugment draws in colour, so that grey comes after it, as three equal channels of which one is kept.
    steps = [coloured, crop, augment, *([Grayscale(3)] if grey else []), normalise, *([_first_channel] if grey else [])]
    return cast(ImageTransform, Compose(steps))


def _timm_steps(rand_augment: str | None, **options: Any) -> tuple[Compose, Compose, Compose]:
    """timm's training transform in its three parts: crop and mirror, augment, normalise and erase."""
    try:
        if rand_augment is not None and not _RAND_AUGMENT.fullmatch(rand_augment):
            raise ValueError("expected rand, then parts such as -m9, -n2, -p0.5, -mstd0.5, -mmax10, -inc1, -tNAME")
        steps = transforms_imagenet_train(auto_augment=rand_augment, separate=True, **options)
    except (AssertionError, ValueError, KeyError) as error:
        raise ConfigError(
            f"rand_augment is {rand_augment!r}, which timm does not know ({error}).",
            "A usual value is rand-m9-mstd0.5-inc1.",
        ) from error
    for policy in steps[1].transforms:
        if isinstance(policy, RandAugment):
            for operation in policy.ops:
                if operation.name.startswith("Posterize"):
                    operation.aug_fn = _posterize
    return cast(tuple[Compose, Compose, Compose], steps)


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    # At full strength timm asks for 0 bits, which pillow 13 refuses and before made an all black image.
    return ImageOps.posterize(image, min(max(bits, 1), 8))


def _first_channel(image: Tensor) -> Tensor:
    return image[:1]


def _check(scale: tuple[float, float], ratio: tuple[float, float], **numbers: float) -> None:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ConfigError(f"scale is {scale}, expected two rising numbers above 0 and at most 1.")
    if not 0 < ratio[0] <= ratio[1]:
        raise ConfigError(f"ratio is {ratio}, expected two rising numbers above 0.")
    for key, value in numbers.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{key} is {value}, expected a number from 0 to 1.")
