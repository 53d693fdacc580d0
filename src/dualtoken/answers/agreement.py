"""Whether two engines' answers to the same image are the same, task by task.

The rules are for answers whose raw outputs were found equal within a small limit. Then whatever still differs can only
be a choice between two things that are closer to each other than that limit: a *tie*, which is counted and is no
disagreement. Everything else is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.decode import DetectorSpec
from dualtoken.outputs import Classification, Detections, Labels, Segmentation
from dualtoken.words import counted

_SAME_BOX = 0.99  # intersection over union from which two boxes are one
_IOU_TIE = 2e-3  # as close to the limit of repetitions, so that rounding decides
_SAME_MASK = 0.99
_MANY = 2
_CANDIDATES = 10_000  # more than a detector has


Candidates = Callable[[], tuple[Detections, Detections]]


class Agreement:
    """Compares answers one by one and remembers the figures. By itself it leaves it all to the raw outputs.

    Args:
        limit: of what may differ by rounding: scores, probabilities.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.images = self.same = self.ties = 0

    def add(self, ours: Any, theirs: Any, candidates: Candidates | None = None) -> str:
        """Compare two answers to one image.

        Args:
            ours, theirs: the answers.
            candidates: gives what each of the two chose from, see `loosened`; without it no object may come or go.

        Returns:
            What disagrees, in words; empty where nothing does.
        """
        self.images += 1
        return ""

    def figures(self) -> dict[str, Any]:
        """Everything added so far, as JSON-friendly values."""
        return {"images": self.images}

    def line(self) -> str:
        """The same in a few words."""
        return f"{counted(self.images, 'image')} predicted"

    def further(self) -> dict[str, dict[str, Any]]:
        """What no answer showed so far, and the `head_args` under which answers do: none, one or many objects."""
        return {}

    def loosened(self, config: Any) -> Any:
        """The config of a model under which it gives all that it chooses from; None where nothing is chosen."""
        return None


class ClassAgreement(Agreement):
    """Whether the most probable class is the same."""

    def __init__(self, limit: float) -> None:
        super().__init__(limit)
        self.probability_error = 0.0

    def add(self, ours: Classification, theirs: Classification, candidates: Candidates | None = None) -> str:
        self.images += 1
        error = float(np.abs(ours.probabilities - theirs.probabilities).max())
        self.probability_error = max(self.probability_error, error)
        if ours.label == theirs.label:
            self.same += 1
            return ""
        mine = ours.probabilities
        if mine.max() - mine[int(theirs.probabilities.argmax())] <= self.limit:
            self.ties += 1
            return ""
        return f"it predicts {theirs.label!r} ({theirs.score:.3f}) and not {ours.label!r} ({ours.score:.3f})"

    def figures(self) -> dict[str, Any]:
        return {
            "top1_agreement": (self.same + self.ties) / max(self.images, 1),
            "ties": self.ties,
            "max_probability_error": self.probability_error,
        }

    def line(self) -> str:
        return f"top-1 the same for {self.same + self.ties} of {self.images}{_ties(self.ties)}"


class LabelAgreement(Agreement):
    """Whether the same classes reach their thresholds.

    Args:
        limit: of probabilities.
        thresholds: (K,) of the model.
    """

    def __init__(self, limit: float, thresholds: NDArray[np.float32]) -> None:
        super().__init__(limit)
        self.thresholds, self.probability_error = thresholds, 0.0

    def add(self, ours: Labels, theirs: Labels, candidates: Candidates | None = None) -> str:
        self.images += 1
        error = np.abs(ours.probabilities - theirs.probabilities)
        self.probability_error = max(self.probability_error, float(error.max()))
        differ = (ours.probabilities >= self.thresholds) != (theirs.probabilities >= self.thresholds)
        wrong = np.flatnonzero(differ & (error > self.limit))
        self.ties += int(differ.sum()) - len(wrong)
        self.same += not len(wrong)
        if not len(wrong):
            return ""
        place = int(wrong[0])
        name = ours.classes[place]
        return (
            f"the probability of {name!r} is {theirs.probabilities[place]:.4f} and not {ours.probabilities[place]:.4f}"
        )

    def figures(self) -> dict[str, Any]:
        return {
            "label_agreement": self.same / max(self.images, 1),
            "ties": self.ties,
            "max_probability_error": self.probability_error,
        }

    def line(self) -> str:
        return f"labels the same for {self.same} of {self.images}{_ties(self.ties)}"


