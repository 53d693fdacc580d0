"""From an engine's raw outputs to answers, in numpy: prediction, evaluation, every engine and parity share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dualtoken.decode import DetectorSpec, Engine, Found, detect
from dualtoken.errors import ModelError, unknown_name
from dualtoken.outputs import Classification, Detections, Segmentation
from dualtoken.postprocess import place_masks, regions, require_finite, softmax
from dualtoken.preprocess import Preprocessing

Size = tuple[int, int]

_AXES = {"classification": 2, "semantic_segmentation": 4}  # of the logits; the other tasks' outputs are `decode`'s


class Described(Protocol):
    """What a model's config says that answers need; a `ModelConfig` is one."""

    @property
    def task(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def head(self) -> str: ...
    @property
    def head_args(self) -> dict[str, Any]: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def temperature(self) -> float: ...


def answer(config: Described, engine: Engine, images: NDArray[np.float32], sizes: Sequence[Size]) -> list[Any]:
    """One answer an image.

    Args:
        config: of the model.
        engine: computes its network.
        images: (B, 3, H, W) float32, pre-processed as `config` says.
        sizes: (height, width) of each image before that, in pixels.

    Returns:
        A `Classification`, `Detections` or `Segmentation` for each, as the task is.

    Raises:
        ModelError: the network gives something that is no number, or of another shape than `config` says.
    """
    raw = outputs(config, engine, images)
    return read_answers(config.task, config.classes, raw, sizes, config.preprocessing, config.temperature)


def outputs(config: Described, engine: Engine, images: NDArray[np.float32]) -> Any:
    """What `read_answers` reads: a classifier's logits (B, K), a segmenter's (B, K, H, W), a detector's boxes.

    Raises:
        ModelError: as in `answer`.
    """
    _require_known(config.task)
    if config.task not in _AXES:
        return detect(DetectorSpec.of(config.head, len(config.classes), config.head_args), engine, images)
    (logits,) = engine.run("network", [images])
    _require_shape(logits, (len(images), len(config.classes)), _AXES[config.task])
    require_finite(logits)
    return logits


def read_answers(
    task: str,
    classes: Sequence[str],
    raw: Any,
    sizes: Sequence[Size],
    preprocessing: Preprocessing,
    temperature: float = 1.0,
) -> list[Any]:
    """Raw outputs of a batch to one answer an image.

    Args:
        task: a key of `READERS`.
        classes: K class names, in the order of the outputs.
        raw: logits float32 (B, K) or (B, K, H, W), or what `detect` gave.
        sizes: (height, width) of each image, in pixels.
        preprocessing: how the images became the network's input.
        temperature: logits are divided by it.

    Raises:
        ModelError: something is no number, or the task is unknown.
    """
    _require_known(task)
    return READERS[task](tuple(classes), raw, sizes, preprocessing, temperature)


def _classifications(
    classes: tuple[str, ...],
    raw: NDArray[np.float32],
    sizes: Sequence[Size],
    preprocessing: Preprocessing,
    temperature: float,
) -> list[Any]:
    require_finite(raw)
    return [Classification(classes, row) for row in softmax(raw, temperature)]


def _segmentations(
    classes: tuple[str, ...],
    raw: NDArray[np.float32],
    sizes: Sequence[Size],
    preprocessing: Preprocessing,
    temperature: float,
) -> list[Any]:
    require_finite(raw)
    return [
        Segmentation(classes, *regions(maps, preprocessing.placement(size), size, temperature))
        for maps, size in zip(raw, sizes, strict=True)
    ]


def _detections(
    classes: tuple[str, ...],
    raw: Sequence[Found],
    sizes: Sequence[Size],
    preprocessing: Preprocessing,
    temperature: float,
) -> list[Any]:
    """Boxes of the network's input to boxes, and masks, of the images."""
    return [_placed(classes, found, size, preprocessing) for found, size in zip(raw, sizes, strict=True)]


def _placed(classes: tuple[str, ...], found: Found, size: Size, preprocessing: Preprocessing) -> Detections:
    require_finite(found["boxes"], found["scores"])
    height, width = size
    boxes = preprocessing.placement(size).to_image(found["boxes"])
    inside = boxes.clip(0, np.array([width, height, width, height], np.float32))
    good = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])  # not all in the border
    masks, corners = (
        place_masks(found["masks"][good], boxes[good], size) if "masks" in found else (None, None)
    )  # of the whole boxes: a mask lies where its box did, before the image cuts it
    scores, labels = found["scores"][good].clip(0, 1), found["labels"][good].astype(np.int64)
    return Detections(classes, size, inside[good], scores, labels, masks, corners)


def _require_known(task: str) -> None:
    if task not in READERS:
        raise ModelError(unknown_name("task", task, READERS), "Type: pip install --upgrade dualtoken")


def _require_shape(logits: NDArray[Any], expected: tuple[int, int], axes: int) -> None:
    if logits.ndim != axes or logits.shape[:2] != expected:
        rest = ", height, width" if axes == 4 else ""
        raise ModelError(f"The network gives {logits.shape}, expected {str(expected)[:-1]}{rest}).")


Reader = Callable[[tuple[str, ...], Any, Sequence[Size], Preprocessing, float], list[Any]]

READERS: Mapping[str, Reader] = {
    "classification": _classifications,
    "detection": _detections,
    "instance_segmentation": _detections,
    "semantic_segmentation": _segmentations,
}
