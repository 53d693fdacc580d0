"""The networks of other papers, family by family: the parts, and for each size what is published and what we count.

Where the two differ by more than rounding, the papers' counters leave something out (products of attention, say).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from dualtoken.backbone.config import PlainConfig, PyramidConfig
from dualtoken.backbone.variants import VARIANTS, Variant


class _Size(NamedTuple):
    """One size: what it changes of its family's parts, what is published, and parameters and 10^9 MACs as counted."""

    changes: dict[str, Any]
    mparams: float | None
    gmacs: float | None
    top1: float | None
    counted: tuple[int, float]
    image_size: int = 224


def _family(family: str, paper: str, code: str, parts: PyramidConfig | PlainConfig | None, **sizes: _Size) -> None:
    for name, size in sizes.items():
        VARIANTS[f"{family}_{name}"] = Variant(
            parts and replace(parts, **size.changes), size.gmacs, size.mparams, size.top1,
            paper, size.counted, size.image_size, family, f"github.com/{code}",
        )  # fmt: skip


def _sizes(depths: tuple[int, ...], *channels: int, **more: Any) -> dict[str, Any]:
    """Depths, then the four widths, or the first one if each is twice the one before."""
    widths = channels if len(channels) > 1 else tuple(channels[0] * 2**i for i in range(4))
    return {"depths": depths, "channels": widths, **more}


# ---------------------------------------------------------------- MetaFormer and its baselines

_METAFORMER = PyramidConfig(
    mixer="identity", stem="metaformer", downsample="norm_conv3", norm="group_without_bias", ffn="star_mlp",
    skip_scale=(0, 0, 1, 1), head="mean_norm",
)  # fmt: skip
_S12, _S24 = _sizes((2, 2, 6, 2), 64, 128, 320, 512), _sizes((4, 4, 12, 4), 64, 128, 320, 512)
_S36, _M36 = _sizes((6, 6, 18, 6), 64, 128, 320, 512), _sizes((6, 6, 18, 6), 96, 192, 384, 768)
_M48 = _sizes((8, 8, 24, 8), 96, 192, 384, 768)

_family(
    "identityformer", "arXiv 2210.13452", "sail-sg/metaformer", _METAFORMER,
    s12=_Size(_S12, 11.9, 1.8, 74.6, (11_891_712, 1.8123)),
    s24=_Size(_S24, 21.3, 3.4, 78.2, (21_341_464, 3.3922)),
    s36=_Size(_S36, 30.8, 5.0, 79.3, (30_791_216, 4.9722)),
    m36=_Size(_M36, 56.1, 8.8, 80.0, (56_077_168, 8.7588)),
    m48=_Size(_M48, 73.3, 11.5, 80.4, (73_346_056, 11.5333)),
)  # fmt: skip
_family(  # the random matrices are buffers: 0.2 to 0.9 M numbers more
    "randformer", "arXiv 2210.13452", "sail-sg/metaformer", replace(_METAFORMER, mixer="random"),
    s12=_Size(_S12, 11.9, 1.9, 76.6, (11_891_712, 1.8885)),
    s24=_Size(_S24, 21.3, 3.5, 78.2, (21_341_464, 3.5446)),
    s36=_Size(_S36, 30.8, 5.2, 79.5, (30_791_216, 5.2008)),
    m36=_Size(_M36, 56.1, 9.0, 81.2, (56_077_168, 9.0354)),
    m48=_Size(_M48, 73.3, 11.9, 81.4, (73_346_056, 11.9021)),
)  # fmt: skip

