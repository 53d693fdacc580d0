"""Detections: the objects found in one image, as boxes or as boxes with masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import require
from dualtoken.outputs.common import in_words

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Detections:
    """The answer for one image: n objects, the most confident first; n may be 0.

    They may be given in any order and are kept sorted by score; equal scores stay in their order.

    Attributes:
        classes: K class names; a label is an index into them.
        size: (height, width) of the upright image.
        boxes: (n, 4) float32, left, top, right, bottom in the image's pixels.
        scores: (n,) float32 in [0, 1].
        labels: (n,) int64, 0 to K - 1.
        masks: n arrays (rows, columns) of bool, the part of the image where the object lies; None for boxes only.
        corners: (n, 2) int64, left and top pixel of each mask in the image; None where `masks` is.
        path: the image's path or name, None for pixels without one.

    Raises:
        ValueError: the arrays do not fit together, a number is out of its range, or a mask leaves the image.
    """

    classes: tuple[str, ...]
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: tuple[Mask, ...] | None = None
    corners: NDArray[np.int64] | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        height, width = self.size
        self._set("classes", tuple(self.classes))
        self._set("size", (int(height), int(width)))
        self._set("boxes", np.asarray(self.boxes, np.float32))
        self._set("scores", np.asarray(self.scores, np.float32))
        self._set("labels", np.asarray(self.labels, np.int64))
        self._check_objects()
        if (self.masks is None) != (self.corners is None):
            raise ValueError("masks and corners belong together: one was given without the other.")
        if self.masks is not None:
            self._set("masks", tuple(np.asarray(mask, np.bool_) for mask in self.masks))
            self._set("corners", np.asarray(self.corners, np.int64).reshape(-1, 2))
            self._check_masks()
        if np.any(np.diff(self.scores) > 0):
            self._sort()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_objects(self) -> None:
        number = len(self.scores) if self.scores.ndim == 1 else -1
        if self.boxes.shape != (number, 4) or self.labels.shape != (number,):
            raise ValueError(
                f"boxes {self.boxes.shape}, scores {self.scores.shape} and labels {self.labels.shape} do not fit"
                " together, expected (n, 4), (n,) and (n,)."
            )
        if min(self.size) < 1:
            raise ValueError(f"size is {self.size}, expected (height, width), both 1 or more.")
        if not np.isfinite(self.boxes).all() or np.any(self.boxes[:, :2] > self.boxes[:, 2:]):
            raise ValueError("boxes must be finite, with left <= right and top <= bottom.")
        if not np.all((self.scores >= 0) & (self.scores <= 1)):  # so written, NaN fails too
            raise ValueError("scores must lie in 0 to 1.")
        if not np.all((self.labels >= 0) & (self.labels < len(self.classes))):
            raise ValueError(f"labels must lie in 0 to {len(self.classes) - 1}, the places of the class names.")

    def _check_masks(self) -> None:
        if self.masks is None or self.corners is None:
            return
        if len(self.masks) != len(self) or len(self.corners) != len(self):
            raise ValueError(f"{len(self.masks)} masks and {len(self.corners)} corners for {len(self)} objects.")
        for mask, (left, top) in zip(self.masks, self.corners.tolist(), strict=True):
            fits = mask.ndim == 2 and left >= 0 and top >= 0
            if not fits or top + mask.shape[0] > self.size[0] or left + mask.shape[1] > self.size[1]:
                raise ValueError(f"a mask {mask.shape} at left {left}, top {top} leaves the image {self.size}.")

    def _sort(self) -> None:
        order = np.argsort(-self.scores, kind="stable")
        for name in ("boxes", "scores", "labels"):
            self._set(name, getattr(self, name)[order])
        if self.masks is not None and self.corners is not None:
            self._set("masks", tuple(self.masks[place] for place in order.tolist()))
            self._set("corners", self.corners[order])

    def __len__(self) -> int:
        return len(self.scores)

    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.classes[label] for label in self.labels.tolist()]

    def mask(self, index: int) -> Mask:
        """(height, width), where object `index` lies in the whole image; the pixels of its box if it has no mask."""
        whole = np.zeros(self.size, np.bool_)
        if self.masks is None or self.corners is None:
            left, top, right, bottom = np.round(self.boxes[index]).astype(int).clip(0).tolist()
            whole[top:bottom, left:right] = True
        else:
            part, (left, top) = self.masks[index], self.corners[index].tolist()
            whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        return whole

    def full_masks(self) -> NDArray[np.bool_]:
        """(n, height, width): `mask` of every object, n times the image's pixels in bytes."""
        masks = np.zeros((len(self), *self.size), np.bool_)
        for index in range(len(self)):
            masks[index] = self.mask(index)
        return masks

    def take(self, indices: Sequence[int] | NDArray[np.integer[Any]] | slice) -> Detections:
        """The objects at `indices`."""
        places = np.arange(len(self))[indices if isinstance(indices, slice) else np.asarray(indices, np.int64)]
        return replace(
            self,
            boxes=self.boxes[places],
            scores=self.scores[places],
            labels=self.labels[places],
            masks=None if self.masks is None else tuple(self.masks[place] for place in places.tolist()),
            corners=None if self.corners is None else self.corners[places],
        )

    def reordered(self, classes: tuple[str, ...]) -> Detections:
        """The same objects with the classes in another order."""
        places = np.array([classes.index(name) for name in self.classes], np.int64)
        return replace(self, classes=classes, labels=places[self.labels])

    def above(self, score: float) -> Detections:
        """The objects with a confidence of `score` or more."""
        return self.take(slice(0, int(np.count_nonzero(self.scores >= np.float32(score)))))

    def runs(self, index: int) -> dict[str, Any]:
        """The mask of object `index` as COCO's compressed run lengths: `size` (height, width) and `counts`.

        Raises:
            ValueError: there are no masks.
        """
        if self.masks is None or self.corners is None:
            raise ValueError("these detections have boxes only, no masks.")
        left, top = self.corners[index].tolist()
        return {"size": list(self.size), "counts": encode_runs(self.masks[index], (left, top), self.size)}

    def describe(self, most: int = 5) -> str:
        """What was found, in a few words: `3 person, 1 dog`; the `most` frequent classes."""
        return in_words([f"{number} {name}" for name, number in Counter(self.names()).most_common()], most)

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """As JSON-friendly values; `top` is for classes of whole images.

        `path`, `height`, `width`, and `objects`, each with `label`, `score`, `box` (left, top, right, bottom, to a
        thousandth of a pixel) and where there are masks `mask`, COCO's compressed run lengths.
        """
        objects: list[dict[str, Any]] = [
            {"label": name, "score": score, "box": [round(edge, 3) for edge in box]}
            for name, score, box in zip(self.names(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        ]
        if self.masks is not None:
            objects = [found | {"mask": self.runs(index)} for index, found in enumerate(objects)]
        return {"path": self.path, "height": self.size[0], "width": self.size[1], "objects": objects}

    def to_supervision(self) -> Any:
        """As `supervision.Detections`, with `class_name` among its data.

        Raises:
            MissingExtraError: the package supervision is not installed.
        """
        supervision = require("supervision", "supervision")
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            mask=None if self.masks is None else self.full_masks(),
            confidence=self.scores.copy(),
            class_id=self.labels.copy(),
            data={"class_name": np.array(self.names(), np.str_)},
        )


def encode_runs(mask: Mask, corner: tuple[int, int], size: tuple[int, int]) -> str:
    """A mask as COCO's compressed run lengths: columns from the left, each from the top, zeros first.

    Args:
        mask: (rows, columns), a part of the image; outside it there is nothing.
        corner: (left, top) of that part.
        size: (height, width) of the image.

    Returns:
        The `counts` that pycocotools reads, as text.
    """
    left, top = corner
    columns, rows = np.nonzero(mask.T)  # in the order of the runs
    places = (columns + left) * size[0] + rows + top
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    starts = places[np.concatenate([[0], breaks])] if len(places) else places
    ends = places[np.concatenate([breaks, [len(places)]]) - 1] + 1 if len(places) else places
    edges = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [size[0] * size[1]]])
    lengths = np.diff(edges).tolist()
    if lengths[-1] == 0 and len(lengths) > 1:
        lengths.pop()
    # From the fourth on, COCO writes how a length differs from the one of its kind before.
    return "".join(
        _characters(length - lengths[place - 2] if place > 2 else length) for place, length in enumerate(lengths)
    )


def _characters(number: int) -> str:
    """Groups of 5 bits, lowest first, each a character from "0" on; the sixth bit says that more follow."""
    text = ""
    while True:
        group, number = number & 31, number >> 5
        done = number == (-1 if group & 16 else 0)  # the last group's highest bit is the sign
        text += chr(48 + (group if done else group | 32))
        if done:
            return text
