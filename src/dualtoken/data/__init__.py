"""Files on disk to batches: classes, boxes or masks, in folders, tables, label files and zip archives.

Other rooms import from here, whichever file something lives in.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualtoken.data.archives import read_member
    from dualtoken.data.conversion import convert
    from dualtoken.data.finding import find_task_data, task_of
    from dualtoken.data.index import BadImage, ImageData, ImageFiles, Samples, find_split
    from dualtoken.data.listing import list_archive
    from dualtoken.data.loading import (
        EpochSampler,
        ImageDataset,
        ImageLoader,
        evaluation_loader,
        training_loader,
    )
    from dualtoken.data.masks import image_folders, masks_among
    from dualtoken.data.resident import resident_loader
    from dualtoken.data.scene_loading import PackedTargets, scene_evaluation_loader, scene_training_loader
    from dualtoken.data.scene_sources import find_scenes, scene_kinds
    from dualtoken.data.scene_transforms import scene_training_transform
    from dualtoken.data.scenes import IGNORE, MaskSamples, Objects, ObjectSamples
    from dualtoken.data.sources import OnBadImage, find_data
    from dualtoken.data.transforms import training_transform

_HOMES = {
    "archives": ("read_member",),
    "conversion": ("convert",),
    "finding": ("find_task_data", "task_of"),
    "index": ("BadImage", "ImageData", "ImageFiles", "Samples", "find_split"),
    "listing": ("list_archive",),
    "loading": ("EpochSampler", "ImageDataset", "ImageLoader", "evaluation_loader", "training_loader"),
    "masks": ("image_folders", "masks_among"),
    "resident": ("resident_loader",),
    "scene_loading": ("PackedTargets", "scene_evaluation_loader", "scene_training_loader"),
    "scene_sources": ("find_scenes", "scene_kinds"),
    "scene_transforms": ("scene_training_transform",),
    "scenes": ("IGNORE", "MaskSamples", "ObjectSamples", "Objects"),
    "sources": ("OnBadImage", "find_data"),
    "transforms": ("training_transform",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "IGNORE",
    "BadImage",
    "EpochSampler",
    "ImageData",
    "ImageDataset",
    "ImageFiles",
    "ImageLoader",
    "MaskSamples",
    "ObjectSamples",
    "Objects",
    "OnBadImage",
    "PackedTargets",
    "Samples",
    "convert",
    "evaluation_loader",
    "find_data",
    "find_scenes",
    "find_split",
    "find_task_data",
    "image_folders",
    "list_archive",
    "masks_among",
    "read_member",
    "resident_loader",
    "scene_evaluation_loader",
    "scene_kinds",
    "scene_training_loader",
    "scene_training_transform",
    "task_of",
    "training_loader",
    "training_transform",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch, or is seldom needed, when it is first used."""
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"dualtoken.data.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'dualtoken.data' has no attribute {name!r}")