_family(
    "poolformer", "arXiv 2111.11418", "sail-sg/poolformer", None,
    s12=_Size({}, 12, 1.8, 77.2, (11_915_176, 1.8123)),
    s24=_Size({}, 21, 3.4, 80.3, (21_388_968, 3.3922)),
    s36=_Size({}, 31, 5.0, 81.4, (30_862_760, 4.9722)),
    m36=_Size({}, 56, 8.8, 82.1, (56_172_520, 8.7588)),
    m48=_Size({}, 73, 11.6, 82.5, (73_473_448, 11.5333)),
)  # fmt: skip
_family(
    "poolformerv2", "arXiv 2210.13452", "sail-sg/metaformer", None,
    s12=_Size({}, 11.9, 1.8, 78.0, (11_891_712, 1.8123)),
    s24=_Size({}, 21.3, 3.4, 80.7, (21_341_464, 3.3922)),
    s36=_Size({}, 30.8, 5.0, 81.6, (30_791_216, 4.9722)),
    m36=_Size({}, 56.1, 8.8, 82.2, (56_077_168, 8.7588)),
    m48=_Size({}, 73.3, 11.5, 82.6, (73_346_056, 11.5333)),
)  # fmt: skip
_family(
    "convformer", "arXiv 2210.13452", "sail-sg/metaformer", None,
    s18=_Size({}, 27, 3.9, 83.0, (26_774_448, 3.9410)),
    s36=_Size({}, 40, 7.6, 84.1, (40_012_152, 7.6397)),
    m36=_Size({}, 57, 12.8, 84.5, (57_051_640, 12.8423)),
    b36=_Size({}, 100, 22.6, 84.8, (99_882_616, 22.6294)),
)  # fmt: skip
_family(
    "caformer", "arXiv 2210.13452", "sail-sg/metaformer", None,
    s18=_Size({}, 26, 4.1, 83.6, (26_341_656, 4.1069)),
    s36=_Size({}, 39, 8.0, 84.5, (39_297_102, 7.9716)),
    m36=_Size({}, 56, 13.2, 85.2, (56_204_878, 13.2406)),
    b36=_Size({}, 99, 23.2, 85.5, (98_753_614, 23.1605)),
)  # fmt: skip

# ---------------------------------------------------------------- convolutions in place of attention

_family(
    "cas_vit", "arXiv 2408.03703", "Tianfang-Zhang/CAS-ViT",
    PyramidConfig(
        mixer="cas_vit", stem="two_convs_relu", downsample="conv3_batch", position="local_integration",
        norm="batch", head="batch_mean_two",
    ),
    xs=_Size(_sizes((2, 2, 4, 2), 48, 56, 112, 220), 3.20, None, 78.3, (3_200_700, 0.547)),
    s=_Size(_sizes((3, 3, 6, 3), 48, 64, 128, 256), 5.76, None, 80.9, (5_764_224, 0.9122)),
    m=_Size(_sizes((3, 3, 6, 3), 64, 96, 192, 384), 12.42, None, 82.8, (12_421_520, 1.8595)),
    t=_Size(_sizes((3, 3, 6, 3), 96, 128, 256, 512), 21.76, None, 83.9, (21_763_120, 3.5574)),
)  # fmt: skip
_LARGE = {"options": {"ffn_kernel": 7}, "layer_scale": (1e-6,) * 4}
_family(
    "ffnet", "arXiv 2406.02021", "ysj9909/FFNet",
    PyramidConfig(
        mixer="ffnet", stem="two_convs_64", downsample="merged_depthwise", norm="none", ffn="depthwise_mlp",
        ffn_ratios=(3, 3, 3, 3), head="batch_mean",
    ),
    **{
        "1": _Size(_sizes((2, 2, 8, 2), 80), 13.7, 2.9, 81.3, (13_775_656, 3.0007), 256),
        "2": _Size(_sizes((3, 3, 15, 3), 88, options={"ffn_kernel": 7}), 26.9, 6.0, 82.9, (27_208_408, 6.0609), 256),
        "3": _Size(_sizes((4, 4, 22, 5), 96, **_LARGE), 48.3, 10.1, 83.9, (48_817_896, 10.2356), 256),
        "4": _Size(_sizes((4, 4, 27, 3), 128, **_LARGE), 79.2, 43.1, 85.3, (79_868_968, 43.4221), 384),
    },
)  # fmt: skip
_family(
    "spartan", "arXiv 2507.10999", "henry-pay/SpaRTAN",
    PyramidConfig(
        mixer="spartan", stem="spartan", downsample="conv2_silu", norm="group", ffn="spartan",
        ffn_ratios=(4, 4, 2, 2), layer_scale=(1e-5,) * 4, head="mean",
    ),
    s=_Size(_sizes((3, 3, 12, 2), 32), 3.8, 1.0, 77.7, (3_820_296, 0.7996)),
)  # fmt: skip

