"""Names of files and classes that try to steer a terminal, through the verbs that print and write them."""

import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from conftest import invent_image
from dualtoken import cli
from dualtoken.data import find_data
from dualtoken.errors import DataError

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
CLASSES = ("cat\x1b[2J\x1b]0;owned\x07", "dog\u202egod\x9b31m")
SMALL = "{channels: [8, 16, 32], depths: [1, 1, 1], heads: [1, 2, 2], neck: 16}"


@pytest.fixture
def data(tmp_path) -> Path:
    root = tmp_path / "images"
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(6):
            invent_image(label, number).save(root / name / f"{number}\x1b[31m\r\u202e.png")
    return root


def said(capsys, *arguments: str | Path) -> str:
    """All that a verb says, once it is sure that nothing in it steers."""
    with suppress(SystemExit):  # of a bad image among good ones
        cli.app([str(argument) for argument in arguments], standalone_mode=False)
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert not STEERING.search(text), STEERING.search(text)
    return text


def test_predicting(data, tmp_path, capsys):
    (data / CLASSES[0] / "broken\x1b[5m.png").write_bytes(b"no image")
    model = "dualtoken-vit-t-cifar10"
    said(capsys, "predict", model, data, "--output", tmp_path / "a.csv")
    said(capsys, "predict", model, data, "--json")
    table = (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert r"\u001b[31m\u000d\u202e.png" in table
    assert not STEERING.search(table)


def test_training_evaluating_and_answering(data, tmp_path, capsys):
    run = tmp_path / "run"
    text = said(
        capsys, "train", data, "--output", run, "--recipe", "smoke", "--set", f"model_args={SMALL}",
        "--image-size", "32", "--batch-size", "4", "--epochs", "1", "--workers", "0",
    )  # fmt: skip
    assert r"cat\u001b[2J" in text
    said(capsys, "evaluate", run, data, "--workers", "0", "--output", tmp_path / "evaluation")
    said(capsys, "predict", run, data)
    for place in (run, tmp_path / "evaluation"):
        for page in (*place.glob("*.html"), *place.glob("*.csv"), *place.glob("*.json"), *place.glob("*.yaml")):
            assert not STEERING.search(page.read_text(encoding="utf-8")), page


def test_errors(data, tmp_path, capsys):
    (data / CLASSES[0] / "broken\x1b[5m.png").write_bytes(b"no image")
    with pytest.raises(DataError) as error:
        find_data(data)
    assert not STEERING.search(str(error.value))
    assert "broken" in str(error.value)


def test_names_that_are_not_utf8_are_refused_by_their_escaped_name(make_image_folder):
    root = make_image_folder()
    Image.new("RGB", (32, 32)).save(os.fsencode(root / "cat") + b"/a\xff.png")
    with pytest.raises(DataError, match=r"udcff|xff") as error:
        find_data(root)
    assert not STEERING.search(str(error.value))
    assert len(find_data(root, on_bad_image="skip").bad_images) == 1


def test_a_pipe_with_the_name_of_an_archive_hangs_nobody(tmp_path):
    for name in ("a.zip", "pipe", "a.csv"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match=name):
            find_data(tmp_path / name)
