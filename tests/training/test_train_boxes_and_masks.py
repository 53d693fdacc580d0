"""Whole runs on drawn boxes and masks: what is written, that it repeats and continues exactly, where it starts."""

import csv
import json
import os
import signal
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import dualtoken
from dualtoken import cli
from dualtoken.data import find_data
from dualtoken.errors import ConfigError, DataError, ModelError
from dualtoken.heads import body
from dualtoken.model_folder import load_model, read_weights, save_model
from dualtoken.outputs import Detections, Segmentation
from dualtoken.training.loop import Loop
from dualtoken.training.network import take_weights

COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220)}
QUICK = {
    "recipe": "smoke", "model_args": {"depths": [1, 1, 1]}, "image_size": 64, "batch_size": 4, "workers": 0,
    "epochs": 2, "lr": 1e-3, "val_fraction": 0.25, "device": "cpu",
}  # fmt: skip
PLAIN = QUICK | {"model": "test_resnet", "model_args": {}}  # where the backbone does not matter
NARROW = {"channels": 64, "score_threshold": 1e-4, "max_detections": 10}
EASY = {"hflip": 0.5, "mosaic": 0.5, "color_jitter": 0.2}
HEAD_ARGS = {"detection": NARROW, "instance_segmentation": NARROW, "semantic_segmentation": {}}
TASKS = list(HEAD_ARGS)
MASKS_SLOW = ["detection", pytest.param("instance_segmentation", marks=pytest.mark.slow), "semantic_segmentation"]


