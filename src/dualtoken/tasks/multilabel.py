"""Multi-label classification: any number of labels an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.tasks.base import Task, TaskSettings, register
from dualtoken.tasks.classification import ClassificationTask


@register
class MultiLabelTask(ClassificationTask):
    """Binary cross-entropy of each class; mean average precision decides."""

    name = "multilabel"
    best_by = "map"
    unused = ClassificationTask.unused | {"mixup", "cutmix"}

    def __init__(self, classes: Sequence[str], settings: TaskSettings | None = None) -> None:
        Task.__init__(self, classes, settings)
        self.mixer = None

    def loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Mean over images and classes; targets (B, K) are 1 for the classes of an image, else 0."""
        smoothing = self.settings.label_smoothing
        return F.binary_cross_entropy_with_logits(model(images).float(), targets * (1 - smoothing) + smoothing / 2)

    def score(self, figures: Mapping[str, float]) -> list[float]:
        """Mean average precision, and where it is equal the loss."""
        return [figures["map"], -figures["loss"]]
