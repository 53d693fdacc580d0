"""Boxes and instance masks: losses of odd batches, raw outputs to answers, and what decides."""

import numpy as np
import pytest
import torch
from PIL import Image

from dualtoken.backbone import count_macs
from dualtoken.data import Objects, ObjectSamples
from dualtoken.errors import ConfigError, ModelError
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks import TASKS, Network, TaskSettings, as_arrays, moved
from dualtoken.tasks.detection import DetectionTask, InstanceSegmentationTask

CLASSES = ("red", "blue")
INPUT = Preprocessing((64, 64), 1.0, "border")
WIDE = (20, 40)  # lies in rows 16 to 48 of the input, 1.6 pixels for one
WHOLE = (0, 16, 64, 48)  # where it lies


def raw(boxes, scores=None, labels=None, masks=None) -> dict[str, torch.Tensor]:
    number = len(boxes)
    found = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor([0.9 - 0.1 * place for place in range(number)] if scores is None else scores),
        "labels": torch.tensor([0] * number if labels is None else labels, dtype=torch.int64),
    }
    return found if masks is None else found | {"masks": torch.as_tensor(masks, dtype=torch.float32)}


def objects(size, boxes, labels) -> Objects:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    number = len(boxes)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Objects(
        size, boxes, np.array(labels, np.int64), np.zeros(number, bool), areas, ((),) * number, ("",) * number
    )


@pytest.fixture
def samples(tmp_path) -> ObjectSamples:
    """Two images of different sizes, of one and two objects, and one without any."""
    items = [
        objects(WIDE, [[10, 0, 20, 10]], [1]),
        objects((64, 64), [[8, 8, 40, 40], [20, 30, 60, 60]], [0, 1]),
        objects((32, 16), [], []),
    ]
    names = [f"{number}.png" for number in range(len(items))]
    for name, item in zip(names, items, strict=True):
        Image.new("RGB", item.size[::-1], (9, 99, 199)).save(tmp_path / name)
    return ObjectSamples.build(str(tmp_path), names, items)


# ---------------------------------------------------------------- losses


