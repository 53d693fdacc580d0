"""What a run's network is made of: tokens are reduced by two settings, from the weights of the whole network."""

import pytest
import torch

from dualtoken.backbone import create_model
from dualtoken.data import find_data
from dualtoken.errors import ConfigError
from dualtoken.model_folder import ModelConfig, build_model, save_model
from dualtoken.preprocess import Preprocessing
from dualtoken.training.config import TrainConfig
from dualtoken.training.network import make_network
from dualtoken.training.run import make_task

VIT = "vit_tiny_patch16_224"
SMALL = {"embed_dim": 16, "num_heads": 2, "depth": 4, "img_size": [64, 64]}


@pytest.fixture
def make(image_folder):
    def make(**settings):
        config = TrainConfig(**{"model": VIT, "image_size": (64, 64), "task": "classification"} | settings)
        images = find_data(image_folder, task="classification", val_fraction=0.25)
        return make_network(config, make_task(config, images), images)

    return make


@pytest.mark.parametrize("reduction", ["evit", "sit"])
def test_reduced_by_two_settings_from_the_whole_networks_weights(make, image_folder, tmp_path, reduction):
    classes = find_data(image_folder, task="classification", val_fraction=0.25).classes
    whole = create_model(VIT, num_classes=len(classes), **SMALL)
    save_model(whole, ModelConfig(VIT, classes, Preprocessing((64, 64)), model_args=SMALL), tmp_path / "whole")
    model, description = make(model=str(tmp_path / "whole"), reduction=reduction, keep=0.5)
    assert description.model_args == SMALL | {"reduction": reduction, "keep": 0.5}
    for name, weight in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert (set(model.state_dict()) > set(whole.state_dict())) == (reduction == "sit")
    assert build_model(description).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": 0.5}, "no tokens are reduced"),
        ({"reduction": "evitt"}, "Did you mean 'evit'"),
        ({"reduction": "evit", "model": "dualtoken_vit_t_mix"}, "expected a plain vision transformer"),
    ],
)
def test_mistakes(make, settings, said):
    with pytest.raises(ConfigError) as error:
        make(**settings)
    assert said in f"{error.value} {error.value.hint}"
