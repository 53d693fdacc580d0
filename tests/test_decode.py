"""Boxes out of raw outputs, in numpy: what torchvision's own detectors give for the same networks."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from dualtoken import decode
from dualtoken.decode import HEADS, DetectorSpec, detect
from dualtoken.errors import ConfigError, ModelError
from dualtoken.heads import make_detector

CLASSES = 3


def lively(head: str):
    """A detector whose fresh weights say something: logits around 0, boxes that are not their anchors."""
    torch.manual_seed(0)
    detector = make_detector(head, "test_resnet", CLASSES, {"channels": 64, "max_detections": 40}).eval()
    spread = {"cls_logits": 0.05, "bbox_ctrness": 0.1, "cls_score": 0.3, "bbox_reg": 0.02, "bbox_pred": 0.01}
    for name, module in detector.network.named_modules():
        if name.split(".")[-1] in spread:
            torch.nn.init.normal_(module.weight, std=spread[name.split(".")[-1]])
            torch.nn.init.zeros_(module.bias)
    return detector


@pytest.fixture(scope="module", params=HEADS)
def detector(request):
    return lively(request.param)


def torchvisions(detector, images: torch.Tensor, threshold: float) -> list[dict[str, np.ndarray]]:
    """What the network's own forward finds, with its labels and masks as ours."""
    chooser = detector.network if detector.spec.dense else detector.network.roi_heads
    chooser.score_thresh = threshold
    with torch.inference_mode():
        found = detector.network(images)
    for one in found:
        one["labels"] = one["labels"] - (0 if detector.spec.dense else 1)
        if "masks" in one:
            one["masks"] = one["masks"][:, 0]
    return [{name: tensor.numpy() for name, tensor in one.items()} for one in found]


def assert_equal(ours, expected):
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
        assert (ours[name].shape, ours[name].dtype) == (array.shape, array.dtype), name
        np.testing.assert_allclose(ours[name], array, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 128, 64), (1, 256, 320)], ids=str)
def test_many_objects_are_torchvisions(detector, shape):
    images = torch.randn(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(1))
    expected = torchvisions(detector, images, 0.02)
    found = detect(detector.spec, detector, images.numpy())
    assert len(found) == len(expected) == len(images)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs["scores"]) == 40
        assert np.ptp(theirs["scores"]) > 1e-3
        assert_equal(ours, theirs)


@pytest.mark.parametrize("wanted", [0, 1, 7])
def test_few_objects_are_torchvisions(detector, wanted):
    """The threshold lies between the scores of two objects, of all three images together."""
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    scores = np.sort(np.concatenate([one["scores"] for one in torchvisions(detector, images, 0.02)]))[::-1]
    threshold = 1.0 if wanted == 0 else float(scores[wanted - 1] + scores[wanted]) / 2
    expected = torchvisions(detector, images, threshold)
    assert sum(len(one["scores"]) for one in expected) == wanted
    found = detect(replace(detector.spec, score_threshold=threshold), detector, images.numpy())
    for ours, theirs in zip(found, expected, strict=True):
        assert_equal(ours, theirs)


def test_an_image_has_the_same_answer_alone_and_in_a_batch(detector):
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(3)).numpy()
    together = detect(detector.spec, detector, images)
    for image, one in zip(images, together, strict=True):
        (alone,) = detect(detector.spec, detector, image[None])
        assert_equal(one, alone)


def test_the_networks_answers_are_those_of_its_parts(detector):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    for ours, expected in zip(detector(images), detect(detector.spec, detector, images.numpy()), strict=True):
        assert_equal({name: tensor.numpy() for name, tensor in ours.items()}, expected)


