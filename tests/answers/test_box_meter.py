import json
import tracemalloc

import numpy as np
import pytest

from dualtoken.answers import Comparison, compare_meters
from dualtoken.answers.bootstrap import draws, intervals
from dualtoken.answers.box_meter import BoxMeter, InstanceMeter
from dualtoken.data import Objects
from dualtoken.errors import DataError
from dualtoken.outputs import Detections, Interval

CLASSES = ("cat", "dog", "bird")
SIZE = (60, 400)  # height, width


def box(place: int) -> list[float]:
    """The box of the place: 10 x 20 pixels, places do not touch."""
    return [20 * place, 10, 20 * place + 10, 30]


def there(*objects: tuple[str, int], crowd: tuple[int, ...] = ()) -> Objects:
    """Objects by (class, place); `crowd` are the numbers of those that are crowds."""
    boxes = np.array([box(place) for _, place in objects], np.float32).reshape(-1, 4)
    labels = np.array([CLASSES.index(name) for name, _ in objects], np.int64)
    number = len(objects)
    crowds = np.isin(np.arange(number), crowd)
    return Objects(SIZE, boxes, labels, crowds, np.full(number, 200, np.float32), ((),) * number, ("",) * number)


def found(*answers: tuple[str, int, float], classes: tuple[str, ...] = CLASSES) -> Detections:
    """Answers by (class, place, score)."""
    boxes = np.array([box(place) for _, place, _ in answers], np.float32).reshape(-1, 4)
    labels = np.array([classes.index(name) for name, _, _ in answers], np.int64)
    return Detections(classes, SIZE, boxes, np.array([score for *_, score in answers], np.float32), labels)


def metered(*images: tuple[Detections, Objects], classes: tuple[str, ...] = CLASSES) -> BoxMeter:
    meter = BoxMeter(classes)
    for index, (answers, objects) in enumerate(images):
        meter.add(answers, objects, index)
    return meter


def noisy(images: int, skill: float, seed: int = 0) -> BoxMeter:
    """Three objects an image, each found with the chance `skill`, and a false answer in every second image."""
    rng = np.random.default_rng(seed)
    meter = BoxMeter(CLASSES)
    for index in range(images):
        names = rng.choice(CLASSES, 3)
        right = [(str(name), place, float(rng.uniform(0.3, 1))) for place, name in enumerate(names)]
        answers = [answer for answer in right if rng.random() < skill]
        answers += [("dog", 9, float(rng.uniform(0, 0.9)))] * (index % 2)
        meter.add(found(*answers), there(*((str(name), place) for place, name in enumerate(names))), index)
    return meter


def test_all_right_is_one_but_no_certainty():
    images = [(found(("cat", 0, 0.9), ("dog", 1, 0.6)), there(("cat", 0), ("dog", 1))) for _ in range(8)]
    evaluation = metered(*images).evaluation(resamples=20)
    for key in ("ap", "ap50", "ap75", "ap_small"):
        assert evaluation.metrics[key].value == 1
        assert evaluation.metrics[key].low == pytest.approx(0.025 ** (1 / 8))
    assert "ap_medium" not in evaluation.metrics
    assert "mask_ap" not in evaluation.metrics
    assert evaluation.per_class[2].ap is None
    assert evaluation.per_class[0].ap50.value == 1
    assert (evaluation.images.f1 == 1).all()
    assert metered(*images).figures() == {"ap": 1, "ap50": 1}


def test_the_threshold_gives_the_best_f1_and_equal_scores_stay_together():
    meter = metered(
        (found(("cat", 0, 0.9), ("cat", 5, 0.25)), there(("cat", 0))),
        (found(("cat", 0, 0.8), ("cat", 5, 0.75)), there(("cat", 0), ("cat", 1))),
    )
    # F1 at 0.9: 2 / 4; at 0.8: 4 / 5; at 0.75: 4 / 6; at 0.25: 4 / 7
    assert meter.evaluation(resamples=2).settings["threshold"] == pytest.approx(0.8)
    tied = metered(
        (found(("cat", 0, 0.9), ("cat", 1, 0.5), *((("dog", 9, 0.5),) * 3)), there(("cat", 0), ("cat", 1))),
    )
    # at 0.9: 2 / 3; at 0.5 with the three false ones: 4 / 7, though the right one of 0.5 alone would give 4 / 4
    assert tied.evaluation(resamples=2).settings["threshold"] == pytest.approx(0.9)


