"""Files on disk to batches: classes, boxes or masks, in folders, tables, label files and zip archives."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dualtoken.data.index import ImageData, Samples, find_split
from dualtoken.data.sources import find_data

if TYPE_CHECKING:
    from dualtoken.data.conversion import convert
    from dualtoken.data.loading import (
        EpochSampler,
        ImageDataset,
        ImageLoader,
        evaluation_loader,
        training_loader,
    )
    from dualtoken.data.scene_sources import find_scenes, scene_kinds
    from dualtoken.data.scenes import MaskSamples, Objects, ObjectSamples
    from dualtoken.data.transforms import training_transform

__all__ = [
    "EpochSampler",
    "ImageData",
    "ImageDataset",
    "ImageLoader",
    "MaskSamples",
    "ObjectSamples",
    "Objects",
    "Samples",
    "convert",
    "evaluation_loader",
    "find_data",
    "find_scenes",
    "find_split",
    "scene_kinds",
    "training_loader",
    "training_transform",
]

_HOMES = {
    "MaskSamples": "scenes",
    "ObjectSamples": "scenes",
    "Objects": "scenes",
    "convert": "conversion",
    "find_scenes": "scene_sources",
    "scene_kinds": "scene_sources",
    "training_transform": "transforms",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch, or is seldom needed, when it is first used."""
    if name in __all__:
        return getattr(importlib.import_module(f"dualtoken.data.{_HOMES.get(name, 'loading')}"), name)
    raise AttributeError(f"module 'dualtoken.data' has no attribute {name!r}")
