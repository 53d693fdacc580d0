import numpy as np
import pytest

from dualtoken.answers.calibration import fit_temperature
from dualtoken.answers.class_meter import METRICS, Drawn, per_image
from dualtoken.errors import DataError


def measured(name: str, logits, labels, temperature: float = 1.0) -> float:
    images = per_image(logits, labels, np.arange(len(labels)), temperature)
    return METRICS[name].of(Drawn(images, logits.shape[1]))


def honest(images: int, classes: int, seed: int = 0):
    """Logits whose softmax is the truth: labels are drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, classes)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probabilities.cumsum(1) < rng.random((images, 1))).sum(1)
    return logits.astype(np.float32), labels.clip(max=classes - 1)


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5, 8.0])
def test_the_true_temperature_is_found(true):
    logits, labels = honest(20_000, 10)
    assert fit_temperature(logits * np.float32(true), labels) == pytest.approx(true, rel=0.03)


def test_it_is_the_minimum():
    logits, labels = honest(500, 4)
    found = fit_temperature(logits * 3, labels)

    def loss(temperature: float) -> float:
        return measured("nll", logits * 3, labels, temperature)

    assert loss(found) <= min(loss(found * 1.01), loss(found * 0.99), loss(1.0))


def test_calibration_error_falls_for_an_overconfident_model():
    logits, labels = honest(5000, 10)
    logits *= 4
    before = measured("ece", logits, labels)
    after = measured("ece", logits, labels, fit_temperature(logits, labels))
    assert after < 0.03 < 0.2 < before


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_odd_scales_stay_in_range_and_are_never_worse_than_one(scale):
    logits, labels = honest(200, 3)
    logits *= np.float32(scale)
    found = fit_temperature(logits, labels)
    assert 0.05 <= found <= 20.001

    def loss(temperature: float) -> float:
        return measured("nll", logits, labels, temperature)

    assert loss(found) <= loss(1.0) + 1e-12


def test_nothing_wrong_tells_nothing():
    assert fit_temperature(np.eye(3, dtype=np.float32), np.arange(3)) == 1.0


def test_all_logits_equal():
    assert np.isfinite(fit_temperature(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0])))


def test_no_images_is_an_error():
    with pytest.raises(DataError, match="no images"):
        fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
