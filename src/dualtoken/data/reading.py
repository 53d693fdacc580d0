"""From a plan to samples: one function for each kind of target, and what they have in common.

Each takes a plan and the images' frames, and gives all images as samples; what is wrong goes to the plan's problems.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.dtypes import StringDType
from numpy.typing import NDArray

from dualtoken.data.dataset import BadLabel
from dualtoken.data.frames import Frames, in_threads
from dualtoken.data.mask_values import (
    MaskFacts,
    MaskKey,
    classes_in,
    decide_key,
    mask_facts,
    mask_problem,
    without_class,
)
from dualtoken.data.objects import Fault, check_objects, size_words
from dualtoken.data.plans import HINT, ClassPlan, LabelPlan, MaskPlan, NoClassesError, ObjectPlan, Plan, Problem, some
from dualtoken.data.samples import IGNORE, ImageFiles, LabelSamples, MaskSamples, ObjectSamples, Samples
from dualtoken.data.tree import Tree
from dualtoken.errors import DataError, ImageError, shown_name, unknown_name
from dualtoken.images import ImageLimits, check_image
from dualtoken.words import counted

OnBadImage = Literal["fail", "skip"]
OnBadLabel = Literal["fail", "drop", "clip"]
_MOST_SIDE = 10**9  # of an image, as labels say it, in messages
_TOGETHER = 10_000  # rows of a digest
_MASKS_DECODED = 5_000  # of a data set too large to decode every mask


@dataclass(frozen=True)
class Asked:
    """How a data set is to be read; the arguments of `find_data` with the same names say what they mean."""

    on_bad_image: OnBadImage
    on_bad_label: OnBadLabel
    limits: ImageLimits
    progress: bool
    full: bool
    outlines: bool
    classes: Sequence[str] | None


@dataclass(eq=False)
class Reading:
    """All images of a data set with their labels.

    Attributes:
        classes: class names; labels are indices into them.
        samples: of all N images, also those that cannot be used.
        good: (N,) which can.
        fingerprint: sha256 over names, sizes, given splits and labels of the images used.
        strata: (N,) class of each image, K for none: `val` is to have its share of each; None where images are drawn
            alike.
        dropped: labels left out.
        truth: (N,) whether an image has a label that can be learned from.
        ignored: (N, 2) pixels of each mask without a class, and all of them.
    """

    classes: tuple[str, ...]
    samples: Any
    good: NDArray[np.bool_]
    fingerprint: Callable[[Plan], str]
    strata: NDArray[np.int64] | None = None
    dropped: list[BadLabel] = field(default_factory=list)
    truth: NDArray[np.bool_] | None = None
    ignored: NDArray[np.int64] | None = None


def refuse(problems: Sequence[Problem], hint: str = HINT, shown: int = 5) -> None:
    """Raise `DataError` with the first few problems, where there are any."""
    if problems:
        lines = [f"  {reason}" for _, reason in problems[:shown]]
        lines += [f"  and {len(problems) - shown} more"] if len(problems) > shown else []
        what = counted(len(problems), "image or label", "images or labels")
        raise DataError("\n".join([f"{what} cannot be used:", *lines]), hint)


def splits_of_images(plan: Plan) -> list[list[str]]:
    """The given splits of each image, in their order."""
    found: list[list[str]] = [[] for _ in plan.images]
    for split, indices in plan.splits.items():
        for index in indices:
            found[index].append(split)
    return found


# ---------------------------------------------------------------- classes


def read_classes(plan: ClassPlan, files: ImageFiles, look: Callable[[], Frames], asked: Asked) -> Reading:
    """A class for each image; names are judged before any image is opened."""
    shown = {label: shown_name(label) for label in set(plan.labels)}  # names of folders, which may hold anything
    plan.labels = [shown[label] for label in plan.labels]
    if plan.empty and asked.classes is None:
        raise NoClassesError(
            f"{counted(len(plan.empty), 'class folder')} in {plan.tree.root!r} without images: {some(plan.empty)}.",
            "Fill or remove them: a class without images cannot be learned.",
        )
    names = _class_names(plan, _by_split(plan, [(label,) for label in plan.labels]), asked.classes)
    plan.notes += [f"{folder!r} holds no images" for folder in plan.empty]
    if len(names) < 2 and asked.classes is None:
        raise NoClassesError(
            f"{plan.tree.root!r} has one class only: {some(names)}.",
            "At least two class folders are needed; the other one may simply hold everything else.",
        )
    index = {name: label for label, name in enumerate(names)}
    labels = np.array([index[label] for label in plan.labels], np.int64)
    frames = look()
    samples = Samples(files.root, files.names, files.members, labels)
    return Reading(names, samples, frames.good, lambda _: _label_digest(plan, plan.labels, frames), strata=labels)


def read_labels(plan: LabelPlan, files: ImageFiles, look: Callable[[], Frames], asked: Asked) -> Reading:
    """Any number of classes for each image."""
    sets = [set(map(shown_name, own)) for own in plan.labels]
    names = _class_names(plan, _by_split(plan, sets), asked.classes)
    index = {name: label for label, name in enumerate(names)}
    labels = np.zeros((len(sets), len(names)), bool)
    for row, own in enumerate(sets):
        labels[row, [index[name] for name in own]] = True
    frames = look()
    without = int((~labels[frames.good].any(axis=1)).sum())
    plan.notes += [f"{counted(without, 'image has', 'images have')} no label, which is learned too"] if without else []
    samples = LabelSamples(files.root, files.names, files.members, labels)
    told = ["\1".join(sorted(own)) for own in sets]
    strata = samples.groups()
    return Reading(names, samples, frames.good, lambda _: _label_digest(plan, told, frames), strata=strata)


def _label_digest(plan: Plan, labels: Sequence[str], frames: Frames) -> str:
    """sha256 over names, sizes, labels and given splits of the images used."""
    digest = hashlib.sha256()
    sizes, places, own = plan.tree.sizes, plan.tree.rows, splits_of_images(plan)
    rows = [
        f"{name}\0{sizes[places[name]]}\0{label}\0{''.join(split)}\0"
        for name, label, split, good in zip(plan.images, labels, own, frames.good.tolist(), strict=True)
        if good
    ]
    rows.sort()
    for start in range(0, len(rows), _TOGETHER):
        digest.update("".join(rows[start : start + _TOGETHER]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _by_split(plan: Plan, labels: Sequence[Collection[str]]) -> dict[str, set[str]]:
    """The classes in each split, which is empty where none is given; labels of each image."""
    if not plan.splits:
        return {"": set(chain.from_iterable(labels))}
    return {split: set(chain.from_iterable(labels[row] for row in rows)) for split, rows in plan.splits.items()}


def _class_names(plan: Plan, by_split: dict[str, set[str]], known: Sequence[str] | None) -> tuple[str, ...]:
    """The classes: those of a model if `known`, else those of the training images."""
    present, root = set().union(*by_split.values()), plan.tree.root
    reference = set(known) if known is not None else by_split.get("train", present)
    strangers = sorted(present - reference)
    if strangers:
        whose = "the model" if known is not None else "train"
        raise strange_classes(strangers, sorted(reference), root, whose)
    if known is not None:
        missing = [name for name in known if name not in present]
        plan.notes += [f"no images of {len(missing)} of the model's classes: {some(missing)}"] if missing else []
        return tuple(known)
    for split, names in sorted(by_split.items()):
        missing = sorted(reference - names)
        lacking = counted(len(missing), "class", "classes")
        plan.notes += [f"{split} has no images of {lacking}: {some(missing)}"] if missing else []
    if not reference:
        raise NoClassesError(f"No image of {root!r} has a label ({plan.layout}).", HINT)
    return tuple(sorted(reference))


def strange_classes(strangers: Sequence[str], known: Sequence[str], root: str, whose: str) -> DataError:
    """That some classes are not among those of a model, or of the training images."""
    return DataError(
        f"{counted(len(strangers), 'class', 'classes')} of {root!r} {'is' if len(strangers) == 1 else 'are'} not among"
        f" the classes of {whose}.",
        "\n".join(unknown_name("class", name, known) for name in strangers[:5]),
    )


# ---------------------------------------------------------------- objects


def read_objects(plan: ObjectPlan, files: ImageFiles, look: Callable[[], Frames], asked: Asked) -> Reading:
    """The objects of every image, checked against its frame.

    Raises:
        DataError: there is no object at all, or one of a class that the model does not know.
    """
    frames = look()
    sizes = frames.sizes.copy()
    wrong = _other_sizes(plan, frames)
    sizes[list(wrong)] = 0
    plan.problems += [(files.path(index), reason) for index, reason in sorted(wrong.items())]
    checked, faults = check_objects(
        plan.table, sizes, plan.where, outlines=asked.outlines, clip=asked.on_bad_label == "clip"
    )
    faults = [fault for fault in (*plan.table.faults, *faults) if fault.image < 0 or sizes[fault.image, 0]]
    faults.sort(key=lambda fault: fault.image)
    dropped = _judge(plan, files, faults, sizes, asked)
    good = sizes[:, 0] > 0
    everything = ObjectSamples(
        files.root, files.names, files.members, sizes, checked.offsets, checked.boxes, checked.labels, checked.crowd,
        checked.areas, checked.runs, checked.object_rings, checked.ring_points, checked.points,
    )  # fmt: skip
    used = everything.subset(np.flatnonzero(good))
    counts = used.counts(len(plan.classes))
    if not counts.any():
        refuse(plan.problems)
        raise DataError(
            f"{plan.tree.root!r} has no object in any of {counted(len(files), 'image')} ({plan.layout}).", HINT
        )
    empty = int((np.diff(used.offsets) == 0).sum())
    plan.notes += [f"{counted(empty, 'image has', 'images have')} no objects"] if empty else []
    for number, words in (
        (checked.outlines_lost, ("outline", "cannot be used and is left out: the box is")),
        (checked.duplicates, ("object", "there twice, of which one is left out")),
        (checked.cut, ("object", "cut at the edge of its image")),
    ):
        plan.notes += [_told(number, *words)] if number else []
    plan.notes += plan.notes_of_reading()
    classes, index_of = map_classes(plan.classes, counts > 0, asked.classes, plan.named, plan.notes, plan.tree.root)
    digest = _digest(used, plan)
    plan.forget()
    everything.labels[:] = index_of[everything.labels]
    truth = np.zeros(len(files), bool)
    truth[np.repeat(np.arange(len(files)), np.diff(everything.offsets))[~everything.crowd]] = True
    return Reading(classes, everything, good, lambda _: digest, dropped=dropped, truth=truth & good)


def _told(number: int, noun: str, rest: str) -> str:
    if noun == "object":
        return f"{counted(number, 'object')} {'is' if number == 1 else 'are'} {rest}"
    plural = rest if number == 1 else "cannot be used and are left out: the boxes are"
    return f"{counted(number, noun)} {plural}"


def _other_sizes(plan: ObjectPlan, frames: Frames) -> dict[int, str]:
    """Images of another size than the labels were made for, with the reason."""
    if plan.sizes is None:
        return {}
    given = plan.sizes
    differs = frames.good & ~np.isnan(given).any(1) & (given != frames.sizes).any(1)
    found = {}
    for index in np.flatnonzero(differs).tolist():
        size, lying = frames.sizes[index].tolist(), (given[index] == frames.stored[index]).all()
        labels = (
            f"{plan.where_image(index)}: labels for {size_words(given[index].clip(0, _MOST_SIDE).astype(int).tolist())}"
        )
        if lying:
            found[index] = (
                f"{labels}, but EXIF turns the image to {size_words(size)}: they were drawn on the image lying on its"
                " side. Remove the orientation from the file (exiftool -Orientation= FILE), or label it upright."
            )
        else:
            found[index] = f"{labels}, but the image is {size_words(size)}."
    return found


def _judge(
    plan: ObjectPlan, files: ImageFiles, faults: Iterable[Fault], sizes: NDArray[np.int64], asked: Asked
) -> list[BadLabel]:
    """Bad labels are left out, or become problems of their images, which then cannot be used."""
    dropped = []
    for fault in faults:
        path = files.path(fault.image) if fault.image >= 0 else plan.tree.root
        if asked.on_bad_label == "fail":
            plan.problems.append((path, fault.message))
            if fault.image >= 0:
                sizes[fault.image] = 0
        else:
            dropped.append(BadLabel(path, fault.kind, fault.message))
    return dropped


def _digest(used: ObjectSamples, plan: ObjectPlan) -> str:
    """sha256 over names, sizes, given splits and objects of the images used, whatever order the files have them in."""
    tree, digest, splits = plan.tree, hashlib.sha256(), splits_of_images(plan)
    row_of = {name: index for index, name in enumerate(plan.images)}
    order = np.argsort(used.names, kind="stable")
    ordered = used.subset(order)
    for name in ordered.names.tolist():
        index = row_of.get(name, 0)
        head = f"{name}\0{tree.sizes[tree.rows.get(name, 0)]}\0{','.join(splits[index])}\0"
        digest.update(head.encode("utf-8", "surrogateescape"))
    ranks = np.argsort(np.argsort(np.array(plan.classes, StringDType())))
    names = sorted({plan.classes[label] for label in np.unique(ordered.labels)})
    digest.update("\0".join(names).encode())
    _, labels = np.unique(ranks[ordered.labels], return_inverse=True)
    for array in (ordered.sizes, ordered.offsets, labels, ordered.boxes, ordered.crowd, ordered.object_rings,
                  ordered.ring_points, ordered.points):  # fmt: skip
        digest.update(np.ascontiguousarray(array).tobytes() + b"\0")
    digest.update("\0".join(ordered.runs[np.strings.str_len(ordered.runs) > 0].tolist()).encode())
    return digest.hexdigest()


def map_classes(
    found: Sequence[str],
    used: NDArray[np.bool_],
    known: Sequence[str] | None,
    named: bool,
    notes: list[str],
    root: str,
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes to use, and the index in them of each one `found`: a model's if `known`, else those found.

    Raises:
        DataError: a class that is `used` is not among those of the model.
    """
    found = list(map(shown_name, found))
    if known is None:
        missing = [name for name, is_used in zip(found, used, strict=True) if not is_used]
        of = f"{len(missing)} of the {counted(len(found), 'class', 'classes')}"
        notes += [f"nothing is of {of}: {some(missing)}"] if missing else []
        return tuple(found), np.arange(len(found))
    used_names = [name for name, is_used in zip(found, used, strict=True) if is_used]
    strangers = [name for name in used_names if name not in known]
    if strangers and not named and len(found) <= len(known):
        notes.append("classes without names are taken for those of the model, in their order")
        return tuple(known), np.arange(len(found))
    if strangers:
        raise strange_classes(strangers, known, root, "the model")
    missing = [name for name in known if name not in used_names]
    notes += [f"nothing is of {len(missing)} of the model's classes: {some(missing)}"] if missing else []
    return tuple(known), np.array([known.index(name) if name in known else -1 for name in found], np.int64)


