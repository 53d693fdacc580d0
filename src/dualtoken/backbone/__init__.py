"""The backbone: images to feature maps. Start reading at model.py."""

from dualtoken.backbone.config import VARIANTS, BackboneConfig, Variant
from dualtoken.backbone.measure import count_macs, count_parameters
from dualtoken.backbone.model import DualTokenViT
from dualtoken.backbone.registry import create_model, require_known

__all__ = [
    "VARIANTS",
    "BackboneConfig",
    "DualTokenViT",
    "Variant",
    "count_macs",
    "count_parameters",
    "create_model",
    "require_known",
]
