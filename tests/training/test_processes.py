"""Several processes learn what one does, and say which of them is gone."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment
from safetensors.torch import load_file
from torch import nn

import dualtoken
from dualtoken.errors import ConfigError
from dualtoken.training.config import TrainConfig
from dualtoken.training.folder import STATE
from dualtoken.training.processes import SyncedBatchNorm, as_launched, make_fabric
from dualtoken.training.run import resumed_config
from dualtoken.training.state import run_counters

SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 1], "heads": [1, 2, 2], "neck": 16}
SETTINGS = {
    "recipe": "smoke", "model_args": SMALL, "workers": 0, "val_fraction": 0.25, "device": "cpu", "epochs": 2,
    "lr": 0.01, "image_size": 64, "seed": 3,
}  # fmt: skip
FEW = {"channels": 64, "score_threshold": 1e-4, "max_detections": 10}
TASKS = {
    "classification": {},
    "multilabel": {},
    "semantic_segmentation": {"dice": 0.5, "head_args": {"decoder_dropout": 0.0}},  # drawn by each process
    "detection": {"head": "retinanet"},
    "fcos": {"head": "fcos", "head_args": FEW},
    "instance_segmentation": {"head_args": FEW},
    "in parts": {"accumulate": 2},
    "masks in parts": {"head_args": {"decoder_dropout": 0.0}},
    "boxes in parts": {"head_args": FEW},
}
KINDS = {
    "fcos": "detection",
    "in parts": "classification",
    "masks in parts": "semantic_segmentation",
    "boxes in parts": "detection",
}  # of tasks under another name


def write_script(
    folder: Path, data: Path, output: str, settings: dict, before: str = "", teacher: Path | None = None
) -> list[str]:
    """The command of a training run, or with a teacher a distillation, that can start processes of its own."""
    script = folder / f"{output}.py"
    call = f"dualtoken.train({str(data)!r}, {str(folder / output)!r}, **{settings!r})"
    if teacher:
        call = f"dualtoken.distill([{str(data)!r}], [{str(teacher)!r}], {str(folder / output)!r}, **{settings!r})"
    script.write_text(f"import os, signal\nimport dualtoken\n{before}\nif __name__ == '__main__':\n    {call}\n")
    return [sys.executable, str(script)]


def judged(model: Path, data: Path, output: Path, devices: int) -> str:
    """A line of a script that measures a model."""
    settings = {"output": str(output), "devices": devices, "device": "cpu", "workers": 0}
    return f"    dualtoken.evaluate({str(model)!r}, {str(data)!r}, **{settings!r})\n"


def history(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


@pytest.mark.parametrize(
    "task", ["classification", *(pytest.param(task, marks=pytest.mark.slow) for task in list(TASKS)[1:])]
)
def test_two_processes_measure_and_learn_what_one_does(task, data_of, tmp_path):
    data, shared = data_of(KINDS.get(task, task)), SETTINGS | TASKS[task] | {"task": KINDS.get(task, task)}
    if task not in ("classification", "multilabel", "in parts"):
        # AdamW's first steps are signs of gradients, of which rounding turns those that are nearly 0, and dense heads
        # have many: they take steps as small as their recipe's.
        shared |= {"lr": 1e-4}
    dualtoken.train(data, tmp_path / "one", **shared, batch_size=4)
    dualtoken.evaluate(tmp_path / "one", data, output=tmp_path / "of-one", device="cpu", workers=0)
    parts = {"shard_weights": True} if task.endswith("in parts") else {}
    command = write_script(tmp_path, data, "two", shared | parts | {"batch_size": 2, "devices": 2})
    with Path(command[1]).open("a") as script:
        script.write(judged(tmp_path / "one", data, tmp_path / "of-two", devices=2))
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert len(one) == len(two) == 2
    for left, right in zip(one, two, strict=True):
        assert float(left["train_loss"]) == pytest.approx(float(right["train_loss"]), rel=1e-5)
        for name in left:
            if name.startswith("val_") and name != "val_loss":
                assert float(left[name]) == pytest.approx(float(right[name]), abs=1e-6)
    one, two = ((tmp_path / name / "evaluation.json").read_text() for name in ("of-one", "of-two"))
    close(json.loads(one), json.loads(two))
    one, two = ((tmp_path / name / "predictions.csv").read_text().splitlines() for name in ("of-one", "of-two"))
    assert [row.split(",")[0] for row in one] == [row.split(",")[0] for row in two]
    first, second = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two"))
    assert first["images"] == second["images"]


def close(one: Any, two: Any) -> None:
    """The same content, numbers to 1e-6."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
    if isinstance(one, dict | list):
        assert len(one) == len(two)
        for left, right in zip(one.values() if isinstance(one, dict) else one,
                               two.values() if isinstance(two, dict) else two, strict=True):  # fmt: skip
            close(left, right)
    elif isinstance(one, float):
        assert one == pytest.approx(two, abs=1e-6)
    else:
        assert one == two


