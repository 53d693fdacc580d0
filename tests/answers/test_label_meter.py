import numpy as np
import pytest

from dualtoken.answers.agreement import LabelAgreement
from dualtoken.answers.label_calibration import fit_labels, fit_thresholds, label_probabilities
from dualtoken.answers.label_meter import METRICS, Drawn, LabelMeter, Ranked
from dualtoken.errors import DataError
from dualtoken.outputs import Labels
from dualtoken.postprocess import sigmoid


def sample(images: int = 400, classes: int = 5, seed: int = 0, ties: bool = False):
    """Logits that know something of the truth, (N, K) both; every class has another share of the images."""
    rng = np.random.default_rng(seed)
    truth = rng.random((images, classes)) < np.linspace(0.05, 0.6, classes)
    logits = (rng.normal(size=truth.shape) + 1.5 * truth - 1).astype(np.float32)
    return np.round(logits, 1) if ties else logits, truth


def meter_of(logits, truth, thresholds=None) -> LabelMeter:
    classes = tuple("abcdefghij"[: logits.shape[1]])
    meter = LabelMeter(classes)
    limits = np.full(len(classes), 0.5) if thresholds is None else thresholds
    for index, (row, own) in enumerate(zip(logits, truth, strict=True)):
        meter.add(Labels(classes, sigmoid(row), limits, None, row), own, index)
    return meter


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_equal_torchmetrics(ties):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    logits, truth = sample(ties=ties)
    found = meter_of(logits, truth, np.full(5, np.nextafter(np.float32(0.5), 1))).evaluation(resamples=0)
    p, t = torch.from_numpy(sigmoid(logits)), torch.from_numpy(truth.astype(int))
    shared = {"num_labels": 5}
    assert found.metrics["map"].value == pytest.approx(
        float(functional.multilabel_average_precision(p, t, average="macro", **shared)), abs=1e-6
    )
    for average in ("macro", "micro"):
        expected = float(functional.multilabel_f1_score(p, t, average=average, **shared))
        assert found.metrics[f"{average}_f1"].value == pytest.approx(expected, abs=1e-6)
    exact = float(functional.multilabel_exact_match(p, t, **shared))
    assert found.metrics["exact_match"].value == pytest.approx(exact, abs=1e-6)
    error = functional.binary_calibration_error
    expected = [float(error(p[:, k].contiguous(), t[:, k].contiguous(), n_bins=15)) for k in range(5)]
    assert [scores.ece for scores in found.per_class] == pytest.approx(expected, abs=1e-6)


def test_the_calibration_error_of_a_class_is_the_gap_in_each_bin():
    p, truth = np.array([[0.1], [0.1], [0.9], [0.9]]), np.array([[False], [True], [True], [True]])
    logits = np.log(p / (1 - p)).astype(np.float32)
    found = meter_of(logits, truth).evaluation(resamples=0)
    assert found.metrics["ece"].value == pytest.approx(0.5 * 0.4 + 0.5 * 0.1, abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_weights_count_images_as_often_as_they_say(ties):
    logits, truth = sample(60, ties=ties)
    weights = np.random.default_rng(1).integers(0, 4, 60)
    weighted = meter_of(logits, truth).counter()(weights)
    again = meter_of(np.repeat(logits, weights, axis=0), np.repeat(truth, weights, axis=0)).counter()(None)
    for name, metric in METRICS.items():
        assert metric.of(weighted) == pytest.approx(metric.of(again)), name


def test_equal_logits_come_together():
    ranked = Ranked(np.zeros((4, 1), np.float32), np.array([[True], [False], [False], [False]]))
    assert ranked.average_precision(np.ones(4)) == pytest.approx([0.25])


def test_classes_that_no_image_has_do_not_count():
    logits, truth = sample(50)
    truth[:, 0] = False
    found = meter_of(logits, truth).evaluation(resamples=10)
    assert found.per_class[0].ap is None
    assert found.metrics["map"].value == pytest.approx(np.mean([s.ap.value for s in found.per_class[1:]]))


def test_an_image_without_labels_is_right_where_none_are_found():
    logits = np.full((2, 2), -3, np.float32)
    logits[1, 0] = 3
    found = meter_of(logits, np.zeros((2, 2), bool)).evaluation(resamples=5)
    assert found.images.f1.tolist() == [1, 0]
    assert found.metrics["exact_match"].value == 0.5
    assert found.worst().tolist() == [1, 0]
    assert found.metrics["map"].value == 0  # there is nothing to rank


def test_a_meter_refuses_other_classes():
    meter = LabelMeter(("a", "b"))
    with pytest.raises(ValueError, match="the meter"):
        meter.add(Labels(("b", "a"), np.zeros(2), np.zeros(2)), np.zeros(2, bool), 0)


# ---------------------------------------------------------------- calibration and thresholds


def loss(logits, truth, temperature, offsets):
    p = np.clip(label_probabilities(logits, temperature, offsets).astype(np.float64), 1e-9, 1 - 1e-9)
    return -np.where(truth, np.log(p), np.log(1 - p)).mean()


def test_the_fit_finds_what_was_done_to_the_logits():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 3)) * 1.5 - 1
    truth = rng.random(honest.shape) < 1 / (1 + np.exp(-honest))
    moved = ((honest - np.array([0.0, 2.0, -1.0])) * 3).astype(np.float32)
    temperature, offsets = fit_labels(moved, truth)
    assert temperature == pytest.approx(3, rel=0.05)
    assert offsets == pytest.approx([0, 2, -1], abs=0.08)


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_the_best_near_itself(seed):
    logits, truth = sample(300, seed=seed)
    logits *= 4
    temperature, offsets = fit_labels(logits, truth)
    have = truth.sum(axis=0)
    target = np.where(truth, (have + 1) / (have + 2), 1 / (len(truth) - have + 2))

    def smoothed(t, o):
        score = logits / t + o
        return (np.logaddexp(0, score) - target * score).mean()

    best = smoothed(temperature, offsets)
    for change in (0.97, 1.03):
        assert smoothed(temperature * change, offsets) > best
    for label in range(5):
        for step in (-0.05, 0.05):
            assert smoothed(temperature, offsets + step * (np.arange(5) == label)) > best
    assert loss(logits, truth, temperature, offsets) < loss(logits, truth, 1.0, ())