def target(*boxes, size=64) -> dict[str, torch.Tensor]:
    masks = torch.zeros(len(boxes), size, size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    labels = torch.arange(len(boxes)) % 2
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": labels, "masks": masks}


ODD = {
    "one object": [target((8, 8, 40, 40)), target()],
    "no object": [target(), target()],
    "whole image": [target((0, 0, 64, 64)), target((0, 0, 2, 2), (62, 62, 64, 64))],
}


@pytest.fixture(scope="module", params=[(name, head) for name in ("detection", "instance_segmentation")
                                        for head in TASKS[name].heads], ids=lambda pair: pair[1])  # fmt: skip
def network(request):
    name, head = request.param
    torch.manual_seed(0)
    task = TASKS[name](CLASSES)
    return task, task.build(Network("test_resnet", 2, head, {"channels": 64}))


@pytest.mark.parametrize("batch", list(ODD))
def test_losses_are_finite_scalars_with_finite_gradients(network, batch):
    task, model = network
    model.zero_grad()
    loss = task.loss(model.train(), torch.randn(2, 3, 64, 64), ODD[batch])
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss > 0
    loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_the_loss_is_the_sum_of_the_heads_parts():
    parts = {"boxes": torch.tensor(1.5), "classes": torch.tensor(0.25, dtype=torch.bfloat16)}
    loss = DetectionTask(CLASSES).loss(lambda images, targets: parts, torch.zeros(1), [])
    assert loss.item() == 1.75
    assert loss.dtype == torch.float32


def test_what_is_computed_everywhere_can_be_counted(network):
    task, model = network
    assert 0 < count_macs(task.dense(model), (64, 64)) < count_macs(task.dense(model), (128, 128))


def test_raw_outputs_of_the_network_become_answers(network):
    task, model = network
    with torch.inference_mode():
        found = model.eval()(torch.randn(2, 3, 64, 64))
    sizes = [WIDE, (90, 31)]
    for answer, size in zip(task.answers(found, sizes, INPUT), sizes, strict=True):
        assert answer.size == size
        assert answer.classes == CLASSES
        assert (answer.masks is not None) == task.masks
        assert len(answer) <= 100
        assert (answer.boxes >= 0).all()
        assert (answer.boxes <= [size[1], size[0], size[1], size[0]]).all()


# ---------------------------------------------------------------- raw outputs to answers


def test_boxes_come_back_to_the_images_pixels():
    (answer,) = DetectionTask(CLASSES).answers([raw([[16, 16, 32, 32]], labels=[1])], [WIDE], INPUT)
    assert answer.boxes.tolist() == [[10, 0, 20, 10]]
    assert answer.names() == ["blue"]
    assert answer.scores.tolist() == pytest.approx([0.9])
    assert answer.masks is None


def test_boxes_over_the_border_are_cut_and_those_inside_it_dropped():
    boxes = [[0, 0, 64, 15], [0, 0, 64, 64], [16, 0, 32, 32], [0, 50, 64, 64], [32, 32, 64, 60], [5, 16, 5, 40]]
    (answer,) = DetectionTask(CLASSES).answers([raw(boxes)], [WIDE], INPUT)
    assert answer.boxes.tolist() == [[0, 0, 40, 20], [10, 0, 20, 10], [20, 10, 40, 20]]
    assert answer.scores.tolist() == pytest.approx([0.8, 0.7, 0.5])  # those of the boxes that are left


def test_of_an_upright_image_the_border_is_beside_it():
    boxes = [[0, 0, 15, 64], [16, 16, 32, 32], [0, 0, 64, 32]]
    (answer,) = DetectionTask(CLASSES).answers([raw(boxes)], [WIDE[::-1]], INPUT)
    assert answer.boxes.tolist() == [[0, 10, 10, 20], [0, 0, 20, 20]]


def test_nothing_found_is_an_answer():
    empty = raw([], masks=np.zeros((0, 28, 28)))
    for task in (DetectionTask(CLASSES), InstanceSegmentationTask(CLASSES)):
        only_border = raw([[0, 0, 64, 10]], masks=np.ones((1, 28, 28)))
        for answer in task.answers([empty, only_border], [WIDE, WIDE], INPUT):
            assert len(answer) == 0
            assert answer.size == WIDE
            assert answer.above(0.5).to_dict()["objects"] == []


def test_masks_lie_where_their_boxes_did_before_the_image_cut_them():
    lower = np.zeros((28, 28))
    lower[14:] = 1
    found = raw([[0, 0, 64, 10], [0, 0, 64, 32], list(WHOLE)], masks=np.stack([lower, lower, np.ones((28, 28))]))
    (answer,) = InstanceSegmentationTask(CLASSES).answers([found], [WIDE], INPUT)
    assert len(answer) == 2
    first, second = answer.full_masks()
    # Of a box from row -10 to 10 the lower half is all of what the image shows.
    assert first[1:9, 2:38].all()
    assert not first[12:].any()
    assert second[1:19, 1:39].all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["boxes", "scores"])
def test_outputs_that_are_no_numbers_are_refused(part, value):
    found = raw([[16, 16, 32, 32], [8, 20, 30, 40]])
    found[part].view(-1)[-1] = value
    with pytest.raises(ModelError, match="not numbers") as error:
        DetectionTask(CLASSES).answers([found], [WIDE], INPUT)
    assert "--lr" in error.value.hint


def test_half_precision_is_read():
    found = {name: part.bfloat16() if part.is_floating_point() else part for name, part in raw([list(WHOLE)]).items()}
    (answer,) = DetectionTask(CLASSES).answers([found], [WIDE], INPUT)
    assert answer.boxes.tolist() == [[0, 0, 40, 20]]


