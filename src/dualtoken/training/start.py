"""Where a run starts, if nobody says: from weights that have learned to see, with a recipe that suits them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualtoken.errors import ConfigError
from dualtoken.hub import DEFAULT, find_model
from dualtoken.model_folder import load_config
from dualtoken.training.recipes import recipe_settings

Recipe = str | Path


def starting_point(
    recipe: Recipe | None, settings: Mapping[str, Any], *, fresh: Recipe, tuned: Recipe, from_scratch: bool = False
) -> tuple[Recipe, dict[str, Any]]:
    """Recipe and settings of a run, with the model that it starts from.

    - A recipe that is named stays, and so does a model: weights get `tuned`, a network by name gets `fresh`.
    - Weights are tuned at the size of input that they know, if no other is asked for.
    - Neither is named: `DEFAULT` with `tuned`; with `from_scratch`, or arguments of the network, `fresh`.

    Args:
        recipe: as it was asked for, if it was.
        settings: as they were asked for.
        fresh: the usual recipe for random weights.
        tuned: the usual recipe for weights that have learned.
        from_scratch: random weights are asked for.

    Raises:
        ConfigError: random weights are asked for, and others too.
    """
    model = settings.get("model", recipe_settings(recipe).get("model") if recipe is not None else None)
    learned = model is not None and find_model(model).is_dir()
    if from_scratch and learned:
        raise ConfigError(
            f"from_scratch asks for random weights, but {str(model)!r} has learned.",
            "Leave from_scratch out, or name a network: --model dualtoken_vit_t_mix",
        )
    if recipe is not None:
        return recipe, dict(settings)
    if model is None and not from_scratch and not settings.get("model_args"):
        return tuned, {**settings, "model": DEFAULT}
    if not learned or tuned == fresh:
        return fresh, dict(settings)
    return tuned, {"image_size": load_config(find_model(model)).preprocessing.image_size, **settings}
