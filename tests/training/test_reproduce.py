"""A run is repeated from its own folder, and told to be equal or not."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import dualtoken
from dualtoken.errors import DataError, ModelError
from dualtoken.training.reproduce import reproduce

SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 1], "heads": [1, 2, 2], "neck": 16}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr("dualtoken.evaluation.reports.write_training_report", lambda *args, **options: None)


@pytest.fixture
def data(make_image_folder):
    return make_image_folder(classes=("cat", "dog"), per_class=6)


@pytest.fixture
def run(data, tmp_path):
    settings = {"recipe": "smoke", "model_args": SMALL, "batch_size": 4, "workers": 0, "epochs": 2, "device": "cpu"}
    return dualtoken.train(data, tmp_path / "run", **settings, val_fraction=0.25).folder


def test_the_same_again_is_equal_and_a_changed_weight_is_not(run, data, tmp_path):
    repeated = reproduce(run, data, tmp_path / "again")
    assert repeated.difference == 0
    assert "equal: all weights" in repeated.summary()
    weights = load_file(run / "model.safetensors")
    name = max(weights, key=lambda key: weights[key].numel())
    weights[name] = weights[name] * 1.01
    save_file(weights, run / "model.safetensors", {"format": "pt"})
    far = reproduce(run, data, tmp_path / "third")
    assert far.difference == pytest.approx(0.01, rel=0.02)
    assert "not equal" in far.summary()


def test_files_that_changed_are_named(run, data, tmp_path):
    first, second, *_ = sorted(data.rglob("*.jpg"))
    with Image.open(first) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(first)
    with pytest.raises(DataError, match=rf"file is changed: .*{first.name}"):
        reproduce(run, data, tmp_path / "again")
    with pytest.raises(DataError, match=first.name):
        dualtoken.train(data, resume=run, limit_minutes=5)
    second.unlink()
    with pytest.raises(DataError, match=r"missing"):
        reproduce(run, data, tmp_path / "again")


def test_a_folder_that_is_no_run(tmp_path, data):
    with pytest.raises(ModelError, match="no finished run"):
        reproduce(tmp_path, data, tmp_path / "again")


def test_threads_are_as_they_were(run, data, tmp_path):
    before = torch.get_num_threads()
    reproduce(run, data, tmp_path / "again")
    assert torch.get_num_threads() == before
