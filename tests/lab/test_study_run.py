"""Runs in their order, within their budget, continued and never twice; and one small study that really trains."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from study_runs import TINY, FakeTraining, begin, finish

from dualtoken.data import find_data
from dualtoken.errors import ConfigError, OutputError, UserError
from dualtoken.lab import accuracy
from dualtoken.lab.rows import read_rows
from dualtoken.lab.study import parse_budget, study
from dualtoken.lab.study_command import command
from dualtoken.lab.study_command import run as study_command
from dualtoken.lab.study_folders import IN_DOUBT, TO_DO, Run, locked, runs_of, state_of
from dualtoken.lab.study_plans import make_plan

TWO = ["mlp", "none"]


@pytest.fixture
def data(make_image_folder):
    return make_image_folder(classes=("ant", "bee"), per_class=4)


@pytest.fixture
def training(monkeypatch):
    fake = FakeTraining()
    monkeypatch.setattr("dualtoken.training.run.train", fake)
    monkeypatch.setattr(accuracy, "row", fake.row)
    monkeypatch.setattr("dualtoken.lab.study.check_run", lambda *_: None)
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
    monkeypatch.setattr("dualtoken.lab.study.time.monotonic", lambda: now[0])
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
        end = time.monotonic() + 10
        while time.monotonic() < end:  # until Ctrl-C
            pass
        raise AssertionError("not stopped")

    monkeypatch.setattr("dualtoken.training.run.train", endless)
    result, said = call(data, tmp_path / "s", budget=0.3)
    assert len(result.left) == 6
    assert "The budget is used up. By the same `dualtoken study`, called again, base, seed 0 is begun" in said


def test_a_run_that_had_begun_is_said_to_be_continued(data, tmp_path, monkeypatch):
    def stopped(data, output, *, recipe, **settings):
        begin(output, recipe, {key: value for key, value in settings.items() if key != "workers"})
        raise KeyboardInterrupt

    monkeypatch.setattr("dualtoken.training.run.train", stopped)
    said = []
    with pytest.raises(KeyboardInterrupt):
        call(data, tmp_path / "s", say=said.append)
    assert said[-1] == (
        "The study was stopped. By the same `dualtoken study`, called again, base, seed 0 is continued and the rest"
        " follows."
    )


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
    with pytest.raises(OutputError) as error:
        call(data, tmp_path / "s", settings={"epochs": 7, "batch_size": 8, "model_args": {"neck": 8}})
    assert (
        "another study: epochs: 1 in the folder, 7 now; model_args.neck: not set in the folder, 8 now;"
        " batch_size: not set in the folder, 8 now." in str(error.value)
    )
    with pytest.raises(OutputError, match=r"another study: scale: \"cpu\" in the folder, \"gpu\" now\."):
        call(data, tmp_path / "s", scale="gpu")
    with pytest.raises(OutputError, match="another study: other images"):
        call(make_image_folder(classes=("ant", "bee"), per_class=5, name="others"), tmp_path / "s")
    call(data, tmp_path / "s", seeds=2, only=["window"])  # more of the same plan is no other plan


def test_an_arm_that_came_since_is_no_other_plan_and_one_that_changed_is(data, tmp_path, training):
    call(data, tmp_path / "s", seeds=1, only=["mlp"])
    file = tmp_path / "s" / "study.json"
    plan = json.loads(file.read_text())
    del plan["arms"]["window"]
    file.write_text(json.dumps(plan))
    call(data, tmp_path / "s", seeds=1, only=["window"])
    assert "window" in json.loads(file.read_text())["arms"]
    plan["arms"]["mlp"] = {"model_args": {"token_mlp": "none"}}
    file.write_text(json.dumps(plan))
    with pytest.raises(OutputError, match=r"another study: arms\.mlp"):
        call(data, tmp_path / "s", seeds=1, only=["window"])


def test_two_studies_do_not_train_in_one_folder(data, tmp_path, training):
    call(data, tmp_path / "s", seeds=1, only=["mlp"])
    training.calls.clear()
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
    finish(folder, find_data(data, task="classification").fingerprint)
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
    (tmp_path / "data").mkdir()
    words = shlex.split(command(plan, run, tmp_path / "data"))
    assert words[:3] == ["dualtoken", "train", str(tmp_path / "data")]
    assert "image_size=[192, 256]" in words

    from dualtoken.cli import app

    seen = {}

    def train(data, output, *, recipe, resume=None, from_scratch=False, **settings):
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
    assert said.startswith("26 runs of 13 arms, 0 finished.")
    assert not (tmp_path / "s").exists()
    study_command("ablations", data, tmp_path / "s", seeds=1, only=["base"], dry_run=True)
    assert capsys.readouterr().out.startswith("1 run of 1 arm, 0 finished.")


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("25m", 1500), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("10min", 600)]
)
def test_times_as_people_say_them(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0m", "0", "-3h"])
def test_other_times_are_refused(text):
    with pytest.raises(ConfigError, match="Type: 2h"):
        parse_budget(text)


def test_a_time_without_a_unit_is_told_so():
    with pytest.raises(ConfigError, match=r"its unit is missing\.\nType: 90s, 90m"):
        parse_budget("90")


# ---------------------------------------------------------------- what is refused, before anything is written


def everything(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("dry_run", [False, True], ids=["real", "dry"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": "folder"}, "rows is .*which is a folder"),
        ({"rows": "nowhere/all.jsonl"}, "there is no folder"),
        ({"rows": "broken.jsonl"}, "cannot be read as rows"),
        ({"markdown": "folder"}, "markdown is .*which is a folder"),
        ({"markdown": "foreign.md"}, "was not written by this study"),
        ({"output": "foreign.md"}, "output is .*which is a file"),
        ({"output": "images"}, "output is .*the folder of the images"),
        ({"output": "images/ant/study"}, "output is .*among the images"),
        ({"output": "folder"}, "holds other things than a study, such as 'note.txt'"),
        ({"output": "arms"}, "holds other things than a study, such as 'none'"),
        ({"device": "cuda:77"}, "'cuda:77' cannot be used"),
        ({"only": []}, "only is"),
        ({"settings": {"batch_size": 0}}, "batch_size is 0"),
        ({"table": True}, "There is no study in"),
    ],
)
def test_refused(data, tmp_path, training, options, said, dry_run):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note.txt").touch()
    (tmp_path / "arms" / "none" / "cats").mkdir(parents=True)  # classes of somebody's images, called as an arm
    (tmp_path / "foreign.md").write_text("# Mine\n")
    (tmp_path / "broken.jsonl").write_text("{")
    options = {key: tmp_path / value if key in ("rows", "markdown", "output") else value
               for key, value in options.items()}  # fmt: skip
    before = everything(tmp_path)
    with pytest.raises(UserError, match=f"(?s){said}") as error:
        study_command("ablations", data, options.pop("output", tmp_path / "s"), dry_run=dry_run, **options)
    assert "--output" not in str(error.value)
    assert everything(tmp_path) == before
    assert not training.calls


def test_a_dry_run_refuses_another_plan_too(data, tmp_path, training):
    call(data, tmp_path / "s", seeds=1)
    with pytest.raises(OutputError, match="another study: epochs: 1 in the folder, 7 now"):
        study_command("ablations", data, tmp_path / "s", settings={"epochs": 7}, dry_run=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": -1.0}, "budget is -1.0, expected a number of seconds above 0"),
        ({"budget": "2h"}, "budget is '2h', expected"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"seeds": 0}, "seeds is 0, expected"),
        ({"workers": -1}, "workers is -1, expected"),
        ({"only": "mlp"}, "only is 'mlp', expected names"),
    ],
)
def test_arguments_from_python(data, tmp_path, options, said):
    with pytest.raises(ConfigError) as error:
        call(data, tmp_path / "s", **options)
    assert said in str(error.value)
    assert "--" not in error.value.message
    assert not (tmp_path / "s").exists()


def test_the_table_needs_no_settings_again(data, tmp_path, training):
    call(data, tmp_path / "s", seeds=1, settings={"epochs": 7}, scale="gpu")
    training.fingerprint = find_data(data, task="classification").fingerprint
    result, _ = call(data, tmp_path / "s", seeds=1, train=False)
    assert (result.plan.scale, result.plan.settings["epochs"]) == ("gpu", 7)
    assert len(result.rows) == 3
    with pytest.raises(OutputError, match="epochs: 7 in the folder, 8 now"):
        call(data, tmp_path / "s", train=False, settings={"epochs": 8}, scale="gpu")


def test_its_own_page_is_renewed(data, tmp_path, training, monkeypatch):
    monkeypatch.setattr("dualtoken.lab.study_command.compare_single_seeds", lambda *_, **__: {})
    page = tmp_path / "s" / "table.md"  # in a folder that the study makes
    for only in (["mlp"], ["mlp", "none"]):
        study_command("ablations", data, tmp_path / "s", seeds=1, only=only, markdown=page)
    assert "| none |" in page.read_text()
    with pytest.raises(OutputError, match="not written by this study"):
        study_command("ablations", data, tmp_path / "other", seeds=1, markdown=page)


def test_mistakes_are_answered_without_torch(tmp_path):
    lines = """
        import sys
        from dualtoken.errors import UserError
        from dualtoken.lab.study_command import run
        from dualtoken.lab.pages import rows_for
        for name, options in (("ablation", {}), ("peers", {"only": ["pvt"]}), ("peers", {"budget": "9"}),
                              ("peers", {"settings": {"epoch": 1}})):
            try:
                run(name, None, "s", **options)
            except UserError as error:
                print(error.message)
        assert "torch" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(lines)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("Unknown") == 3
    assert "unit is missing" in done.stdout


# ---------------------------------------------------------------- all of it, small


def test_a_small_study_trains_and_is_shown(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dualtoken.evaluation.reports.write_training_report", lambda *args, **options: None)
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
