"""Runs in their order, within their budget, continued and never twice; and one small study that really trains."""

import json
import os
import signal
import threading
import time

import pytest
from study_runs import TINY, FakeTraining, begin, finish

from dualtoken.benchmark import accuracy
from dualtoken.benchmark.rows import read_rows
from dualtoken.errors import ConfigError, OutputError, UserError
from dualtoken.study import study
from dualtoken.study.command import command
from dualtoken.study.command import run as study_command
from dualtoken.study.folders import IN_DOUBT, TO_DO, Run, locked, runs_of, state_of
from dualtoken.study.plans import make_plan
from dualtoken.study.run import parse_budget

TWO = ["mlp", "none"]


@pytest.fixture
def data(make_image_folder):
    return make_image_folder(classes=("ant", "bee"), per_class=4)


@pytest.fixture
def training(monkeypatch):
    fake = FakeTraining()
    monkeypatch.setattr("dualtoken.training.run.train", fake)
    monkeypatch.setattr(accuracy, "row", fake.row)
    monkeypatch.setattr("dualtoken.study.run.check_run", lambda *_: None)
    return fake


def call(data, output, **options):
    said = []
    options = {"only": TWO, "seeds": 2, "say": said.append} | options
    result = study("ablations", data, output, **options)
    return result, "\n".join(said)


# ---------------------------------------------------------------- order, budget, continuing


def test_seed_by_seed_and_the_base_always_first(data, tmp_path, training):
    result, _ = call(data, tmp_path / "s")
    arms = ["base", "mlp", "none"]
    assert training.calls == [(f"{arm}/seed-{seed}", False) for seed in (0, 1) for arm in arms]
    assert [(row["arm"], row["seed"]) for row in result.rows] == [(arm, seed) for seed in (0, 1) for arm in arms]
    assert not result.left


def test_what_is_finished_is_not_trained_again_and_what_was_begun_goes_on(data, tmp_path, training):
    call(data, tmp_path / "s", seeds=1)
    plan = make_plan("ablations")
    begin(tmp_path / "s" / "mlp" / "seed-1", plan.recipe, plan.settings_of(plan.arm("mlp"), 1))
    training.calls.clear()
    training.fingerprint = json.loads((tmp_path / "s" / "study.json").read_text())["data"]["fingerprint"]
    call(data, tmp_path / "s")
    assert training.calls == [("base/seed-1", False), ("mlp/seed-1", True), ("none/seed-1", False)]
    assert len(read_rows(tmp_path / "s" / "rows.jsonl")) == 6


