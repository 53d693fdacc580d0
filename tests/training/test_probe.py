"""Nearest neighbours and the linear probe, against their definitions."""

import numpy as np
import torch

from dualtoken.training.probe import linear_probe, nearest_neighbours


def features(images: int = 60, width: int = 12, classes: int = 3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % classes
    middles = torch.randn(classes, width, generator=generator)
    return middles[labels] + 1.5 * torch.randn(images, width, generator=generator), labels


def test_leaving_one_out_is_what_fitting_without_it_gives():
    from sklearn.linear_model import Ridge

    x, labels = features()
    probe = linear_probe(x, labels, 3, penalties=[10.0])
    scaled = ((x - x.mean(0)) / x.std(0)).double().numpy()
    targets = np.eye(3)[labels.numpy()]
    right = 0
    for left in range(len(x)):
        kept = np.arange(len(x)) != left
        fitted = Ridge(alpha=10.0).fit(scaled[kept], targets[kept])
        right += fitted.predict(scaled[left : left + 1]).argmax() == labels[left].item()
    assert abs(probe.left_out - right / len(x)) < 1e-9
    whole = Ridge(alpha=10.0).fit(scaled, targets)
    np.testing.assert_allclose(probe(x).numpy(), whole.predict(scaled), atol=1e-5)


def test_the_best_penalty_is_chosen():
    x, labels = features()
    chosen = linear_probe(x, labels, 3)
    each = [linear_probe(x, labels, 3, penalties=[penalty]).left_out for penalty in (1e-3, 1.0, 100.0)]
    assert chosen.left_out >= max(each)


def test_neighbours_vote():
    known = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1])
    assert nearest_neighbours(known, labels, torch.tensor([[1.0, 0.2], [0.1, 1.0]]), count=1).tolist() == [0, 1]
    assert nearest_neighbours(known, labels, torch.tensor([[0.5, 0.5]]), count=3).tolist() == [0]
