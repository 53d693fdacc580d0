"""torch itself, for the networks of model folders, on any of its devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from numpy.typing import NDArray

from dualtoken.engines import Engine
from dualtoken.errors import ConfigError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn


class TorchEngine:
    """A module of one part: arrays in, arrays out, on the module's own device."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def run(self, part: str, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The part `network` for images (B, 3, H, W) float32: its output, in float32."""
        import torch

        parameter = next(self.module.parameters(), None)
        to = torch.device("cpu") if parameter is None else parameter.device
        with torch.inference_mode():
            raw = self.module(*(torch.from_numpy(array).to(to) for array in inputs))
        return [tensor.detach().float().cpu().numpy() for tensor in (raw if isinstance(raw, tuple | list) else [raw])]


def torch_engine(module: nn.Module) -> Engine:
    """A network as an engine, in evaluation mode: detectors of several parts are engines themselves."""
    module.eval()
    return cast("Engine", module) if hasattr(module, "run") else TorchEngine(module)


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is the GPU if there is one (CUDA, then Apple's), else the CPU; other names are torch's.

    Raises:
        ConfigError: no such device, or not in this machine.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"There is no device {name!r}.", "Type: --device auto, cpu, cuda, cuda:1 or mps.") from error
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).partition(". ")[0]
        raise ConfigError(f"The device {name!r} cannot be used: {reason}.", "Type: --device auto, or cpu.") from error
    return device
