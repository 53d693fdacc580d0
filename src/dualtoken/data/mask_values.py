"""What the values in masks mean: all of them are looked at, and said where that is not plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.frames import Frames
from dualtoken.data.objects import size_words
from dualtoken.data.plans import ClassKey, MaskPlan, some
from dualtoken.data.samples import IGNORE
from dualtoken.errors import DataError, ImageError
from dualtoken.images import ImageLimits, open_mask_image
from dualtoken.words import counted

_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
_RARE, _MOST_SOFT = 0.02, 0.15  # shares of pixels that each value between, and all of them together, may have
_MAX_CLASSES = 254  # a mask in memory has 8 bits, and one value says ignore


class MaskFacts(NamedTuple):
    """What one mask holds: (height, width), its values (V,) or colours (V, 3), and how many pixels each has."""

    size: tuple[int, int]
    values: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def unseen(cls, size: tuple[int, int], *, coloured: bool) -> MaskFacts:
        """Of a mask that was not decoded."""
        return cls(size, np.empty((0, 3) if coloured else 0, np.int64), np.empty(0, np.int64))


def mask_facts(source: str | bytes, name: str, limits: ImageLimits, *, coloured: bool) -> MaskFacts:
    """Decode one mask and list what is in it: its colours if `coloured`, else its values.

    Raises:
        ImageError: it cannot be read, is stored with loss, or has colours where values are expected.
    """
    if name.lower().endswith(_LOSSY):
        raise ImageError(f"The mask {name!r} is a JPEG, which changes values: save masks as PNG.")
    image = open_mask_image(source, name=name, limits=limits)
    size = image.height, image.width
    if coloured:
        pixels = np.asarray(image.convert("RGB")).astype(np.int64) @ np.array([65536, 256, 1])
        colours, counts = np.unique(pixels, return_counts=True)
        return MaskFacts(size, np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1), counts)
    values = np.asarray(image)
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ImageError(
                f"The mask {name!r} is coloured, and no class file gives the colours: "
                "write classes.txt with a line `name r g b` for each class."
            )
        values = values[..., 0]
    if values.dtype == np.uint8:
        bins = np.bincount(values.ravel(), minlength=256)
        return MaskFacts(size, np.flatnonzero(bins), bins[bins > 0])
    found, counts = np.unique(values, return_counts=True)
    return MaskFacts(size, found.astype(np.int64), counts)


@dataclass
class MaskKey:
    """What the values in masks mean, once all are known.

    Attributes:
        classes: their names.
        table: for `MaskSamples`.
        named: whether a file names the classes.
        notes: what a person should know.
        unknown: the values or colours that mean nothing, as rows; their masks are wrong.
    """

    classes: tuple[str, ...]
    table: NDArray[np.uint8]
    named: bool
    notes: list[str]
    unknown: NDArray[np.int64]


def decide_key(plan: MaskPlan, facts: Sequence[MaskFacts]) -> MaskKey:
    """What values mean, from the class file and the `facts` of each mask.

    Raises:
        DataError: without a class file, there are too few or too many values.
    """
    key, found = plan.key, [fact.values for fact in facts]
    if key is not None and key.coloured:
        return _coloured_key(key, found)
    values = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    if key is None:
        shares = _shares(values, facts)
        _refuse_soft_edges(plan, values, shares)
        return _invented_key(plan, values, shares)
    notes = _ignored_note(key)
    known, index = key.values, key.indices
    if len(key.classes) == 2 and known.tolist() == [0, 1] and values.tolist() in ([0, IGNORE], [IGNORE]):
        known = np.array([0, IGNORE])
        notes.append(f"the masks hold 0 and 255 only: 255 is {key.classes[1]!r}")
    table = _table(known, index)
    unknown = np.setdiff1d(values, [*known.tolist(), IGNORE])
    if len(unknown) == 1:
        notes.append(f"the value {unknown[0]} has no class in {key.where!r}: its pixels neither train nor count")
        unknown = unknown[:0]
    return MaskKey(key.classes, table, True, notes, unknown)


def _coloured_key(key: ClassKey, found: Sequence[NDArray[np.int64]]) -> MaskKey:
    kept = key.indices != IGNORE
    table = key.values[kept][np.argsort(key.indices[kept])].astype(np.uint8)
    colours = np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 3), np.int64)
    known = {tuple(colour) for colour in key.values.tolist()}
    unknown = np.array([colour for colour in colours.tolist() if tuple(colour) not in known]).reshape(-1, 3)
    notes = _ignored_note(key)
    if len(unknown) == 1:
        colour = " ".join(map(str, unknown[0]))
        notes.append(f"the colour {colour} has no class in {key.where!r}: its pixels neither train nor count")
        unknown = unknown[:0]
    return MaskKey(key.classes, table, True, notes, unknown)


def _shares(values: NDArray[np.int64], facts: Sequence[MaskFacts]) -> NDArray[np.float64]:
    """(V,) share of all pixels that have each value."""
    counts = np.zeros(len(values), np.int64)
    for fact in facts:
        counts[np.searchsorted(values, fact.values)] += fact.counts
    return counts / max(1, counts.sum())


def _soft(values: NDArray[np.int64], shares: NDArray[np.float64]) -> bool:
    """Whether values between black and white look like smoothed edges: several, and each of few pixels."""
    between = (values > 0) & (values < IGNORE)
    return bool(
        {0, IGNORE} <= set(values.tolist()) and between.sum() > 1 and shares[between].max() < _RARE
        and shares[between].sum() < _MOST_SOFT
    )  # fmt: skip


def _refuse_soft_edges(plan: MaskPlan, values: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    if _soft(values, shares):
        ends = shares[(values == 0) | (values == IGNORE)].sum()
        raise DataError(
            f"The masks in {plan.tree.root!r} hold {len(values)} values: 0 and 255 have {ends:.0%} of the pixels, those"
            " between look like soft edges, as smoothing makes them.",
            "Save masks with hard edges (0 where a value is below 128, else 255), or name all values in classes.txt.",
        )


def _invented_key(plan: MaskPlan, values: NDArray[np.int64], shares: NDArray[np.float64]) -> MaskKey:
    binary = set(values.tolist()) <= {0, IGNORE} and IGNORE in values
    numbered = values[values != IGNORE]
    levels = np.linspace(0, IGNORE, len(values))
    drawn = len(values) > 2 and bool((np.abs(values - levels) <= 1).all())  # grey levels such as 0, 128, 255
    kept = values if binary or drawn else numbered
    if len(kept) < 2:
        raise DataError(
            f"The masks in {plan.tree.root!r} hold {counted(len(kept), 'value')} besides {IGNORE}, expected 2 or more.",
            "A class file, classes.txt with a name a line, says which values are classes.",
        )
    if len(kept) > _MAX_CLASSES:
        raise DataError(
            f"The masks in {plan.tree.root!r} hold {len(kept)} values, expected at most {_MAX_CLASSES} classes.",
            "Do they number the objects rather than the classes?",
        )
    classes = tuple(f"class_{value}" for value in kept)
    notes = [f"no classes.txt names the classes: they are called after the values found, {some(classes)}"]
    notes += ["the masks hold 0 and 255 only: 255 is taken as a class"] if binary else []
    if drawn and not binary:
        notes.append(f"the values {', '.join(map(str, kept))} look like grey levels: 255 is taken as a class, too")
    elif IGNORE in values and not binary:
        share = shares[values == IGNORE].sum()
        notes.append(f"255 has no class and is ignored: {share:.1%} of the pixels; a class file can name it")
    return MaskKey(classes, _table(kept, np.arange(len(kept))), False, notes, values[:0])


def _ignored_note(key: ClassKey) -> list[str]:
    ignored = int((key.indices == IGNORE).sum())
    if not ignored:
        return []
    return [f"{counted(ignored, 'class is', 'classes are')} called void or ignore: such pixels neither train nor count"]


def _table(values: NDArray[np.int64], index: NDArray[np.integer]) -> NDArray[np.uint8]:
    table = np.full(int(values.max()) + 1, IGNORE, np.uint8)
    table[values] = index
    return table


def classes_in(facts: MaskFacts, table: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Which class indices a mask with these values holds."""
    if table.ndim == 1:
        index = table[facts.values[facts.values < len(table)]]
        return np.unique(index[index != IGNORE]).astype(np.int64)
    places = {tuple(colour): place for place, colour in enumerate(table.tolist())}
    return np.array(sorted({places[c] for c in map(tuple, facts.values.tolist()) if c in places}), np.int64)


