"""What a data set is for: its labels decide the task, or the task which labels are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dualtoken.data.index import ImageData
from dualtoken.data.scene_sources import find_scenes, scene_kinds
from dualtoken.data.sources import find_data
from dualtoken.errors import DataError

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
        found = find_data(source, seed=seed, **options)
    else:
        chosen: Any = "auto" if labels == "folders" else labels
        found = find_scenes(source, task=task, labels=chosen, seed=seed, **options)
    return found if most is None else _fewer(found, most, seed)


def _fewer(data: ImageData, most: int, seed: int) -> ImageData:
    """`most` images of each split. Splits of equal images, as some data sets name them, keep equal ones."""
    splits: dict[str, Any] = {}
    for name, samples in data.splits.items():
        order = np.random.default_rng(seed).permutation(len(samples))
        splits[name] = samples.subset(np.sort(order[:most]))
    note = f"{most} images of each split are used, drawn with seed {seed}"
    return replace(data, splits=splits, notes=(*data.notes, note))