def test_two_processes_distill_as_one_does(make_image_folder, tmp_path):
    from test_distillation import SETTINGS, small_teacher

    data, teacher = make_image_folder(classes=("cat", "dog", "emu"), per_class=8), small_teacher(tmp_path)
    shared = SETTINGS | {"device": "cpu"}
    dualtoken.distill([data], [teacher], tmp_path / "one", **shared | {"batch_size": 4})
    command = write_script(tmp_path, data, "two", shared | {"batch_size": 2, "devices": 2}, teacher=teacher)
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert len(one) == len(two) == 3
    for left, right in zip(one, two, strict=True):
        for name in ("train_loss", "val_loss", "val_cosine", "val_cosine_maps", "val_agreement"):
            assert float(left[name]) == pytest.approx(float(right[name]), rel=1e-4, abs=1e-6), name
    assert (tmp_path / "two" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("gone", "how"), [(0, "SIGKILL"), (1, "SIGKILL"), (1, "SIGSTOP")])
def test_a_process_that_is_gone_is_named_and_the_run_goes_on_with_another_number(gone, how, data_of, tmp_path):
    ends = (
        "from dualtoken.training.loop import Loop\nstep = Loop._batch\n"
        "def dies(self, *batch):\n"
        f"    if self.counters.step == 5 and self.fabric.global_rank == {gone}:\n"
        f"        os.kill(os.getpid(), signal.{how})\n"
        "    return step(self, *batch)\n"
        "Loop._batch = dies"
    )
    data = data_of("classification")
    settings = SETTINGS | {"batch_size": 2, "devices": 2, "epochs": 4}
    command = write_script(tmp_path, data, "run", settings, ends)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    said, _ = process.communicate(timeout=600)  # returns when none of them holds the pipe any more
    assert process.returncode != 0
    assert re.search(rf"Process {gone} of 2 has gone|\[rank: {gone}\]", said), said
    resume = f"import dualtoken\ndualtoken.train({str(data)!r}, resume={str(tmp_path / 'run')!r}, devices=1)\n"
    (tmp_path / "again.py").write_text(resume)
    subprocess.run([sys.executable, str(tmp_path / "again.py")], check=True, timeout=300, capture_output=True)
    whole = write_script(tmp_path, data, "whole", settings | {"batch_size": 4, "devices": 1})
    subprocess.run(whole, check=True, timeout=300, capture_output=True)
    for left, right in zip(history(tmp_path / "run"), history(tmp_path / "whole"), strict=True):
        assert float(left["train_loss"]) == pytest.approx(float(right["train_loss"]), rel=1e-4)


