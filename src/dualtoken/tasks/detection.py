"""Detection: a box and a class for every object; instance segmentation: a mask too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dualtoken.data import ObjectSamples, training_loader
from dualtoken.decode import HEADS
from dualtoken.heads import Detector, make_detector
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks.base import HeadNames, Network, Task, register


@register
class DetectionTask(Task):
    """torchvision's losses; average precision decides."""

    name = "detection"
    heads: ClassVar[Sequence[str]] = HeadNames(lambda: (name for name, kind in HEADS.items() if not kind.masks))
    recipe = "detection"
    crop_mode = "border"
    stride = 32
    best_by = "ap"
    unused = frozenset(
        {
            "resident",
            "mixup",
            "cutmix",
            "label_smoothing",
            "rand_augment",
            "random_erasing",
            "scale",
            "dice",
            "crop_pct",
            "loss",
            "class_weights",
            "sampling",
            "reduction",
            "keep",
        }
    )
    masks = False

    @classmethod
    def build(cls, network: Network) -> Detector:
        """One of `DETECTORS` on the backbone."""
        args = dict(network.args) | ({"in_chans": network.in_chans} if network.in_chans != 3 else {})
        head = cls.choose_head(network.head or None)
        return make_detector(head, network.architecture, network.classes, network.head_args, **args)

    @classmethod
    def dense(cls, model: nn.Module) -> nn.Module:
        """All that is computed for every position; a closer look at chosen boxes depends on the image."""
        return _Dense(cast(Detector, model))

    def training_loader(self, samples: ObjectSamples, preprocessing: Preprocessing, **options: Any) -> Any:
        """Batches of images (B, 3, H, W), targets as `Detector` takes them, and rows (B,)."""
        return training_loader(samples, self.joint_transform(preprocessing), masks=self.masks, **options)

    def loss(self, model: nn.Module, images: Tensor, targets: Any) -> Tensor:
        """The sum of the head's losses."""
        losses = model(images, targets)
        return torch.stack([loss.float() for loss in losses.values()]).sum()


@register
class InstanceSegmentationTask(DetectionTask):
    """As detection, with a mask for each object."""

    name = "instance_segmentation"
    heads = HeadNames(lambda: (name for name, kind in HEADS.items() if kind.masks))
    best_by = "mask_ap"
    masks = True


class _Dense(nn.Module):
    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        return self.detector.dense(images)
