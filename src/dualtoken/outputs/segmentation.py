"""Segmentation: the class of every pixel of one image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import require
from dualtoken.outputs.common import in_words
from dualtoken.words import counted


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer for one image.

    Attributes:
        classes: K class names, 255 at most; a value of `mask` is an index into them.
        mask: (height, width) uint8, the class of each pixel of the upright image, 0 to K - 1.
        confidence: (height, width) float32 in [0, 1], the probability of that class; None if it is not known.
        path: the image's path or name, None for pixels without one.

    Raises:
        ValueError: the arrays have other shapes, or hold a number out of its range.
    """

    classes: tuple[str, ...]
    mask: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        mask = np.asarray(self.mask)
        object.__setattr__(self, "classes", tuple(self.classes))
        if not 1 <= len(self.classes) <= 255:
            raise ValueError(f"{counted(len(self.classes), 'class', 'classes')}, expected 1 to 255.")
        if mask.ndim != 2 or mask.size == 0:
            raise ValueError(f"mask has shape {mask.shape}, expected (height, width), both 1 or more.")
        if not np.issubdtype(mask.dtype, np.integer) or mask.min() < 0 or mask.max() >= len(self.classes):
            raise ValueError(
                f"mask holds {mask.min()} to {mask.max()} as {mask.dtype}, expected whole numbers from 0 to"
                f" {len(self.classes) - 1}."
            )
        object.__setattr__(self, "mask", mask.astype(np.uint8, copy=False))
        if self.confidence is not None:
            confidence = np.asarray(self.confidence, np.float32)
            object.__setattr__(self, "confidence", confidence)
            if confidence.shape != mask.shape:
                raise ValueError(f"confidence has shape {confidence.shape}, the mask {mask.shape}.")
            if not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-6):  # so written, NaN fails too
                raise ValueError("confidence must lie in 0 to 1.")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        height, width = self.mask.shape
        return height, width

    def shares(self) -> dict[str, float]:
        """Each class name with its share of the pixels, 0 where it does not occur, in the order of `classes`."""
        return dict(zip(self.classes, (self._counts() / self.mask.size).tolist(), strict=True))

    def present(self) -> list[int]:
        """The classes that occur, as numbers, the largest first."""
        counts = self._counts()
        order = np.argsort(-counts, kind="stable")
        return order[counts[order] > 0].tolist()

    def reordered(self, classes: tuple[str, ...]) -> Segmentation:
        """The same regions with the classes in another order."""
        places = np.array([classes.index(name) for name in self.classes], np.uint8)
        return replace(self, classes=classes, mask=places[self.mask])

    def _counts(self) -> NDArray[np.int64]:
        return np.bincount(self.mask.ravel(), minlength=len(self.classes))

    def _confidences(self) -> list[float | None]:
        """The mean probability over the pixels of each class; None where it is not known or does not occur."""
        if self.confidence is None:
            return [None] * len(self.classes)
        counts = self._counts()
        sums = np.bincount(self.mask.ravel(), self.confidence.ravel(), len(self.classes))
        return [
            min(total / count, 1.0) if count else None
            for total, count in zip(sums.tolist(), counts.tolist(), strict=True)
        ]

    def describe(self, most: int = 5) -> str:
        """What is there, in a few words: `road 41 %, sky 20 %`; the `most` classes with most pixels."""
        shares = self.shares()
        names = [self.classes[label] for label in self.present()]
        return in_words([f"{name} {100 * shares[name]:.0f} %" for name in names], most)

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """As JSON-friendly values; `top` is for classes of whole images.

        `path`, `height`, `width`, and `regions`, one for each class that occurs, the largest first, with `label`,
        `share` of the pixels and `score`, their mean probability or None. The pixels are not among them: they
        belong in a PNG file.
        """
        shares, scores = self.shares(), self._confidences()
        regions = [
            {"label": self.classes[label], "share": shares[self.classes[label]], "score": scores[label]}
            for label in self.present()
        ]
        return {"path": self.path, "height": self.size[0], "width": self.size[1], "regions": regions}

    def to_supervision(self) -> Any:
        """As `supervision.Detections`: one object for each class that occurs, with all its pixels as the mask.

        Raises:
            MissingExtraError: the package supervision is not installed.
        """
        supervision = require("supervision", "supervision")
        labels = sorted(self.present())
        masks = np.stack([self.mask == label for label in labels])
        scores = self._confidences()
        return supervision.Detections(
            xyxy=np.array([_box(mask) for mask in masks], np.float32),
            mask=masks,
            confidence=None if self.confidence is None else np.array([scores[label] for label in labels], np.float32),
            class_id=np.array(labels, np.int64),
            data={"class_name": np.array([self.classes[label] for label in labels], np.str_)},
        )


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom around the pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
