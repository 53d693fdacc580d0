"""Every detector on our backbone and on another: shapes, labels, losses and gradients, with and without objects."""

import pytest
import torch

from dualtoken.errors import ConfigError, ModelError
from dualtoken.heads import DETECTORS, Body, make_detector

CLASSES = 3


def target(*boxes: tuple[float, float, float, float], size: int = 64) -> dict[str, torch.Tensor]:
    masks = torch.zeros(len(boxes), size, size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = 1
    labels = torch.arange(len(boxes)) % CLASSES
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": labels, "masks": masks}


@pytest.fixture(params=list(DETECTORS))
def detector(request):
    torch.manual_seed(0)
    return make_detector(request.param, "dualtoken_vit_t_mix", CLASSES, channels=64)


def test_losses_are_finite_and_reach_the_backbone(detector):
    targets = [target((4, 4, 30, 40), (20, 10, 60, 50)), target()]
    losses = detector.train()(torch.randn(2, 3, 64, 64), targets)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert all(weight.grad is not None for weight in detector.body.maps.model.stages.parameters())


def test_a_batch_without_objects_gives_a_finite_loss(detector):
    losses = detector.train()(torch.randn(2, 3, 64, 64), [target(), target()])
    assert torch.isfinite(sum(losses.values()))


def test_targets_are_left_as_they_were(detector):
    targets = [target((4, 4, 30, 40), (2, 2, 9, 9))]
    detector.train()(torch.randn(1, 3, 64, 64), targets)
    assert targets[0]["labels"].tolist() == [0, 1]


def test_answers_have_their_shapes_and_labels(detector):
    with torch.inference_mode():
        answers = detector.eval()(torch.randn(2, 3, 64, 96))
    assert len(answers) == 2
    for answer in answers:
        number = len(answer["scores"])
        assert answer["boxes"].shape == (number, 4)
        assert number == 0 or (answer["labels"].min() >= 0 and answer["labels"].max() < CLASSES)
        assert number == 0 or (answer["boxes"].min() >= 0 and answer["boxes"].max() <= 96)
        if "masks" in answer:
            assert answer["masks"].shape == (number, 28, 28)


def test_learns_one_picture(detector):
    """A few steps on one picture: the loss falls clearly."""
    torch.manual_seed(0)
    images = torch.zeros(2, 3, 64, 64)
    images[:, :, 8:40, 8:40] = 2
    targets = [target((8, 8, 40, 40))] * 2
    optimizer = torch.optim.AdamW(detector.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = sum(detector.train()(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.7 * losses[0]


def test_undecayed_names_are_parameters(detector):
    names = {name for name, _ in detector.named_parameters()}
    assert detector.no_weight_decay()
    assert detector.no_weight_decay() <= names


def test_another_backbone_of_timm():
    detector = make_detector("retinanet", "mobilenetv4_conv_small", CLASSES, channels=64)
    assert detector.train()(torch.randn(1, 3, 64, 64), [target((4, 4, 30, 40))])


def test_the_strides_of_the_pyramid_can_be_chosen():
    body = Body("dualtoken_vit_t_mix", (4, 8, 16, 32))
    assert [tuple(level.shape[2:]) for level in body(torch.randn(1, 3, 64, 64))] == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"head": "retinant"}, ConfigError, "Did you mean 'retinanet'"),
        ({"channels": 100}, ConfigError, "multiple of 32"),
        ({"strides": (8, 16, 64)}, ConfigError, r"maps at \[2, 4, 8, 16, 32\]"),
        ({"architecture": "mobilnet"}, ModelError, "no model"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        make_detector(**{"head": "retinanet", "architecture": "dualtoken_vit_t_mix", "classes": 2} | arguments)
