"""Every recipe takes two steps on invented images, with its own network and head; small inputs, small batches."""

import json

import numpy as np
import pytest
from PIL import Image

import dualtoken
from dualtoken.errors import ConfigError
from dualtoken.hub import DEFAULT
from dualtoken.training.recipes import load_recipe, recipe_names

# At least one of each task is quick; the rest run with `pytest -m slow`.
QUICK = ("imagenet_t_mix", "ablation_none", "coco_retinanet_1x", "coco_mask_rcnn_1x", "ade20k_pspnet")
TASKS = {"detection": "detection", "segmentation": "semantic_segmentation"}  # of recipes that leave it to the labels


def scenes(root):
    """Four pictures with an outlined rectangle each, as COCO json and as masks."""
    for folder in ("coco/images", "masked/images", "masked/masks"):
        (root / folder).mkdir(parents=True)
    images, annotations = [], []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 60, (64, 64, 3), dtype=np.uint8)
        pixels[16:48, 16:48] = (200, 60, 40)
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 16:48] = 1
        name = f"{number}.png"
        for folder in ("coco", "masked"):
            Image.fromarray(pixels).save(root / folder / "images" / name)
        Image.fromarray(mask).save(root / "masked" / "masks" / name)
        images.append({"id": number, "file_name": name, "width": 64, "height": 64})
        ring = [16, 16, 48, 16, 48, 48, 16, 48]
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "bbox": [16, 16, 32, 32], "segmentation": [ring]}
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "red"}]}
    (root / "coco" / "instances.json").write_text(json.dumps(content))


@pytest.fixture
def data(make_image_folder, tmp_path):
    def of(task):
        if task == "classification":
            return make_image_folder(classes=("ant", "bee"), per_class=4)
        scenes(tmp_path)
        return tmp_path / ("masked" if task == "semantic_segmentation" else "coco")

    return of


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in recipe_names()]
)
def test_two_steps_of_every_recipe(name, data, tmp_path, monkeypatch):
    # What comes after the steps is the same for all recipes, and tested elsewhere.
    monkeypatch.setattr("dualtoken.training.run._finish", lambda *_: {})
    monkeypatch.setattr("dualtoken.training.run.say_plan", lambda *_: None)
    monkeypatch.setattr("dualtoken.training.run.measure", lambda *_: None)
    config = load_recipe(name)
    task = TASKS.get(name, config.task if config.task != "auto" else "classification")
    size = 32 if task == "classification" else 64
    result = dualtoken.train(
        data(task), tmp_path / "run", recipe=name, epochs=1, batch_size=2, image_size=size, images_per_split=4,
        val_fraction=0.25, warmup_epochs=0, workers=0, device="cpu", seed=0,
    )  # fmt: skip
    made = json.loads((result.folder / "config.json").read_text())
    assert made["architecture"] == ("dualtoken_vit_t_mix" if config.model == DEFAULT else config.model)
    assert made["dualtoken"]["task"] == task
    assert made["dualtoken"]["head"] == (config.head or made["dualtoken"]["head"])
    with (result.folder / "metrics.csv").open() as file:
        history = file.read().splitlines()
    assert len(history) == 2
    steps = ("0",) if config.solver == "closed" else ("1", "2")
    assert dict(zip(history[0].split(","), history[1].split(","), strict=True))["step"] in steps


def test_a_recipe_starts_from_its_base(tmp_path):
    base, made = load_recipe("imagenet"), load_recipe("ablation_grid_3")
    assert made.model == "dualtoken_vit_s_mix"
    assert made.model_args == {"token_grid": 3}
    assert made.model_copy(update={"model": base.model, "model_args": {}}) == base
    (tmp_path / "mine.yaml").write_text("base: other.yaml\nepochs: 7\n")
    (tmp_path / "other.yaml").write_text("base: short\nepochs: 9\nmixup: 0.3\n")
    mine = load_recipe(tmp_path / "mine.yaml")
    assert (mine.epochs, mine.mixup, mine.base_lr) == (7, 0.3, load_recipe("short").base_lr)


def test_ablations_are_what_their_names_say():
    from dualtoken.lab.study_plans import ABLATIONS

    switches = {f"ablation_{arm.name}": arm.settings["model_args"] for arm in ABLATIONS if arm.settings}
    for name in recipe_names():
        if name in switches:
            assert load_recipe(name).model_args == switches[name]
    missing = {name for name in switches if "weight" not in name} - set(recipe_names())
    assert not missing  # the weight is our choice, not an ablation of the paper


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: mine.yaml\n", "is the base of itself"),
        ("base: shrot\n", "Did you mean 'short'"),
        ("base: [short]\n", "expected a recipe's name"),
    ],
)
def test_a_wrong_base_is_named(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    assert said in str(error.value)