def draw_pictures(root: Path, names: tuple[str, ...] = tuple(COLOURS), count: int = 12) -> Path:
    """COCO json with outlines, and masks, of the same pictures: a coloured rectangle each, no object in each sixth."""
    for folder in ("images", "masks", "annotations"):
        (root / folder).mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 60, (40, 56, 3), dtype=np.uint8)
        mask = np.zeros((40, 56), np.uint8)
        if number % 6 != 5:
            label, (x, y) = number % 2, rng.integers(2, 18, 2).tolist()
            pixels[y : y + 20, x : x + 26] = list(COLOURS.values())[label]
            mask[y : y + 20, x : x + 26] = label + 1
            ring = [x, y, x + 26, y, x + 26, y + 20, x, y + 20]
            annotations.append(
                {"id": number, "image_id": number, "category_id": label, "bbox": [x, y, 26, 20], "segmentation": [ring]}
            )
        Image.fromarray(pixels).save(root / "images" / f"{number:02d}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:02d}.png")
        images.append({"id": number, "file_name": f"images/{number:02d}.png", "width": 56, "height": 40})
    categories = [{"id": place, "name": name} for place, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances.json").write_text(json.dumps(content))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in ("ground", *names)))
    return root


@pytest.fixture(scope="module", autouse=True)
def _look_once():
    """Which maps a backbone has is asked for every network, and takes seconds."""
    patch = pytest.MonkeyPatch()
    patch.setattr(body, "levels_of", lru_cache(body.levels_of))
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Leave the report out, the slowest part of a small run; the runs of `runs` have theirs."""
    if "runs" not in request.fixturenames:
        monkeypatch.setattr("dualtoken.evaluation.reports.write_training_report", lambda *args, **options: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("drawn") / "pictures")


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> dict[str, dualtoken.training.TrainResult]:
    """A run of each task, with our own network and a report."""
    return {
        task: dualtoken.train(
            data, tmp_path_factory.mktemp("runs") / task, task=task, head_args=HEAD_ARGS[task], **QUICK
        )
        for task in TASKS
    }


def train(data, output, task="detection", **settings):
    head_args = HEAD_ARGS.get(task, {})
    return dualtoken.train(data, output, **PLAIN | {"task": task, "head_args": head_args} | settings)


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "state.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def history(run) -> list[dict[str, str]]:
    """The rows of metrics.csv without the only figure that is a stopwatch's."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [row.pop("images_per_second") for row in rows]
    assert all(float(rate) > 0 for rate in rates if rate)
    assert any(rates)
    return rows


def config(run) -> dict:
    return json.loads((run / "config.json").read_text())


# ---------------------------------------------------------------- what a run leaves behind


@pytest.mark.parametrize("task", TASKS)
def test_a_run_is_a_model_folder_with_its_report(runs, task):
    run = runs[task].folder
    written = {path.name for path in run.iterdir()}
    assert written >= {"model.safetensors", "config.json", "train.yaml", "metrics.csv", "evaluation.json",
                       "report.html", "first_batch.jpg", "last"}  # fmt: skip
    assert not [path for path in run.rglob("*") if path.suffix in (".pt", ".pth", ".ckpt", ".pkl")]
    assert yaml.safe_load((run / "train.yaml").read_text())["task"] == task
    assert [row["epoch"] for row in history(run)] == ["1", "2"]
    page = (run / "report.html").read_text()
    assert "Training report" in page
    assert "worst: " in page
    with Image.open(run / "first_batch.jpg") as picture:
        assert min(picture.size) >= 400


@pytest.mark.parametrize(
    ("task", "head", "main"),
    [("detection", "retinanet", "ap"), ("instance_segmentation", "mask_rcnn", "mask_ap"),
     ("semantic_segmentation", "fpn", "miou")],
)  # fmt: skip
def test_the_config_says_what_it_is(runs, data, task, head, main):
    content = config(runs[task].folder)
    classes = ["ground", *COLOURS] if task == "semantic_segmentation" else list(COLOURS)
    assert (content["architecture"], content["label_names"]) == ("dualtoken_vit_t_mix", classes)
    assert content["model_args"] == {"depths": [1, 1, 1]}
    assert content["pretrained_cfg"]["input_size"] == [3, 64, 64]
    assert content["pretrained_cfg"]["crop_mode"] == "border"
    ours = content["dualtoken"]
    assert (ours["task"], ours["head"], ours["head_args"]) == (task, head, HEAD_ARGS[task])
    assert ours["metrics"].keys() >= {"split", "images", main}
    assert ours["metrics"] == json.loads(json.dumps(runs[task].metrics))
    assert ours["provenance"]["data"]["images"] == {"train": 9, "val": 3}
    evaluation = json.loads((runs[task].folder / "evaluation.json").read_text())
    assert evaluation["task"] == task
    assert evaluation[main] == ours["metrics"][main]
    assert 0 <= ours["threshold"] <= 1
    if task != "semantic_segmentation":
        assert ours["threshold"] == evaluation["threshold"]  # val is what both are about
    assert f"val_{main}" in history(runs[task].folder)[0]


@pytest.mark.parametrize("task", TASKS)
def test_it_answers_for_images_of_any_size(runs, task):
    predictor = dualtoken.load(runs[task].folder, device="cpu")
    answers = predictor.predict([Image.new("RGB", size, "red") for size in ((56, 40), (30, 90), (200, 10))])
    assert [answer.size for answer in answers] == [(40, 56), (90, 30), (10, 200)]
    assert all(isinstance(a, Segmentation if task == "semantic_segmentation" else Detections) for a in answers)


def answers_equal(a, b) -> bool:
    if isinstance(a, Segmentation):
        return np.array_equal(a.mask, b.mask) and np.array_equal(a.confidence, b.confidence)
    masks = a.masks is None or np.array_equal(a.full_masks(), b.full_masks())
    return masks and all(np.array_equal(getattr(a, key), getattr(b, key)) for key in ("boxes", "scores", "labels"))


@pytest.mark.parametrize("task", TASKS)
def test_saved_and_loaded_again_it_gives_equal_answers(runs, data, task, tmp_path):
    model, description = load_model(runs[task].folder)
    save_model(model, description, tmp_path / "copy")
    paths = sorted((data / "images").iterdir())[:3]
    first, second = (
        dualtoken.load(folder, device="cpu").predict(paths, threshold=0.0)
        for folder in (runs[task].folder, tmp_path / "copy")
    )
    assert all(answers_equal(one, other) for one, other in zip(first, second, strict=True))
    assert task == "semantic_segmentation" or all(map(len, first))
    assert config(tmp_path / "copy") == config(runs[task].folder)


def test_the_usual_evaluation_draws_the_same_val_and_finds_the_same(runs, data):
    for task in TASKS:
        again = dualtoken.evaluate(runs[task].folder, data, device="cpu", workers=0, progress=False)
        assert again.split == "val"
        assert again.headline() == runs[task].metrics


@pytest.mark.parametrize("task", ["instance_segmentation", "semantic_segmentation"])
def test_it_learns(data, tmp_path, task):
    settings = {"epochs": 15, "lr": 3e-3, "mosaic": 0, "zoom": (1, 1), "validate_every": 15, "batch_size": 3}
    result = train(data, tmp_path / "run", task, **settings)
    losses = [float(row["train_loss"]) for row in history(result.folder)]
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    main = {"instance_segmentation": "mask_ap50", "semantic_segmentation": "miou"}[task]
    assert result.metrics[main]["value"] > 0.4


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("detection", {"head": "fcos"}),
        ("detection", {"head": "faster_rcnn", "ema_decay": None}),
        ("detection", {"mosaic": 1.0, "color_jitter": 0.3, "accumulate": 2, "batch_size": 2}),
        ("instance_segmentation", {"copy_paste": 1.0, "mosaic": 0.5}),
        ("semantic_segmentation", {"head": "deeplabv3plus", "dice": 0.5, "label_smoothing": 0.1}),
        ("semantic_segmentation", {"image_size": (64, 96), "layer_decay": 0.7, "precision": "bf16-mixed"}),
    ],
)
def test_every_way_to_train(data, tmp_path, task, settings):
    if settings.get("head") == "deeplabv3plus":
        settings = settings | {"model": "dualtoken_vit_t_mix", "model_args": {"depths": [1, 1, 1]}}
    result = train(data, tmp_path / "run", task, **{"epochs": 1} | settings)
    assert float(history(result.folder)[0]["train_loss"]) > 0
    assert config(result.folder)["dualtoken"]["head"] == settings.get("head", dualtoken.tasks.TASKS[task].heads[0])


