"""Images of many bands and of other values than 8 bits, from training to the answer of an exported file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dualtoken
from dualtoken.bands import BandImage, Bands
from dualtoken.data import Objects, find_data, fix_bands, joint_transform, training_transform
from dualtoken.data.loading import seeded
from dualtoken.data.samples import Example
from dualtoken.errors import ConfigError, DataError, ImageError
from dualtoken.evaluation import evaluate
from dualtoken.images import DEFAULT_LIMITS
from dualtoken.preprocess import Preprocessing
from dualtoken.training.config import TrainConfig
from dualtoken.training.network import seeing

SETTINGS: dict[str, Any] = {"recipe": "smoke", "batch_size": 4, "workers": 0, "image_size": 32, "epochs": 1}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Reflectances of 5 bands from 0 to 10,000; the classes differ in the fourth alone."""
    rng = np.random.default_rng(0)
    for label, infrared in (("alive", 8000), ("dead", 1000)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(6):
            values = rng.integers(2000, 3000, (24, 32, 5))
            values[..., 3] = infrared + rng.integers(0, 500, (24, 32))
            np.save(tmp_path / "data" / label / f"{number}.npy", values.astype(np.uint16))
    return tmp_path / "data"


def train(data: Path, output: Path, **settings: Any) -> Any:
    return dualtoken.train(data, output, **SETTINGS | settings)


def test_bands_from_training_to_answers(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(data, tmp_path / "run", channels=[3, 0], rand_augment="rand-m5").folder
    said = capsys.readouterr().out
    assert "pixels: 3, 0 of 5 bands of uint16; values from 1," in said
    assert "rand_augment left out: for colours, and not for 2 bands" in said
    assert "3, 0 of 5 bands" in (run / "report.html").read_text(encoding="utf-8")
    own = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert own["pretrained_cfg"]["input_size"] == [2, 32, 32]
    assert own["dualtoken"]["bands"]["channels"] == [3, 0]
    predictor = dualtoken.load(run)
    evaluation = evaluate(run, data, split="val", output=tmp_path / "judged", progress=False)
    samples = find_data(data, bands=predictor.config.preprocessing.bands, progress=False).splits["val"]
    answers = predictor.predict([samples.path(row) for row in range(len(samples))])
    by_array = predictor.predict([np.load(samples.path(row)) for row in range(len(samples))])
    for one, other in zip(answers, by_array, strict=True):
        assert one.logits.tolist() == other.logits.tolist()
    assert [predictor.classes.index(one.label) for one in answers] == evaluation.images.predicted.tolist()
    assert "pixels: 3, 0 of 5 bands" in (tmp_path / "judged" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(ImageError, match="has 3 bands, expected 5"):
        predictor.predict(np.zeros((24, 32, 3), np.uint16))
    tuned = train(data, tmp_path / "tuned", model=str(run)).folder  # sees what the model saw
    assert json.loads((tuned / "config.json").read_text())["dualtoken"]["bands"] == own["dualtoken"]["bands"]


@pytest.mark.parametrize("way", [{"resident": True, "rand_augment": None}, {"freeze": "backbone"}])
def test_every_way_to_train_sees_bands(way: dict[str, Any], data: Path, tmp_path: Path) -> None:
    result = train(data, tmp_path / "run", channels="all", random_erasing=0, **way)
    assert dualtoken.load(result.folder).config.preprocessing.bands.stored == 5


def test_without_asking_arrays_are_no_pictures(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a numpy array, which is read for bands only \(--set channels=all\)"):
        train(data, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channels": [0, 9]}, "expected 0 to 4.*has 5 bands"),
        ({"channels": [-1]}, "whole numbers from 0"),
        ({"channels": list(range(17))}, "17 channels, expected 1 to 16"),
        ({"channels": "red"}, "expected whole numbers, such as"),
        ({"window": [5, 5]}, "two rising numbers"),
        ({"percentiles": [1, 101]}, "from 0 to 100"),
    ],
)
def test_impossible_bands_are_refused(settings: dict[str, Any], words: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        train(data, tmp_path / "run", **settings)


@pytest.mark.parametrize(
    ("asked", "percentiles", "ends"),
    [
        (Bands(channels=(3,)), None, (1000, 8500)),
        (Bands(channels=(3,)), (0.0, 100.0), (1000, 8500)),
        (Bands(low=(0,), high=(10_000,)), None, (0, 10_000)),
    ],
)
def test_the_window_is_fixed_by_the_training_images(asked: Bands, percentiles: Any, ends: Any, data: Path) -> None:
    images = find_data(data, bands=asked, progress=False)
    facts = fix_bands(images, percentiles, 0, DEFAULT_LIMITS)
    assert (min(facts.bands.low), max(facts.bands.high)) == pytest.approx(ends, abs=20)
    assert fix_bands(images, percentiles, 0, DEFAULT_LIMITS) == facts
    assert all(0 < mean < 1 for mean in facts.mean)
    assert len(facts.mean) == len(facts.std) == len(facts.bands.channels)


def test_images_of_other_bands_are_named(data: Path) -> None:
    np.save(data / "dead" / "9.npy", np.zeros((24, 32, 4), np.uint16))
    with pytest.raises(DataError, match=r"9\.npy' has 4 bands, expected 5"):
        find_data(data, bands=Bands(), progress=False)
    skipped = find_data(data, bands=Bands(), on_bad_image="skip", progress=False)
    assert len(skipped.bad_images) == 1


@pytest.mark.parametrize("bands", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"mosaic": 1.0}, {"copy_paste": 1.0}, {"color_jitter": 0.5, "hflip": 1.0}])
def test_bands_move_with_their_objects(bands: int, options: dict[str, float]) -> None:
    seen = Bands(bands, tuple(range(bands)), low=(0,) * bands, high=(255,) * bands)
    fitting = Preprocessing((32, 32), 1.0, "border", mean=(0.0,) * bands, std=(1.0,) * bands, bands=seen)
    values = np.zeros((32, 32, bands), np.uint8)
    values[8:16, 4:12] = 200
    ring = np.array([[4, 8], [12, 8], [12, 16], [4, 16]], np.float32)
    objects = Objects((32, 32), np.array([[4, 8, 12, 16]], np.float32), np.zeros(1, np.int64), np.zeros(1, bool),
                      np.array([64], np.float32), ((ring,),), ("",))  # fmt: skip
    example = Example(BandImage.of(values), objects)
    transform = joint_transform(fitting, scale=(1.0, 1.0), **options)
    with seeded(3):
        image, target = transform(example, lambda: example)
    assert image.shape == (bands, 32, 32)
    for left, top, right, bottom in target["boxes"].round().int().tolist():  # type: ignore[index,call-overload]
        inside = image[:, top + 1 : bottom - 1, left + 1 : right - 1]
        assert inside.numel() == 0 or inside.min() > 0.3


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_crops_of_bands_without_augmentation_are_what_evaluation_sees(bands: int) -> None:
    seen = Bands(bands, tuple(range(bands)), low=(0,) * bands, high=(255,) * bands)
    fitting = Preprocessing((16, 16), 1.0, mean=(0.5,) * bands, std=(0.25,) * bands, bands=seen)
    image = BandImage.of(np.random.default_rng(0).integers(0, 256, (24, 24, bands), np.uint8))
    transform = training_transform(fitting, scale=(1, 1), ratio=(1, 1), hflip=0, random_erasing=0.0)
    assert np.allclose(np.asarray(transform(image)), fitting(image), atol=1e-5)


def test_weights_for_colours_become_weights_for_bands() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(5, 4, 3))
    theirs = {"0.weight": torch.randn(4, 3, 3, 3), "0.bias": torch.zeros(4), "other": torch.zeros(4, 3, 1, 1)}
    adapted = seeing(theirs, model)
    assert torch.allclose(adapted["0.weight"][:, 3], theirs["0.weight"][:, 0] * 3 / 5)
    assert adapted["other"].shape == (4, 3, 1, 1)
    colours = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    assert seeing(theirs, colours) is theirs


def test_settings_name_bands() -> None:
    assert TrainConfig.from_settings({}).bands is None
    assert TrainConfig.from_settings({"channels": "all"}).bands == Bands()
    assert TrainConfig.from_settings({"window": [-1000, 400]}).bands == Bands(low=(-1000,), high=(400,))
    assert TrainConfig.from_settings({"pages": True}).bands == Bands(pages=True)


@pytest.mark.slow
def test_an_export_answers_as_its_model_does(data: Path, tmp_path: Path) -> None:
    from dualtoken.export import export

    run = train(data, tmp_path / "run", channels="all").folder
    result = export(run, tmp_path / "model.onnx", progress=False)
    assert result.parity.passed
    image = data / "dead" / "0.npy"
    mine, theirs = (dualtoken.load(model).predict(image) for model in (run, result.path))
    assert np.allclose(mine.probabilities, theirs.probabilities, atol=1e-5)
