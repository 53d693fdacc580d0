"""Classification: one label an image."""

from __future__ import annotations

import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor


class ClassificationTask:
    """Loss and validation figures; mixup and cutmix of the batch before it.

    Args:
        classes: number of classes.
        label_smoothing: share of a target that is spread over all classes, in [0, 1).
        mixup, cutmix: alpha of the beta distribution that draws how two images are mixed; 0 for never.
    """

    def __init__(self, classes: int, *, label_smoothing: float = 0.0, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        self.label_smoothing = label_smoothing
        self.mixer = (
            Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=label_smoothing, num_classes=classes)
            if mixup > 0 or cutmix > 0
            else None
        )

    def prepare(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch: images (B, C, H, W) and labels (B,) to images and targets (B,) or, mixed, (B, classes).

        Mixing pairs the images, so the last of an odd batch is left out.
        """
        if self.mixer is None:
            return images, labels
        even = len(images) - len(images) % 2
        if even == 0:
            return images, labels  # nothing to mix a single image with
        mixed: tuple[Tensor, Tensor] = self.mixer(images[:even], labels[:even])
        return mixed

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, a scalar. Mixed targets carry their smoothing already."""
        smoothing = self.label_smoothing if targets.ndim == 1 else 0.0
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def score(self, figures: dict[str, float]) -> list[float]:
        """What decides which epoch is best, the larger list: top-1, and where it is equal the loss."""
        return [figures["top1"], -figures["loss"]]

    def figures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Validation figures of (N, classes) logits: `loss` in nats, `top1` as a share."""
        return {
            "loss": F.cross_entropy(logits, labels).item(),
            "top1": (logits.argmax(1) == labels).float().mean().item(),
        }
