"""Files on disk to batches: classes, boxes or masks, in folders, tables, label files, zip archives and shards.

Other rooms import from here, whichever file something lives in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualtoken.registry import lazily

if TYPE_CHECKING:
    from dualtoken.data.archives import read_member
    from dualtoken.data.band_values import BandFacts, fix_bands
    from dualtoken.data.conversion import convert
    from dualtoken.data.dataset import BadImage, BadLabel, ImageData, find_split
    from dualtoken.data.finding import find_data, plan_data
    from dualtoken.data.formats import FORMATS, Format
    from dualtoken.data.formats.masks import image_folders, masks_among
    from dualtoken.data.joint_transforms import JointTransform, joint_transform
    from dualtoken.data.loading import (
        EpochSampler,
        ImageDataset,
        ImageLoader,
        PackedTargets,
        evaluation_loader,
        training_loader,
    )
    from dualtoken.data.packing import Packed, pack
    from dualtoken.data.plans import ClassPlan, LabelPlan, MaskPlan, NoClassesError, ObjectPlan, Plan
    from dualtoken.data.reading import OnBadImage, OnBadLabel
    from dualtoken.data.resident import resident_loader
    from dualtoken.data.samples import (
        IGNORE,
        ImageFiles,
        LabelSamples,
        MaskSamples,
        Objects,
        ObjectSamples,
        Samples,
    )
    from dualtoken.data.transforms import training_transform
    from dualtoken.data.tree import Tree, open_tree

_HOMES = {
    "archives": ("read_member",),
    "band_values": ("BandFacts", "fix_bands"),
    "conversion": ("convert",),
    "dataset": ("BadImage", "BadLabel", "ImageData", "find_split"),
    "finding": ("find_data", "plan_data"),
    "formats": ("FORMATS", "Format"),
    "formats.masks": ("image_folders", "masks_among"),
    "joint_transforms": ("JointTransform", "joint_transform"),
    "loading": (
        "EpochSampler", "ImageDataset", "ImageLoader", "PackedTargets", "evaluation_loader", "training_loader",
    ),
    "packing": ("Packed", "pack"),
    "plans": ("ClassPlan", "LabelPlan", "MaskPlan", "NoClassesError", "ObjectPlan", "Plan"),
    "reading": ("OnBadImage", "OnBadLabel"),
    "resident": ("resident_loader",),
    "samples": ("IGNORE", "ImageFiles", "LabelSamples", "MaskSamples", "ObjectSamples", "Objects", "Samples"),
    "transforms": ("training_transform",),
    "tree": ("Tree", "open_tree"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "FORMATS",
    "IGNORE",
    "BadImage",
    "BadLabel",
    "BandFacts",
    "ClassPlan",
    "EpochSampler",
    "Format",
    "ImageData",
    "ImageDataset",
    "ImageFiles",
    "ImageLoader",
    "JointTransform",
    "LabelPlan",
    "LabelSamples",
    "MaskPlan",
    "MaskSamples",
    "NoClassesError",
    "ObjectPlan",
    "ObjectSamples",
    "Objects",
    "OnBadImage",
    "OnBadLabel",
    "Packed",
    "PackedTargets",
    "Plan",
    "Samples",
    "Tree",
    "convert",
    "evaluation_loader",
    "find_data",
    "find_split",
    "fix_bands",
    "image_folders",
    "joint_transform",
    "masks_among",
    "open_tree",
    "pack",
    "plan_data",
    "read_member",
    "resident_loader",
    "training_loader",
    "training_transform",
]

# Import what needs torch, or is seldom needed, when it is first used.
__getattr__ = lazily(__name__, _HOME_OF)