# ---------------------------------------------------------------- masks


def read_masks(plan: MaskPlan, files: ImageFiles, look: Callable[[], Frames], asked: Asked) -> Reading:
    """What every mask holds, and what its values mean."""
    frames = look()
    names, members = plan.tree.arrays(plan.masks)
    masks = ImageFiles(plan.tree.root, names, members)
    if plan.values is None or plan.looked_at is None or members is None:
        facts, contents = _mask_facts(plan, masks, asked)
    else:
        facts, contents = _known_facts(plan.values, plan.looked_at), [crc.tobytes() for crc in members["crc"]]
    if asked.on_bad_image == "fail":  # what values mean is open as long as some cannot be read
        refuse(plan.problems)
    key = decide_key(plan, list(facts.values()))
    plan.notes += key.notes
    good = np.zeros(len(files), bool)
    for index in np.flatnonzero(frames.good).tolist():
        if index in facts:
            problem = mask_problem(facts[index], frames, index, key, masks.path(index))
            good[index] = problem is None
            plan.problems += [(masks.path(index), problem)] if problem else []
    counts, truth = _mask_counts(plan, facts, good, key)
    classes, index_of = map_classes(key.classes, counts > 0, asked.classes, key.named, plan.notes, plan.tree.root)
    table = _mapped(key.table, index_of, len(classes))
    sizes = np.where(good[:, None], frames.sizes, 0)

    def fingerprint(_: Plan) -> str:
        digest, tree = hashlib.sha256("\0".join(classes).encode()), plan.tree
        splits = splits_of_images(plan)
        for index in sorted(np.flatnonzero(good).tolist(), key=lambda index: (plan.images[index], contents[index])):
            name = plan.images[index]
            head = f"{name}\0{tree.sizes[tree.rows[name]]}\0{','.join(splits[index])}\0"
            digest.update(head.encode("utf-8", "surrogateescape") + contents[index] + b"\0")
        return digest.hexdigest()

    samples = MaskSamples(files.root, files.names, files.members, names, members, sizes, table)
    ignored = np.zeros((len(files), 2), np.int64)
    for index, fact in facts.items():
        ignored[index] = without_class(fact, key), fact.counts.sum()
    return Reading(classes, samples, good, fingerprint, truth=truth, ignored=ignored)


