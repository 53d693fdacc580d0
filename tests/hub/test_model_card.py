"""Cards and what is cut out of them."""

from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml

from dualtoken.errors import ConfigError, ModelError, OutputError
from dualtoken.hub import model_card, portable
from dualtoken.lab.ship import rounded, ship
from dualtoken.model_folder import ModelConfig, build_model, load_config, read_weights, save_model, write_tensors
from dualtoken.preprocess import Preprocessing

SMALL = {"channels": [16, 32, 64], "depths": [1, 1, 1], "heads": [1, 2, 4], "neck": 32}
MEASURED = {"value": 0.5, "low": 0.4, "high": 0.6}
FIGURES = {
    "classification": "top1", "detection": "ap", "instance_segmentation": "mask_ap", "semantic_segmentation": "miou",
}  # fmt: skip


def config_of(task: str, **more) -> ModelConfig:
    metrics = {"split": "val", "images": 1234, "interval": "bootstrap", FIGURES[task]: MEASURED, "unknown": 3}
    return ModelConfig("dualtoken_vit_t_mix", ("cat", "dog"), Preprocessing((64, 96)), task=task,
                       **({"metrics": metrics} | more))  # fmt: skip


@pytest.fixture
def weights(tmp_path) -> Path:
    write_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(1000, 500), "b": torch.zeros(1)}, {"format": "pt"})
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("task", FIGURES)
def test_the_hub_understands_the_header_of_every_task(task, weights):
    text = model_card(config_of(task), weights, name="pets", address="hf-hub:anna/pets", license="mit")
    card = huggingface_hub.ModelCard(text)
    assert card.data.license == "mit"
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_split) == (50.0, "val")
    assert "50.0 % (40.0 to 60.0)" in text
    assert "1,234 images" in text
    assert "64 x 96 pixels, 0.50 M numbers in float32, 2.0 MB" in text
    assert 'dualtoken.load("hf-hub:anna/pets")' in text
    assert ("timm.create_model" in text) == (task == "classification")


def test_what_is_not_known_is_not_claimed(weights):
    text = model_card(config_of("classification", metrics={}), weights, name="pets")
    header = yaml.safe_load(text.split("---")[1])
    assert "license" not in header
    assert "model-index" not in header
    for said in ("It was not measured.", "Its author did not record it.", "Not stated by its author"):
        assert said in text
    assert "chose the epoch" not in text


def test_who_taught_it_and_on_what_is_told(weights):
    learned = {
        "teachers": [{"name": "large.onnx", "key": "0123abcd"}],
        "data": {"sets": ["a.zip: 5 images, no labels"]},
    }
    text = model_card(config_of("classification", provenance=learned), weights, name="small")
    assert "- Its teacher: `large.onnx` (digest `0123abcd`)." in text
    assert "- Learned from images of a.zip: 5 images, no labels." in text
    assert "licences of its teachers and images" in text
    assert "teacher" not in model_card(config_of("classification"), weights, name="small")


def test_many_classes_are_not_all_listed(weights):
    many = ModelConfig("x", tuple(f"c{n}" for n in range(150)), Preprocessing())
    text = model_card(many, weights, name="x")
    assert "150: c0, c1" in text
    assert "c99, and 50 more" in text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("dualtoken train /home/al/pets.zip --model /work/runs/a", "dualtoken train pets.zip --model a"),
        ("dualtoken train --data=/home/al/pets", "dualtoken train --data=pets"),
        (r"dualtoken train C:\Users\al\pets --output D:\runs\x", "dualtoken train pets --output x"),
        ("dualtoken train ../shared/data/pets ~/more ~al/other", "dualtoken train pets more other"),
        ("/home/Al Bundy/my runs/pets", "pets"),
        (
            "dualtoken train photos/cats --model hf-hub:anna/pets",
            "dualtoken train photos/cats --model hf-hub:anna/pets",
        ),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("--set scale=[0.5,1.0] --lr 5e-4", "--set scale=[0.5,1.0] --lr 5e-4"),
        (f"dualtoken train {Path.home()}/x/y", "dualtoken train y"),
    ],
)
def test_paths_are_cut_and_the_rest_stays(text, left):
    config = ModelConfig("x", ("a",), Preprocessing(), provenance={"command": text, "more": [{"deep": text}], "n": 1})
    assert portable(config).provenance == {"command": left, "more": [{"deep": left}], "n": 1}
    assert config.provenance["command"] == text


# ---------------------------------------------------------------- what is shipped


@pytest.fixture
def run(tmp_path) -> Path:
    torch.manual_seed(0)
    first = config_of("classification", model_args=SMALL, provenance={"command": "dualtoken train /x/first"})
    save_model(build_model(first), first, tmp_path / "first")
    second = config_of(
        "classification", model_args=SMALL,
        provenance={"command": "dualtoken train /x/second", "fine_tuned_from": str(tmp_path / "first")},
    )  # fmt: skip
    save_model(build_model(second), second, tmp_path / "second")
    return tmp_path / "second"


def test_shipping_halves_the_weights_and_tells_where_they_come_from(run, tmp_path):
    folder = ship(run, tmp_path / "shipped")
    for name, tensor in read_weights(run / "model.safetensors").items():
        small = read_weights(folder / "model.safetensors")[name]
        assert small.dtype == (torch.float16 if tensor.is_floating_point() else tensor.dtype)
        torch.testing.assert_close(small.to(tensor.dtype), tensor, rtol=1e-3, atol=1e-6)
    provenance = load_config(folder).provenance
    assert provenance["earlier"] == [{"name": "first", "command": "dualtoken train first"}]
    assert provenance["fine_tuned_from"] == "first"
    assert "`dualtoken train first`" in (folder / "README.md").read_text()
    with pytest.raises(OutputError, match="not empty"):
        ship(run, folder)


def test_shipping_measures_what_it_ships(run, tmp_path, make_image_folder):
    data = make_image_folder(splits=("train", "val"), size=64)
    folder = ship(run, tmp_path / "shipped", data=data, workers=0, resamples=10, progress=False)
    config = load_config(folder)
    facts = config.provenance["rounded"]
    assert facts["images"] == config.metrics["images"] == 8
    assert facts["top1"] == config.metrics["top1"]["value"]
    assert facts["nll"] != facts["nll_before"]  # two different sets of weights have answered
    assert facts["nll"] == pytest.approx(facts["nll_before"], abs=1e-3)
    card = (folder / "README.md").read_text()
    assert f"{facts['changed']} get another prediction" in card
    assert f"On 8 images, split `val` of `{data.name}`" in card


def test_what_cannot_be_shipped(tmp_path):
    with pytest.raises(ModelError, match="'big' holds numbers that float16 cannot"):
        rounded({"small": torch.ones(2), "big": torch.tensor([1e6])})
    scenes = config_of("semantic_segmentation", head="fpn", model_args=SMALL)
    save_model(build_model(scenes), scenes, tmp_path / "scenes")
    with pytest.raises(ConfigError, match="measures classifiers"):
        ship(tmp_path / "scenes", tmp_path / "out", data="x")
    assert not (tmp_path / "out").exists()