_family(  # L is published after other training images alone
    "conv2former", "arXiv 2211.11943", "HVision-NKU/Conv2Former",
    PyramidConfig(
        mixer="conv2former", stem="two_convs_patches", downsample="norm_patches2", ffn="twice_active",
        layer_scale=(1e-6,) * 4, head="neck_1280",
    ),
    n=_Size(_sizes((2, 2, 8, 2), 64, options={"kernel": 7}), 15, 2.2, 81.5, (14_992_840, 2.3303)),
    t=_Size(_sizes((3, 3, 12, 3), 72), 27, 4.4, 83.2, (26_697_204, 4.3605)),
    s=_Size(_sizes((4, 4, 32, 4), 72), 50, 8.7, 84.1, (50_032_692, 8.7084)),
    b=_Size(_sizes((4, 4, 34, 4), 96), 90, 15.9, 84.4, (90_029_112, 15.8901)),
    l=_Size(_sizes((4, 4, 48, 4), 128), 199, 36.0, None, (198_893_736, 36.0375)),
)  # fmt: skip
_family(
    "ms_mlp", "arXiv 2202.06510", "JegZheng/MS-MLP",
    PyramidConfig(
        mixer="ms_mlp", stem="patches_layer", downsample="patches2_layer", block="one_branch",
        layer_scale=(1e-6,) * 4, head="mean_norm",
    ),
    t=_Size(_sizes((3, 3, 9, 3), 96), 28, 4.9, 82.1, (28_656_232, 4.4378)),
    s=_Size(_sizes((3, 3, 27, 3), 96), 50, 9.0, 83.4, (50_303_752, 8.6671)),
    b=_Size(_sizes((3, 3, 27, 3), 128), 88, 16.1, 83.8, (88_696_792, 15.3342)),
)  # fmt: skip
_AFFNET_ET = {"stem": "inverted_2", "downsample": "inverted_2", "ffn_ratios": (2, 2, 2, 2)}
_family(  # the transforms are counted as the products that they are here
    "affnet", "arXiv 2307.14008", "microsoft/TokenMixers",
    PyramidConfig(
        mixer="affnet", stem="inverted_4", downsample="inverted_4", block="affnet", norm="group", epsilon=1e-5,
        depths=(2, 1, 1, 1), ffn_ratios=(4, 2, 2, 2), head="neck_four_times", options={"filters": (0, 2, 4, 3)},
    ),
    et=_Size(_sizes((2, 1, 1, 1), 48, 64, 104, 144, **_AFFNET_ET), 1.4, 0.4, 73.0, (1_436_264, 0.3961), 256),
    t=_Size(_sizes((2, 1, 1, 1), 48, 96, 160, 192), 2.6, 0.8, 77.0, (2_654_232, 0.8465), 256),
    s=_Size(_sizes((2, 1, 1, 1), 64, 128, 256, 320), 5.5, 1.5, 79.8, (5_568_696, 1.5392), 256),
)  # fmt: skip
_family(  # the repository has no figures, and the paper's own could not be read
    "raft_mlp", "arXiv 2108.04384", "okojoalg/raft-mlp",
    PyramidConfig(
        mixer="raft_mlp", stem="patches_4_8", downsample=("patches_2_4", "patches_2_4", "patches_2"), block="raft",
        head="norm5_mean",
    ),
    s=_Size(_sizes((2, 2, 6, 2), 64), None, None, None, (9_868_768, 2.0870)),
    m=_Size(_sizes((2, 2, 6, 2), 96), None, None, None, (21_413_632, 4.2673)),
    l=_Size(_sizes((2, 2, 6, 2), 128, 192, 512, 1024), None, None, None, (36_184_672, 6.544)),
)  # fmt: skip

# ---------------------------------------------------------------- modulation and attention

