"""What a data set is for: its labels decide the task, or the task which labels are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def find_task_data(source: str | Path, task: str, *, labels: str = "auto", **options: Any) -> ImageData:
    """The images of a data set with the labels that `task` learns from.

    Args:
        source: a folder, zip archive, CSV, json or yaml file.
        task: a task's name.
        labels: the kind of labels to read, or `auto`.
        **options: of `find_data` and `find_scenes`, which have the same.

    Raises:
        DataError, ConfigError: as those.
    """
    if task == CLASSIFICATION:
        return find_data(source, **options)
    chosen: Any = "auto" if labels == "folders" else labels
    return find_scenes(source, task=task, labels=chosen, **options)
