"""Batches as the network sees them: augmented images with the labels that moved along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.bands import BandImage
from dualtoken.data import IGNORE, Objects
from dualtoken.outputs.detections import encode_runs
from dualtoken.preprocess import Preprocessing
from dualtoken.report.class_colours import UNLABELLED, class_colour
from dualtoken.report.legends import Entry, with_legend
from dualtoken.report.pictures import draw_truth

ObjectTargets = Sequence[Mapping[str, Any]]

_TILE, _GAP, _COLUMNS = 400, 12, 3
_FONT_SIZE = 15


def batch_mosaic(
    images: NDArray[np.float32],
    targets: ObjectTargets | NDArray[np.uint8],
    classes: Sequence[str],
    preprocessing: Preprocessing,
    *,
    most: int = 9,
) -> Image.Image:
    """Draw the images of a training batch with their labels, three in a row.

    Args:
        images: (B, C, H, W), normalised as `preprocessing` says.
        targets: of objects B mappings with `boxes` (n, 4) left, top, right, bottom in pixels of the input, `labels`
            (n,) and where there are masks `masks` (n, H, W); of regions (B, H, W), the class of each pixel or IGNORE.
        classes: K names.
        preprocessing: its mean and std give the colours back.
        most: only the first so many images are drawn.

    Raises:
        ValueError: there is no image, or not a target for each.
    """
    images = np.asarray(images)
    if len(images) == 0 or len(images) != len(targets):
        raise ValueError(f"{len(images)} images and {len(targets)} targets: one for each is needed, and at least one.")
    shown = range(min(len(images), max(most, 1)))
    pictures = [_to_picture(images[index], preprocessing) for index in shown]
    if isinstance(targets, np.ndarray):
        masks = [_resized_mask(targets[index], pictures[index].size) for index in shown]
        tiles = [draw_truth(p, mask, classes, legend="none") for p, mask in zip(pictures, masks, strict=True)]
        present = np.unique(np.stack(masks)).tolist()
        entries = [Entry(class_colour(label), classes[label]) for label in present if label != IGNORE]
        entries += [Entry(UNLABELLED, "unlabelled")] if IGNORE in present else []
        return with_legend(_grid(tiles), entries, _FONT_SIZE, inside=False)
    height, width = images.shape[-2:]
    objects = [_to_objects(targets[index], (height, width), pictures[index].size) for index in shown]
    return _grid([draw_truth(p, own, classes, legend="none") for p, own in zip(pictures, objects, strict=True)])


def _to_picture(image: NDArray[np.float32], preprocessing: Preprocessing) -> Image.Image:
    """A normalised image (C, H, W) as RGB, of many bands three, enlarged: what is drawn into it can be read then."""
    mean, std = (np.asarray(part, np.float32)[:, None, None] for part in (preprocessing.mean, preprocessing.std))
    pixels = (255 * (image * std + mean)).round().clip(0, 255).astype(np.uint8)
    picture = BandImage.of(pixels.transpose(1, 2, 0)).convert("RGB")
    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _to_objects(target: Mapping[str, Any], size: tuple[int, int], picture: tuple[int, int]) -> Objects:
    """The target's objects in pixels of a picture (width, height) that was made from an input of `size`."""
    labels = np.asarray(target["labels"], np.int64)
    number = len(labels)
    scale = np.array([picture[0] / size[1], picture[1] / size[0]] * 2, np.float32)
    boxes = np.asarray(target["boxes"], np.float32).reshape(-1, 4) * scale
    masks = target.get("masks")
    shape = (picture[1], picture[0])
    runs = [""] * number
    if masks is not None:
        small = (_resized_mask(np.asarray(mask, np.uint8), picture) for mask in masks)
        runs = [encode_runs(mask > 0, (0, 0), shape) for mask in small]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Objects(shape, boxes, labels, np.zeros(number, np.bool_), areas, ((),) * number, tuple(runs))


def _resized_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(mask, np.uint8)).resize(size, Image.Resampling.NEAREST))


def _grid(tiles: Sequence[Image.Image]) -> Image.Image:
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP), "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * (width + _GAP), row * (height + _GAP)))
    return sheet
