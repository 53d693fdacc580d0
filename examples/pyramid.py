"""DualToken-ViT as a backbone: the maps that a detector or segmenter of your own would read.

python examples/pyramid.py
"""

import timm
import torch

import dualtoken  # noqa: F401 (registers our networks in timm)

backbone = timm.create_model("dualtoken_vit_t_mix", features_only=True, out_indices=(2, 3, 4)).eval()
image = torch.rand(1, 3, 320, 480)  # any size; the grid of global tokens stays 7 x 7

with torch.inference_mode():
    maps = backbone(image)

for stride, channels, features in zip(
    backbone.feature_info.reduction(), backbone.feature_info.channels(), maps, strict=True
):
    print(f"stride {stride:>2}: {channels:>3} channels, {tuple(features.shape[2:])}")
