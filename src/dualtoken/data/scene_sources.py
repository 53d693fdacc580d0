"""`find_scenes`: from a path to images with objects or masks, whichever label format they come in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.coco import coco_files, coco_has_outlines, not_coco, plan_coco
from dualtoken.data.index import ImageData
from dualtoken.data.masks import (
    MaskPlan,
    mask_pairs,
    plan_masks,
)
from dualtoken.data.scene_checks import Files, Frames, check_frames
from dualtoken.data.scene_labels import SPLIT_ORDER, ScenePlan, refuse
from dualtoken.data.scene_reading import HINT, Reading, read_masks, read_objects
from dualtoken.data.sources import FULL_CHECK_UP_TO, CheckImages, OnBadImage
from dualtoken.data.tree import Tree, open_tree
from dualtoken.data.voc import plan_voc, voc_labels
from dualtoken.data.yolo import data_root, plan_yolo, yolo_config, yolo_has_outlines, yolo_labels
from dualtoken.errors import ConfigError, DataError
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.words import counted

LABEL_KINDS = ("coco", "yolo", "voc", "masks")
SCENE_TASKS = ("detection", "instance_segmentation", "semantic_segmentation")
Labels = Literal["auto", "coco", "yolo", "voc", "masks"]

# The formats that a task takes, the first that is there. Without a task, any.
_WANTED = {
    "detection": ("coco", "yolo", "voc"),
    "instance_segmentation": ("coco", "yolo"),
    "semantic_segmentation": ("masks",),
    None: LABEL_KINDS,
}
_HAS_OUTLINES = {"coco": coco_has_outlines, "yolo": yolo_has_outlines}
_LOOKED_FOR = {
    "coco": "COCO's json with the lists images, annotations and categories",
    "yolo": "YOLO's labels/NAME.txt for images/NAME.jpg, or NAME.txt beside it, or a data.yaml",
    "voc": "VOC's xml in Annotations/ or beside its image",
    "masks": "PNGs in masks/ of the names of those in images/",
}


def scene_kinds(source: str | Path) -> tuple[str, ...]:
    """Which of coco, yolo, voc and masks are in a folder or archive, or what a .json or .yaml file is.

    No image is opened. Class folders and CSV files give ().

    Raises:
        DataError: the source is not there, or is an archive that cannot be read.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in (".json", ".yaml", ".yml"):
        return ("coco",) if path.suffix.lower() == ".json" else ("yolo",)
    if path.is_file() and path.suffix.lower() == ".csv":
        return ()
    return _kinds(open_tree(path))


def find_scenes(
    source: str | Path,
    *,
    task: str | None = None,
    labels: Labels = "auto",
    seed: int = 0,
    val_fraction: float = 0.1,
    on_bad_image: OnBadImage = "fail",
    check_images: CheckImages = "auto",
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: bool = True,
    classes: Sequence[str] | None = None,
) -> ImageData:
    """Find the images of a data set with their objects or masks.

    Recognised are COCO's json, YOLO's text files, Pascal VOC's xml and masks, in a folder or a zip archive that is read
    in place; see docs/data.md for the layouts. Every image is checked, and every label against its image.

    Args:
        source: a folder, a zip archive, COCO's json or YOLO's data.yaml.
        task: `detection`, `instance_segmentation` or `semantic_segmentation`; decides where several formats are there.
        labels: the format to take; `auto` recognises it.
        seed: decides which images make `val` where the source does not say.
        val_fraction: share of the images that makes `val` then, in [0, 1); 0 makes no split.
        on_bad_image: `fail`, or `skip` to leave out and list images that are wrong, or whose labels are.
        check_images: `headers` reads the first bytes of each image, `all` decodes it; `auto` decodes up to
            50,000 images.
        limits: what an image may cost.
        progress: show a bar while images are checked, on a terminal.
        classes: class names of a model. The source may have objects of some of them and of no others, and labels are
            indices into them.

    Returns:
        Splits are `ObjectSamples`, or `MaskSamples` where the labels are masks.

    Raises:
        DataError: what was found cannot be used; the message names file and line.
        ConfigError: an argument has an impossible value.
    """
    _check("task", task, (None, *SCENE_TASKS))
    _check("labels", labels, get_args(Labels))
    _check("on_bad_image", on_bad_image, get_args(OnBadImage))
    _check("check_images", check_images, get_args(CheckImages))
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction is {val_fraction}, expected a number from 0 to below 1.")
    plan = _plan(Path(source), task, labels)
    if not plan.images:
        refuse(plan.problems, HINT)
        raise DataError(f"{str(source)!r} holds no images with labels ({plan.layout}).", HINT)
    plan.notes[:0] = plan.tree.notes
    full = check_images == "all" or (check_images == "auto" and len(plan.images) <= FULL_CHECK_UP_TO)
    names, members = plan.tree.arrays(plan.images)
    files = Files(plan.tree.root, names, members)
    frames = check_frames(files, full=full, limits=limits, progress=progress)
    plan.problems += [(files.path(index), reason) for index, reason in sorted(frames.bad.items())]
    plan.notes += _frame_notes(files, frames)
    if isinstance(plan, MaskPlan):
        read: Reading = read_masks(plan, files, frames, full, limits, progress, on_bad_image, classes)
    else:
        read = read_objects(plan, files, frames, task, classes)
    if on_bad_image == "fail":
        refuse(plan.problems, HINT)
    splits = draw_splits(plan.splits, len(plan.images), seed, val_fraction, plan.notes)
    plan.notes += _overlap_notes(plan.images, splits)
    return ImageData(
        source=str(source),
        classes=read.classes,
        splits=_filled(read, splits, plan.tree.root),
        fingerprint=_fingerprint(plan, read),
        bad_images=tuple(plan.problems),
        notes=tuple(plan.notes),
        layout=plan.layout,
        val_drawn="val" in splits and not plan.splits.get("val"),
    )