def test_confusion_counts_every_object_and_every_answer_once():
    meter = metered(
        (
            found(
                ("cat", 0, 0.9),  # right
                ("cat", 0, 0.8),  # the same again
                ("dog", 1, 0.8),  # is a bird
                ("bird", 3, 0.8),  # is a crowd of birds: counts nowhere
                ("bird", 9, 0.8),  # nothing there
                ("cat", 2, 0.1),  # not sure enough
            ),
            there(("cat", 0), ("bird", 1), ("dog", 2), ("bird", 3), crowd=(3,)),
        ),
        (found(*((name, place, 0.7) for place, name in enumerate(("cat", "dog") * 5))),
         there(*((name, place) for place, name in enumerate(("cat", "dog") * 5)))),
    )  # fmt: skip
    evaluation = meter.evaluation(resamples=2)
    assert evaluation.settings["threshold"] == pytest.approx(0.7)
    assert evaluation.confusion.tolist() == [
        [6, 0, 0, 0],
        [0, 5, 0, 1],  # the dog was not found
        [0, 1, 0, 0],  # the bird taken for a dog
        [1, 0, 1, 0],
    ]
    first = (evaluation.images.objects[0], evaluation.images.found[0], evaluation.images.false[0])
    assert first == (3, 1, 3)
    assert evaluation.images.f1[0] == pytest.approx(2 / 7)
    assert [scores.support for scores in evaluation.per_class] == [6, 6, 1]
    assert [scores.detections for scores in evaluation.per_class] == [7, 6, 1]


def test_an_object_is_taken_for_another_class_once():
    meter = metered(
        (found(("dog", 0, 0.9), ("bird", 0, 0.8)), there(("cat", 0))),
        (found(("cat", 0, 0.8)), there(("cat", 0))),
    )
    assert meter.evaluation(resamples=2).confusion.tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4, [0, 0, 1, 0]]


def test_an_empty_image_with_no_answer_is_right_and_with_one_wrong():
    meter = metered(
        (found(), there()),
        (found(("cat", 0, 0.9)), there()),
        (found(("cat", 0, 0.9)), there(("cat", 0))),
    )
    scenes = meter.evaluation(resamples=5).images
    assert scenes.f1.tolist() == [1, 0, 1]
    assert scenes.false.tolist() == [0, 1, 0]


def test_scores_are_compared_with_how_often_they_are_right():
    answers = [(found(("cat", 0 if number < 3 else 9, 0.7)), there(("cat", 0))) for number in range(4)]
    (part,) = metered(*answers).evaluation(resamples=2).reliability
    assert (part.images, part.accuracy) == (4, 0.75)
    assert part.confidence == pytest.approx(0.7)
    assert part.low <= 0.7 < part.high


def test_the_order_of_the_images_does_not_matter():
    rng = np.random.default_rng(0)
    images = [
        (found(*(("cat", place, 0.5) for place in range(int(rng.integers(1, 4))))), there(("cat", 0), ("dog", 1)))
        for _ in range(12)
    ]
    straight, mixed = BoxMeter(CLASSES), BoxMeter(CLASSES)
    for index in range(12):
        straight.add(*images[index], index * 2)
    for index in rng.permutation(12).tolist():
        mixed.add(*images[index], index * 2)
    first, second = (meter.evaluation(resamples=10, seed=3) for meter in (straight, mixed))
    assert first.to_dict() == second.to_dict()
    assert second.images.index.tolist() == list(range(0, 24, 2))
    np.testing.assert_array_equal(first.images.f1, second.images.f1)


