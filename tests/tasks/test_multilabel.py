"""Images with any number of labels, through every verb."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

import dualtoken
from dualtoken.answers import kind_of
from dualtoken.cli import app
from dualtoken.data import find_data
from dualtoken.engines import ENGINES
from dualtoken.errors import ConfigError, ModelError
from dualtoken.export import export, verify
from dualtoken.model_folder import ModelConfig, load_config
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks import TASKS, TaskSettings

COLOURS = {"blue": (50, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """64 noisy images, each with some of three discs, or none."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    rows = ["path,labels"]
    for number in range(64):
        image = Image.fromarray(rng.integers(90, 130, (32, 32, 3)).astype(np.uint8))
        own = [name for name in COLOURS if rng.random() < 0.4]
        for name in own:
            x, y = rng.integers(0, 20, 2).tolist()
            ImageDraw.Draw(image).ellipse((x, y, x + 11, y + 11), fill=COLOURS[name])
        image.save(root / f"{number}.png")
        rows.append(f"{number}.png,{';'.join(own)}")
    (root / "labels.csv").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def run(shapes, once) -> Path:
    def make(folder: Path) -> None:
        dualtoken.train(
            shapes, folder / "run", recipe="smoke", model="test_resnet", epochs=6, workers=0, device="cpu",
            val_fraction=0.3,
        )  # fmt: skip

    return once("multilabel-run", make) / "run"


@pytest.fixture(scope="module")
def onnx(run, once) -> Path:
    return once("multilabel-onnx", lambda folder: export(run, folder / "model.onnx", progress=False)) / "model.onnx"


