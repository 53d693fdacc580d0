"""What learns from teachers: a backbone with what is thrown away after, and the losses between them.

- soft labels: the cross-entropy to the teachers' mean probabilities (Hinton et al. 2015, arXiv 1503.02531), the same
  crop for all (Beyer et al. 2022, arXiv 2106.05237);
- features: one minus the cosine between the student's pooled features, through a linear projection for each teacher,
  and the teacher's own (which come standardised, channel by channel);
- hard labels: the cross-entropy of a classifier for each set that has classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.preprocess import Preprocessing
from dualtoken.training.teachers import Teacher


@dataclass(frozen=True)
class LossWeights:
    """Of each loss in their sum; 0 leaves one out."""

    soft_labels: float = 1.0
    features: float = 1.0
    hard_labels: float = 0.0


class Student(nn.Module):
    """A classifier of timm's kind, with a projection for each teacher's features and a classifier for each set.

    Args:
        backbone: what is kept; its own classifier learns the teachers' classes.
        widths: of the teachers' features, by name.
        classes: number of classes of each labelled set, by name.
    """

    def __init__(self, backbone: nn.Module, widths: Mapping[str, int], classes: Mapping[str, int]) -> None:
        super().__init__()
        self.backbone = backbone
        own = int(cast(Any, backbone).head_hidden_size)
        self.projections = nn.ModuleDict({_key(name): nn.Linear(own, width) for name, width in widths.items()})
        self.classifiers = nn.ModuleDict({_key(name): nn.Linear(own, count) for name, count in classes.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) to `pooled` (B, D), `logits` (B, teachers' classes), and the rest by name."""
        backbone = cast(Any, self.backbone)
        pooled = backbone.forward_head(backbone.forward_features(images), pre_logits=True)
        outputs = {"pooled": pooled, "logits": backbone.get_classifier()(pooled)}
        for parts in (self.projections, self.classifiers):
            outputs |= {name.replace("_", "."): part(pooled) for name, part in parts.items()}
        return outputs


class Teaching:
    """The objective of a distillation: its losses, and what is measured on images that were held out.

    Args:
        weights: of the losses.
        sets: names of the sets' classifiers, or none for a set without labels, in the order of the pool.
    """

    def __init__(self, weights: LossWeights, sets: Sequence[str | None]) -> None:
        self.weights, self.sets = weights, tuple(sets)

    def loss(self, model: nn.Module, images: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """A scalar: the weighted sum."""
        losses = self.losses(model(images), targets)
        return torch.stack([getattr(self.weights, name) * value for name, value in losses.items()]).sum()

    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each loss with a weight, by name."""
        found: dict[str, Tensor] = {}
        if self.weights.soft_labels and "probabilities" in targets:
            found["soft_labels"] = F.cross_entropy(outputs["logits"], targets["probabilities"])
        names = [name for name in targets if name.startswith("features.")]
        if self.weights.features and names:
            cosines = [F.cosine_similarity(outputs[name], targets[name]).mean() for name in names]
            found["features"] = 1 - torch.stack(cosines).mean()
        if self.weights.hard_labels:
            parts = [self._label_loss(number, name, outputs, targets) for number, name in enumerate(self.sets) if name]
            found["hard_labels"] = torch.stack(parts).sum() / len(targets["label"])
        return found

    def _label_loss(
        self, number: int, name: str, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> Tensor:
        """The sum of cross-entropies over a set's images in the batch: 0 where it has none."""
        chosen = targets["set"] == number
        return F.cross_entropy(outputs[name][chosen], targets["label"][chosen], reduction="sum")

    def meter(self, samples: Any, preprocessing: Preprocessing) -> TeachingMeter:
        """Judges the outputs for the held-out images."""
        return TeachingMeter(self)

    def score(self, figures: Mapping[str, float]) -> list[float]:
        """A low loss."""
        return [-figures["loss"]]


class TeachingMeter:
    """Means over the held-out images: `loss`, `agreement` (share with the teachers' first class) and `cosine`."""

    def __init__(self, teaching: Teaching) -> None:
        self.teaching = teaching
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, raw: Mapping[str, Tensor], targets: Mapping[str, Tensor], indices: Tensor) -> None:
        """Outputs of the student and what the teachers said."""
        losses = self.teaching.losses(raw, targets)
        values = {name: float(value) for name, value in losses.items()}
        values["loss"] = sum(getattr(self.teaching.weights, name) * value for name, value in values.items())
        if "probabilities" in targets:
            same = raw["logits"].argmax(1) == targets["probabilities"].argmax(1)
            values["agreement"] = same.float().mean().item()
        if "features" in values:
            values["cosine"] = 1 - values.pop("features")
        for name in ("soft_labels", "hard_labels"):
            if name in values:
                values[f"loss_{name}"] = values.pop(name)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * len(indices)
        self.count += len(indices)

    def figures(self) -> dict[str, float]:
        """Over all batches together."""
        return {name: total / self.count for name, total in self.sums.items()}


def student_of(backbone: nn.Module, teachers: Sequence[Teacher], classes: Mapping[str, int]) -> Student:
    """The student of these teachers; `classes` counts those of each labelled set, by name."""
    widths = {f"features.{number}": teacher.width for number, teacher in enumerate(teachers) if teacher.width}
    return Student(backbone, widths, classes)


def _key(name: str) -> str:
    return name.replace(".", "_")  # a module's name has no dots
