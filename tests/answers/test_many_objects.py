"""More than 100 objects an image: one setting from training to evaluation, prediction, export and runtime."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import dualtoken
from dualtoken.answers import kind_of
from dualtoken.answers.box_meter import BoxMeter
from dualtoken.cli import app
from dualtoken.data import Objects
from dualtoken.decode import DetectorSpec, detect, most_objects
from dualtoken.errors import ConfigError
from dualtoken.export import export
from dualtoken.model_folder import ModelConfig, load_config
from dualtoken.outputs import Detections
from dualtoken.preprocess import Preprocessing
from dualtoken.training.config import TrainConfig

EVERYTHING = {"channels": 64, "score_threshold": 0.0, "iou_threshold": 1.0}  # every position answers


def grains(number: int) -> np.ndarray:
    """(number, 4) boxes side by side."""
    place = np.arange(number)
    corner = np.stack([place % 20 * 5, place // 20 * 5], axis=1)
    return np.concatenate([corner, corner + 4], axis=1).astype(np.float32)


def measured(most: int | None = None, number: int = 150):
    boxes, size = grains(number), (100, 100)
    objects = Objects(
        size, boxes, np.zeros(number, np.int64), np.zeros(number, bool), np.full(number, 16, np.float32),
        ((),) * number, ("",) * number,
    )  # fmt: skip
    meter = BoxMeter(("grain",)) if most is None else BoxMeter(("grain",), most)
    meter.add(Detections(("grain",), size, boxes, np.linspace(0.9, 0.5, number), np.zeros(number, int)), objects, 0)
    return meter.evaluation(resamples=5)


def test_150_right_answers_are_a_recall_of_one_where_they_are_counted():
    assert measured().metrics["ap50"].value == pytest.approx(67 / 101)  # COCO's rule: recall up to 100 of 150
    evaluation = measured(150)
    assert evaluation.metrics["ap50"].value == pytest.approx(1)
    assert evaluation.images.found.tolist() == [150]


def test_the_rule_is_said_where_it_matters():
    assert "up to 100 of a class in an image; 1 image holds more than COCO's 100" in measured().summary()
    assert "up to 300 of a class in an image; 0 images hold more" in measured(300, number=20).summary()
    assert "COCO" not in measured(number=20).summary()


def test_the_meter_counts_what_the_model_may_give():
    def most(**args) -> int:
        config = ModelConfig("x", ("a",), Preprocessing(), task="detection", head="fcos", head_args=args)
        return kind_of("detection").meter(config).most

    assert (most(), most(max_detections=5), most(**most_objects(300))) == (100, 100, 300)


class Positions:
    """An engine whose dense detector is sure of every position of its first map, and of no other."""

    def __init__(self, spec: DetectorSpec, size: tuple[int, int]) -> None:
        counts = [-(-size[0] // stride) * -(-size[1] // stride) for stride in spec.levels]
        self.logits = np.concatenate([np.full((n, 1), 3.0 if not level else -9.0) for level, n in enumerate(counts)])
        self.logits = self.logits.astype(np.float32) + np.linspace(0, 0.1, len(self.logits), dtype=np.float32)[:, None]

    def run(self, part, inputs):
        sides = np.full((1, len(self.logits), 4), 0.4, np.float32)  # boxes that do not touch
        return [self.logits[None], sides, np.full((1, len(self.logits), 1), 9, np.float32)]


@pytest.mark.parametrize(("most", "expected"), [(None, 100), (1500, 1500), (5000, 1600)])
def test_as_many_are_found_as_the_setting_says(most, expected):
    args = {} if most is None else most_objects(most)
    spec = DetectorSpec.of("fcos", 1, {"channels": 64} | args)
    (found,) = detect(spec, Positions(spec, (320, 320)), np.zeros((1, 3, 320, 320), np.float32))
    assert len(found["scores"]) == expected


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight images, the first with 120 boxes."""
    root = tmp_path_factory.mktemp("grains")
    (root / "images").mkdir()
    annotations, images = [], []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (100, 100, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 100, "height": 100})
        for left, top, right, bottom in grains(3 if number else 120).tolist():
            annotations.append({"id": len(annotations), "image_id": number, "category_id": 1,
                                "bbox": [left, top, right - left, bottom - top]})  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "grain"}]}
    (root / "labels.json").write_text(json.dumps(content))
    return root


def test_one_setting_from_training_to_the_exported_file(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dualtoken.evaluation.reports.write_training_report", lambda *args, **options: None)
    run = dualtoken.train(
        data, output=tmp_path / "run", recipe="smoke", model="test_resnet", head="retinanet", image_size=128,
        batch_size=4, workers=0, epochs=1, device="cpu", max_objects=110, head_args=EVERYTHING,
    ).folder  # fmt: skip
    assert "1 image holds more than 110 objects, of which 110 will be found: --set max_objects=120" in (
        capsys.readouterr().out
    )
    assert load_config(run).head_args["max_detections"] == 110
    image = data / "images" / "0.png"
    model = dualtoken.load(run, device="cpu")
    assert len(model.predict(image, threshold=0.0)) == 110
    exported = dualtoken.load(export(run, tmp_path / "model.onnx", progress=False).path)
    assert len(exported.predict(image, threshold=0.0)) == 110
    assert len(exported.limited(200).predict(image, threshold=0.0)) == 200
    assert exported.config.head_args["max_detections"] == 110  # it stays as it was
    found = dualtoken.evaluate(run, data, max_objects=300, device="cpu", workers=0, progress=False, resamples=2)
    assert found.settings["max_objects"] == 300
    output = tmp_path / "found.json"
    arguments = ["predict", run, image, "--output", output, "--max-objects", 130, "--threshold", 0, "--device", "cpu"]
    assert CliRunner().invoke(app, [*map(str, arguments)]).exit_code == 0
    assert len(json.loads(output.read_text())["annotations"]) == 130


def test_where_there_are_no_objects_it_is_refused(image_folder, tmp_path):
    with pytest.raises(ConfigError, match="max_objects has no effect for classification"):
        dualtoken.train(image_folder, output=tmp_path / "run", max_objects=200)
    with pytest.raises(ConfigError, match="--max-objects has no meaning for a model for semantic segmentation"):
        kind_of("semantic_segmentation").limited(None, 200)
    with pytest.raises(ConfigError, match="max_objects is 0"):
        TrainConfig.from_settings({"max_objects": 0})
