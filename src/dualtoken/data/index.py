"""What `find_data` found: which images there are, in which split, with which label.

Everything about single images stands in arrays. Lists of Python objects would be copied page by page into
every loading worker, since reading an object writes its reference count.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.data.archives import Members, read_member
from dualtoken.errors import DataError, unknown_name
from dualtoken.images import DEFAULT_LIMITS, ImageLimits, open_image
from dualtoken.words import counted

BadImage = tuple[str, str]
_SHOWN_BAD_IMAGES = 5


class ImageFiles:
    """Image files in a folder or a zip archive: what the samples of every task are made of.

    Attributes:
        root: the folder or zip archive that `names` are relative to.
        names: (N,) strings, with `/` between the parts; absolute where a CSV file said so.
        members: (N,) place of each image in the zip archive; None for a folder.
    """

    root: str
    names: NDArray[np.str_]
    members: Members | None

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """The image's path as a person would write it; in an archive `archive.zip/folder/image.jpg`."""
        return os.path.join(self.root, str(self.names[index]))  # noqa: PTH118

    def source(self, index: int, limits: ImageLimits = DEFAULT_LIMITS) -> str | bytes:
        """What `open_image` takes: the path, or the bytes of an archive's member."""
        path = self.path(index)
        return path if self.members is None else read_member(self.root, self.members[index], path, limits)

    def open(self, index: int, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
        """Image `index` as 8-bit RGB. Animations give their first frame; `find_data` has noted them.

        Raises:
            ImageError: it cannot be read.
        """
        return open_image(self.source(index, limits), name=self.path(index), limits=limits, warn=False)


@dataclass(frozen=True, eq=False)
class Samples(ImageFiles):
    """The images of one split, each of one class.

    Attributes:
        root, names, members: as in `ImageFiles`; N images.
        labels: (N,) int64, index of the class.
    """

    root: str
    names: NDArray[np.str_]
    labels: NDArray[np.int64]
    members: Members | None = None

    def subset(self, indices: Iterable[int] | NDArray[np.int64]) -> Samples:
        """The images at `indices`, in their order."""
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), np.int64)
        members = None if self.members is None else self.members[chosen]
        return Samples(self.root, self.names[chosen], self.labels[chosen], members)

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
class ImageData:
    """A whole data set.

    Attributes:
        source: the path that it was found at.
        classes: class names; a label is an index into them.
        splits: name (`train`, `val`, `test`, or `all` where nothing was split) to its images: `Samples`, or with
            objects or masks `ObjectSamples` or `MaskSamples`.
        fingerprint: sha256 over names, sizes, classes and given splits of all images that are used.
        bad_images: (path, reason) of the images left out.
        notes: what a person should know before training.
        layout: in which form the images were found.
        val_drawn: whether `val` was drawn from the training images, since the data name none.
    """

    source: str
    classes: tuple[str, ...]
    splits: dict[str, Any]
    fingerprint: str
    bad_images: tuple[BadImage, ...] = ()
    notes: tuple[str, ...] = ()
    layout: str = field(default="class folders")
    val_drawn: bool = False

    def describe(self) -> str:
        """The table printed before training: what was found, how it is split, what is odd about it."""
        rows = [("Data", f"{self.source} ({self.layout})"), ("Classes", self._class_list())]
        rows += [(name, samples.describe(self.classes)) for name, samples in self.splits.items()]
        rows += [("Note", note) for note in self.notes]
        wrong = counted(len(self.bad_images), "image or label", "images or labels")
        rows += [("Left out", f"{wrong} that cannot be used")] if self.bad_images else []
        shown = self.bad_images[:_SHOWN_BAD_IMAGES]
        rows += [("", reason if path in reason else f"{path}: {reason}") for path, reason in shown]
        if len(self.bad_images) > _SHOWN_BAD_IMAGES:
            rows.append(("", f"and {len(self.bad_images) - _SHOWN_BAD_IMAGES} more"))
        return "\n".join(f"{head:<12}{text}".rstrip() for head, text in rows)

    def _class_list(self, shown: int = 10) -> str:
        rest = f", and {len(self.classes) - shown} more" if len(self.classes) > shown else ""
        return f"{len(self.classes)}: {', '.join(self.classes[:shown])}{rest}"


def find_split(data: ImageData, split: str | None = None) -> Any:
    """The images of a split; without a name those of `test`, else `val`, else of the only one.

    Raises:
        DataError: there is no such split, or none can be chosen.
    """
    if split is not None:
        if split not in data.splits:
            raise DataError(unknown_name("split", split, data.splits), f"These are the splits of {data.source!r}.")
        return data.splits[split]
    for name in ("test", "val"):
        if name in data.splits:
            return data.splits[name]
    if len(data.splits) == 1:
        return next(iter(data.splits.values()))
    raise DataError(f"{data.source!r} has neither a test nor a val split.", "Say which to use: --split NAME.")
