"""Semantic segmentation: losses with and without classes, raw outputs to masks, and what decides."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dualtoken.data import IGNORE, MaskSamples
from dualtoken.errors import ModelError
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks import TASKS, Network, TaskSettings
from dualtoken.tasks.segmentation import SemanticSegmentationTask, dice_loss

CLASSES = ("ground", "car", "tree")
INPUT = Preprocessing((64, 64), 1.0, "border")
WIDE = (20, 40)  # lies in rows 16 to 48 of the input, 1.6 pixels for one


def logits_of(mask: torch.Tensor, height: float = 20.0) -> torch.Tensor:
    """(B, K, H, W): sure of the classes of `mask` (B, H, W)."""
    return height * F.one_hot(mask.long(), len(CLASSES)).permute(0, 3, 1, 2).float()


def some_masks(size=(2, 8, 8)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 3, size)).to(torch.uint8)


# ---------------------------------------------------------------- losses


def test_the_loss_is_the_mean_over_the_pixels_that_have_a_class():
    logits, masks = torch.randn(2, 3, 8, 8), some_masks()
    masks[0, :4] = IGNORE
    task = SemanticSegmentationTask(CLASSES)
    counted = masks != IGNORE
    expected = -logits.log_softmax(1).gather(1, masks.long().clamp(max=2)[:, None])[:, 0][counted].mean()
    assert task.loss(lambda images: logits, torch.zeros(1), masks).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"dice": 0.5}, {"label_smoothing": 0.1}, {"dice": 1.0, "label_smoothing": 0.1}]
)
@pytest.mark.parametrize("kind", ["all ignored", "one image ignored", "one pixel", "one class"])
def test_losses_of_odd_masks_are_finite_with_finite_gradients(settings, kind):
    masks = torch.full((2, 8, 8), IGNORE, dtype=torch.uint8)
    if kind == "one image ignored":
        masks[1] = some_masks()[1]
    elif kind == "one pixel":
        masks[1, 3, 3] = 2
    elif kind == "one class":
        masks[:] = 1
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    loss = SemanticSegmentationTask(CLASSES, TaskSettings(**settings)).loss(lambda _: logits, torch.zeros(1), masks)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    if kind == "all ignored":
        assert loss.item() == 0
        assert not logits.grad.any()
    else:
        assert loss.item() > 0
        assert logits.grad.any()


def test_half_precision_is_summed_in_full():
    masks = torch.zeros((1, 200, 200), dtype=torch.uint8)
    logits = torch.zeros(1, 3, 200, 200, dtype=torch.float16)
    loss = SemanticSegmentationTask(CLASSES).loss(lambda _: logits, torch.zeros(1), masks)
    assert loss.item() == pytest.approx(math.log(3), abs=1e-4)


def test_dice_is_zero_for_the_truth_and_one_for_its_opposite():
    masks = some_masks()
    assert dice_loss(logits_of(masks), masks.long()).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(logits_of((masks + 1) % 3), masks.long()).item() == pytest.approx(1, abs=1e-6)


def test_dice_in_numbers():
    masks = torch.tensor([[[0, 0, 1, 1]]])
    even = torch.zeros(1, 2, 1, 4)  # half sure of both classes everywhere: 2 * 1 / (2 + 2)
    assert dice_loss(even, masks).item() == pytest.approx(0.5)
    masks[0, 0, 3] = IGNORE  # of class 0 then 2 * 1 / (1.5 + 2), of class 1 2 * 0.5 / (1.5 + 1)
    assert dice_loss(even, masks).item() == pytest.approx(1 - (2 / 3.5 + 1 / 2.5) / 2)


def test_dice_leaves_out_classes_that_do_not_occur_and_pixels_that_are_ignored():
    masks = torch.zeros((1, 4, 4), dtype=torch.int64)
    masks[0, 2:] = IGNORE
    logits = logits_of(torch.zeros(1, 4, 4))
    logits[0, 2, 2:] = 50  # wrong, but ignored; classes 1 and 2 are in no mask
    assert dice_loss(logits, masks).item() == pytest.approx(0, abs=1e-6)


def test_the_dice_loss_has_its_weight():
    logits, masks = torch.randn(2, 3, 8, 8), some_masks()

    def loss(dice: float) -> float:
        task = SemanticSegmentationTask(CLASSES, TaskSettings(dice=dice))
        return task.loss(lambda _: logits, torch.zeros(1), masks).item()

    assert loss(2.0) - loss(0.0) == pytest.approx(2 * dice_loss(logits, masks.long()).item(), rel=1e-4)


def test_the_usual_network_learns_and_answers():
    torch.manual_seed(0)
    task = SemanticSegmentationTask(CLASSES)
    model = task.build(Network("test_resnet", 3))
    masks = torch.full((2, 64, 64), IGNORE, dtype=torch.uint8)
    masks[0, :32] = 1
    loss = task.loss(model.train(), torch.randn(2, 3, 64, 64), masks)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(weight.grad is not None for weight in model.body.parameters())
    with torch.inference_mode():
        (answer,) = task.answers(model.eval()(torch.randn(1, 3, 64, 64)), [WIDE], INPUT)
    assert (answer.size, answer.classes) == (WIDE, CLASSES)


# ---------------------------------------------------------------- raw outputs to answers


def test_a_mask_of_the_images_own_size_without_the_border():
    areas = torch.full((1, 64, 64), 2)  # trees in the border
    areas[0, 16:48] = 0
    areas[0, 16:48, 32:] = 1
    (answer,) = SemanticSegmentationTask(CLASSES).answers(logits_of(areas), [WIDE], INPUT)
    expected = np.zeros(WIDE, np.uint8)
    expected[:, 20:] = 1
    np.testing.assert_array_equal(answer.mask, expected)
    assert answer.shares() == {"ground": 0.5, "car": 0.5, "tree": 0}
    assert answer.confidence.min() > 0.3
    assert answer.confidence[10, 5] == pytest.approx(1, abs=1e-6)


def test_each_image_of_a_batch_has_its_own_size():
    areas = torch.zeros((3, 64, 64), dtype=torch.int64)
    areas[1], areas[2] = 1, 2
    sizes = [WIDE, (31, 7), (128, 128)]
    answers = SemanticSegmentationTask(CLASSES).answers(logits_of(areas), sizes, INPUT)
    assert [answer.size for answer in answers] == sizes
    assert [np.unique(answer.mask).tolist() for answer in answers] == [[0], [1], [2]]


def test_the_temperature_moves_confidences_and_no_class():
    torch.manual_seed(0)
    task, logits = SemanticSegmentationTask(CLASSES), torch.randn(1, 3, 64, 64)
    (sharp,), (soft,) = (task.answers(logits, [(64, 64)], INPUT, temperature) for temperature in (1.0, 4.0))
    np.testing.assert_array_equal(sharp.mask, soft.mask)
    assert (soft.confidence < sharp.confidence).all()
    np.testing.assert_allclose(sharp.confidence, logits.softmax(1).amax(1)[0], atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_outputs_that_are_no_numbers_are_refused(value):
    logits = torch.zeros(2, 3, 64, 64)
    logits[1, 2, 3, 4] = value
    with pytest.raises(ModelError, match="not numbers") as error:
        SemanticSegmentationTask(CLASSES).answers(logits, [WIDE, WIDE], INPUT)
    assert "--lr" in error.value.hint


# ---------------------------------------------------------------- meters and loaders


@pytest.fixture
def samples(tmp_path) -> MaskSamples:
    """Three images of two sizes: left half ground, right half a class of their own; the last has a mask of nothing."""
    sizes = [WIDE, (64, 64), WIDE]
    for number, (height, width) in enumerate(sizes):
        mask = np.zeros((height, width), np.uint8)
        mask[:, width // 2 :] = number
        mask[:] = IGNORE if number == 2 else mask
        Image.fromarray(mask).save(tmp_path / f"{number}-mask.png")
        Image.new("RGB", (width, height), (80 * number, 99, 9)).save(tmp_path / f"{number}.png")
    names, masks = ([f"{number}{end}.png" for number in range(3)] for end in ("", "-mask"))
    table = np.arange(3, dtype=np.uint8)
    string = np.dtypes.StringDType()
    return MaskSamples(
        str(tmp_path), np.array(names, string), None, np.array(masks, string), None, np.array(sizes), table
    )


def truth_as_raw(samples: MaskSamples, rows: list[int]) -> torch.Tensor:
    masks = []
    for row in rows:
        placed = torch.zeros(64, 64, dtype=torch.int64)
        height, width = INPUT.placement(tuple(samples.sizes[row].tolist())).size
        top, left = (64 - height) // 2, (64 - width) // 2
        mask = np.where(samples.open_mask(row) == IGNORE, 0, samples.open_mask(row))
        resized = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST))
        placed[top : top + height, left : left + width] = torch.from_numpy(resized.copy())
        masks.append(placed)
    return logits_of(torch.stack(masks))


def test_the_truth_has_an_overlap_of_one_and_ignored_images_do_not_count(samples):
    meter = SemanticSegmentationTask(CLASSES).meter(samples, INPUT)
    meter.add(truth_as_raw(samples, [2, 1]), None, torch.tensor([2, 1]))
    meter.add(truth_as_raw(samples, [0]), None, torch.tensor([0]))
    assert meter.figures() == {"miou": 1, "pixel_accuracy": 1}
    assert meter.meter.indices().tolist() == [0, 1]


def test_answers_are_compared_with_the_mask_of_their_own_image(samples):
    meter = SemanticSegmentationTask(CLASSES).meter(samples, INPUT)
    meter.add(truth_as_raw(samples, [0]), None, torch.tensor([1]))
    assert meter.figures() == pytest.approx({"miou": 0.25, "pixel_accuracy": 0.5})


def test_only_ignored_pixels_give_figures_too(samples):
    meter = SemanticSegmentationTask(CLASSES).meter(samples, INPUT)
    meter.add(truth_as_raw(samples, [2]), None, torch.tensor([2]))
    assert meter.figures() == {"miou": 0, "pixel_accuracy": 0}


def test_what_decides_which_epoch_is_best():
    assert SemanticSegmentationTask(CLASSES).score({"miou": 0.4, "pixel_accuracy": 0.9}) == [0.4]


def test_training_masks_are_in_the_inputs_pixels_and_outside_they_are_ignored(samples):
    task = SemanticSegmentationTask(CLASSES, TaskSettings(zoom=(1, 1), hflip=0))
    images, masks, rows = next(iter(task.training_loader(samples, INPUT, batch_size=3, workers=0)))
    assert (images.shape, masks.shape, masks.dtype) == ((3, 3, 64, 64), (3, 64, 64), torch.uint8)
    by_row = dict(zip(rows.tolist(), masks, strict=True))
    image_rows = (by_row[0] == 0).all(dim=1)  # they lie anywhere between top and bottom
    assert image_rows.sum() == 32
    assert (by_row[0][~image_rows] == IGNORE).all()
    assert (by_row[1][:, :32] == 0).all()
    assert (by_row[1][:, 32:] == 1).all()
    mirrored = SemanticSegmentationTask(CLASSES, TaskSettings(zoom=(1, 1), hflip=1))
    _, masks, rows = next(iter(mirrored.training_loader(samples, INPUT, batch_size=3, workers=0)))
    assert (masks[rows.tolist().index(1)][:, :32] == 1).all()


def test_evaluation_gives_every_image_in_order(samples):
    ((_, masks, rows),) = SemanticSegmentationTask(CLASSES).evaluation_loader(samples, INPUT, batch_size=8, workers=0)
    assert rows.tolist() == [0, 1, 2]
    assert (masks[1][:, 32:] == 1).all()


def test_the_usual_head():
    assert TASKS["semantic_segmentation"].choose_head(None) == "fpn"
    assert "deeplabv3plus" in SemanticSegmentationTask.heads
