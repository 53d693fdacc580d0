"""A bundle holds all that runs a model elsewhere."""

import shutil
import subprocess
import sys

import pytest
from forbidding import HEAVY, dualtoken_without, run_without
from small_exports import Made

from conftest import invent_image
from dualtoken.errors import ModelError, OutputError
from dualtoken.prediction.exported import read_export, sidecar, to_json_text
from dualtoken.runtime import write_bundle


@pytest.fixture(scope="module")
def made(once) -> Made:
    return Made(once)


def test_a_bundle_runs_from_another_folder(made, tmp_path):
    done = dualtoken_without(
        HEAVY, "runtime-bundle", made("instance_segmentation") / "model.onnx", "--output", tmp_path / "b"
    )
    assert done.returncode == 0, done.stderr
    folder = shutil.move(tmp_path / "b", tmp_path / "moved")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "model.onnx",
        "model.boxes.onnx",
        "model.masks.onnx",
        "requirements.txt",
        "README.md",
        "predict.py",
    }
    assert "onnxruntime==" in (folder / "requirements.txt").read_text()
    assert len((folder / "predict.py").read_text().splitlines()) <= 30
    invent_image(0, 0, (50, 70)).save(tmp_path / "photo.png")
    script = str(folder / "predict.py")
    run = f"import runpy; sys.argv = ['predict.py', 'photo.png']; runpy.run_path({script!r}, run_name='__main__')"
    done = run_without(HEAVY, run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "photo.png: 5 found" in done.stdout


def test_the_example_says_classes(made, tmp_path):
    folder = write_bundle(made() / "model.onnx", tmp_path / "bundle")
    invent_image(0, 0).save(tmp_path / "photo.png")
    command = [sys.executable, folder / "predict.py", tmp_path / "photo.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    assert "cat" in done.stdout
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "3 classes: cat, dog, café" in readme
    assert "64 x 96 pixels" in readme


def test_a_name_that_needs_quotes(made, tmp_path):
    export = tmp_path / 'my "best" model.onnx'
    shutil.copy(made() / "model.onnx", export)
    folder = write_bundle(export, tmp_path / "bundle")
    invent_image(0, 0).save(tmp_path / "photo.png")
    command = [sys.executable, folder / "predict.py", tmp_path / "photo.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    assert "cat" in done.stdout
    assert """dualtoken predict 'my "best" model.onnx' photos/""" in (folder / "README.md").read_text(encoding="utf-8")


def test_all_that_a_program_of_torch_runs_with_is_required(made, tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"")
    sidecar(path).write_text(to_json_text(*read_export(made() / "model.onnx")), encoding="utf-8")
    folder = write_bundle(path, tmp_path / "bundle")
    packages = [line.partition("==")[0] for line in (folder / "requirements.txt").read_text().splitlines()]
    assert packages == ["dualtoken", "torch", "torchvision"]
    assert "not needed" not in (folder / "README.md").read_text(encoding="utf-8")


def test_whole_or_not_at_all(made, tmp_path, monkeypatch):
    place = tmp_path / "bundle"
    monkeypatch.setattr(shutil, "copy2", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OutputError, match="no space is left"):
        write_bundle(made() / "model.onnx", place)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    place.mkdir()
    assert write_bundle(made() / "model.onnx", place) == place  # an empty folder will do
    with pytest.raises(OutputError, match="is not empty"):
        write_bundle(made() / "model.onnx", place)
    with pytest.raises(ModelError, match="There is no file"):
        write_bundle(tmp_path / "none.onnx", tmp_path / "other")
