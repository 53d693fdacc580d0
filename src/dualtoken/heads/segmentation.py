"""A class for every pixel: decoders of segmentation_models.pytorch on any backbone.

That package asks a backbone for maps at strides 2, 4, 8, 16 and 32 (ours has them all), and for DeepLab for a stride
of 8 or 16 at the end, which our backbone gives by `output_stride`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone import require_known
from dualtoken.errors import ModelError, require
from dualtoken.heads.body import undecayed
from dualtoken.heads.decoders import DECODERS


class Segmenter(nn.Module):
    """Images to logits for every pixel of the input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    @property
    def body(self) -> nn.Module:
        """The backbone."""
        encoder: nn.Module = self.network.encoder
        return encoder

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, classes, H, W); sides are multiples of 32."""
        logits: Tensor = self.network(images)
        return logits

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters of the backbone that weight decay leaves alone."""
        return undecayed(self)


def make_segmenter(head: str, architecture: str, classes: int, *, in_chans: int = 3, **args: Any) -> Segmenter:
    """A segmentation network with fresh weights.

    Args:
        head: a key of `DECODERS`.
        architecture: a name of timm's registry.
        classes: number of classes.
        in_chans: channels of the images.
        **args: of the decoder, as segmentation_models.pytorch names them, and of the backbone.

    Raises:
        MissingExtraError: segmentation_models.pytorch is not installed.
        ModelError, ConfigError: an unknown name, or a backbone that this decoder cannot stand on.
    """
    made_by, defaults = DECODERS.find(head)
    require_known(architecture)
    args = defaults | args
    try:
        if callable(made_by):
            return Segmenter(made_by(architecture, classes, in_chans=in_chans, **args))
        network = require("segmentation_models_pytorch", "segmentation").create_model(
            made_by, encoder_name=f"tu-{architecture}", encoder_weights=None, in_channels=in_chans, classes=classes,
            **args,
        )  # fmt: skip
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ModelError(
            f"The decoder {head} cannot be put on {architecture} with {args or 'its usual arguments'}: {error}.",
            f"Other decoders: {', '.join(key for key in DECODERS if key != head)}; DeepLab needs a backbone with"
            " output_stride.",
        ) from error
    return Segmenter(network)
