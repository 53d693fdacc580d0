"""Whole runs on invented images: what is written, that it repeats, and that it continues exactly."""

import csv
import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import dualtoken
from dualtoken.errors import (
    ConfigError,
    DataError,
    ImageError,
    ModelError,
    OutputError,
    Terminated,
    UserError,
    cannot_write,
)
from dualtoken.files import alone
from dualtoken.model_folder import write_tensors
from dualtoken.training.forecast import Forecast
from dualtoken.training.loop import Loop
from dualtoken.training.state import run_counters

SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 1], "heads": [1, 2, 2], "neck": 16}
SETTINGS = {
    "recipe": "smoke", "model_args": SMALL, "batch_size": 4, "workers": 0, "base_lr": 0.01, "drop_path": 0.2,
    "mixup": 0.2, "cutmix": 1.0, "rand_augment": "rand-m5", "random_erasing": 0.3, "val_fraction": 0.25,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Leave the report out, the slowest part of a small run; one test asks for it."""
    if "report" not in request.node.name:
        monkeypatch.setattr("dualtoken.evaluation.reports.write_training_report", lambda *args, **options: None)


@pytest.fixture
def data(make_image_folder):
    return make_image_folder(classes=("cat", "dog", "emu"), per_class=8)


def train(data, output=None, **settings):
    return dualtoken.train(data, output, **SETTINGS | settings)


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "state.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def history(run) -> list[dict[str, str]]:
    """The rows of metrics.csv without the only figure that is a stopwatch's."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [row.pop("images_per_second") for row in rows]
    assert all(float(rate) > 0 for rate in rates if rate)
    assert any(rates)
    return rows


def stop_after(monkeypatch, batches: int, number: int = signal.SIGINT) -> None:
    """Send this process a real signal, that of Ctrl-C, after so many batches."""
    original, done = Loop._batch, [0]

    def batch(self, images, labels):
        moved = original(self, images, labels)
        done[0] += 1
        if done[0] == batches:
            os.kill(os.getpid(), number)
        return moved

    monkeypatch.setattr(Loop, "_batch", batch)


# ---------------------------------------------------------------- what a run leaves behind


def test_a_run_is_a_model_folder_with_its_report(data, tmp_path):
    result = train(data, tmp_path / "run")
    run = result.folder
    written = {path.name for path in run.iterdir()}
    assert written >= {"model.safetensors", "config.json", "train.yaml", "metrics.csv", "report.html", "last"}
    assert not [path for path in run.rglob("*") if path.suffix in (".pt", ".pth", ".ckpt", ".pkl")]
    config = json.loads((run / "config.json").read_text())
    assert config["label_names"] == ["cat", "dog", "emu"]
    provenance = config["dualtoken"]["provenance"]
    assert provenance["seed"] == 0
    assert provenance["data"]["images"] == {"train": 18, "val": 6}
    assert 0 <= config["dualtoken"]["metrics"]["top1"]["value"] <= 1
    assert [row["epoch"] for row in history(run)] == ["1", "2"]
    assert dualtoken.load(run).predict(str(data / "cat" / "0000.jpg")).label in ("cat", "dog", "emu")


def test_it_learns(data, tmp_path):
    result = train(data, tmp_path / "run", epochs=30, lr=0.002, drop_path=0, mixup=0, cutmix=0, rand_augment=None,
                   random_erasing=0)  # fmt: skip
    assert result.metrics["top1"]["value"] >= 0.8
    assert float(history(result.folder)[-1]["train_loss"]) < 0.7 * float(history(result.folder)[0]["train_loss"])


@pytest.mark.parametrize("model", ["mobilenetv4_conv_small", "test_resnet", "deit_tiny_patch16_224"])
def test_any_model_of_timm(data, tmp_path, model):
    result = train(data, tmp_path / "run", model=model, model_args={}, epochs=1, image_size=64)
    assert json.loads((result.folder / "config.json").read_text())["architecture"] == model
    assert dualtoken.load(result.folder).predict(str(data / "cat" / "0000.jpg")).score > 0


@pytest.mark.parametrize("settings", [{"layer_decay": 0.7}, {"precision": "bf16-mixed"}, {"ema_decay": None},
                                      {"image_size": (32, 64)}, {"batch_size": 1}, {"freeze": "backbone"}])  # fmt: skip
def test_every_way_to_train(data, tmp_path, settings):
    result = train(data, tmp_path / "run", **{"epochs": 1} | settings)
    assert history(result.folder)[0]["train_loss"]


def test_the_averaged_weights_keep_up_in_a_short_run(data, tmp_path):
    """Averaging warms up: after few steps the average is near the weights and not near the start."""
    settings = {"ema_decay": 0.9999, "epochs": 8, "warmup_epochs": 0}
    state = weights(train(data, tmp_path / "run", lr=0.01, **settings).folder)
    start = weights(train(data, tmp_path / "start", lr=1e-12, **settings).folder)
    for name in ("head.weight", "head.bias"):
        moved = (state[f"model.{name}"] - start[f"model.{name}"]).norm()
        assert (state[f"model.{name}"] - state[f"ema.{name}"]).norm() < 0.3 * moved


def test_every_step_has_its_rate_of_the_schedule(data, tmp_path, monkeypatch):
    found = []
    original = Loop._batch

    def batch(self, images, labels):
        moved = original(self, images, labels)
        found.append(self.optimizer.param_groups[0]["lr"])
        return moved

    monkeypatch.setattr(Loop, "_batch", batch)
    train(data, tmp_path / "run", epochs=3, warmup_epochs=0)
    assert len(set(found)) == len(found) == 12
    assert found == sorted(found, reverse=True)


# ---------------------------------------------------------------- it repeats


def test_same_seed_same_bits_and_another_seed_others(data, tmp_path):
    first, second = train(data, tmp_path / "a"), train(data, tmp_path / "b")
    assert same(weights(first.folder), weights(second.folder))
    assert history(first.folder) == history(second.folder)
    assert not same(weights(first.folder), weights(train(data, tmp_path / "c", seed=1).folder))


def test_workers_change_nothing(data, tmp_path):
    assert same(weights(train(data, tmp_path / "a").folder), weights(train(data, tmp_path / "b", workers=2).folder))


@pytest.mark.parametrize("batches", [3, 4, 12])
def test_interrupted_and_resumed_equals_uninterrupted(data, tmp_path, monkeypatch, batches):
    whole = train(data, tmp_path / "whole", epochs=3, accumulate=2)
    with monkeypatch.context() as patched:
        stop_after(patched, batches)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "part", epochs=3, accumulate=2)
    assert len(history(whole.folder)) == 3
    assert not (tmp_path / "part" / "report.html").exists()
    assert dualtoken.load(tmp_path / "part").classes == ("cat", "dog", "emu")  # loadable, however early it was stopped
    resumed = dualtoken.train(data, resume=tmp_path / "part")
    assert same(weights(whole.folder), weights(resumed.folder))
    assert history(whole.folder) == history(resumed.folder)
    assert same(load_file(whole.folder / "model.safetensors"), load_file(resumed.folder / "model.safetensors"))
    assert whole.metrics == resumed.metrics


