import csv
import io
import json
import sys

import numpy as np
import pytest
from rich.console import Console

from dualtoken.answers import kind_of
from dualtoken.errors import ImageError, MissingExtraError, OutputError
from dualtoken.outputs import Classification
from dualtoken.report import tables
from dualtoken.report.tables import to_json_line

CLASSES = ("cat", 'the "dog", etc', "Vögelchen 猫")
ANSWERS = [
    Classification(CLASSES, np.array([0.125, 0.625, 0.25], np.float32), "a, b\n.jpg"),
    ("broken.jpg", ImageError("'broken.jpg' is damaged.", "Leave it out.")),
    Classification(CLASSES, np.array([0, 0, 1], np.float32)),
]


KIND = kind_of("classification")


def prediction_table(path, **options):
    return tables.prediction_table(path, KIND, CLASSES, **options)


def print_table(answers, **options):
    tables.print_table(answers, KIND, **options)


def write(path, **options):
    with prediction_table(path, **options) as add:
        for answer in ANSWERS:
            add(answer)
    return path


def test_json_lines(tmp_path):
    lines = write(tmp_path / "deep" / "t.JSONL", top=2).read_text(encoding="utf-8").splitlines()
    first, second, third = map(json.loads, lines)
    assert first == ANSWERS[0].to_dict(2)
    assert second == {"path": "broken.jpg", "error": "'broken.jpg' is damaged.\nLeave it out."}
    assert (third["path"], third["label"]) == (None, "Vögelchen 猫")
    assert lines[0] == to_json_line(ANSWERS[0], 2)


def test_csv(tmp_path):
    text = write(tmp_path / "t.csv", top=2).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert list(rows[0]) == ["path", "label", "score", "label_2", "score_2", "error"]
    assert list(rows[0].values()) == ["a, b\n.jpg", 'the "dog", etc', "0.625000", "Vögelchen 猫", "0.250000", ""]
    assert rows[1] == {"path": "broken.jpg", "error": "'broken.jpg' is damaged."} | dict.fromkeys(
        ("label", "score", "label_2", "score_2"), ""
    )


def test_parquet(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("dualtoken.report.tables._PARQUET_ROWS", 2)  # so that the three rows are two groups
    rows = parquet.read_table(write(tmp_path / "t.parquet", top=5)).to_pylist()
    assert [row["label"] for row in rows] == ['the "dog", etc', None, "Vögelchen 猫"]
    assert rows[0]["score_3"] == 0.125
    assert rows[0]["label_4"] is None  # there are three classes
    assert rows[1]["error"] == "'broken.jpg' is damaged."


def test_parquet_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"dualtoken\[parquet\]"):
        write(tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_error_leaves_nothing_behind_and_what_was_there_as_it_was(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    path.write_text("before")

    def fail():
        with prediction_table(path) as add:
            add(ANSWERS[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "says"), [("t.cvs", "Did you mean '.csv'"), ("t", "Add one")])
def test_another_suffix_is_refused(tmp_path, name, says):
    with pytest.raises(OutputError, match=says):
        prediction_table(tmp_path / name)


def test_table_on_the_screen():
    console = Console(file=io.StringIO(), width=100)
    bold = Classification(("[bold]x", "y"), np.array([0.75, 0.25], np.float32), "[red].jpg")
    print_table([*ANSWERS, bold], top=2, console=console)
    text = console.file.getvalue()
    for expected in ("62.5%", "Vögelchen 猫 25.0%", "'broken.jpg' is damaged.", "[bold]x", "[red].jpg"):
        assert expected in text
    print_table(ANSWERS, top=1, console=console)
