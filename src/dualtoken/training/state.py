"""The state that a run continues from: one safetensors file, no pickle.

Tensors are named by where they belong (`model.`, `ema.`, `optimizer.`); counters and history are JSON in the file's
metadata. No state of a random generator is in it: all randomness is a function of (seed, epoch, step).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.errors import ModelError
from dualtoken.model_folder import write_tensors
from dualtoken.training.folder import STATE


def save_state(
    folder: Path, model: nn.Module, ema: nn.Module | None, optimizer: torch.optim.Optimizer, counters: dict[str, Any]
) -> None:
    """Write everything that the next step depends on, whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in ema.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    write_tensors(folder / STATE, tensors, {"counters": json.dumps(counters)})


def load_state(
    folder: Path, model: nn.Module, ema: nn.Module | None, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Read the state back into model, averaged model and optimiser; returns the counters.

    Raises:
        ModelError: there is no state, or it is damaged or of another model.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / STATE
    if not path.is_file():
        raise ModelError(f"{str(folder)!r} has no {STATE} to continue from.", "Start it anew without --resume.")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
    try:
        with safe_open(path, "pt") as file:
            counters: dict[str, Any] = json.loads(file.metadata()["counters"])
            for key in file.keys():  # noqa: SIM118 - not a dictionary
                part, _, name = key.partition(".")
                parts[part][name] = file.get_tensor(key)
        model.load_state_dict(parts["model"])
        if ema is not None:
            ema.load_state_dict(parts["ema"])
        _load_moments(optimizer, parts["optimizer"])
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{str(path)!r} cannot be continued from: {error}") from error
    return counters


def run_counters(folder: Path) -> dict[str, Any]:
    """Where the run in `folder` stands: `step`, `seconds` of training, and the rest of its counters.

    Raises:
        ModelError: there is no state.
    """
    from safetensors import safe_open

    if not (folder / STATE).is_file():
        raise ModelError(f"{str(folder)!r} has no {STATE}.", "Give the folder of a run.")
    with safe_open(folder / STATE, "pt") as file:
        counters: dict[str, Any] = json.loads(file.metadata()["counters"])
    return counters


def _load_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        like = parameters[int(index)]
        if tensor.shape == like.shape:  # fused steps need the parameter's own memory layout, such as channels last
            tensor = torch.empty_like(like).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
