"""Handwritten digits strewn over photographs, with boxes and with masks: data to try both on, made of what a package
ships.

The digits (Alpaydin and Kaynak 1998) and the two photographs (china.jpg and flower.jpg, by danielbuechele and vultilion
on Flickr, CC BY 2.0) are scikit-learn's own; places, sizes and colours are made here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dualtoken.errors import require
from dualtoken.files import atomic_path, write_text
from dualtoken.lab.demo import SPLITS

SIDE = 128  # pixels
Box = tuple[int, list[int]]  # the digit; left, top, width, height


def write_digit_photos(folder: Path, number: int = 400, seed: int = 0) -> Path:
    """Write `number` images with one to three digits, twice: `folder/boxes` (COCO) and `folder/masks` (paper and ink).

    A digit that is in an image of one split is in none of another.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        OutputError: the folder cannot be written.
    """
    samples = require("sklearn.datasets", "demo")
    random, digits = np.random.default_rng(seed), samples.load_digits()
    photos = [Image.fromarray(array) for array in samples.load_sample_images().images]
    order, start = random.permutation(len(digits.target)), 0
    for split, share in SPLITS.items():
        pool = order[start : start + int(share * len(order))]
        start += len(pool)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(round(share * number)):
            image, mask, boxes = _compose(photos, digits, pool, random)
            name = f"{split}-{index:03d}.png"
            _save(image, folder / "boxes" / split / name)
            _save(image, folder / "masks" / "images" / split / name)
            _save(mask, folder / "masks" / "masks" / split / name)
            images.append({"id": index, "file_name": name, "width": SIDE, "height": SIDE})
            for digit, box in boxes:
                found = {"id": len(annotations), "image_id": index, "category_id": digit, "bbox": box}
                annotations.append(found | {"area": box[2] * box[3], "iscrowd": 0})
        categories = [{"id": digit, "name": str(digit)} for digit in range(10)]
        labels = {"images": images, "annotations": annotations, "categories": categories}
        write_text(folder / "boxes" / split / "_annotations.coco.json", json.dumps(labels))
    write_text(folder / "masks" / "classes.txt", "paper\nink\n")
    return folder


def _compose(
    photos: list[Image.Image], digits: Any, pool: Any, random: np.random.Generator
) -> tuple[Image.Image, Image.Image, list[Box]]:
    """An image, its mask (1 where there is ink) and its digits."""
    photo = photos[random.integers(len(photos))]
    left, top = (int(random.integers(side - 2 * SIDE)) for side in photo.size)
    image = photo.crop((left, top, left + 2 * SIDE, top + 2 * SIDE)).resize((SIDE, SIDE))
    mask, boxes = Image.new("L", image.size), list[Box]()
    for index in random.choice(pool, random.integers(1, 4), replace=False):
        side = int(random.integers(36, 60))
        pixels = Image.fromarray((digits.images[index] * (255 / 16)).astype(np.uint8)).resize((side, side))
        x, y = (int(random.integers(SIDE - side)) for _ in range(2))
        ink = Image.fromarray(np.where(np.asarray(pixels) > 100, 255, 0).astype(np.uint8))
        if np.asarray(mask.crop((x, y, x + side, y + side))).any():
            continue  # it would lie on another digit
        a, b, c, d = ink.getbbox() or (0, 0, side, side)
        boxes.append((int(digits.target[index]), [x + a, y + b, c - a, d - b]))
        image.paste(tuple(int(part) for part in random.integers(200, 256, 3)), (x, y), ink)
        mask.paste(1, (x, y), ink)
    return image, mask, boxes


def _save(image: Image.Image, path: Path) -> None:
    with atomic_path(path) as place:
        image.save(place)
