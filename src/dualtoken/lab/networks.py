"""What takes part in a benchmark: a network by name, a model folder, or an exported file."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dualtoken.errors import ModelError
from dualtoken.lab.published import published
from dualtoken.lab.rows import Row

if TYPE_CHECKING:
    from torch import nn

    from dualtoken.backbone.contract import TimmContract

FILES = {".onnx": ("onnx", "openvino"), ".xml": ("openvino",)}  # exported files, and the engines that read them


@dataclass(frozen=True)
class Subject:
    """One model of a benchmark.

    Attributes:
        name: as it was typed: a name of timm's registry, or the path of a model folder or exported file.
        kind: `network` (fresh weights), `folder` or `file`.
    """

    name: str
    kind: str


def find_subject(model: str) -> Subject:
    """What `model` names.

    Raises:
        ModelError: no such file, folder or network; the message gives the nearest name.
    """
    from dualtoken.backbone.registry import require_known
    from dualtoken.hub import find_model
    from dualtoken.model_folder import is_model_folder

    path = find_model(model)
    if path.is_dir():
        if not is_model_folder(path):
            raise ModelError(f"{model!r} is a folder, but no model folder.", "Give what `dualtoken train` wrote.")
        return Subject(model, "folder")
    if path.suffix in FILES or path.is_file():
        if not path.is_file():
            raise ModelError(f"There is no file {model!r}.", "Write one with `dualtoken export`.")
        if path.suffix not in FILES:
            raise ModelError(f"{model!r} is a file of no known engine.", f"Expected one of {', '.join(FILES)}.")
        return Subject(model, "file")
    require_known(model)
    return Subject(model, "network")


def build(subject: Subject, image_size: int) -> nn.Module:
    """The network of a name or model folder for square images of `image_size` pixels, in evaluation mode.

    Images (B, 3, H, W) to raw outputs; of a detector all that is computed for every position. Networks by name have
    fresh weights, the same at every call. Parts that a network has for training alone are merged by timm's
    `reparameterize_model`: the form whose parameters papers count.

    Raises:
        ModelError: the model folder cannot be loaded.
    """
    import torch

    torch.manual_seed(0)
    if subject.kind == "folder":
        from dualtoken.hub import find_model
        from dualtoken.model_folder import load_model

        return _reparameterise(_of_a_detector(load_model(find_model(subject.name))[0].eval()))
    return _reparameterise(_create(subject.name, image_size).eval())


def _of_a_detector(model: Any) -> nn.Module:
    """All that a detector computes for every position; other models as they are."""
    return model.parts()["network"].eval() if hasattr(model, "parts") else model


def _reparameterise(model: nn.Module) -> nn.Module:
    """timm takes any layer called `fuse` for a promise to merge itself: ours have layers of this name and no need."""
    from timm.utils import reparameterize_model

    return model if _ours(model) else reparameterize_model(model, inplace=True)


def merge(model: nn.Module) -> nn.Module:
    """The same network with everything merged that inference can compute as one: what is measured."""
    for module in _ours(model):
        module.fold()
    return model.requires_grad_(False)


def _ours(model: nn.Module) -> list[TimmContract]:
    """Our networks within a model, which may stand below a head."""
    from dualtoken.backbone.contract import TimmContract

    return [module for module in model.modules() if isinstance(module, TimmContract)]


def _create(name: str, image_size: int) -> nn.Module:
    """Some networks hold tables for one size of the image and must be told it."""
    from dualtoken.backbone.registry import create_model

    model: Any = create_model(name)
    own = model.pretrained_cfg["input_size"][-1]
    if image_size != own and "img_size" in inspect.signature(type(model).__init__).parameters:
        return create_model(name, img_size=image_size)
    return model


def describe(subject: Subject, image_size: int) -> Row:
    """What a row says of the model itself.

    Returns:
        `mparams` (10^6 parameters) and `gmacs` (10^9 multiply-accumulates) of `build`'s network, None where they cannot
        be counted; `precision` of the weights, None where a file does not say; `top1` (per cent, ImageNet-1K) with
        `top1_image_size` and `top1_source`, None where nothing is published.
    """
    known = published(subject.name) if subject.kind == "network" else None
    costs, precision = _costs(subject, image_size)
    return {
        "model": subject.name,
        **costs,
        "precision": precision,
        "top1": known and known.top1,
        "top1_image_size": known and known.image_size,
        "top1_source": known and known.source,
    }


def _costs(subject: Subject, image_size: int) -> tuple[Row, str | None]:
    from dualtoken.backbone.measure import count_macs, count_parameters

    precision: str | None = "fp32"
    try:
        if subject.kind == "file":
            from dualtoken.model_folder import build_model
            from dualtoken.prediction.exported import read_export

            config, info = read_export(subject.name)
            model, precision = _of_a_detector(build_model(config)), info.precision
        else:
            model = build(subject, image_size)
    except (ModelError, RuntimeError, AssertionError, ValueError, TypeError):  # not ours, or refused: its rows say so
        return {"mparams": None, "gmacs": None}, None if subject.kind == "file" else precision
    try:
        macs: float | None = count_macs(model, (image_size, image_size)) / 1e9
    except (RuntimeError, AssertionError, ValueError, TypeError):  # the network refuses this size
        macs = None
    return {"mparams": count_parameters(model) / 1e6, "gmacs": macs}, precision