def test_intervals_hold_their_value_and_come_from_redrawn_images():
    meter = noisy(60, 0.7)
    evaluation = meter.evaluation(resamples=300)
    parts = [*evaluation.metrics.values(), *(part for scores in evaluation.per_class for part in (scores.ap,))]
    for part in parts:
        assert 0 <= part.low < part.value < part.high <= 1
    ranking = meter.ranking(areas=("all",))
    drawn = [np.nanmean(ranking.average_precision(weights)) for weights in draws(60, seed=0, resamples=300)]
    low, high = np.quantile(drawn, [0.025, 0.975]) - (np.mean(drawn) - evaluation.metrics["ap"].value)
    assert evaluation.metrics["ap"].low == pytest.approx(low, abs=1e-9)
    assert evaluation.metrics["ap"].high == pytest.approx(high, abs=1e-9)


def test_intervals_cover_the_truth_about_19_times_in_20():
    truth = noisy(1500, 0.7, seed=99).figures()["ap50"]
    covered = 0
    for trial in range(40):
        interval = noisy(50, 0.7, seed=trial).evaluation(seed=trial, resamples=60).metrics["ap50"]
        covered += interval.low <= truth <= interval.high
    assert 34 <= covered <= 40


def test_the_seed_decides_and_has_an_effect():
    meter = noisy(30, 0.6)
    first, again, other = (meter.evaluation(seed=seed, resamples=20).metrics["ap"] for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("images", [[], [(found(), there())], [(found(("cat", 0, 0.9)), there())]], ids=len)
def test_without_objects_nothing_is_known_and_nothing_is_nan(images):
    meter = metered(*images)
    assert meter.figures() == {"ap": 0, "ap50": 0}
    evaluation = meter.evaluation(resamples=5)
    assert evaluation.metrics == {key: Interval(0, 0, 1) for key in ("ap", "ap50", "ap75")}
    assert evaluation.settings["threshold"] == 0.5
    json.dumps(evaluation.to_dict(), allow_nan=False)
    assert evaluation.summary()


def test_nothing_found_is_zero():
    meter = metered((found(), there(("cat", 0))), (found(("cat", 9, 0.8)), there(("cat", 0), ("dog", 1))))
    evaluation = meter.evaluation(resamples=5)
    assert evaluation.metrics["ap"].value == 0
    assert 0 < evaluation.metrics["ap"].high <= 1
    assert evaluation.settings["threshold"] == 0.5


def test_one_image_tells_no_interval():
    (interval,) = intervals(np.array([0.6]), np.full((20, 1), 0.6), np.array([1]))
    assert interval == Interval(0.6, 0, 1)
    rare = there(("cat", 0), ("dog", 1))._replace(areas=np.array([200, 2000], np.float32))
    images = [(found(("cat", 0, 0.9), ("dog", 9, 0.8)), there(("cat", 0)))] * 9 + [(found(("cat", 0, 0.9)), rare)]
    metrics = metered(*images).evaluation(resamples=20).metrics
    assert metrics["ap_medium"] == Interval(0, 0, 1)
    assert metrics["ap_small"].low > 0.5
    assert intervals(np.array([np.nan]), np.full((20, 1), np.nan), np.array([0])) == [None]


def test_masks_are_measured_beside_boxes():
    pytest.importorskip("pycocotools")
    meter = InstanceMeter(CLASSES)
    whole, half = np.ones((20, 10), bool), np.ones((20, 10), bool)
    half[:, 4:] = False  # the box is right, the mask has 40 % of it
    for index, mask in enumerate((whole, half)):
        answer = Detections(CLASSES, SIZE, [box(0)], [0.9], [0], (mask,), np.array([[0, 10]]))
        meter.add(answer, there(("cat", 0)), index)
    meter.add(found(), there(("cat", 0)), 2)  # no answer needs no masks
    evaluation = meter.evaluation(resamples=5)
    assert evaluation.task == "instance_segmentation"
    assert evaluation.metrics["ap50"].value == pytest.approx(67 / 101)
    assert evaluation.metrics["mask_ap50"].value == pytest.approx(34 / 101)
    assert evaluation.per_class[0].mask_ap50.value == pytest.approx(34 / 101)
    assert meter.figures()["mask_ap50"] == pytest.approx(34 / 101)
    with pytest.raises(ValueError, match="boxes only"):
        meter.add(found(("cat", 0, 0.9)), there(("cat", 0)), 3)


def test_what_does_not_fit_is_refused():
    meter = BoxMeter(CLASSES)
    with pytest.raises(ValueError, match="classes"):
        meter.add(found(classes=("dog", "cat", "bird")), there(), 0)
    with pytest.raises(ValueError, match="image"):
        meter.add(found(), there()._replace(size=(10, 10)), 0)
    assert len(meter) == 0


def test_images_are_not_kept():
    def add(meter: BoxMeter, index: int) -> None:
        masks = (np.ones((500, 500), bool),) * 4
        boxes = np.tile([0, 0, 500, 500], (4, 1))
        answer = Detections(CLASSES, (500, 500), boxes, [0.9] * 4, [0] * 4, masks, np.zeros((4, 2)))
        meter.add(answer, there(("cat", 0))._replace(size=(500, 500)), index)

    meter = InstanceMeter(CLASSES)
    add(meter, 0)
    tracemalloc.start()
    for index in range(1, 101):
        add(meter, index)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100 * 5_000  # an image and its masks are 1 MB


def test_the_better_model_is_found():
    worse, better = noisy(80, 0.5), noisy(80, 0.9)
    comparison = compare_meters(worse, better, names=("old", "new"), source="cats", split="val", resamples=100)
    assert comparison.better == "b"
    assert comparison.value_b - comparison.value_a == pytest.approx(comparison.difference.value)
    assert comparison.value_a == pytest.approx(worse.figures()["ap"])
    assert comparison.better_b > comparison.better_a
    assert comparison.verdict().startswith("B is better by")
    assert "old" in comparison.summary()
    json.dumps(comparison.to_dict(), allow_nan=False)
    turned = compare_meters(better, worse, names=("new", "old"), resamples=100)
    assert turned.better == "a"
    assert turned.verdict().startswith("A is better by")


def test_a_model_is_not_better_than_itself():
    meter = noisy(30, 0.7)
    comparison = compare_meters(meter, meter, names=("a", "b"), resamples=20)
    assert comparison.better is None
    assert comparison.difference == Interval(0, 0, 0)
    assert (comparison.better_a, comparison.better_b) == (0, 0)


def test_one_image_compares_nothing():
    a, b = metered((found(), there(("cat", 0)))), metered((found(("cat", 0, 0.9)), there(("cat", 0))))
    assert compare_meters(a, b, names=("a", "b"), resamples=20).better is None


def test_classes_may_come_in_another_order():
    turned = CLASSES[::-1]
    a = metered((found(("cat", 0, 0.9)), there(("cat", 0))), (found(), there()))
    b = BoxMeter(turned)
    objects = there(("cat", 0))._replace(labels=np.array([turned.index("cat")]))
    b.add(found(("cat", 0, 0.9), classes=turned), objects, 0)
    b.add(found(classes=turned), there(), 1)
    assert compare_meters(a, b, names=("a", "b"), resamples=20).difference.value == 0


def test_only_the_same_images_and_classes_are_compared():
    one = metered((found(("cat", 0, 0.9)), there(("cat", 0))))
    with pytest.raises(DataError, match="must be the same"):
        compare_meters(one, metered((found(), there(("cat", 0))), (found(), there())), names=("a", "b"))
    with pytest.raises(DataError, match="'fish'"):
        compare_meters(one, BoxMeter(("cat", "dog", "fish")), names=("a", "b"))
    with pytest.raises(DataError, match="different objects"):
        compare_meters(one, metered((found(), there(("cat", 0), ("cat", 1)))), names=("a", "b"))
    with pytest.raises(DataError, match="one at least"):
        compare_meters(metered(), metered(), names=("a", "b"))


@pytest.mark.parametrize(("images", "better"), [(5, None), (6, "b")])
def test_a_handful_of_images_decides_nothing(images, better):
    comparison = Comparison(
        "a", "b", "cats", "val", images, "ap", "Box AP", 0.1, 0.2, Interval(0.1, 0.05, 0.15), 0, images, 0, 100
    )
    assert comparison.better == better
