"""A run that is killed and continued is compared with one that is left alone."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

import dualtoken
from dualtoken.cli import app
from dualtoken.data import pack
from dualtoken.errors import ConfigError
from dualtoken.training import verify_resume as module
from dualtoken.training.verify_resume import Resumed, verify_resume

SMALL = {
    "recipe": "smoke",
    "model_args": {"channels": [8, 16, 32], "depths": [1, 1, 1], "heads": [1, 2, 2], "neck": 16},
    "batch_size": 2,
    "workers": 0,
    "device": "cpu",
}
FEW = {"channels": 64, "score_threshold": 1e-4, "max_detections": 10}
HEADS = {
    "classification": {},
    "multilabel": {},
    "detection": {"head_args": FEW},
    "instance_segmentation": {"head_args": FEW},
    "semantic_segmentation": {},
}
FOUND = Resumed(steps=1200, killed=(3, 1040), weights=0.0, state=0.0, figures=True)


@pytest.fixture
def data(make_image_folder):
    return make_image_folder(classes=("cat", "dog"), per_class=8)


@pytest.mark.slow  # it starts four processes
def test_killed_and_continued_it_is_equal(data):
    found = verify_resume(data, kills=2, epochs=12, val_fraction=0.25, **SMALL)
    assert found.passed, found.summary()
    assert 1 <= len(found.killed) <= 2
    assert all(0 < step <= found.steps for step in found.killed)


@pytest.mark.slow  # twenty kills: each case is killed twice, and takes as long as six runs
@pytest.mark.parametrize("stored", ["files", "shards"])
@pytest.mark.parametrize("task", [*HEADS])
def test_wherever_it_is_killed_it_is_equal(task, stored, data_of, tmp_path):
    data = data_of(task)
    if stored == "shards":
        data = pack(data, tmp_path / "shards", task=task, progress=False).output
    settings = SMALL | HEADS[task] | {"task": task, "lr": 1e-3, "image_size": 64, "workers": 1, "epochs": 10}
    found = verify_resume(data, kills=2, val_fraction=0.25, **settings)
    assert found.passed, found.summary()
    print(task, stored, found.summary())


def test_the_table_of_a_run_is_compared_too(tmp_path, make_image_folder):
    data = make_image_folder(classes=("cat", "dog"), per_class=8)
    for name in ("one", "two"):
        dualtoken.train(data, tmp_path / name, epochs=1, **SMALL)
    assert module._figures(tmp_path / "one") == module._figures(tmp_path / "two")
    table = tmp_path / "two" / "metrics.csv"
    header, row = table.read_text().splitlines()
    table.write_text(f"{header}\n{row.replace('1,', '2,', 1)}\n")
    assert module._figures(tmp_path / "one") != module._figures(tmp_path / "two")


@pytest.mark.parametrize("wrong", [{"weights": 1e-7}, {"state": 1e-7}, {"figures": False}])
def test_whatever_differs_is_said(wrong):
    assert FOUND.passed
    assert "continued from step 3, 1,040 of 1,200: equal" in FOUND.summary()
    found = replace(FOUND, **wrong)
    assert not found.passed
    assert "not equal" in found.summary()
    assert found.to_dict()["sentence"] == found.summary()


@pytest.mark.parametrize("killed", [(), (1200,)])
def test_a_run_that_was_not_killed_before_its_last_step_shows_nothing(killed):
    found = replace(FOUND, killed=killed)
    assert not found.passed
    assert "more --epochs" in found.summary()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"kills": 0}, "--kills is 0"), ({"devices": 2}, "one process"), ({"limit_minutes": 1.0}, "clock decides"),
     ({"batch_sise": 3}, "batch_sise")],
)  # fmt: skip
def test_mistakes_are_said_before_anything_is_started(data, monkeypatch, wrong, words):
    monkeypatch.setattr(module, "_process", lambda *args: pytest.fail("a run was started"))
    with pytest.raises(ConfigError, match=words):
        verify_resume(data, **SMALL | wrong)


@pytest.mark.parametrize(("found", "code"), [(FOUND, 0), (replace(FOUND, state=1.0), 1)])
def test_on_the_command_line_the_exit_code_says_it(monkeypatch, found, code):
    monkeypatch.setattr(module, "verify_resume", lambda *args, **settings: found)
    shown = CliRunner().invoke(app, ["verify-resume", "photos"])
    assert shown.exit_code == code, shown.output
    assert found.summary() in shown.output