def test_a_run_that_does_not_fit_is_left_for_the_next_call(data, tmp_path, training, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("dualtoken.study.run.time.monotonic", lambda: now[0])
    original = FakeTraining.__call__

    def slow(self, *args, **options):
        original(self, *args, **options)
        now[0] += 60

    monkeypatch.setattr(FakeTraining, "__call__", slow)
    result, said = call(data, tmp_path / "s", budget=150.0)
    assert len(training.calls) == 2  # each takes a minute, as the row of the first one says
    assert [run.name for run in result.left] == ["none, seed 0", "base, seed 1", "mlp, seed 1", "none, seed 1"]
    assert "Left for the next call" in said


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def _started_in(request):
    before = signal.signal(signal.SIGINT, request.param)
    yield
    assert signal.signal(signal.SIGINT, before) is request.param


@pytest.mark.usefixtures("_started_in")
def test_a_run_that_takes_longer_is_stopped_at_the_end_of_the_budget(data, tmp_path, training, monkeypatch):
    def endless(*_, **__):
        for _ in range(500):
            time.sleep(0.02)  # until Ctrl-C
        raise AssertionError("not stopped")

    monkeypatch.setattr("dualtoken.training.run.train", endless)
    result, said = call(data, tmp_path / "s", budget=0.3)
    assert len(result.left) == 6
    assert "The budget is used up" in said


def test_ctrl_c_of_the_user_ends_the_study(data, tmp_path, training):
    training.fail["mlp"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        call(data, tmp_path / "s", budget=100.0)
    assert [row["arm"] for row in read_rows(tmp_path / "s" / "rows.jsonl")] == ["base"]


def test_a_run_that_fails_does_not_stop_the_others(data, tmp_path, training):
    training.fail["mlp"] = UserError("The loss became nan.")
    result, _ = call(data, tmp_path / "s", seeds=1)
    assert [(run.arm.name, reason) for run, reason in result.failed] == [("mlp", "The loss became nan.")]
    assert [row["arm"] for row in result.rows] == ["base", "none"]


def test_a_run_that_saved_nothing_is_made_anew_once_it_is_surely_dead(tmp_path):
    run = runs_of(make_plan("ablations"), tmp_path, 1)[0]
    run.folder.mkdir(parents=True)
    (run.folder / "train.yaml").write_text("")
    assert state_of(run) == IN_DOUBT
    long_ago = time.time() - 3600
    os.utime(run.folder / "train.yaml", (long_ago, long_ago))
    assert state_of(run) == TO_DO


def test_a_run_in_doubt_is_left_alone(data, tmp_path, training):
    folder = tmp_path / "s" / "mlp" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "train.yaml").write_text("")
    result, said = call(data, tmp_path / "s", seeds=1)
    assert [run.arm.name for run in result.left] == ["mlp"]
    assert "somebody may be at work there" in said
    assert (folder / "train.yaml").exists()


# ---------------------------------------------------------------- one folder, one plan


def test_another_plan_or_other_images_are_refused(data, make_image_folder, tmp_path, training):
    call(data, tmp_path / "s", seeds=1)
    with pytest.raises(OutputError, match=r"was begun as another study\. Its settings"):
        call(data, tmp_path / "s", settings={"epochs": 7})
    with pytest.raises(OutputError, match="Its data"):
        call(make_image_folder(classes=("ant", "bee"), per_class=5, name="others"), tmp_path / "s")
    call(data, tmp_path / "s", seeds=2, only=["window"])  # more of the same plan is no other plan


def test_two_studies_do_not_train_in_one_folder(data, tmp_path, training):
    (tmp_path / "s").mkdir()
    with locked(tmp_path / "s"):
        with pytest.raises(OutputError, match="Another study is at work"):
            call(data, tmp_path / "s")
        call(data, tmp_path / "s", train=False)  # looking is allowed
    assert not training.calls


def test_a_folder_with_other_settings_is_not_taken_for_a_finished_run(data, tmp_path):
    plan = make_plan("ablations")
    folder = tmp_path / "s" / "base" / "seed-0"
    begin(folder, plan.recipe, plan.settings_of(plan.arm("base"), 0) | {"epochs": 2})
    finish(folder)
    with pytest.raises(ConfigError, match="holds a run whose epochs is 2, the study's is 1"):
        call(data, tmp_path / "s", train=False)


def test_a_run_made_by_hand_counts(data, tmp_path, monkeypatch):
    """As typed by a person: fewer words for the same, other workers, the precision that the machine chose."""
    fake = FakeTraining()
    monkeypatch.setattr(accuracy, "row", fake.row)
    folder = tmp_path / "s" / "base" / "seed-0"
    typed = {
        "image_size": 64, "epochs": 1, "seed": 0, "validate_every": 100,
        "model_args": {"depths": [1, 2, 1], "channels": [24, 48, 96], "img_size": 64},
    }  # fmt: skip
    begin(folder, "short", typed)
    result, _ = call(data, tmp_path / "other", train=False)
    finish(folder, json.loads((tmp_path / "other" / "study.json").read_text())["data"]["fingerprint"])
    result, _ = call(data, tmp_path / "s", train=False)
    assert [row["arm"] for row in result.rows] == ["base"]
    assert result.rows[0]["commit"] is None  # nobody can say any more
    assert result.rows[0]["command"] == "dualtoken train x.zip --output s/base/seed-0"
    finish(folder, "of other images")
    with pytest.raises(ConfigError, match="on other images"):
        call(data, tmp_path / "s", train=False)


# ---------------------------------------------------------------- rows and commands


def test_rows_go_to_another_file_too_and_only_once(data, tmp_path, training):
    for seeds in (1, 1, 2):
        call(data, tmp_path / "s", seeds=seeds, rows=tmp_path / "all.jsonl")
        training.fingerprint = json.loads((tmp_path / "s" / "study.json").read_text())["data"]["fingerprint"]
    assert read_rows(tmp_path / "all.jsonl") == read_rows(tmp_path / "s" / "rows.jsonl")
    assert len(read_rows(tmp_path / "all.jsonl")) == 6


def test_a_command_makes_the_run_that_the_plan_means(tmp_path):
    import shlex

    from typer.testing import CliRunner

    plan = make_plan("dense", "cpu", "semantic_segmentation")
    run = Run(plan.arms[1], 2, tmp_path / "run")
    words = shlex.split(command(plan, run, tmp_path / "data"))
    assert words[:3] == ["dualtoken", "train", str(tmp_path / "data")]
    assert "image_size=[192, 256]" in words

    from dualtoken.cli import app

    seen = {}

    def train(data, output, *, recipe, resume, **settings):
        seen.update(settings)
        raise UserError("far enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dualtoken.training.run.train", train)
        CliRunner().invoke(app, words[1:])
    assert seen == plan.settings_of(run.arm, 2)


def test_the_plan_can_be_looked_at_without_a_trace(data, tmp_path, capsys):
    failed = study_command("ablations", data, tmp_path / "s", seeds=2, dry_run=True)
    said = capsys.readouterr().out
    assert failed == 0
    assert said.count("to do     dualtoken train") == 26
    assert "26 runs of 13 arms, 0 finished" in said
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("25m", 1500), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("10min", 600)]
)
def test_times_as_people_say_them(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0m", "2", "-3h"])
def test_other_times_are_refused(text):
    with pytest.raises(ConfigError, match="Type: 2h"):
        parse_budget(text)


# ---------------------------------------------------------------- all of it, small


def test_a_small_study_trains_and_is_shown(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dualtoken.report.training_report", lambda *args, **options: None)
    settings = {"model_args": TINY, "image_size": 32, "batch_size": 2, "workers": 0, "val_fraction": 0.25}
    options = {"seeds": 1, "only": ["mlp"], "settings": settings, "workers": 0, "device": "cpu"}
    failed = study_command("ablations", data, tmp_path / "s", markdown=tmp_path / "table.md", **options)
    said = capsys.readouterr().out
    assert failed == 0
    assert "Comparing mlp, seed 0 with base" in said
    rows = read_rows(tmp_path / "s" / "rows.jsonl")
    assert [row["arm"] for row in rows] == ["base", "mlp"]
    assert rows[0]["steps"] == 3
    assert str(tmp_path) not in json.dumps(rows)
    table = (tmp_path / "table.md").read_text()
    assert "| mlp | tokens: normal MLP |" in table
    assert "one seed" in table
    study_command("ablations", data, tmp_path / "s", table=True, **options)
    again = capsys.readouterr().out
    assert "Comparing" not in again  # kept from the first time
    assert threading.active_count() < 20
