"""The backbone: images to feature maps. Start reading at dualtoken.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualtoken.backbone import neighbours  # noqa: F401 (adds to VARIANTS)
from dualtoken.backbone.config import BackboneConfig, PlainConfig, PyramidConfig
from dualtoken.backbone.variants import VARIANTS, Variant
from dualtoken.registry import lazily

if TYPE_CHECKING:
    from dualtoken.backbone.dualtoken import DualTokenViT
    from dualtoken.backbone.measure import count_macs, count_parameters
    from dualtoken.backbone.plain import plain_vit
    from dualtoken.backbone.pyramid import Pyramid
    from dualtoken.backbone.registry import create_model, require_known

_HOMES = {
    "DualTokenViT": "dualtoken",
    "Pyramid": "pyramid",
    "count_macs": "measure",
    "count_parameters": "measure",
    "create_model": "registry",
    "plain_vit": "plain",
    "require_known": "registry",
}

__all__ = [
    "VARIANTS",
    "BackboneConfig",
    "DualTokenViT",
    "PlainConfig",
    "Pyramid",
    "PyramidConfig",
    "Variant",
    "count_macs",
    "count_parameters",
    "create_model",
    "plain_vit",
    "require_known",
]

# Import torch when a network is made: names, sizes and switches are known without it.
__getattr__ = lazily(__name__, _HOMES)
