"""Evaluations and data of invented scenes, plausible enough to be drawn."""

from pathlib import Path

import numpy as np
from PIL import Image

from dualtoken.answers import Evaluation
from dualtoken.answers.box_meter import ObjectCounts, ObjectScores
from dualtoken.answers.region_meter import PixelScores, RegionScores
from dualtoken.data import IGNORE, ImageData, MaskSamples, Objects, ObjectSamples
from dualtoken.outputs import Bin, Interval

SIZE = (48, 64)


def interval(value: float, half: float = 0.05) -> Interval:
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def invent_objects(number: int, classes: int, seed: int = 0, crowd: bool = False) -> Objects:
    """`number` objects of an image of 48 x 64 pixels."""
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 20, (number, 2)), rng.uniform(4, 24, (number, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    labels = np.arange(number, dtype=np.int64) % classes
    areas = sides.prod(axis=1).astype(np.float32)
    return Objects(SIZE, boxes, labels, np.full(number, crowd), areas, ((),) * number, ("",) * number)


def write_images(root: Path, number: int) -> list[str]:
    names = [f"{place:02}.png" for place in range(number)]
    root.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        Image.new("RGB", SIZE[::-1], (40 * place % 256, 120, 80)).save(root / name)
    return names


def object_data(root: Path, classes: tuple[str, ...], counts: tuple[int, ...] = (3, 0, 5)) -> ImageData:
    """Images with `counts` objects each in the splits `train` and `val`."""
    names = write_images(root, len(counts))
    objects = [invent_objects(count, len(classes), place) for place, count in enumerate(counts)]
    samples = ObjectSamples.build(str(root), names, objects)
    splits = {"train": samples, "val": samples.subset(range(len(counts)))}
    return ImageData(str(root), classes, splits, "0" * 64, notes=("1 image is empty",), layout="invented")


def mask_samples(root: Path, masks: list[np.ndarray], classes: int) -> MaskSamples:
    names = write_images(root, len(masks))
    for name, mask in zip(names, masks, strict=True):
        Image.fromarray(mask).save(root / f"mask_{name}")
    return MaskSamples(
        str(root), np.array(names, np.dtypes.StringDType()), None,
        np.array([f"mask_{name}" for name in names], np.dtypes.StringDType()), None,
        np.array([mask.shape for mask in masks], np.int64), np.arange(classes, dtype=np.uint8),
    )  # fmt: skip


def mask_data(root: Path, classes: tuple[str, ...]) -> ImageData:
    masks = [np.full(SIZE, place % len(classes), np.uint8) for place in range(3)]
    masks[0][:12] = IGNORE
    samples = mask_samples(root, masks, len(classes))
    return ImageData(str(root), classes, {"train": samples, "val": samples.subset([0, 1, 2])}, "0" * 64)


def object_evaluation(
    classes: tuple[str, ...], *, images: int = 3, masks: bool = False, answers: bool = True
) -> Evaluation:
    """Of each class k there are 10 (k + 1) objects, and none of a class called `none`; half of them are found."""
    number = len(classes)
    support = np.array([0 if name == "none" else 10 * (place + 1) for place, name in enumerate(classes)])
    scores = [(k + 1) / (number + 1) if answers else 0.0 for k in range(number)]
    per_class = []
    for name, objects, score in zip(classes, support.tolist(), scores, strict=True):
        known = [interval(score) if objects else None] * (4 if masks else 2)
        per_class.append(ObjectScores(name, objects, objects if answers else 0, *known))
    confusion = np.zeros((number + 1, number + 1), np.int64)
    found = support // 2 if answers else support * 0
    confusion[range(number), range(number)] = found
    confusion[:-1, -1] = support - found
    confusion[-1, :-1] = found
    recall = np.linspace(0, 1, 101)
    curves = np.stack([np.where(recall <= score, 1 - recall / 2, 0) for score in scores]).astype(np.float32)
    curves[support == 0] = np.nan
    metrics = {"ap": interval(0.412), "ap50": interval(0.634), "ap75": interval(0.44), "ap_small": interval(0.2)}
    metrics |= {f"mask_{name}": interval(value.value - 0.1) for name, value in metrics.items()} if masks else {}
    scores = ObjectCounts(
        np.arange(images), np.linspace(0, 1, images), *(np.full(images, count) for count in (4, 2, 1))
    )
    return Evaluation(
        "instance_segmentation" if masks else "detection", "runs/x", "photos", "val", classes, metrics,
        tuple(per_class), scores, (), 0, 200, confusion, (Bin(0.5, 0.6, 30, 0.55, 0.5),) if answers else (), curves,
        {"threshold": 0.37},
    )  # fmt: skip


def region_evaluation(classes: tuple[str, ...], *, images: int = 3, confidence: bool = True) -> Evaluation:
    number = len(classes)
    confusion = np.full((number, number), 1000, np.int64) + np.diag(np.full(number, 97_000))
    per_class = tuple(
        RegionScores(name, int(confusion[k].sum()), 1 / number, interval((k + 1) / (number + 1)), interval(0.3))
        for k, name in enumerate(classes)
    )
    return Evaluation(
        "semantic_segmentation", "runs/y", "streets", "val", classes,
        {"miou": interval(0.611), "boundary_iou": interval(0.47), "pixel_accuracy": interval(0.897)}, per_class,
        PixelScores(np.arange(images), np.linspace(0, 1, images), np.linspace(0.5, 1, images)), (), 0, 200,
        confusion, (Bin(0.9, 1.0, 900_000, 0.95, 0.9),) if confidence else (),
    )  # fmt: skip
