"""What a data set is for: its labels decide the task, or the task which labels are read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dualtoken.data.coco import coco_files, not_coco
from dualtoken.data.index import ImageData
from dualtoken.data.layouts import NoClassesError
from dualtoken.data.scene_sources import find_scenes, scene_kinds
from dualtoken.data.sources import find_data
from dualtoken.data.tree import open_tree
from dualtoken.errors import DataError
from dualtoken.words import counted

CLASSIFICATION, DETECTION, INSTANCES, MASKS = (
    "classification",
    "detection",
    "instance_segmentation",
    "semantic_segmentation",
)


def task_of(source: str | Path, task: str = "auto", labels: str = "auto") -> str:
    """The task that a data set is for; no image is opened.

    Args:
        source: a folder, zip archive, CSV, json or yaml file.
        task: a task's name, which is then the answer, or `auto`: masks alone are for semantic segmentation, boxes
            and outlines for detection, class folders and CSV files for classification.
        labels: the kind of labels to read, or `auto`.

    Raises:
        DataError: the source is not there, or has no labels for `task`.
    """
    if labels == "folders":
        kinds: tuple[str, ...] = ()
    else:
        kinds = scene_kinds(source) if labels == "auto" else (labels,)
    if task == CLASSIFICATION and kinds and labels != "auto":
        raise DataError(f"labels is {labels!r}, but classification learns from class folders or a CSV file.")
    if task != "auto":
        return task
    if not kinds:
        return CLASSIFICATION
    return MASKS if kinds == ("masks",) else DETECTION


def find_task_data(
    source: str | Path, task: str, *, labels: str = "auto", most: int | None = None, seed: int = 0, **options: Any
) -> ImageData:
    """The images of a data set with the labels that `task` learns from.

    Args:
        source: a folder, zip archive, CSV, json or yaml file.
        task: a task's name.
        labels: the kind of labels to read, or `auto`.
        most: keep so many images of each split, drawn with `seed`: to try things out.
        seed, **options: of `find_data` and `find_scenes`, which have the same.

    Raises:
        DataError, ConfigError: as those.
    """
    if task == CLASSIFICATION:
        try:
            found = find_data(source, seed=seed, **options)
        except NoClassesError as error:
            raise _with_other_labels(error, source) from None
    else:
        chosen: Any = "auto" if labels == "folders" else labels
        found = find_scenes(source, task=task, labels=chosen, seed=seed, **options)
    return found if most is None else _fewer(found, most, seed)


def _with_other_labels(error: DataError, source: str | Path) -> DataError:
    """That there are no classes, with what is there instead: other labels, or a json file that holds none."""
    with suppress(DataError):  # what hinders looking is not what was asked for
        kinds = scene_kinds(source)
        if kinds:
            task = MASKS if kinds == ("masks",) else DETECTION
            return DataError(
                f"{str(source)!r} has labels of the kind {', '.join(kinds)}, and no images in class folders, which"
                " classification learns from.",
                f"These labels are for {task.replace('_', ' ')}: dualtoken train {source} --task {task} --output RUN",
            )
        tree = open_tree(Path(source))
        reasons = not_coco(tree)
        if not tree.images and coco_files(tree):
            reasons.append(f"{tree.path(coco_files(tree)[0])!r} is a COCO json, but its images are not there.")
        if reasons:
            found = "\n".join(reasons)
            return DataError(f"{found}\nSo there are no boxes, and no classes: {error.message}", error.hint)
    return error


def _fewer(data: ImageData, most: int, seed: int) -> ImageData:
    """`most` images of each split. Splits of equal images, as some data sets name them, keep equal ones."""
    splits: dict[str, Any] = {}
    for name, samples in data.splits.items():
        order = np.random.default_rng(seed).permutation(len(samples))
        splits[name] = samples.subset(np.sort(order[:most]))
    note = f"{counted(most, 'image')} of each split {'is' if most == 1 else 'are'} used, drawn with seed {seed}"
    return replace(data, splits=splits, notes=(*data.notes, note))
