"""Examples to the network's input: an image and its objects or its mask, moved together.

Geometry is one `Placement` an image, random for training. Pillow cuts and resizes the visible part of the picture
in one step, boxes and outlines move as numbers, and masks are drawn in the input's own size: nothing is ever
computed for pixels that a crop throws away. Mirroring and colours are torchvision's transforms v2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from dualtoken.bands import canvas, coloured
from dualtoken.data.samples import IGNORE, Example, ImageFiles, MaskSamples, Objects, ObjectSamples
from dualtoken.errors import ConfigError, require
from dualtoken.preprocess import Placement, Preprocessing

Size = tuple[int, int]  # (height, width)
# "image" with "mask", or with "boxes", "labels" and perhaps "masks", as transforms v2 takes it.
Picture = dict[str, Any]

_LEAST_SHARE = 0.2  # of an object's area that must be left for it to stay a target
_LEAST_SIDE = 2.0  # pixels of the input
_CUT = 0.5  # pixels that a box must lose before it counts as cut
_TILE_SHARE = 0.5  # a mosaic's tile is on average half as high and half as wide as the input: least scale of its image
_LARGEST_FILLING = 2.0  # times the usual scale, to which a tile's image is enlarged for its part to be full
_MOSAIC_CENTRE = (0.25, 0.75)
_PASTED_SHARE = 0.5  # of the other example's objects


Target = dict[str, Tensor] | Tensor | int
DrawOther = Callable[[], Example]
ToInput = Callable[[Example, DrawOther], tuple[Tensor, Target]]


def joint_transform(
    preprocessing: Preprocessing,
    *,
    scale: tuple[float, float] = (0.5, 1.5),
    hflip: float = 0.5,
    color_jitter: float = 0.0,
    mosaic: float = 0.0,
    copy_paste: float = 0.0,
) -> JointTransform:
    """A random transform of a example: `transform(example, draw_other)`; see `JointTransform`.

    Args:
        preprocessing: gives size, interpolation, mean and std, and the size that an image has at scale 1.
        scale: least and greatest factor on the size that an image has in evaluation. What is larger than the
            input is cropped, what is smaller lies somewhere in the mean colour.
        hflip: probability of a mirror image, 0 to 1.
        color_jitter: strength of random brightness, contrast and saturation, 0 for none, at most 1.
        mosaic: probability that three other examples are drawn and the four share the input: each at half its scale, or
            as much larger as it takes to fill its part.
        copy_paste: probability that objects of another example are pasted into this one, along their outlines.

    Raises:
        ConfigError: a value is impossible; it names the key.
    """
    _check(scale, hflip=hflip, color_jitter=color_jitter, mosaic=mosaic, copy_paste=copy_paste)
    return JointTransform(preprocessing, scale, hflip, color_jitter, mosaic, copy_paste)


class JointTransform:
    """Random placement, mirroring, colours, mosaic and copy-paste; made by `joint_transform`.

    All randomness is drawn from the global generators of `random` and torch.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        scale: tuple[float, float],
        hflip: float,
        color_jitter: float,
        mosaic: float,
        copy_paste: float,
    ) -> None:
        self.preprocessing = preprocessing
        self.scale, self.mosaic, self.copy_paste = scale, mosaic, copy_paste
        self.flip = v2.RandomHorizontalFlip(hflip)
        jitter = color_jitter and preprocessing.colours  # of other bands there is no brightness
        self.jitter = v2.ColorJitter(color_jitter, color_jitter, color_jitter) if jitter else None

    def __call__(self, example: Example, draw_other: DrawOther) -> tuple[Tensor, Target]:
        """The network's input and its target.

        Args:
            example: what is transformed.
            draw_other: gives another example of the same data set; called for mosaics and copy-paste alone.

        Returns:
            float32 (3, H, W), normalised as `preprocessing` does; and for objects a dict of `boxes` float32 (n, 4),
            left, top, right, bottom in pixels of the input, `labels` int64 (n,) and, where they are wanted, `masks`
            uint8 (n, H, W) of 0 and 1; for masks uint8 (H, W) with `IGNORE` where no image lies. Crowds are left
            out, and so are objects of which less than a fifth or less than two pixels can still be seen.
        """
        pasting = random.random() < self.copy_paste
        with_masks = example.wants_masks or pasting
        if random.random() < self.mosaic:
            picture = self._mosaic([example, draw_other(), draw_other(), draw_other()], with_masks)
        else:
            picture = self._placed(example, self.preprocessing.image_size, with_masks)
        if pasting and example.objects is not None:
            picture = self._pasted(picture, draw_other())
        image = torch.from_numpy(self.preprocessing.normalise(picture["image"]))
        if "mask" in picture:
            return image, _plain(picture["mask"])
        keys = ("boxes", "labels", "masks") if example.wants_masks else ("boxes", "labels")
        return image, {key: _plain(picture[key]) for key in keys}

    def require_outlines(self, samples: ImageFiles) -> None:
        """Raise `ConfigError` where objects are to be pasted, and none of `samples` has an outline."""
        if isinstance(samples, MaskSamples):
            reason = "masks of regions have no single objects"
        elif isinstance(samples, ObjectSamples) and not (len(samples.points) or np.strings.str_len(samples.runs).any()):
            reason = "the objects of these images have boxes alone"
        else:
            return
        if self.copy_paste:
            raise ConfigError(
                f"copy_paste is {self.copy_paste}, but it pastes along outlines, and {reason}.",
                "Leave it at 0; mosaic is the way to mix such images.",
            )

    def _placed(self, example: Example, size: Size, with_masks: bool) -> Picture:
        """The example somewhere in a picture of `size`."""
        resized = self._resized(example, random.uniform(*self.scale))
        return self._pictured(example, _somewhere(example.size, resized, size), size, with_masks)

    def _resized(self, example: Example, factor: float) -> Size:
        """The size of the example at `factor` times the scale of evaluation."""
        rows, columns = self.preprocessing.placement(example.size).size
        return max(1, round(rows * factor)), max(1, round(columns * factor))

    def _pictured(self, example: Example, placement: Placement, size: Size, with_masks: bool) -> Picture:
        """What of the example lies in a picture of `size`, perhaps mirrored."""
        picture: Picture = {"image": self._drawn(example.image, placement, size)}
        if example.mask is not None:
            picture["mask"] = tv_tensors.Mask(torch.from_numpy(place_mask(example.mask, placement, size)))
        elif example.objects is not None:
            boxes, labels, masks = place_objects(example.objects, placement, size, with_masks)
            picture["boxes"] = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=size)
            picture["labels"] = torch.from_numpy(labels)
            if masks is not None:
                picture["masks"] = tv_tensors.Mask(torch.from_numpy(masks))
        return self.flip(picture)

    def _drawn(self, image: Image.Image, placement: Placement, size: Size) -> Image.Image:
        image = coloured(image)
        part, corner = _visible_part(image, placement, size, Image.Resampling[self.preprocessing.interpolation.upper()])
        part = part if self.jitter is None else self.jitter(part)  # before the mean colour comes in, which stays
        if part.size == (size[1], size[0]):
            return part
        whole = canvas((size[1], size[0]), self.preprocessing.fill)
        whole.paste(part, corner)
        return whole

    def _mosaic(self, examples: list[Example], with_masks: bool) -> Picture:
        """Four examples that meet at a random point near the middle of the input, in random order."""
        height, width = self.preprocessing.image_size
        y, x = round(height * random.uniform(*_MOSAIC_CENTRE)), round(width * random.uniform(*_MOSAIC_CENTRE))
        random.shuffle(examples)
        tiles, corners = [], []
        for place, example in enumerate(examples):
            low, right = divmod(place, 2)
            tile = self._tile(example, (height - y if low else y, width - x if right else x), with_masks)
            columns, rows = tile["image"].size
            tiles.append(tile)
            corners.append((y if low else y - rows, x if right else x - columns))
        return _joined(tiles, corners, (height, width), self.preprocessing.fill)

    def _tile(self, example: Example, cell: Size, with_masks: bool) -> Picture:
        """The example, large enough to fill `cell` and cut to it; a very long one gives a smaller picture."""
        whole = self.preprocessing.placement(example.size).size
        filling = max(cell[0] / whole[0], cell[1] / whole[1])
        factor = max(_TILE_SHARE * random.uniform(*self.scale), min(filling, _LARGEST_FILLING))
        rows, columns = self._resized(example, factor)
        size = min(cell[0], rows), min(cell[1], columns)
        return self._pictured(example, _somewhere(example.size, (rows, columns), size), size, with_masks)

    def _pasted(self, picture: Picture, other: Example) -> Picture:
        """`picture` with some of the outlined objects of `other` in front of it."""
        assert other.objects is not None
        size = self.preprocessing.image_size
        outlined = other._replace(objects=_chosen_outlined(other.objects))
        donor = self._placed(outlined, size, with_masks=True)
        if len(donor["labels"]) == 0:
            return picture
        cover = donor["masks"].numpy().any(axis=0)
        left = _uncovered(picture, cover)
        image = picture["image"].copy()
        image.paste(donor["image"], (0, 0), Image.fromarray(cover))
        return {"image": image} | {key: torch.cat([left[key], donor[key]]) for key in ("boxes", "labels", "masks")}


