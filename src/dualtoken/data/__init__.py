"""Files on disk to batches: class folders, CSV files and zip archives of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dualtoken.data.index import ImageData, Samples, find_split
from dualtoken.data.sources import find_data

if TYPE_CHECKING:
    from dualtoken.data.loading import (
        EpochSampler,
        ImageDataset,
        ImageLoader,
        evaluation_loader,
        training_loader,
    )
    from dualtoken.data.transforms import training_transform

__all__ = [
    "EpochSampler",
    "ImageData",
    "ImageDataset",
    "ImageLoader",
    "Samples",
    "evaluation_loader",
    "find_data",
    "find_split",
    "training_loader",
    "training_transform",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name == "training_transform":
        from dualtoken.data import transforms

        return transforms.training_transform
    if name in __all__:
        from dualtoken.data import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'dualtoken.data' has no attribute {name!r}")
