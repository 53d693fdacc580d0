"""Fetched weights are a person's own wish in training, and nothing that a model folder can ask for."""

import timm.models._builder

from dualtoken.data import find_data
from dualtoken.model_folder import build_model
from dualtoken.training.config import TrainConfig
from dualtoken.training.network import make_network
from dualtoken.training.run import make_task


def test_what_was_fetched_is_in_the_weights_and_not_in_the_config(image_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(timm.models._builder, "load_pretrained", lambda model, **options: asked.append(options))
    settings = {"model": "test_efficientnet", "model_args": {"pretrained": True}, "image_size": (64, 64)}
    config = TrainConfig(**settings, task="classification")
    images = find_data(image_folder, task="classification", val_fraction=0.25)
    _, description = make_network(config, make_task(config, images), images)
    assert len(asked) == 1
    assert description.model_args == {}
    build_model(description)
    assert len(asked) == 1
