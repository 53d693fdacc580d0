"""Small model folders with random weights, and toy networks whose reasons are known."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dualtoken.model_folder import ModelConfig, build_model, save_model
from dualtoken.preprocess import Preprocessing

SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 2], "heads": [1, 2, 2], "neck": 16}
CLASSES = ("cat", "dog", "big bird")
SIZE = (64, 96)
PLAIN = ModelConfig("toy", CLASSES, Preprocessing())  # probabilities as they come
_FPN = {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}

# Name: task, head, its arguments, architecture, its arguments.
FOLDERS = {
    "classifier": ("classification", "", {}, "dualtoken_vit_t_mix", SMALL),
    "resnet": ("classification", "", {}, "test_resnet", {}),
    "segmenter": ("semantic_segmentation", "fpn", _FPN, "test_resnet", {}),
    "retinanet": ("detection", "retinanet", {"channels": 64}, "test_resnet", {}),
    "fcos": ("detection", "fcos", {"channels": 64}, "test_resnet", {}),
    "faster_rcnn": ("detection", "faster_rcnn", {"channels": 64}, "dualtoken_vit_t_mix", {"depths": [1, 1, 1]}),
    "mask_rcnn": ("instance_segmentation", "mask_rcnn", {"channels": 64}, "test_resnet", {}),
}


def make_folder(folder: Path, name: str, threshold: float = 0.05) -> Path:
    """A model folder with random weights, large enough that answers depend on the image."""
    task, head, head_args, architecture, args = FOLDERS[name]
    mode = "center" if task == "classification" else "border"
    config = ModelConfig(
        architecture, CLASSES, Preprocessing(SIZE, crop_pct=1.0, crop_mode=mode), task, head, head_args, args,
        threshold=threshold,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    save_model(model, config, folder)
    return folder


class Bright(nn.Module):
    """Class 1 is the brightness of the image, class 0 the lack of it, read from a map in one of several layouts."""

    def __init__(self, layout: str = "NCHW") -> None:
        super().__init__()
        self.layout = layout
        self.num_prefix_tokens = 1 if layout == "tokens" else 0
        self.feature_info = [{"module": "stage", "reduction": 4, "num_chs": 3}]
        self.stage = _Stage(layout)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stage(images)
        if self.layout == "tokens":
            x = x[:, 1:]
        bright = self.scale * x.flatten(1).mean(dim=1)
        return torch.stack([-bright, bright], dim=1)


class _Stage(nn.Module):
    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(images, 4)
        if self.layout == "NHWC":
            return x.permute(0, 2, 3, 1)
        if self.layout == "tokens":
            x = x.flatten(2).transpose(1, 2)
            return torch.cat([torch.zeros_like(x[:, :1]), x], dim=1)
        return x
