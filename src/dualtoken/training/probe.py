"""What features are worth as they are: nearest neighbours, and a linear classifier in closed form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.data import ImageData, evaluation_loader
from dualtoken.preprocess import Preprocessing

NEIGHBOURS = 10
PENALTIES = tuple(10.0**power for power in range(-3, 6))  # of the squared weights, on standardised features
SCALES = tuple(2.0**power for power in range(7))


class LinearProbe(NamedTuple):
    """A linear classifier of features: `features @ weight.T + bias`, and how it was chosen.

    Attributes:
        weight: (classes, D).
        bias: (classes,)
        penalty: of the squared weights.
        left_out: share of the images that it gets right when each is left out of the fit.
        scale: what makes logits of its numbers: with it the log loss of the images left out is lowest.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    left_out: float
    scale: float

    def __call__(self, features: Tensor) -> Tensor:
        """(N, D) to (N, classes)"""
        return features @ self.weight.T + self.bias


def linear_probe(features: Tensor, labels: Tensor, classes: int, penalties: Iterable[float] = PENALTIES) -> LinearProbe:
    """Ridge regression to one-hot targets on standardised features; leaving one out chooses the penalty, exactly.

    The error of leaving each image out follows from one eigendecomposition (the PRESS statistic), so that no fit is
    repeated. Classes count alike, however many images they have.

    Args:
        features: (N, D).
        labels: (N,) int64.
        classes: number of classes.
        penalties: to choose from.
    """
    x = features.double()
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    x = (x - mean) / std
    targets = F.one_hot(labels, classes).double()
    middle = targets.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x)
    values = values.clamp_min(0)
    turned = x @ vectors  # (N, D)
    projected = turned.T @ (targets - middle)  # (D, classes)
    best: LinearProbe | None = None
    for penalty in penalties:
        shrunk = 1 / (values + penalty)
        fitted = middle + turned @ (shrunk[:, None] * projected)
        leverage = (turned.square() @ shrunk + 1 / len(x)).clamp(max=1 - 1e-9)
        without = targets - (targets - fitted) / (1 - leverage)[:, None]  # what each is given by the fit without it
        right = (without.argmax(1) == labels).double().mean().item()
        if best is None or right > best.left_out:
            weight = (vectors @ (shrunk[:, None] * projected)).T / std
            scale = min(SCALES, key=lambda factor: F.cross_entropy(factor * without, labels).item())
            best = LinearProbe(weight.float(), (middle - weight @ mean).float(), penalty, right, scale)
    assert best is not None
    return best


def nearest_neighbours(known: Tensor, labels: Tensor, asked: Tensor, count: int = NEIGHBOURS) -> Tensor:
    """The commonest label among the `count` most similar features (cosine): (N, D), (N,), (M, D) to (M,)."""
    similar = F.normalize(asked, dim=1) @ F.normalize(known, dim=1).T
    near = similar.topk(min(count, len(known)), dim=1)
    votes = torch.zeros(len(asked), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[near.indices], near.values.clamp_min(0) + 1e-6)
    return votes.argmax(1)


class Probe:
    """Judges a backbone by a labelled data set that it is not trained on."""

    def __init__(self, data: ImageData, preprocessing: Preprocessing, **options: Any) -> None:
        self.data, self.preprocessing, self.options = data, preprocessing, options
        self.classes = len(data.classes)

    def figures(self, backbone: nn.Module, size: int) -> dict[str, float]:
        """`knn` and `linear`: shares of the val images that get their class, with inputs of `size` pixels."""
        preprocessing = replace(self.preprocessing, image_size=(size, size))
        known, labels, asked, truth = (
            found
            for name in ("train", "val")
            for found in pooled_features(
                backbone, evaluation_loader(self.data.splits[name], preprocessing, batch_size=64, **self.options)
            )
        )
        linear = linear_probe(known, labels, self.classes)(asked).argmax(1)
        near = nearest_neighbours(known, labels, asked)
        return {
            "knn": (near == truth).float().mean().item(),
            "linear": (linear == truth).float().mean().item(),
        }


@torch.inference_mode()
def pooled_features(backbone: nn.Module, loader: Iterable[tuple[Tensor, Any, Tensor]]) -> tuple[Tensor, Tensor]:
    """The features before the classifier (N, D), and the labels (N,), of all images of a loader."""
    model = cast(Any, backbone.eval())
    device = next(backbone.parameters()).device
    features, labels = [], []
    for images, targets, _ in loader:
        found = model.forward_head(model.forward_features(images.to(device)), pre_logits=True)
        features.append(found.float().cpu())
        labels.append(targets)
    return torch.cat(features), torch.cat(labels)
