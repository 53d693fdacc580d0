"""The certificate: what it compares, what it finds, and how it says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import dualtoken
from dualtoken.errors import ConfigError, DataError, ImageError, ModelError
from dualtoken.export import check, verify
from dualtoken.export.parity_pictures import MOST, pictures_for
from dualtoken.runtime import load


@pytest.fixture
def photos(tmp_path):
    """Four noisy pictures of several sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in enumerate([(60, 40), (100, 200), (64, 96), (31, 33)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def change(path, key, of):
    """Scale one weight of an exported file."""
    model = onnx.load(str(path))
    weights = next(entry for entry in model.graph.initializer if entry.name.endswith(key))
    values = of(onnx.numpy_helper.to_array(weights)).astype(np.float32)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(model, str(path))


# ---------------------------------------------------------------- what passes


def test_own_pictures(exported, model_of, photos):
    parity = verify(exported("classifier"), model_of("classifier"), images=photos)
    assert parity.passed
    assert parity.images == 4
    assert parity.pictures == str(photos)
    assert 0 < parity.relative_error < 1e-4
    assert parity.input_error == 0
    assert parity.answers["top1_agreement"] == 1
    assert parity.line().startswith("Parity passed: 4 images, raw outputs differ by ")
    assert "top-1 the same for 4 of 4" in parity.line()
    json.dumps(parity.to_dict(), allow_nan=False)


def test_pictures_in_any_form(exported, model_of, photos):
    files = sorted(photos.iterdir())[:2]
    parity = verify(exported("classifier"), model_of("classifier"), images=files)
    assert parity.images == 2
    assert parity.cases == ["3 images at once"]
    assert verify(exported("classifier"), model_of("classifier"), images=str(photos / "*.png")).images == 4


def test_the_model_folders_samples(exported, tmp_path, photos):
    from export_models import make_model

    folder = make_model(tmp_path / "model", "classifier")
    photos.rename(folder / "samples")
    parity = verify(exported("classifier"), folder)
    assert (parity.images, parity.pictures) == (4, str(folder / "samples"))


def test_invented_pictures_are_called_so(exported, model_of):
    parity = verify(exported("segmenter"), model_of("segmenter"))
    assert parity.pictures.startswith("invented pictures")
    assert parity.images == 8
    assert parity.answers["pixel_agreement"] == 1


def test_none_one_and_many_objects(exported, model_of):
    parity = verify(exported("mask_rcnn"), model_of("mask_rcnn"))
    assert parity.passed, parity.failure
    counts = parity.answers["images_by_objects"]
    assert sum(counts.values()) == parity.images == 9
    covered = {word for word, number in counts.items() if number} | {case.split(":")[0] for case in parity.cases}
    assert covered == {"none", "one", "many"}
    assert set(parity.part_errors) == {
        *(f"network {number}" for number in range(5)), "boxes 0", "boxes 1", "masks 0",
    }  # fmt: skip
    assert "grey" in parity.pictures


@pytest.mark.parametrize(("threshold", "word"), [(0.0, "none"), (1.0, "many")])
def test_numbers_of_objects_that_no_picture_has_are_made(exported, model_of, threshold, word):
    from dualtoken.prediction.predictor import Predictor

    model, other = dualtoken.load(model_of("retinanet"), device="cpu"), load(exported("retinanet"))
    model = Predictor(model.model, replace(model.config, threshold=threshold), name=model.name)
    other.config = model.config
    parity = check.compare(model, other)
    assert parity.passed, parity.failure
    assert any(case.startswith(word) for case in parity.cases)
    assert any(word in note for note in parity.notes)


def test_a_loaded_model_of_another_engine(exported, model_of, photos):
    parity = verify(exported("classifier"), dualtoken.load(model_of("classifier")), images=photos, engine="openvino")
    assert (parity.passed, parity.engine, parity.format) == (True, "openvino", "onnx")


# ---------------------------------------------------------------- what fails


def test_disturbed_weights(exported, model_of):
    path = exported("classifier")
    change(path, "head.weight", lambda values: values * 1.001)
    parity = verify(path, model_of("classifier"))
    assert not parity.passed
    assert "limit 1e-04" in parity.failure
    assert parity.line().startswith("Parity FAILED: for 'invented-")
    assert verify(path, model_of("classifier"), limit=0.1).passed


def test_weights_that_are_no_numbers(exported, model_of):
    from dualtoken.errors import ModelError

    path = exported("classifier")
    change(path, "head.weight", lambda values: values * np.nan)
    with pytest.raises(ModelError, match="not numbers"):
        verify(path, model_of("classifier"))


@pytest.mark.parametrize("part", ["boxes", "masks"])
def test_a_disturbed_second_stage(exported, model_of, part, monkeypatch):
    path = exported("mask_rcnn")
    beside = path.with_name(f"mask_rcnn.{part}.onnx")
    key = "predictor.cls_score.weight" if part == "boxes" else "predictor.mask_fcn_logits.weight"
    change(beside, key, lambda values: values * 1.01)
    monkeypatch.setattr("dualtoken.prediction.exported._check_companions", lambda path, info: None)
    parity = verify(path, model_of("mask_rcnn"))
    assert not parity.passed
    assert f"'{part} 0'" in parity.failure


def test_another_models_weights(exported, tmp_path):
    from export_models import make_model

    folder = make_model(tmp_path / "other", "classifier", seed=1)
    parity = verify(exported("classifier"), folder)
    assert not parity.passed
    assert any("weights are others" in note for note in parity.notes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", ("cat", "bird", "dog")),
        ("temperature", 1.0),
        ("threshold", 0.31),
        ("preprocessing", {"crop_pct": 1.0}),
        ("preprocessing", {"interpolation": "bilinear"}),
        ("preprocessing", {"std": (0.229, 0.224, 0.226)}),
    ],
)
def test_other_settings(exported, model_of, photos, name, value):
    model, other = dualtoken.load(model_of("classifier"), device="cpu"), load(exported("classifier"))
    changed = replace(other.config.preprocessing, **value) if isinstance(value, dict) else value
    other.config = replace(other.config, **{name: changed})
    parity = check.compare(model, other, images=photos)
    assert not parity.passed
    assert parity.failure.startswith(f"its {name} is ")


def test_other_settings_of_the_choice_of_boxes(exported, model_of, photos):
    model, other = dualtoken.load(model_of("retinanet"), device="cpu"), load(exported("retinanet"))
    other.config = replace(other.config, head_args=other.config.head_args | {"iou_threshold": 0.3})
    assert check.compare(model, other, images=photos).failure.startswith("its head_args is")


def test_an_export_is_no_model_folder(exported, model_of):
    with pytest.raises(ModelError, match=r"classifier\.onnx' is a file, but a model folder is needed") as error:
        verify(model_of("classifier"), exported("classifier"))
    assert "dualtoken verify FILE FOLDER" in error.value.hint


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn"])
def test_models_for_something_else_are_refused(exported, model_of, name):
    with pytest.raises(ModelError, match=rf"is for classification, but .* is for detection \({name}\)") as error:
        verify(exported("classifier"), model_of(name))
    assert "exported from" in error.value.hint


def test_other_settings_are_a_mistake_in_any_precision(exported, model_of, photos):
    model, other = dualtoken.load(model_of("classifier"), device="cpu"), load(exported("classifier"))
    other.config = replace(other.config, classes=("cat", "bird", "dog"))
    other.export = replace(other.export, info=replace(other.export.info, precision="int8"))
    parity = check.compare(model, other, images=photos)
    assert not parity.passed
    assert parity.failure.startswith("its classes is ")


def test_figures_without_a_verdict(exported, model_of, photos):
    path = exported("classifier")
    change(path, "head.weight", lambda values: values * 1.5)
    model, other = dualtoken.load(model_of("classifier"), device="cpu"), load(path)
    other.export = replace(other.export, info=replace(other.export.info, precision="int8"))
    parity = check.compare(model, other, images=photos)
    assert parity.passed
    assert parity.limit is None
    assert parity.relative_error > 0.1
    assert "no limit" in parity.line()


# ---------------------------------------------------------------- odd input


def test_odd_input(exported, model_of, tmp_path, photos):
    with pytest.raises(ImageError, match="nowhere"):
        verify(exported("classifier"), model_of("classifier"), images=tmp_path / "nowhere.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no images"):
        verify(exported("classifier"), model_of("classifier"), images=tmp_path / "empty")
    with pytest.raises(DataError, match="no pictures"):
        verify(exported("classifier"), model_of("classifier"), images=[])
    (photos / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"broken\.png"):
        verify(exported("classifier"), model_of("classifier"), images=photos)
    for limit in (0, -1, 1, float("nan")):
        with pytest.raises(ConfigError, match="limit is"):
            verify(exported("classifier"), model_of("classifier"), images=photos, limit=limit)


def test_pictures_of_a_large_folder_are_spread_over_it(tmp_path):
    for number in range(100):
        (tmp_path / f"{number:03d}.png").write_bytes(b"")
    with pictures_for(tmp_path, None) as found:
        chosen = [int(str(name)[-7:-4]) for name, _ in found.inputs]
    assert len(chosen) == MOST
    assert chosen[0] == 0
    assert chosen[-1] > 90


def test_invented_pictures_are_always_the_same_and_then_gone():
    contents = []
    for _ in range(2):
        with pictures_for(None, None, grey=True) as found:
            paths = [Path(str(source)) for _, source in found.inputs]
            contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 9
    assert not any(path.exists() for path in paths)


def test_the_reference_is_left_on_its_device(model_of):
    model = dualtoken.load(model_of("classifier"), device="cpu")
    assert check.load_reference(model) is model
    assert next(model.model.parameters()).device == torch.device("cpu")
