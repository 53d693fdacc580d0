"""What stands behind the page: answers, files to take away, corrections that can be trained on."""

import csv
import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from served_models import CLASSES, Colours, picture

from dualtoken.data import find_data
from dualtoken.errors import ConfigError, ImageError, MissingExtraError, OutputError
from dualtoken.images import DEFAULT_LIMITS, open_image
from dualtoken.outputs import Detections
from dualtoken.service import app
from dualtoken.service.corrections import Corrections
from dualtoken.service.page import Page


@pytest.fixture
def page(tmp_path) -> Page:
    (tmp_path / "work").mkdir()
    models = {"one": Colours().model(), "two": Colours().model()}
    return Page(models, tmp_path / "work", tmp_path / "corrections", DEFAULT_LIMITS)


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    for colour in CLASSES:
        (tmp_path / f"{colour}.png").write_bytes(picture(colour, (40, 30)))
    return [str(tmp_path / f"{colour}.png") for colour in CLASSES]


def test_models_answer_side_by_side_and_leave_files(page, pictures):
    found, number = page.images(pictures[0], pictures[1:], None)
    assert number == 3
    for seen in page.predict(found):
        assert [answer.label for answer in seen.answers] == list(CLASSES)
        assert [row[:2] for row in seen.table] == [[f"{colour}.png", colour] for colour in CLASSES]
        assert "red.png · red · 100.0%" in seen.pictures[0][1]
        table, packed = seen.files
        assert [row["label"] for row in csv.DictReader(Path(table).read_text().splitlines())] == list(CLASSES)
        assert zipfile.ZipFile(packed).namelist() == [f"{colour}.png" for colour in CLASSES]
        assert open_image(seen.pictures[0][0]).size == (40, 30)


def test_a_broken_picture_does_not_stop_the_rest(page, pictures):
    Path(pictures[0]).write_bytes(b"broken")
    seen, _ = page.predict(page.images(None, pictures, [])[0])
    assert isinstance(seen.answers[0], ImageError)
    assert "not an image" in seen.table[0][1]
    assert len(seen.pictures) == 2


def test_old_files_go(page, pictures, tmp_path):
    for _ in range(12):
        page.predict(page.images(pictures[0])[0])
    assert len(list((tmp_path / "work").iterdir())) == 8


def test_of_too_many_pictures_their_number_is_told(page, pictures):
    found, number = page.images(pictures * 67)
    assert (len(found), number) == (200, 201)


def test_nothing_given_is_said(page):
    with pytest.raises(ConfigError, match="Give a picture first"):
        page.images(None, ["notes.txt"], [])


def test_an_export_has_no_heat_map(page, pictures):
    for model in page.models.values():
        model.export = object()
    with pytest.raises(ConfigError, match="no gradients"):
        page.explain(Path(pictures[0]))


def test_a_picture_that_is_gone_is_said(pictures):
    assert app._chosen(pictures, 1) == Path(pictures[1])
    Path(pictures[1]).unlink()
    with pytest.raises(ConfigError, match="gone"):
        app._chosen(pictures, 1)
    with pytest.raises(ConfigError, match="Predict first"):
        app._chosen(pictures, 3)


def test_a_message_is_no_html():
    told = SimpleNamespace(Error=lambda message, **_: RuntimeError(message))
    with pytest.raises(RuntimeError, match="'&lt;b&gt;cat'"), app._told(told):
        raise ConfigError("Did you mean '<b>cat'?")


def test_corrected_classes_are_a_data_set(page, pictures):
    for name, label in zip(pictures, ("green", "blue", "red"), strict=True):
        page.corrections.add_labels(Path(name), [label])
    assert page.corrections.add_labels(Path(pictures[0]), ["blue"]) == 3  # thought again
    data = find_data(page.corrections.folder)
    assert data.classes == ("blue", "red")
    assert sorted(label for part in data.splits.values() for label in part.labels.tolist()) == [0, 0, 1]


def test_corrected_boxes_are_a_data_set(pictures, tmp_path):
    found = Detections(CLASSES, (30, 40), np.array([[1, 2, 9, 8]]), np.array([0.9]), np.array([1]))
    corrections = Corrections(tmp_path / "boxes", CLASSES)
    corrections.add_boxes(Path(pictures[0]), Page.boxes(found))
    assert corrections.add_boxes(Path(pictures[1]), [("red", 0, 0, 5, 5), ("blue", 1, 1, 4, 9)]) == 2
    assert corrections.add_boxes(Path(pictures[2]), []) == 3
    data = find_data(tmp_path / "boxes")
    assert data.classes == ("blue", "green", "red")
    assert sum(len(samples) for samples in data.splits.values()) == 3


def test_another_table_is_not_written_over(page, pictures, tmp_path):
    (tmp_path / "corrections").mkdir()
    (table := tmp_path / "corrections" / "labels.csv").write_text("path,label,split\na.png,red,train\n")
    with pytest.raises(OutputError, match="path, label, split"):
        page.corrections.add_labels(Path(pictures[0]), ["blue"])
    assert table.read_text() == "path,label,split\na.png,red,train\n"
    assert not (tmp_path / "corrections" / "images").exists()


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([("gren", 0, 0, 5, 5)], "Did you mean 'green'"),
        ([("red", 5, 0, 5, 5)], "has no area"),
        ([("red", 0, 0, float("inf"), 5)], "has no area"),
    ],
)
def test_impossible_corrections_are_refused(tmp_path, pictures, boxes, said):
    with pytest.raises(ConfigError, match=said):
        Corrections(tmp_path, CLASSES).add_boxes(Path(pictures[0]), boxes)
    with pytest.raises(ConfigError, match="Choose a class"):
        Corrections(tmp_path, CLASSES).add_labels(Path(pictures[0]), [])


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError) as caught:
        app.app(tmp_path)
    assert "pip install 'dualtoken[app]'" in caught.value.hint
    assert "GRADIO_TEMP_DIR" not in os.environ