@pytest.mark.parametrize("task", TASKS)
def test_another_network_of_timm(data, tmp_path, task):
    result = train(data, tmp_path / "run", task, model="mobilenetv4_conv_small", epochs=1)
    assert config(result.folder)["architecture"] == "mobilenetv4_conv_small"
    answer = dualtoken.load(result.folder, device="cpu").predict(sorted((data / "images").iterdir())[0])
    assert answer.size == (40, 56)


def test_the_labels_decide_the_task_and_its_recipe(data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dualtoken.training.run._prepare", lambda images, limits, config, *_, **__: asked.append(config) or 1 / 0
    )
    plain = {key: value for key, value in PLAIN.items() if key in ("model", "workers", "device")}
    for settings in ({}, {"labels": "masks"}, {"labels": "coco"}, {"task": "instance_segmentation"}):
        with pytest.raises(ZeroDivisionError):
            dualtoken.train(data, tmp_path / "run", **plain | settings)
    assert [found.task for found in asked] == [
        "detection", "semantic_segmentation", "detection", "instance_segmentation"
    ]  # fmt: skip
    assert [found.image_size for found in asked] == [(416, 416), (384, 384), (416, 416), (416, 416)]
    assert [found.dice for found in asked] == [0, 0.5, 0, 0]


def test_a_test_split_is_what_is_measured_and_val_gives_the_threshold(data, tmp_path):
    for split, numbers in (("train", range(8)), ("val", (8, 9)), ("test", (10, 11))):
        content = json.loads((data / "annotations" / "instances.json").read_text())
        content["images"] = [image for image in content["images"] if image["id"] in numbers]
        content["annotations"] = [found for found in content["annotations"] if found["image_id"] in numbers]
        for image in content["images"]:
            image["file_name"] = Path(image["file_name"]).name
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
        for number in numbers:
            name = f"{number:02d}.png"
            (folder / name).write_bytes((data / "images" / name).read_bytes())
    result = train(tmp_path / "data", tmp_path / "run", head="faster_rcnn", epochs=4)
    assert (result.metrics["split"], result.metrics["images"]) == ("test", 2)
    predictor = dualtoken.load(result.folder, device="cpu")
    on_val = dualtoken.evaluate(predictor, tmp_path / "data", split="val", workers=0, progress=False)
    assert predictor.config.threshold == pytest.approx(on_val.settings["threshold"])


