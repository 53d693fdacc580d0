import numpy as np
import pytest

from dualtoken.answers.bootstrap import draws, interval_ends
from dualtoken.answers.class_meter import ClassMeter
from dualtoken.outputs import Classification
from dualtoken.postprocess import softmax


def images_with(right: int, total: int, classes: int = 3):
    labels = np.arange(total) % classes
    answers = np.where(np.arange(total) < right, labels, (labels + 1) % classes)
    return metered(np.eye(classes, dtype=np.float32)[answers] * 3, labels)


def metered(logits: np.ndarray, labels: np.ndarray) -> ClassMeter:
    classes = tuple("abcdefg"[: logits.shape[1]])
    meter = ClassMeter(classes)
    for index, (row, label) in enumerate(zip(logits, labels.tolist(), strict=True)):
        meter.add(Classification(classes, softmax(row), logits=row), label, index)
    return meter


def measure(meter: ClassMeter, *, seed: int, resamples: int = 1000):
    evaluation = meter.evaluation(seed=seed, resamples=resamples)
    return evaluation.metrics, evaluation.per_class


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_top1_interval_is_near_the_binomial_one(share):
    metrics, _ = measure(images_with(round(800 * share), 800), seed=0)
    half = 1.96 * np.sqrt(share * (1 - share) / 800)
    assert metrics["top1"].value == pytest.approx(share)
    assert metrics["top1"].low == pytest.approx(share - half, abs=0.005)
    assert metrics["top1"].high == pytest.approx(share + half, abs=0.005)


def test_intervals_cover_the_truth_about_19_times_in_20():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        images = images_with(int(rng.binomial(150, 0.7)), 150)
        interval = measure(images, seed=trial, resamples=150)[0]["top1"]
        covered += interval.low <= 0.7 <= interval.high
    assert 88 <= covered <= 99


def test_every_interval_holds_its_value():
    for total in (5, 30, 200):
        metrics, per_class = measure(images_with(total // 2, total), seed=1, resamples=200)
        parts = [*metrics.values(), *(part for c in per_class for part in (c.precision, c.recall, c.f1))]
        for part in parts:
            assert 0 <= part.low <= part.value <= part.high


def test_the_calibration_error_lies_inside_its_interval():
    rng = np.random.default_rng(0)
    score = rng.uniform(0.5, 1, 400)  # honest: right as often as it says, so that draws only look worse
    labels = (rng.random(400) > score).astype(np.int64)
    logits = np.stack([np.log(score), np.log(1 - score)], axis=1).astype(np.float32)
    ece = measure(metered(logits, labels), seed=0, resamples=200)[0]["ece"]
    assert ece.low < ece.value - 0.005
    assert ece.value + 0.005 < ece.high


def test_no_mistakes_is_not_certainty():
    metrics, per_class = measure(images_with(30, 30), seed=0, resamples=50)
    assert metrics["top1"].value == metrics["top1"].high == 1
    assert metrics["top1"].low == pytest.approx(0.025 ** (1 / 30))
    assert metrics["macro_f1"].low < 1
    assert per_class[0].recall.low == pytest.approx(0.025 ** (1 / 10))
    none, _ = measure(images_with(0, 30), seed=0, resamples=50)
    assert none["top1"].high == pytest.approx(1 - 0.025 ** (1 / 30))


def test_the_seed_decides_and_has_an_effect():
    images = images_with(40, 70)
    first, again, other = (measure(images, seed=seed, resamples=50)[0]["nll"] for seed in (0, 0, 1))
    assert first == again != other


def test_each_draw_has_as_many_images_as_the_sample():
    counts = list(draws(40, seed=0, resamples=30))
    assert {int(count.sum()) for count in counts} == {40}
    assert len({tuple(count) for count in counts}) == 30


def test_quantiles_leave_out_missing_values():
    drawn = np.random.default_rng(0).normal(0.5, 0.1, (999, 2))
    drawn[::3, 1] = np.nan
    low, high = interval_ends(np.nanmean(drawn, axis=0), drawn)
    np.testing.assert_allclose(low, np.nanquantile(drawn, 0.025, axis=0))
    np.testing.assert_allclose(high, np.nanquantile(drawn, 0.975, axis=0))
