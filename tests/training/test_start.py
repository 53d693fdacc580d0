"""Which weights and recipe a run starts from, where nobody says."""

import numpy as np
import pytest
from PIL import Image

from dualtoken.errors import ConfigError
from dualtoken.hub import DEFAULT
from dualtoken.training import train
from dualtoken.training.recipes import load_recipe
from dualtoken.training.start import starting_point

CIFAR = "dualtoken-vit-t-cifar10"  # whose images have another size


def start(recipe=None, from_scratch=False, **settings):
    return starting_point(recipe, settings, fresh="auto", tuned="finetune", from_scratch=from_scratch)


@pytest.mark.parametrize(
    ("given", "recipe", "model"),
    [
        ({}, "finetune", DEFAULT),
        ({"epochs": 3}, "finetune", DEFAULT),
        ({"model": CIFAR}, "finetune", CIFAR),
        ({"model": "dualtoken_vit_t_mix"}, "auto", "dualtoken_vit_t_mix"),
        ({"model": "resnet18"}, "auto", "resnet18"),
        ({"from_scratch": True}, "auto", None),
        ({"from_scratch": True, "model": "resnet18"}, "auto", "resnet18"),
        ({"model_args": {"token_grid": 5}}, "auto", None),
        ({"recipe": "small"}, "small", None),
        ({"recipe": "imagenet_s_mix", "from_scratch": True}, "imagenet_s_mix", None),
    ],
)
def test_what_is_named_stays_and_the_rest_follows(given, recipe, model):
    chosen, settings = start(**given)
    assert (chosen, settings.get("model")) == (recipe, model)
    load_recipe(chosen, settings)


def test_weights_keep_the_size_that_they_know():
    assert start(model=CIFAR)[1]["image_size"] == (64, 64)
    assert start(model=CIFAR, image_size=96)[1]["image_size"] == 96
    assert "image_size" not in start()[1]  # the recipe has it
    same = starting_point(None, {"model": CIFAR}, fresh="detection", tuned="detection")
    assert same == ("detection", {"model": CIFAR})


@pytest.mark.parametrize("given", [{"model": DEFAULT}, {"recipe": "finetune"}, {"recipe": "probe"}])
def test_random_weights_and_others_at_once_are_refused(given):
    with pytest.raises(ConfigError, match="has learned"):
        start(from_scratch=True, **given)


def test_a_run_says_what_it_starts_from(make_image_folder, tmp_path, capsys):
    data = make_image_folder(classes=("cat", "dog"), per_class=4)
    train(data, tmp_path / "run", steps=1, image_size=32, batch_size=2, workers=0)
    said = f"Start       {DEFAULT}, which comes with the package; random weights: --from-scratch"
    assert said in capsys.readouterr().out
    assert f"model: {DEFAULT}\n" in (tmp_path / "run" / "train.yaml").read_text()


def test_random_weights_where_they_are_asked_for(make_image_folder, tmp_path, capsys):
    data = make_image_folder(classes=("cat", "dog"), per_class=4)
    train(data, tmp_path / "run", from_scratch=True, steps=1, image_size=32, batch_size=2, workers=0)
    assert "Start  " not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="from_scratch has no effect"):
        train(data, resume=tmp_path / "run", from_scratch=True)


def coloured(folder):
    """Two classes that a colour tells apart: any features do."""
    for split, count in (("train", 6), ("val", 3)):
        for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            for number in range(count):
                (folder / split / name).mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(number).integers(0, 40, (48, 48, 3))
                Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(
                    folder / split / name / f"{number}.png"
                )
    return folder


def test_a_fresh_classifier_begins_where_the_closed_form_ends(tmp_path, capsys):
    data = coloured(tmp_path / "data")
    settings = {"steps": 1, "lr": 1e-9, "image_size": 32, "batch_size": 4, "workers": 0, "ema_decay": 0.9}
    result = train(data, tmp_path / "run", **settings)
    assert "begins in closed form, with which 100.0% of 12 images are right" in capsys.readouterr().out
    assert result.metrics["top1"]["value"] == 1  # one step at no rate moves nothing: it was right before
    train(data, tmp_path / "more", model=str(tmp_path / "run"), **settings)
    assert "closed form" not in capsys.readouterr().out  # the classifier is no fresh one


def test_labels_that_exclude_none_have_no_closed_form(tmp_path, capsys):
    data = coloured(tmp_path / "data")
    named = {path: path.parent.name if path.stem != "0" else "red;blue" for path in data.rglob("*.png")}
    rows = [f"data/{path.relative_to(data)},{names},{path.parts[-3]}" for path, names in named.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["path,labels,split", *rows]))
    train(tmp_path / "labels.csv", tmp_path / "run", steps=1, image_size=32, batch_size=4, workers=0)
    said = capsys.readouterr().out
    assert f"Start       {DEFAULT}" in said
    assert "closed form" not in said