# ---------------------------------------------------------------- it repeats


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("detection", {"head": "faster_rcnn"}),
        pytest.param("instance_segmentation", {}, marks=pytest.mark.slow),
        ("semantic_segmentation", {}),
    ],
)
def test_same_seed_same_bits_and_another_seed_others(data, tmp_path, task, settings):
    settings = {"epochs": 1} | EASY | settings
    first, second, third = (
        train(data, tmp_path / name, task, seed=seed, **settings) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert same(weights(first.folder), weights(second.folder))
    assert history(first.folder) == history(second.folder)
    assert (first.folder / "first_batch.jpg").read_bytes() == (second.folder / "first_batch.jpg").read_bytes()
    assert not same(weights(first.folder), weights(third.folder))
    assert (first.folder / "first_batch.jpg").read_bytes() != (third.folder / "first_batch.jpg").read_bytes()


def test_workers_change_nothing(data, tmp_path):
    settings = EASY | {"epochs": 1}
    first, second = (train(data, tmp_path / str(workers), workers=workers, **settings) for workers in (0, 2))
    assert same(weights(first.folder), weights(second.folder))


def stop_after(monkeypatch, batches: int) -> None:
    """Send this process a real Ctrl-C after so many batches."""
    original, done = Loop._batch, [0]

    def batch(self, images, targets):
        moved = original(self, images, targets)
        done[0] += 1
        if done[0] == batches:
            os.kill(os.getpid(), signal.SIGINT)
        return moved

    monkeypatch.setattr(Loop, "_batch", batch)


@pytest.mark.parametrize("task", MASKS_SLOW)
def test_interrupted_and_resumed_equals_uninterrupted(data, tmp_path, monkeypatch, task):
    settings = EASY | {"batch_size": 2, "drop_path": 0.1}
    settings |= {"model": "dualtoken_vit_t_mix", "model_args": {"depths": [1, 1, 1]}}
    whole = train(data, tmp_path / "whole", task, **settings)
    with monkeypatch.context() as patched:
        stop_after(patched, 6)  # of 4 an epoch
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "part", task, **settings)
    assert len(history(tmp_path / "part")) == 1
    resumed = dualtoken.train(data, resume=tmp_path / "part")
    assert same(weights(whole.folder), weights(resumed.folder))
    assert history(whole.folder) == history(resumed.folder)
    assert same(load_file(whole.folder / "model.safetensors"), load_file(resumed.folder / "model.safetensors"))
    assert whole.metrics == resumed.metrics
    assert config(whole.folder)["dualtoken"]["threshold"] == config(resumed.folder)["dualtoken"]["threshold"]


def test_a_resumed_run_keeps_its_task_and_head(data, tmp_path):
    run = train(data, tmp_path / "run", epochs=1).folder
    for settings in (
        {"task": "instance_segmentation"},
        {"head": "fcos"},
        {"head_args": {"channels": 96}},
        {"mosaic": 1},
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} would change"):
            dualtoken.train(data, resume=run, **settings)


def test_resuming_on_other_labels_is_refused(data, tmp_path):
    own = draw_pictures(tmp_path / "pictures")
    run = train(own, tmp_path / "run", epochs=1).folder
    (run / "evaluation.json").unlink()  # as if it had been stopped before its end
    path = own / "annotations" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] -= 4
    content["annotations"][0].pop("segmentation")
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="not the images"):
        dualtoken.train(own, resume=run)


