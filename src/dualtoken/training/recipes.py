"""Recipes: settings as YAML files, written as lab notes, in the package or the user's own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from dualtoken.errors import ConfigError, unknown_name
from dualtoken.readers import parse_yaml, read_text
from dualtoken.training.config import TrainConfig


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files("dualtoken.recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def load_recipe(recipe: str | Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """A recipe by name or YAML file, with `overrides` on top.

    A recipe may name another one as its `base`, whose settings it then changes or adds to.

    Raises:
        ConfigError: no such recipe, a file that is no mapping, an unknown key or an impossible value, or recipes that
            are each other's base.
    """
    return TrainConfig.from_settings(recipe_settings(recipe) | (overrides or {}))


def recipe_settings(recipe: str | Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a recipe says, that of its `base` included.

    Args:
        above: recipes that it is the base of.
    """
    if str(recipe) in above:
        raise ConfigError(f"The recipe {str(recipe)!r} is the base of itself: {' -> '.join((*above, str(recipe)))}.")
    settings = _mapping(_text(recipe), str(recipe))
    base = settings.pop("base", None)
    if base is None:
        return settings
    if not isinstance(base, str):
        raise ConfigError(f"The base of the recipe {str(recipe)!r} is {base!r}, expected a recipe's name.")
    beside = Path(recipe).parent / base  # a user's file names another one relative to itself
    return recipe_settings(beside if beside.is_file() else base, (*above, str(recipe))) | settings


def _text(recipe: str | Path) -> str:
    path = Path(recipe)
    if str(recipe) in recipe_names():
        return files("dualtoken.recipes").joinpath(f"{recipe}.yaml").read_text(encoding="utf-8")
    if path.is_file():
        return read_text(path, error=ConfigError)
    raise ConfigError(unknown_name("recipe", str(recipe), recipe_names()), "Or give a YAML file.")


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """`["epochs=5", "scale=[0.5, 1]"]` to a dictionary; values are YAML.

    Raises:
        ConfigError: an entry without `=`, or a value that is no YAML.
    """
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set got {setting!r}, expected KEY=VALUE.", "Example: --set mixup=0.2")
        parsed[key.strip().replace("-", "_")] = parse_yaml(value, f"--set {key}", error=ConfigError)
    return parsed


def _mapping(text: str, name: str) -> dict[str, Any]:
    content = parse_yaml(text, name, error=ConfigError) or {}
    if not isinstance(content, dict):
        raise ConfigError(f"The recipe {name!r} holds {type(content).__name__}, expected settings as KEY: VALUE.")
    return content
