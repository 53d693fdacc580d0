"""A frozen backbone computes its features once; what comes out is a whole model."""

import pytest
import torch

import dualtoken
from dualtoken.errors import ConfigError
from dualtoken.model_folder import load_model

SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 1], "heads": [1, 2, 2], "neck": 16}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr("dualtoken.evaluation.reports.write_training_report", lambda *args, **options: None)


@pytest.fixture
def data(make_image_folder):
    return make_image_folder(classes=("cat", "dog", "emu"), per_class=8)


def train(data, output, **settings):
    return dualtoken.train(
        data,
        output,
        **{
            "recipe": "probe",
            "model": "dualtoken_vit_t_mix",
            "model_args": SMALL,
            "image_size": 32,
            "workers": 0,
            "batch_size": 8,
        }
        | settings,
    )


@pytest.fixture
def passes(monkeypatch):
    """How many images went through the backbone, batch by batch."""
    from dualtoken.backbone.dualtoken import DualTokenViT

    seen = []
    forward = DualTokenViT.forward_features

    def counting(self, images):
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(DualTokenViT, "forward_features", counting)
    return seen


def test_a_closed_form_is_a_whole_model_that_has_learned(data, tmp_path):
    result = train(data, tmp_path / "run")
    assert result.metrics["top1"]["value"] > 0.5  # colours tell the classes: 1 in 3 by chance
    model, config = load_model(result.folder)
    assert config.classes == ("cat", "dog", "emu")
    assert config.temperature != 1.0  # calibrated
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_features_are_computed_once(data, tmp_path, passes):
    train(data, tmp_path / "run", solver="steps", epochs=30)
    # four views of the training images, val for training, for the calibration and for the cost
    assert sum(passes) < 24 * 4 + 3 * 24


def test_it_repeats_bit_for_bit(data, tmp_path):
    def weights(epochs, name):
        train(data, tmp_path / name, solver="steps", epochs=epochs, lr=0.01)
        return load_model(tmp_path / name)[0].state_dict()

    first, second = weights(3, "a"), weights(3, "b")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_backbone_stays(data, tmp_path):
    train(data, tmp_path / "a")
    train(data, tmp_path / "b", solver="steps", epochs=2)
    first, second = (load_model(tmp_path / name)[0].state_dict() for name in "ab")
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize("settings", [{"freeze": "none"}, {"mixup": 0.2}])
def test_a_closed_form_needs_features(data, tmp_path, settings):
    with pytest.raises(ConfigError, match="closed"):
        train(data, tmp_path / "run", **settings)
