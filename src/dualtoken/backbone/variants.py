"""Every named network with its published figures: the one table that everything reads.

`create_model`, `dualtoken models`, the tables of README and docs, and the tests that compare parameters and MACs with
the published figures all read `VARIANTS`. Our own networks stand here, those of other papers in `neighbours.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualtoken.backbone.config import BackboneConfig, PlainConfig, PyramidConfig


@dataclass(frozen=True)
class Variant:
    """A named network with what its paper publishes (ImageNet-1K); None where it says nothing.

    Attributes:
        config: None for a network that timm has, under the same name.
        gmacs: 10^9 multiply-accumulates an image, which the papers call FLOPs.
        mparams: 10^6 parameters.
        top1: per cent, without a teacher unless `paper` says so.
        counted: parameters, and 10^9 multiply-accumulates of one image, as we count them.
        image_size: side of the images for these figures, pixels.
        family: the networks that differ in size alone.
        code: the official repository, a source of facts.
    """

    config: BackboneConfig | PyramidConfig | PlainConfig | None
    gmacs: float | None = None
    mparams: float | None = None
    top1: float | None = None
    paper: str = "arXiv 2309.12424"
    counted: tuple[int, float] = (0, 0)
    image_size: int = 224
    family: str = "dualtoken_vit"
    code: str = ""


def _tiny(**switches: Any) -> BackboneConfig:
    return BackboneConfig(channels=(48, 96, 192), depths=(2, 5, 3), **switches)


def _small(**switches: Any) -> BackboneConfig:
    return BackboneConfig(channels=(64, 128, 256), depths=(2, 6, 4), **switches)


def _lightvit(width: int, depths: tuple[int, ...], tokens: int) -> BackboneConfig:
    heads = width // 32
    return BackboneConfig(
        channels=(width, 2 * width, 4 * width),
        depths=depths,
        heads=(heads, 2 * heads, 4 * heads),
        mixer="lightvit",
        global_tokens="normal",
        joint_tokens=True,
        normal_tokens=tokens,
    )


_LIGHTVIT: dict[str, Any] = {"paper": "arXiv 2207.05557", "family": "lightvit"}
VARIANTS: dict[str, Variant] = {
    "dualtoken_vit_t": Variant(_tiny(token_mlp="mlp"), counted=(6_035_842, 0.4995)),
    "dualtoken_vit_t_mix": Variant(_tiny(), gmacs=0.5, top1=75.4, counted=(5_925_290, 0.4971)),
    "dualtoken_vit_s": Variant(_small(token_mlp="mlp"), top1=79.5, counted=(11_732_148, 1.013)),
    "dualtoken_vit_s_mix": Variant(_small(), gmacs=1.0, top1=79.4, counted=(11_425_188, 1.0041)),
    "lightvit_t": Variant(_lightvit(64, (2, 6, 6), tokens=8), 0.7, 9.4, 78.7, counted=(9_377_698, 0.7721), **_LIGHTVIT),
    "lightvit_s": Variant(
        _lightvit(96, (2, 6, 6), tokens=16), 1.7, 19.2, 80.9, counted=(19_200_248, 1.8252), **_LIGHTVIT
    ),
    "lightvit_b": Variant(
        _lightvit(128, (3, 8, 6), tokens=24), 3.9, 35.2, 82.1, counted=(35_195_653, 4.1066), **_LIGHTVIT
    ),
}
