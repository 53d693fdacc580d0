"""The model that comes with the package: it is whole, says what it is, and answers wherever a model is taken."""

import hashlib
import json
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from fake_hub import network_for_training
from PIL import Image
from typer.testing import CliRunner

import dualtoken
from conftest import invent_image
from dualtoken.cli import app
from dualtoken.errors import ConfigError, MissingExtraError, ModelError
from dualtoken.hub import BUNDLED, DEFAULT, bundled, bundled_folder, find_model
from dualtoken.lab.ship import card_of
from dualtoken.model_folder import WEIGHTS, load_config, read_weights
from dualtoken.prediction.command import split_model

CIFAR = "dualtoken-vit-t-cifar10"
PACKAGE = Path(dualtoken.__file__).parent
ROOT = PACKAGE.parents[1]


@pytest.mark.parametrize("name", BUNDLED)
def test_its_weights_are_the_ones_of_the_source_and_small(name):
    weights = bundled_folder(name) / WEIGHTS
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == BUNDLED[name].sha256
    assert weights.stat().st_size < 15e6
    kinds = {tensor.dtype for tensor in read_weights(weights).values() if tensor.is_floating_point()}
    assert kinds == {torch.float16}


@pytest.mark.parametrize("name", BUNDLED)
def test_its_card_is_made_from_its_folder(name):
    folder = bundled_folder(name)
    assert (folder / "README.md").read_text(encoding="utf-8") == card_of(load_config(folder), folder, name)


@pytest.mark.parametrize("name", BUNDLED)
def test_it_holds_no_path_of_the_machine_that_made_it(name):
    folder = bundled_folder(name)
    for file in ("config.json", "README.md"):
        text = (folder / file).read_text(encoding="utf-8")
        assert not re.findall(r"(?<![\w.:/])(?:~|[A-Z]:\\|/)(?:work|home|root|tmp|Users|mnt)\b", text)


def test_the_wheel_takes_it_and_gits_list_does_not_leave_it_out():
    assert 'packages = ["src/dualtoken"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").split()  # hatch leaves out what git does
    parts = {part for path in bundled_folder(CIFAR).iterdir() for part in path.relative_to(ROOT).parts}
    assert not [part for part in parts for pattern in patterns if fnmatch(part, pattern.strip("/"))]