def test_sigterm_saves_as_ctrl_c_does(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stop_after(patched, 2, signal.SIGTERM)
        with pytest.raises(Terminated):
            train(data, tmp_path / "part", epochs=2)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert run_counters(tmp_path / "part").step == 2
    assert dualtoken.train(data, resume=tmp_path / "part").metrics


def test_a_damaged_last_state_costs_the_steps_since_the_one_before(data, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        stop_after(patched, 5)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "part", epochs=3)
    state = tmp_path / "part" / "last" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    resumed = dualtoken.train(data, resume=tmp_path / "part")
    assert "state.safetensors' is damaged" in (said := capsys.readouterr().out)
    assert "The state before it is used" in said
    assert len(history(resumed.folder)) == 3


def test_resumed_in_another_process_with_workers(data, tmp_path, monkeypatch):
    """Nothing that matters lives in the process: neither generators nor loaders."""
    whole = train(data, tmp_path / "whole", epochs=2)
    with monkeypatch.context() as patched:
        stop_after(patched, 5)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "part", epochs=2)
    run_script(tmp_path, f"dualtoken.train({str(data)!r}, resume={str(tmp_path / 'part')!r}, workers=2)")
    assert same(weights(whole.folder), weights(tmp_path / "part"))


def test_a_resumed_run_keeps_its_settings(data, tmp_path):
    run = train(data, tmp_path / "run").folder
    with pytest.raises(ConfigError, match="batch_size would change"):
        dualtoken.train(data, resume=run, batch_size=8)
    with pytest.raises(ConfigError, match="no run to continue"):
        dualtoken.train(data, resume=tmp_path)