class PixelAgreement(Agreement):
    """Whether each pixel has the same class."""

    def __init__(self, limit: float) -> None:
        super().__init__(limit)
        self.pixels = 0
        self.confidence_error = 0.0

    def add(self, ours: Segmentation, theirs: Segmentation, candidates: Candidates | None = None) -> str:
        if ours.mask.shape != theirs.mask.shape:
            return f"its mask is {theirs.mask.shape}, not {ours.mask.shape}"
        assert ours.confidence is not None
        assert theirs.confidence is not None
        gap = np.abs(ours.confidence - theirs.confidence)
        self.confidence_error = max(self.confidence_error, float(gap.max()))
        different = ours.mask != theirs.mask
        # Two classes that take turns are equally probable; so are then both winners, and neither above one half.
        tied = different & (gap <= self.limit) & (ours.confidence <= 0.5 + self.limit)
        self.pixels += different.size
        self.same += int(different.size - different.sum())
        self.ties += int(tied.sum())
        wrong = int((different & ~tied).sum())
        has = "has" if wrong == 1 else "have"
        return f"{wrong:,} of its {counted(different.size, 'pixel')} {has} another class" if wrong else ""

    def figures(self) -> dict[str, Any]:
        return {
            "pixel_agreement": (self.same + self.ties) / max(self.pixels, 1),
            "pixels": self.pixels,
            "ties": self.ties,
            "max_confidence_error": self.confidence_error,
        }

    def line(self) -> str:
        share = (self.same + self.ties) / max(self.pixels, 1)
        return f"{100 * share:.4g} % of {self.pixels:,} pixels the same{_ties(self.ties)}"


class ObjectAgreement(Agreement):
    """Whether the same objects are found: boxes, classes, scores and masks.

    Args:
        limit: of scores.
        spec: how the objects were chosen.
        threshold: objects with a lower score are not shown; only for counting images with none, one and many.
    """

    def __init__(self, limit: float, spec: DetectorSpec, threshold: float) -> None:
        super().__init__(limit)
        self.spec, self.threshold = spec, threshold
        self.objects = 0
        self.box_iou = self.mask_iou = 1.0
        self.score_error = 0.0
        self.with_masks = False
        self.counts = {"none": 0, "one": 0, "many": 0}

    def add(self, ours: Detections, theirs: Detections, candidates: Candidates | None = None) -> str:
        self.images += 1
        shown = int((ours.scores >= self.threshold).sum())
        self.counts["none" if shown == 0 else "one" if shown < _MANY else "many"] += 1
        pairs = _paired(ours, theirs)
        self.objects += len(ours)
        self.same += len(pairs)
        reasons = [self._pair(ours, theirs, *pair) for pair in pairs]
        if len(pairs) < max(len(ours), len(theirs)):
            reasons += self._alone(ours, theirs, pairs, candidates)
        return next((reason for reason in reasons if reason), "")

    def _pair(self, ours: Detections, theirs: Detections, one: int, other: int) -> str:
        iou = float(_ious(ours.boxes[[one]], theirs.boxes[[other]])[0, 0])
        error = abs(float(ours.scores[one]) - float(theirs.scores[other]))
        self.box_iou, self.score_error = min(self.box_iou, iou), max(self.score_error, error)
        name = ours.classes[int(ours.labels[one])]
        if not error <= self.limit:
            return f"the score of a {name!r} is {theirs.scores[other]:.5f} and not {ours.scores[one]:.5f}"
        if ours.masks is None or theirs.masks is None:
            return "" if ours.masks is theirs.masks else "one has masks, the other has none"
        self.with_masks = True
        mine, its = _whole(ours, one), _whole(theirs, other)
        union = int((mine | its).sum())
        overlap = float((mine & its).sum() / union) if union else 1.0
        self.mask_iou = min(self.mask_iou, overlap)
        # A box's corner is rounded to pixels before its mask is drawn: one row may come or go.
        if overlap < _SAME_MASK and bool(((mine != its) & ~_edge(mine)).any()):
            return f"the mask of a {name!r} agrees by {overlap:.4f} only"
        return ""

    def _alone(
        self, ours: Detections, theirs: Detections, pairs: list[tuple[int, int]], candidates: Candidates | None
    ) -> list[str]:
        """Objects that only one of the two found, but for those that a tie explains."""
        sides = (ours, theirs)
        known = candidates() if candidates else None
        alone = [sorted(set(range(len(side))) - {pair[n] for pair in pairs}) for n, side in enumerate(sides)]
        explained: list[set[int]] = [set(), set()]
        growing = True
        while growing:  # an object that comes or goes by a tie takes others with it
            growing = False
            for n in (0, 1):
                for place in alone[n]:
                    if place in explained[n] or known is None or not self._holds(known[1 - n], sides[n], place):
                        continue
                    if self._is_tie(sides[n], place, sides[1 - n], set(alone[1 - n]), explained[1 - n]):
                        explained[n].add(place)
                        growing = True
        self.ties += max(map(len, explained))
        missing, added = (sorted(set(alone[n]) - explained[n]) for n in (0, 1))
        return [
            *(f"it misses a {_object(ours, place)}" for place in missing),
            *(f"it finds a {_object(theirs, place)} where there is none" for place in added),
        ]

    def _holds(self, candidates: Detections, side: Detections, place: int) -> bool:
        """Whether the other engine knew an object too, with the same box and score, and chose another."""
        as_sure = np.abs(candidates.scores - side.scores[place]) <= self.limit
        same = as_sure & (candidates.labels == side.labels[place])
        return bool((_ious(side.boxes[[place]], candidates.boxes[same])[0] >= _SAME_BOX).any())

    def _is_tie(self, side: Detections, place: int, other: Detections, alone: set[int], explained: set[int]) -> bool:
        """Whether rounding alone may decide that `other` has no such object."""
        score = float(side.scores[place])
        if score <= self.spec.score_threshold + self.limit:
            return True  # at the edge of what is given at all
        if len(other) >= self.spec.max_detections and score <= float(other.scores.min()) + self.limit:
            return True  # it was one too many
        same = np.flatnonzero(other.labels == side.labels[place])
        ious = _ious(side.boxes[[place]], other.boxes[same])[0]
        for rival, iou in zip(same.tolist(), ious.tolist(), strict=True):
            if iou <= self.spec.iou_threshold - _IOU_TIE:
                continue
            on_the_line = abs(iou - self.spec.iou_threshold) <= _IOU_TIE
            as_sure = abs(float(other.scores[rival]) - score) <= self.limit and rival in alone
            if on_the_line or as_sure or rival in explained:
                return True
        return False

    def figures(self) -> dict[str, Any]:
        masks = {"lowest_mask_iou": self.mask_iou} if self.with_masks else {}
        return {
            "objects": self.objects,
            "matched": self.same,
            "ties": self.ties,
            "lowest_box_iou": self.box_iou,
            "max_score_error": self.score_error,
            **masks,
            "images_by_objects": dict(self.counts),
        }

    def line(self) -> str:
        masks = f", masks {self.mask_iou:.4f}" if self.with_masks else ""
        shown = ", ".join(f"{word} in {number}" for word, number in self.counts.items())
        return (
            f"{self.same:,} of {counted(self.objects, 'object')} the same{_ties(self.ties)}"
            f" (boxes agree by {self.box_iou:.4f}{masks} or more; shown at the model's threshold: {shown})"
        )

    def further(self) -> dict[str, dict[str, Any]]:
        ways: dict[str, dict[str, Any]] = {
            "none": {"score_threshold": 1.0},
            "one": {"score_threshold": 0.0, "max_detections": 1},
            "many": {"score_threshold": 0.0, "max_detections": 20},
        }
        return {word: ways[word] for word, number in self.counts.items() if number == 0}

    def loosened(self, config: Any) -> Any:
        """Boxes before repetitions are left out, and without their masks."""
        least = max(0.0, self.spec.score_threshold - 1e-3)
        args = {"iou_threshold": 1.0, "max_detections": _CANDIDATES, "score_threshold": least}
        head = "faster_rcnn" if config.head == "mask_rcnn" else config.head
        return replace(config, head=head, head_args=config.head_args | args)


