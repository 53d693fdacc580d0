"""The network that a run trains: by name with fresh weights, or from a model folder with its own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from dualtoken.backbone.reductions import added_weights
from dualtoken.data import BandFacts, ImageData
from dualtoken.decode import most_objects
from dualtoken.errors import ConfigError, ModelError
from dualtoken.hub import find_model
from dualtoken.machine import command_line, machine_name
from dualtoken.model_folder import WEIGHTS, ModelConfig, load_config, load_weights, read_weights, versions
from dualtoken.model_schema import NOT_OF_A_NETWORK
from dualtoken.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from dualtoken.tasks import Network, Task
from dualtoken.training.config import TrainConfig

_COLOURS = 3


def make_network(
    config: TrainConfig, task: Task, images: ImageData, bands: BandFacts | None = None
) -> tuple[nn.Module, ModelConfig]:
    """The network and its description: by name with fresh weights, or from a model folder with its own.

    Args:
        config, task, images: of the run.
        bands: what the images' bands are, where they are others than red, green and blue.
    """
    _check_size(config, task)
    folder = find_model(config.model)
    known = load_config(folder) if folder.is_dir() else None
    alike = known is not None and known.task == task.name
    architecture = known.architecture if known else config.model
    if bands:
        mean, std = bands.mean, bands.std
    else:
        mean, std = (known.preprocessing.mean, known.preprocessing.std) if known else (IMAGENET_MEAN, IMAGENET_STD)
    head = task.choose_head(config.head or (known.head if known and alike else None) or None)
    limit = {} if config.max_objects is None else most_objects(config.max_objects)
    head_args = (known.head_args if known and alike and head == known.head else {}) | limit | config.head_args
    args = (known.model_args if known else {}) | _size_args(architecture, config) | config.network_args
    if "keep" in args and args.get("reduction") is None:
        raise ConfigError(f"keep is {args['keep']}, but no tokens are reduced.", "Add --set reduction=evit.")
    network = Network(architecture, len(images.classes), head, head_args, args, in_chans=len(mean))
    model = _with_rates(network, config, task)
    if known and alike and not task.heads:
        try:
            state = seeing(read_weights(folder / WEIGHTS), model)
            if "reduction" not in known.model_args:  # what one adds to the whole network stays fresh
                own = model.state_dict()
                state = {name: own[name] for name in added_weights(model)} | state
            load_weights(model, folder / WEIGHTS, state, skip_classifier=known.classes != images.classes)
        except ModelError as error:
            if not (other := _other_args(known.model_args, args)):
                raise
            raise ModelError(
                f"The weights of {config.model!r} do not fit: {', '.join(other)}.",
                f"Leave this out of model_args, or start from {architecture} with fresh weights.",
            ) from error
    elif known:
        print(f"{'Note':<12}{take_weights(model, folder)}")
    if known and images.val_drawn and _drew_another_val(known, config, images):
        print(
            f"{'Warning':<12}{config.model} was trained on these images with another val: it has seen some of the"
            " present one, whose metrics will be too good. Give the same --seed and --val-fraction."
        )
    preprocessing = Preprocessing(
        image_size=config.image_size,
        crop_pct=config.crop_pct if task.crop_mode == "center" else 1.0,
        crop_mode=task.crop_mode,
        interpolation="bicubic",
        mean=mean,
        std=std,
        bands=bands.bands if bands else None,
    )
    provenance = {
        "data": {
            "source": Path(images.source).name,
            "layout": images.layout,
            "fingerprint": images.fingerprint,
            "images": {name: len(samples) for name, samples in images.splits.items()},
            "bad_images": len(images.bad_images),
        },
        "settings": config.model_dump(mode="json"),
        "seed": config.seed,
        "command": command_line(),
        "machine": machine_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "fine_tuned_from": str(config.model) if known else None,
    }
    description = ModelConfig(
        architecture, images.classes, preprocessing, task=task.name, head=head, head_args=dict(head_args),
        model_args={name: value for name, value in args.items() if name not in NOT_OF_A_NETWORK}, provenance=provenance,
    )  # fmt: skip
    return model, description


def _other_args(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Which arguments of the network are not those of the model that it starts from, in words."""
    return [
        f"{name} is {own[name]!r}, but it was trained " + (f"with {theirs[name]!r}" if name in theirs else "without it")
        for name in own
        if name not in theirs or theirs[name] != own[name]
    ]


