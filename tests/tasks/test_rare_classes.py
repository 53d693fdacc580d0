"""Losses, weights and draws for rare classes, held to their formulas; and that they reach a run and its report."""

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dualtoken
from conftest import write_class_folders
from dualtoken.data import EpochSampler, find_data
from dualtoken.errors import ConfigError
from dualtoken.tasks import TASKS, Seen, TaskSettings
from dualtoken.tasks.rare_classes import (
    ASYMMETRIC,
    binary_loss,
    class_weights,
    effective,
    focal_loss,
    log_priors,
    positive_weights,
)

SEEN = Seen(np.array([40, 10, 2]), 52)
SEVERAL = Seen(np.array([40, 10, 2]), 60)
RNG = np.random.default_rng(0)
LOGITS = torch.from_numpy(RNG.normal(size=(6, 3)).astype(np.float32))
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
HOT = F.one_hot(LABELS, 3).float()


def task(name="classification", seen=SEEN, **settings):
    return TASKS[name](("a", "b", "c"), TaskSettings(**settings), seen)


def loss_of(made, targets) -> float:
    return made.loss(lambda _: LOGITS, torch.zeros(6, 3, 4, 4), targets).item()


@pytest.mark.parametrize("name", ["inverse", "effective"])
def test_rare_classes_weigh_more_and_an_image_one_in_the_mean(name):
    weights = class_weights(name, SEEN)
    assert list(weights) == sorted(weights)
    assert (weights * SEEN.counts).sum() / 52 == pytest.approx(1)


def test_inverse_weights_are_inverse_and_effective_ones_milder():
    inverse, mild = (class_weights(name, SEEN) for name in ("inverse", "effective"))
    assert inverse[2] / inverse[0] == pytest.approx(20)
    b = 1 - 1 / np.mean(SEEN.counts)
    assert mild[2] / mild[0] == pytest.approx((1 - b**40) / (1 - b**2))
    assert effective(np.array([10, 10])) == pytest.approx((1 - 0.9**10) / 0.1)


def test_positives_weigh_as_much_as_the_images_without():
    assert positive_weights("inverse", SEVERAL) == pytest.approx([20 / 40, 50 / 10, 58 / 2])
    assert positive_weights("effective", SEVERAL)[2] < 29
    assert positive_weights("none", SEVERAL) is None
    assert class_weights("none", SEEN) is None


def test_what_no_training_image_has_stays_finite():
    seen = Seen(np.array([5, 0]), 5)
    for found in (class_weights("inverse", seen), positive_weights("effective", seen),
                  log_priors(seen, exclusive=True), log_priors(seen, exclusive=False)):  # fmt: skip
        assert np.isfinite(found).all()


def test_class_weights_reach_the_loss():
    weights = torch.from_numpy(class_weights("inverse", SEEN)).float()
    expected = F.cross_entropy(LOGITS, LABELS, weights).item()
    assert loss_of(task(class_weights="inverse"), LABELS) == pytest.approx(expected, abs=1e-6)
    positive = torch.from_numpy(positive_weights("inverse", SEVERAL)).float()
    expected = F.binary_cross_entropy_with_logits(LOGITS, HOT, pos_weight=positive).item()
    assert loss_of(task("multilabel", SEVERAL, class_weights="inverse"), HOT) == pytest.approx(expected, abs=1e-6)


def test_a_focal_loss_forgives_what_is_nearly_right():
    p = LOGITS.softmax(1)[range(6), LABELS]
    expected = -((1 - p) ** 2 * p.log()).mean().item()
    assert focal_loss(LOGITS, HOT).item() == pytest.approx(expected, abs=1e-6)
    assert loss_of(task(loss="focal"), LABELS) == pytest.approx(expected, abs=1e-6)
    smooth = focal_loss(LOGITS, HOT * 0.7 + 0.1).item()
    assert loss_of(task(loss="focal", label_smoothing=0.3), LABELS) == pytest.approx(smooth, abs=1e-6)


def test_the_focal_loss_of_labels_is_torchvisions():
    ops = pytest.importorskip("torchvision.ops")
    expected = ops.sigmoid_focal_loss(LOGITS, HOT, alpha=-1, gamma=2, reduction="mean").item()
    assert loss_of(task("multilabel", loss="focal"), HOT) == pytest.approx(expected, abs=1e-6)


def test_the_asymmetric_loss_passes_over_easy_negatives():
    p = LOGITS.sigmoid()
    q = (p - 0.05).clamp(min=0)
    expected = -(HOT * p.log() + (1 - HOT) * q**4 * (1 - q).log()).mean().item()
    assert loss_of(task("multilabel", loss="asymmetric"), HOT) == pytest.approx(expected, abs=1e-6)
    easy = torch.tensor([[-4.0]], requires_grad=True)
    binary_loss(easy, torch.zeros(1, 1), ASYMMETRIC).backward()
    assert easy.grad.item() == 0