# ---------------------------------------------------------------- what it starts from


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """A trained classifier, of other classes."""
    from conftest import write_class_folders

    root = tmp_path_factory.mktemp("classifier")
    images = write_class_folders(root / "images", ("x", "y", "z"), per_class=4, size=32)
    patch = pytest.MonkeyPatch()
    patch.setattr("dualtoken.evaluation.reports.write_training_report", lambda *args, **options: None)
    folder = dualtoken.train(images, root / "run", **QUICK | {"epochs": 1, "image_size": 32}).folder
    patch.undo()
    return folder


def inner(state: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of `state` belongs to the network whose tensors are `theirs`, under their names."""
    name = "stages.0.blocks.0"
    long = next(key for key in state if name in key)
    prefix = long[: long.index(name)]
    return {key.removeprefix(prefix): state[key] for key in state if key.removeprefix(prefix) in theirs}


@pytest.mark.parametrize("task", TASKS)
def test_fine_tuning_takes_the_classifiers_backbone_and_freezing_keeps_it(data, tmp_path, capsys, classifier, task):
    before = load_file(classifier / "model.safetensors")
    settings = {"model": str(classifier), "model_args": {}, "freeze": "backbone", "epochs": 1, "lr": 0.01}
    run = train(data, tmp_path / "run", task, **settings).folder
    assert "tensors come from" in capsys.readouterr().out
    after = load_file(run / "model.safetensors")
    kept = inner(after, before)
    assert {key for key in before if key.startswith(("stem.", "stages."))} <= kept.keys()
    assert any(key.endswith("running_var") for key in kept)
    assert same(kept, {key: before[key] for key in kept})
    last = weights(run)
    assert same(inner({k.removeprefix("model."): v for k, v in last.items() if k.startswith("model.")}, before), kept)
    assert config(run)["model_args"] == {"depths": [1, 1, 1]}  # comes with the backbone
    assert config(run)["architecture"] == "dualtoken_vit_t_mix"
    assert config(run)["dualtoken"]["provenance"]["fine_tuned_from"] == str(classifier)


def test_without_freezing_the_backbone_moves(data, tmp_path, classifier):
    before = load_file(classifier / "model.safetensors")
    run = train(data, tmp_path / "run", model=str(classifier), model_args={}, epochs=1, lr=0.01).folder
    kept = inner(load_file(run / "model.safetensors"), before)
    moved = [key for key in kept if not torch.equal(kept[key], before[key])]
    assert len(moved) > 0.9 * len(kept)
    far = [key for key in kept if key.endswith("weight") and before[key].numel() > 500]
    assert all((kept[key] - before[key]).norm() < before[key].norm() for key in far)  # but not to fresh weights


def test_fine_tuning_the_same_task_keeps_its_head_and_takes_all(runs, data, tmp_path, capsys):
    first = runs["instance_segmentation"].folder
    settings = {"model": str(first), "model_args": {}, "head_args": {}, "epochs": 1, "lr": 1e-12, "seed": 1,
                "ema_decay": None}  # fmt: skip
    run = train(data, tmp_path / "run", "instance_segmentation", **settings).folder
    assert config(run)["dualtoken"]["head_args"] == NARROW
    before, after = (load_file(folder / "model.safetensors") for folder in (first, run))
    assert before.keys() == after.keys()
    near = [key for key in before if before[key].is_floating_point() and "running" not in key]
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in near)
    assert f"{len(before)} of {len(before)} tensors come from" in capsys.readouterr().out


def test_from_boxes_to_masks(data, tmp_path):
    first = train(data, tmp_path / "boxes", head="faster_rcnn", epochs=1).folder
    settings = {"model": str(first), "freeze": "backbone", "epochs": 1}
    run = train(data, tmp_path / "masks", "instance_segmentation", **settings).folder
    before, after = (load_file(folder / "model.safetensors") for folder in (first, run))
    backbone = [key for key in before if ".body." in key]
    assert backbone
    assert all(torch.equal(before[key], after[key]) for key in backbone)


def test_other_classes_leave_the_last_layers_fresh(runs, data, tmp_path):
    other = draw_pictures(tmp_path / "pictures", ("oak", "elm", "ash"))
    first = runs["detection"].folder
    settings = {"model": str(first), "model_args": {}, "head_args": {}, "freeze": "backbone", "epochs": 1}
    run = train(other, tmp_path / "run", **settings).folder
    assert dualtoken.load(run, device="cpu").classes == ("oak", "elm", "ash")
    before, after = (load_file(folder / "model.safetensors") for folder in (first, run))
    differ = {key for key in before if before[key].shape != after[key].shape}
    assert differ
    assert all("cls_logits" in key for key in differ)
    assert all(torch.equal(before[key], after[key]) for key in before if ".body." in key)


def test_taking_weights_says_how_many(classifier):
    task = dualtoken.tasks.TASKS["detection"]
    network = dualtoken.tasks.Network("dualtoken_vit_t_mix", 2, "fcos", NARROW, {"depths": [1, 1, 1]})
    model = task.build(network)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    said = take_weights(model, classifier)
    theirs, own = read_weights(classifier / "model.safetensors"), model.state_dict()
    changed = [key for key in own if not torch.equal(own[key], before[key])]
    assert same(inner(own, theirs), {key: theirs[key] for key in inner(own, theirs)})
    assert all(".body." in key for key in changed)
    assert said.startswith(f"{len(inner(own, theirs))} of {len(own)} tensors come from")


def test_another_backbone_does_not_fit(data, tmp_path, classifier):
    other = dualtoken.tasks.Network("test_resnet", 2, "fcos", NARROW)
    with pytest.raises(ModelError, match=r"The backbone of .* does not fit"):
        take_weights(dualtoken.tasks.TASKS["detection"].build(other), classifier)
    with pytest.raises(ModelError, match="does not fit"):
        train(data, tmp_path / "run", model=str(classifier), model_args={"depths": [1, 2, 1]})
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"image_size": 80}, ConfigError, r"image_size is \[80, 80\]; for detection .* multiples of 32"),
        ({"image_size": (64, 50)}, ConfigError, r"image_size is \[64, 50\]"),
        ({"task": "semantic_segmentation", "image_size": 72}, ConfigError, "semantic_segmentation both sides"),
        ({"head": "retinet"}, ConfigError, "Unknown head 'retinet'. Did you mean 'retinanet'"),
        ({"head": "mask_rcnn"}, ConfigError, "is for instance_segmentation, but the task is detection"),
        (
            {"task": "semantic_segmentation", "head": "fcos"},
            ConfigError,
            "is for detection, but the task is semantic_segmentation",
        ),
        ({"task": "detect"}, ConfigError, "task is 'detect'"),
        ({"labels": "coko"}, ConfigError, "labels is 'coko'"),
        ({"labels": "yolo"}, DataError, "no labels of the kind 'yolo'; found: coco, masks"),
        ({"labels": "masks"}, DataError, "detection cannot learn from 'masks'"),
        ({"task": "semantic_segmentation", "labels": "coco"}, DataError, "cannot learn from 'coco'"),
        ({"task": "classification", "labels": "coco"}, DataError, "classification cannot learn from 'coco'"),
        ({"zoom": (1.5, 0.5)}, ConfigError, "zoom is"),
        ({"mosaic": 2}, ConfigError, "mosaic is 2"),
        ({"head_args": {"channels": 100}}, ConfigError, "channels is 100"),
        ({"head_args": {"channel": 64}}, (ConfigError, ModelError), "channel"),
        ({"model": "deit_tiny_patch16_224"}, (ConfigError, ModelError), "deit_tiny_patch16_224"),
        ({"val_fraction": 0}, DataError, "training needs a val split"),
    ],
)
def test_wrong_settings_are_named_and_leave_nothing(data, tmp_path, settings, error, words):
    with pytest.raises(error, match=words):
        train(data, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_boxes_alone_make_no_masks(tmp_path):
    root = draw_pictures(tmp_path / "pictures")
    path = root / "annotations" / "instances.json"
    content = json.loads(path.read_text())
    for found in content["annotations"]:
        del found["segmentation"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="outline"):
        train(root, tmp_path / "run", "instance_segmentation")


def test_an_unreadable_image_fails_or_is_skipped_and_listed(tmp_path):
    for task in ("detection", "semantic_segmentation"):
        root = draw_pictures(tmp_path / task)
        (root / "images" / "03.png").write_text("not an image")
        with pytest.raises(DataError, match=r"03\.png"):
            train(root, tmp_path / f"{task}-fail", task)
        result = train(root, tmp_path / f"{task}-skip", task, on_bad_image="skip", epochs=1)
        found = config(result.folder)["dualtoken"]["provenance"]["data"]
        assert found["bad_images"] == 1
        assert sum(found["images"].values()) == 11


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """The command line in this process: exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["dualtoken", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr()
    return end.value.code or 0, told.out, told.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "detecton"], "Did you mean 'detection'?"),
        (["--head", "retinet"], "Did you mean 'retinanet'"),
        (["--task", "semantic_segmentation", "--head", "retinanet"], "but the task is semantic_segmentation"),
        (["--image-size", "100"], "Nearest: --set image_size=[96, 96]"),
        (["--labels", "voc"], "no labels of the kind 'voc'"),
        (["--task", "instance_segmentation", "--labels", "masks"], "cannot learn from 'masks'"),
    ],
)
def test_mistakes_end_with_2_and_teach(data, tmp_path, monkeypatch, capsys, options, said):
    output = tmp_path / "run"
    code, _, err = run(monkeypatch, capsys, "train", data, "--output", output, "--model", "test_resnet", *options)
    assert code == 2
    assert said in " ".join(err.split())
    assert "Traceback" not in err
    assert not output.exists()


