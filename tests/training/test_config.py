import pytest
import yaml

from dualtoken.errors import ConfigError
from dualtoken.training.config import TrainConfig, expected_words
from dualtoken.training.recipes import load_recipe, parse_settings, recipe_names


def test_every_setting_has_a_sentence():
    missing = [name for name, field in TrainConfig.model_fields.items() if not (field.description or "").strip()]
    assert not missing


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_lab_note_that_parses(name):
    from importlib.resources import files

    load_recipe(name)
    text = files("dualtoken.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("#")
    assert "# Command" in text


def test_the_imagenet_recipe_is_the_published_one():
    recipe = load_recipe("imagenet")
    assert (recipe.epochs, recipe.warmup_epochs, recipe.base_lr, recipe.base_batch) == (300, 20, 1e-3, 1024)
    assert (recipe.mixup, recipe.cutmix, recipe.random_erasing, recipe.label_smoothing) == (0.2, 1.0, 0.25, 0.1)
    assert (recipe.rand_augment, recipe.drop_path) == ("rand-m9-mstd0.5-inc1", 0.1)


def test_settings_go_over_the_recipe():
    assert load_recipe("small", {"epochs": 3}).epochs == 3
    assert load_recipe("small").epochs != 3


def test_a_users_own_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 7\nimage_size: [96, 64]\n")
    assert load_recipe(path).image_size == (96, 64)
    path.write_text("- a list\n")
    with pytest.raises(ConfigError, match="holds list"):
        load_recipe(path)


def test_a_resolved_config_reads_back_as_itself():
    config = load_recipe("imagenet", {"image_size": 96, "limit_minutes": 5})
    assert TrainConfig.from_settings(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": "many"}, "epochs is 'many'"),
        ({"image_size": 16}, "each side must be 32 pixels or more"),
        ({"image_size": [64, 100_000]}, "and at most 4096"),
        ({"epochs": True}, "epochs is True, expected a whole number of at least 1"),
        ({"image_size": [64, True]}, "image_size is [64, True], expected two whole numbers"),
        ({"lr": False}, "lr is False"),
        ({None: 3}, "Unknown setting 'None'"),
        ({3: 3}, "Unknown setting '3'"),
        ({"freeze": "head"}, "freeze is 'head'"),
        ({"scale": [0.9, 0.5]}, "two rising numbers"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5, expected a number of at least 0 and below 1."),
        ({"task": "foo"}, "task is 'foo', expected one of auto, classification, detection, "),
        ({"task": "detecton"}, "Did you mean detection?"),
        ({"zoom": 0.5}, "zoom is 0.5, expected two numbers, such as [0.5, 1.5].\nExample: --set zoom=[0.5,1.5] ("),
        ({"zoom": [1, float("inf")]}, "zoom is [1, inf], expected two numbers"),
        ({"zoom": [1.5, 0.5]}, "two rising numbers"),
        ({"image_size": [64, 64, 64]}, "expected two whole numbers, such as [224, 224]"),
        ({"image_size": "wide"}, "one number for a square"),
        ({"lr": "fast"}, "lr is 'fast', expected a number above 0, or null."),
        ({"lr": float("inf")}, "lr is inf"),
        ({"compile": "perhaps"}, "expected true or false"),
        ({"head": 3}, "head is 3, expected a name, or null."),
        ({"model_args": [1]}, "expected names with their values"),
    ],
)
def test_mistakes_name_key_value_and_what_was_expected(settings, said):
    with pytest.raises(ConfigError) as error:
        TrainConfig.from_settings(settings)
    assert said in str(error.value)
    assert "Input should" not in str(error.value)


def test_every_setting_says_what_it_expects():
    words = {name: expected_words(field) for name, field in TrainConfig.model_fields.items()}
    assert words["batch_size"] == "a whole number of at least 1"
    assert words["crop_pct"] == "a number above 0 and at most 1"
    assert words["workers"] == "a whole number of at least 0, or null"
    assert words["freeze"] == "one of none, backbone"
    assert all(words.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]", "holds itself"),
        ("[" * 1000 + "]" * 1000, "nested"),
        ("seed: " + "1" * 5000, "cannot be read"),
        ("epochs: 3\nseed: [", "line"),
        ("- 3", "expected settings"),
        ("? [1]\n: 3", "line 1"),
    ],
)
def test_hostile_recipes_are_refused_by_name(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        load_recipe(tmp_path / "mine.yaml")
    assert "mine.yaml" in error.value.message
    (tmp_path / "mine.yaml").write_bytes(b"epochs: 3 # \xff")
    with pytest.raises(ConfigError, match="not UTF-8 in line 1"):
        load_recipe(tmp_path / "mine.yaml")


def test_set_takes_yaml_values():
    assert parse_settings(["epochs=5", "scale=[0.5, 1]", "rand-augment=null", "model_args={token_grid: 5}"]) == {
        "epochs": 5,
        "scale": [0.5, 1],
        "rand_augment": None,
        "model_args": {"token_grid": 5},
    }


def test_peak_rate_follows_the_batch():
    config = TrainConfig(batch_size=32, accumulate=4, base_lr=1e-3, base_batch=64)
    assert config.peak_lr == pytest.approx(2e-3)
    assert TrainConfig(lr=0.5).peak_lr == 0.5