@pytest.mark.parametrize("head", ["retinanet", "fcos"])
def test_no_more_than_a_thousand_of_a_level_are_torchvisions(head):
    detector, images = lively(head), torch.randn(1, 3, 256, 320, generator=torch.Generator().manual_seed(5))
    detector.network.detections_per_img, detector.network.nms_thresh = 5000, 0.95
    (expected,) = torchvisions(detector, images, 0.02)
    assert 1000 < len(expected["scores"]) < 5000
    spec = replace(detector.spec, max_detections=5000, iou_threshold=0.95)
    (found,) = detect(spec, detector, images.numpy())
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-6)
    assert_same_rows(*(np.column_stack([one["boxes"], one["labels"]]) for one in (found, expected)))


def assert_same_rows(ours, expected):
    """In any order: among thousands of scores some differ by a rounding only."""
    assert ours.shape == expected.shape
    distances = np.abs(ours[:, None] - expected).max(axis=2)
    assert distances.min(axis=0).max() < 1e-3
    assert distances.min(axis=1).max() < 1e-3


def test_proposals_are_torchvisions():
    """All of them: in one of the images as many as there may be."""
    detector = lively("faster_rcnn")
    images = torch.randn(2, 3, 256, 512, generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        maps = detector.network.backbone(images)
        expected, _ = detector.network.rpn(ImageList(images, [(256, 512)] * 2), maps)
    asked = {}
    engine = Recording(detector, asked)
    detect(detector.spec, engine, images.numpy())
    rois = asked["boxes"][-1]
    assert max(map(len, expected)) == 1000
    for number, boxes in enumerate(expected):
        assert_same_rows(rois[rois[:, 0] == number, 1:], boxes.numpy())


class Recording:
    """An engine that remembers what it was asked."""

    def __init__(self, engine, asked):
        self.engine, self.asked = engine, asked

    def run(self, part, inputs):
        self.asked[part] = inputs
        return self.engine.run(part, inputs)


# ---------------------------------------------------------------- details


@pytest.mark.parametrize("weights", [decode._PLAIN, decode._SECOND_STAGE])
def test_boxes_are_decoded_as_torchvision_does(weights):
    rng = np.random.default_rng(0)
    deltas = (rng.normal(size=(300, 4)) * [1, 1, 20, 20]).astype(np.float32)
    around = np.concatenate([low := rng.uniform(0, 90, (300, 2)), low + rng.uniform(1, 90, (300, 2))], axis=1)
    expected = BoxCoder(weights).decode_single(torch.from_numpy(deltas), torch.from_numpy(around)).numpy()
    assert (deltas[:, 2:] / weights[2]).max() > np.log(1000 / 16)  # some would grow beyond the limit
    np.testing.assert_allclose(
        decode._decoded(deltas, around.astype(np.float32), weights), expected, rtol=1e-5, atol=1e-4
    )


def test_distances_are_decoded_as_torchvision_does():
    rng = np.random.default_rng(0)
    deltas, low = rng.uniform(0, 9, (300, 4)).astype(np.float32), rng.uniform(0, 90, (300, 2))
    around = np.concatenate([low, low + np.array([8, 12])], axis=1).astype(np.float32)
    expected = BoxLinearCoder(normalize_by_size=True).decode(torch.from_numpy(deltas), torch.from_numpy(around))
    np.testing.assert_allclose(decode._decoded_distances(deltas, around), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (224, 160), (512, 800)], ids=str)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("settings", [{}, {"anchor_scale": 2.3}, {"strides": (4, 8, 16, 32)}], ids=str)