def test_a_finished_run_says_so_and_how_to_go_on_and_writes_nothing(data, tmp_path, capsys):
    result = train(data, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    for settings in ({}, {"workers": 1}, {"device": "cpu"}):
        again = dualtoken.train(data, resume=result.folder, **settings)
        assert again.metrics == result.metrics
        said = capsys.readouterr().out
        assert re.search(r"is finished: \d+ epochs?, \d+ steps?\. Nothing was written", said)
        assert f"--model {result.folder} --output NEW" in said
    with pytest.raises(ConfigError, match=r"epochs would change.*\n.*--output NEW"):
        dualtoken.train(data, resume=result.folder, epochs=5)
    with pytest.raises(ConfigError, match="recipe has no effect"):
        dualtoken.train(data, resume=result.folder, recipe="small")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert not list(tmp_path.glob(".*"))


def test_two_runs_into_one_folder(data, tmp_path):
    with alone(tmp_path / "run"), pytest.raises(OutputError, match="being written by process"):
        train(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_the_clock_chose_can_be_repeated_without_it(data, tmp_path, monkeypatch):
    monkeypatch.setattr("dualtoken.training.run.measure", lambda loop: Forecast(1.0, 1.0, 0))
    limited = train(data, tmp_path / "limited", epochs=10, limit_minutes=0.2)
    taken = run_counters(limited.folder).step
    text = (limited.folder / "train.yaml").read_text()
    assert f"steps={taken} " in text
    free = dualtoken.train(
        data, tmp_path / "free", recipe=limited.folder / "train.yaml", limit_minutes=None, steps=taken
    )
    assert run_counters(free.folder).step == taken < 50


def test_a_disk_that_fills_up_ends_the_run_with_what_to_do(data, tmp_path, monkeypatch):
    written = []

    def full_later(path, *arguments):
        if written:
            raise cannot_write(path, OSError(errno.ENOSPC, "No space left on device"))
        written.append(write_tensors(path, *arguments))

    monkeypatch.setattr("dualtoken.training.state.write_tensors", full_later)
    with pytest.raises(OutputError, match=r"no space is left.*\n.*--resume"):
        train(data, tmp_path / "run", epochs=2)
    assert run_counters(tmp_path / "run").epoch == 1


def test_a_batch_that_no_memory_holds_is_refused_before_the_first_step(data, tmp_path, monkeypatch):
    monkeypatch.setattr("dualtoken.training.forecast.memory_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match=r"do not fit into memory.*\n.*--batch-size 1"):
        train(data, tmp_path / "run", batch_size=5)
    assert not (tmp_path / "run").exists()


def test_resuming_on_other_images_is_refused(data, tmp_path):
    run = train(data, tmp_path / "run").folder
    (run / "evaluation.json").unlink()  # as if it had been stopped before its end
    image = data / "cat" / "0000.jpg"
    content = bytearray(image.read_bytes())
    content[-5] ^= 1  # the same size, another picture
    image.write_bytes(content)
    with pytest.raises(DataError, match="not the images"):
        dualtoken.train(data, resume=run)
    (data / "cat" / "0000.jpg").unlink()
    with pytest.raises(DataError, match="not the images"):
        dualtoken.train(data, resume=run)


# ---------------------------------------------------------------- limits and fine-tuning


def test_a_limit_of_time_plans_the_schedule_to_its_end(data, tmp_path, monkeypatch):
    measured = Forecast(batch_seconds=2.0, validation_seconds=4.0, peak_bytes=0)
    assert measured.steps_within(60, batches_between=4, accumulate=1) == 18  # (60 - 4) / (2 + 4 / 4)
    assert measured.steps_within(60, batches_between=4, accumulate=2) == 9
    monkeypatch.setattr("dualtoken.training.run.measure", lambda loop: measured)
    monkeypatch.setattr(Loop, "_affordable_steps", lambda self: self.counters.total_steps)
    result = train(data, tmp_path / "run", epochs=1000, limit_minutes=1)
    rows = history(result.folder)
    assert int(rows[-1]["step"]) == 17  # of 57 seconds: the last twentieth is a reserve
    assert float(rows[-1]["lr"]) < 0.05 * max(float(row["lr"]) for row in rows)


def test_the_limit_of_time_holds_even_if_the_forecast_was_wrong(data, tmp_path, monkeypatch):
    monkeypatch.setattr("dualtoken.training.run.measure", lambda loop: Forecast(1e-9, 1e-9, 0))
    monkeypatch.setattr(Loop, "_affordable_steps", lambda self: self.counters.total_steps)
    result = train(data, tmp_path / "run", epochs=10**6, limit_minutes=0.02)
    assert "the limit of" in result.stopped
    assert (result.folder / "model.safetensors").exists()


@pytest.mark.parametrize("forecast", [1e-9, 1e9], ids=["far too quick", "far too slow"])
def test_a_wrong_forecast_is_planned_anew_to_the_end_of_the_cosine(data, tmp_path, monkeypatch, capsys, forecast):
    clock = itertools.count(step=0.01)  # each look at the clock takes ten milliseconds
    monkeypatch.setattr("dualtoken.training.loop.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("dualtoken.training.run.measure", lambda loop: Forecast(forecast, forecast, 0))
    result = train(data, tmp_path / "run", epochs=10**6, limit_minutes=0.05)
    assert result.stopped == ""
    assert "The pace is not the forecast one" in capsys.readouterr().out
    rows = history(result.folder)
    rates = [float(row["lr"]) for row in rows]
    assert rates[-1] < 0.05 * max(rates)
    assert 50 < int(rows[-1]["step"]) < 150  # three seconds, at two or three looks a step


def test_early_stop(data, tmp_path):
    result = train(data, tmp_path / "run", epochs=40, early_stop=2, lr=1e-9)
    assert "no better result" in result.stopped
    epochs = len(history(result.folder))
    assert epochs < 10
    assert dualtoken.train(data, resume=result.folder).stopped == result.stopped
    assert len(history(result.folder)) == epochs


def test_fine_tuning_keeps_the_backbone_and_replaces_the_head(data, tmp_path, make_image_folder):
    first = train(data, tmp_path / "first").folder
    other = make_image_folder(classes=("oak", "elm"), per_class=6, name="trees")
    tuned = train(other, tmp_path / "tuned", model=str(first), model_args={}, freeze="backbone", epochs=1).folder
    before, after = load_file(first / "model.safetensors"), load_file(tuned / "model.safetensors")
    assert after["head.weight"].shape == (2, 16)
    assert torch.equal(before["stages.2.merge.reduction.weight"], after["stages.2.merge.reduction.weight"])
    assert dualtoken.load(tuned).classes == ("elm", "oak")


def test_fine_tuning_with_another_val_is_warned_of(data, tmp_path, capsys):
    first = train(data, tmp_path / "first", epochs=1).folder
    train(data, tmp_path / "same", model=str(first), model_args={}, epochs=1)
    assert "too good" not in capsys.readouterr().out
    train(data, tmp_path / "other", model=str(first), model_args={}, epochs=1, seed=7)
    assert "too good" in capsys.readouterr().out


# ---------------------------------------------------------------- mistakes


def test_an_unreadable_image_fails_or_is_skipped_and_listed(data, tmp_path):
    (data / "cat" / "0001.jpg").write_text("not an image")
    with pytest.raises((DataError, ImageError), match=r"0001\.jpg"):
        train(data, tmp_path / "run")
    result = train(data, tmp_path / "run2", on_bad_image="skip", epochs=1)
    config = json.loads((result.folder / "config.json").read_text())
    assert config["dualtoken"]["provenance"]["data"]["bad_images"] == 1


def test_a_folder_that_holds_a_run_is_not_written_over(data, tmp_path):
    run = train(data, tmp_path / "run", epochs=1).folder
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match=r"already holds a run.*\nContinue it with --resume"):
        train(data, run)
    assert (run / "model.safetensors").read_bytes() == before


def press(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["find_data", "measure"])
def test_ctrl_c_before_the_first_step_says_that_nothing_was_trained(data, tmp_path, monkeypatch, capsys, place):
    run = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(f"dualtoken.training.run.{place}", lambda *args, **options: press())
        train(data, run)
    assert "Stopped before the first step: nothing was trained or saved." in capsys.readouterr().out
    assert not run.exists()
    (run).mkdir()
    (run / "first_batch.jpg").touch()  # as a run with boxes leaves it
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("dualtoken.training.run.measure", lambda loop: press())
        train(data, run)
    assert f"{run} holds first_batch.jpg alone." in capsys.readouterr().out
    assert train(data, run, epochs=1).folder == run  # and may be used again
    (run / "evaluation.json").unlink()  # as if it had been stopped before its end
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("dualtoken.training.run.find_data", lambda *args, **options: press())
        dualtoken.train(data, resume=run)
    assert f"Stopped before the first step: {run} is as it was." in capsys.readouterr().out
    assert (run / "model.safetensors").exists()


def test_a_second_ctrl_c_says_what_is_there(data, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Loop, "_batch", press)
        train(data, run)
    assert f"Ended at once: nothing was saved. {run} can be removed." in capsys.readouterr().out
    with pytest.raises(OutputError, match=r"ended before it saved anything.*\nRemove the folder"):
        train(data, run)
    with pytest.raises(ConfigError, match=r"no run to continue.*\nStart one in a new folder"):
        dualtoken.train(data, resume=run)
    whole = train(data, tmp_path / "whole", epochs=1).folder
    (whole / "evaluation.json").unlink()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Loop, "_decide", press)
        dualtoken.train(data, resume=whole)
    assert "Continue from the last save: dualtoken train" in capsys.readouterr().out


@pytest.mark.parametrize("held", ["a file", "other things"])
def test_a_folder_of_other_things_is_refused_before_torch_is_imported(data, tmp_path, held):
    run = tmp_path / "run"
    if held == "a file":
        run.touch()
    else:
        run.mkdir()
        (run / "first_batch.jpg").touch()
        (run / "mine.txt").touch()
    with pytest.raises(OutputError, match="is there already"):
        train(data, run)
    line = f"from dualtoken.training.folder import run_folder; run_folder({str(tmp_path / 'new')!r}, None)"
    check = "import sys; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{line}; {check}"], check=True, timeout=60)
    assert not (tmp_path / "new").exists()


