"""What a run will take, measured by a few steps that leave it alone."""

import pytest
import torch

from dualtoken.training import forecast
from dualtoken.training.run import rehearsed

SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 1], "heads": [1, 2, 2], "neck": 16}


@pytest.fixture
def loop(make_image_folder):
    data = make_image_folder(classes=("cat", "dog"), per_class=20)
    settings = {"model_args": SMALL, "image_size": 32, "batch_size": 4, "workers": 0, "epochs": 1}
    loop = rehearsed(data, recipe="smoke", **settings)
    assert loop.batches > forecast.TRIAL_STEPS + 2
    return loop


@pytest.mark.parametrize(("seconds", "steps"), [(60, forecast.TRIAL_STEPS + 2), (0, 2)], ids=["quick", "slow"])
def test_slow_steps_are_tried_less_often(loop, monkeypatch, seconds, steps):
    taken = []
    loss = loop.task.loss
    monkeypatch.setattr(loop.task, "loss", lambda *given: taken.append(1) or loss(*given))
    monkeypatch.setattr(forecast, "TRIAL_SECONDS", seconds)
    before = {name: tensor.clone() for name, tensor in loop.bare.state_dict().items()}
    measured = forecast.measure(loop)
    assert len(taken) == steps
    assert measured.batch_seconds > 0
    assert measured.validation_seconds > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in loop.bare.state_dict().items())
