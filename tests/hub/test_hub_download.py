"""Models of the Hub, from a small hub on this machine: what is fetched, sent and refused, and what happens offline."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from fake_hub import COMMIT, FakeHub, Repo, network_for_training, serve

import dualtoken
from conftest import invent_image
from dualtoken.errors import ConfigError, MissingExtraError, ModelError
from dualtoken.hub import DEFAULT, find_model, push_to_hub
from dualtoken.model_folder import ModelConfig, build_model, load_config, load_model, save_model
from dualtoken.preprocess import Preprocessing

SMALL = {"channels": [16, 32, 64], "depths": [1, 1, 1], "heads": [1, 2, 4], "neck": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("hub") / "pets"
    config = ModelConfig(
        "dualtoken_vit_t_mix", ("cat", "dog"), Preprocessing((64, 64)), model_args=SMALL,
        metrics={"split": "val", "images": 40, "top1": {"value": 0.9, "low": 0.8, "high": 0.95}},
        provenance={"seed": 3, "command": "dualtoken train /home/anna/pets --output /home/anna/runs/pets",
                    "data": {"source": "pets", "images": {"train": 90, "val": 40}, "fingerprint": "ab" * 32}},
    )  # fmt: skip
    torch.manual_seed(0)
    save_model(build_model(config), config, place)
    return place


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serve() as served:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


@pytest.fixture
def pets(hub: FakeHub, folder: Path) -> FakeHub:
    hub.repos["anna/pets"] = Repo({path.name: path.read_bytes() for path in folder.iterdir()})
    return hub


def test_a_model_comes_back_as_it_went(pets, folder):
    pets.repos["anna/pets"].files |= {"pytorch_model.bin": b"pickle", "notes.txt": b"text"}
    theirs = dualtoken.from_pretrained("anna/pets", device="cpu")
    own = dualtoken.load(folder, device="cpu")
    image = invent_image(0, 1)
    assert theirs.predict(image).probabilities.tolist() == own.predict(image).probabilities.tolist()
    assert pets.fetched() == {"config.json", "model.safetensors"}  # pickles are not even fetched
    assert dualtoken.load("hf-hub:anna/pets", device="cpu").name == "hf-hub:anna/pets"


def test_timm_loads_it_from_the_hub_too(pets, folder):
    network = timm.create_model("hf-hub:anna/pets", pretrained=True).eval()
    ours, _ = load_model(folder)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network(images), ours(images))


def test_revisions(pets, tmp_path):
    assert find_model(f"hf-hub:anna/pets@{COMMIT}") == find_model("hf-hub:anna/pets", revision="main")
    with pytest.raises(ModelError, match="has no revision 'v9'"):
        dualtoken.from_pretrained("anna/pets", revision="v9", cache_dir=tmp_path / "fresh")
    with pytest.raises(ConfigError, match="names another"):
        find_model("hf-hub:anna/pets@main", revision="v9")
    with pytest.raises(ConfigError, match="is not a model of the Hub"):
        dualtoken.from_pretrained(DEFAULT, revision="main")


def test_what_was_fetched_once_needs_no_network(pets, monkeypatch):
    place = find_model("hf-hub:anna/pets")
    before = len(pets.requests)
    assert find_model("hf-hub:anna/pets", local_files_only=True) == place
    assert len(pets.requests) == before
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_model("hf-hub:anna/pets") == place


def test_what_was_not_fetched_says_so(pets, monkeypatch):
    with pytest.raises(ModelError, match="local_files_only was asked for"):
        dualtoken.from_pretrained("anna/pets", local_files_only=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set: the network is not used"):
        dualtoken.load("hf-hub:anna/pets")
    assert not pets.requests


def test_only_pickles_are_refused_and_it_says_why(pets):
    files = pets.repos["anna/pets"].files
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    with pytest.raises(ModelError, match=r"only 'pytorch_model.bin': a pickle, which can run any code"):
        dualtoken.load("hf-hub:anna/pets")
    assert "pytorch_model.bin" not in pets.fetched()


def test_repositories_that_are_none(pets):
    with pytest.raises(ModelError, match="There is no repository 'anna/cats'"):
        dualtoken.from_pretrained("anna/cats")
    pets.repos["anna/text"] = Repo({"notes.txt": b""})
    with pytest.raises(ModelError, match=r"no config.json and no model.safetensors \(found: notes.txt\)"):
        dualtoken.from_pretrained("anna/text")
    with pytest.raises(ModelError, match="Did you mean 'dualtoken-vit-t-cifar10'"):
        dualtoken.from_pretrained("dualtoken-vit-t-cifar")
    with pytest.raises(ModelError, match="is not a repository of the Hugging Face Hub"):
        dualtoken.load("hf-hub:pets")


def test_load_uses_no_network_for_plain_names(pets):
    with pytest.raises(ModelError, match="There is no model folder 'anna/pets'") as error:
        dualtoken.load("anna/pets")
    assert "hf-hub:anna/pets" in error.value.hint
    assert not pets.requests


def test_a_hub_that_cannot_be_reached(monkeypatch, hub, folder):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="cannot be reached") as loading:
        dualtoken.from_pretrained("anna/pets")
    assert "on this disk" in loading.value.hint
    with pytest.raises(ModelError, match="cannot be reached") as pushing:
        push_to_hub(folder, "anna/pets", token="hf_right")
    assert "on this disk" not in pushing.value.hint
    assert "dry_run" in pushing.value.hint


def test_without_huggingface_hub_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"dualtoken\[hub\]"):
        dualtoken.from_pretrained("anna/pets")


def test_a_local_folder_goes_before_the_hub(pets, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "anna" / "pets")
    assert dualtoken.from_pretrained("anna/pets", device="cpu").classes == ("cat", "dog")
    assert not pets.requests


# ---------------------------------------------------------------- pushing


def test_pushed_is_what_loads(hub, folder):
    pushed = push_to_hub(folder, "anna/new", private=True, token="hf_right", license="apache-2.0")
    repo = hub.repos["anna/new"]
    assert repo.private
    assert set(repo.files) == set(pushed.files) == {"config.json", "model.safetensors", "README.md"}
    assert pushed.url == f"{hub.url}/anna/new/commit/{COMMIT}"
    assert b"/home/anna" not in repo.files["config.json"] + repo.files["README.md"]
    assert load_config(find_model("hf-hub:anna/new")).provenance["command"] == "dualtoken train pets --output pets"
    assert load_config(folder).provenance["command"].startswith("dualtoken train /home")  # the run stays as it was


def test_a_loaded_model_is_pushed_too(hub, folder):
    model = dualtoken.load(folder, device="cpu")
    push_to_hub(model, "anna/new", token="hf_right")
    theirs = dualtoken.from_pretrained("anna/new", device="cpu")
    image = invent_image(0, 1)
    assert theirs.predict(image).probabilities.tolist() == model.predict(image).probabilities.tolist()


def test_a_card_of_ones_own_is_kept(hub, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "own")
    (tmp_path / "own" / "README.md").write_text("# Anna's pets\n")
    push_to_hub(tmp_path / "own", "anna/new", token="hf_right")
    assert hub.repos["anna/new"].files["README.md"] == b"# Anna's pets\n"


def test_a_pull_request_makes_no_repository(hub, folder):
    hub.repos["others/pets"] = Repo()
    assert push_to_hub(folder, "others/pets", create_pr=True, token="hf_right").url == (
        f"{hub.url}/others/pets/discussions/1"
    )
    assert "POST /api/repos/create" not in hub.requests


def test_damaged_weights_are_not_pushed(hub, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "own")
    weights = tmp_path / "own" / "model.safetensors"
    for damaged in (weights.read_bytes()[:-8], b""):
        weights.write_bytes(damaged)
        with pytest.raises(ModelError, match="cannot be read as safetensors"):
            push_to_hub(tmp_path / "own", "anna/new", token="hf_right")


def test_private_is_not_pushed_to_a_public_repository(pets, folder):
    before = dict(pets.repos["anna/pets"].files)
    with pytest.raises(ModelError, match="everybody can see it, but private was asked for"):
        push_to_hub(folder, "anna/pets", private=True, token="hf_right")
    assert pets.repos["anna/pets"].files == before


def test_pushing_without_the_right_to(hub, folder):
    with pytest.raises(ModelError, match="does not know who you are") as error:
        push_to_hub(folder, "anna/new", token="hf_wrong")
    assert "hf auth login" in error.value.hint
    assert "hf_wrong" not in str(error.value)
    with pytest.raises(ModelError, match="does not let you write to 'others/new'"):
        push_to_hub(folder, "others/new", token="hf_right")
    with pytest.raises(ModelError, match="USER/NAME"):
        push_to_hub(folder, "pets")
    assert not hub.repos


def test_a_dry_run_sends_nothing_and_shows_all(hub, folder, capsys):
    from typer.testing import CliRunner

    from dualtoken.cli import app

    shown = CliRunner().invoke(app, ["push", str(folder), "anna/new", "--dry-run", "--license", "mit"])
    assert shown.exit_code == 0, shown.output
    for text in (
        "license: mit",
        "# new",
        "90.0 % (80.0 to 95.0)",
        "model.safetensors",
        "Nothing was sent to 'anna/new'",
    ):
        assert text in shown.output
    assert not hub.requests


@pytest.mark.parametrize(
    ("licence", "note"), [("mit", None), ("apache2.0", "did you mean 'apache-2.0'"), ("foo", "none of the common ones")]
)
def test_an_uncommon_licence_is_worth_a_note(folder, licence, note):
    pushed = push_to_hub(folder, "anna/new", license=licence, dry_run=True)
    assert (note is None) == (not pushed.notes)
    assert note is None or note in pushed.summary()


def test_offline_nothing_is_pushed(folder):
    with pytest.raises(ModelError, match="nothing can be pushed"):
        push_to_hub(folder, "anna/new")
    assert push_to_hub(folder, "anna/new", dry_run=True).url is None


# ---------------------------------------------------------------- classifiers that timm wrote


def test_a_model_that_timm_pushed_answers_and_is_fine_tuned(hub, tmp_path, make_image_folder):
    from timm.models import save_for_hf

    torch.manual_seed(0)
    network = timm.create_model("mobilenetv4_conv_small", num_classes=3).eval()
    save_for_hf(
        network, tmp_path / "timm", model_config={"label_names": ["cat", "dog", "owl"]}, safe_serialization=True
    )
    hub.repos["timm/small"] = Repo({path.name: path.read_bytes() for path in (tmp_path / "timm").iterdir()})
    model = dualtoken.load("hf-hub:timm/small", device="cpu")
    assert model.classes == ("cat", "dog", "owl")
    assert model.config.preprocessing.image_size == tuple(network.pretrained_cfg["input_size"][1:])
    pixels = model.config.preprocessing(invent_image(0, 1))[None]
    with torch.inference_mode():
        assert torch.equal(torch.from_numpy(model.forward(pixels)), network(torch.from_numpy(pixels)))
    tuned, config = network_for_training("hf-hub:timm/small", make_image_folder())
    assert config.provenance["fine_tuned_from"] == "hf-hub:timm/small"
    assert len(config.classes) == 2
    assert torch.equal(tuned.conv_stem.weight, network.conv_stem.weight)


def test_imagenets_classes_have_their_names(tmp_path):
    from timm.models import save_for_hf

    save_for_hf(timm.create_model("test_vit"), tmp_path / "timm", safe_serialization=True)
    classes = load_config(tmp_path / "timm").classes
    assert len(set(classes)) == 1000
    assert classes[:2] == ("tench", "goldfish")
    assert "crane (n02012849)" in classes
    content = json.loads((tmp_path / "timm" / "config.json").read_text())
    content["num_classes"] = 2
    (tmp_path / "timm" / "config.json").write_text(json.dumps(content))
    assert load_config(tmp_path / "timm").classes == ("class 0", "class 1")
