import json

import pytest
import timm
import torch

from dualtoken.errors import ModelError, OutputError
from dualtoken.model_folder import ModelConfig, build_model, load_config, load_model, save_model
from dualtoken.preprocess import Preprocessing

SMALL = {"channels": [16, 32, 64], "depths": [1, 1, 1], "heads": [1, 2, 4], "neck": 32}


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig(
        architecture="dualtoken_vit_t_mix",
        classes=("cat", "Hündchen", "bird"),
        preprocessing=Preprocessing((64, 96), crop_pct=0.9, mean=(0.5, 0.4, 0.3)),
        model_args=SMALL,
        temperature=1.25,
        metrics={"top1": 0.5},
        provenance={"seed": 3},
    )


@pytest.fixture
def folder(config, tmp_path):
    torch.manual_seed(0)
    save_model(build_model(config), config, tmp_path / "model")
    return tmp_path / "model"


def test_loaded_equals_saved(config, folder):
    torch.manual_seed(0)
    saved = build_model(config)
    loaded, loaded_config = load_model(folder)
    assert loaded_config == config
    assert not loaded.training
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(loaded(images), saved(images))


def test_two_files_and_no_pickle(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_whoever_reads_one_file_reads_both(folder):
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_timm_loads_it_with_classes_and_preprocessing(folder):
    ours, _ = load_model(folder)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert list(theirs.pretrained_cfg["input_size"]) == [3, 64, 96]
    assert theirs.pretrained_cfg["label_names"] == ["cat", "Hündchen", "bird"]
    assert timm.data.resolve_model_data_config(theirs)["mean"] == [0.5, 0.4, 0.3]
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))


def test_missing_folder_and_files(folder, tmp_path):
    with pytest.raises(ModelError, match="There is no model folder"):
        load_config(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model.safetensors \(found: config.json\)"):
        load_config(folder)


def test_damaged_files(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is no JSON in line 1"):
        load_config(folder)


def test_weights_of_another_architecture(folder):
    content = json.loads((folder / "config.json").read_text())
    content["model_args"]["neck"] = 48
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="do not fit the architecture"):
        load_model(folder)


def test_a_newer_format_says_upgrade(folder):
    content = json.loads((folder / "config.json").read_text())
    content["dualtoken"]["format"] = 99
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="--upgrade"):
        load_config(folder)


def test_place_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_model(build_model(config), config, tmp_path / "file" / "model")
