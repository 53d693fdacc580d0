"""Every script in examples/ runs as its docstring says."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str) -> None:
    sys.argv = [name, *arguments]
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture(autouse=True)
def _arguments_come_back(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_pyramid(capsys):
    run("pyramid.py")
    assert "stride 16:  96 channels, (20, 30)" in capsys.readouterr().out


@pytest.mark.slow
def test_start_to_end(tmp_path, capsys):
    pytest.importorskip("sklearn")
    run("start_to_end.py", str(tmp_path), "smoke")
    out = capsys.readouterr().out
    assert "Parity passed" in out
    assert " shows a " in out


def test_each_example_has_a_test():
    tests = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in tests for path in EXAMPLES.glob("*.py"))


def test_photographs(tmp_path, capsys):
    def picture(path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)

    clone = tmp_path / "clones" / "thunderInfy+imagenette"
    for seed, name in enumerate(("train/n1/a.png", "train/n1/b.png", "val/n1/ILSVRC2012_val_1.png", "train/n1/c.png")):
        picture(clone / name, seed)
    picture(clone / "train/n2/copy.png", 0)  # of a
    picture(tmp_path / "test.png", 3)  # is c
    with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
        archive.write(tmp_path / "test.png", "test.png")
    for command in ("init -q", "add .", "-c user.name=x -c user.email=x@x commit -qm x"):
        subprocess.run(["git", "-C", clone, *command.split()], check=True)
    run("photographs.py", str(tmp_path / "clones"), str(tmp_path / "out"), str(tmp_path / "test.zip"))
    assert "imagenette: 2 photographs" in capsys.readouterr().out
    names = zipfile.ZipFile(tmp_path / "out" / "imagenette.zip").namelist()
    assert sorted(names) == ["n1/train_n1_a.png", "n1/train_n1_b.png"]
    assert zipfile.ZipFile(tmp_path / "out" / "imagenet-val.zip").namelist() == ["val/n1/ILSVRC2012_val_1.png"]


@pytest.mark.slow
def test_lite_teacher(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")  # and the weights, which are no part of any extra
    run("lite_teacher.py", str(tmp_path / "teacher.onnx"), "1", "64")
    assert (tmp_path / "teacher.onnx").stat().st_size > 1e7


def test_beside_timm_script(tmp_path):
    script = runpy.run_path(str(EXAMPLES / "beside_timm_script.py"), run_name="example")
    printed = "".join(
        f"Train: {epoch} [   0/22 (  0%)]  Loss: 2.5 (2.5)  Time: 2.041s, 15.68/s  (2.041s, 15.68/s)  LR: 1e-6\n"
        f"Train: {epoch} [  21/22 (100%)]  Loss: 2.5 (2.5)  Time: 0.5s, 64.0/s  (0.8s, {rate}/s)  LR: 1e-4\n"
        for epoch, rate in enumerate((10.0, 40.0, 42.0))
    )
    assert script["rate_of_timm"](printed) == 41.0  # the first epoch is left out
    (tmp_path / "metrics.csv").write_text("epoch,images_per_second\n1,9.0\n2,30.0\n3,32.0\n")
    assert script["our_rate"](tmp_path) == 31.0
    for name in ("a", "b"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
    command = script["timm_command"]("train.py", str(tmp_path / "photos"), 96, tmp_path)
    assert command[command.index("--num-classes") + 1] == "2"
    assert script["timed"]([sys.executable, "-c", "print('seen')"])[0] == "seen\n"
    with pytest.raises(SystemExit, match="no such thing"):
        script["timed"]([sys.executable, "-c", "raise SystemExit('no such thing')"])


YOLO = """#!/usr/bin/env python3
import sys
from pathlib import Path
given = dict(word.split("=") for word in sys.argv[1:] if "=" in word)
assert sys.argv[1] == "classify" and Path(given["data"], "train").is_dir() and given["imgsz"] == "32"
folder = Path(given["project"], given["name"])
if sys.argv[2] == "train":
    assert float(given["time"]) == 0.05 / 60 and given["pretrained"] == "False"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "best.pt").touch()
    (folder / "results.csv").write_text("epoch\\n1\\n2\\n")
else:
    assert Path(given["model"]).is_file()
    print("classes   top1_acc   top5_acc\\n    all      0.625          1\\n")
"""


@pytest.mark.slow
def test_equal_minutes(tmp_path, make_image_folder, monkeypatch, capsys):
    photos = make_image_folder(splits=("train", "val"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "yolo").write_text(YOLO)
    (tmp_path / "bin" / "yolo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "8.0")
    run("equal_minutes.py", str(photos), "0.05", "1", "32")
    row = json.loads(capsys.readouterr().out)
    assert row["yolo11n-cls"] | {"seconds": 0} == {"top1": 0.625, "epochs": 2, "seconds": 0}
    assert 0 <= row["dualtoken_vit_t_mix"]["top1"] <= 1
    assert row["dualtoken_vit_t_mix"]["epochs"] >= 1
