"""Multi-label classification: any number of labels an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dualtoken.tasks.base import Task, TaskSettings, register
from dualtoken.tasks.classification import ClassificationTask
from dualtoken.tasks.rare_classes import ASYMMETRIC, GAMMA, Seen, binary_loss, positive_weights

_SHAPES = {"focal": (GAMMA, GAMMA, 0.0), "asymmetric": ASYMMETRIC}


@register
class MultiLabelTask(ClassificationTask):
    """Binary cross-entropy of each class; mean average precision decides."""

    name = "multilabel"
    best_by = "map"
    unused = ClassificationTask.unused | {"mixup", "cutmix"}
    losses = ("cross_entropy", "focal", "asymmetric", "logit_adjusted")
    weighting = staticmethod(positive_weights)

    def __init__(self, classes: Sequence[str], settings: TaskSettings | None = None, seen: Seen | None = None) -> None:
        Task.__init__(self, classes, settings, seen)
        self.mixer = None

    def loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Mean over images and classes; targets (B, K) are 1 for the classes of an image, else 0."""
        logits, smoothing = self.adjusted(model(images).float()), self.settings.label_smoothing
        soft = targets.float() * (1 - smoothing) + smoothing / 2
        return binary_loss(logits, soft, _SHAPES.get(self.settings.loss, (0.0, 0.0, 0.0)), self.weights(logits))

    def score(self, figures: Mapping[str, float]) -> list[float]:
        """Mean average precision, and where it is equal the loss."""
        return [figures["map"], -figures["loss"]]
