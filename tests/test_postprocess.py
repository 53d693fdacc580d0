import numpy as np
import pytest
import torch

from dualtoken.errors import ConfigError, ModelError
from dualtoken.outputs import Detections
from dualtoken.postprocess import nms, place_masks, regions, require_finite, sigmoid, softmax
from dualtoken.preprocess import Placement, Preprocessing


@pytest.mark.parametrize("shape", [(7,), (5, 7)])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_softmax_equals_torch(shape, temperature):
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 5
    expected = torch.softmax(torch.from_numpy(logits).double() / temperature, -1).numpy()
    result = softmax(logits, temperature)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_huge_logits_do_not_overflow():
    np.testing.assert_array_equal(softmax(np.array([3e38, -3e38], np.float32), 0.05), [1, 0])


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_impossible_temperatures_are_refused(temperature):
    with pytest.raises(ConfigError, match="above 0"):
        softmax(np.zeros(2), temperature)


def test_sigmoid_equals_torch_and_does_not_overflow():
    logits = np.array([[-1e30, -100, -5], [0, 3, 1e30]], np.float32)
    result = sigmoid(logits)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, torch.from_numpy(logits).double().sigmoid().float(), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_are_refused(value):
    require_finite(np.zeros(3), np.empty((0, 4)))
    with pytest.raises(ModelError, match="not numbers"):
        require_finite(np.zeros(3), np.array([1.0, value]))


def cut_and_resized(logits, placement, size):
    """What `regions` means, said in torch."""
    (rows, columns), _, left, top = placement
    part = torch.from_numpy(logits)[None, :, max(top, 0) : top + rows, max(left, 0) : left + columns]
    return torch.nn.functional.interpolate(part, size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("size", [(40, 70), (91, 33), (64, 64), (1, 300)])
@pytest.mark.parametrize("mode", ["border", "squash"])
def test_regions_equal_torch(size, mode, monkeypatch):
    monkeypatch.setattr("dualtoken.postprocess._BLOCK", 1000)  # so that there are several blocks
    placement = Preprocessing((64, 64), crop_pct=1.0, crop_mode=mode).placement(size)
    logits = np.random.default_rng(0).normal(size=(5, 64, 64)).astype(np.float32)
    mask, confidence = regions(logits, placement, size, temperature=0.7)
    expected = cut_and_resized(logits, placement, size)
    probabilities = torch.softmax(expected / 0.7, 0).numpy()
    assert (mask.dtype, confidence.dtype) == (np.uint8, np.float32)
    np.testing.assert_allclose(confidence, probabilities.max(0), rtol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(probabilities, mask[None], 0)[0], probabilities.max(0), rtol=1e-4)
    assert (mask == expected.argmax(0).numpy()).mean() > 0.999


def test_regions_of_the_borders_never_show():
    placement = Preprocessing((32, 32), crop_mode="border").placement((8, 16))
    logits = np.zeros((2, 32, 32), np.float32)
    logits[1] = 100  # class 1 in the borders only
    logits[1, placement.top : placement.top + 16] = -100
    mask, confidence = regions(logits, placement, (8, 16))
    assert not mask.any()
    assert (confidence == 1).all()


def test_what_a_central_crop_left_out_takes_the_nearest():
    logits = np.zeros((3, 4, 4), np.float32)
    logits[1, :, :2], logits[2, :, 2:] = 9, 9
    mask, _ = regions(logits, Placement((4, 8), (1.0, 1.0), left=-2, top=0), (4, 8))
    assert mask.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]] * 4


def test_regions_refuse_impossible_temperatures():
    with pytest.raises(ConfigError, match="above 0"):
        regions(np.zeros((2, 4, 4), np.float32), Placement((4, 4), (1.0, 1.0), 0, 0), (4, 4), temperature=0)


