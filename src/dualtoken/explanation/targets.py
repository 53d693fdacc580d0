"""What is asked about: the answer's classes, objects or regions, each as one number that depends on the image.

Every question has two forms. Its *evidence* is a logit, which gradients are taken of; its *score* lies in [0, 1] and is
what is watched while pixels are taken away.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dualtoken.answers import kind_of
from dualtoken.answers.labels import label_thresholds
from dualtoken.decode import DetectorSpec, Found, detect
from dualtoken.errors import ConfigError, unknown_name
from dualtoken.explanation.views import Part
from dualtoken.heads import Detector
from dualtoken.model_folder import ModelConfig
from dualtoken.postprocess import place_masks, softmax

Box = tuple[float, float, float, float]

_OBJECTS = 3  # of an image, where not said otherwise
_SMALLEST = 1e-3  # of the image: smaller regions are explained on request only


@dataclass(frozen=True, eq=False)
class Target:
    """One part of the answer.

    Attributes:
        label: index of its class.
        name: of its class.
        score: in [0, 1], as `Scorer.scores` gives it for the image as it is.
        answered: whether the model's own answer holds it; not where the user asks about another class, or where an
            object is less sure than the model's threshold.
        box: left, top, right, bottom in pixels of the network's input; None where there is none.
        region: (H, W) bool, pixels of the network's input: those of the class, or the mask of the object; None where
            there is none.
    """

    label: int
    name: str
    score: float
    answered: bool = True
    box: Box | None = None
    region: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Scorer(ABC):
    """T questions about images, answered by one network."""

    model: Any

    @abstractmethod
    def evidence(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, T); gradients flow."""

    @abstractmethod
    def scores(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to scores (B, T) in [0, 1]."""

    def of(self, model: nn.Module) -> Scorer:
        """The same questions, asked of another network with the same shape."""
        return replace(self, model=model)


@dataclass(frozen=True)
class Questions:
    """The targets of an image, who answers for them, and what must be said; `scorer` is None where there are none."""

    targets: tuple[Target, ...]
    scorer: Scorer | None
    notes: tuple[str, ...] = ()


def check_class(config: ModelConfig, wanted: str | None) -> None:
    """Refuse a class that the model does not know.

    Raises:
        ConfigError: with the nearest name.
    """
    if wanted is not None and wanted not in config.classes:
        raise ConfigError(unknown_name("class", wanted, config.classes), "The target is one of the model's classes.")


def ask(
    model: nn.Module,
    config: ModelConfig,
    image: Tensor,
    part: Part,
    wanted: str | None = None,
    most: int | None = None,
) -> Questions:
    """What there is to ask about one image.

    Args:
        model: the network, in evaluation mode.
        config: of the model.
        image: (1, 3, H, W), pre-processed, on the model's device.
        part: of it that the image fills.
        wanted: a class name of the model's: only this class. A classifier is asked about it even if it is not its
            answer; where others do not find it in the image there is no target.
        most: number of targets: classes, the most probable first (1 if not given), objects, best first (3), or
            regions, the largest first (all that fill a thousandth of the image).
    """
    label = None if wanted is None else config.classes.index(wanted)
    counts = kind_of(config.task).counts
    if counts == "images":
        return _ask_classifier(model, config, image, label, most or 1)
    if counts == "pixels":
        return _ask_segmenter(model, config, image, part, label, most)
    return _ask_detector(model, config, image, part, label, most or _OBJECTS)


# ---------------------------------------------------------------- classes


@dataclass(frozen=True, eq=False)
class ClassScorer(Scorer):
    """Logits and probabilities of some classes, as the model's config makes them."""

    labels: tuple[int, ...]
    config: ModelConfig

    def evidence(self, images: Tensor) -> Tensor:
        return self.model(images)[:, list(self.labels)]

    def scores(self, images: Tensor) -> Tensor:
        return _probabilities(self.model(images), self.config)[:, list(self.labels)]


def _probabilities(logits: Tensor, config: ModelConfig) -> Tensor:
    """(B, K)"""
    scaled = logits / config.temperature
    if kind_of(config.task).exclusive:
        return scaled.softmax(dim=1)
    return (scaled + logits.new_tensor(config.offsets or 0.0)).sigmoid()


def _ask_classifier(model: nn.Module, config: ModelConfig, image: Tensor, label: int | None, most: int) -> Questions:
    with torch.no_grad():
        probabilities = _probabilities(model(image), config)[0].cpu()
    order = probabilities.argsort(descending=True, stable=True).tolist()
    labels = tuple(order[:most]) if label is None else (label,)
    exclusive = kind_of(config.task).exclusive
    said = order[:1] if exclusive else np.flatnonzero(probabilities.numpy() >= label_thresholds(config)).tolist()
    targets = tuple(
        Target(chosen, config.classes[chosen], float(probabilities[chosen]), answered=chosen in said)
        for chosen in labels
    )
    return Questions(targets, ClassScorer(model, labels, config))


# ---------------------------------------------------------------- regions


@dataclass(frozen=True, eq=False)
class RegionScorer(Scorer):
    """The mean logit, or probability, of a class over the pixels that were given to it."""

    labels: tuple[int, ...]
    shares: Tensor  # (T, H, W): 1 / pixels of the region there, 0 elsewhere
    temperature: float = 1.0

    def evidence(self, images: Tensor) -> Tensor:
        return self._mean(self.model(images))

    def scores(self, images: Tensor) -> Tensor:
        return self._mean((self.model(images) / self.temperature).softmax(dim=1))

    def _mean(self, maps: Tensor) -> Tensor:
        return torch.einsum("bthw,thw->bt", maps[:, list(self.labels)], self.shares)


def _ask_segmenter(
    model: nn.Module, config: ModelConfig, image: Tensor, part: Part, label: int | None, most: int | None
) -> Questions:
    with torch.no_grad():
        winners = model(image)[0].argmax(dim=0)  # (H, W)
    inside = torch.zeros_like(winners, dtype=torch.bool)
    inside[part.rows, part.columns] = True
    counts = torch.bincount(winners[inside], minlength=len(config.classes))
    present = [int(k) for k in counts.argsort(descending=True, stable=True) if counts[k] > 0]
    if label is not None and label not in present:
        names = ", ".join(config.classes[k] for k in present)
        return Questions((), None, (_nothing_found(config, label) + f" It finds {names}.",))
    large = [k for k in present if counts[k] >= _SMALLEST * counts.sum()]
    labels = tuple(large if label is None else [label])[:most]
    regions = torch.stack([(winners == k) & inside for k in labels])
    shares = regions.float() / regions.sum(dim=(1, 2), keepdim=True)
    scorer = RegionScorer(model, labels, shares, config.temperature)
    with torch.no_grad():
        scores = scorer.scores(image)[0].tolist()
    targets = tuple(
        Target(k, config.classes[k], score, region=region.cpu().numpy())
        for k, score, region in zip(labels, scores, regions, strict=True)
    )
    return Questions(targets, scorer)


def _nothing_found(config: ModelConfig, label: int | None) -> str:
    what = "region" if kind_of(config.task).counts == "pixels" else "object"
    what += "" if label is None else f" of class {config.classes[label]!r}"
    return f"The model finds no {what} in this image: there is nothing to draw a heat map of."


# ---------------------------------------------------------------- objects


@dataclass(frozen=True, eq=False)
class PositionScorer(Scorer):
    """One-stage detectors: the answers of the very positions that found the objects.

    FCOS multiplies the class's probability by the one of being central and takes the root; its evidence is the
    logarithm of that.
    """

    positions: tuple[int, ...]
    labels: tuple[int, ...]

    def evidence(self, images: Tensor) -> Tensor:
        logits, centres = self._logits(images)
        return logits if centres is None else (F.logsigmoid(logits) + F.logsigmoid(centres)) / 2

    def scores(self, images: Tensor) -> Tensor:
        logits, centres = self._logits(images)
        return logits.sigmoid() if centres is None else (logits.sigmoid() * centres.sigmoid()).sqrt()

    def _logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        logits, _, *centres = self.model.parts()["network"](images)
        positions = list(self.positions)
        return logits[:, positions, list(self.labels)], centres[0][:, positions, 0] if centres else None


@dataclass(frozen=True, eq=False)
class BoxScorer(Scorer):
    """Two-stage detectors: what the second stage says about the very proposals that became the objects."""

    boxes: Tensor  # (T, 4) of the proposals, in pixels of the input
    labels: tuple[int, ...]

    def evidence(self, images: Tensor) -> Tensor:
        return self._pick(self._logits(images))

    def scores(self, images: Tensor) -> Tensor:
        return self._pick(self._logits(images).softmax(dim=-1))

    def _logits(self, images: Tensor) -> Tensor:
        """(B, T, K + 1), the background first"""
        parts, number = self.model.parts(), len(self.boxes)
        _, _, *maps = parts["network"](images)
        numbers = torch.arange(len(images), device=images.device, dtype=self.boxes.dtype).repeat_interleave(number)
        rois = torch.cat([numbers[:, None], self.boxes.repeat(len(images), 1)], dim=1)  # (B * T, 5)
        logits: Tensor = parts["boxes"](*maps, rois)[0]
        return logits.unflatten(0, (len(images), number))

    def _pick(self, values: Tensor) -> Tensor:
        return values[:, range(len(self.labels)), [label + 1 for label in self.labels]]


def _ask_detector(
    model: nn.Module, config: ModelConfig, image: Tensor, part: Part, label: int | None, most: int
) -> Questions:
    """The best objects above the model's threshold; where none is, the best of all, said to be no answer."""
    detector = cast(Detector, model)
    spec = DetectorSpec.of(config.head, len(config.classes), config.head_args)
    watched = _Watched(detector)
    (found,) = detect(spec, watched, image.cpu().numpy())
    chosen = _visible(found, part)
    if label is not None:
        chosen = chosen[found["labels"][chosen] == label]
    sure = chosen[found["scores"][chosen] >= np.float32(config.threshold)]
    chosen = sure[:most] if len(sure) else chosen[:1]
    if not len(chosen):
        return Questions((), None, (_nothing_found(config, label),))
    boxes, labels = found["boxes"][chosen], tuple(found["labels"][chosen].tolist())
    regions = _masks(found, chosen, (image.shape[2], image.shape[3]))
    scorer: Scorer
    if spec.dense:
        positions = _positions(detector, image, found["scores"][chosen], labels)
        scorer = PositionScorer(detector, positions, labels)
    else:
        proposals = watched.proposals(found["scores"][chosen], labels)
        scorer = BoxScorer(detector, torch.from_numpy(proposals).to(image.device), labels)
    with torch.no_grad():
        scores = scorer.scores(image)[0].tolist()
    targets = tuple(
        Target(k, config.classes[k], score, answered=len(sure) > 0, box=cast(Box, tuple(box)), region=region)
        for k, score, box, region in zip(labels, scores, boxes.tolist(), regions, strict=True)
    )
    unsure = f"No detection reaches the threshold of {config.threshold:.2f}: the most confident one is shown."
    return Questions(targets, scorer, () if len(sure) else (unsure,))


class _Watched:
    """A detector as `detect` runs it, whose second stage is remembered."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.boxes = np.zeros((0, 4), np.float32)  # of the proposals
        self.scores = np.zeros((0, 1), np.float32)  # the background first

    def run(self, part: str, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self.detector.run(part, inputs)
        if part == "boxes":
            self.boxes, self.scores = np.asarray(inputs[-1])[:, 1:], softmax(outputs[0])
        return outputs

    def proposals(self, scores: NDArray[np.float32], labels: Sequence[int]) -> NDArray[np.float32]:
        """(n, 4) which proposal gave each object: the one whose score for its class is the object's."""
        places = [
            int(np.abs(self.scores[:, label + 1] - score).argmin())
            for score, label in zip(scores, labels, strict=True)
        ]  # fmt: skip
        return self.boxes[places]


def _masks(found: Found, chosen: NDArray[np.int64], size: tuple[int, int]) -> list[NDArray[np.bool_] | None]:
    """The masks of the chosen objects in the network's input, (H, W) each; None where the head gives none."""
    if "masks" not in found:
        return [None] * len(chosen)
    whole: list[NDArray[np.bool_] | None] = []
    for mask, (left, top) in zip(*place_masks(found["masks"][chosen], found["boxes"][chosen], size), strict=True):
        region = np.zeros(size, np.bool_)
        region[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        whole.append(region)
    return whole


def _visible(found: Found, part: Part) -> NDArray[np.int64]:
    """The objects, the most confident first, of which something lies in the image and not in the border."""
    left, top, right, bottom = found["boxes"].T
    wide = right.clip(part.left, part.right) > left.clip(part.left, part.right)
    high = bottom.clip(part.top, part.bottom) > top.clip(part.top, part.bottom)
    return np.flatnonzero(wide & high)


def _positions(
    detector: Detector, image: Tensor, scores: NDArray[np.float32], labels: Sequence[int]
) -> tuple[int, ...]:
    """Which position gave each object: the one whose score for its class is the object's."""
    with torch.no_grad():
        logits, _, *centres = detector.dense(image)
    all_scores = logits[0].sigmoid() if not centres else (logits[0].sigmoid() * centres[0][0].sigmoid()).sqrt()
    return tuple(
        int((all_scores[:, label].cpu() - float(score)).abs().argmin())
        for score, label in zip(scores, labels, strict=True)
    )
