"""Every detector on our backbone and on another: shapes, labels, losses and gradients, with and without objects."""

import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from dualtoken.decode import HEADS, DetectorSpec, detect
from dualtoken.errors import ConfigError, ModelError
from dualtoken.heads import DETECTORS, Body, make_detector
from dualtoken.heads.detection import pooled

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
    return make_detector(request.param, "dualtoken_vit_t_mix", CLASSES, {"channels": 64})


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
    detector = make_detector("retinanet", "mobilenetv4_conv_small", CLASSES, {"channels": 64})
    assert detector.train()(torch.randn(1, 3, 64, 64), [target((4, 4, 30, 40))])


def test_the_strides_of_the_pyramid_can_be_chosen():
    body = Body("dualtoken_vit_t_mix", (4, 8, 16, 32))
    assert [tuple(level.shape[2:]) for level in body(torch.randn(1, 3, 64, 64))] == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"head": "retinant"}, ConfigError, "Did you mean 'retinanet'"),
        ({"head_args": {"channels": 100}}, ConfigError, "multiple of 32"),
        ({"head_args": {"strides": (8, 16, 64)}}, ConfigError, r"maps at \[2, 4, 8, 16, 32\]"),
        ({"architecture": "mobilnet"}, ModelError, "no model"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        make_detector(**{"head": "retinanet", "architecture": "dualtoken_vit_t_mix", "classes": 2} | arguments)


def test_head_and_backbone_may_share_a_name():
    sizes = {"channels": (16, 32, 64), "heads": (1, 2, 4)}
    narrow = make_detector("retinanet", "dualtoken_vit_t_mix", 2, {"channels": 64}, **sizes)
    assert narrow.spec.channels == 64
    assert list(narrow.network.backbone.body.channels) == [16, 32, 64]


def test_the_defaults_are_those_of_the_spec(detector):
    spec = DetectorSpec(detector.spec.head, CLASSES, channels=64)
    assert detector.spec == spec
    assert tuple(detector.network.backbone.strides) == spec.levels
    chooser = detector.network if spec.dense else detector.network.roi_heads
    assert (chooser.score_thresh, chooser.nms_thresh, chooser.detections_per_img) == (0.02, 0.5, 100)


def test_every_head_can_be_read():
    assert tuple(DETECTORS) == tuple(HEADS)


# ---------------------------------------------------------------- parts


def narrow(head: str, **settings):
    torch.manual_seed(0)
    detector = make_detector(head, "test_resnet", CLASSES, {"channels": 64, **settings}).eval()
    for name, module in detector.network.named_modules():
        if name.endswith(("cls_score", "cls_logits")):
            torch.nn.init.normal_(module.weight, std=0.1)
            torch.nn.init.zeros_(module.bias)
    return detector


EXPECTED = {
    "retinanet": {"network": (("images",), ("scores", "deltas"))},
    "fcos": {"network": (("images",), ("scores", "deltas", "centerness"))},
    "faster_rcnn": {
        "network": (("images",), ("objectness", "deltas", "map0", "map1", "map2")),
        "boxes": (("map0", "map1", "map2", "rois"), ("scores", "deltas")),
    },
    "mask_rcnn": {
        "network": (("images",), ("objectness", "deltas", "map0", "map1", "map2")),
        "boxes": (("map0", "map1", "map2", "rois"), ("scores", "deltas")),
        "masks": (("map0", "map1", "map2", "rois", "labels"), ("masks",)),
    },
}


@pytest.mark.parametrize("head", HEADS)
def test_parts_have_names_and_leave_the_detector_as_it_was(head):
    detector = narrow(head)
    before = list(detector.state_dict())
    parts = detector.parts()
    assert {name: (part.inputs, part.outputs) for name, part in parts.items()} == EXPECTED[head]
    assert not any(part.training for part in parts.values())
    assert list(detector.state_dict()) == before
    assert all(part.training for part in detector.train().parts().values())


def test_more_strides_give_more_maps():
    part = narrow("faster_rcnn", strides=(4, 8, 16, 32)).parts()["boxes"]
    assert part.inputs == ("map0", "map1", "map2", "map3", "rois")


def some_regions(number: int = 200) -> torch.Tensor:
    """Of all sizes, from points to the whole of images of 256 x 320 pixels, and some exactly between two maps."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1, (number, 2)) * [320, 256]
    sides = 2 ** rng.uniform(-3, 9, (number, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).clip(0, [320, 256, 320, 256])
    boxes[:5] = [[0, 0, 320, 256], [5, 5, 5, 5], [8, 8, 120, 120], [320, 0, 320, 256], [10, 20, 234, 244]]
    numbers = rng.integers(0, 2, (number, 1))
    return torch.from_numpy(np.concatenate([numbers, boxes], axis=1).astype(np.float32))


@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8, 16, 32), (16, 32), (32,)], ids=str)
def test_regions_are_pooled_as_torchvision_does(strides):
    maps = [torch.randn(2, 3, 256 // stride, 320 // stride) for stride in strides]
    rois = some_regions()
    names = [str(place) for place in range(len(maps))]
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(2)]
    by_name = OrderedDict(zip(names, maps, strict=True))
    expected = MultiScaleRoIAlign(names, 7, 2)(by_name, boxes, [(256, 320)] * 2)
    ours = pooled(maps, rois, strides, 7)
    torch.testing.assert_close(torch.cat([ours[rois[:, 0] == image] for image in range(2)]), expected)


def test_pooling_is_exported_for_any_number_of_regions_each_looked_at_once():
    class Pooling(torch.nn.Module):
        def forward(self, fine, coarse, rois):
            return pooled([fine, coarse], rois, (8, 16), 7)

    maps, rois = [torch.randn(2, 3, 32, 40), torch.randn(2, 3, 16, 20)], some_regions()
    shapes = ({}, {}, {0: torch.export.Dim("regions", min=1)})
    program = torch.export.export(Pooling(), (*maps, rois), dynamic_shapes=shapes, strict=False)
    for some in (rois, rois[:1], rois[:0], rois[2:3]):
        torch.testing.assert_close(program.module()(*maps, some), pooled(maps, some, (8, 16), 7))
    looks = [node for node in program.graph.nodes if "roi_align" in str(node.target)]
    assert len(looks) == 2
    assert all("u" in str(node.meta["val"].shape[0]) for node in looks), "only as many as the level has"


def test_short_floats_give_nearly_the_same_answers():
    detector, images = narrow("faster_rcnn", max_detections=5), torch.randn(1, 3, 64, 64)
    (exact,) = detector(images)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        (short,) = detector(images)
    assert {name: tensor.dtype for name, tensor in short.items()} == {n: t.dtype for n, t in exact.items()}
    np.testing.assert_allclose(short["scores"][0], exact["scores"][0], atol=0.02)


# ---------------------------------------------------------------- parts in other engines


def examples(detector) -> dict[str, tuple[torch.Tensor, ...]]:
    """Inputs for each part: two images and seven regions."""
    images, rois, labels = torch.randn(2, 3, 64, 96), some_regions(7), torch.arange(7) % CLASSES + 1
    rois[:, 1:] /= 4
    with torch.no_grad():
        maps = detector.parts()["network"](images)[2:]
    inputs = {"network": (images,), "boxes": (*maps, rois), "masks": (*maps, rois, labels)}
    return {name: inputs[name] for name in detector.parts()}


class OnnxEngine:
    """A detector in ONNX Runtime, its axes of images and regions free; other parts than `only` stay in torch."""

    def __init__(self, detector, folder: Path, only: str | None = None):
        import onnxruntime

        self.sessions, self.detector = {}, detector
        for name, example in examples(detector).items():
            if name != (only or name):
                continue
            part = detector.parts()[name]
            axes = [{0: "regions" if one in ("rois", "labels") else "images"} for one in part.inputs]
            shapes = tuple({axis: torch.export.Dim(of) for axis, of in one.items()} for one in axes)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # axes of equal lengths share one name
                torch.onnx.export(
                    part, example, folder / f"{name}.onnx", dynamo=True, external_data=False, opset_version=20,
                    dynamic_shapes=shapes if len(shapes) == 1 else (shapes,),
                    input_names=part.inputs, output_names=part.outputs,
                )  # fmt: skip
            self.sessions[name] = onnxruntime.InferenceSession(folder / f"{name}.onnx")
            assert [output.name for output in self.sessions[name].get_outputs()] == list(part.outputs)

    def run(self, part, inputs):
        if part not in self.sessions:
            return self.detector.run(part, inputs)
        session = self.sessions[part]
        names = [given.name for given in session.get_inputs()]
        return session.run(None, {name: np.asarray(array) for name, array in zip(names, inputs, strict=True)})


class OpenVinoEngine:
    """Every part of a detector in OpenVINO, converted from torch."""

    def __init__(self, detector, _folder: Path):
        import openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # OpenVINO's converter still traces
            self.models = {
                name: openvino.compile_model(
                    openvino.convert_model(detector.parts()[name], example_input=example),
                    "CPU",
                    {"INFERENCE_PRECISION_HINT": "f32"},
                )
                for name, example in examples(detector).items()
            }

    def run(self, part, inputs):
        results = self.models[part](list(inputs))
        return [results[place] for place in range(len(results))]


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("engine", [OnnxEngine, OpenVinoEngine])
def test_other_engines_find_the_same(head, engine, tmp_path):
    detector = narrow(head, max_detections=20)
    assert_finds_the_same(engine(detector, tmp_path), detector)


def test_the_second_stage_in_onnx_finds_the_same(tmp_path):
    detector = narrow("faster_rcnn", max_detections=20)
    assert_finds_the_same(OnnxEngine(detector, tmp_path, only="boxes"), detector)


def assert_finds_the_same(engine, detector):
    """One network for one image and for three, and for a single region."""
    for number in (1, 3):
        images = torch.randn(number, 3, 64, 96, generator=torch.Generator().manual_seed(number)).numpy()
        for most in (20, 1):
            spec = replace(detector.spec, max_detections=most)
            for ours, expected in zip(detect(spec, engine, images), detect(spec, detector, images), strict=True):
                assert len(expected["scores"]) == most
                for name, array in expected.items():
                    np.testing.assert_allclose(ours[name], array, rtol=1e-4, atol=1e-4, err_msg=name)