def test_a_score_above_one_by_rounding_is_one():
    (answer,) = DetectionTask(CLASSES).answers([raw([list(WHOLE)], scores=[1.0000002])], [WIDE], INPUT)
    assert answer.scores.tolist() == [1]


# ---------------------------------------------------------------- meters


def truth_as_raw(samples, row) -> dict[str, torch.Tensor]:
    own = samples.objects(row)
    boxes = INPUT.placement(own.size).to_input(own.boxes)
    return raw(boxes, labels=own.labels, masks=np.ones((len(boxes), 28, 28)))


def test_the_truth_has_an_average_precision_of_one(samples):
    meter = DetectionTask(CLASSES).meter(samples, INPUT)
    meter.add([truth_as_raw(samples, 2), truth_as_raw(samples, 1)], [{}, {}], torch.tensor([2, 1]))
    meter.add([truth_as_raw(samples, 0)], [{}], torch.tensor([0]))
    assert meter.figures() == pytest.approx({"ap": 1, "ap50": 1})


def test_answers_are_compared_with_the_objects_of_their_own_image(samples):
    meter = DetectionTask(CLASSES).meter(samples, INPUT)
    meter.add([truth_as_raw(samples, 1), truth_as_raw(samples, 0)], [{}, {}], torch.tensor([0, 1]))
    assert meter.figures()["ap50"] < 0.5


def test_wrong_classes_count_nothing_and_masks_are_measured_too(samples):
    meter = InstanceSegmentationTask(CLASSES).meter(samples, INPUT)
    for row in range(3):
        meter.add([truth_as_raw(samples, row)], [{}], torch.tensor([row]))
    figures = meter.figures()
    assert figures.keys() == {"ap", "ap50", "mask_ap", "mask_ap50"}
    assert (figures["ap"], figures["mask_ap50"]) == pytest.approx((1, 1))  # an object without outline fills its box
    meter = InstanceSegmentationTask(CLASSES).meter(samples, INPUT)
    for row in range(3):
        found = truth_as_raw(samples, row)
        meter.add([found | {"labels": 1 - found["labels"]}], [{}], torch.tensor([row]))
    assert set(meter.figures().values()) == {0}


def test_what_decides_which_epoch_is_best():
    figures = {"ap": 0.3, "ap50": 0.6, "mask_ap": 0.2, "mask_ap50": 0.5}
    assert DetectionTask(CLASSES).score(figures) == [0.3]
    assert InstanceSegmentationTask(CLASSES).score(figures) == [0.2]
    assert DetectionTask(CLASSES).score({"ap": 0.0}) > []  # anything is better than nothing


# ---------------------------------------------------------------- loaders


def batch(task, samples, **settings):
    task = task(CLASSES, TaskSettings(**{"zoom": (1, 1), "hflip": 0} | settings))
    return next(iter(task.training_loader(samples, INPUT, batch_size=3, workers=0, seed=0)))


def test_training_targets_are_in_the_inputs_pixels(samples):
    images, targets, rows = batch(DetectionTask, samples)
    assert images.shape == (3, 3, 64, 64)
    assert sorted(rows.tolist()) == [0, 1, 2]
    by_row = dict(zip(rows.tolist(), targets, strict=True))
    assert by_row[0].keys() == {"boxes", "labels"}
    np.testing.assert_allclose(by_row[1]["boxes"], [[8, 8, 40, 40], [20, 30, 60, 60]], atol=1e-4)
    np.testing.assert_allclose(by_row[0]["boxes"][:, [0, 2]], [[16, 32]], atol=1e-4)  # up and down it lies anywhere
    assert by_row[1]["labels"].tolist() == [0, 1]
    assert by_row[2]["boxes"].shape == (0, 4)


def test_instances_have_their_masks(samples):
    _, targets, rows = batch(InstanceSegmentationTask, samples)
    masks = targets[rows.tolist().index(1)]["masks"]
    assert (masks.shape, masks.dtype) == ((2, 64, 64), torch.uint8)
    assert masks[0].sum() == masks[0, 8:40, 8:40].sum() == 32 * 32