def test_anchors_are_torchvisions(head, size, settings):
    spec = DetectorSpec(head, 2, **settings)
    generator = AnchorGenerator(spec.anchor_sizes, (spec.anchor_ratios,) * len(spec.levels))
    images = torch.zeros(1, 3, *size)
    maps = [torch.zeros(1, 1, -(-size[0] // stride), -(-size[1] // stride)) for stride in spec.levels]
    (expected,) = generator(ImageList(images, [size]), maps)
    ours = decode._anchors(spec.levels, spec.anchor_sizes, spec.anchor_ratios, size)
    assert all(level.dtype == np.float32 for level in ours)
    np.testing.assert_array_equal(np.concatenate(ours), expected.numpy())


def test_levels_of_the_pyramids():
    assert DetectorSpec("retinanet", 2).levels == (8, 16, 32, 64, 128)
    assert DetectorSpec("mask_rcnn", 2, (4, 8)).levels == (4, 8, 16)


def test_the_largest_values_and_no_more_of_equal_ones():
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    np.testing.assert_array_equal(decode._largest(values, 1000), np.argsort(-values)[:1000])
    np.testing.assert_array_equal(decode._largest(np.zeros(1500, np.float32), 1000), np.arange(1000))
    np.testing.assert_array_equal(decode._largest(values[:7], 1000), np.argsort(-values[:7]))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_no_answer_at_or_below_the_threshold(threshold):
    logits = np.linspace(-10, 10, 400, dtype=np.float32).reshape(-1, 2)
    best = decode._best(DetectorSpec("retinanet", 2, score_threshold=threshold), logits, None)
    assert len(best.scores) == (1 / (1 + np.exp(-logits.astype(float)))).astype(np.float32).__gt__(threshold).sum()
    assert (best.scores > threshold).all()
    np.testing.assert_array_equal(
        logits[best.positions, best.labels], np.sort(logits.ravel())[::-1][: len(best.scores)]
    )


# ---------------------------------------------------------------- engines


class Invented:
    """An engine that gives what it is told and remembers what it was asked."""

    def __init__(self, **outputs):
        self.outputs, self.asked = outputs, {}

    def run(self, part, inputs):
        self.asked[part] = inputs
        return self.outputs[part]


def faster(**changes) -> Invented:
    """Proposals on a 32 x 32 image, of which the first two lie apart; the second stage knows class 2 of 2."""
    spec = DetectorSpec("faster_rcnn", 2)
    number = sum(map(len, decode._anchors(spec.levels, spec.anchor_sizes, spec.anchor_ratios, (32, 32))))
    deltas = np.full((1, number, 4), -100, np.float32)  # nothing but points at the border ...
    deltas[0, [0, 45]] = 0  # ... and two anchors
    outputs = {"objectness": np.zeros((1, number), np.float32), "deltas": deltas, "map0": "a map"} | changes
    second = [np.tile(np.float32([0, 0, 5]), (2, 1)), np.zeros((2, 12), np.float32)]
    return Invented(network=list(outputs.values()), boxes=second)


IMAGE = np.zeros((1, 3, 32, 32), np.float32)


def test_maps_are_handed_on_as_they_are():
    engine = faster()
    (found,) = detect(DetectorSpec("faster_rcnn", 2), engine, IMAGE)
    given, rois = engine.asked["boxes"]
    assert given == "a map"
    assert (rois.shape, rois.dtype) == ((2, 5), np.float32)
    assert found["labels"].tolist() == [1, 1]
    np.testing.assert_allclose(found["boxes"], rois[:, 1:], atol=1e-5)
    np.testing.assert_allclose(found["scores"], np.exp(5) / (np.exp(5) + 2), rtol=1e-5)


@pytest.mark.parametrize(("side", "proposals"), [(0.0005, 1), (0.002, 2)])
def test_tiny_proposals_fall(side, proposals):
    engine = faster()
    engine.outputs["network"][1][0, 45, 2] = np.log(side / 46)  # of an anchor 46 pixels wide
    engine.outputs["boxes"] = [array[:proposals] for array in engine.outputs["boxes"]]
    detect(DetectorSpec("faster_rcnn", 2), engine, IMAGE)
    assert len(engine.asked["boxes"][-1]) == proposals


@pytest.mark.parametrize(("side", "objects"), [(0.005, 1), (0.02, 2)])
def test_tiny_boxes_fall(side, objects):
    engine = faster()
    engine.outputs["boxes"][1][1, 10] = 5 * np.log(side / 20)  # of class 2, of a proposal about 20 pixels wide
    (found,) = detect(DetectorSpec("faster_rcnn", 2), engine, IMAGE)
    assert len(found["boxes"]) == objects


@pytest.mark.parametrize("head", ["faster_rcnn", "mask_rcnn"])
def test_without_proposals_no_further_part_is_run(head):
    engine = faster(deltas=np.full_like(faster().outputs["network"][1], -100))
    (found,) = detect(DetectorSpec(head, 2), engine, IMAGE)
    assert list(engine.asked) == ["network"]
    assert (found["boxes"].shape, found["scores"].shape, found["labels"].shape) == ((0, 4), (0,), (0,))
    assert head == "faster_rcnn" or found["masks"].shape == (0, 28, 28)


def test_without_boxes_no_masks_are_run():
    engine = faster()
    engine.outputs["boxes"][0][:] = [9, 0, 0]
    (found,) = detect(DetectorSpec("mask_rcnn", 2), engine, IMAGE)
    assert list(engine.asked) == ["network", "boxes"]
    assert found["masks"].shape == (0, 28, 28)


def test_masks_are_asked_for_the_networks_own_labels():
    engine = faster()
    engine.outputs["masks"] = [np.ones((2, 28, 28), np.float32)]
    (found,) = detect(DetectorSpec("mask_rcnn", 2), engine, IMAGE)
    _, rois, labels = engine.asked["masks"]
    assert labels.tolist() == [2, 2]
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(rois[:, 1:], found["boxes"])
    assert found["masks"].shape == (2, 28, 28)


@pytest.mark.parametrize("place", [("network", 0), ("network", 1), ("boxes", 0), ("boxes", 1), ("masks", 0)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused(place, value):
    engine = faster()
    engine.outputs["masks"] = [np.ones((2, 28, 28), np.float32)]
    engine.outputs[place[0]][place[1]].flat[1] = value
    with pytest.raises(ModelError, match="not numbers"):
        detect(DetectorSpec("mask_rcnn", 2), engine, IMAGE)


def test_an_input_of_another_size_is_named():
    with pytest.raises(ModelError, match="positions for an input of 64 x 32 pixels") as error:
        detect(DetectorSpec("faster_rcnn", 2), faster(), np.zeros((1, 3, 64, 32), np.float32))
    assert "multiples of 32" in error.value.hint


# ---------------------------------------------------------------- the spec


@pytest.mark.parametrize(
    ("head", "args", "words"),
    [
        ("retinant", {}, "Did you mean 'retinanet'"),
        ("fcos", {"chanels": 64}, "Did you mean 'channels'"),
        ("fcos", {"channels": 100}, "channels is 100, expected a multiple of 32"),
        ("fcos", {"channels": "wide"}, "channels is 'wide'"),
        ("fcos", {"strides": []}, r"strides is \[\], expected"),
        ("fcos", {"strides": [32, 16]}, "smallest first"),
        ("fcos", {"strides": 8}, "strides is 8"),
        ("fcos", {"anchor_scale": 0}, "anchor_scale is 0, expected a number above 0"),
        ("fcos", {"score_threshold": 2}, "score_threshold is 2"),
        ("fcos", {"iou_threshold": -0.1}, "iou_threshold is -0.1"),
        ("fcos", {"max_detections": 0}, "max_detections is 0"),
        ("fcos", {"max_detections": 100.0}, r"max_detections is 100\.0"),
        ("fcos", {"candidates": 1000.0}, r"candidates is 1000\.0"),
        ("fcos", {"channels": 64.0}, r"channels is 64\.0"),
    ],
)
def test_impossible_settings_are_named(head, args, words):
    with pytest.raises(ConfigError, match=words):
        DetectorSpec.of(head, 2, args)


def test_arguments_from_a_config_become_a_spec():
    spec = DetectorSpec.of("fcos", 5, {"strides": [8, 16], "max_detections": 3})
    assert spec == DetectorSpec("fcos", 5, (8, 16), max_detections=3)


def test_neither_torch_nor_anything_like_it_is_imported():
    code = "import sys, dualtoken.answers; print({'torch', 'torchvision', 'timm', 'onnxruntime'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
