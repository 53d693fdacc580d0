"""The network that a run trains: by name with fresh weights, or from a model folder with its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from torch import nn

from dualtoken.backbone import create_model
from dualtoken.data import ImageData
from dualtoken.errors import ConfigError, ModelError
from dualtoken.machine import command_line
from dualtoken.model_folder import WEIGHTS, ModelConfig, load_config, load_weights, versions
from dualtoken.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from dualtoken.training.config import TrainConfig


def make_network(config: TrainConfig, images: ImageData) -> tuple[nn.Module, ModelConfig]:
    """The network and its description: by name with fresh weights, or from a model folder with its own."""
    known = load_config(config.model) if Path(config.model).is_dir() else None
    architecture = known.architecture if known else config.model
    args = (known.model_args if known else {}) | _size_args(architecture, config) | config.model_args
    model = _with_rates(architecture, config, {"num_classes": len(images.classes), **args})
    if known:
        same = known.classes == images.classes
        load_weights(model, Path(config.model) / WEIGHTS, skip_classifier=not same)
    preprocessing = Preprocessing(
        image_size=config.image_size,
        crop_pct=config.crop_pct,
        interpolation="bicubic",
        mean=known.preprocessing.mean if known else IMAGENET_MEAN,
        std=known.preprocessing.std if known else IMAGENET_STD,
    )
    provenance = {
        "data": {
            "source": Path(images.source).name,
            "fingerprint": images.fingerprint,
            "images": {name: len(samples) for name, samples in images.splits.items()},
            "bad_images": len(images.bad_images),
        },
        "settings": config.model_dump(mode="json"),
        "seed": config.seed,
        "command": command_line(),
        "versions": versions(),
        "fine_tuned_from": str(config.model) if known else None,
    }
    return model, ModelConfig(architecture, images.classes, preprocessing, model_args=args, provenance=provenance)


def _size_args(architecture: str, config: TrainConfig) -> dict[str, Any]:
    """timm builds some networks for one size of image, which they must be told."""
    try:
        cfg = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:  # the part of the name after the dot
        raise ModelError(f"{error}", f"Type: --model {architecture.partition('.')[0]}") from error
    return {"img_size": list(config.image_size)} if cfg is not None and cfg.fixed_input_size else {}


def _with_rates(architecture: str, config: TrainConfig, args: dict[str, Any]) -> nn.Module:
    """Make the model with its regularisation rates; not every model of timm knows all of them."""
    rates = {"drop_path_rate": config.drop_path, "drop_rate": config.drop_rate}
    rates = {name: rate for name, rate in rates.items() if rate > 0}
    while True:
        try:
            return create_model(architecture, **rates | args)
        except TypeError as error:
            refused = [name for name in rates if f"'{name}'" in str(error)]
            if not refused:
                raise ConfigError(
                    f"model_args is {config.model_args}, but {architecture} cannot be made with {args}: {error}."
                ) from error
            print(f"{'Note':<12}{architecture} has no {refused[0]}: left out")
            del rates[refused[0]]
