"""Decoders by name; without torch, so that a mistyped one is found at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dualtoken.registry import Registry

# What makes the network: the package's name of a decoder, or a function (architecture, classes, in_chans=, ...) whose
# network has its backbone as `encoder`; and the arguments that differ from its own.
Decoder = tuple[str | Callable[..., Any], dict[str, Any]]


def dappm(architecture: str, classes: int, *, in_chans: int = 3, width: int = 128, **args: Any) -> Any:
    """Context and a small head in the manner of DDRNet; `width` is the decoder's number of channels."""
    from dualtoken.heads.context import ContextDecoder

    return ContextDecoder(architecture, classes, width, in_chans=in_chans, **args)


DECODERS: Registry[Decoder] = Registry("head")
DECODERS["fpn"] = ("fpn", {})  # the usual one
DECODERS["deeplabv3"] = ("deeplabv3", {"encoder_output_stride": 16})
DECODERS["deeplabv3plus"] = ("deeplabv3plus", {"encoder_output_stride": 16})
DECODERS["pspnet"] = ("pspnet", {"encoder_depth": 5, "upsampling": 32})
DECODERS["upernet"] = ("upernet", {})
DECODERS["segformer"] = ("segformer", {})
DECODERS["dappm"] = (dappm, {})
