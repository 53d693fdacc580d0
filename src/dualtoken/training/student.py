"""What learns from teachers: a backbone with what is thrown away after, and the losses between them.

- soft labels: the cross-entropy to the teachers' mean probabilities (Hinton et al. 2015, arXiv 1503.02531), the same
  crop for all (Beyer et al. 2022, arXiv 2106.05237);
- features: one minus the cosine between the student's pooled features, through a linear projection for each teacher,
  and the teacher's own (which come standardised, channel by channel);
- maps: the same at each place of small grids, on the way (after strides of 8 and 16) and before pooling (hints:
  Romero et al. 2015, arXiv 1412.6550);
- hard labels: the cross-entropy of a classifier for each set that has classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.errors import ConfigError
from dualtoken.preprocess import Preprocessing
from dualtoken.training.teachers import Teacher, last_and_between, on_grids


@dataclass(frozen=True)
class LossWeights:
    """Of each loss in their sum; 0 leaves one out."""

    soft_labels: float = 1.0
    features: float = 1.0
    maps: float = 0.0
    hard_labels: float = 0.0


class Student(nn.Module):
    """A classifier of timm's kind, with a projection for each teacher's features and a classifier for each set.

    Args:
        backbone: what is kept; its own classifier learns the teachers' classes.
        widths: of the teachers' features and maps, by name: `features.I`, `maps.LEVEL.I`.
        classes: number of classes of each labelled set, by name.
    """

    def __init__(self, backbone: nn.Module, widths: Mapping[str, int], classes: Mapping[str, int]) -> None:
        super().__init__()
        self.backbone = backbone
        own = int(cast(Any, backbone).head_hidden_size)
        channels = map_widths(backbone) if any(name.startswith("maps.") for name in widths) else {}
        self.projections, self.map_projections = (
            nn.ModuleDict(
                {
                    _key(name): nn.Linear(channels.get(name.split(".")[1], own), width)
                    for name, width in widths.items()
                    if name.startswith(kind)
                }
            )
            for kind in ("features.", "maps.")
        )
        self.classifiers = nn.ModuleDict({_key(name): nn.Linear(own, count) for name, count in classes.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) to `pooled` (B, D), `logits` (B, teachers' classes), and the rest by name."""
        backbone = cast(Any, self.backbone)
        last, maps = last_and_between(backbone, images, between=len(self.map_projections) > 0)
        pooled = backbone.forward_head(last, pre_logits=True)
        outputs = {"pooled": pooled, "logits": backbone.get_classifier()(pooled)}
        for parts in (self.projections, self.classifiers):
            outputs |= {name.replace("_", "."): part(pooled) for name, part in parts.items()}
        places = {level: one.movedim(1, -1) for level, one in on_grids(maps).items()}  # channels last for linear layers
        for name, part in self.map_projections.items():
            _, level, _ = name.split("_")
            outputs[name.replace("_", ".")] = part(places[level]).movedim(-1, 1)
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
        for kind in ("features", "maps"):
            names = [name for name in targets if name.startswith(f"{kind}.") and name in outputs]
            if getattr(self.weights, kind) and names:
                cosines = [F.cosine_similarity(outputs[name], targets[name]).mean() for name in names]  # over channels
                found[kind] = 1 - torch.stack(cosines).mean()
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
    """Means over the held-out images: `loss`, `agreement` (share with the teachers' first class), `cosine` (of pooled
    features) and `cosine_maps`.
    """

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
        for name, shown in (("features", "cosine"), ("maps", "cosine_maps")):
            if name in values:
                values[shown] = 1 - values.pop(name)
        for name in ("soft_labels", "hard_labels"):
            if name in values:
                values[f"loss_{name}"] = values.pop(name)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * len(indices)
        self.count += len(indices)

    def figures(self) -> dict[str, float]:
        """Over all batches together."""
        return {name: total / self.count for name, total in self.sums.items()}

    def seen(self) -> tuple[dict[str, float], int]:
        """Sums and number of images, for the judge of another process."""
        return self.sums, self.count

    def join(self, seen: tuple[dict[str, float], int]) -> None:
        """Take the images that another judge has seen as its own."""
        sums, count = seen
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        self.count += count


def student_of(
    backbone: nn.Module, teachers: Sequence[Teacher], classes: Mapping[str, int], *, maps: bool = False
) -> Student:
    """The student of these teachers; `classes` counts those of each labelled set, by name; with `maps` it learns them.

    Raises:
        ConfigError: maps are to be learned, but student or teachers have none.
    """
    widths = {f"features.{number}": teacher.width for number, teacher in enumerate(teachers) if teacher.width}
    if maps:
        if not (levels := shared_levels(backbone, teachers)):
            taught = any(teacher.map_widths for teacher in teachers)
            raise ConfigError(
                "maps is above 0, but " + ("the model" if taught else "no teacher") + " has maps of features.",
                "A teacher in a file shows them as an output `features` of (B, C, h, w). Else: --set maps=0",
            )
        widths |= {
            f"maps.{level}.{number}": teacher.map_widths[level]
            for number, teacher in enumerate(teachers)
            for level in levels
            if level in teacher.map_widths
        }
    return Student(backbone, widths, classes)


def shared_levels(backbone: nn.Module, teachers: Sequence[Teacher]) -> list[str]:
    """The levels at which the student and at least one teacher have maps."""
    taught = {level for teacher in teachers for level in teacher.map_widths}
    return [level for level in map_widths(backbone) if level in taught] if taught else []


def map_widths(backbone: nn.Module) -> dict[str, int]:
    """Channels of the maps of a network of timm's kind, by level."""
    training = backbone.training
    with torch.no_grad():
        _, maps = last_and_between(backbone.eval(), next(backbone.parameters()).new_zeros(1, 3, 64, 64))
    backbone.train(training)  # its batch norms have seen nothing
    return {level: one.shape[1] for level, one in maps.items()}


def _key(name: str) -> str:
    return name.replace(".", "_")  # a module's name has no dots
