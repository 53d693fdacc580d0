"""A frozen backbone computes its features once; the classifier then learns from these in seconds.

The features of a few views of each image stand in for the images: the central one first, then augmented ones, whose
randomness is a function of (seed, image, view). Epoch e sees view e modulo their number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from dualtoken.data import EpochSampler, ImageLoader
from dualtoken.training.probe import linear_probe

VIEWS = 4
MOST_BYTES = 2 * 2**30  # of features in memory; with more the images are looked at anew in each epoch
MOST_IMAGES = 4096  # for a beginning: it need not be the best


class Classifier(nn.Module):
    """The last layer of a network, on features (B, D, 1, 1)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, 1, 1) to logits (B, classes)"""
        return cast(Tensor, self.layer(features.flatten(1)))

    def get_classifier(self) -> nn.Module:
        """What stays trainable."""
        return self.layer


@dataclass
class FeatureBatches:
    """Batches (features (B, D, 1, 1), labels (B,), rows (B,)) of images whose features are known.

    Attributes:
        features: (N, views, D).
        labels: (N,) int64.
        rows: (N,) places of the images in the samples.
        dataset: of the loader that gave the images.
        batch_sampler: which images come when; None for all in order.
        batch_size: images in a batch.
        bad_images: (path, reason) of those left out.
    """

    features: Tensor
    labels: Tensor
    rows: Tensor
    dataset: Any
    batch_sampler: EpochSampler | None
    batch_size: int
    bad_images: tuple[tuple[str, str], ...] = ()

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose what the next iteration gives."""
        assert self.batch_sampler is not None
        self.batch_sampler.set_epoch(epoch, start_batch)

    def __len__(self) -> int:
        return len(self.batch_sampler) if self.batch_sampler else -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        view = self.batch_sampler.epoch % self.features.shape[1] if self.batch_sampler else 0
        for chosen in self._chosen():
            yield self.features[chosen, view, :, None, None], self.labels[chosen], self.rows[chosen]

    def _chosen(self) -> Iterator[Tensor]:
        if self.batch_sampler is None:
            yield from torch.arange(len(self.labels)).split(self.batch_size)
            return
        for draws in self.batch_sampler:
            yield torch.tensor([place for place, _ in draws])


def fits_memory(images: int, width: int) -> bool:
    """Whether the features of so many images may be kept."""
    return images * VIEWS * width * 4 <= MOST_BYTES


def feature_batches(
    model: nn.Module, training: ImageLoader, validation: ImageLoader, central: ImageLoader, *, epochs: int, seed: int
) -> tuple[FeatureBatches, FeatureBatches]:
    """What a frozen classifier's backbone says of the training and the validation images.

    Args:
        model: of timm's kind; moved nowhere and changed in nothing.
        training, validation: the loaders that an ordinary run would have.
        central: the training images as validation looks at them.
        epochs: of the run; there are no more views than that.
        seed: of the views.
    """
    sampler = cast(EpochSampler, training.batch_sampler)
    views = [_features(model, central, "view 1")]
    kept = views[0][2].tolist()
    for view in range(1, min(VIEWS, epochs)):
        seeds = np.random.default_rng([seed, view]).integers(2**63, size=sampler.length).tolist()
        draws = [[(row, seeds[row]) for row in rows] for rows in _split(kept, sampler.batch_size)]
        loader = ImageLoader(
            cast(Any, training.dataset), on_bad_image=training.on_bad_image, workers=training.num_workers,
            batch_sampler=cast(Any, draws),
        )  # fmt: skip
        views.append(_features(model, loader, f"view {view + 1}"))
    features = torch.stack([found for found, _, _ in views], 1)
    batches = EpochSampler(
        len(kept), sampler.batch_size, seed=seed, rank=sampler.rank, world_size=sampler.world_size,
        weights=None if sampler.weights is None else sampler.weights[kept],
    )  # fmt: skip
    _, labels, rows = views[0]
    learned = FeatureBatches(features, labels, rows, training.dataset, batches, batches.batch_size, central.bad_images)
    found, labels, rows = _features(model, validation, "validation")
    size = validation.batch_size or len(rows)
    return learned, FeatureBatches(found[:, None], labels, rows, validation.dataset, None, size, validation.bad_images)


def _split(rows: list[int], size: int) -> list[list[int]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


@torch.inference_mode()
def _features(model: nn.Module, loader: ImageLoader, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, D), labels (N,) and rows (N,) of a loader's images, on the CPU."""
    network, device = cast(Any, model.eval()), next(model.parameters()).device
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    shown = sys.stdout.isatty()
    for images, labels, rows in track(
        loader, f"Features, {name}", total=len(loader), disable=not shown, transient=True
    ):
        maps = network.forward_features(images.to(device, memory_format=torch.channels_last))
        found.append((network.forward_head(maps, pre_logits=True).float().cpu(), labels, rows))
    features, labels, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    return features.clone(), labels, rows  # outside of inference mode gradients may pass through copies


def solve(layer: nn.Linear, batches: FeatureBatches, classes: int) -> str:
    """Set a classifier to the best linear one, in closed form.

    The penalty is chosen on the central views alone: other views of an image would tell of the one that is left out.

    Returns:
        One line: the penalty, and what leaving one out got right with it.
    """
    images, views, width = batches.features.shape
    chosen = linear_probe(batches.features[:, 0], batches.labels, classes)
    every, labels = batches.features.reshape(-1, width), batches.labels.repeat_interleave(views)
    probe = linear_probe(every, labels, classes, penalties=[views * chosen.penalty])
    with torch.no_grad():
        layer.weight.copy_(probe.weight)
        layer.bias.copy_(probe.bias)
    right = f"{chosen.left_out:.1%} of {images:,} images are right when each is left out"
    return f"in closed form; penalty {chosen.penalty:g}, with which {right}"


def begin_solved(model: nn.Module, central: ImageLoader, classes: int, seed: int) -> str:
    """Set the classifier of `model` to the best linear one on the features as they are: where its steps begin.

    Args:
        model: of timm's kind, with a linear classifier.
        central: the training images as validation looks at them; at most `MOST_IMAGES` of them, drawn by `seed`.
        classes: number of classes.
        seed: of the run.

    Returns:
        One line: what leaving one out got right.
    """
    count = len(cast(Any, central.dataset))
    rows = np.random.default_rng(seed).permutation(count)[:MOST_IMAGES]
    options: dict[str, Any] = {"batch_size": central.batch_size, "sampler": np.sort(rows).tolist()}
    loader = ImageLoader(central.dataset, on_bad_image=central.on_bad_image, workers=central.num_workers, **options)
    features, labels, _ = _features(model, loader, "to begin with")
    probe = linear_probe(features, labels, classes)
    layer = cast(Any, model).get_classifier()
    with torch.no_grad():
        layer.weight.copy_(probe.scale * probe.weight)
        layer.bias.copy_(probe.scale * probe.bias)
    right = f"{probe.left_out:.1%} of {len(labels):,} images are right when each is left out"
    return f"begins in closed form, with which {right}"


Save = Callable[[nn.Module], None]


def whole(model: nn.Module, save: Save) -> Save:
    """A function that saves `model` with the classifier that it is given."""

    def saved(best: nn.Module) -> None:
        layer = cast(Any, model).get_classifier()
        layer.load_state_dict(cast(Classifier, best).layer.state_dict())
        save(model)

    return saved
