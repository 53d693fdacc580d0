import math

import numpy as np
import pytest
import torch

from dualtoken.data import Samples
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks import TASKS, TaskSettings
from dualtoken.tasks.classification import ClassificationTask

CLASSES = ("a", "b", "c")
IMAGES, LABELS = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 1, 0])


def test_the_table_knows_the_task():
    assert TASKS["classification"] is ClassificationTask


def test_loss_is_the_cross_entropy_and_smoothing_spreads_the_target():
    logits = torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1)]])
    label = torch.tensor([0])
    assert ClassificationTask(CLASSES).cross_entropy(logits, label).item() == pytest.approx(-math.log(0.7), abs=1e-6)
    smoothed = -(0.8 * math.log(0.7) + 0.1 * math.log(0.2) + 0.1 * math.log(0.1))  # 0.3 spread over three
    assert ClassificationTask(CLASSES, TaskSettings(label_smoothing=0.3)).cross_entropy(
        logits, label
    ).item() == pytest.approx(smoothed, abs=1e-6)


def test_without_mixing_a_batch_stays_as_it_is():
    images, targets = ClassificationTask(CLASSES).prepare(IMAGES, LABELS)
    assert images is IMAGES
    assert targets is LABELS


@pytest.mark.parametrize("mixing", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_mixing_gives_soft_targets_of_an_even_batch(mixing):
    np.random.seed(0)
    images, targets = ClassificationTask(CLASSES, TaskSettings(**mixing)).prepare(IMAGES.clone(), LABELS)
    assert images.shape == (4, 3, 8, 8)
    assert targets.shape == (4, 3)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert not torch.equal(images, IMAGES[:4])


def test_mixed_targets_are_smoothed_once():
    np.random.seed(0)
    task = ClassificationTask(CLASSES, TaskSettings(mixup=0.2, label_smoothing=0.3))
    _, targets = task.prepare(IMAGES.clone(), LABELS)
    assert targets.min().item() == pytest.approx(0.1)
    logits = torch.randn(4, 3)
    assert task.cross_entropy(logits, targets).item() == pytest.approx(
        -(targets * logits.log_softmax(1)).sum(1).mean().item(), abs=1e-6
    )


def test_a_single_image_is_not_mixed():
    images, targets = ClassificationTask(CLASSES, TaskSettings(mixup=0.2)).prepare(IMAGES[:1], LABELS[:1])
    assert len(images) == len(targets) == 1


def test_figures_and_what_is_better():
    task = ClassificationTask(("a", "b"))
    names = np.array(["a", "b", "c"], np.dtypes.StringDType())
    samples = Samples("x", names, None, np.array([0, 1, 1]))
    meter = task.meter(samples, Preprocessing())
    meter.add(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]), torch.arange(2))
    meter.add(torch.tensor([[2.0, 0.0]]), torch.tensor([1]), torch.tensor([2]))
    figures = meter.figures()
    assert figures["top1"] == pytest.approx(2 / 3)
    assert figures["loss"] == pytest.approx((2 * math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 3, abs=1e-6)
    better = {"loss": 0.9, "top1": 0.6}
    assert task.score(better) > task.score({"loss": 0.1, "top1": 0.5})
    assert task.score(better) > task.score({"loss": 1.0, "top1": 0.6})
    assert task.score(better) > []  # anything is better than nothing


def test_large_photographs_are_decoded_no_larger_than_a_crop_needs(tmp_path):
    from PIL import Image

    for name, size in (("large.jpg", (1600, 1200)), ("small.jpg", (300, 250))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    samples = Samples(str(tmp_path), np.array(["large.jpg", "small.jpg"]), None, np.array([0, 1]))
    settings, preprocessing = TaskSettings(scale=(0.25, 1.0)), Preprocessing(image_size=(64, 64))
    loader = ClassificationTask(CLASSES, settings).training_loader(samples, preprocessing, batch_size=2, workers=0)
    opened = [loader.dataset.samples.open(row).size for row in (0, 1)]
    assert opened == [
        (400, 300),
        (300, 250),
    ]  # 2 x 64 pixels of the smallest crop, which has 43 % of the short side: 296
    evaluation = ClassificationTask(CLASSES).evaluation_loader(samples, preprocessing, batch_size=2, workers=0)
    assert evaluation.dataset.samples.open(0).size == (1600, 1200)
