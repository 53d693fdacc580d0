import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dualtoken.answers.comparison import mcnemar
from dualtoken.data import find_data
from dualtoken.errors import DataError, ImageError, ModelError, OutputError
from dualtoken.evaluation import compare, evaluate
from dualtoken.files import alone
from dualtoken.model_folder import ModelConfig, build_model, save_model
from dualtoken.prediction import Predictor
from dualtoken.preprocess import Preprocessing

CLASSES = ("blue", "green", "red")
QUIET = {"workers": 0, "progress": False, "resamples": 100}


class MeanColour(nn.Module):
    """Logits are a linear function of the mean colour: knows invented images as well as its weights say."""

    def __init__(self, matrix: torch.Tensor):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, images):
        return images.mean(dim=(2, 3)) @ self.matrix[:3] + self.matrix[3]


def colour_model(data, *, sharp: float = 40.0, classes: tuple[str, ...] = CLASSES) -> Predictor:
    """The nearest mean colour: right on nearly all invented images."""
    config = ModelConfig("colour", classes, Preprocessing((16, 16), mean=(0, 0, 0), std=(1, 1, 1)))
    samples = next(iter(data.splits.values()))
    colours = np.stack([config.preprocessing(samples.open(i)).mean((1, 2)) for i in range(len(samples))])
    means = np.stack([colours[samples.labels == data.classes.index(name)].mean(0) for name in classes])
    matrix = np.concatenate([2 * means.T, -(means**2).sum(1)[None]])
    return Predictor(MeanColour(torch.tensor(matrix * sharp, dtype=torch.float32)), config)


def blind_model() -> Predictor:
    return Predictor(MeanColour(torch.tensor([[0.0] * 3] * 3 + [[1.0, 0, 0]])), colour_config())


def colour_config() -> ModelConfig:
    return ModelConfig("blind", CLASSES, Preprocessing((16, 16), mean=(0, 0, 0), std=(1, 1, 1)))


@pytest.fixture
def folder(make_image_folder) -> Path:
    return make_image_folder(classes=CLASSES, per_class=8, splits=("train", "val"))


@pytest.fixture
def data(folder):
    return find_data(folder, progress=False)


# ---------------------------------------------------------------- evaluate


def test_a_good_and_a_blind_model(data):
    good, blind = evaluate(colour_model(data), data, **QUIET), evaluate(blind_model(), data, **QUIET)
    assert good.metrics["top1"].value == 1
    assert blind.metrics["top1"].value == pytest.approx(1 / 3)
    assert blind.confusion.tolist() == [[8, 0, 0]] * 3
    assert [(p.truth, p.predicted, p.count, p.share) for p in blind.confused()] == [
        ("green", "blue", 8, 1.0),
        ("red", "blue", 8, 1.0),
    ]
    assert (good.n, good.split, good.source) == (24, "val", data.source)
    assert len(good.worst()) == 0
    assert len(blind.worst()) == 16


def test_the_surest_mistake_comes_first(data):
    evaluation = evaluate(blind_model(), data, **QUIET)
    evaluation.images.score[20] = 0.99
    assert evaluation.worst()[0] == 20


