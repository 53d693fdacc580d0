"""Raw outputs of any engine to answers, for every task."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dualtoken.answers import KINDS, kind_of
from dualtoken.errors import ConfigError, ModelError
from dualtoken.heads import make_detector
from dualtoken.model_folder import ModelConfig
from dualtoken.postprocess import softmax
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks import TASKS

CLASSES = ("red", "green", "blue")
INPUT = Preprocessing((64, 64), 1.0, "border")
IMAGES = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
SIZES = [(20, 40), (90, 31)]


class Given:
    """An engine that has its answer ready."""

    def __init__(self, *arrays):
        self.arrays, self.asked = [np.asarray(array, np.float32) for array in arrays], []

    def run(self, part, inputs):
        self.asked.append((part, inputs))
        return self.arrays


def config(task: str, head: str = "", **more) -> ModelConfig:
    return ModelConfig("test_resnet", CLASSES, INPUT, task=task, head=head, **more)


def answer(config, engine, images, sizes):
    return kind_of(config.task).answer(config, engine, images, sizes)


def test_every_task_can_be_read():
    assert set(KINDS) == set(TASKS)


def test_a_classifiers_logits_become_probabilities_at_its_temperature():
    engine = Given([[1, 2, 3], [9, 0, 0]])
    first, second = answer(config("classification", temperature=2.0), engine, IMAGES, SIZES)
    ((part, inputs),) = engine.asked
    assert part == "network"
    assert inputs[0] is IMAGES
    assert (first.label, second.label, first.classes) == ("blue", "red", CLASSES)
    np.testing.assert_allclose(first.probabilities, softmax(np.array([1.0, 2, 3]), 2.0))


def test_a_segmenters_logits_become_masks_of_the_images_sizes():
    logits = np.zeros((2, 3, 64, 64))
    logits[0, 1], logits[1, 2] = 5, 5
    answers = answer(config("semantic_segmentation", "fpn"), Given(logits), IMAGES, SIZES)
    assert [one.size for one in answers] == SIZES
    assert [np.unique(one.mask).tolist() for one in answers] == [[1], [2]]


@pytest.mark.parametrize(
    ("task", "head"), [("detection", "fcos"), ("detection", "faster_rcnn"), ("instance_segmentation", "mask_rcnn")]
)
def test_a_detectors_parts_become_objects(task, head):
    torch.manual_seed(0)
    args = {"channels": 64, "max_detections": 7, "score_threshold": 0.0}
    engine = make_detector(head, "test_resnet", 3, args).eval()
    answers = answer(config(task, head, head_args=args), engine, IMAGES, SIZES)
    expected = TASKS[task](CLASSES).answers(engine(torch.from_numpy(IMAGES)), SIZES, INPUT)
    for ours, theirs, size in zip(answers, expected, SIZES, strict=True):
        assert ours.size == size
        assert 0 < len(ours) <= 7
        assert (ours.masks is not None) == (head == "mask_rcnn")
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_outputs_are_what_answers_are_read_from():
    settings = config("classification", temperature=3.0)
    raw = kind_of(settings.task).outputs(settings, Given([[1, 2, 3], [9, 0, 0]]), IMAGES)
    assert raw.tolist() == [[1, 2, 3], [9, 0, 0]]
    (first, _) = kind_of(settings.task).read(settings, raw, SIZES)
    np.testing.assert_array_equal(first.probabilities, softmax(raw[0], 3.0))


@pytest.mark.parametrize("shape", [(2, 4), (1, 3), (3,)], ids=str)
def test_outputs_of_another_shape_are_named(shape):
    with pytest.raises(ModelError, match=r"gives .*, expected \(2, 3\)"):
        answer(config("classification"), Given(np.zeros(shape)), IMAGES, SIZES)


def test_a_segmenters_outputs_for_a_classifier_are_refused():
    with pytest.raises(ModelError, match=r"gives \(2, 3, 64, 64\)"):
        answer(config("classification"), Given(np.zeros((2, 3, 64, 64))), IMAGES, SIZES)
    with pytest.raises(ModelError, match=r"gives \(2, 3\)"):
        answer(config("semantic_segmentation", "fpn"), Given(np.zeros((2, 3))), IMAGES, SIZES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("task", "shape"), [("classification", (2, 3)), ("semantic_segmentation", (2, 3, 8, 8))])
def test_what_is_no_number_is_refused(task, shape, value):
    logits = np.zeros(shape)
    logits.flat[3] = value
    with pytest.raises(ModelError, match="not numbers") as error:
        answer(config(task, "fpn" if len(shape) == 4 else ""), Given(logits), IMAGES, SIZES)
    assert "--lr" in error.value.hint
    with pytest.raises(ModelError, match="not numbers"):
        kind_of(task).read(config(task), logits, SIZES)


def test_unknown_tasks_and_arguments_are_named():
    with pytest.raises(ModelError, match="Did you mean 'detection'"):
        kind_of("detections")
    strange = replace(config("detection", "fcos"), head_args={"anchor_scales": 3})
    with pytest.raises(ConfigError, match="Did you mean 'anchor_scale'"):
        answer(strange, Given(), IMAGES, SIZES)


class Giving:
    """An engine whose network gives these outputs."""

    def __init__(self, *shapes):
        self.shapes = shapes

    def run(self, part, inputs):
        return [np.zeros(shape, np.float32) for shape in self.shapes]


@pytest.mark.parametrize(
    ("task", "head", "shapes"),
    [
        ("classification", "", [(1, 2), (1, 5)]),
        ("classification", "", []),
        ("semantic_segmentation", "", [(1, 2, 8, 8), (1, 2)]),
        ("detection", "retinanet", [(1, 100, 2)]),
        ("detection", "fcos", [(1, 100, 2), (1, 100, 4)]),
        ("detection", "faster_rcnn", [(1, 100, 1), (1, 100, 4)]),
    ],
)
def test_a_network_of_other_outputs_is_named(task, head, shapes):
    config = ModelConfig("dualtoken_vit_t_mix", ("a", "b"), Preprocessing((64, 64)), task=task, head=head)
    with pytest.raises(ModelError, match=rf"has {len(shapes)} outputs .*expected"):
        kind_of(task).answer(config, Giving(*shapes), np.zeros((1, 3, 64, 64), np.float32), [(64, 64)])