def soft_scene(n=40):
    rng = np.random.default_rng(1)
    corners = rng.uniform(-20, 90, (n, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 60, (n, 2))], axis=1).clip(0, [100, 80, 100, 80])
    boxes[0] = [0, 0, 100, 80]
    boxes[1] = [10, 10, 10, 10]
    return rng.random((n, 28, 28)).astype(np.float32), boxes.astype(np.float32)


def test_masks_are_placed_as_torchvision_does():
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    soft, boxes = soft_scene()
    expected = paste_masks_in_image(torch.from_numpy(soft)[:, None], torch.from_numpy(boxes), (80, 100))[:, 0].numpy()
    masks, corners = place_masks(soft, boxes, (80, 100))
    n = len(boxes)
    answer = Detections(("a",), (80, 100), boxes, np.linspace(1, 0, n), np.zeros(n, int), masks, corners)
    different = answer.full_masks() != (expected > 0.5)
    assert np.abs(expected[different] - 0.5).max(initial=0) < 1e-4
    assert expected[2:].max() > 0.5


def test_no_masks_to_place():
    masks, corners = place_masks(np.empty((0, 28, 28), np.float32), np.empty((0, 4), np.float32), (5, 5))
    assert (masks, corners.shape) == ((), (0, 2))


def crowd(number: int, spread: float = 10):
    rng = np.random.default_rng(2)
    corners = rng.uniform(0, spread, (number, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 30, (number, 2))], axis=1).astype(np.float32)
    return boxes, rng.random(number).astype(np.float32), rng.integers(0, 3, number)


@pytest.mark.parametrize("most", [None, 1, 5, 1000])
@pytest.mark.parametrize("iou", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(("number", "spread"), [(400, 10), (1100, 300)])
def test_nms_equals_torchvision(number, spread, iou, most):
    from torchvision.ops import batched_nms

    boxes, scores, labels = crowd(number, spread)
    expected = batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), iou).tolist()
    assert 0 < len(expected) < number
    assert nms(boxes, scores, labels, iou, most=most).tolist() == expected[:most]


def test_nms_of_equal_boxes_and_equal_scores_keeps_the_first():
    boxes = np.repeat(np.float32([[0, 0, 9, 9], [20, 20, 29, 29]]), 300, axis=0)
    same = np.full(600, 0.5, np.float32)
    assert nms(boxes, same, np.zeros(600, np.int64)).tolist() == [0, 300]


def test_nms_with_parts_is_the_search_one_by_one():
    boxes, scores, labels = crowd(500, 40)
    parts = np.random.default_rng(3).random(500) < 0.4
    exact = boxes.astype(float)
    areas = (exact[:, 2:] - exact[:, :2]).prod(axis=1)
    waiting, kept = sorted(range(500), key=lambda place: (parts[place], -scores[place])), []
    while waiting:
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        sides = np.minimum(exact[best, 2:], exact[:, 2:]) - np.maximum(exact[best, :2], exact[:, :2])
        shared = sides.clip(0).prod(axis=1)
        share = shared / np.where(parts, areas, areas[best] + areas - shared)
        waiting = [place for place in waiting if labels[place] != labels[best] or share[place] <= 0.5]
    assert 20 < len(kept) < 480
    assert nms(boxes, scores, labels, cut=parts).tolist() == sorted(kept, key=lambda place: -scores[place])


def test_a_part_yields_to_the_whole_however_sure_it_is():
    boxes = np.array([[0, 0, 10, 4], [0, 0, 10, 10], [0, 0, 10, 4]], np.float32)
    scores, cut = np.array([0.9, 0.5, 0.8], np.float32), np.array([True, False, True])
    assert nms(boxes, scores, np.array([0, 0, 1]), cut=cut).tolist() == [2, 1]  # of another class: it stays
    assert nms(boxes, scores, np.array([0, 0, 1])).tolist() == [0, 2, 1]


def test_nms_of_nothing():
    empty = np.empty(0, np.float32)
    assert nms(np.empty((0, 4), np.float32), empty, np.empty(0, np.int64)).tolist() == []