def test_a_class_that_is_never_or_always_there_stays_finite():
    truth = np.array([[False, True, True], [False, True, False], [False, True, True]])
    temperature, offsets = fit_labels(np.array([[5, -5, 9], [3, 4, -9], [1, 2, 9]], np.float32), truth)
    assert np.isfinite([temperature, *offsets]).all()
    p = label_probabilities(np.array([[5, -5, 9]], np.float32), temperature, offsets)[0]
    assert p[0] < 0.5 < p[1]


def test_nothing_to_fit_on_is_said():
    with pytest.raises(DataError, match="no images"):
        fit_labels(np.zeros((0, 2), np.float32), np.zeros((0, 2), bool))


def test_thresholds_have_the_best_f1():
    logits, truth = sample(200)
    p = sigmoid(logits)
    chosen = fit_thresholds(p, truth)

    def f1(label, threshold):
        found = p[:, label] >= threshold
        return 2 * (found & truth[:, label]).sum() / (found.sum() + truth[:, label].sum())

    for label, threshold in enumerate(chosen):
        assert f1(label, threshold) == max(f1(label, other) for other in p[:, label])
        assert np.abs(p[:, label] - threshold).min() > 0  # between two


def test_a_class_without_images_has_the_usual_threshold():
    assert fit_thresholds(np.array([[0.1], [0.9]], np.float32), np.zeros((2, 1), bool)).tolist() == [0.5]


def test_what_is_fitted_holds_in_the_meter():
    logits, truth = sample(300)
    meter = meter_of(logits * 5, truth)
    before = meter.evaluation(resamples=0).metrics
    fitted = meter.fit()
    after = meter.evaluation(resamples=0)
    assert set(fitted) == {"temperature", "offsets", "thresholds"}
    assert [scores.threshold for scores in after.per_class] == pytest.approx(fitted["thresholds"])
    assert after.metrics["ece"].value < before["ece"].value
    assert after.metrics["macro_f1"].value > before["macro_f1"].value
    assert after.metrics["map"].value == before["map"].value


# ---------------------------------------------------------------- parity


@pytest.mark.parametrize(
    ("ours", "theirs", "reason", "ties"),
    [
        ((0.9, 0.2), (0.9, 0.25), "", 0),
        ((0.9, 0.30002), (0.9, 0.29998), "", 1),
        ((0.9, 0.2), (0.9, 0.4), "'b' is 0.4000 and not 0.2000", 0),
    ],
)
def test_the_same_classes_must_reach_their_thresholds(ours, theirs, reason, ties):
    tally = LabelAgreement(1e-4, np.array([0.5, 0.3], np.float32))
    said = tally.add(*(Labels(("a", "b"), np.array(p), np.zeros(2)) for p in (ours, theirs)))
    assert reason in said
    assert (bool(said), tally.ties, tally.same) == (bool(reason), ties, int(not reason))


def test_drawn_needs_no_weights():
    logits, truth = sample(20)
    meter = meter_of(logits, truth)
    assert isinstance(meter.counter()(None), Drawn)
