"""What papers publish of the networks that ours are compared with: a line a network, with its source."""

from __future__ import annotations

from typing import NamedTuple

from dualtoken.backbone.variants import VARIANTS


class Published(NamedTuple):
    """ImageNet-1K accuracy as a paper gives it.

    Attributes:
        top1: per cent.
        image_size: side of the input that it was measured at, pixels.
        source: the paper, and how the network was trained where that is out of the ordinary.
        timm: per cent that timm measures at the same size with the weights it offers, as its results and model cards
            say; None where we did not find it. It bears the paper's figure out, or shows how far weights differ.
    """

    top1: float
    image_size: int
    source: str
    timm: float | None = None


PEERS: dict[str, Published] = {
    "pvt_v2_b0": Published(70.5, 224, "arXiv 2106.13797", 70.7),
    "pvt_v2_b1": Published(78.7, 224, "arXiv 2106.13797", 78.7),
    "mobilevitv2_100": Published(78.1, 256, "arXiv 2206.02680", 78.1),
    "edgenext_small": Published(79.4, 256, "arXiv 2206.10589; 81.1 with distillation (USI)"),
    "efficientformerv2_s1": Published(79.0, 224, "arXiv 2212.08059; distilled, 300 epochs", 79.7),
    "tiny_vit_5m_224": Published(79.1, 224, "arXiv 2207.10666; without distillation"),
    "deit_tiny_patch16_224": Published(72.2, 224, "arXiv 2012.12877; 74.5 with distillation", 72.2),
    "swin_tiny_patch4_window7_224": Published(81.3, 224, "arXiv 2103.14030"),
    "repvit_m1_0": Published(80.0, 224, "arXiv 2307.09283; distilled, 300 epochs"),
    "repvit_m0_9": Published(78.7, 224, "arXiv 2307.09283; distilled, 300 epochs"),
    "mobilenetv4_conv_small": Published(73.8, 224, "arXiv 2404.10518", 73.8),
    "mobilenetv4_conv_medium": Published(79.9, 256, "arXiv 2404.10518", 79.9),
    "fastvit_t12": Published(79.1, 256, "arXiv 2303.14189; without distillation"),
}


def published(name: str) -> Published | None:
    """The published accuracy of a network by its name in timm's registry, with or without a tag of weights."""
    architecture = name.split(".")[0]
    variant = VARIANTS.get(architecture)
    if variant is not None:
        return None if variant.top1 is None else Published(variant.top1, variant.image_size, variant.paper)
    return PEERS.get(architecture)
