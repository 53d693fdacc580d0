"""A model folder's config comes from strangers: what is wrong in it is named, and nothing in it reaches for a file."""

import copy
import inspect
import json
import pickle
import time
from pathlib import Path

import pytest

from dualtoken.errors import ModelError
from dualtoken.model_folder import ModelConfig, build_model, load_config, load_model, save_model
from dualtoken.preprocess import Preprocessing

SMALL = {"channels": [16, 32, 64], "depths": [1, 1, 1], "heads": [1, 2, 4], "neck": 32}
CONFIG = ModelConfig("dualtoken_vit_t_mix", ("cat", "dog"), Preprocessing((64, 64)), model_args=SMALL)
ODD_VALUES = [None, True, -1, 0, 3, 1e308, 10**30, "", "x", "\x1b[2J", "../../etc/passwd", [], [1], [[]], {}, {"a": 1}]


class Mark:
    """A pickle that writes a file where it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return Path.write_text, (self.place, "code ran")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a config; the weights are only there by name."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    return tmp_path / "model"


def loaded(folder: Path, content: object) -> ModelConfig:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    return load_config(folder)


def changed(place: str, value: object) -> dict:
    """The right config with another value at `a.b.c`."""
    content = copy.deepcopy(CONFIG.to_json())
    *parents, last = place.split(".")
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return content


def places(content: dict, above: str = "") -> list[str]:
    return [
        place
        for key, value in content.items()
        for place in [above + key, *(places(value, f"{above}{key}.") if isinstance(value, dict) else [])]
    ]


def test_the_right_one_is_read(folder):
    assert loaded(folder, CONFIG.to_json()) == CONFIG


@pytest.mark.parametrize("place", places(CONFIG.to_json()))
def test_any_value_anywhere_is_read_or_refused_by_name(folder, place):
    """Sixteen odd values in each place: an error that names the file, or a config that is what it says."""
    refused = 0
    for value in ODD_VALUES:
        try:
            config = loaded(folder, changed(place, value))
        except ModelError:
            refused += 1
            continue
        assert all(isinstance(name, str) for name in (*config.classes, config.architecture, config.task))
        assert isinstance(config.temperature, int | float)
        assert not isinstance(config.temperature, bool)
        assert config.temperature > 0
    free = ("model_args.", "dualtoken.metrics", "dualtoken.provenance", "dualtoken.head", "dualtoken.t")
    assert refused >= (1 if place.startswith(free) else 11)


@pytest.mark.parametrize("place", [place for place in places(CONFIG.to_json()) if "model_args." not in place])
def test_what_is_missing_is_named(folder, place):
    content = copy.deepcopy(CONFIG.to_json())
    *parents, last = place.split(".")
    inner = content
    for key in parents:
        inner = inner[key]
    del inner[last]
    if place == "dualtoken":  # then timm wrote it
        assert loaded(folder, content).classes == CONFIG.classes
    elif last in ("head", "head_args", "threshold", "crop_mode"):  # these came later
        loaded(folder, content)
    else:
        with pytest.raises(ModelError, match=last):
            loaded(folder, content)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "3", '"text"', "{", "{}", "[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, "1" * 5000, "NaN",
     '{"num_classes": ' + "9" * 4000 + "}", r'{"architecture": "\ud800"}', "\ufeff", "a\0b"],
)  # fmt: skip
def test_what_is_no_config_is_refused(folder, text):
    with pytest.raises(ModelError, match="config"):
        loaded(folder, text)


def test_unknown_keys_are_refused(folder):
    for place in ("url", "pretrained_cfg.url", "dualtoken.pickle"):
        with pytest.raises(ModelError, match=place):
            loaded(folder, changed(place, "https://example.org"))


def test_counts_and_names_of_classes_agree(folder):
    with pytest.raises(ModelError, match="label_names has 2"):
        loaded(folder, changed("num_classes", 3))
    with pytest.raises(ModelError, match="'cat' is there twice"):
        loaded(folder, changed("label_names", ["cat", "cat"]))
    begun = time.perf_counter()
    with pytest.raises(ModelError, match="'0' is there twice"):
        loaded(folder, changed("label_names", [*map(str, range(40_000)), "0"]))
    assert time.perf_counter() - begun < 10  # each with each would take minutes


# ---------------------------------------------------------------- nothing is fetched or opened


def arguments_of_timm() -> set[str]:
    import timm
    from timm.models import build_model_with_cfg

    names = {*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters}
    return names - {"model_name", "model_cls", "variant", "kwargs"} | {"features_only", "device", "pretrained_new"}


def test_no_argument_reaches_the_builder_of_timm(folder):
    """What a later timm adds to its builders is found missing here."""
    for name in sorted(arguments_of_timm()):
        for theirs in (False, True):
            content = changed("model_args", SMALL | {name: "https://example.org/weights.pth"})
            if theirs:
                del content["dualtoken"]
            with pytest.raises(ModelError, match=f"'{name}' is no argument"):
                loaded(folder, content)


@pytest.mark.parametrize("args", [{"pretrained": True}, {"checkpoint_path": "mark.pth"}, {"pretrained_cfg": {}}])
def test_neither_does_it_in_python(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mark.pth").write_bytes(pickle.dumps(Mark(tmp_path / "marked")))
    pickle.loads((tmp_path / "mark.pth").read_bytes())  # so would it run
    (tmp_path / "marked").unlink()
    for architecture in ("dualtoken_vit_t_mix", "test_vit"):
        with pytest.raises(ModelError, match="no argument"):
            build_model(ModelConfig(architecture, ("cat", "dog"), Preprocessing((64, 64)), model_args=args))
    assert not (tmp_path / "marked").exists()


def test_a_head_fetches_nothing(folder):
    for name in ("encoder_weights", "weights", "weights_backbone", "encoder_name"):
        with pytest.raises(ModelError, match="no argument of a head"):
            loaded(folder, changed("dualtoken.head_args", {name: "imagenet"}))


def test_architectures_are_names(folder):
    for name in ("hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "../resnet18", "https://example.org/a"):
        with pytest.raises(ModelError, match="architecture"):
            loaded(folder, changed("architecture", name))


@pytest.mark.parametrize(
    "args",
    [{"channels": 3}, {"channels": ["a", "b", "c"]}, {"depths": [1]}, {"heads": [0, 0, 0]}, {"token_weight": "x"},
     {"mixer": "none"}, {"token_grid": 2.5}, {"no_such": 1}, {"channels": [-2, 2, 2]}, {"depths": [None, 1, 1]}],
)  # fmt: skip
def test_networks_that_cannot_be_made_are_refused(folder, args):
    config = loaded(folder, changed("model_args", SMALL | args))
    with pytest.raises((ModelError, Exception)) as error:
        build_model(config)
    from dualtoken.errors import UserError

    assert isinstance(error.value, UserError), error.value


def test_weights_that_are_a_pickle_are_not_opened(tmp_path):
    save_model(build_model(CONFIG), CONFIG, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(pickle.dumps(Mark(tmp_path / "marked")))
    with pytest.raises(ModelError, match="safetensors"):
        load_model(tmp_path / "model")
    assert not (tmp_path / "marked").exists()
