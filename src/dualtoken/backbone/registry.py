"""Our networks in timm's registry, and `create_model` for any name in it."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from dualtoken.backbone.config import BackboneConfig, PlainConfig
from dualtoken.backbone.variants import VARIANTS, Variant
from dualtoken.errors import ModelError, nearest
from dualtoken.preprocess import IMAGENET_MEAN, IMAGENET_STD

OURS = {name: variant for name, variant in VARIANTS.items() if variant.config is not None}  # the others are timm's


def _cfg(variant: Variant) -> dict[str, Any]:
    config: Any = variant.config
    side = -(-variant.image_size // config.last_stride)
    double = getattr(config, "head", "").endswith("_two")
    return {
        "num_classes": 1000,
        "input_size": (3, variant.image_size, variant.image_size),
        "min_input_size": (3, 32, 32),
        "fixed_input_size": isinstance(config, PlainConfig),
        "pool_size": (side, side),
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "stem.stride2.0.conv" if isinstance(config, BackboneConfig) else None,
        "classifier": ("head.labels", "head.teacher") if double else "head",
        "license": "apache-2.0",
        "paper_ids": variant.paper.replace("arXiv ", "arXiv:"),
    }


default_cfgs = generate_default_cfgs({f"{name}.untrained": _cfg(variant) for name, variant in OURS.items()})


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    from dualtoken import backbone  # here: timm may be imported first by a part of it

    config: Any = OURS[name].config
    config = replace(config, **{field.name: kwargs.pop(field.name) for field in fields(config) if field.name in kwargs})
    model: nn.Module = build_model_with_cfg(
        getattr(backbone, config.network),
        name,
        pretrained,
        feature_cfg={"out_indices": kwargs.pop("out_indices", config.levels), "feature_cls": "getter"},
        config=config,
        **kwargs,
    )
    return model


def _register(name: str) -> None:
    """Give timm the entry point that it expects: a function of this module, named as the variant."""

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"`{name}` of the VARIANTS table. Keyword arguments: those of its network and its config."
    setattr(sys.modules[__name__], name, register_model(entry))


for _name in OURS:
    _register(_name)


def create_model(name: str, *, reduction: str | None = None, keep: float = 0.7, **kwargs: Any) -> nn.Module:
    """A network by its name in timm's registry, ours or any other, with fresh weights.

    Args:
        name: such as `dualtoken_vit_t_mix` or `mobilenetv4_conv_small`.
        reduction: how a plain vision transformer drops or merges tokens: a name in `reductions.REDUCTIONS`, such as
            `evit`; None keeps them all.
        keep: with a reduction, the share that it keeps, in (0, 1].
        **kwargs: those of `timm.create_model`; for our networks also the fields of their config.

    Raises:
        ModelError: no such name; the message gives the nearest.
        ConfigError: an impossible size or switch.
    """
    require_known(name)
    model: nn.Module = timm.create_model(name, **kwargs)
    if reduction is None:
        return model
    from dualtoken.backbone.reductions import reduce_tokens  # here: timm may be imported first by a part of it

    return reduce_tokens(model, reduction, keep)


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
