"""Every image of a plan is looked at, and its labels become arrays."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.masks import MaskFacts, MaskKey, MaskPlan, classes_in, decide_key, mask_facts, mask_problem
from dualtoken.data.scene_checks import Files, Frames, frame_of, in_threads
from dualtoken.data.scene_labels import ObjectList, ScenePlan, refuse, some
from dualtoken.data.scenes import IGNORE, MaskSamples, Objects, ObjectSamples
from dualtoken.data.sources import OnBadImage
from dualtoken.errors import DataError, ImageError, unknown_name
from dualtoken.images import ImageLimits
from dualtoken.words import counted

HINT = (
    "Correct or remove them, or leave these images out: --on-bad-image skip. The formats are described in docs/data.md."
)
_MASKS_DECODED = 5_000  # of a data set too large to decode every mask


@dataclass
class Reading:
    """What was read.

    Attributes:
        classes: class names; labels are indices into them.
        good: (N,) which images can be used.
        contents: of each image, a digest of its labels.
        samples: makes samples of the images at some indices.
    """

    classes: tuple[str, ...]
    good: NDArray[np.bool_]
    contents: list[bytes]
    samples: Callable[[list[int]], ObjectSamples | MaskSamples]


def read_objects(
    plan: ScenePlan, files: Files, frames: Frames, task: str | None, known: Sequence[str] | None
) -> Reading:
    """Read the objects of every image with a frame; what is wrong goes to the plan's problems.

    Args:
        known: class names of a model.

    Raises:
        DataError: there is no object at all, or one of a class that the model does not know.
    """
    objects: dict[int, Objects] = {}
    contents = [b""] * len(files)
    for index, frame in frames.good.items():
        found = ObjectList(frame, task == "instance_segmentation")
        try:
            plan.read(index, found)
        except DataError as error:
            plan.problems.append((files.path(index), error.message))
            continue
        objects[index] = found.done()
        contents[index] = _digest(objects[index], plan.classes)
    counts = sum((np.bincount(o.labels[~o.crowd], minlength=len(plan.classes)) for o in objects.values()), start=0)
    counts = np.zeros(len(plan.classes), np.int64) + counts
    if not counts.any():
        refuse(plan.problems, HINT)
        raise DataError(
            f"{plan.tree.root!r} has no object in any of {counted(len(files), 'image')} ({plan.layout}).", HINT
        )
    empty = sum(len(found.labels) == 0 for found in objects.values())
    plan.notes += [f"{counted(empty, 'image has', 'images have')} no objects"] if empty else []
    plan.notes += plan.notes_of_reading()
    classes, index_of = map_classes(plan.classes, counts > 0, known, plan.named, plan.notes, plan.tree.root)
    good = np.zeros(len(files), bool)
    good[list(objects)] = True

    def samples(indices: list[int]) -> ObjectSamples:
        chosen = [objects[index]._replace(labels=index_of[objects[index].labels]) for index in indices]
        members = None if files.members is None else files.members[np.array(indices, np.int64)]
        return ObjectSamples.build(files.root, [str(files.names[index]) for index in indices], chosen, members)

    return Reading(classes, good, contents, samples)


def _digest(objects: Objects, classes: Sequence[str]) -> bytes:
    digest = hashlib.sha256(str(objects.size).encode())
    digest.update("\0".join(classes[label] for label in objects.labels).encode())
    for array in (objects.boxes, objects.crowd, *(ring for rings in objects.outlines for ring in rings)):
        digest.update(array.tobytes() + b"\0")
    digest.update("\0".join(objects.runs).encode())
    return digest.digest()


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
        raise DataError(
            f"{counted(len(strangers), 'class', 'classes')} of {root!r}"
            f" {'is' if len(strangers) == 1 else 'are'} not among the classes of the model.",
            "\n".join(unknown_name("class", name, known) for name in strangers[:5]),
        )
    missing = [name for name in known if name not in used_names]
    notes += [f"nothing is of {len(missing)} of the model's classes: {some(missing)}"] if missing else []
    return tuple(known), np.array([known.index(name) if name in known else -1 for name in found], np.int64)


def read_masks(
    plan: MaskPlan,
    files: Files,
    frames: Frames,
    full: bool,
    limits: ImageLimits,
    progress: bool,
    on_bad_image: OnBadImage,
    known: Sequence[str] | None,
) -> Reading:
    """Read what every mask holds, and decide what its values mean; arguments and errors as for `read_objects`."""
    names, members = plan.tree.arrays(plan.masks)
    masks = Files(plan.tree.root, names, members)
    facts, contents = _mask_facts(plan, masks, full, limits, progress)
    if on_bad_image == "fail":  # what values mean is open as long as some cannot be read
        refuse(plan.problems, HINT)
    key = decide_key(plan, [fact.values for fact in facts.values() if fact.values is not None])
    plan.notes += key.notes
    good = np.zeros(len(files), bool)
    for index, frame in frames.good.items():
        if index in facts:
            problem = mask_problem(facts[index], frame, key, masks.path(index))
            good[index] = problem is None
            plan.problems += [(masks.path(index), problem)] if problem else []
    counts = _mask_counts(plan, facts, good, key)
    classes, index_of = map_classes(key.classes, counts > 0, known, key.named, plan.notes, plan.tree.root)
    table = _mapped(key.table, index_of, len(classes))
    sizes = np.array([frames.good[index].size if good[index] else (0, 0) for index in range(len(files))], np.int64)
    everything = MaskSamples(files.root, files.names, files.members, names, members, sizes.reshape(-1, 2), table)
    return Reading(classes, good, contents, everything.subset)


def _mask_facts(
    plan: MaskPlan, masks: Files, full: bool, limits: ImageLimits, progress: bool
) -> tuple[dict[int, MaskFacts], list[bytes]]:
    """What each mask holds, by index, and a digest of each; those that cannot be read become problems."""
    step = 1 if full else math.ceil(len(masks) / _MASKS_DECODED)
    coloured = plan.key is not None and plan.key.coloured

    def look(index: int) -> tuple[MaskFacts, bytes]:
        name, content = masks.path(index), masks.content(index, limits)
        digest = zlib.crc32(content).to_bytes(4, "big")
        if index % step:
            return MaskFacts(
                frame_of(content, name, limits).stored, np.empty((0, 3) if coloured else 0, np.int64)
            ), digest
        return mask_facts(content, name, limits, coloured=coloured), digest

    facts, contents = dict[int, MaskFacts](), [b""] * len(masks)
    for index, result in in_threads(look, len(masks), progress=progress):
        if isinstance(result, ImageError):
            plan.problems.append((masks.path(index), result.message))
        else:
            facts[index], contents[index] = result
    if step > 1:
        plan.notes.append(f"one mask in {step} was decoded to see which values there are")
    return facts, contents


def _mask_counts(
    plan: MaskPlan, facts: dict[int, MaskFacts], good: NDArray[np.bool_], key: MaskKey
) -> NDArray[np.int64]:
    """(K,) in how many masks each class is; notes those in which none is."""
    counts, empty = np.zeros(len(key.classes), np.int64), 0
    for index in np.flatnonzero(good):
        present = classes_in(facts[int(index)], key.table)
        counts[present] += 1
        empty += len(present) == 0 and len(facts[int(index)].values) > 0
    if good.any() and not counts.any():
        raise DataError(f"In no mask of {plan.tree.root!r} is a pixel of any class ({plan.layout}).", HINT)
    plan.notes += [f"{counted(empty, 'mask is', 'masks are')} to be ignored altogether"] if empty else []
    return counts


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