def test_the_runs_settings_reach_the_pictures(samples):
    boxes = {}
    for name, settings in {"plain": {}, "mirrored": {"hflip": 1.0}, "half": {"zoom": (0.5, 0.5)}}.items():
        _, targets, rows = batch(DetectionTask, samples, **settings)
        boxes[name] = targets[rows.tolist().index(1)]["boxes"][0]
    np.testing.assert_allclose(boxes["mirrored"], [24, 8, 56, 40], atol=1e-4)
    np.testing.assert_allclose(boxes["half"][2:] - boxes["half"][:2], [16, 16], atol=1e-4)
    _, targets, _ = batch(DetectionTask, samples, mosaic=1.0)
    assert sum(len(own["boxes"]) for own in targets) > 3
    plain, _, _ = batch(DetectionTask, samples)
    coloured, _, _ = batch(DetectionTask, samples, color_jitter=0.5)
    assert not torch.equal(plain, coloured)


def test_evaluation_gives_every_image_in_order(samples):
    ((images, targets, rows),) = DetectionTask(CLASSES).evaluation_loader(samples, INPUT, batch_size=4, workers=0)
    assert rows.tolist() == [0, 1, 2]
    assert list(targets) == [{}, {}, {}]
    np.testing.assert_array_equal(images[0].numpy(), INPUT(samples.open(0)))


# ---------------------------------------------------------------- names


def test_tasks_and_their_heads():
    assert sorted(TASKS) == [
        "classification",
        "detection",
        "instance_segmentation",
        "multilabel",
        "semantic_segmentation",
    ]
    assert DetectionTask.choose_head(None) == "retinanet"
    assert InstanceSegmentationTask.choose_head(None) == "mask_rcnn"
    assert TASKS["classification"].choose_head(None) == ""


@pytest.mark.parametrize(
    ("task", "head", "words"),
    [
        ("detection", "retinanett", "Did you mean 'retinanet'.*The task is detection"),
        ("semantic_segmentation", "unet", "Unknown head 'unet'"),
        ("classification", "something", "Unknown head 'something'.*The task is classification"),
    ],
)
def test_a_head_of_no_task_is_named(task, head, words):
    with pytest.raises(ConfigError, match=words) as error:
        TASKS[task].choose_head(head)
    expected = "Its heads: " + ", ".join(TASKS[task].heads) if TASKS[task].heads else "leave head out"
    assert expected in error.value.hint
    assert "--task" not in error.value.hint


@pytest.mark.parametrize(
    ("task", "head", "right"),
    [
        ("detection", "mask_rcnn", "instance_segmentation"),
        ("detection", "deeplabv3plus", "semantic_segmentation"),
        ("instance_segmentation", "fcos", "detection"),
        ("semantic_segmentation", "faster_rcnn", "detection"),
        ("classification", "retinanet", "detection"),
    ],
)
def test_a_head_of_another_task_names_that_task(task, head, right):
    with pytest.raises(ConfigError, match=f"The head '{head}' is for {right}, but the task is {task}") as error:
        TASKS[task].choose_head(head)
    assert f"--task {right}" in error.value.hint
    assert TASKS[right].choose_head(head) == head


def test_nested_targets_as_arrays_and_on_a_device():
    targets = [{"boxes": torch.ones(2, 4), "name": "x"}, {}]
    assert isinstance(as_arrays(targets)[0]["boxes"], np.ndarray)
    assert as_arrays(targets)[0]["name"] == "x"
    short = as_arrays(torch.tensor([0.5], dtype=torch.bfloat16))
    assert (short.dtype, short.tolist()) == (np.float32, [0.5])
    there = moved((targets, torch.zeros(1)), torch.device("meta"))
    assert there[0][0]["boxes"].device.type == there[1].device.type == "meta"