class JointPreprocessing:
    """What evaluation does to a example: `Preprocessing`, and for masks the same placement.

    Objects have an empty target: evaluation compares in the pixels of the image, not of the input.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, example: Example, draw_other: DrawOther | None = None) -> tuple[Tensor, Target]:
        """float32 (3, H, W); and {} for objects, uint8 (H, W) with `IGNORE` where no image lies for masks."""
        image = torch.from_numpy(self.preprocessing(example.image))
        if example.mask is None:
            return image, {}
        placement = self.preprocessing.placement(example.size)
        return image, torch.from_numpy(place_mask(example.mask, placement, self.preprocessing.image_size))


def place_mask(mask: NDArray[np.uint8], placement: Placement, size: Size) -> NDArray[np.uint8]:
    """A mask (height, width) of an image as it lies in an input of `size`; `IGNORE` where no image lies."""
    part, (left, top) = _visible_part(Image.fromarray(mask), placement, size, Image.Resampling.NEAREST)
    canvas = np.full(size, IGNORE, np.uint8)
    canvas[top : top + part.height, left : left + part.width] = np.asarray(part)
    return canvas


def place_objects(
    objects: Objects, placement: Placement, size: Size, with_masks: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.uint8] | None]:
    """Objects as they lie in an input of `size`: boxes (n, 4), labels (n,), masks (n, height, width) or None.

    An object that the input cuts, and whose outline is known, gets the box of what is left of its outline.
    """
    height, width = size
    whole = placement.to_input(objects.boxes)
    boxes = whole.clip(0, np.array([width, height, width, height], np.float32))
    cut = np.abs(whole - boxes).max(axis=1, initial=0) > _CUT
    rows = np.flatnonzero(~objects.crowd & _visible(boxes, whole))
    masks = np.zeros((len(rows), height, width), np.uint8) if with_masks else None
    for place, row in enumerate(rows.tolist()):
        recut = cut[row] and _has_outline(objects, row)
        if masks is None and not recut:
            continue
        mask = _object_mask(objects, row, placement, size)
        if recut or not mask.any():  # too thin to hit a pixel: an empty box, which is dropped below
            boxes[row] = _box_of(mask)
        if masks is not None:
            masks[place] = mask
    kept = _visible(boxes[rows], whole[rows])
    if masks is not None and not kept.all():  # else megabytes would be copied for nothing
        masks = masks[kept]
    return boxes[rows[kept]], objects.labels[rows[kept]], masks


def _object_mask(objects: Objects, row: int, placement: Placement, size: Size) -> NDArray[np.uint8]:
    """(height, width) of 0 and 1; an object with neither outline nor runs fills its box."""
    if objects.runs[row]:
        return _mask_of_runs(objects.runs[row], objects.size, placement, size)
    if objects.outlines[row]:
        return _mask_of_rings([_moved(ring, placement) for ring in objects.outlines[row]], size)
    mask = np.zeros(size, np.uint8)
    left, top, right, bottom = np.round(placement.to_input(objects.boxes[row])).astype(int).clip(0)
    mask[top:bottom, left:right] = 1
    return mask


def _moved(ring: NDArray[np.float32], placement: Placement) -> NDArray[np.float64]:
    scale_y, scale_x = placement.scale
    return ring.astype(np.float64) * (scale_x, scale_y) + (placement.left, placement.top)


def _mask_of_rings(rings: Sequence[NDArray[np.float64]], size: Size) -> NDArray[np.uint8]:
    """Rings in pixels of the input, filled; only the rectangle around them is ever computed."""
    coco = require("pycocotools.mask", "detection")
    mask = np.zeros(size, np.uint8)
    points = np.concatenate(rings)
    left, top = np.floor(points.min(axis=0)).astype(int).clip(0).tolist()
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 1, size[::-1]).tolist()
    if left < right and top < bottom:
        flat = [(ring - (left, top)).ravel().tolist() for ring in rings]
        mask[top:bottom, left:right] = coco.decode(coco.merge(coco.frPyObjects(flat, bottom - top, right - left)))
    return mask


def _mask_of_runs(runs: str, image_size: Size, placement: Placement, size: Size) -> NDArray[np.uint8]:
    coco = require("pycocotools.mask", "detection")
    whole = coco.decode({"size": list(image_size), "counts": runs.encode("ascii")})
    placed = place_mask(np.ascontiguousarray(whole), placement, size)
    placed[placed == IGNORE] = 0
    return placed


def _visible_part(
    image: Image.Image, placement: Placement, size: Size, resampling: Image.Resampling
) -> tuple[Image.Image, tuple[int, int]]:
    """What of `image` can be seen in an input of `size`, resized; and its corner (left, top) in the input."""
    (rows, columns), (scale_y, scale_x), left, top = placement
    x, y = max(0, left), max(0, top)
    right, bottom = min(size[1], left + columns), min(size[0], top + rows)
    box = (
        (x - left) / scale_x,
        (y - top) / scale_y,
        min((right - left) / scale_x, image.width),
        min((bottom - top) / scale_y, image.height),
    )
    return image.resize((right - x, bottom - y), resampling, box=box, reducing_gap=2.0), (x, y)


def _joined(tiles: Sequence[Picture], corners: Sequence[tuple[int, int]], size: Size, fill: tuple[int, ...]) -> Picture:
    """Pictures side by side in one of `size`, which is `fill` where none lies; each tile's corner is (top, left)."""
    whole: Picture = {"image": canvas((size[1], size[0]), fill)}
    for tile, (top, left) in zip(tiles, corners, strict=True):
        whole["image"].paste(tile["image"], (left, top))
    if "mask" in tiles[0]:
        whole["mask"] = torch.full(size, IGNORE, dtype=torch.uint8)
        for tile, (top, left) in zip(tiles, corners, strict=True):
            rows, columns = tile["mask"].shape
            whole["mask"][top : top + rows, left : left + columns] = tile["mask"]
        return whole
    moved = [
        tile["boxes"] + torch.tensor([left, top, left, top]) for tile, (top, left) in zip(tiles, corners, strict=True)
    ]
    whole |= {"boxes": torch.cat(moved), "labels": torch.cat([tile["labels"] for tile in tiles])}
    if "masks" in tiles[0]:
        # numpy's zeros cost nothing where nothing is written, torch's are all written at once.
        whole["masks"] = torch.from_numpy(np.zeros((len(whole["labels"]), *size), np.uint8))
        first = 0
        for tile, (top, left) in zip(tiles, corners, strict=True):
            count, rows, columns = tile["masks"].shape
            whole["masks"][first : first + count, top : top + rows, left : left + columns] = tile["masks"]
            first += count
    return whole