def _check(key: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}, expected one of {', '.join(filter(None, choices))}.")


# --- which format ---------------------------------------------------------------------------------------------------


def _kinds(tree: Tree) -> tuple[str, ...]:
    found = {
        "coco": lambda: bool(tree.images and coco_files(tree)),
        "yolo": lambda: bool(yolo_labels(tree)) or (bool(tree.images) and yolo_config(tree) is not None),
        "voc": lambda: bool(voc_labels(tree)),
        "masks": lambda: bool(mask_pairs(tree)),
    }
    return tuple(kind for kind in LABEL_KINDS if found[kind]())


def _plan(path: Path, task: str | None, labels: str) -> ScenePlan | MaskPlan:
    suffix = path.suffix.lower() if path.is_file() else ""
    if suffix == ".json":
        tree = _tree_around(path)
        _require_learnable(tree, "coco", task)
        return plan_coco(tree, [path.relative_to(tree.root).as_posix()])
    if suffix in (".yaml", ".yml"):
        tree = open_tree(data_root(path))
        _require_learnable(tree, "yolo", task)
        return plan_yolo(tree, path)
    tree = open_tree(path)
    kind, note = _choose(tree, task, labels)
    _require_learnable(tree, kind, task)
    planners: dict[str, Callable[[Tree], ScenePlan | MaskPlan]] = {
        "coco": plan_coco, "yolo": plan_yolo, "voc": plan_voc, "masks": plan_masks
    }  # fmt: skip
    plan = planners[kind](tree)
    plan.notes += note
    return plan


def _tree_around(path: Path) -> Tree:
    """The files around COCO's json: its folder, or the one above where the images are not in its own."""
    if path.parent.name.lower() != "annotations":
        tree = open_tree(path.parent)
        if tree.images:
            return tree
    return open_tree(path.parent.parent)


def _require_learnable(tree: Tree, kind: str, task: str | None) -> None:
    """Refuse a format that a task does not take, and boxes alone where it takes outlines."""
    if kind not in _WANTED[task]:
        raise DataError(f"{task} cannot learn from {kind!r}.", f"It takes {', '.join(_WANTED[task])}.")
    if task == "instance_segmentation" and not _HAS_OUTLINES[kind](tree):
        raise DataError(
            f"The labels in {tree.root!r} ({kind}) have no outline anywhere, which {task} needs.",
            "They are for detection.",
        )


def _refused_json(tree: Tree) -> str:
    return "".join(f"\n  {reason}" for reason in not_coco(tree))


