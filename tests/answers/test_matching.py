"""The average precision is COCO's: equal to pycocotools on invented scenes with crowds, empty images and ties."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest

from dualtoken.answers.box_meter import BoxMeter, InstanceMeter
from dualtoken.answers.matching import (
    ANSWERS,
    AREAS,
    THRESHOLDS,
    TRUTHS,
    Ranking,
    box_overlaps,
    mask_overlaps,
    most_confident,
    object_crops,
)
from dualtoken.data import Objects
from dualtoken.outputs import Detections

# pycocotools' own, under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = ("cat", "dog", "bird", "none of it")
SIZE = (220, 300)  # height, width: all three sizes of COCO fit


def scene_objects(rng: np.random.Generator, number: int) -> Objects:
    """Some objects with outlines, some with boxes only, some crowds; the last class never occurs."""
    left, top = rng.uniform(0, 160, number), rng.uniform(0, 80, number)
    side = rng.choice([12, 30, 60, 140], number)[:, None] * rng.uniform(0.7, 1, (number, 2))
    boxes = np.stack([left, top, (left + side[:, 0]).clip(max=300), (top + side[:, 1]).clip(max=220)], axis=1)
    boxes = boxes.astype(np.float32)
    outlines = tuple((ellipse(box),) if n % 4 else () for n, box in enumerate(boxes))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    crowd = rng.random(number) < 0.15
    return Objects(SIZE, boxes, rng.integers(3, size=number), crowd, areas, outlines, ("",) * number)


def ellipse(box: np.ndarray) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    centre, radius = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return (centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)


def answers_to(objects: Objects, rng: np.random.Generator, extra: int) -> Detections:
    """Moved copies of the objects, twice, of mostly the right class, and `extra` answers anywhere; scores often tie."""
    boxes = np.concatenate([objects.boxes, objects.boxes]) + rng.normal(0, 4, (2 * len(objects.boxes), 4))
    labels = np.concatenate([objects.labels, objects.labels])
    labels = np.where(rng.random(len(labels)) < 0.2, rng.integers(4, size=len(labels)), labels)
    other = scene_objects(rng, extra)
    boxes, labels = np.concatenate([boxes, other.boxes]), np.concatenate([labels, rng.integers(4, size=extra)])
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:] - 2), boxes[:, 2:]], axis=1)
    boxes = boxes.clip(0, [298, 218, 300, 220]).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    corners = np.floor(boxes[:, :2]).astype(np.int64)
    ends = np.ceil(boxes[:, 2:]).astype(np.int64)
    masks = tuple(
        rng.random((bottom - top, right - left)) < 0.9
        for (left, top), (right, bottom) in zip(corners, ends, strict=True)
    )
    return Detections(CLASSES, SIZE, boxes, rng.integers(1, 20, len(boxes)) / 20, labels, masks, corners)


def scenes(images: int, seed: int = 0) -> list[tuple[Detections, Objects]]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(images):
        objects = scene_objects(rng, 0 if number % 5 == 0 else int(rng.integers(1, 9)))
        found.append((answers_to(objects, rng, extra=0 if number % 7 == 3 else int(rng.integers(0, 6))), objects))
    empty = scene_objects(rng, 0)
    return [*found, (answers_to(empty, rng, 0), empty), (answers_to(empty, rng, 0), scene_objects(rng, 4))]


def measured(pairs: list[tuple[Detections, Objects]], classes: tuple[str, ...] = CLASSES) -> BoxMeter:
    meter = InstanceMeter(classes)
    for index, (answers, objects) in enumerate(pairs):
        meter.add(answers, objects, index)
    return meter


def cocos(pairs: list[tuple[Detections, Objects]], kind: str):
    """pycocotools' own evaluation of the same scenes."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    runs = pytest.importorskip("pycocotools.mask")
    truths, results = [], []
    for image, (answers, objects) in enumerate(pairs):
        for n, mask in enumerate(objects.masks()):
            left, top, right, bottom = objects.boxes[n].astype(float).tolist()
            truths.append(
                {
                    "id": len(truths) + 1, "image_id": image, "category_id": int(objects.labels[n]) + 1,
                    "bbox": [left, top, right - left, bottom - top], "area": float(objects.areas[n]),
                    "iscrowd": int(objects.crowd[n]), "segmentation": runs.encode(np.asfortranarray(mask)),
                }
            )  # fmt: skip
        for n in range(len(answers)):
            left, top, right, bottom = answers.boxes[n].astype(float).tolist()
            where = (
                {"bbox": [left, top, right - left, bottom - top]}
                if kind == "bbox"
                else {"segmentation": runs.encode(np.asfortranarray(answers.mask(n)))}
            )
            results.append(
                {"image_id": image, "category_id": int(answers.labels[n]) + 1, "score": float(answers.scores[n])}
                | where
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": n, "height": SIZE[0], "width": SIZE[1]} for n in range(len(pairs))],
            "annotations": truths,
            "categories": [{"id": n + 1, "name": name} for n, name in enumerate(CLASSES)],
            "info": {},
        }
        truth.createIndex()
        run = evaluation.COCOeval(truth, truth.loadRes(results), kind)
        run.evaluate()
        run.accumulate()
    return run.eval["precision"][..., -1]  # (thresholds, recalls, classes, areas), -1 for what does not occur