def _uncovered(picture: Picture, cover: NDArray[np.bool_]) -> Picture:
    """The objects of `picture` behind `cover` (height, width): smaller masks and boxes, and fewer of them."""
    boxes, masks = picture["boxes"].numpy().copy(), picture["masks"].numpy()
    behind = masks & ~cover
    before, after = (np.count_nonzero(part, axis=(1, 2)) for part in (masks, behind))
    for row in np.flatnonzero(after < before):
        boxes[row] = _box_of(behind[row])
    kept = (after > _LEAST_SHARE * before) & (_sides(boxes).min(axis=1, initial=np.inf) >= _LEAST_SIDE)
    arrays = {"boxes": boxes[kept], "labels": picture["labels"].numpy()[kept], "masks": behind[kept]}
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def _chosen_outlined(objects: Objects) -> Objects:
    """About half of the objects that have an outline, and at least one if there is one."""
    outlined = [row for row in range(len(objects.labels)) if _has_outline(objects, row) and not objects.crowd[row]]
    rows = [row for row in outlined if random.random() < _PASTED_SHARE]
    rows = rows or ([random.choice(outlined)] if outlined else [])
    return Objects(
        objects.size, objects.boxes[rows], objects.labels[rows], objects.crowd[rows], objects.areas[rows],
        tuple(objects.outlines[row] for row in rows), tuple(objects.runs[row] for row in rows),
    )  # fmt: skip