def test_train_on_the_command_line(data, tmp_path, monkeypatch, capsys):
    options = ["--model", "test_resnet", "--head", "fcos", "--epochs", "1", "--image-size", "64", "--batch-size", "4",
               "--workers", "0", "--device", "cpu", "--set", "head_args={channels: 64}"]  # fmt: skip
    code, out, _ = run(monkeypatch, capsys, "train", data, "--output", tmp_path / "run", *options)
    assert code == 0
    assert "fcos on test_resnet" in out
    assert f"Model   {tmp_path / 'run'}" in out
    assert config(tmp_path / "run")["dualtoken"]["head"] == "fcos"


# ---------------------------------------------------------------- nothing to learn from


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("task", ["detection", "semantic_segmentation"])
def test_a_split_without_any_label_is_refused(tmp_path, task, split):
    root = draw_pictures(tmp_path / "data", count=8)
    content = json.loads((root / "annotations" / "instances.json").read_text())
    for number in range(8):
        own = "train" if number < 5 else "val"
        for folder in ("images", "masks"):
            (root / folder / own).mkdir(exist_ok=True)
            (root / folder / f"{number:02d}.png").rename(root / folder / own / f"{number:02d}.png")
        if own == split:
            Image.fromarray(np.full((40, 56), 255, np.uint8)).save(root / "masks" / own / f"{number:02d}.png")
    for own, chosen in (("train", range(5)), ("val", range(5, 8))):
        part = {
            "images": [i | {"file_name": f"{i['id']:02d}.png"} for i in content["images"] if i["id"] in chosen],
            "annotations": [a for a in content["annotations"] if a["image_id"] in chosen and own != split],
            "categories": content["categories"],
        }  # fmt: skip
        (root / "annotations" / f"instances_{own}.json").write_text(json.dumps(part))
    (root / "annotations" / "instances.json").unlink()
    what = "has an object" if task == "detection" else "has a pixel of any class"
    with pytest.raises(DataError, match=f"Of [35] images in the split '{split}' none {what}"):
        train(root, tmp_path / "run", task)
    assert not (tmp_path / "run").exists()


def test_a_drawn_val_without_objects_may_be_drawn_anew(tmp_path):
    root = draw_pictures(tmp_path / "data", count=6)
    for seed in range(20):
        val = find_data(root, task="detection", seed=seed, val_fraction=0.2).splits["val"]
        assert len(val.labels) > 0  # drawn again as often as it takes