def _choose(tree: Tree, task: str | None, labels: str) -> tuple[str, list[str]]:
    """The format to read, and a note where there are others."""
    kinds = _kinds(tree)
    if labels != "auto":
        if labels not in kinds:
            raise DataError(
                f"{tree.root!r} has no labels of the kind {labels!r}; found: {', '.join(kinds) or 'none'}."
                + (_refused_json(tree) if labels == "coco" else ""),
                f"Looked for {_LOOKED_FOR[labels]}.",
            )
        return labels, []
    usable = [kind for kind in _WANTED[task] if kind in kinds]
    if not usable:
        found = f"has labels of the kind {', '.join(kinds)}" if kinds else "has no labels of a known kind"
        wanted = ", ".join(_WANTED[task])
        raise DataError(
            f"{tree.root!r} {found}; {task or 'a task with objects'} takes {wanted}."
            + (_refused_json(tree) if "coco" in _WANTED[task] else ""),
            f"Looked for {'; '.join(_LOOKED_FOR[kind] for kind in _WANTED[task])}.",
        )
    if task == "instance_segmentation" and len(usable) > 1:
        usable.sort(key=lambda kind: not _HAS_OUTLINES[kind](tree))
    note = [f"labels of several kinds: {usable[0]} is taken, another with --labels {usable[1]}"] if usable[1:] else []
    return usable[0], note


# --- splits ---------------------------------------------------------------------------------------------------------


def draw_splits(
    given: dict[str, list[int]], count: int, seed: int, fraction: float, notes: list[str]
) -> dict[str, NDArray[np.int64]]:
    """Name of each split to the indices of its images; a missing `val` is drawn from `train`, and a note says so.

    Raises:
        DataError: `val` cannot be drawn.
    """
    splits = {split: np.array(given[split], np.int64) for split in SPLIT_ORDER if given.get(split)}
    train = splits.get("train", np.arange(count) if not splits else None)
    if train is None or "val" in splits:
        return splits
    if fraction == 0:
        return splits or {"all": train}
    if len(train) < 2:
        raise DataError(
            "There is one image only, but training needs two: one to learn from, another one to validate with.",
            "Add images.",
        )
    number = min(max(round(len(train) * fraction), 1), len(train) - 1)
    chosen = np.sort(np.random.default_rng(seed).permutation(train)[:number])
    notes.append(f"val is {fraction:.0%} of the images, drawn with seed {seed}")
    splits |= {"train": np.setdiff1d(train, chosen), "val": chosen}
    return {split: splits[split] for split in SPLIT_ORDER if split in splits}


def _overlap_notes(images: Sequence[str], splits: dict[str, NDArray[np.int64]]) -> list[str]:
    names = {split: {images[index] for index in indices} for split, indices in splits.items()}
    notes = []
    for split in ("val", "test"):
        common = len(names.get("train", set()) & names.get(split, set()))
        if common:
            what = counted(common, f"image of {split} is", f"images of {split} are")
            notes.append(f"{what} in train too: its figures say little about new images")
    return notes


# --- the result -----------------------------------------------------------------------------------------------------


def _frame_notes(files: Files, frames: Frames) -> list[str]:
    turned = [index for index, frame in frames.good.items() if frame.turned]
    notes = [
        f"{counted(len(turned), 'image is', 'images are')} turned by EXIF, and labels are taken to be for the upright"
        f" image: {files.path(turned[0])!r}{' ...' if turned[1:] else ''}"
    ] if turned else []  # fmt: skip
    if frames.animated:
        number = counted(len(frames.animated), "image has", "images have")
        first = files.path(min(frames.animated))
        notes.append(f"{number} several frames, the first is used: {first!r}{' ...' if frames.animated[1:] else ''}")
    return notes


def _filled(read: Reading, splits: dict[str, NDArray[np.int64]], root: str) -> Any:
    """The splits without their bad images. The draw was among all: a repaired image moves no other one."""
    filled = {}
    for split, indices in splits.items():
        kept = indices[read.good[indices]].tolist()
        if not kept:
            raise DataError(f"The split {split!r} of {root!r} has no image that can be used.", HINT)
        filled[split] = read.samples(kept)
    return filled


def _fingerprint(plan: ScenePlan | MaskPlan, read: Reading) -> str:
    """sha256 over names, sizes, given splits and labels of the images used; not over a `val` that was drawn."""
    of_image: dict[int, list[str]] = {}
    for split, indices in plan.splits.items():
        for index in indices:
            of_image.setdefault(index, []).append(split)
    tree, digest = plan.tree, hashlib.sha256()
    if isinstance(plan, MaskPlan):
        digest.update("\0".join(read.classes).encode())
    for index in sorted(
        np.flatnonzero(read.good).tolist(), key=lambda index: (plan.images[index], read.contents[index])
    ):
        name = plan.images[index]
        head = f"{name}\0{tree.sizes[tree.rows[name]]}\0{','.join(of_image.get(index, []))}\0"
        digest.update(head.encode("utf-8", "surrogateescape") + read.contents[index] + b"\0")
    return digest.hexdigest()
