"""Boxes, masks and pictures move together, whatever is drawn; what can no longer be seen is no target."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from torch import Tensor

from dualtoken.data.joint_transforms import (
    DrawOther,
    Example,
    JointPreprocessing,
    joint_transform,
    place_mask,
    place_objects,
)
from dualtoken.data.loading import seeded
from dualtoken.data.samples import IGNORE, Objects
from dualtoken.errors import ConfigError
from dualtoken.preprocess import Placement, Preprocessing

PREPROCESSING = Preprocessing(
    image_size=(64, 96), crop_mode="border", interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4)
)
PLAIN: dict[str, Any] = {"scale": (1.0, 1.0), "hflip": 0.0}
RED, BLUE = (250, 10, 10), (10, 10, 250)
AS_IS = Placement((40, 60), (1.0, 1.0), 0, 0)


def ellipse(box: Sequence[float], points: int = 60) -> np.ndarray:
    left, top, right, bottom = box
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    x, y = (
        (left + right) / 2 + (right - left) / 2 * np.cos(angle),
        (top + bottom) / 2 + (bottom - top) / 2 * np.sin(angle),
    )
    return np.stack([x, y], 1).astype(np.float32)


def corners(box: Sequence[float]) -> np.ndarray:
    left, top, right, bottom = box
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)


def objects_of(
    boxes: Sequence[Sequence[float]],
    size: tuple[int, int] = (40, 60),
    outlines: Sequence[np.ndarray] | None = None,
    labels: Sequence[int] | None = None,
    crowd: Sequence[bool] | None = None,
    runs: Sequence[str] | None = None,
) -> Objects:
    count = len(boxes)
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Objects(
        size,
        array,
        np.array(labels if labels is not None else range(count), np.int64),
        np.array(crowd or [False] * count, bool),
        (array[:, 2:] - array[:, :2]).prod(1),
        tuple((outline,) for outline in outlines) if outlines is not None else ((),) * count,
        tuple(runs or [""] * count),
    )


def one_object(
    box: tuple[int, int, int, int] = (12, 8, 36, 30), colour: tuple[int, int, int] = RED, outlined: bool = True
) -> Example:
    """A black 60 x 40 image with one filled rectangle of `colour`."""
    image = Image.new("RGB", (60, 40))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=colour)
    outlines = [corners(box)] if outlined else None
    return Example(image, objects_of([box], outlines=outlines), wants_masks=outlined)


def never() -> Example:
    raise AssertionError("no other scene was needed")


def pixels(image: Tensor) -> np.ndarray:
    """(H, W, 3) 0 to 255."""
    values = image.numpy().transpose(1, 2, 0) * np.array(PREPROCESSING.std) + np.array(PREPROCESSING.mean)
    return values * 255


def red(image: Tensor) -> np.ndarray:
    values = pixels(image)
    return (values[..., 0] > 170) & (values[..., 1] < 90) & (values[..., 2] < 90)


def bounds(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def run(scene: Example, seed: int = 0, other: DrawOther = never, **options: Any) -> tuple[Tensor, Any]:
    with seeded(seed):
        return joint_transform(PREPROCESSING, **options)(scene, other)


def test_types_and_shapes() -> None:
    image, target = run(one_object())
    assert (image.shape, image.dtype) == ((3, 64, 96), torch.float32)
    assert {key: (tuple(value.shape), value.dtype) for key, value in target.items()} == {
        "boxes": ((1, 4), torch.float32),
        "labels": ((1,), torch.int64),
        "masks": ((1, 64, 96), torch.uint8),
    }
    assert all(type(value) is Tensor for value in target.values())
    assert set(run(one_object(outlined=False))[1]) == {"boxes", "labels"}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("outlined", [True, False])
def test_the_box_lies_where_the_rectangle_does(seed: int, outlined: bool) -> None:
    image, target = run(one_object(outlined=outlined), seed)
    seen = red(image)
    if len(target["boxes"]) == 0:
        assert seen.sum() < 0.25 * 24 * 22 * (96 / 60 * 1.5) ** 2  # a fifth at most of what it was
        return
    assert target["boxes"][0].tolist() == pytest.approx(bounds(seen), abs=1.6)
    if outlined:
        mask = target["masks"][0].numpy().astype(bool)
        assert (mask ^ seen).sum() < 0.12 * mask.sum() + 20  # the edge is a blend


def test_the_seeds_above_show_both_sides_and_many_places() -> None:
    boxes = [run(one_object(), seed, hflip=0.0)[1]["boxes"] for seed in range(12)]
    assert len({tuple(box[0].tolist()) for box in boxes if len(box)}) > 8


def test_without_randomness_it_is_the_evaluation_preprocessing() -> None:
    scene = one_object()._replace(image=Image.effect_noise((90, 60), 80).convert("RGB"), objects=objects_of([]))
    image, target = run(scene, **PLAIN)
    np.testing.assert_array_equal(image.numpy(), PREPROCESSING(scene.image))
    assert target["masks"].shape == (0, 64, 96)
    assert target["boxes"].shape == (0, 4)


def test_mirrored_box_and_picture() -> None:
    scene = one_object()._replace(image=one_object().image)
    straight, mirrored = (run(scene, scale=(1.0, 1.0), hflip=p) for p in (0.0, 1.0))
    left, top, right, bottom = straight[1]["boxes"][0].tolist()
    assert mirrored[1]["boxes"][0].tolist() == pytest.approx([96 - right, top, 96 - left, bottom])
    assert torch.equal(mirrored[0], straight[0].flip(-1))
    assert torch.equal(mirrored[1]["masks"], straight[1]["masks"].flip(-1))


def test_what_no_image_covers_is_the_mean_colour_even_when_colours_change() -> None:
    scene = Example(Image.new("RGB", (60, 40), RED), objects_of([]))
    covered = red(run(scene, scale=(0.5, 0.5))[0])
    image, target = run(scene, scale=(0.5, 0.5), color_jitter=0.9)
    assert abs(pixels(image)[~covered] - PREPROCESSING.fill).max() < 1e-3
    assert 0.2 < covered.mean() < 0.3
    assert len(target["labels"]) == 0


def test_colours_change() -> None:
    plain, changed = (run(one_object(), **PLAIN, color_jitter=strength)[0] for strength in (0.0, 0.8))
    assert not torch.allclose(plain, changed)


def placed(objects: Objects, placement: Placement = AS_IS, masks: bool = True) -> tuple[Any, ...]:
    return place_objects(objects, placement, (40, 60), masks)


def test_outlines_in_place_are_the_masks_of_the_data() -> None:
    outlines = [ellipse((5, 5, 25, 30)), ellipse((20.3, 8.7, 55.2, 38.1)), corners((40, 2, 58, 11))]
    objects = objects_of([[*ring.min(0), *ring.max(0)] for ring in outlines], outlines=outlines)
    boxes, labels, masks = placed(objects)
    np.testing.assert_array_equal(masks, objects.masks())
    np.testing.assert_array_equal(boxes, objects.boxes)
    assert labels.tolist() == [0, 1, 2]


def test_runs_are_decoded_and_moved() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:50] = 1
    runs = coco.encode(np.asfortranarray(mask))["counts"].decode()
    objects = objects_of([[20, 10, 50, 30]], runs=[runs])
    np.testing.assert_array_equal(placed(objects)[2][0], mask)
    half = placed(objects, Placement((20, 30), (0.5, 0.5), 7, 3))[2][0]
    assert bounds(half) == [17, 8, 32, 18]
    assert half.sum() == 15 * 10


def test_crowds_are_no_targets() -> None:
    boxes, labels, _ = placed(objects_of([(0, 0, 20, 20), (20, 10, 40, 30)], crowd=[True, False]))
    assert labels.tolist() == [1]
    assert boxes.tolist() == [[20, 10, 40, 30]]


@pytest.mark.parametrize(("shift", "kept"), [(-11, True), (-17, False), (-40, False)])
def test_what_loses_four_fifths_is_dropped(shift: int, kept: bool) -> None:
    objects = objects_of([(0, 10, 20, 30)])
    boxes, labels, masks = placed(objects, AS_IS._replace(left=shift))
    assert boxes.tolist() == ([[0, 10, 20 + shift, 30]] if kept else [])
    assert len(labels) == len(masks) == kept


def test_what_gets_thinner_than_two_pixels_is_dropped() -> None:
    objects = objects_of([(10, 10, 18, 30), (30, 10, 50, 30)])
    boxes, labels, _ = placed(objects, Placement((8, 12), (0.2, 0.2), 0, 0))
    assert labels.tolist() == [1]
    assert boxes[0].tolist() == pytest.approx([6, 2, 10, 6])


def test_a_cut_outline_gets_the_box_of_what_is_left() -> None:
    # A slope from the lower left to the upper right corner: its left half lies low.
    slope = np.array([(0, 40), (60, 0), (60, 4), (4, 40)], np.float32)
    for masks in (True, False):
        boxes, *_ = placed(objects_of([(0, 0, 60, 40)], outlines=[slope]), AS_IS._replace(left=-25), masks)
        assert boxes[0].tolist() == pytest.approx([0, 0, 35, 27], abs=1.5)
    boxes, *_ = placed(objects_of([(0, 0, 60, 40)]), AS_IS._replace(left=-25))
    assert boxes[0].tolist() == [0, 0, 35, 40]  # a mere box cannot know


def test_an_outline_too_thin_for_any_pixel_is_dropped() -> None:
    thin = np.array([(10, 10.2), (30, 10.3), (30, 10.4), (10, 10.3)], np.float32)
    boxes, _, masks = placed(objects_of([(10, 8, 30, 12)], outlines=[thin]))
    assert (len(boxes), len(masks)) == (0, 0)


def mask_scene(size: tuple[int, int] = (40, 60)) -> Example:
    """Classes 0 to 3 in quarters and `IGNORE` in the middle; the image's red tells the class."""
    mask = np.zeros(size, np.uint8)
    mask[: size[0] // 2, size[1] // 2 :] = 1
    mask[size[0] // 2 :, : size[1] // 2] = 2
    mask[size[0] // 2 :, size[1] // 2 :] = 3
    colours = np.zeros((*size, 3), np.uint8)
    colours[..., 0] = 40 + mask * 50
    colours[..., 2] = 255
    mask[15:25, 25:35] = IGNORE
    return Example(Image.fromarray(colours), mask=mask)


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_masks_follow_the_picture(seed: int, mosaic: float) -> None:
    image, target = run(mask_scene(), seed, mask_scene, mosaic=mosaic)
    assert (target.shape, target.dtype, type(target)) == ((64, 96), torch.uint8, Tensor)
    values, mask = pixels(image), target.numpy()
    filled = (abs(values - PREPROCESSING.fill) < 0.01).all(-1)
    assert (mask[filled] == IGNORE).all()
    known = mask != IGNORE
    assert (abs(values[..., 0] - (40.0 + mask * 50))[known] < 26).mean() > 0.93  # but for edges between classes
    assert set(np.unique(mask)) <= {0, 1, 2, 3, IGNORE}
    assert known.mean() > 0.1


def test_all_ignored_masks_stay_so() -> None:
    scene = mask_scene()._replace(mask=np.full((40, 60), IGNORE, np.uint8))
    assert (run(scene)[1] == IGNORE).all()


@pytest.mark.parametrize("crop_mode", ["border", "center", "squash"])
@pytest.mark.parametrize("size", [(40, 50), (60, 40), (7, 90), (200, 280), (1, 1)])
def test_evaluation_places_masks_as_images(crop_mode: Any, size: tuple[int, int]) -> None:
    preprocessing = Preprocessing((64, 96), 0.9, crop_mode, "nearest", (0.5,) * 3, (0.25,) * 3)
    values = np.random.default_rng(0).integers(0, 100, size).astype(np.uint8)
    image, target = JointPreprocessing(preprocessing)(Example(Image.fromarray(values).convert("RGB"), mask=values))
    np.testing.assert_array_equal(image.numpy(), preprocessing(Image.fromarray(values).convert("RGB")))
    seen = np.rint((image[0].numpy() * 0.25 + 0.5) * 255).astype(int)
    known = target.numpy() != IGNORE
    # Noise: one pixel beside would agree in a hundredth. Ties between two pixels may fall either way.
    assert (seen[known] == target.numpy()[known]).mean() > 0.85
    assert (seen[~known] == 128).all()
    assert known.all() == (crop_mode != "border")


def test_evaluation_gives_no_objects() -> None:
    assert JointPreprocessing(PREPROCESSING)(one_object())[1] == {}


def test_place_mask_by_hand() -> None:
    mask = np.array([[1, 2]], np.uint8)
    expected = [[IGNORE, 1, 1, 2], [IGNORE, IGNORE, IGNORE, IGNORE]]
    assert place_mask(mask, Placement((1, 4), (1, 2), 1, 0), (2, 4)).tolist() == expected


@pytest.mark.parametrize("seed", range(8))
def test_mosaic_has_the_objects_of_four_scenes_in_their_places(seed: int) -> None:
    boxes = [(2, 2, 58, 38)] * 4
    scenes = [
        one_object(box, RED)._replace(objects=objects_of([box], outlines=[corners(box)], labels=[n]))
        for n, box in enumerate(boxes)
    ]
    others = iter(scenes[1:])
    image, target = run(scenes[0]._replace(wants_masks=True), seed, lambda: next(others), mosaic=1.0)
    seen = red(image)
    assert len(set(target["labels"].tolist())) == len(target["labels"]) >= 2
    inside = np.zeros_like(seen)
    for box, mask in zip(target["boxes"].tolist(), target["masks"].numpy(), strict=True):
        left, top, right, bottom = (round(side) for side in box)
        assert seen[top + 1 : bottom - 1, left + 1 : right - 1].mean() > 0.97
        assert box == pytest.approx(bounds(mask), abs=1)
        assert not (inside & (mask > 0)).any()  # tiles do not overlap
        inside |= mask > 0
    if len(target["labels"]) == 4:
        assert (seen & ~inside).sum() < 0.1 * seen.sum() + 30
    assert next(others, None) is None


@pytest.mark.parametrize("scale", [(0.5, 1.5), (1.0, 1.0)])
@pytest.mark.parametrize("size", [(40, 60), (60, 40), (50, 50)])
def test_a_mosaic_leaves_little_free(size: tuple[int, int], scale: tuple[float, float]) -> None:
    def scene() -> Example:
        return Example(Image.new("RGB", size[::-1], RED), mask=np.ones(size, np.uint8))

    free = []
    for seed in range(30):
        image, mask = run(scene(), seed, scene, mosaic=1.0, scale=scale)
        assert ((mask.numpy() == IGNORE) == ~red(image)).all()
        free.append(float((mask.numpy() == IGNORE).mean()))
    assert np.mean(free) < 0.05
    assert max(free) < 0.35


@pytest.mark.parametrize("seed", range(6))
def test_the_tiles_of_a_mosaic_meet(seed: int) -> None:
    """Very long images leave a part of the input free: its edge, not the middle."""
    scenes = [Example(Image.new("RGB", (90, 6), RED), mask=np.full((6, 90), n, np.uint8)) for n in range(4)]
    others = iter(scenes[1:])
    _, mask = run(scenes[0], seed, lambda: next(others), mosaic=1.0, scale=(1.0, 1.0))
    tiles = [bounds(mask.numpy() == number) for number in range(4)]
    assert (mask == IGNORE).float().mean() > 0.2
    middle = {(x, y) for left, top, right, bottom in tiles for x in (left, right) for y in (top, bottom)}
    assert any(all(x in (left, right) and y in (top, bottom) for left, top, right, bottom in tiles) for x, y in middle)


def test_zoom_makes_the_tiles_of_a_mosaic_larger() -> None:
    box = (24, 14, 36, 26)

    def area(scale: float) -> float:
        found = [run(one_object(box), seed, lambda: one_object(box), mosaic=1.0, scale=(scale, scale))[1]["boxes"]
                 for seed in range(12)]  # fmt: skip
        boxes = torch.cat(found)
        return float((boxes[:, 2:] - boxes[:, :2]).prod(1).median())

    assert area(2.0) > 1.5 * area(1.0)


def test_mosaic_of_boxes_alone() -> None:
    scene = one_object(outlined=False)
    _, target = run(scene, 1, lambda: scene, mosaic=1.0)
    assert set(target) == {"boxes", "labels"}
    assert len(target["boxes"]) == len(target["labels"]) >= 2


def test_pasted_objects_lie_in_front() -> None:
    donor = one_object((20, 10, 40, 30), BLUE)
    donor = donor._replace(objects=objects_of([(20, 10, 40, 30)], outlines=[corners((20, 10, 40, 30))], labels=[7]))
    scene = one_object((0, 0, 60, 40), RED)
    image, target = run(scene, 0, lambda: donor, copy_paste=1.0, **PLAIN)
    assert target["labels"].tolist() == [0, 7]
    behind, front = target["masks"].numpy().astype(bool)
    assert not (behind & front).any()
    values = pixels(image)
    assert (values[..., 2][front] > 150).mean() > 0.85
    assert (values[..., 0][behind] > 150).mean() > 0.95
    for box, mask in zip(target["boxes"].tolist(), (behind, front), strict=True):
        assert box == pytest.approx(bounds(mask), abs=1)


def test_what_is_pasted_over_shrinks_or_vanishes() -> None:
    donor = one_object((0, 0, 60, 40), BLUE)
    _, target = run(one_object((20, 10, 40, 30)), 0, lambda: donor, copy_paste=1.0, **PLAIN)
    assert len(target["labels"]) == 1  # all is behind the donor
    assert target["masks"][0].sum() > 64 * 94
    half = one_object((0, 0, 30, 40), BLUE)
    _, target = run(one_object((20, 10, 40, 30)), 0, lambda: half, copy_paste=1.0, **PLAIN)
    assert target["boxes"][0].tolist() == pytest.approx([48, 16, 64, 48], abs=1)  # its right half, 1.6 times as large
    most = one_object((0, 0, 37, 40), BLUE)
    _, target = run(one_object((20, 10, 40, 30)), 0, lambda: most, copy_paste=1.0, **PLAIN)
    assert len(target["labels"]) == 1  # 15 % are left of it, about five pixels wide: too little


def test_nothing_is_pasted_without_outlines_and_masks_stay_private() -> None:
    scene = one_object()._replace(wants_masks=False)
    plain = run(scene, **PLAIN)
    _, target = run(scene, 0, lambda: one_object(outlined=False), copy_paste=1.0, **PLAIN)
    assert set(target) == {"boxes", "labels"}
    assert target["boxes"].shape == plain[1]["boxes"].shape
    _, target = run(scene, 0, lambda: one_object((2, 2, 9, 9)), copy_paste=1.0, **PLAIN)
    assert set(target) == {"boxes", "labels"}
    assert len(target["boxes"]) == 2


def test_crowds_are_not_pasted() -> None:
    box = (20, 10, 40, 30)
    donor = Example(Image.new("RGB", (60, 40)), objects_of([box], outlines=[corners(box)], crowd=[True]))
    assert len(run(one_object(), 0, lambda: donor, copy_paste=1.0, **PLAIN)[1]["labels"]) == 1
    both = [box, (0, 0, 5, 5)]
    donor = donor._replace(objects=objects_of(both, outlines=[corners(b) for b in both], crowd=[True, False]))
    for seed in range(8):  # the other one is pasted each time
        assert run(one_object(), seed, lambda: donor, copy_paste=1.0, **PLAIN)[1]["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2), (700, 900)])
@pytest.mark.parametrize("crop_mode", ["border", "squash", "center"])
def test_odd_sizes(size: tuple[int, int], crop_mode: Any) -> None:
    preprocessing = Preprocessing((32, 48), crop_mode=crop_mode)
    transform = joint_transform(preprocessing, mosaic=0.5, copy_paste=0.5, color_jitter=0.3)
    box = (0, 0, size[1], size[0])
    objects = objects_of([box], size, [corners(box)])
    scenes = [
        Example(Image.new("RGB", size[::-1]), objects, wants_masks=True),
        Example(Image.new("RGB", size[::-1]), mask=np.zeros(size, np.uint8)),
    ]
    for scene in scenes:
        for seed in range(6):
            with seeded(seed):
                image, target = transform(scene, lambda scene=scene: scene)  # type: ignore[misc]
            assert image.shape == (3, 32, 48)
            if isinstance(target, dict):
                assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
                assert (target["boxes"] >= 0).all()
                assert (target["boxes"][:, [1, 3]] <= 32).all()
                assert (target["boxes"][:, 2:] - target["boxes"][:, :2] >= 2).all()


def test_grey_models_get_one_channel() -> None:
    grey = Preprocessing((32, 32), crop_mode="border", mean=(0.5,), std=(0.25,))
    with seeded(0):
        assert joint_transform(grey, color_jitter=0.5)(one_object(), never)[0].shape == (1, 32, 32)


def test_it_belongs_to_the_seed_and_travels_to_spawned_workers() -> None:
    transform = joint_transform(PREPROCESSING, color_jitter=0.5, mosaic=0.5, copy_paste=0.5)
    again = pickle.loads(pickle.dumps(transform))
    results = []
    for one, seed in ((transform, 4), (again, 4), (transform, 5)):
        with seeded(seed):
            results.append(one(one_object(), one_object))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1]["boxes"], results[1][1]["boxes"])
    assert not torch.equal(results[0][0], results[2][0])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"scale": (1.5, 0.5)}, "scale is"),
        ({"hflip": 1.5}, "hflip is 1.5"),
        ({"color_jitter": -1}, "color_jitter is -1"),
        ({"mosaic": 2}, "mosaic is 2"),
        ({"copy_paste": float("nan")}, "copy_paste is nan"),
    ],
)
def test_impossible_values(option: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        joint_transform(PREPROCESSING, **option)
