"""The model that is explained: it must run in torch, since maps are made of gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from dualtoken.engines.torch import choose_device
from dualtoken.errors import ModelError
from dualtoken.files import digest
from dualtoken.hub import is_named, missing_model
from dualtoken.model_folder import WEIGHTS, ModelConfig, build_model, is_model_folder
from dualtoken.prediction import Predictor, load
from dualtoken.prediction.exported import is_export, read_export
from dualtoken.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from dualtoken.words import typed

_FRESH = "The network has fresh weights: its maps show its architecture, nothing that was learned."


def open_model(model: str | Path | Predictor, device: str, seed: int) -> tuple[Predictor, list[str]]:
    """The model as a predictor that runs in torch, and what must be said about it: that its weights are fresh."""
    if isinstance(model, Predictor):
        predictor, notes = model, []
    elif not Path(model).exists() and timm.is_model(str(model)):
        predictor, notes = _fresh_predictor(str(model), device, seed), [_FRESH]
    elif is_export(model):
        raise _no_gradients(Path(model))
    elif not (Path(model).exists() or is_named(model)):
        raise missing_model(str(model), timm.list_models())
    else:
        predictor, notes = load(model, device=device), []
    if not isinstance(predictor.model, nn.Module):
        raise ModelError(
            f"{predictor.name!r} runs in an engine that has no gradients.", "Give the model folder that it came from."
        )
    return predictor, notes


def _no_gradients(path: Path) -> ModelError:
    """Says which folder to give instead of an export, or of another file."""
    try:
        config, info = read_export(path)
    except ModelError:
        if not path.is_file():
            raise
        return ModelError(
            f"{str(path)!r} is a file, which has no gradients to explain it by.",
            "Give a model folder, as `dualtoken train` writes it, or a name of timm for a network with fresh weights.",
        )
    near = [folder for folder in (path.parent, *sorted(path.parent.iterdir())) if is_model_folder(folder)]
    match = next((folder for folder in near if digest(folder / WEIGHTS) == info.weights_sha256), None)
    where = (
        f"Type: dualtoken explain {typed(match)} IMAGE --output FOLDER"
        if match
        else f"Give the model folder that it came from: {config.architecture} for {config.task}, whose {WEIGHTS} has"
        f" the SHA-256 {info.weights_sha256[:12]}..."
    )
    return ModelError(f"{str(path)!r} is an exported model, which has no gradients to explain it by.", where)


def _fresh_predictor(name: str, device: str, seed: int) -> Predictor:
    cfg: Any = timm.get_pretrained_cfg(name)
    height, width = cfg.input_size[1:]
    mean, std = tuple(cfg.mean or IMAGENET_MEAN), tuple(cfg.std or IMAGENET_STD)
    preprocessing = Preprocessing((height, width), min(cfg.crop_pct or 1.0, 1.0), mean=mean, std=std)
    classes = tuple(f"class {number}" for number in range(cfg.num_classes))
    config = ModelConfig(name, classes, preprocessing)
    return Predictor(fresh_network(config, seed).to(choose_device(device)), config, name=name)


def fresh_network(config: ModelConfig, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(config)
