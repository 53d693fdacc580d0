"""A detector, a decoder and a mixer that are added from here, without a change in the package, and then used."""

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

import dualtoken
from dualtoken.backbone.mixers import MIXERS
from dualtoken.cli import CHOICES
from dualtoken.decode import HEADS, HeadKind
from dualtoken.errors import ConfigError
from dualtoken.heads import DECODERS, DETECTORS, register_detector
from dualtoken.model_folder import ModelConfig, save_model
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks import TASKS, Network
from dualtoken.training.checks import check_settings
from dualtoken.training.config import TrainConfig

TINY = {"channels": [16, 16, 16], "depths": [1, 1, 1], "heads": [1, 1, 1], "neck": 16}
SMALL = Preprocessing((64, 64), 1.0, crop_mode="border")


def one_anchor(pyramid, spec):
    """RetinaNet with one size of anchors a level."""
    anchors = AnchorGenerator(spec.anchor_sizes, (spec.anchor_ratios,) * len(spec.anchor_sizes))
    head = RetinaNetHead(spec.channels, len(spec.anchor_ratios), spec.classes)
    return RetinaNet(pyramid, spec.classes, anchor_generator=anchors, head=head)


class Pooled(nn.Module):
    """The coarsest map, a class a position, enlarged."""

    def __init__(self, architecture, classes, in_chans=3, width=8, **args):
        super().__init__()
        self.encoder = dualtoken.create_model(architecture, features_only=True, out_indices=(4,), **args)
        self.head = nn.Sequential(nn.Conv2d(self.encoder.feature_info.channels()[0], width, 1), nn.ReLU(),
                                  nn.Conv2d(width, classes, 1))  # fmt: skip

    def forward(self, images):
        return nn.functional.interpolate(self.head(self.encoder(images)[0]), size=images.shape[-2:])


@pytest.fixture
def _registered(monkeypatch):
    kinds, built, decoders = dict(HEADS), dict(DETECTORS), dict(DECODERS)
    register_detector("one_anchor", HeadKind(dense=True), one_anchor)
    DECODERS["pooled"] = (Pooled, {})
    yield
    for table, before in ((HEADS, kinds), (DETECTORS, built), (DECODERS, decoders)):
        for name in set(table) - set(before):
            del table[name]


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("task", "head", "head_args"),
    [
        ("detection", "one_anchor", {"channels": 64}),
        pytest.param("semantic_segmentation", "pooled", {"width": 4}, marks=pytest.mark.slow),
    ],
)
def test_a_head_of_somebody_else_learns_predicts_and_is_exported(task, head, head_args, tmp_path):
    assert head in TASKS[task].heads
    assert head in CHOICES["head"]()
    check_settings(TrainConfig(task=task, head=head, head_args=head_args))
    wrong = {"chanels" if task == "detection" else "widht": 4}
    with pytest.raises(ConfigError, match="Did you mean"):
        check_settings(TrainConfig(task=task, head=head, head_args=wrong))

    model = TASKS[task].build(Network("test_resnet", 2, head, head_args, {}))
    if task == "detection":
        targets = [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}]
    else:
        targets = torch.zeros(1, 64, 64, dtype=torch.uint8)
    loss = TASKS[task](("a", "b")).loss(model.train(), torch.randn(1, 3, 64, 64), targets)
    loss.backward()
    assert loss > 0
    save_model(
        model,
        ModelConfig("test_resnet", ("a", "b"), SMALL, task=task, head=head, head_args=head_args, threshold=0.0),
        tmp_path / "model",
    )
    Image.effect_noise((48, 64), 80).convert("RGB").save(tmp_path / "photo.png")
    seen = dualtoken.load(tmp_path / "model").predict(tmp_path / "photo.png")
    assert seen.classes == ("a", "b")
    done = dualtoken.export(tmp_path / "model", tmp_path / "model.onnx", images=tmp_path / "photo.png", progress=False)
    assert done.parity.passed


def test_a_mixer_of_somebody_else_is_a_switch(monkeypatch):
    class Still(nn.Module):
        def __init__(self, config, stage, block, drop_path, device=None, dtype=None):
            super().__init__()

        def forward(self, x, g):
            return x, g

    with pytest.raises(ConfigError, match="Unknown mixer 'still'"):
        check_settings(TrainConfig(model_args={"mixer": "still"}))
    monkeypatch.setitem(MIXERS, "still", Still)
    check_settings(TrainConfig(model_args={"mixer": "still"}))
    network = dualtoken.create_model("dualtoken_vit_t_mix", mixer="still", num_classes=3, **TINY)
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 3)
