"""Images with objects or masks: what `find_data` finds for detection and segmentation.

Boxes and outlines are in pixels of the upright image, that is with its EXIF orientation applied: x to the right,
y down, (0, 0) the corner of the first pixel. As in `index.py`, everything stands in flat arrays, so that loading
workers share it; outlines stay outlines and become masks one image at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.data.archives import Members, read_member
from dualtoken.data.index import ImageFiles
from dualtoken.errors import ImageError, require
from dualtoken.images import DEFAULT_LIMITS, ImageLimits, open_mask_image
from dualtoken.words import counted

IGNORE = 255  # in a mask: pixels that neither train nor count


class Objects(NamedTuple):
    """The objects of one image, n of them.

    Attributes:
        size: (height, width) of the upright image.
        boxes: (n, 4) float32, left, top, right, bottom.
        labels: (n,) int64, index of the class.
        crowd: (n,) bool, a box around many: neither trains nor counts.
        areas: (n,) float32, square pixels, of the outline where there is one, else of the box.
        outlines: for each object its rings, each (points, 2) float32 x and y; none where there is only a box.
        runs: for each object its mask as COCO's compressed run lengths, "" where there is none.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]
    outlines: tuple[tuple[NDArray[np.float32], ...], ...]
    runs: tuple[str, ...]

    def masks(self) -> NDArray[np.bool_]:
        """(n, height, width), rasterised now; an object with neither outline nor runs fills its box."""
        coco = require("pycocotools.mask", "detection")
        height, width = self.size
        masks = np.zeros((len(self.labels), height, width), bool)
        for mask, box, rings, runs in zip(masks, self.boxes, self.outlines, self.runs, strict=True):
            if runs:
                mask[:] = coco.decode({"size": [height, width], "counts": runs.encode("ascii")})
            elif rings:
                flat = [ring.astype(np.float64).ravel().tolist() for ring in rings]
                mask[:] = coco.decode(coco.merge(coco.frPyObjects(flat, height, width)))
            else:
                left, top, right, bottom = np.round(box).astype(int).clip(0)
                mask[top:bottom, left:right] = True
        return masks