@pytest.mark.parametrize(("kind", "masks"), [("bbox", False), ("segm", True)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_average_precision_equals_pycocotools(kind, masks, seed):
    pairs = scenes(40, seed)
    expected = cocos(pairs, kind)
    meter = measured(pairs)
    own = meter.ranking(masks=masks).average_precision()
    want = np.where(expected[:, 0] < 0, np.nan, expected.mean(axis=1)).transpose(2, 0, 1)
    assert own.shape == (len(AREAS), len(THRESHOLDS), len(CLASSES))
    np.testing.assert_allclose(own, want, atol=1e-6)
    assert 0.05 < np.nanmean(own) < 0.9
    np.testing.assert_array_equal(np.isnan(own[0]).all(axis=0), [False, False, False, True])
    figures = meter.evaluation(resamples=2).metrics
    prefix = "mask_" if masks else ""
    for place, key in enumerate(("ap", "ap_small", "ap_medium", "ap_large")):
        assert figures[prefix + key].value == pytest.approx(np.nanmean(want[place]), abs=1e-6)
    for place, key in ((0, "ap50"), (5, "ap75")):
        assert figures[prefix + key].value == pytest.approx(np.nanmean(want[0, place]), abs=1e-6)


def test_curves_equal_pycocotools():
    pairs = scenes(30)
    expected = cocos(pairs, "bbox")[0, :, :, 0].T
    curves = measured(pairs).ranking().curves()
    np.testing.assert_allclose(curves[:3], expected[:3], atol=1e-6)
    assert np.isnan(curves[3]).all()


def test_at_most_100_answers_of_a_class_count_in_an_image():
    rng = np.random.default_rng(0)
    objects = scene_objects(rng, 6)
    crowded = answers_to(objects, rng, extra=500)
    pairs = [(crowded, objects), *scenes(6, seed=5)]
    expected = cocos(pairs, "bbox")[..., 0].mean(axis=1)[:, :3]
    assert np.bincount(crowded.labels).max() > 110
    np.testing.assert_allclose(measured(pairs).ranking().average_precision()[0, :, :3], expected, atol=1e-6)


def test_the_surest_of_each_class_in_their_order():
    labels = np.array([0, 1, 0, 1] * 70)
    assert most_confident(labels, 100).tolist() == list(range(200))
    assert most_confident(np.zeros(5, np.int64), 100).tolist() == [0, 1, 2, 3, 4]


def test_weights_count_images_as_often_as_they_say():
    rng = np.random.default_rng(0)
    # No two answers of an image have the same score: of those the repetition would put one image's between another's.
    pairs = [(replace(found, scores=rng.random(len(found))), objects) for found, objects in scenes(25)]
    weights = np.random.default_rng(3).integers(0, 4, len(pairs))
    weights[:2] = 0, 3
    for masks in (False, True):
        weighted = measured(pairs).ranking(masks=masks).average_precision(weights)
        repeated = measured([pair for pair, times in zip(pairs, weights, strict=True) for _ in range(times)])
        np.testing.assert_allclose(weighted, repeated.ranking(masks=masks).average_precision(), atol=1e-9)


def test_masks_overlap_as_their_pixels_do():
    rng = np.random.default_rng(1)
    objects = scene_objects(rng, 12)
    crops = object_crops(objects)
    whole = objects.masks().reshape(12, -1).astype(float)
    shared = whole @ whole.T
    area = whole.sum(axis=1)
    union = np.where(objects.crowd, area[:, None], area[:, None] + area - shared)
    expected = shared / union
    own = mask_overlaps(crops, crops, objects.crowd)
    np.testing.assert_allclose(own[expected >= 0.5], expected[expected >= 0.5])
    assert (own[expected < 0.5] < 0.5).all()


def test_boxes_without_area_overlap_nothing():
    objects = scene_objects(np.random.default_rng(0), 2)._replace(boxes=np.zeros((2, 4), np.float32))
    assert box_overlaps(np.zeros((3, 4), np.float32), objects).tolist() == [[0, 0]] * 3


def test_an_outline_without_a_pixel_overlaps_nothing():
    dot = np.array([[5.1, 5.1], [5.2, 5.1], [5.2, 5.2]], np.float32)
    objects = scene_objects(np.random.default_rng(0), 2)._replace(outlines=((dot,), (dot,)))
    crops = object_crops(objects)
    assert [crop.area for crop in crops] == [0, 0]
    assert mask_overlaps(crops, crops, objects.crowd).tolist() == [[0, 0], [0, 0]]


def test_nothing_at_all_is_not_an_error():
    ranking = Ranking(np.zeros(0, ANSWERS), np.zeros(0, TRUTHS), 3)
    assert np.isnan(ranking.average_precision()).all()
    assert np.isnan(ranking.curves()).all()