_family(
    "smt", "arXiv 2307.08579", "AFeng-x/SMT",
    PyramidConfig(
        mixer="smt", stem="smt", downsample="conv3_layer", ffn="conv_mlp", heads=(2, 4, 8, 16), stage_norm=True,
        head="mean",
    ),
    t=_Size(_sizes((2, 2, 8, 1), 64, ffn_ratios=(4, 4, 4, 2)), 11.5, 2.4, 82.2, (11_506_536, 2.4613)),
    s=_Size(_sizes((3, 4, 18, 2), 64, ffn_ratios=(4, 4, 4, 2)), 21, 4.7, 83.7, (22_550_952, 4.8388)),
    b=_Size(_sizes((4, 6, 28, 2), 64, ffn_ratios=(8, 6, 4, 2), stem="smt7"), 32.0, 7.7, 84.3, (32_037_352, 7.9659)),
    l=_Size(_sizes((4, 6, 28, 4), 96, ffn_ratios=(8, 6, 4, 2), stem="smt7"), 81, 17.6, None, (80_589_544, 17.9071)),
)  # fmt: skip
_family(
    "rmt", "arXiv 2309.11523", "qhfan/RMT",
    PyramidConfig(
        mixer="rmt", stem="four_convs", downsample="conv3_batch", position="depthwise", ffn="conv_mlp_act_first",
        heads=(4, 4, 8, 16), ffn_ratios=(4, 4, 3, 3), head="neck_1024",
    ),
    t=_Size(_sizes((2, 2, 8, 2), 64, ffn_ratios=(3,) * 4, options={"whole_from": 2}),
            14, 2.5, 82.4, (14_334_216, 2.6372)),
    s=_Size(_sizes((3, 4, 18, 4), 64), 27, 4.5, 84.1, (26_967_240, 4.7766)),
    b=_Size(_sizes((4, 8, 25, 8), 80, 160, 320, 512, heads=(5, 5, 10, 16), layer_scale=(0, 0, 1e-6, 1e-6),
                   options={"decay_range": (5, 5, 6, 6)}), 54, 9.7, 85.0, (54_154_896, 10.3731)),
    l=_Size(_sizes((4, 8, 25, 8), 112, 224, 448, 640, heads=(7, 7, 14, 20), layer_scale=(0, 0, 1e-6, 1e-6),
                   options={"decay_range": (6, 6, 6, 6)}), 95, 18.2, 85.5, (95_464_864, 19.488)),
)  # fmt: skip
_family(
    "vssd", "arXiv 2407.18559", "YuHengsss/VSSD",
    PyramidConfig(
        mixer="vssd", stem="residual", downsample="inverted_bottleneck", position="depthwise",
        second_position="depthwise", epsilon=1e-5, heads=(2, 4, 8, 16), head="norm5_mean",
    ),
    micro=_Size(_sizes((2, 2, 8, 4), 48, options={"state": 48}), 13.5, 2.3, 82.5, (13_512_964, 2.3874)),
    tiny=_Size(_sizes((2, 4, 8, 4), 64), 24, 4.5, 83.6, (24_270_724, 4.6638)),
    small=_Size(_sizes((3, 4, 21, 5), 64), 40, 7.4, 84.1, (40_075_650, 7.7089)),
    base=_Size(_sizes((3, 4, 21, 5), 96, heads=(3, 6, 12, 24)), 89, 16.1, 84.7, (88_823_151, 16.6488)),
)  # fmt: skip
_CSWIN_384 = {"heads": (4, 8, 16, 32), "options": {"stripes": (1, 2, 12, 12)}}
_family(
    "cswin", "arXiv 2107.00652", "microsoft/CSWin-Transformer",
    PyramidConfig(
        mixer="cswin", stem="conv7_layer", downsample="conv3_layer", epsilon=1e-5, heads=(2, 4, 8, 16),
        head="norm5_mean",
    ),
    t=_Size(_sizes((1, 2, 21, 1), 64), 23, 4.3, 82.8, (22_320_552, 4.3242)),
    s=_Size(_sizes((2, 4, 32, 2), 64), 35, 6.9, 83.6, (34_643_304, 6.8007)),
    b=_Size(_sizes((2, 4, 32, 2), 96, heads=(4, 8, 16, 32)), 78, 15.0, 84.2, (77_382_184, 14.9553)),
    b_384=_Size(_sizes((2, 4, 32, 2), 96, **_CSWIN_384), 78, 47.0, 85.5, (77_382_184, 46.9637), 384),
    l=_Size(_sizes((2, 4, 32, 2), 144, heads=(6, 12, 24, 24)), 173, 31.5, None, (173_262_664, 33.1301)),
)  # fmt: skip
_family(
    "biformer", "arXiv 2303.08810", "rayleizhu/BiFormer",
    PyramidConfig(
        mixer="biformer", stem="two_convs_bias", downsample="conv3_batch", position="depthwise",
        ffn_ratios=(3, 3, 3, 3), head="batch_mean",
    ),
    t=_Size(_sizes((2, 2, 8, 2), 64), 13.1, 2.2, 81.4, (13_142_760, 2.2159)),
    s=_Size(_sizes((4, 4, 18, 4), 64), 25.5, 4.5, 83.8, (25_536_232, 4.4636)),
    b=_Size(_sizes((4, 4, 18, 4), 96), 56.8, 9.8, 84.3, (56_804_968, 9.759)),
)  # fmt: skip
_IFORMER_B = {"heads": (3, 6, 12, 16), "options": {"attending": ((1, 1), (3, 3), (8, 10), (15, 15))}}
_IFORMER_L = {"heads": (3, 6, 14, 20), "options": {"attending": ((1, 1), (3, 3), (10, 12), (19, 19))}}
_family(  # timm's iformer_s, iformer_m, iformer_l are another paper's
    "iformer", "arXiv 2205.12956", "sail-sg/iFormer",
    PyramidConfig(
        mixer="iformer", stem="two_convs_bias", downsample="conv3_batch", stage_position="learned_map",
        heads=(3, 6, 10, 12), layer_scale=(0, 0, 1e-6, 1e-6),
    ),
    small=_Size(_sizes((3, 3, 9, 3), 96, 192, 320, 384), 19.866, 4.849, 83.4, (19_866_344, 4.8258)),
    base=_Size(_sizes((4, 6, 14, 6), 96, 192, 384, 512, **_IFORMER_B), 47.866, 9.379, 84.6, (47_866_216, 9.342)),
    large=_Size(_sizes((4, 6, 18, 8), 96, 192, 448, 640, **_IFORMER_L), 86.637, 14.048, 84.8, (86_637_096, 14.0042)),
)  # fmt: skip
_family(
    "l2vit", "arXiv 2501.16182", "ChuanyangZheng/L2ViT",
    PyramidConfig(
        mixer="l2vit", stem="two_convs_relu_layer", downsample="norm_conv2", position="depthwise",
        second_position="local_concentration", epsilon=1e-5, heads=(3, 6, 12, 24), head="norm5_mean",
    ),
    t=_Size(_sizes((2, 2, 6, 2), 96), 29, 4.7, 83.1, (28_596_781, 4.6882)),
    s=_Size(_sizes((2, 2, 18, 2), 96), 50, 9.0, 84.1, (50_199_157, 8.9801)),
    b=_Size(_sizes((2, 2, 18, 2), 128, heads=(4, 8, 16, 32)), 89, 15.9, 84.4, (88_577_188, 15.8077)),
)  # fmt: skip
_family(
    "crossformer", "arXiv 2108.00154", "cheerss/CrossFormer",
    PyramidConfig(
        mixer="crossformer", stem="four_scales", downsample="norm_two_scales", epsilon=1e-5, heads=(3, 6, 12, 24),
        head="norm5_mean",
    ),
    t=_Size(_sizes((1, 1, 8, 6), 64, heads=(2, 4, 8, 16)), 27.8, 2.9, 81.5, (27_776_794, 2.8574)),
    s=_Size(_sizes((2, 2, 6, 2), 96), 30.7, 4.9, 82.5, (30_657_394, 4.9061)),
    b=_Size(_sizes((2, 2, 18, 2), 96), 52.0, 9.2, 83.4, (51_971_554, 9.1594)),
    l=_Size(_sizes((2, 2, 18, 2), 128, heads=(4, 8, 16, 32)), 92.0, 16.1, 84.0, (91_971_184, 16.1075)),
)  # fmt: skip
_family(
    "transnext", "arXiv 2311.17132", "DaiShiResearch/TransNeXt",
    PyramidConfig(
        mixer="transnext", stem="conv7_layer_padded", ffn="gated_conv_mlp", ffn_ratios=(8, 8, 4, 4), stage_norm=True,
        heads=(3, 6, 12, 24), head="mean",
    ),
    micro=_Size(_sizes((2, 2, 15, 2), 48, heads=(2, 4, 8, 16)), 12.8, 2.7, 82.5, (12_809_304, 2.6486)),
    tiny=_Size(_sizes((2, 2, 15, 2), 72), 28.2, 5.7, 84.0, (28_258_960, 5.7111)),
    small=_Size(_sizes((5, 5, 22, 5), 72), 49.7, 10.3, 84.7, (49_741_564, 10.2906)),
    base=_Size(_sizes((5, 5, 23, 5), 96, heads=(4, 8, 16, 32)), 89.7, 18.4, 84.8, (89_721_496, 18.2999)),
)  # fmt: skip
_family(
    "fcaformer", "arXiv 2211.07198", "hkzhang-git/FcaFormer",
    PyramidConfig(
        mixer="fcaformer", stem="two_convs", downsample="pointwise_depthwise", block="fcaformer",
        layer_scale=(1e-6,) * 4, head="mean_norm5",
    ),
    l1=_Size(_sizes((2, 2, 6, 2), 64, 128, 192, 320, heads=(1, 1, 6, 10)), 6.2, 1.37, 80.3, (6_187_560, 1.3743)),
    l2=_Size(_sizes((2, 2, 7, 2), 96, 192, 320, 480, heads=(1, 1, 10, 15)), 16.3, 3.6, 83.1, (16_275_870, 3.6022)),
    l3=_Size(_sizes((3, 6, 12, 3), 96, 192, 320, 512, heads=(1, 1, 10, 16)), 27.9, 6.7, 84.2, (27_894_484, 6.6506)),
    l4=_Size(_sizes((3, 6, 12, 3), 128, 256, 512, 768, heads=(1, 1, 16, 24)), 65.6, 14.5, 84.9, (65_638_204, 14.4918)),
)  # fmt: skip
_family(
    "lsnet", "arXiv 2503.23135", "jameslahm/lsnet",
    PyramidConfig(
        mixer="lsnet", stride=8, stem="three_convs", downsample="depthwise_pointwise", norm="none", ffn="batch_mlp",
        ffn_ratios=(2, 2, 2, 2), heads=(3, 3, 3, 4), block="lsnet", head="mean_batch",
    ),
    t=_Size(_sizes((0, 2, 8, 10), 64, 128, 256, 384), 11.4, 0.3, 74.9, (11_409_832, 0.3151)),
    s=_Size(_sizes((1, 2, 8, 10), 96, 192, 320, 448), 16.1, 0.5, 77.8, (16_146_304, 0.5371)),
    b=_Size(_sizes((4, 6, 8, 10), 128, 256, 384, 512), 23.2, 1.3, 80.3, (23_313_608, 1.2409)),
)  # fmt: skip

