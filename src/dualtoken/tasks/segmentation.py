"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.data import IGNORE, MaskSamples, training_loader
from dualtoken.heads import DECODERS, Segmenter, make_segmenter
from dualtoken.heads.together import mean_of_all, sum_of_all
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks.base import HeadNames, Network, Task, register


@register
class SemanticSegmentationTask(Task):
    """Cross-entropy over all pixels that have a class, and if wanted the Dice loss; mean IoU decides."""

    name = "semantic_segmentation"
    heads = HeadNames(lambda: DECODERS)
    recipe = "segmentation"
    crop_mode = "border"
    stride = 32
    best_by = "miou"
    unused = frozenset(
        {"mixup", "cutmix", "rand_augment", "random_erasing", "scale", "copy_paste", "crop_pct", "resident", "loss",
         "class_weights", "sampling", "max_objects", "reduction", "keep"}
    )  # fmt: skip

    @classmethod
    def build(cls, network: Network) -> Segmenter:
        """One of `DECODERS` on the backbone."""
        head = cls.choose_head(network.head or None)
        return make_segmenter(
            head, network.architecture, network.classes, in_chans=network.in_chans, **network.head_args, **network.args
        )

    def training_loader(self, samples: MaskSamples, preprocessing: Preprocessing, **options: Any) -> Any:
        """Batches of images (B, 3, H, W), masks uint8 (B, H, W) and rows (B,)."""
        return training_loader(samples, self.joint_transform(preprocessing), **options)

    def loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Mean over the pixels of all processes that have a class; 0 where there are none."""
        logits, targets = model(images).float(), targets.long()
        counted = mean_of_all((targets != IGNORE).sum()).clamp(min=1)
        loss = F.cross_entropy(
            logits, targets, ignore_index=IGNORE, reduction="sum", label_smoothing=self.settings.label_smoothing
        )
        loss = loss / counted
        return loss + self.settings.dice * dice_loss(logits, targets) if self.settings.dice else loss


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the mean overlap (Dice) of the classes that occur; in [0, 1], 0 where no pixel has a class.

    Overlaps are those in the images of all processes.

    Args:
        logits: (B, K, H, W).
        targets: (B, H, W), class of each pixel or `IGNORE`.
    """
    counted = (targets != IGNORE)[:, None]
    truth = F.one_hot(targets.clamp(max=logits.shape[1] - 1), logits.shape[1]).permute(0, 3, 1, 2) * counted
    probabilities = logits.softmax(1) * counted
    shared = sum_of_all((probabilities * truth).sum((0, 2, 3)))
    total = sum_of_all((probabilities + truth).sum((0, 2, 3)))
    occurs = sum_of_all(truth.sum((0, 2, 3))) > 0
    losses = (1 - 2 * shared / total.clamp(min=1e-6)) * occurs
    return losses.sum() / occurs.sum().clamp(min=1)
