"""Our networks in timm's registry, and `create_model` for any name in it."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from dualtoken.backbone.config import BackboneConfig
from dualtoken.backbone.variants import VARIANTS
from dualtoken.errors import ModelError, nearest
from dualtoken.preprocess import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from dualtoken.backbone.dualtoken import DualTokenViT


def _cfg(paper: str) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "min_input_size": (3, 32, 32),
        "pool_size": (7, 7),
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "stem.stride2.0.conv",
        "classifier": "head",
        "license": "apache-2.0",
        "paper_ids": paper.replace("arXiv ", "arXiv:"),
    }


default_cfgs = generate_default_cfgs({f"{name}.untrained": _cfg(variant.paper) for name, variant in VARIANTS.items()})


def _create(name: str, pretrained: bool, **kwargs: Any) -> DualTokenViT:
    from dualtoken.backbone.dualtoken import DualTokenViT  # here: timm may be imported first by a part of it

    switches = {field.name: kwargs.pop(field.name) for field in fields(BackboneConfig) if field.name in kwargs}
    model: DualTokenViT = build_model_with_cfg(
        DualTokenViT,
        name,
        pretrained,
        feature_cfg={"out_indices": kwargs.pop("out_indices", (0, 1, 2, 3, 4)), "feature_cls": "getter"},
        config=replace(VARIANTS[name].config, **switches),
        **kwargs,
    )
    return model


def _register(name: str) -> None:
    """Give timm the entry point that it expects: a function of this module, named as the variant."""

    def entry(pretrained: bool = False, **kwargs: Any) -> DualTokenViT:
        return _create(name, pretrained, **kwargs)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"`{name}` of the VARIANTS table. Keyword arguments: those of DualTokenViT and of BackboneConfig."
    setattr(sys.modules[__name__], name, register_model(entry))


for _name in VARIANTS:
    _register(_name)


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """A network by its name in timm's registry, ours or any other, with fresh weights.

    Args:
        name: such as `dualtoken_vit_t_mix` or `mobilenetv4_conv_small`.
        **kwargs: those of `timm.create_model`; for our networks also the fields of `BackboneConfig`.

    Raises:
        ModelError: no such name; the message gives the nearest.
        ConfigError: an impossible size or switch.
    """
    require_known(name)
    model: nn.Module = timm.create_model(name, **kwargs)
    return model


def require_known(name: str) -> None:
    """Refuse a name that is not in timm's registry.

    Raises:
        ModelError: with the nearest name.
    """
    if not timm.is_model(name):
        near = nearest(name, VARIANTS) or nearest(name, timm.list_models())
        raise ModelError(
            f"There is no model {name!r}." + (f" Did you mean {near!r}?" if near else ""),
            "`dualtoken models` lists ours; any name of timm.list_models() works too.",
        )