# ---------------------------------------------------------------- plain vision transformers behind a stem of their own


def _plain(depth: int, channels: int, ffn_ratio: float) -> dict[str, Any]:
    return {"depth": depth, "channels": channels, "heads": channels // 64, "ffn_ratio": ffn_ratio}


_family(
    "t2t_vit", "arXiv 2101.11986", "yitu-opensource/T2T-ViT", PlainConfig(),
    **{
        "7": _Size(_plain(7, 256, 2), 4.3, 1.1, 71.7, (4_306_126, 1.1469)),
        "10": _Size(_plain(10, 256, 2), 5.9, 1.5, 75.2, (5_885_134, 1.5163)),
        "12": _Size(_plain(12, 256, 2), 6.9, 1.8, 76.5, (6_937_806, 1.7626)),
        "14": _Size(_plain(14, 384, 3), 21.5, 4.8, 81.5, (21_541_454, 4.7835)),
        "19": _Size(_plain(19, 448, 3), 39.2, 8.5, 81.9, (39_173_326, 8.4797)),
        "24": _Size(_plain(24, 512, 3), 64.1, 13.8, 82.3, (64_101_838, 13.6619)),
    },
)  # fmt: skip

# ---------------------------------------------------------------- networks of timm, mixers of ours (davit.py, volo.py)

_family(
    "davit", "arXiv 2204.03645", "dingmyu/davit", None,
    tiny=_Size({}, 28.3, 4.5, 82.8, (28_360_168, 4.5218)),
    small=_Size({}, 49.7, 8.8, 84.2, (49_745_896, 8.7730)),
    base=_Size({}, 87.9, 15.5, 84.6, (87_954_408, 15.4738)),
)  # fmt: skip
_family(
    "volo", "arXiv 2106.13112; with token labels", "sail-sg/volo", None,
    d1_224=_Size({}, 27, None, 84.2, (26_632_040, 6.9187)),
)  # fmt: skip