def test_the_loss_is_the_mean_over_the_classes():
    task = TASKS["multilabel"](("a", "b"), TaskSettings(mixup=0.5))  # of a recipe: without meaning here
    logits = torch.tensor([[math.log(3.0), -math.log(3.0)]])  # 75 % and 25 %
    loss = task.loss(lambda _: logits, torch.zeros(1, 3, 8, 8), torch.tensor([[1.0, 1.0]]))
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2, abs=1e-6)
    smooth = TASKS["multilabel"](("a", "b"), TaskSettings(label_smoothing=0.2))
    loss = smooth.loss(lambda _: logits, torch.zeros(1, 3, 8, 8), torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(-(0.9 * math.log(0.75) + 0.1 * math.log(0.25)), abs=1e-6)


def test_a_run_keeps_what_was_fitted_and_reports(run):
    config = load_config(run)
    assert config.task == "multilabel"
    assert len(config.thresholds) == len(config.offsets) == 3
    assert {"map", "macro_f1", "micro_f1", "exact_match", "ece"} <= set(config.metrics)
    assert config.metrics["map"]["value"] > 0.6
    page = (run / "report.html").read_text()
    for words in ("Mean AP", "Threshold", "Calibration error", "Worst mistakes"):
        assert words in page
    again = ModelConfig.from_json(json.loads((run / "config.json").read_text()))
    assert again == config


def test_evaluate_and_compare(run, shapes, tmp_path):
    options = {"device": "cpu", "workers": 0, "progress": False}
    found = dualtoken.evaluate(run, shapes, output=tmp_path / "out", **options)
    assert found.metrics["map"].value == pytest.approx(load_config(run).metrics["map"]["value"])  # the same val
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert list(rows[0]) == ["path", "truth", "labels", "f1"]
    right = [row["truth"] == row["labels"] for row in rows]
    assert np.mean(right) == pytest.approx(found.metrics["exact_match"].value)
    other = shutil.copytree(run, tmp_path / "other")
    content = json.loads((other / "config.json").read_text())
    content["dualtoken"]["thresholds"] = [0.0, 0.0, 0.0]
    (other / "config.json").write_text(json.dumps(content))
    comparison = dualtoken.compare(run, other, shapes, **options)
    assert comparison.value_a == comparison.value_b  # thresholds rank nothing
    assert comparison.better_a > 0


def test_predict_writes_what_can_be_learned_from(run, shapes, tmp_path):
    def typed(*arguments: object) -> None:
        result = CliRunner().invoke(app, [*map(str, arguments)])
        assert result.exit_code == 0, result.output

    images = tmp_path / "images"
    shutil.copytree(shapes, images, ignore=lambda *_: ["labels.csv"])
    predictor = dualtoken.load(run, device="cpu")
    names = sorted(map(str, images.iterdir()))
    predictor.config.thresholds = tuple(np.median([a.probabilities for a in predictor.predict(names)], axis=0).tolist())
    expected = [{label for label, _ in answer.labels} for answer in predictor.predict(names)]
    assert set() in expected
    content = json.loads((run / "config.json").read_text())
    content["dualtoken"]["thresholds"] = list(predictor.config.thresholds)
    model = shutil.copytree(run, tmp_path / "model")
    (model / "config.json").write_text(json.dumps(content))
    for suffix in ("csv", "json"):
        output = tmp_path / f"found.{suffix}"
        typed("predict", model, images, "--output", output, "--device", "cpu")
        text = output.read_text().replace(f"{images}/", "images/")
        output.write_text(text)
        data = find_data(output, task="multilabel", val_fraction=0, progress=False)
        samples = data.splits["all"]
        order = np.argsort(samples.names)
        found = [{data.classes[label] for label in np.flatnonzero(samples.labels[row])} for row in order]
        assert found == expected
    typed("predict", run, names[0], "--output", tmp_path / "all.jsonl", "--threshold", "0", "--device", "cpu")
    assert len(json.loads((tmp_path / "all.jsonl").read_text())["labels"]) == 3


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_exports_answer_the_same(suffix, run, shapes, onnx, tmp_path):
    if suffix == ".xml":
        pytest.importorskip("openvino")
    path = onnx if suffix == ".onnx" else export(run, tmp_path / f"model{suffix}", progress=False).path
    parity = verify(path, run, images=shapes)
    assert parity.passed
    assert parity.answers["label_agreement"] == 1
    runtime = dualtoken.load(path)
    assert runtime.export.engine in ENGINES
    image = shapes / "3.png"
    mine, its = dualtoken.load(run, device="cpu").predict(image), runtime.predict(image)
    assert mine.probabilities == pytest.approx(its.probabilities, abs=1e-5)
    assert mine.thresholds.tolist() == its.thresholds.tolist()


def test_an_export_with_other_thresholds_does_not_pass(run, shapes, onnx, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    content = json.loads((other / "config.json").read_text())
    content["dualtoken"]["thresholds"][1] = 0.99
    (other / "config.json").write_text(json.dumps(content))
    parity = verify(onnx, other, images=shapes)
    assert not parity.passed
    assert "thresholds" in parity.failure


def test_explain_asks_about_each_label(run, shapes, tmp_path):
    from dualtoken.prediction import load

    pytest.importorskip("captum")
    image = str(shapes / "2.png")
    (found,) = dualtoken.explain(run, [image], device="cpu", progress=False, most=3, steps=2)
    answer = load(run, device="cpu").predict(image)
    asked = {target.target.name: target.target for target in found.targets}
    assert {name: asked[name].score for name in asked} == pytest.approx(dict(answer.top(3)), abs=1e-5)
    assert [name for name in COLOURS if asked[name].answered] == sorted(label for label, _ in answer.labels)


def test_a_frozen_backbone_learns_and_a_closed_form_is_refused(run, shapes, tmp_path):
    options = {"recipe": "smoke", "model": str(run), "workers": 0, "device": "cpu", "freeze": "backbone"}
    assert dualtoken.train(shapes, output=tmp_path / "frozen", epochs=1, **options).metrics["map"]["value"] > 0.5
    with pytest.raises(ConfigError, match="one class an image"):
        dualtoken.train(shapes, output=tmp_path / "closed", solver="closed", **options)


def test_a_config_without_thresholds_has_one_for_all():
    config = ModelConfig("test_resnet", ("a", "b"), Preprocessing(), task="multilabel", threshold=0.25)
    (answer,) = kind_of("multilabel").read(config, np.zeros((1, 2), np.float32), [(1, 1)])
    assert answer.thresholds.tolist() == [0.25, 0.25]
    assert answer.probabilities.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("key", ["thresholds", "offsets"])
def test_as_many_thresholds_as_classes(key, run):
    content = json.loads((run / "config.json").read_text())
    content["dualtoken"][key] = [0.5]
    with pytest.raises(ModelError, match=f"{key} must be as many as label_names"):
        ModelConfig.from_json(content)