def test_it_answers_by_name_and_stays_itself_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = dualtoken.load(CIFAR, device="cpu")
    assert model.name == CIFAR
    assert len(model.classes) == 10
    answer = model.predict(invent_image(0, 0))
    assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)
    network = timm.create_model(f"local-dir:{bundled_folder(CIFAR)}", pretrained=True).eval()
    pixels = model.config.preprocessing(invent_image(0, 0))[None]
    with torch.inference_mode():
        theirs = network(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(model.forward(pixels), theirs, atol=1e-5)


def test_damaged_or_missing_weights_are_refused(tmp_path, monkeypatch):
    shutil.copytree(bundled_folder(CIFAR), tmp_path / CIFAR)
    monkeypatch.setattr(bundled, "_PRETRAINED", tmp_path)
    assert find_model(CIFAR) == tmp_path / CIFAR
    with (tmp_path / CIFAR / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(ModelError, match="are not those that this version came with"):
        dualtoken.load(CIFAR)
    (tmp_path / CIFAR / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"model.safetensors is missing from this installation"):
        dualtoken.load(CIFAR)


def test_a_users_folder_of_that_name_goes_first_if_it_holds_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(CIFAR).mkdir()
    assert find_model(CIFAR) == bundled_folder(CIFAR)  # empty: not a model
    (Path(CIFAR) / "config.json").write_text("{}")
    assert find_model(CIFAR) == Path(CIFAR)
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        dualtoken.load(CIFAR)


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"dualtoken\[train\]"):
        dualtoken.load(CIFAR)


# ---------------------------------------------------------------- dualtoken predict, without a model's name


@pytest.mark.parametrize(
    ("arguments", "model", "inputs"),
    [
        (["photo.jpg"], None, ["photo.jpg"]),
        (["a.JPG", "b.png"], None, ["a.JPG", "b.png"]),
        (["-"], None, ["-"]),
        (["photos/*.jpg", "more.zip"], None, ["photos/*.jpg", "more.zip"]),
        (["images"], None, ["images"]),
        (["runs/photos", "photo.jpg"], "runs/photos", ["photo.jpg"]),
        (["images", "photo.jpg"], "images", ["photo.jpg"]),
        (["model.onnx", "a.jpg", "b.jpg"], "model.onnx", ["a.jpg", "b.jpg"]),
        ([CIFAR, "photo.jpg"], CIFAR, ["photo.jpg"]),
        (["hf-hub:anna/pets", "photo.jpg"], "hf-hub:anna/pets", ["photo.jpg"]),
    ],
)
def test_what_is_a_model_and_what_an_input(arguments, model, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    assert split_model(arguments) == (model, inputs)


@pytest.mark.parametrize("model", ["model.onnx", CIFAR, "hf-hub:anna/pets", "run"])
def test_a_model_alone_has_nothing_to_answer(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.json").write_text("{}")
    with pytest.raises(ConfigError, match="INPUT is missing"):
        split_model([model])


def test_predict_without_a_model_says_which_one_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invent_image(1, 1).save(tmp_path / "photo.jpg")
    Image.new("RGB", (20, 10)).save(tmp_path / "other.png")
    (tmp_path / DEFAULT).mkdir()  # a stray folder does not stand in the way
    shown = CliRunner().invoke(app, ["predict", "photo.jpg", "other.png", "--json", "--workers", "0"])
    assert shown.exit_code == 0, shown.stderr
    knows = f"which comes with the package and knows {BUNDLED[DEFAULT].knows}"
    assert shown.stderr.strip() == f"Model    {DEFAULT}, {knows}"
    answers = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [answer["path"] for answer in answers] == ["photo.jpg", "other.png"]


# ---------------------------------------------------------------- wherever a model folder is taken


def test_it_is_evaluated_and_fine_tuned(make_image_folder):
    data = make_image_folder(classes=("cat", "dog"), per_class=4)
    evaluation = dualtoken.evaluate(CIFAR, data, workers=0, resamples=10, device="cpu", progress=False)
    assert evaluation.n == 8
    network, config = network_for_training(CIFAR, data)
    assert config.provenance["fine_tuned_from"] == CIFAR
    assert config.classes == ("cat", "dog")
    own = network.state_dict()
    theirs = read_weights(bundled_folder(CIFAR) / WEIGHTS)
    fresh = {name for name in own if own[name].shape != theirs[name].shape}
    assert fresh == {"head.weight", "head.bias"}
    assert all(torch.equal(own[name], theirs[name].to(own[name].dtype)) for name in own.keys() - fresh)


def test_it_is_compared_and_benchmarked_by_name(make_image_folder):
    from dualtoken.export.check import load_reference, model_folder_of
    from dualtoken.lab.networks import Subject, build, find_subject

    data = make_image_folder(classes=("cat", "dog"), per_class=2)
    same = dualtoken.compare(CIFAR, bundled_folder(CIFAR), data, workers=0, resamples=10, progress=False)
    assert same.better_a == same.better_b == 0
    assert find_subject(CIFAR) == Subject(CIFAR, "folder")
    assert build(Subject(CIFAR, "folder"), 64)(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    assert model_folder_of(load_reference(CIFAR)) == bundled_folder(CIFAR)


def test_other_arguments_than_its_own_are_named(make_image_folder, monkeypatch):
    from dualtoken.training import config

    data = make_image_folder(classes=("cat", "dog"), per_class=4)
    made = config.TrainConfig
    monkeypatch.setattr(config, "TrainConfig", lambda **given: made(**given, model_args={"token_grid": 5}))
    with pytest.raises(ModelError) as error:
        network_for_training(CIFAR, data)
    assert error.value.message == (
        f"The weights of {CIFAR!r} do not fit: token_grid is 5, but it was trained without it."
    )
    assert "fresh weights" in error.value.hint


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("dualtoken-vit-cifar10", "no model folder 'dualtoken-vit-cifar10'. Did you mean 'dualtoken-vit-t-c", CIFAR),
        ("anna/pets", "no model folder 'anna/pets'", "hf-hub:anna/pets"),
        ("runs/phots", "Did you mean 'runs/photos'", "dualtoken train"),
        ("runs/other", "no model folder 'runs/other'", "dualtoken train"),
        ("nothing", "no model folder 'nothing'", CIFAR),
    ],
)
def test_an_unknown_model_has_a_nearest(name, message, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/photos").mkdir(parents=True)
    for file in ("config.json", WEIGHTS):
        (Path("runs/photos") / file).touch()
    with pytest.raises(ModelError) as error:
        dualtoken.load(name)
    assert message in error.value.message
    assert hint in error.value.hint
    with pytest.raises(ModelError) as pushed:
        dualtoken.push_to_hub(name, "anna/pets", dry_run=True)
    assert str(pushed.value) == str(error.value)


def test_training_and_verifying_know_the_names_of_the_package(make_image_folder, tmp_path):
    from dualtoken.export.check import load_reference

    data = make_image_folder(classes=("cat", "dog"), per_class=2)
    with pytest.raises(ModelError, match=f"Did you mean '{CIFAR}'"):
        dualtoken.train(data, tmp_path / "run", model="dualtoken-vit-cifar10")
    with pytest.raises(ModelError, match=f"Did you mean '{CIFAR}'"):
        load_reference("dualtoken-vit-cifar10")
