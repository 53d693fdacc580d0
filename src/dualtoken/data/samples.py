"""The images of a split with what is known about each: a class, objects, or a mask.

Boxes and outlines are in pixels of the upright image, that is with its EXIF orientation applied: x to the right,
y down, (0, 0) the corner of the first pixel. Everything about single images stands in flat arrays. Lists of Python
objects would be copied page by page into every loading worker, since reading an object writes its reference count.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.bands import Bands
from dualtoken.data.addresses import Part
from dualtoken.data.archives import IN_TAR, Members, part_of, read_member
from dualtoken.errors import ImageError, require, shown_name
from dualtoken.images import DEFAULT_LIMITS, ImageLimits, open_image, open_mask_image
from dualtoken.words import counted

IGNORE = 255  # in a mask: pixels that neither train nor count
_LOOKED_AT, _END = 50_000, 4096  # files, and bytes at each of their ends, of which `content` is made
Rows = Iterable[int] | NDArray[np.integer]


class Example(NamedTuple):
    """One image with what is known about it, as it is in the data set.

    Attributes:
        image: RGB, or a model's bands; upright.
        objects: its objects, or None.
        mask: (height, width) uint8, class of each pixel or `IGNORE`; or None.
        wants_masks: whether the target of objects shall hold their masks.
        label: index of its class, or (K,) bool which classes it has; -1 where nobody asks.
    """

    image: Image.Image
    objects: Objects | None = None
    mask: NDArray[np.uint8] | None = None
    wants_masks: bool = False
    label: int | NDArray[np.bool_] = -1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.height, self.image.width


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files in a folder, a zip archive or tars: what the samples of every task are made of.

    Attributes:
        root: the folder, zip archive or address that `names` are relative to.
        names: (N,) strings, with `/` between the parts; absolute where a CSV file said so.
        members: (N,) place of each image in its archive; None for a folder.
        bands: what `open` gives of an image's bands; None for red, green and blue.
        at_least: pixels that the short side of an opened image needs, see `open_image`; None for all that it has.
    """

    root: str
    names: NDArray[np.str_]
    members: Members | None
    bands: Bands | None = field(default=None, kw_only=True)
    at_least: int | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """The image's path as it is shown; in an archive `archive.zip/folder/image.jpg`."""
        return shown_name(self._place(index))

    def _place(self, index: int) -> str:
        return os.path.join(self.root, str(self.names[index]))  # noqa: PTH118

    def source(self, index: int, limits: ImageLimits = DEFAULT_LIMITS) -> str | bytes:
        """What `open_image` takes: the path, or the bytes of an archive's member."""
        if self.members is None:
            return self._place(index)
        return read_member(self.root, str(self.names[index]), self.members[index], limits)

    def parts(self, index: int) -> list[Part]:
        """Of files in tars what `example` reads of them, for `ahead`."""
        return _parts(self.root, self.names, self.members, index)

    def open(self, index: int, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
        """Image `index` as 8-bit RGB, or its `bands`. Animations give their first frame; `find_data` has noted them.

        Raises:
            ImageError: it cannot be read.
        """
        source = self.source(index, limits)
        return open_image(
            source, name=self.path(index), limits=limits, warn=False, bands=self.bands, at_least=self.at_least
        )

    def marks(self) -> Iterator[tuple[str, bytes]]:
        """Of each file its name, and its two ends or its checksum in an archive; of many, a sample."""
        for index in range(0, len(self), max(1, len(self) // _LOOKED_AT)):
            if self.members is not None:
                yield str(self.names[index]), self.members[index][["size", "crc"]].tobytes()
                continue
            ends = b""
            with suppress(OSError), open(self._place(index), "rb") as file:  # noqa: PTH123
                ends = file.read(_END)
                file.seek(max(0, file.seek(0, os.SEEK_END) - _END))
                ends += file.read(_END)
            yield str(self.names[index]), ends + b"\0"

    def example(self, index: int, limits: ImageLimits = DEFAULT_LIMITS) -> Example:
        """Image `index` with what is known about it; errors as in `open`."""
        return Example(self.open(index, limits))

    def subset(self, indices: Rows) -> Self:
        """The images at `indices`, in their order, with what is known about them."""
        chosen = _rows(indices)
        members = None if self.members is None else self.members[chosen]
        return replace(self, names=self.names[chosen], members=members, **self._part(chosen))

    def _part(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        """The further fields of a subset."""
        return {}

    def describe(self, classes: Sequence[str]) -> str:
        """One line about the images and their labels."""
        return counted(len(self), "image")


@dataclass(frozen=True, eq=False)
class Samples(ImageFiles):
    """The images of one split, each of one class.

    Attributes:
        root, names, members: as in `ImageFiles`; N images.
        labels: (N,) int64, index of the class.
    """

    labels: NDArray[Any]

    def example(self, index: int, limits: ImageLimits = DEFAULT_LIMITS) -> Example:
        """Image `index` with its class."""
        return Example(self.open(index, limits), label=int(self.labels[index]))

    def _part(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        return {"labels": self.labels[chosen]}

    def groups(self) -> NDArray[np.int64]:
        """(N,) the class of each image by which images are drawn."""
        return self.labels

    def rarity(self) -> NDArray[np.float64]:
        """(N,) one over the number of images of each image's class."""
        groups = self.groups()
        return 1 / np.bincount(groups)[groups]

    def counts(self, classes: int) -> NDArray[np.int64]:
        """(classes,) number of images of each class."""
        return np.bincount(self.labels, minlength=classes)

    def describe(self, classes: Sequence[str]) -> str:
        """One line: images, and how many of them the smallest and the largest class have."""
        counts = self.counts(len(classes))
        text = counted(len(self), "image")
        if counts.min() == counts.max():
            return f"{text}, {counts.min():,} in each class"
        small, large = int(counts.argmin()), int(counts.argmax())
        return (
            f"{text}, smallest class {classes[small]!r} {counts[small]:,}, largest {classes[large]!r} {counts[large]:,}"
        )


@dataclass(frozen=True, eq=False)
class LabelSamples(Samples):
    """The images of one split, each of any number of classes, also of none.

    Attributes:
        root, names, members: as in `ImageFiles`; N images.
        labels: (N, K) bool, which classes each has.
    """

    def example(self, index: int, limits: ImageLimits = DEFAULT_LIMITS) -> Example:
        """Image `index` with its classes."""
        return Example(self.open(index, limits), label=self.labels[index])

    def groups(self) -> NDArray[np.int64]:
        """(N,) the rarest class of each image, K where it has none."""
        counts = np.append(self.labels.sum(axis=0), 0)
        own = np.column_stack([self.labels, ~self.labels.any(axis=1)])
        return np.where(own, counts, len(self) + 1).argmin(axis=1)

    def counts(self, classes: int) -> NDArray[np.int64]:
        """(classes,) number of images that have each class."""
        return self.labels.sum(axis=0, dtype=np.int64)

    def describe(self, classes: Sequence[str]) -> str:
        """One line, with the labels of an image and the images without any."""
        without = int((~self.labels.any(axis=1)).sum())
        more = f", {self.labels.sum() / max(1, len(self)):.1f} labels an image"
        return super().describe(classes) + more + (f", {without:,} without any" if without else "")


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
        root, names, members: as in `ImageFiles`; N images.
        sizes: (N, 2) int64, height and width of each upright image.
        offsets: (N + 1,) int64, rising from 0 to M, the number of all objects.
        boxes, labels, crowd, areas, runs: (M, ...), as in `Objects`.
        object_rings: (M + 1,) int64: object j has the rings `object_rings[j]` to `object_rings[j + 1]`, R in all.
        ring_points: (R + 1,) int64: ring r has the points `ring_points[r]` to `ring_points[r + 1]`, P in all.
        points: (P, 2) float32, x and y.
    """

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
            offsets=starts([len(item.labels) for item in objects]),
            boxes=_joined([item.boxes for item in objects], np.float32, 4),
            labels=_joined([item.labels for item in objects], np.int64),
            crowd=_joined([item.crowd for item in objects], np.bool_),
            areas=_joined([item.areas for item in objects], np.float32),
            runs=np.array([runs for item in objects for runs in item.runs], np.dtypes.StringDType()),
            object_rings=starts(per_object),
            ring_points=starts([len(ring) for ring in rings]),
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

    def example(self, index: int, limits: ImageLimits = DEFAULT_LIMITS) -> Example:
        """Image `index` with its objects; raises `ImageError` too where its size is no longer that of its labels."""
        image = self.open(index, limits)
        _require_size(image, self.sizes[index], self.path(index))
        return Example(image, objects=self.objects(index))

    def _part(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        objects, offsets = ranges(self.offsets, chosen)
        rings, object_rings = ranges(self.object_rings, objects)
        points, ring_points = ranges(self.ring_points, rings)
        own = {key: getattr(self, key)[objects] for key in ("boxes", "labels", "crowd", "areas", "runs")}
        return own | {
            "sizes": self.sizes[chosen], "offsets": offsets, "object_rings": object_rings,
            "ring_points": ring_points, "points": self.points[points],
        }  # fmt: skip

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
        root, names, members: as in `ImageFiles`; N images.
        masks, mask_members: (N,) names of the mask files below the same root, and their places in an archive.
        sizes: (N, 2) int64, height and width of each upright image.
        table: what a mask's values mean: (V,) uint8, class index of each grey or palette value, `IGNORE` for none
            and for every value from V up; or where masks are coloured (K, 3) uint8, the colour of each class.
    """

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
        members, name = self.mask_members, str(self.masks[index])
        source = path if members is None else read_member(self.root, name, members[index], limits)
        image = open_mask_image(source, name=path, limits=limits)
        height, width = self.sizes[index].tolist()
        if image.size != (width, height):
            raise ImageError(
                f"The mask {path!r} is {image.width} x {image.height}, its image {width} x {height} (width x height)."
            )
        return self._classes_of(image)

    def parts(self, index: int) -> list[Part]:
        """Those of the image and of its mask."""
        return super().parts(index) + _parts(self.root, self.masks, self.mask_members, index)

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

    def example(self, index: int, limits: ImageLimits = DEFAULT_LIMITS) -> Example:
        """Image `index` with its mask; raises `ImageError` too where its size is no longer that of its labels."""
        image = self.open(index, limits)
        _require_size(image, self.sizes[index], self.path(index))
        return Example(image, mask=self.open_mask(index, limits))

    def _part(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        mask_members = None if self.mask_members is None else self.mask_members[chosen]
        return {"masks": self.masks[chosen], "mask_members": mask_members, "sizes": self.sizes[chosen]}

    def describe(self, classes: Sequence[str]) -> str:
        """One line: images and the sizes they have."""
        height, width = np.median(self.sizes, axis=0).astype(int).tolist()
        images = counted(len(self), "image with a mask", "images with masks")
        return f"{images} of {counted(len(classes), 'class', 'classes')}, median size {width} x {height}"


def _parts(root: str, names: NDArray[np.str_], members: Members | None, index: int) -> list[Part]:
    if members is None or members["method"][index] != IN_TAR:
        return []
    return [part_of(root, str(names[index]), members[index])]


def starts(lengths: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
    """(n + 1,) where each of n parts of these lengths begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)


def ranges(offsets: NDArray[np.int64], chosen: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The items of the parts `chosen` one after the other, where part i is `offsets[i]` to `offsets[i + 1]`.

    Returns:
        (n,) indices of the items, and the offsets of the chosen parts among them.
    """
    lengths = (offsets[1:] - offsets[:-1])[chosen]
    begins = starts(lengths)
    return np.arange(begins[-1]) + np.repeat(offsets[:-1][chosen] - begins[:-1], lengths), begins


def _rows(indices: Rows) -> NDArray[np.int64]:
    return np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), np.int64)


def _require_size(image: Image.Image, size: NDArray[np.int64], path: str) -> None:
    height, width = size.tolist()
    if image.size != (width, height):
        raise ImageError(
            f"{path!r} is {image.width} x {image.height} (width x height), but its labels are for {width} x {height}.",
            "It was changed since the data set was read: start again.",
        )


def _joined(parts: Sequence[NDArray[np.generic]], dtype: type[np.generic], columns: int | None = None) -> NDArray:  # type: ignore[type-arg]
    shape = (-1,) if columns is None else (-1, columns)
    return np.concatenate([np.asarray(part, dtype).reshape(shape) for part in parts] or [np.empty(0, dtype)]).reshape(
        shape
    )
