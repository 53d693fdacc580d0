"""Deletion, insertion and the sanity check say what they should about maps that are right or wrong by construction."""

import numpy as np
import pytest
import scipy.stats
import torch
from explained_models import PLAIN, Bright

from dualtoken.explanation.faithfulness import (
    RANDOM_MAPS,
    area,
    compare_with_fresh,
    measure,
    rank_correlation,
    ranks,
    without,
)
from dualtoken.explanation.heat import Heat
from dualtoken.explanation.targets import ClassScorer
from dualtoken.explanation.views import Part

WHOLE = Part(0, 0, 48, 32)


def spot():
    image = torch.zeros(1, 3, 32, 48)
    image[:, :, 8:16, 32:40] = 60
    return image


def maps():
    right = np.zeros((8, 12), np.float32)
    right[2:4, 8:10] = 1
    return Heat(right, "right", ()), Heat(-right, "wrong", ())


@pytest.mark.parametrize("baseline", ["blur", "grey"])
def test_a_right_map_beats_noise_and_a_wrong_one_does_not(baseline):
    scorer = ClassScorer(Bright().eval(), (1, 1), PLAIN)
    good, bad = measure(maps(), scorer, spot(), WHOLE, baseline=baseline, steps=8)
    assert len(good.random) == RANDOM_MAPS
    if baseline == "grey":  # a blurred image is as bright on the whole
        assert good.better == (True, True)
        assert "in deletion and insertion" in good.verdict()
        assert good.deletion < np.mean(good.random) < good.insertion
        assert bad.better == (False, False)
        assert "no better" in bad.verdict()
    assert good.deletion < bad.deletion
    assert good.insertion > bad.insertion
    assert good.shares[0] == 0
    assert good.shares[-1] == 1
    assert good.deletion_curve[0] == pytest.approx(good.insertion_curve[-1])
    assert good.deletion_curve[-1] == pytest.approx(good.insertion_curve[0])
    assert all(0 <= value <= 1 for value in (good.deletion, good.insertion, *good.random))


def test_the_seed_decides_the_noise():
    scorer = ClassScorer(Bright().eval(), (1, 1), PLAIN)
    one, same, other = (measure(maps(), scorer, spot(), WHOLE, steps=4, seed=seed)[0] for seed in (0, 0, 1))
    assert one == same
    assert one.random != other.random


def test_the_border_is_neither_taken_away_nor_ranked():
    image = torch.rand(1, 3, 32, 48)
    part = Part(0, 4, 48, 20)
    seen = []

    class Watch:
        def scores(self, images):
            seen.append(images)
            return images.new_zeros(len(images), 1)

    measure(maps()[:1], Watch(), image, part, steps=2)
    images = torch.cat(seen)
    assert torch.equal(images[:, :, :4], image[:, :, :4].expand(len(images), -1, -1, -1))
    assert torch.equal(images[:, :, 20:], image[:, :, 20:].expand(len(images), -1, -1, -1))
    assert not torch.equal(images[2, :, 4:20], image[0, :, 4:20])
    order = ranks(np.random.default_rng(0).random((32, 48), np.float32), part)
    assert (order[:4] == 1).all()
    assert sorted(order[4:20].ravel()) == pytest.approx(np.arange(768) / 768)


def test_ranks_begin_with_the_hottest():
    order = ranks(np.array([[0.1, 0.9], [0.5, 0.7]], np.float32), Part(0, 0, 2, 2))
    assert order.tolist() == [[0.75, 0.0], [0.5, 0.25]]


def test_nothing_can_be_recognised_in_a_baseline():
    image = torch.randn(1, 3, 32, 32)
    assert without(image, "grey").abs().max() == 0
    assert without(image, "blur").std() < 0.2 * image.std()
    assert without(image, "blur").mean() == pytest.approx(float(image.mean()), abs=0.1)


def test_a_score_that_hardly_moves_says_nothing():
    class Still:
        def scores(self, images):
            return (0.001 + images.mean(dim=(1, 2, 3)) * 1e-4)[:, None]

    (worth,) = measure(maps()[:1], Still(), spot(), WHOLE, baseline="grey", steps=4)
    assert worth.verdict().startswith("too small to say")
    assert "0.00 " not in worth.noise()
    assert worth.to_dict()["deletion"] == pytest.approx(worth.deletion, rel=1e-3)


def test_the_area_of_a_line_is_its_middle():
    assert area(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0])) == pytest.approx(0.5)


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 9, (7, 7)).astype(np.float32), rng.random((7, 7), np.float32)
    expected = scipy.stats.spearmanr(first.ravel(), second.ravel()).statistic
    assert rank_correlation(first, second) == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(first, np.exp(first)) == pytest.approx(1)
    assert rank_correlation(first, np.zeros_like(first)) is None


def test_the_sanity_check_speaks():
    rng = np.random.default_rng(0)
    own, noise = Heat(rng.random((20, 20), np.float32), "", ()), Heat(rng.random((20, 20), np.float32), "", ())
    flat = Heat(np.zeros((20, 20), np.float32), "", ())
    assert compare_with_fresh(own, [noise]).verdict() == "low: nothing against this map"
    assert "high" in compare_with_fresh(own, [own, flat]).verdict()
    assert "high" in compare_with_fresh(own, [own, Heat(-own.values, "", ())]).verdict()
    assert compare_with_fresh(own, [own, flat]).correlations == (pytest.approx(1), None)
    assert "flat" in compare_with_fresh(own, [flat]).verdict()
    assert compare_with_fresh(own, [flat]).to_dict()["mean_without_sign"] is None
