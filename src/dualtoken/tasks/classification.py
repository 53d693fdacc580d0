"""Classification: one label an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn

from dualtoken.backbone import create_model
from dualtoken.data import Samples, resident_loader, training_loader, training_transform
from dualtoken.errors import ConfigError
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks.base import Network, Task, TaskSettings, register
from dualtoken.tasks.rare_classes import Seen, class_weights, focal_loss, log_priors

OVERSAMPLING = 2  # pixels that even the smallest crop has for one of the input; a large JPEG is decoded to no more


@register
class ClassificationTask(Task):
    """Cross-entropy, or a loss for rare classes; mixup and cutmix of the batch before it."""

    name = "classification"
    recipe = "auto"
    tuned = "finetune"
    crop_mode = "center"
    best_by = "top1"
    unused = frozenset({"head", "head_args", "zoom", "mosaic", "copy_paste", "dice", "max_objects"})
    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "focal", "logit_adjusted")
    weighting = staticmethod(class_weights)

    def __init__(self, classes: Sequence[str], settings: TaskSettings | None = None, seen: Seen | None = None) -> None:
        super().__init__(classes, settings, seen)
        mixup, cutmix = self.settings.mixup, self.settings.cutmix
        self.mixer = (
            Mixup(
                mixup_alpha=mixup,
                cutmix_alpha=cutmix,
                label_smoothing=self.settings.label_smoothing,
                num_classes=len(self.classes),
            )
            if mixup > 0 or cutmix > 0
            else None
        )

    @classmethod
    def build(cls, network: Network) -> nn.Module:
        """The backbone with its own classifier: images (B, C, H, W) to logits (B, classes)."""
        return create_model(
            network.architecture, num_classes=network.classes, in_chans=network.in_chans, **network.args
        )

    def training_loader(
        self, samples: Samples, preprocessing: Preprocessing, *, resident_on: torch.device | None = None, **options: Any
    ) -> Any:
        """Batches of images (B, C, H, W), labels (B,) and rows (B,).

        Args:
            resident_on: device on which all images are to stay; None to decode them anew in each epoch.

        Raises:
            ConfigError: resident images are to be augmented by more than crops and mirrors.
        """
        settings = self.settings
        options["balanced"] = settings.sampling == "balanced"
        if resident_on is not None:
            self._require_plain()
            return resident_loader(
                samples, preprocessing, resident_on, scale=settings.scale, hflip=settings.hflip, **options
            )
        transform = training_transform(
            preprocessing,
            scale=settings.scale,
            hflip=settings.hflip,
            rand_augment=settings.rand_augment,
            color_jitter=settings.color_jitter,
            random_erasing=settings.random_erasing,
        )
        smallest = (settings.scale[0] * 3 / 4) ** 0.5  # side of a crop, as a share of the image's short one
        enough = math.ceil(OVERSAMPLING * max(preprocessing.image_size) / smallest)
        return training_loader(replace(samples, at_least=enough), transform, **options)

    def _require_plain(self) -> None:
        for name in ("rand_augment", "color_jitter", "random_erasing"):
            if getattr(self.settings, name):
                raise ConfigError(
                    f"{name} is {getattr(self.settings, name)!r}, but resident images are cropped and mirrored only.",
                    f"Leave resident out, or type: --set {name}={'null' if name == 'rand_augment' else 0}",
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

    def loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the mixed batch."""
        images, targets = self.prepare(images, targets)
        return self.cross_entropy(self.adjusted(model(images)), targets)

    def adjusted(self, logits: Tensor) -> Tensor:
        """Logits (B, K), in a logit-adjusted loss with the classes' frequencies added, which the network then omits."""
        if self.settings.loss != "logit_adjusted" or self.seen is None:
            return logits
        return logits + logits.new_tensor(log_priors(self.seen, exclusive=self.kind.exclusive))

    def weights(self, logits: Tensor) -> Tensor | None:
        """(K,) weights of the classes, beside the logits; None where all count alike."""
        weights = None if self.seen is None else self.weighting(self.settings.class_weights, self.seen)
        return None if weights is None else logits.new_tensor(weights)

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """A scalar. Mixed targets carry their smoothing already."""
        smoothing = self.settings.label_smoothing if targets.ndim == 1 else 0.0
        if self.settings.loss == "focal":
            shares = F.one_hot(targets, len(self.classes)) if targets.ndim == 1 else targets
            shares = shares * (1 - smoothing) + smoothing / len(self.classes)
            return focal_loss(logits.float(), shares, self.weights(logits))
        return F.cross_entropy(logits, targets, self.weights(logits), label_smoothing=smoothing)

    def score(self, figures: Mapping[str, float]) -> list[float]:
        """Top-1, and where it is equal the loss."""
        return [figures["top1"], -figures["loss"]]