def test_files_are_written(data, tmp_path):
    output = tmp_path / "out"
    evaluation = evaluate(blind_model(), data, output=output, **QUIET)
    assert sorted(path.name for path in output.iterdir()) == [
        "confusion.png",
        "evaluation.json",
        "predictions.csv",
        "reliability.png",
        "report.html",
    ]
    content = json.loads((output / "evaluation.json").read_text())
    assert content == json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert content["top1"]["value"] == pytest.approx(1 / 3)
    rows = list(csv.DictReader((output / "predictions.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["path"] for row in rows] == [data.splits["val"].path(i) for i in range(24)]
    assert sum(int(row["correct"]) for row in rows) == 8
    assert rows[8]["truth"] == "green"
    assert rows[8]["label"] == "blue"


def test_an_impossible_output_is_found_before_the_work(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        evaluate("no model", folder, output=tmp_path / "file")
    with pytest.raises(ModelError):
        evaluate(tmp_path / "no model", folder)


def test_the_same_seed_gives_the_same_numbers(data):
    model = colour_model(data, sharp=3)
    first, again = (evaluate(model, data, seed=4, **QUIET).to_dict() for _ in range(2))
    other = evaluate(model, data, seed=5, **QUIET).to_dict()
    assert first == again
    assert first["nll"]["value"] == other["nll"]["value"]
    assert first["nll"] != other["nll"]


def test_a_path_is_matched_with_the_models_class_names(folder, data):
    backwards = colour_model(data, classes=CLASSES[::-1])
    assert evaluate(backwards, folder, split="val", **QUIET).metrics["top1"].value == 1
    with pytest.raises(DataError, match="Give the path"):
        evaluate(backwards, data, **QUIET)
    (folder / "val" / "red").rename(folder / "val" / "reed")
    with pytest.raises(DataError, match="Did you mean 'red'"):
        evaluate(backwards, folder, **QUIET)


def test_a_split_of_some_of_the_models_classes(folder, data, tmp_path):
    (folder / "val" / "red").rename(tmp_path / "elsewhere")
    evaluation = evaluate(colour_model(data), folder, split="val", **QUIET)
    assert evaluation.n == 16
    assert evaluation.per_class[2].f1 is None
    assert evaluation.metrics["macro_f1"].value == 1
    assert "red" not in evaluation.summary()
    json.dumps(evaluation.to_dict(), allow_nan=False)


def test_images_that_training_saw_are_not_measured(make_image_folder):
    plain = make_image_folder(classes=CLASSES, per_class=10, name="plain")
    trained_on = find_data(plain, seed=3, val_fraction=0.3, progress=False)
    model = colour_model(trained_on)
    assert evaluate(model, plain, **QUIET).split == "all"  # nothing says what it was trained on
    model.config.provenance = provenance(trained_on.fingerprint, 3)
    evaluation = evaluate(model, plain, **QUIET)
    assert (evaluation.split, evaluation.n) == ("val", 9)
    samples = find_data(plain, seed=3, val_fraction=0.3, progress=False, classes=CLASSES).splits["val"]
    assert samples.names.tolist() == trained_on.splits["val"].names.tolist()
    next(plain.rglob("*.jpg")).unlink()  # other data now
    assert evaluate(model, plain, **QUIET).split == "all"


def provenance(fingerprint: str, seed: int) -> dict[str, object]:
    return {"data": {"fingerprint": fingerprint}, "seed": seed, "settings": {"val_fraction": 0.3}}


def test_bad_images_fail_or_are_listed(data, folder):
    (folder / "val" / "red" / "0010.jpg").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"0010\.jpg"):
        evaluate(blind_model(), data, **QUIET)
    evaluation = evaluate(blind_model(), data, on_bad_image="skip", **QUIET)
    assert evaluation.n == 23
    assert "Left out           1 that cannot be used" in evaluation.summary()
    assert evaluation.to_dict()["bad_images"][0]["path"].endswith("0010.jpg")


def test_a_model_folder(folder, tmp_path):
    torch.manual_seed(0)
    config = ModelConfig("test_resnet", CLASSES, Preprocessing((32, 32)), temperature=2.0)
    save_model(build_model(config), config, tmp_path / "model")
    evaluation = evaluate(tmp_path / "model", folder, device="cpu", **QUIET)
    assert evaluation.model == str(tmp_path / "model")
    assert evaluation.settings["temperature"] == 2.0
    summary = evaluation.summary()
    for words in ("Top-1 accuracy", "24 of 3 classes, split 'val'", "95 % intervals"):
        assert words in summary


# ---------------------------------------------------------------- compare


def test_a_model_is_not_better_than_itself(data):
    comparison = compare(blind_model(), blind_model(), data, **QUIET)
    assert comparison.better is None
    assert comparison.p_value == 1
    assert "not distinguishable: they are equally good on every image" in comparison.summary()


def test_a_clearly_better_model_is_named(data):
    good, blind = colour_model(data), blind_model()
    first, second = compare(good, blind, data, **QUIET), compare(blind, good, data, **QUIET)
    assert (first.better, second.better) == ("a", "b")
    assert first.verdict().startswith("A is better by 66.7 points of Top-1 accuracy (95 % interval ")
    assert second.verdict() == "B" + first.verdict()[1:]
    assert (first.better_a, first.better_b) == (16, 0)
    assert first.difference.low < first.difference.value < first.difference.high < 0
    json.dumps(first.to_dict(), allow_nan=False)


def test_few_disagreements_are_not_distinguishable(data):
    comparison = replace(compare(colour_model(data), blind_model(), data, **QUIET), better_a=3, better_b=1, p_value=0.6)
    assert comparison.better is None
    assert (
        "not distinguishable on these 24 images: B minus A is -66.7 points of Top-1 accuracy (McNemar's test: p = 0.6"
        in comparison.verdict()
    )


def test_the_same_model_with_its_classes_in_another_order(folder, data):
    comparison = compare(colour_model(data), colour_model(data, classes=CLASSES[::-1]), folder, split="val", **QUIET)
    assert (comparison.value_a, comparison.value_b, comparison.better_a + comparison.better_b) == (1, 1, 0)


def test_other_classes_cannot_be_compared(data):
    other = Predictor(nn.Linear(1, 2), ModelConfig("other", ("blue", "pink"), Preprocessing((16, 16))))
    with pytest.raises(DataError, match="only A knows 'green', 'red'; only B knows 'pink'"):
        compare(blind_model(), other, data, **QUIET)


def test_a_model_that_has_seen_the_images_is_pointed_out(make_image_folder):
    plain = make_image_folder(classes=CLASSES, per_class=10, name="plain")
    found = find_data(plain, val_fraction=0, progress=False)
    a, b = colour_model(found), blind_model()
    b.config.provenance = provenance(found.fingerprint, 1)
    assert compare(a, b, plain, **QUIET).split == "val"  # as B's training drew it
    a.config.provenance = provenance(found.fingerprint, 2)
    assert "B was trained on these data with another val split" in compare(a, b, plain, **QUIET).summary()
    b.config.provenance = provenance(found.fingerprint, 2)
    assert compare(a, b, plain, **QUIET).note == ""


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (0, 6), (10, 2), (30, 50), (900, 1000)])
def test_mcnemar_equals_the_sum_in_whole_numbers(only_a, only_b):
    trials, fewer = only_a + only_b, min(only_a, only_b)
    exact = 2 * sum(math.comb(trials, k) for k in range(fewer + 1)) / 2**trials
    assert mcnemar(only_a, only_b) == pytest.approx(min(1, exact), rel=1e-9)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)


def test_mcnemar_of_many_disagreements_is_a_number():
    assert mcnemar(10_000, 10_300) == pytest.approx(0.035852, abs=1e-6)
    assert mcnemar(0, 100_000) == 0


def test_two_evaluations_into_one_folder(tmp_path):
    with alone(tmp_path / "judged"), pytest.raises(OutputError, match="being written by process"):
        evaluate(tmp_path / "model", tmp_path / "data", output=tmp_path / "judged")
    assert not (tmp_path / "judged").exists()