def test_what_no_val_means_is_said_without_a_circle(data, tmp_path):
    with pytest.raises(DataError, match=r"since --val-fraction is 0.*\nLeave --val-fraction out"):
        train(data, tmp_path / "run", val_fraction=0)
    for name in ("val", "test"):
        (tmp_path / "splits").mkdir(exist_ok=True)
        shutil.copytree(data, tmp_path / "splits" / name)
    with pytest.raises(DataError, match="no images to learn from: its splits are val, test"):
        train(tmp_path / "splits", tmp_path / "run")


def test_a_loss_that_is_not_finite_stops(data, tmp_path):
    with pytest.raises(UserError, match="The loss became"):
        train(data, tmp_path / "run", lr=1e30, clip_grad=None, epochs=20)


def test_validation_that_is_not_finite_stops_before_the_state_is_saved(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Loop, "_measure", lambda self: {"loss": float("nan"), "top1": 0.0})
    with pytest.raises(UserError, match="validation loss became nan"):
        train(data, tmp_path / "run")
    assert not (tmp_path / "run" / "last").exists()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"model": "dualtoken_vit_q"}, ModelError),
        ({"model": "mobilenetv4_conv_small.no_such_tag"}, ModelError),
        ({"model_args": {"tokengrid": 3}}, ConfigError),
        ({"precision": "16-mixed", "device": "cpu"}, ConfigError),
        ({"device": "cuda"}, ConfigError),
    ],
)
def test_wrong_settings_leave_nothing(data, tmp_path, settings, error):
    if settings == {"device": "cuda"} and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(error):
        train(data, tmp_path / "run", **settings)
    assert not (tmp_path / "run" / "train.yaml").exists()


