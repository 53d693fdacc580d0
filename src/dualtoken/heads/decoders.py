"""Decoders by name; without torch, so that a mistyped one is found at once."""

from __future__ import annotations

from typing import Any

# Our names, and the package's name and the arguments that differ from its own.
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "deeplabv3": ("deeplabv3", {"encoder_output_stride": 16}),
    "deeplabv3plus": ("deeplabv3plus", {"encoder_output_stride": 16}),
    "pspnet": ("pspnet", {"encoder_depth": 5, "upsampling": 32}),
    "fpn": ("fpn", {}),
    "upernet": ("upernet", {}),
    "segformer": ("segformer", {}),
}