@pytest.mark.parametrize("shape", [(0.0, 0.0, 0.0), (2.0, 2.0, 0.0), ASYMMETRIC])
def test_extreme_logits_stay_finite(shape):
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = binary_loss(logits, torch.tensor([[0.0, 1.0]]), shape)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_a_logit_adjusted_loss_asks_rare_classes_for_more():
    shift = torch.from_numpy(np.log(SEEN.counts / 52)).float()
    expected = F.cross_entropy(LOGITS + shift, LABELS).item()
    assert loss_of(task(loss="logit_adjusted"), LABELS) == pytest.approx(expected, abs=1e-6)
    odds = torch.from_numpy(np.log(SEVERAL.counts / (60 - SEVERAL.counts))).float()
    expected = F.binary_cross_entropy_with_logits(LOGITS + odds, HOT).item()
    assert loss_of(task("multilabel", SEVERAL, loss="logit_adjusted"), HOT) == pytest.approx(expected, abs=1e-6)


# ---------------------------------------------------------------- draws


def rows(sampler, epoch):
    sampler.set_epoch(epoch)
    return [draw for batch in sampler for draw in batch]


def test_a_balanced_epoch_has_as_many_images_of_each_class():
    labels = np.array([0] * 40 + [1] * 8 + [2] * 2)
    sampler = EpochSampler(50, 5, weights=1 / np.bincount(labels)[labels])
    for epoch in range(3):
        drawn = rows(sampler, epoch)
        assert len(drawn) == 50
        counts = np.bincount(labels[[row for row, _ in drawn]])
        assert counts == pytest.approx(50 / 3, abs=1)  # rounded up or down
        assert len({seed for _, seed in drawn}) == 50  # a repeated image is augmented anew
    assert rows(sampler, 0) != rows(sampler, 1)
    assert rows(sampler, 0) == rows(EpochSampler(50, 5, weights=sampler.weights), 0)


def test_balanced_batches_continue_within_an_epoch_and_are_shared_by_ranks():
    weights = np.linspace(1, 9, 30)
    sampler = EpochSampler(30, 4, seed=3, weights=weights)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, 3)
    assert list(sampler) == whole[3:]
    ranks = [EpochSampler(30, 5, seed=3, weights=weights, rank=rank, world_size=2) for rank in (0, 1)]
    shared = sorted(draw for rank in ranks for draw in rows(rank, 2))
    assert shared == sorted(rows(EpochSampler(30, 5, seed=3, weights=weights), 2))


def test_images_with_several_labels_are_drawn_by_their_rarest(tmp_path):
    write_class_folders(tmp_path, ("x",), per_class=10)
    names = [f"x/{number:04d}.jpg" for number in range(10)]
    own = ["common"] * 6 + ["common;rare"] * 2 + [""] * 2
    (tmp_path / "t.csv").write_text("path,labels\n" + "".join(f"{n},{o}\n" for n, o in zip(names, own, strict=True)))
    samples = find_data(tmp_path / "t.csv", val_fraction=0, progress=False).splits["all"]
    assert samples.groups().tolist() == [0] * 6 + [1] * 2 + [2] * 2
    assert samples.rarity() == pytest.approx([1 / 6] * 6 + [1 / 2] * 4)


# ---------------------------------------------------------------- runs


@pytest.fixture
def uneven(tmp_path):
    root = write_class_folders(tmp_path / "uneven", ("often", "seldom"), per_class=4)
    return write_class_folders(root, ("often",), per_class=12, first=4)


SMALL = {"recipe": "smoke", "model": "test_resnet", "epochs": 2, "batch_size": 4, "workers": 0, "device": "cpu"}


@pytest.mark.parametrize("more", [{}, {"freeze": "backbone"}, {"resident": True}])
def test_a_run_with_all_of_them_says_how_many_images_a_class_had(more, uneven, tmp_path):
    result = dualtoken.train(
        uneven, output=tmp_path / "run", loss="focal", class_weights="effective", sampling="balanced", **SMALL, **more
    )
    page = (result.folder / "report.html").read_text()
    assert "Trained on" in page
    rows = list(csv.DictReader((result.folder / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 2


def test_a_stopped_run_with_balanced_batches_goes_on_as_if_it_had_not(uneven, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from dualtoken.training.loop import Loop

    settings = SMALL | {"sampling": "balanced", "loss": "logit_adjusted"}
    whole = dualtoken.train(uneven, output=tmp_path / "whole", **settings)
    with monkeypatch.context() as patched:
        batch, seen = Loop._batch, []

        def counted(self, *given):
            seen.append(1)
            self.interrupted = len(seen) == 5
            return batch(self, *given)

        patched.setattr(Loop, "_batch", counted)
        with pytest.raises(KeyboardInterrupt):
            dualtoken.train(uneven, output=tmp_path / "part", **settings)
    resumed = dualtoken.train(uneven, resume=tmp_path / "part")
    mine, its = (load_file(run.folder / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "asymmetric"}, "It has cross_entropy, focal, logit_adjusted"),
        ({"loss": "focl"}, "Did you mean focal"),
        ({"sampling": "balanced", "freeze": "backbone", "solver": "closed"}, "nothing for rare classes"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, words, uneven, tmp_path):
    with pytest.raises(ConfigError, match=words):
        dualtoken.train(uneven, output=tmp_path / "run", **SMALL | settings)