@pytest.mark.parametrize(("devices", "said"), [(19, "train has 18 images"), (18, "this machine has 4 CPU cores")])
def test_processes_without_work_or_room_are_never_started(data, tmp_path, monkeypatch, devices, said):
    def launch(*_: object) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr("dualtoken.training.run.Fabric.launch", launch)
    monkeypatch.setattr("dualtoken.training.requirements.os.cpu_count", lambda: 4)
    with pytest.raises(ConfigError, match=f"devices is {devices}, but {said}"):
        train(data, tmp_path / "run", devices=devices, device="cpu")


def test_outside_the_main_thread(data, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(data, tmp_path / "run", epochs=1)))
    thread.start()
    thread.join()
    assert results
    assert (results[0].folder / "model.safetensors").exists()


def write_script(folder, line: str) -> str:
    path = folder / "script.py"
    path.write_text(f"import dualtoken\nif __name__ == '__main__':\n    {line}\n")
    return str(path)


def run_script(folder, line: str) -> None:
    subprocess.run([sys.executable, write_script(folder, line)], check=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"limit_minutes": 0.1, "epochs": 10**6, "early_stop": 10**6}])
def test_two_processes_train_one_model(data, tmp_path, settings):
    settings = SETTINGS | {"devices": 2, "device": "cpu"} | settings
    run_script(tmp_path, f"dualtoken.train({str(data)!r}, {str(tmp_path / 'run')!r}, **{settings!r})")
    assert (tmp_path / "run" / "model.safetensors").exists()
    rows = history(tmp_path / "run")
    assert len(rows) == 2 or "limit_minutes" in settings
    assert float(rows[-1]["lr"]) < 0.1 * max(float(row["lr"]) for row in rows) or "limit_minutes" not in settings