def _ties(number: int) -> str:
    return f" ({number:,} by a tie)" if number else ""


def _object(side: Detections, place: int) -> str:
    return f"{side.classes[int(side.labels[place])]!r} with score {side.scores[place]:.4f}"


def _paired(ours: Detections, theirs: Detections) -> list[tuple[int, int]]:
    """Objects that are one, the most confident first: of one class, with boxes that agree."""
    ious = _ious(ours.boxes, theirs.boxes)
    ious[ours.labels[:, None] != theirs.labels[None]] = 0
    free = np.ones(len(theirs), np.bool_)
    pairs = []
    for place in range(len(ours)):
        candidates = np.where(free, ious[place], -1.0)
        best = int(candidates.argmax()) if len(theirs) else -1
        if best >= 0 and candidates[best] >= _SAME_BOX:
            free[best] = False
            pairs.append((place, best))
    return pairs


def _ious(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, 4) and (m, 4) to (n, m); boxes that are the same corner for corner have 1, whatever their area."""
    a, b = ours.astype(np.float64)[:, None], theirs.astype(np.float64)[None]
    shared = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(axis=2)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=2) for box in (a, b)]
    union = areas[0] + areas[1] - shared
    near = np.abs(a - b).max(axis=2) <= 0.01  # of a pixel: boxes thinner than that have no reliable overlap
    return np.where(near, 1.0, shared / np.where(union > 0, union, 1))


def _whole(side: Detections, place: int) -> NDArray[np.bool_]:
    """The mask of one object on the whole image."""
    assert side.masks is not None
    assert side.corners is not None
    canvas = np.zeros(side.size, np.bool_)
    left, top = side.corners[place].tolist()
    mask = side.masks[place]
    canvas[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return canvas


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask, or beside it, with both values among their eight neighbours."""
    framed = np.pad(mask, 1)
    rows, columns = mask.shape
    views = [framed[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    return np.logical_or.reduce(views) & ~np.logical_and.reduce(views)
