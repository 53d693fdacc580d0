"""What `dualtoken throughput` measures, and what it makes of it."""

import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from dualtoken.cli import app
from dualtoken.data.loading import ImageDataset
from dualtoken.errors import ConfigError
from dualtoken.training.throughput import ENOUGH, Throughput, throughput

FOUND = Throughput(
    {"read": 900.0, "decode": 80.0, "augment": 300.0, "load": 60.0, "train": 200.0, "run": 58.0},
    waiting=0.7, workers=1, batch_size=16, image_size=(96, 128), pixels=12_000_000, bytes=3_000_000,
    bottleneck="decode",
)  # fmt: skip
SMALL = {"model": "dualtoken_vit_t_mix", "image_size": 32, "batch_size": 2, "workers": 0, "seconds": 0.01}


def measured(make_image_folder, **settings):
    return throughput(make_image_folder(classes=("cat", "dog"), per_class=6), **SMALL | settings)


def test_each_stage_has_a_rate_and_nothing_is_written(make_image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make_image_folder(classes=("cat", "dog"), per_class=6)
    before = sorted(tmp_path.rglob("*"))
    found = throughput(data, **SMALL)
    assert list(found.rates) == ["read", "decode", "augment", "load", "train", "run"]
    assert all(rate > 0 for rate in found.rates.values())
    assert 0 <= found.waiting <= 1
    assert (found.batch_size, found.image_size, found.workers) == (2, (32, 32), 0)
    assert found.pixels > 0
    assert found.bytes > 0
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_slow_is_found(make_image_folder, monkeypatch):
    augmented = ImageDataset.__getitem__

    def slowly(self, key):
        time.sleep(0.3)
        return augmented(self, key)

    monkeypatch.setattr(ImageDataset, "__getitem__", slowly)
    found = measured(make_image_folder)
    assert found.waiting > ENOUGH
    assert found.bottleneck == "augment"


@pytest.mark.parametrize(
    ("bottleneck", "waiting", "advice"),
    [
        ("train", 0.02, "waits for images 2% of its time: the network is the bottleneck"),
        ("read", 0.7, "Pack them into shards"),
        ("decode", 0.7, "they have 12.0 million pixels, the network sees 96 x 128"),
        ("augment", 0.7, "rand_augment=null"),
    ],
)
def test_the_sentence_says_what_to_do(bottleneck, waiting, advice):
    found = replace(FOUND, bottleneck=bottleneck, waiting=waiting)
    assert advice in found.sentence()
    assert found.summary().endswith(found.sentence())
    assert found.to_dict()["sentence"] == found.sentence()


def test_settings_are_those_of_train(make_image_folder):
    with pytest.raises(ConfigError, match="batch_sise"):
        measured(make_image_folder, batch_sise=3)


def test_on_the_command_line(make_image_folder):
    data = str(make_image_folder(classes=("cat", "dog"), per_class=6))
    small = ["--model", "dualtoken_vit_t_mix", "--image-size", "32", "--batch-size", "2", "--workers", "0"]
    shown = CliRunner().invoke(app, ["throughput", data, "--seconds", "0.01", *small])
    assert shown.exit_code == 0, shown.output
    assert "Batches of 2, 32 x 32 pixels" in shown.output
    assert "A run waits for images" in shown.output