@pytest.mark.slow
def test_two_processes_stop_together_and_continue(data, tmp_path):
    settings = SETTINGS | {"devices": 2, "device": "cpu", "epochs": 60}
    whole, part = tmp_path / "whole", tmp_path / "part"
    run_script(tmp_path, f"dualtoken.train({str(data)!r}, {str(whole)!r}, **{settings!r})")
    script = write_script(tmp_path, f"dualtoken.train({str(data)!r}, {str(part)!r}, **{settings!r})")
    process = subprocess.Popen(
        [sys.executable, "-u", script], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert any(line.startswith("epoch") for line in process.stdout)  # waits for the first one
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert 0 < len(history(part)) < 60
    run_script(tmp_path, f"dualtoken.train({str(data)!r}, resume={str(part)!r})")
    assert same(weights(whole), weights(part))


def test_a_full_disk_is_found_before_the_first_step(data, tmp_path, monkeypatch):
    monkeypatch.setattr("dualtoken.training.requirements.shutil.disk_usage", lambda path: SimpleNamespace(free=2**16))
    with pytest.raises(OutputError, match="0 MiB free"):
        train(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_every_few_epochs_and_after_the_last(data, tmp_path):
    folder = train(data, tmp_path / "run", epochs=5, validate_every=2).folder
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [bool(row["val_top1"]) for row in rows] == [False, True, False, True, True]
    assert all(row["train_loss"] for row in rows)


@pytest.mark.slow
def test_a_small_disk_that_is_full_or_becomes_read_only(data, tmp_path, monkeypatch):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted and mounted.stderr.decode()}")
    try:
        save, saved = Loop.save, []

        def fill_after_the_first(self):
            save(self)
            saved.append(1)
            if len(saved) == 1:
                (place / "others").write_bytes(bytes(shutil.disk_usage(place).free))

        with monkeypatch.context() as patched:
            patched.setattr(Loop, "save", fill_after_the_first)
            with pytest.raises(OutputError, match=r"(?s)no space is left.*--resume"):
                train(data, place / "run", epochs=3)
        (place / "others").unlink()
        assert not list((place / "run").rglob(".*"))  # nothing half-written
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        with pytest.raises(OutputError, match=r"(?s)read-only.*--resume COPY"):
            dualtoken.train(data, resume=place / "run")
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        dualtoken.train(data, resume=place / "run")
        assert run_counters(place / "run").epoch == 3
    finally:
        subprocess.run(["umount", place], check=False)