def _mask_facts(plan: MaskPlan, masks: ImageFiles, asked: Asked) -> tuple[dict[int, MaskFacts], list[bytes]]:
    """What each mask holds, by index, and a digest of each; those that cannot be read become problems."""
    step = 1 if asked.full else math.ceil(len(masks) / _MASKS_DECODED)
    coloured = plan.key is not None and plan.key.coloured

    def look(index: int) -> tuple[MaskFacts, bytes]:
        name, content = masks.path(index), _content(plan.tree, plan.masks[index], asked.limits)
        digest = zlib.crc32(content).to_bytes(4, "big")
        if index % step:
            stored = check_image(content, name=name, limits=asked.limits, full=False).stored
            return MaskFacts.unseen(stored, coloured=coloured), digest
        return mask_facts(content, name, asked.limits, coloured=coloured), digest

    facts, contents = dict[int, MaskFacts](), [b""] * len(masks)
    for index, result in in_threads(look, len(masks), progress=asked.progress):
        if isinstance(result, ImageError):
            plan.problems.append((masks.path(index), result.message))
        else:
            facts[index], contents[index] = result
    if step > 1:
        plan.notes.append(f"one mask in {step} was decoded to see which values there are")
    return facts, contents


def _known_facts(values: Sequence[tuple[list[int], list[int]]], sizes: NDArray[np.int64]) -> dict[int, MaskFacts]:
    """What masks hold of which that was found before."""
    return {
        index: MaskFacts((int(height), int(width)), np.array(own, np.int64), np.array(counts, np.int64))
        for index, ((own, counts), (height, width)) in enumerate(zip(values, sizes, strict=True))
    }