def _drew_another_val(known: ModelConfig, config: TrainConfig, images: ImageData) -> bool:
    """Whether the weights come from the same images, of which others were held out."""
    settings = known.provenance.get("settings") or {}
    same_images = (known.provenance.get("data") or {}).get("fingerprint") == images.fingerprint
    keys = ("seed", "val_fraction", "images_per_split")
    return same_images and any(settings.get(key) != getattr(config, key) for key in keys)


def take_weights(model: nn.Module, folder: Path) -> str:
    """Copy into `model` what the weights of `folder` have under the same names and shapes; its backbone must be whole.

    The model in the folder may have another task: its backbone is found inside the new network.

    Returns:
        One line that says how much was taken.

    Raises:
        ModelError: the backbones differ.
    """
    theirs, own = seeing(read_weights(folder / WEIGHTS), model), model.state_dict()
    inner, outer = _common_part(own, theirs)
    taken = {
        name: theirs[other]
        for name in own
        if name.startswith(inner)
        and (other := outer + name.removeprefix(inner)) in theirs
        and own[name].shape == theirs[other].shape
    }
    body = getattr(model, "body", model)
    place = next(name for name, module in model.named_modules() if module is body)
    missing = [name for name in own if name.startswith(place) and name not in taken]
    if not taken or (body is not model and missing):
        raise ModelError(
            f"The backbone of {str(folder)!r} does not fit into the new network: {len(missing)} of its tensors are not"
            f" there, such as {missing[:1]}.",
            "Start from a model folder of the same architecture, or from its name for fresh weights.",
        )
    model.load_state_dict(own | taken)
    return f"{len(taken)} of {len(own)} tensors come from {folder}, the others are fresh"


def seeing(theirs: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights whose first layer sees colours, for a `model` whose first layer sees other bands, as timm has it."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.in_channels == _COLOURS or first.groups > 1:
        return theirs
    outputs, inputs, *size = first.weight.shape
    return {
        name: adapt_input_conv(inputs, tensor) if tensor.shape == (outputs, _COLOURS, *size) else tensor
        for name, tensor in theirs.items()
    }


def _common_part(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[str, str]:
    """Where the network that two models share lies in each: the prefixes of its tensors' names."""
    by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for other, tensor in theirs.items():
        by_shape[tuple(tensor.shape)].append(other)
    found: Counter[tuple[str, str]] = Counter()
    for name, tensor in own.items():
        for other in by_shape[tuple(tensor.shape)]:
            tail = _common_tail(name, other)
            if tail:
                found[name.removesuffix(tail), other.removesuffix(tail)] += 1
    return found.most_common(1)[0][0] if found else ("", "")


def _common_tail(name: str, other: str) -> str:
    """The last parts, between dots, that two names have in common."""
    parts = zip(reversed(name.split(".")), reversed(other.split(".")), strict=False)
    return ".".join(reversed([part for part, _ in takewhile(lambda pair: pair[0] == pair[1], parts)]))


def _check_size(config: TrainConfig, task: Task) -> None:
    wrong = [side for side in config.image_size if side % task.stride]
    if wrong:
        near = [max(task.stride, round(side / task.stride) * task.stride) for side in config.image_size]
        raise ConfigError(
            f"image_size is {list(config.image_size)}; for {task.name} both sides must be multiples of {task.stride}.",
            f"Nearest: --set image_size={near}",
        )


def _size_args(architecture: str, config: TrainConfig) -> dict[str, Any]:
    """timm builds some networks for one size of image, which they must be told."""
    try:
        cfg = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:  # the part of the name after the dot
        raise ModelError(f"{error}", f"Type: --model {architecture.partition('.')[0]}") from error
    return {"img_size": list(config.image_size)} if cfg is not None and cfg.fixed_input_size else {}


def _with_rates(network: Network, config: TrainConfig, task: Task) -> nn.Module:
    """Make the model with its regularisation rates; not every model of timm knows all of them."""
    rates = {"drop_path_rate": config.drop_path, "drop_rate": config.drop_rate}
    rates = {name: rate for name, rate in rates.items() if rate > 0}
    while True:
        try:
            return task.build(replace(network, args=rates | dict(network.args)))
        except (TypeError, ModelError) as error:
            refused = [name for name in rates if f"'{name}'" in str(error)]
            if not refused:
                if isinstance(error, ModelError):
                    raise
                raise ConfigError(
                    f"model_args is {config.model_args}, but {network.architecture} cannot be made with"
                    f" {dict(network.args)}: {error}."
                ) from error
            print(f"{'Note':<12}{network.architecture} has no {refused[0]}: left out")
            del rates[refused[0]]