def _has_outline(objects: Objects, row: int) -> bool:
    return bool(objects.runs[row] or objects.outlines[row])


def _visible(boxes: NDArray[np.float32], whole: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,) whether enough of each object is left: `boxes` of what was `whole`."""
    sides = _sides(boxes)
    return (sides.prod(axis=1) > _LEAST_SHARE * _sides(whole).prod(axis=1)) & (
        sides.min(axis=1, initial=np.inf) >= _LEAST_SIDE
    )


def _sides(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2) width and height."""
    return boxes[:, 2:] - boxes[:, :2]


def _box_of(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(4,) the smallest box around all of a mask; zeros for an empty one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _somewhere(image_size: Size, resized: Size, size: Size) -> Placement:
    """An image of `image_size`, resized, at a random place of a picture of `size`."""
    scale = (resized[0] / image_size[0], resized[1] / image_size[1])
    return Placement(resized, scale, left=_offset(size[1] - resized[1]), top=_offset(size[0] - resized[0]))


def _offset(free: int) -> int:
    """A random place for something in a space that is `free` pixels longer, or shorter where that is below 0."""
    return random.randint(min(0, free), max(0, free))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)


def _check(scale: tuple[float, float], **numbers: float) -> None:
    if not 0 < scale[0] <= scale[1]:
        raise ConfigError(f"scale is {scale}, expected two rising numbers above 0.")
    for key, value in numbers.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{key} is {value}, expected a number from 0 to 1.")
