"""What others add by registration alone, without touching the package: a metric, and a whole kind of answers."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch.nn.functional as F
from torch import Tensor, nn

import dualtoken
from conftest import write_class_folders
from dualtoken import cli
from dualtoken.answers import KINDS, Kind, Meter, box_meter, class_meter, kind_of, register
from dualtoken.answers.bootstrap import draws
from dualtoken.answers.meter import measured
from dualtoken.backbone.mixers import MIXERS
from dualtoken.data import FORMATS, Format, convert, find_data, training_loader, training_transform
from dualtoken.data.finding import NEEDS, Need
from dualtoken.data.records import Records
from dualtoken.errors import DataError
from dualtoken.outputs import Classification, Detections, Metric
from dualtoken.tasks import TASKS, Task
from dualtoken.tasks import register as register_task

SMALL = ["--model", "test_resnet", "--image-size", "32", "--epochs", "1", "--batch-size", "4", "--workers", "0",
         "--device", "cpu", "--recipe", "smoke"]  # fmt: skip


@pytest.fixture
def run(monkeypatch, capsys) -> Iterator:
    """A function that runs the command line, and gives its exit code with what it said."""

    def typed(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["dualtoken", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out + said.err

    return typed


# ---------------------------------------------------------------- a metric


def test_a_metric_for_classes(monkeypatch):
    metric = Metric("Balanced accuracy", True, "mean recall of the classes", lambda d: np.nanmean(d.recall), exact=True)
    monkeypatch.setitem(class_meter.METRICS, "balanced", metric)
    meter = class_meter.ClassMeter(("a", "b"))
    for index, (label, sure) in enumerate([(0, 0.9), (0, 0.8), (0, 0.7), (1, 0.6)]):  # all are taken for a
        meter.add(Classification(("a", "b"), np.array([sure, 1 - sure])), label, index)
    evaluation = meter.evaluation(resamples=20)
    assert evaluation.metrics["top1"].value == 0.75
    assert evaluation.metrics["balanced"].value == 0.5
    assert "Balanced accuracy" in evaluation.summary()
    assert evaluation.to_dict()["balanced"]["value"] == 0.5


def test_a_metric_for_boxes_is_one_for_masks_too(monkeypatch):
    metric = Metric("AP60", True, "at IoU 0.6", lambda precision: box_meter.mean(precision[0, 2]), exact=True)
    monkeypatch.setitem(box_meter.METRICS, "ap60", metric)
    assert kind_of("instance_segmentation").metrics["mask_ap60"].title == "Mask AP60"
    from dualtoken.data import Objects

    objects = Objects((40, 40), np.array([[0, 0, 20, 20]], np.float32), np.zeros(1, np.int64), np.zeros(1, bool),
                      np.array([400], np.float32), ((),), ("",))  # fmt: skip
    meter = box_meter.BoxMeter(("cat",))
    for index, right in enumerate((20.0, 11.0)):  # IoU 1 and 0.55
        found = Detections(("cat",), (40, 40), np.array([[0, 0, right, 20]]), np.array([0.9]), np.array([0]))
        meter.add(found, objects, index)
    evaluation = meter.evaluation(resamples=10)
    assert evaluation.metrics["ap50"].value == pytest.approx(1)
    assert evaluation.metrics["ap60"].value == pytest.approx(51 / 101)  # recall 0 to 0.5
    assert "Box AP60" in evaluation.summary()


# ---------------------------------------------------------------- a whole kind of answers: the mean colour of an image


@dataclass(frozen=True, eq=False)
class Colour:
    classes: tuple[str, ...]
    rgb: np.ndarray
    path: str | None = None

    def reordered(self, classes):
        return replace(self, classes=classes)

    def to_dict(self, top=5):
        return {"path": self.path, "rgb": self.rgb.tolist()}

    def describe(self):
        return " ".join(f"{part:.2f}" for part in self.rgb)


CLOSENESS = {"closeness": Metric("Closeness", True, "1 minus the mean difference of the channels", float)}


class ColourMeter(Meter):
    task = "mean_colour"

    def __init__(self, classes):
        super().__init__(classes)
        self.scores: list[float] = []

    def add(self, answer, truth, index):
        self.scores.append(1 - float(np.abs(answer.rgb - truth).mean()))
        self._indices.append(index)

    def figures(self):
        return {"closeness": float(np.mean(self.scores))}

    def image_scores(self):
        return np.array(self.scores)[self.order()]

    def counter(self):
        scores = self.image_scores()
        return lambda weights: scores.mean() if weights is None else weights @ scores / len(scores)

    def results(self, seed, resamples):
        point, *redrawn = map(self.counter(), [None, *draws(len(self), seed=seed, resamples=resamples)])
        images = SimpleNamespace(index=self.indices(), closeness=self.image_scores())
        return {"metrics": measured(CLOSENESS, point, redrawn, len(self)), "per_class": (), "images": images}


class MeanColours(Kind):
    name = "mean_colour"
    learns = Need("classes", by_itself=False)
    leading = "closeness"
    image_score = "closeness"
    metrics = CLOSENESS

    def read(self, config, raw, sizes):
        return [Colour(config.classes, row) for row in np.asarray(raw)]

    def truth(self, samples, row, limits=None):
        return np.asarray(samples.open(row), np.float32).mean((0, 1)) / 255

    def size(self, samples, row):
        return 1, 1

    def meter(self, config):
        return ColourMeter(config.classes)

    def columns(self, top):
        return ["red", "green", "blue"]

    def cells(self, answer, top):
        return [dict(zip(self.columns(top), answer.rgb.tolist(), strict=True))]


class ColourTask(Task):
    name = "mean_colour"
    recipe = "smoke"
    crop_mode = "squash"
    best_by = "closeness"
    unused = frozenset({"head"})

    @classmethod
    def build(cls, network):
        return timm.create_model(network.architecture, num_classes=3)

    def training_loader(self, samples, preprocessing, **options):
        return training_loader(samples, training_transform(preprocessing), **options)

    def loss(self, model, images, targets):
        return F.mse_loss(model(images).float(), images.float().mean((2, 3)))


@pytest.fixture
def colours() -> Iterator[None]:
    """What the two files of the kind would do, for the length of a test."""
    register(MeanColours)
    register_task(ColourTask)
    yield
    for table in (KINDS, TASKS, NEEDS):
        del table["mean_colour"]


def test_a_kind_of_answers_serves_every_verb(colours, run, tmp_path):
    photos, out = write_class_folders(tmp_path / "photos", ("cat", "dog"), per_class=8), tmp_path / "run"
    code, said = run("train", photos, "--task", "mean_colour", "--output", out, *SMALL)
    assert code == 0, said
    assert "closeness" in said
    config = json.loads((out / "config.json").read_text())["dualtoken"]
    assert config["task"] == "mean_colour"
    assert config["metrics"]["closeness"]["value"] > 0
    assert "Closeness" in (out / "report.html").read_text()

    code, said = run("evaluate", out, photos, "--output", tmp_path / "measured", "--device", "cpu", "--workers", "0")
    assert code == 0, said
    rows = list(csv.DictReader((tmp_path / "measured" / "predictions.csv").read_text().splitlines()))
    assert list(rows[0]) == ["path", "closeness"]
    evaluation = dualtoken.evaluate(out, photos, device="cpu", workers=0, progress=False)
    assert [float(row["closeness"]) for row in rows] == pytest.approx(evaluation.images.closeness, abs=1e-6)

    code, said = run("predict", out, photos, "--output", tmp_path / "colours.csv", "--device", "cpu")
    assert code == 0, said
    assert (tmp_path / "colours.csv").read_text().splitlines()[0] == "path,red,green,blue,error"
    code, said = run("predict", out, photos, "--sheet", tmp_path / "sheet.png", "--device", "cpu")
    assert code == 2
    assert "--sheet has no meaning for a model for mean colour" in said

    code, said = run("compare", out, out, photos, "--device", "cpu", "--workers", "0")
    assert code == 0, said
    assert "Closeness" in said
    assert "not distinguishable" in said


def test_the_command_line_knows_a_kind_of_answers(colours, run):
    assert "mean_colour" in run("train", "--help")[1]
    code, said = run("train", "nowhere", "--task", "mean_color", "--output", "run")
    assert code == 2
    assert "mean_colour" in said


# ---------------------------------------------------------------- a mixer


class Scale(nn.Module):
    """A mixer that scales the image tokens, by a number for each channel, and remembers where it stands."""

    def __init__(self, config, stage: int, block: int = 0, drop_path: float = 0.0, **dd) -> None:
        super().__init__()
        self.place = (stage, block)
        self.scale = nn.Linear(config.channels[stage], config.channels[stage], **dd)

    def forward(self, x: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return x + self.scale(x), g


@pytest.fixture
def scale_mixer():
    MIXERS["scale"] = Scale
    yield
    del MIXERS["scale"]


TINY = {"channels": [8, 16, 32], "depths": [1, 2, 1], "heads": [1, 2, 4], "neck": 16, "global_tokens": "none"}


def test_a_mixer(scale_mixer, make_image_folder, tmp_path):
    data = make_image_folder(per_class=4)
    dualtoken.train(
        data, output=tmp_path / "run", model="dualtoken_vit_t_mix", epochs=1, image_size=32, batch_size=4, workers=0,
        model_args=TINY | {"mixer": "scale"},
    )  # fmt: skip
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model_args"]["mixer"] == "scale"
    prediction = dualtoken.load(tmp_path / "run").predict(next(data.rglob("*.jpg")))
    assert prediction.label in ("cat", "dog")


def test_a_mixer_knows_its_stage_and_block(scale_mixer):
    from dualtoken.backbone import create_model

    model = create_model("dualtoken_vit_t_mix", **TINY | {"mixer": "scale"})
    assert [b.mixer.place for stage in model.stages for b in stage.blocks] == [(0, 0), (1, 0), (1, 1), (2, 0)]


def test_a_mistyped_mixer_is_answered_with_the_nearest(scale_mixer):
    from dualtoken.training import TrainConfig
    from dualtoken.training.checks import check_settings

    with pytest.raises(dualtoken.errors.ConfigError, match="Did you mean 'scale'"):
        check_settings(TrainConfig(model="dualtoken_vit_t_mix", model_args={"mixer": "scael"}))


# ---------------------------------------------------------------- a format of labels


def find_lines(tree):
    """Boxes in a file labels.lines: image, class, left, top, right, bottom."""
    names = [name for name in tree.names if name.endswith(".lines")]
    if not names:
        return None
    records = Records(tree, "lines")
    for number, line in enumerate(tree.text(names[0]).splitlines(), 1):
        path, name, *box = line.split()
        records.add(records.image(names[0], number, path), names[0], number, name, box=box)
    return records.done()


def write_lines(writer, folder):
    lines = [
        f"images/{name} {writer.classes[label]} {' '.join(map(str, box))}\n"
        for _, samples in writer.splits()
        for name, objects in writer.objects(samples, folder / "images")
        for label, box in zip(objects.labels.tolist(), objects.boxes.tolist(), strict=True)
    ]
    writer.text(folder / "labels.lines", "".join(lines))


@pytest.fixture
def lines(monkeypatch, tmp_path):
    """A data set of 12 images in a format that only this file knows."""
    monkeypatch.setitem(FORMATS, "lines", Format("objects", find_lines, "labels.lines", rank=5, write=write_lines))
    root = write_class_folders(tmp_path / "lines", ("images",), per_class=12)
    names = (f"images/{number:04d}.jpg {'cat' if number % 2 else 'dog'} 4 5 20 24" for number in range(12))
    (root / "labels.lines").write_text("\n".join(names))
    return root


def test_a_format_of_labels_is_read_written_and_offered(lines, tmp_path):
    data = find_data(lines, progress=False)
    assert (data.task, data.classes, data.layout) == ("detection", ("cat", "dog"), "lines")
    assert cli.CHOICES["labels"]()[1] == "lines"
    assert "lines" in cli.CHOICES["to"]()
    coco = convert(lines, tmp_path / "coco", "coco", labels="lines", progress=False).output
    again = convert(coco, tmp_path / "again", "lines", progress=False).output
    found = find_data(again, labels="lines", val_fraction=0, progress=False).splits["all"]
    assert found.boxes.tolist() == [[4, 5, 20, 24]] * 12
    with pytest.raises(DataError, match=r"labels\.lines', line 1: a box outside the image"):
        (lines / "labels.lines").write_text("images/0000.jpg cat 4 5 90 24")
        find_data(lines, progress=False)
