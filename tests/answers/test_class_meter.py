import numpy as np
import pytest

from dualtoken.answers.class_meter import METRICS, ClassMeter, Drawn, confusion_matrix, per_image, reliability
from dualtoken.outputs import Classification
from dualtoken.postprocess import softmax


def scores(images, classes: int, weights=None) -> dict[str, float]:
    """All metrics that can be told."""
    drawn = Drawn(images, classes, weights)
    values = {name: float(metric.of(drawn)) for name, metric in METRICS.items()}
    return {name: value for name, value in values.items() if value == value}


def sample(images: int = 300, classes: int = 7, sharp: float = 1.5, seed: int = 0, temperature: float = 1.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, classes)).astype(np.float32) * 2
    labels = rng.integers(classes, size=images)
    logits[np.arange(images), labels] += sharp
    return logits, labels, per_image(logits, labels, np.arange(images), temperature)


@pytest.mark.parametrize(("classes", "temperature"), [(7, 1.0), (2, 0.7), (101, 1.9)])
def test_metrics_equal_torchmetrics(classes, temperature):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels, images = sample(2000, classes, temperature=temperature)
    result = Drawn(images, classes)
    probabilities = torch.softmax(torch.from_numpy(logits).double() / temperature, 1)
    truth = torch.from_numpy(labels)
    shared = {"num_classes": classes}
    expected = {
        "top1": functional.multiclass_accuracy(probabilities, truth, average="micro", **shared),
        "macro_f1": functional.multiclass_f1_score(probabilities, truth, average="macro", **shared),
        "ece": functional.multiclass_calibration_error(probabilities.float(), truth, n_bins=15, **shared),
        "nll": torch.nn.functional.nll_loss(probabilities.log(), truth),
    }
    if classes > 5:
        expected["top5"] = functional.multiclass_accuracy(probabilities, truth, average="micro", top_k=5, **shared)
    assert scores(images, classes) == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-6)
    for name in ("precision", "recall"):
        per_class = getattr(functional, f"multiclass_{name}")(probabilities, truth, average="none", **shared)
        np.testing.assert_allclose(np.nan_to_num(getattr(result, name)), per_class, atol=1e-6)
    matrix = functional.multiclass_confusion_matrix(probabilities, truth, **shared)
    np.testing.assert_array_equal(confusion_matrix(images, classes), matrix)


def test_weights_count_images_as_often_as_they_say():
    logits, labels, images = sample(50)
    weights = np.random.default_rng(1).integers(0, 4, 50)
    repeated = per_image(np.repeat(logits, weights, axis=0), np.repeat(labels, weights), np.arange(weights.sum()))
    assert scores(images, 7, weights) == pytest.approx(scores(repeated, 7))


def test_equal_logits_are_ranked_as_argmax_does():
    images = per_image(np.zeros((3, 3), np.float32), np.arange(3), np.arange(3))
    assert images.rank.tolist() == [0, 1, 2]
    assert images.correct.tolist() == [True, False, False]


def test_a_certain_mistake_has_a_finite_loss():
    images = per_image(np.array([[300.0, 0.0]], np.float32), np.array([1]), np.arange(1))
    assert images.true_score[0] == 0
    assert images.nll[0] == pytest.approx(300)


def test_macro_f1_leaves_out_classes_that_do_not_occur():
    logits = np.eye(5, dtype=np.float32)[[0, 1, 1]] * 9
    images = per_image(logits, np.array([0, 1, 0]), np.arange(3))
    assert scores(images, 5)["macro_f1"] == pytest.approx(2 / 3)
    meter = ClassMeter(tuple("abcde"))
    for index, (row, label) in enumerate(zip(logits, (0, 1, 0), strict=True)):
        meter.add(Classification(meter.classes, softmax(row), logits=row), label, index)
    per_class = meter.evaluation(resamples=20).per_class
    assert per_class[4].f1 is None
    assert (per_class[0].support, per_class[0].predicted, per_class[0].correct) == (2, 1, 1)


def test_reliability_bins_hold_every_image_once():
    _, _, images = sample(500)
    bins = reliability(images)
    assert sum(part.images for part in bins) == 500
    for part in bins:
        inside = (images.score >= part.low) & (images.score < part.high)
        assert part.images == inside.sum()
        assert part.accuracy == pytest.approx(images.correct[inside].mean())
        assert part.low <= part.confidence <= part.high


def test_a_score_of_one_is_in_the_last_bin():
    images = per_image(np.array([[99.0, 0.0]], np.float32), np.array([0]), np.arange(1))
    (part,) = reliability(images)
    assert (part.high, part.accuracy, part.confidence) == (1, 1, 1)