@pytest.mark.slow
def test_a_run_in_parts_goes_on_where_it_stopped_in_parts_or_whole(data_of, tmp_path):
    data, settings = data_of("classification"), SETTINGS | {"ema_decay": 0.9}
    parted = settings | {"batch_size": 2, "devices": 2, "shard_weights": True}
    dualtoken.train(data, tmp_path / "whole", **settings, batch_size=4)
    for name, further in (("parts", {"devices": 2}), ("then-whole", {"devices": 1, "shard_weights": False})):
        first = write_script(tmp_path, data, name, parted | {"limit_minutes": 1e-4})
        subprocess.run(first, check=True, timeout=300, capture_output=True)
        assert run_counters(tmp_path / name).step < run_counters(tmp_path / "whole").step
        further = further | {"limit_minutes": 10.0}
        script = tmp_path / f"{name}-on.py"
        script.write_text(
            f"import dualtoken\nif __name__ == '__main__':\n"
            f"    dualtoken.train({str(data)!r}, resume={str(tmp_path / name)!r}, **{further!r})\n"
        )
        subprocess.run([sys.executable, str(script)], check=True, timeout=300, capture_output=True)
        ours, theirs = (load_file(tmp_path / run / STATE) for run in (name, "whole"))
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert ours[key].shape == theirs[key].shape, key


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_one_process_that_is_asked_to_end_ends_all_with_the_code_for_it(asked, data_of, tmp_path):
    asks = (
        "from dualtoken.training.loop import Loop\nstep = Loop._batch\n"
        "def asked(self, *batch):\n"
        f"    if self.counters.step == 5 and self.fabric.global_rank == {asked}:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(self, *batch)\n"
        "Loop._batch = asked\n"
    )
    (tmp_path / "asks.py").write_text(f"import os, signal\n{asks}")
    data, run = data_of("classification"), tmp_path / "run"
    command = [sys.executable, "-m", "dualtoken.cli", "--plugin", "asks", "train", str(data), "--output", str(run)]
    options = ["--recipe", "smoke", "--devices", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]
    epochs = ["--epochs", "6", "--set", f"model_args={json.dumps(SMALL)}", "--val-fraction", "0.25"]
    ended = subprocess.run([*command, *options, *epochs], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 143, ended.stdout + ended.stderr
    assert f"--resume {run}" in ended.stdout
    stopped = run_counters(run)
    assert 5 <= stopped.step < stopped.total_steps
    dualtoken.train(data, resume=run, devices=1)
    assert run_counters(run).step == stopped.total_steps


def test_gradients_that_accumulate_are_means_also_where_an_epoch_ends(data_of, tmp_path, monkeypatch):
    scaled, backward = [], Fabric.backward
    monkeypatch.setattr(Fabric, "backward", lambda self, loss: (scaled.append(loss.item()), backward(self, loss)))
    settings = SETTINGS | {"batch_size": 2, "accumulate": 4, "epochs": 1}
    dualtoken.train(data_of("classification"), tmp_path / "run", **settings)  # 18 images: 9 batches, 4 + 4 + 1
    (row,) = history(tmp_path / "run")
    weights = [4] * 8 + [1]
    losses = [loss * weight for loss, weight in zip(scaled, weights, strict=True)]
    assert sum(losses) / 9 == pytest.approx(float(row["train_loss"]), rel=1e-5)


def test_without_other_processes_a_synced_norm_is_an_ordinary_one():
    torch.manual_seed(0)
    plain, synced = nn.BatchNorm2d(4), SyncedBatchNorm(4)
    images = torch.randn(3, 4, 5, 5)
    assert torch.equal(plain(images), synced(images))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, 1)),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, (4, 2)),
        ({"SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_JOB_NAME": "train"}, (2, 3)),
    ],
)
def test_launchers_say_how_many_there_are(environment, expected, monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_NNODES", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = as_launched(TrainConfig(lr=0.1))
    assert (config.devices, config.nodes) == expected
    if environment:
        with pytest.raises(ConfigError, match="processes were started"):
            as_launched(TrainConfig(devices=7))


def test_a_machine_with_slurm_gets_no_advice(tmp_path, monkeypatch):
    (tmp_path / "srun").write_text("")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.warns(UserWarning, match="srun"):
        SLURMEnvironment.detect()  # what it would be
    assert make_fabric(as_launched(TrainConfig(device="cpu"))).world_size == 1


def test_one_process_has_nobody_to_share_weights_with():
    with pytest.raises(ConfigError, match="there is one process") as raised:
        make_fabric(TrainConfig(device="cpu", shard_weights=True))
    assert "--devices 2" in raised.value.hint


def test_another_number_of_processes_shares_the_same_batch(data_of, tmp_path):
    run = tmp_path / "run"
    dualtoken.train(data_of("classification"), run, **SETTINGS | {"batch_size": 4, "epochs": 1})
    assert resumed_config(run, {"devices": 2}, TrainConfig).batch_size == 2
    with pytest.raises(ConfigError, match="A batch of 4 cannot be shared by 3 processes"):
        resumed_config(run, {"devices": 3}, TrainConfig)
