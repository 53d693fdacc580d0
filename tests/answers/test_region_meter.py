import json
import tracemalloc

import numpy as np
import pytest

from dualtoken.answers import compare_meters
from dualtoken.answers.region_meter import RegionMeter, boundary_width, near_edges
from dualtoken.data import IGNORE
from dualtoken.errors import DataError
from dualtoken.outputs import Interval, Segmentation

CLASSES = ("road", "sky", "tree", "none of it")


def regions(rng: np.random.Generator, shape: tuple[int, int] = (40, 70), classes: int = 3) -> np.ndarray:
    """Big blocks of classes."""
    coarse = rng.integers(classes, size=(-(-shape[0] // 10), -(-shape[1] // 10)))
    return np.kron(coarse, np.ones((10, 10), int))[: shape[0], : shape[1]].astype(np.uint8)


def scene(rng: np.random.Generator, wrong: float = 0.2, ignored: float = 0.1) -> tuple[Segmentation, np.ndarray]:
    truth = regions(rng)
    answer = np.where(rng.random(truth.shape) < wrong, rng.integers(3, size=truth.shape), truth)
    truth = np.where(rng.random(truth.shape) < ignored, IGNORE, truth).astype(np.uint8)
    return Segmentation(CLASSES, answer, rng.random(truth.shape).astype(np.float32)), truth


def metered(images: int, seed: int = 0, **changes: float) -> RegionMeter:
    rng = np.random.default_rng(seed)
    meter = RegionMeter(CLASSES)
    for index in range(images):
        meter.add(*scene(rng, **changes), index)
    return meter


def answered(answer: np.ndarray, truth: np.ndarray, **fields: np.ndarray) -> RegionMeter:
    meter = RegionMeter(CLASSES)
    meter.add(Segmentation(CLASSES, answer, **fields), truth, 0)
    return meter


def test_iou_equals_torchmetrics():
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(1)
    pairs = [scene(rng) for _ in range(6)]
    meter = RegionMeter(CLASSES)
    for index, (answer, truth) in enumerate(pairs):
        meter.add(answer, truth, index)
    answers, truths = (
        torch.from_numpy(np.stack(part)).long() for part in ([a.mask for a, _ in pairs], [t for _, t in pairs])
    )
    options = {"num_classes": 4, "ignore_index": IGNORE}
    iou = classification.multiclass_jaccard_index(answers, truths, average="none", **options)
    accuracy = classification.multiclass_accuracy(answers, truths, average="micro", **options)
    confusion = classification.multiclass_confusion_matrix(answers, truths, **options)
    evaluation = meter.evaluation(resamples=5)
    assert [scores.iou.value for scores in evaluation.per_class[:3]] == pytest.approx(iou[:3].tolist(), abs=1e-6)
    assert evaluation.per_class[3].iou is None
    assert evaluation.metrics["miou"].value == pytest.approx(float(iou[:3].mean()), abs=1e-6)
    assert evaluation.metrics["pixel_accuracy"].value == pytest.approx(float(accuracy), abs=1e-6)
    np.testing.assert_array_equal(evaluation.confusion, confusion)
    assert meter.figures() == pytest.approx(
        {key: evaluation.metrics[key].value for key in ("miou", "pixel_accuracy")}, abs=1e-12
    )


def inner(mask: np.ndarray, width: int) -> np.ndarray:
    """The published definition: a ring of nothing around the image, then `width` erosions with 3 x 3 pixels."""
    padded = np.pad(mask, 1)
    for _ in range(width):
        around = np.pad(padded, 1, constant_values=True)
        shifts = [around[y : y + padded.shape[0], x : x + padded.shape[1]] for y in range(3) for x in range(3)]
        padded = np.logical_and.reduce(shifts)
    return padded[1:-1, 1:-1]


@pytest.mark.parametrize("shape", [(40, 70), (7, 5), (150, 31), (1, 1)])
def test_boundary_iou_is_the_published_one(shape):
    rng = np.random.default_rng(2)
    truth = regions(rng, shape)
    answer = np.roll(truth, (1, 2), (0, 1))
    width = boundary_width(shape)
    expected = []
    for label in np.union1d(truth, answer):
        first, second = (mask == label for mask in (truth, answer))
        edge_a, edge_b = (mask & ~inner(mask, width) for mask in (first, second))
        expected.append((edge_a & edge_b).sum() / (edge_a | edge_b).sum())
    evaluation = answered(answer, truth).evaluation(resamples=2)
    own = [scores.boundary_iou.value for scores in evaluation.per_class if scores.boundary_iou]
    assert own == pytest.approx(expected)
    assert evaluation.metrics["boundary_iou"].value == pytest.approx(np.mean(expected))


def test_the_width_of_the_boundary_follows_the_diagonal():
    assert boundary_width((300, 400)) == 10
    assert boundary_width((5, 5)) == 1


def test_pixels_without_a_class_make_no_edge():
    mask = np.zeros((30, 30), np.uint8)
    mask[:, 20:] = 254
    valid = np.ones(mask.shape, bool)
    valid[:, 10:13] = False
    edges = near_edges(mask, valid, 2)[15]
    assert np.flatnonzero(edges).tolist() == [0, 1, 18, 19, 20, 21, 28, 29]


def test_answers_where_nothing_is_labelled_do_not_matter():
    rng = np.random.default_rng(3)
    answer, truth = scene(rng, ignored=0.3)
    other = np.where(truth == IGNORE, 3, answer.mask)
    assert (other != answer.mask).any()
    first, second = (answered(mask, truth).evaluation(resamples=3).to_dict() for mask in (answer.mask, other))
    assert first == second


def test_images_without_a_label_do_not_count():
    meter = metered(5)
    before = meter.evaluation(resamples=10)
    meter.add(Segmentation(CLASSES, np.zeros((4, 4), np.uint8)), np.full((4, 4), IGNORE, np.uint8), 5)
    after = meter.evaluation(resamples=10)
    assert after.to_dict() == before.to_dict()
    assert after.n == 5


def test_classes_that_do_not_occur_are_not_averaged():
    truth = np.zeros((20, 20), np.uint8)
    answer = truth.copy()
    answer[:, 10:] = 1
    evaluation = answered(answer, truth).evaluation(resamples=2)
    assert evaluation.metrics["miou"].value == pytest.approx((0.5 + 0) / 2)
    assert [scores.iou is None for scores in evaluation.per_class] == [False, False, True, True]
    assert [scores.share for scores in evaluation.per_class] == [1, 0, 0, 0]
    assert evaluation.images.miou.tolist() == [0.25]
    assert evaluation.images.pixel_accuracy.tolist() == [0.5]


def test_nothing_at_all_is_not_nan():
    evaluation = RegionMeter(CLASSES).evaluation(resamples=3)
    assert set(evaluation.metrics.values()) == {Interval(0, 0, 1)}
    assert RegionMeter(CLASSES).figures() == {"miou": 0, "pixel_accuracy": 0}
    json.dumps(evaluation.to_dict(), allow_nan=False)
    assert evaluation.summary()


def test_the_order_of_the_images_does_not_matter():
    rng = np.random.default_rng(4)
    pairs = [scene(rng, wrong=wrong) for wrong in (0.1, 0.5, 0.3, 0.9)]
    straight, mixed = RegionMeter(CLASSES), RegionMeter(CLASSES)
    for index in range(4):
        straight.add(*pairs[index], index)
    for index in (2, 0, 3, 1):
        mixed.add(*pairs[index], index)
    first, second = (meter.evaluation(resamples=10) for meter in (straight, mixed))
    assert first.to_dict() | {"reliability": 0} == second.to_dict() | {"reliability": 0}
    np.testing.assert_array_equal(first.images.miou, second.images.miou)
    assert first.worst().tolist() == [3, 1, 2, 0]


def test_confidence_is_compared_with_how_often_pixels_are_right():
    truth = np.zeros((10, 10), np.uint8)
    answer, confidence = truth.copy(), np.full((10, 10), 0.9, np.float32)
    answer[:3] = 1
    confidence[9], truth[9] = 0.2, IGNORE
    (part,) = answered(answer, truth, confidence=confidence).evaluation(resamples=2).reliability
    assert (part.images, part.accuracy) == (90, pytest.approx(60 / 90))
    assert part.confidence == pytest.approx(0.9)
    assert answered(answer, truth).evaluation(resamples=2).reliability == ()


def test_intervals_hold_their_value():
    evaluation = metered(12).evaluation(resamples=200)
    parts = [*evaluation.metrics.values(), *(p for c in evaluation.per_class[:3] for p in (c.iou, c.boundary_iou))]
    for part in parts:
        assert 0 < part.low < part.value < part.high < 1


def test_the_seed_decides_and_has_an_effect():
    meter = metered(10)
    first, again, other = (meter.evaluation(seed=seed, resamples=20).metrics["miou"] for seed in (0, 0, 1))
    assert first == again != other


def test_what_does_not_fit_is_refused():
    meter, mask = RegionMeter(CLASSES), np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match="classes"):
        meter.add(Segmentation(("a", "b"), mask), mask, 0)
    with pytest.raises(ValueError, match="size"):
        meter.add(Segmentation(CLASSES, mask), mask.T, 0)
    with pytest.raises(ValueError, match="highest is 3"):
        meter.add(Segmentation(CLASSES, mask), mask + 4, 0)
    assert len(meter) == 0


def test_images_are_not_kept():
    meter = RegionMeter(CLASSES)
    mask = np.zeros((300, 400), np.uint8)
    meter.add(Segmentation(CLASSES, mask), mask, 0)
    tracemalloc.start()
    for index in range(1, 51):
        meter.add(Segmentation(CLASSES, mask + index % 4), mask + index % 3, index)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 50 * 2_000  # a mask is 120,000 bytes


def test_the_better_model_is_found():
    worse, better = metered(20, wrong=0.5), metered(20, wrong=0.1)
    comparison = compare_meters(worse, better, names=("old", "new"), resamples=100)
    assert comparison.better == "b"
    assert (comparison.better_a, comparison.better_b) == (0, 20)
    assert comparison.value_a == pytest.approx(worse.figures()["miou"])
    assert comparison.difference.value == pytest.approx(better.figures()["miou"] - worse.figures()["miou"])
    assert "Mean IoU" in comparison.verdict()
    assert compare_meters(worse, worse, names=("a", "b"), resamples=20).better is None


def test_only_the_same_images_are_compared():
    with pytest.raises(DataError, match="same"):
        compare_meters(metered(3), metered(4), names=("a", "b"))