def _content(tree: Tree, name: str, limits: ImageLimits) -> bytes:
    """The bytes of a file; raises `ImageError`."""
    if tree.members is None and tree.sizes[tree.rows[name]] > limits.max_bytes:
        raise ImageError(f"{tree.path(name)!r} is larger than {limits.max_bytes:,} bytes, the limit.")
    try:
        return tree.read(name)
    except DataError as error:
        raise ImageError(error.message) from None


def _mask_counts(
    plan: MaskPlan, facts: dict[int, MaskFacts], good: NDArray[np.bool_], key: MaskKey
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(K,) in how many masks each class is, and which masks have any; notes those in which none is."""
    counts, empty, truth = np.zeros(len(key.classes), np.int64), 0, good.copy()
    for index in np.flatnonzero(good).tolist():
        present = classes_in(facts[index], key.table)
        counts[present] += 1
        if len(present) == 0 and len(facts[index].values):
            empty += 1
            truth[index] = False
    if good.any() and not counts.any():
        raise DataError(f"In no mask of {plan.tree.root!r} is a pixel of any class ({plan.layout}).", HINT)
    plan.notes += [f"{counted(empty, 'mask is', 'masks are')} to be ignored altogether"] if empty else []
    return counts, truth


def _mapped(table: NDArray[np.uint8], index_of: NDArray[np.int64], classes: int) -> NDArray[np.uint8]:
    """`table` for other class indices: of `index_of`, -1 for none."""
    if table.ndim == 1:
        longer = np.full(IGNORE + 1, IGNORE, np.uint8)
        longer[: len(index_of)] = np.where(index_of < 0, IGNORE, index_of)
        return longer[table]
    if np.array_equal(index_of, np.arange(classes)):
        return table
    raise DataError(
        "Coloured masks must have the model's classes in the model's order.",
        "Write their class file with all classes of the model, in its order.",
    )


# The kinds of targets: how each is read, and what a plan of it is.
TARGETS: dict[str, Callable[[Any, ImageFiles, Callable[[], Frames], Asked], Reading]] = {
    "classes": read_classes, "labels": read_labels, "objects": read_objects, "masks": read_masks
}  # fmt: skip