def without_class(facts: MaskFacts, key: MaskKey) -> int:
    """How many pixels of a mask carry no class."""
    if key.table.ndim == 2:
        known = {tuple(colour) for colour in key.table.tolist()}
        return sum(
            n for c, n in zip(facts.values.tolist(), facts.counts.tolist(), strict=True) if tuple(c) not in known
        )
    classes = np.append(key.table, np.uint8(IGNORE))[facts.values.clip(max=len(key.table))]
    return int(facts.counts[classes == IGNORE].sum())


def mask_problem(facts: MaskFacts, frames: Frames, index: int, key: MaskKey, path: str) -> str | None:
    """What is wrong with the mask of image `index`; None where nothing is."""
    size, stored = tuple(frames.sizes[index].tolist()), tuple(frames.stored[index].tolist())
    if facts.size != size:
        turned = ""
        if facts.size == stored:
            turned = (
                " EXIF turns the image, the mask was drawn on it lying on its side: remove the orientation from it."
            )
        return f"The mask {path!r} is {size_words(facts.size)}, its image {size_words(size)}.{turned}"
    unknown = {tuple(np.atleast_1d(value).tolist()) for value in key.unknown}
    wrong = [value for value in facts.values.tolist() if tuple(np.atleast_1d(value).tolist()) in unknown]
    if not wrong:
        return None
    shown = ", ".join(" ".join(map(str, np.atleast_1d(value).tolist())) for value in wrong[:5])
    if key.table.ndim != 2 and {0, IGNORE} <= set(facts.values.tolist()) and len(wrong) > 1:
        shown += " (values between 0 and 255 look like soft edges: save masks with hard ones)"
    expected = "colours of the class file" if key.table.ndim == 2 else f"{len(key.classes)} classes and {IGNORE}"
    return f"The mask {path!r} has values without a class: {shown}; expected {expected}."
