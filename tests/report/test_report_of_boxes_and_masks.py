import csv
import json
import re

import numpy as np
import pytest
from invented_answers import mask_data, object_data, object_evaluation, region_evaluation
from PIL import Image
from report_pages import Page

from dualtoken.evaluation.reports import write_evaluation, write_training_report
from dualtoken.outputs import Detections, Segmentation
from dualtoken.report import page

EVIL = "<script>alert(1)</script>&"
HISTORY = [{"epoch": 1, "step": 3, "train_loss": 1.0, "train_box_loss": 0.4, "val_ap": 0.5, "lr": 1e-3}]


def nothing_found(classes):
    return lambda image: Detections(classes, (image.height, image.width), np.empty((0, 4)), [], [])


def one_region(classes):
    return lambda image: Segmentation(classes, np.zeros((image.height, image.width), np.uint8))


def evaluation_page(folder, evaluation, samples, **options):
    write_evaluation(folder, evaluation, samples, **options)
    return folder / "report.html"


PROVENANCE = {"settings": {"epochs": 3}, "versions": {"torch": "2.x"}, "command": "dualtoken train photos"}


def read(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("masks", [False, True])
def test_a_training_page_of_objects_tells_everything(tmp_path, masks):
    classes = ("person", "car", "none")
    data = object_data(tmp_path / "photos", classes)
    page = read(
        write_training_report(
            tmp_path,
            object_evaluation(classes, masks=masks),
            data.splits["val"],
            history=HISTORY,
            data=data,
            answer=nothing_found(classes),
            batches=[Image.new("RGB", (90, 90))],
            provenance=PROVENANCE,
        )
    )
    words = page.words()
    for expected in ("Training report: runs/x", "3 images of 3 classes, split “val” of photos", "Box AP 41.2 %",
                     "36.2 to 46.2", "200 draws, seed 0", "small below 32 x 32 pixels", "boxes 20.0 % (15 to 25) – –",
                     "train 3 8 2.7 1 0", "Note: 1 image is empty.", "Labels of the split “train”",
                     "What the network saw", "worst: ", "the objects of confidence 0.37 and above",
                     "All 3 classes as numbers", "person 10 10 25.0 % (20 to 30)", "none 0 0 – –",
                     "6 of 12 objects are found, and 3 detections are false positives", "car not found 10 50.0 %",
                     "nothing there car 10 –", "epochs 3", "torch 2.x", "dualtoken train photos"):  # fmt: skip
        assert expected in words, expected
    assert ("Mask AP75" in words) == masks
    assert ("masks 10.0 % (5 to 15)" in words) == masks
    assert page.pictures() == 4 + 4 + 1 + 3 + 4  # labels, curves, batch, pictures, figures of the evaluation


def test_a_page_of_regions_tells_everything(tmp_path):
    classes = ("sky", "road")
    data = mask_data(tmp_path / "streets", classes)
    evaluation = region_evaluation(classes)
    page = read(
        evaluation_page(tmp_path, evaluation, data.splits["val"], data=data, answer=one_region(classes), provenance={})
    )
    words = page.words()
    for expected in ("Evaluation report: runs/y", "Mean IoU 61.1 %", "train 3 64 × 48", "Labels of the split “val”",
                     "By the mean IoU of each image.", "sky 99,000 50.0 % 33.3 % (28 to 38)",
                     "sky road 1,000 1.0 %"):  # fmt: skip
        assert expected in words, expected
    assert page.pictures() == 1 + 3 + 3
    for absent in ("Training", "size of the objects", "Precision and recall", "How the model was made"):
        assert absent not in words, absent


def test_answers_without_confidence_have_no_reliability(tmp_path):
    data = mask_data(tmp_path / "streets", ("sky", "road"))
    evaluation = region_evaluation(data.classes, confidence=False)
    write_evaluation(tmp_path, evaluation, data.splits["val"], data=data, provenance={})
    words = read(tmp_path / "report.html").words()
    assert "Reliability" not in words
    assert "Best and worst pictures" not in words
    assert not (tmp_path / "reliability.png").exists()


def test_nothing_found_and_no_epoch_finished(tmp_path):
    data = object_data(tmp_path / "photos", ("cat",), counts=(0, 0))
    evaluation = object_evaluation(("cat",), images=2, answers=False)
    path = write_training_report(tmp_path, evaluation, data.splits["val"], history=[], data=data, provenance={})
    words = read(path).words()
    assert "No epoch was finished" in words
    assert "What the network saw" not in words
    assert "train 2 0 0.0 2 0" in words


@pytest.mark.parametrize("many", [False, True])
def test_nothing_is_fetched_and_everything_is_escaped_and_described(tmp_path, many):
    classes = (EVIL, "猫", *(f"c{place}" for place in range(40 if many else 0)))
    data = object_data(tmp_path / '<b>" onerror="x', classes)
    path = write_training_report(
        tmp_path, object_evaluation(classes), data.splits["val"], history=HISTORY, data=data,
        answer=nothing_found(classes), batches=[Image.new("RGB", (40, 30))],
        provenance={"settings": {EVIL: EVIL}, "versions": {}, "command": EVIL},
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe"})
    assert not re.search(r"https?://|url\(|@import", text)
    assert not any("onerror" in attributes for _, attributes in page.tags)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(attributes["src"].startswith("data:image/") and attributes["alt"] for attributes in pictures)
    assert all(attributes["aria-label"] for tag, attributes in page.tags if tag == "input")
    assert page.words().count("<script>") >= 4
    assert ("numbered from 0" in page.words()) == many


def test_large_pictures_are_made_smaller_and_not_changed():
    noise = Image.effect_noise((2600, 2600), 90)
    block = page.pictures([("x", noise)])
    assert noise.size == (2600, 2600)
    assert len(block["pictures"][0][1]) < 3_000_000


def test_the_files_of_an_evaluation_of_objects(tmp_path):
    data = object_data(tmp_path / "photos", ("cat", "dog"))
    evaluation = object_evaluation(("cat", "dog"))
    folder = tmp_path / "deep" / "out"
    write_evaluation(folder, evaluation, data.splits["val"], data=data, provenance={})
    assert {path.name for path in folder.iterdir()} == {
        "evaluation.json", "predictions.csv", "classes.png", "confusion.png", "curves.png", "reliability.png",
        "report.html",
    }  # fmt: skip
    assert json.loads((folder / "evaluation.json").read_text("utf-8")) == json.loads(json.dumps(evaluation.to_dict()))
    rows = list(csv.DictReader((folder / "predictions.csv").read_text("utf-8").splitlines()))
    assert list(rows[0]) == ["path", "f1", "objects", "found", "false"]
    assert list(rows[1].values()) == [data.splits["val"].path(1), "0.500000", "4", "2", "1"]


def test_the_files_of_an_evaluation_of_regions(tmp_path):
    data = mask_data(tmp_path / "streets", ("sky", "road"))
    write_evaluation(tmp_path / "out", region_evaluation(data.classes), data.splits["val"], data=data, provenance={})
    assert not (tmp_path / "out" / "curves.png").exists()
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text("utf-8").splitlines()))
    assert list(rows[0]) == ["path", "miou", "pixel_accuracy"]
    assert list(rows[0].values()) == [data.splits["val"].path(0), "0.000000", "0.500000"]
