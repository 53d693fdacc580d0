"""`dualtoken predict --engine ray`: parts, what is written, and that every image is answered once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from conftest import invent_image
from dualtoken import cli
from dualtoken.data.packing import pack
from dualtoken.errors import ConfigError, OutputError
from dualtoken.model_folder import ModelConfig, build_model, save_model
from dualtoken.prediction import cluster, load
from dualtoken.prediction.cluster import Job, predict_parts
from dualtoken.preprocess import Preprocessing

parquet = pytest.importorskip("pyarrow.parquet")
IMAGES = 7


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    config = ModelConfig("test_resnet", ("cat", "dog"), Preprocessing((32, 32), 1.0, "squash"))
    save_model(build_model(config), config, folder)
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
    for number in range(IMAGES):
        invent_image(number % 2, number).save(folder / ("cat" if number % 2 else "dog") / f"{number}.png")
    return folder


@pytest.fixture
def in_turn(monkeypatch) -> list[int]:
    """Answers parts in this process, in place of a cluster; tells which."""
    seen: list[int] = []

    def spread(job, parts, workers, address, progress):
        predictor = load(job.model, device="cpu")
        for number, part in parts.items():
            seen.append(number)
            cluster.answer_part(predictor, cluster.Work(job, number, part))

    monkeypatch.setattr(cluster, "_spread", spread)
    return seen


def rows(output: Path, table: str = "predictions") -> list[dict[str, object]]:
    found: list[dict[str, object]] = parquet.read_table(output / table).to_pylist()
    return found


def test_parts_hold_what_one_table_holds(model, photos, tmp_path, in_turn):
    (photos / "cat" / "broken.png").write_bytes(b"no image")
    job = Job(str(model), str(tmp_path / "out"), top=2)
    assert predict_parts(job, [str(photos)], part_images=3) == (IMAGES, 1)
    assert in_turn == [0, 1, 2]
    predictor = load(model, device="cpu")
    expected = {str(path): predictor.predict(path).score for path in photos.rglob("[0-9].png")}
    found = {row["path"]: row["score"] for row in rows(tmp_path / "out")}
    assert found == pytest.approx(expected, abs=1e-6)
    (unread,) = rows(tmp_path / "out", "unread")
    assert "broken.png" in str(unread["error"])


def test_what_is_done_stays_done(model, photos, tmp_path, in_turn):
    job = Job(str(model), str(tmp_path / "out"))
    predict_parts(job, [str(photos)], part_images=2)
    first = tmp_path / "out" / "predictions" / "part-00000.parquet"
    before = first.stat().st_mtime_ns
    (tmp_path / "out" / "done" / "part-00002.json").unlink()
    in_turn.clear()
    assert predict_parts(job, [str(photos)], part_images=2) == (IMAGES, 0)
    assert in_turn == [2]
    assert first.stat().st_mtime_ns == before
    assert len(rows(tmp_path / "out")) == IMAGES


@pytest.mark.parametrize(
    ("change", "named"), [({"part_images": 3}, "other inputs"), ({"top": 1}, "another top"), ({}, "other inputs")]
)
def test_other_predictions_are_not_mixed_in(model, photos, tmp_path, in_turn, change, named):
    predict_parts(Job(str(model), str(tmp_path / "out")), [str(photos)], part_images=2)
    if not change:
        next(photos.rglob("*.png")).unlink()
    job = Job(str(model), str(tmp_path / "out"), top=change.get("top", 5))
    with pytest.raises(OutputError, match=named):
        predict_parts(job, [str(photos)], part_images=change.get("part_images", 2))


def test_a_folder_of_others_is_left_alone(model, photos, tmp_path, in_turn):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="there already"):
        predict_parts(Job(str(model), str(tmp_path / "out")), [str(photos)])


def test_every_shard_is_a_part(model, photos, tmp_path, in_turn):
    shards = tmp_path / "shards"
    pack(photos, shards, shard_mb=1, progress=False)
    tars = sorted(shards.rglob("*.tar"))
    assert predict_parts(Job(str(model), str(tmp_path / "out")), [str(shards)]) == (IMAGES, 0)
    assert len(in_turn) == len(tars)
    assert all(".tar/" in str(row["path"]) for row in rows(tmp_path / "out"))


def test_objects_have_rows_and_numbers(tmp_path, photos, in_turn):
    torch.manual_seed(0)
    config = ModelConfig(
        "test_resnet", ("cat", "dog"), Preprocessing((64, 64), 1.0, "border"), task="detection", head="faster_rcnn",
        head_args={"channels": 64, "max_detections": 4},
    )  # fmt: skip
    save_model(build_model(config), config, tmp_path / "boxes")
    job = Job(str(tmp_path / "boxes"), str(tmp_path / "out"), threshold=0.0)
    assert predict_parts(job, [str(photos)]) == (IMAGES, 0)
    found = rows(tmp_path / "out")
    assert len({row["path"] for row in found}) == IMAGES
    assert all(isinstance(row["left"], float) for row in found if row["label"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "ray"], "--output is missing"),
        (["--engine", "ray", "--output", "out", "--sheet", "sheet.png"], "--sheet has no meaning with --engine ray"),
        (["--address", "auto"], "--address is for --engine ray"),
        (["--part-images", "9"], "--part-images is for --engine ray"),
        (["--engine", "rai"], "Known: auto, ray, "),
    ],
)
def test_mistakes_are_told(model, photos, monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, "argv", ["dualtoken", "predict", str(model), str(photos), *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_cluster_that_is_not_there(model, photos, tmp_path):
    pytest.importorskip("ray")
    for address in ("127.0.0.1:9", "no..host:9"):
        with pytest.raises(ConfigError, match="no Ray cluster"):
            predict_parts(Job(str(model), str(tmp_path / "out")), [str(photos)], address=address)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(model, tmp_path):
    pytest.importorskip("ray")
    photos, output, number = tmp_path / "photos", tmp_path / "out", 400
    photos.mkdir()
    for place in range(number):
        Image.effect_noise((320, 240), 50 + place).save(photos / f"{place}.png")
    command = [sys.executable, "-m", "dualtoken.cli", "predict", str(model), str(photos), "--engine", "ray",
               "--part-images", "10", "--workers", "2", "--output", str(output), "--json"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        killed = False
        while process.poll() is None and not killed:
            if list(output.glob("done/*.json")):
                workers = _workers_of(process.pid)
                killed = bool(workers)
                for worker in workers[:1]:
                    os.kill(worker, signal.SIGKILL)
            time.sleep(0.05)
        assert killed
        out, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert json.loads(out)["images"] == number
    paths = [row["path"] for row in rows(output)]
    assert len(paths) == len(set(paths)) == number


def _workers_of(driver: int) -> list[int]:
    """Processes of Ray's that descend from the driver and hold our worker."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    parents, names = {}, {}
    for line in found.splitlines()[1:]:
        pid, parent, name = line.split(None, 2)
        parents[int(pid)], names[int(pid)] = int(parent), name

    def descends(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return [pid for pid, name in names.items() if "ray::Map" in name and "Worker" in name and descends(pid)]
