import re
from pathlib import Path

import numpy as np
import pytest
import torch
from report_pages import Page

from dualtoken.data import find_data
from dualtoken.evaluation import evaluation_of
from dualtoken.evaluation.reports import write_evaluation, write_training_report
from dualtoken.model_folder import ModelConfig
from dualtoken.outputs import Classification
from dualtoken.postprocess import softmax
from dualtoken.prediction import Predictor
from dualtoken.preprocess import Preprocessing

HISTORY = [{"epoch": 1, "step": 3, "train_loss": 1.0, "val_loss": 1.1, "val_top1": 0.5, "lr": 1e-3}]


def evaluation_report(folder, *, evaluation, samples, data, provenance):
    write_evaluation(folder, evaluation, samples, data=data, provenance=provenance)
    return folder / "report.html"


def training_report(folder, *, evaluation, samples, **options):
    return write_training_report(folder, evaluation, samples, **options)


EVIL = "<script>alert(1)</script>&"


@pytest.fixture
def evaluated(make_image_folder):
    """A function: class names and how many images are wrong, to (evaluation, samples, data)."""

    def make(classes: tuple[str, ...] = ("cat", "dog"), wrong: int = 0, per_class: int = 3):
        root = make_image_folder(classes=classes, per_class=per_class, splits=("train", "val"))
        data = find_data(root, progress=False)
        samples = data.splits["val"]
        answers = samples.labels.copy()
        answers[:wrong] = (answers[:wrong] + 1) % len(data.classes)
        logits = np.eye(len(data.classes), dtype=np.float32)[answers] * 4
        predictor = Predictor(torch.nn.Linear(1, 1), ModelConfig("net", data.classes, Preprocessing()), name="runs/x")
        meter = predictor.kind.meter(predictor.config)
        for index, row in enumerate(logits):
            meter.add(Classification(data.classes, softmax(row), logits=row), int(samples.labels[index]), index)
        return evaluation_of(meter, predictor, data, samples, resamples=30), samples, data

    return make


def test_an_evaluation_page_tells_everything(evaluated, tmp_path):
    evaluation, samples, data = evaluated(wrong=2)
    path = evaluation_report(
        tmp_path, evaluation=evaluation, samples=samples, data=data,
        provenance={"settings": {"epochs": 3}, "versions": {"torch": "2.x"}, "command": "dualtoken train x"},
    )  # fmt: skip
    page = Page(path.read_text(encoding="utf-8"))
    words = page.words()
    for expected in ("Evaluation report: runs/x", "6 images of 2 classes", "66.7 %", "30 draws", "cat dog 2 66.7 %",
                     "2 of 6 images are wrong", "All of them, the highest confidence first", "epochs 3", "torch 2.x",
                     "dualtoken train x", samples.path(0)):  # fmt: skip
        assert expected in words
    assert page.pictures() == 2 + 2  # confusion, reliability, two mistakes
    assert "Training" not in words.replace("It does not cover another training", "")


def test_a_training_page_has_curves_and_data(evaluated, tmp_path):
    evaluation, samples, data = evaluated()
    path = training_report(tmp_path, history=HISTORY, evaluation=evaluation, data=data, samples=samples, provenance={})
    page = Page(path.read_text(encoding="utf-8"))
    assert "train 6 3 in each class" in page.words()
    assert "None: all 6 images are right." in page.words()
    assert page.pictures() == 3 + 2
    training_report(tmp_path, history=[], evaluation=evaluation, data=data, samples=samples, provenance={})
    assert "No epoch was finished" in path.read_text(encoding="utf-8")


def test_nothing_is_fetched_and_everything_is_escaped(evaluated, tmp_path):
    evil = EVIL.replace("/", "∕")  # a folder's name has no slash
    evaluation, samples, data = evaluated((evil, "猫"), wrong=4)
    path = training_report(
        tmp_path, history=HISTORY, evaluation=evaluation, data=data, samples=samples,
        provenance={"settings": {EVIL: EVIL}, "versions": {}, "command": EVIL},
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe"})
    assert not re.search(r"https?://|url\(|@import", text)
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert all(source.startswith("data:image/") for source in sources)
    assert "猫" in text
    assert page.words().count("<script>") >= 3


def test_a_picture_that_has_gone_is_no_error(evaluated, tmp_path):
    evaluation, samples, data = evaluated(wrong=1)
    Path(samples.path(0)).unlink()
    path = evaluation_report(tmp_path, evaluation=evaluation, samples=samples, data=data, provenance={})
    assert "cannot be read" in Page(path.read_text(encoding="utf-8")).words()


def test_many_classes_are_folded_away(evaluated, tmp_path):
    evaluation, samples, data = evaluated(tuple(f"c{i:02}" for i in range(40)), wrong=30, per_class=1)
    words = Page(
        evaluation_report(tmp_path, evaluation=evaluation, samples=samples, data=data, provenance={}).read_text("utf-8")
    ).words()
    assert "The 10 with the lowest F1." in words
    assert "All 40 classes with images" in words
    assert "These 24 have the highest confidence." in words
    assert "numbered from 0" in words