@dataclass(frozen=True, eq=False)
class ObjectSamples(ImageFiles):
    """The images of one split with their objects; image i has the objects `offsets[i]` to `offsets[i + 1]`.

    Attributes:
        root, names, members: as in `Samples`; N images.
        sizes: (N, 2) int64, height and width of each upright image.
        offsets: (N + 1,) int64, rising from 0 to M, the number of all objects.
        boxes, labels, crowd, areas, runs: (M, ...), as in `Objects`.
        object_rings: (M + 1,) int64: object j has the rings `object_rings[j]` to `object_rings[j + 1]`, R in all.
        ring_points: (R + 1,) int64: ring r has the points `ring_points[r]` to `ring_points[r + 1]`, P in all.
        points: (P, 2) float32, x and y.
    """

    root: str
    names: NDArray[np.str_]
    members: Members | None
    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]
    runs: NDArray[np.str_]
    object_rings: NDArray[np.int64]
    ring_points: NDArray[np.int64]
    points: NDArray[np.float32]

    @classmethod
    def build(
        cls, root: str, names: Sequence[str], objects: Sequence[Objects], members: Members | None = None
    ) -> ObjectSamples:
        """From the objects of each image, in the order of `names`."""
        rings = [ring for item in objects for outline in item.outlines for ring in outline]
        per_object = [len(outline) for item in objects for outline in item.outlines]
        return cls(
            root=root,
            names=np.array(list(names), np.dtypes.StringDType()),
            members=members,
            sizes=np.array([item.size for item in objects], np.int64).reshape(-1, 2),
            offsets=_starts([len(item.labels) for item in objects]),
            boxes=_joined([item.boxes for item in objects], np.float32, 4),
            labels=_joined([item.labels for item in objects], np.int64),
            crowd=_joined([item.crowd for item in objects], np.bool_),
            areas=_joined([item.areas for item in objects], np.float32),
            runs=np.array([runs for item in objects for runs in item.runs], np.dtypes.StringDType()),
            object_rings=_starts(per_object),
            ring_points=_starts([len(ring) for ring in rings]),
            points=_joined(rings, np.float32, 2),
        )

    @property
    def has_outlines(self) -> bool:
        """Whether every object that is no crowd has an outline or runs: what instance segmentation needs."""
        outlined = (np.diff(self.object_rings) > 0) | (np.strings.str_len(self.runs) > 0)
        return bool(len(self.labels)) and bool((outlined | self.crowd).all())

    def objects(self, index: int) -> Objects:
        """The objects of image `index`."""
        own = range(self.offsets[index], self.offsets[index + 1])
        part = slice(own.start, own.stop)
        height, width = self.sizes[index].tolist()
        return Objects(
            (height, width), self.boxes[part], self.labels[part], self.crowd[part], self.areas[part],
            tuple(self._rings(number) for number in own), tuple(map(str, self.runs[part])),
        )  # fmt: skip

    def _rings(self, number: int) -> tuple[NDArray[np.float32], ...]:
        rings = range(self.object_rings[number], self.object_rings[number + 1])
        return tuple(self.points[self.ring_points[ring] : self.ring_points[ring + 1]] for ring in rings)

    def subset(self, indices: Iterable[int] | NDArray[np.int64]) -> ObjectSamples:
        """The images at `indices`, in their order, with their objects."""
        chosen = [int(index) for index in indices]
        members = None if self.members is None else self.members[np.array(chosen, np.int64)]
        names = [str(self.names[index]) for index in chosen]
        return ObjectSamples.build(self.root, names, [self.objects(index) for index in chosen], members)

    def counts(self, classes: int) -> NDArray[np.int64]:
        """(classes,) number of objects of each class, without crowds."""
        return np.bincount(self.labels[~self.crowd], minlength=classes)

    def describe(self, classes: Sequence[str]) -> str:
        """One line: images, objects, empty images, least and most frequent class."""
        counts = self.counts(len(classes))
        empty = int((np.diff(self.offsets) == 0).sum())
        small, large = int(counts.argmin()), int(counts.argmax())
        parts = [counted(len(self), "image"), counted(int(counts.sum()), "object")]
        parts += [f"{counted(empty, 'image')} without any"] if empty else []
        parts += [counted(int(self.crowd.sum()), "crowd")] if self.crowd.any() else []
        parts += [f"fewest {classes[small]!r} {counts[small]:,}, most {classes[large]!r} {counts[large]:,}"]
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class MaskSamples(ImageFiles):
    """The images of one split, each with a mask that gives every pixel its class.

    Attributes:
        root, names, members: as in `Samples`; N images.
        masks, mask_members: (N,) names of the mask files below the same root, and their places in an archive.
        sizes: (N, 2) int64, height and width of each upright image.
        table: what a mask's values mean: (V,) uint8, class index of each grey or palette value, `IGNORE` for none
            and for every value from V up; or where masks are coloured (K, 3) uint8, the colour of each class.
    """

    root: str
    names: NDArray[np.str_]
    members: Members | None
    masks: NDArray[np.str_]
    mask_members: Members | None
    sizes: NDArray[np.int64]
    table: NDArray[np.uint8]

    def mask_path(self, index: int) -> str:
        """The mask's path as a person would write it."""
        return os.path.join(self.root, str(self.masks[index]))  # noqa: PTH118

    def open_mask(self, index: int, limits: ImageLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
        """(height, width) uint8: class of each pixel of the upright image, or `IGNORE`.

        Raises:
            ImageError: it cannot be read, or has not the image's size.
        """
        path = self.mask_path(index)
        source = path if self.mask_members is None else read_member(self.root, self.mask_members[index], path, limits)
        image = open_mask_image(source, name=path, limits=limits)
        height, width = self.sizes[index].tolist()
        if image.size != (width, height):
            raise ImageError(
                f"The mask {path!r} is {image.width} x {image.height}, its image {width} x {height} (width x height)."
            )
        return self._classes_of(image)

    def _classes_of(self, image: Image.Image) -> NDArray[np.uint8]:
        if self.table.ndim == 1:
            values = np.asarray(image)
            values = values[..., 0] if values.ndim == 3 else values  # a grey mask stored as colour
            table = np.full(int(max(values.max(initial=0), len(self.table) - 1)) + 1, IGNORE, np.uint8)
            table[: len(self.table)] = self.table
            return table[values]
        pixels = np.asarray(image.convert("RGB")).astype(np.int32) @ np.array([65536, 256, 1], np.int32)
        colours = self.table.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
        order = np.argsort(colours)
        place = np.searchsorted(colours[order], pixels).clip(max=len(colours) - 1)
        found = colours[order][place] == pixels
        return np.where(found, order[place], IGNORE).astype(np.uint8)

    def subset(self, indices: Iterable[int] | NDArray[np.int64]) -> MaskSamples:
        """The images at `indices`, in their order, with their masks."""
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), np.int64)
        members = None if self.members is None else self.members[chosen]
        mask_members = None if self.mask_members is None else self.mask_members[chosen]
        return MaskSamples(
            self.root, self.names[chosen], members, self.masks[chosen], mask_members, self.sizes[chosen], self.table
        )

    def describe(self, classes: Sequence[str]) -> str:
        """One line: images and the sizes they have."""
        height, width = np.median(self.sizes, axis=0).astype(int).tolist()
        images = counted(len(self), "image with a mask", "images with masks")
        return f"{images} of {counted(len(classes), 'class', 'classes')}, median size {width} x {height}"


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)


def _joined(parts: Sequence[NDArray[np.generic]], dtype: type[np.generic], columns: int | None = None) -> NDArray:  # type: ignore[type-arg]
    shape = (-1,) if columns is None else (-1, columns)
    return np.concatenate([np.asarray(part, dtype).reshape(shape) for part in parts] or [np.empty(0, dtype)]).reshape(
        shape
    )
