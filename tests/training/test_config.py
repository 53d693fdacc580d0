import pytest
import yaml

from dualtoken.errors import ConfigError
from dualtoken.training.config import TrainConfig
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
        ({"freeze": "head"}, "freeze is 'head'"),
        ({"scale": [0.9, 0.5]}, "two rising numbers"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5"),
    ],
)
def test_mistakes_name_key_value_and_what_was_expected(settings, said):
    with pytest.raises(ConfigError) as error:
        TrainConfig.from_settings(settings)
    assert said in str(error.value)


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
