"""The state that a run continues from: one safetensors file, no pickle, and the one before it in case it is damaged.

Tensors are named by where they belong (`model.`, `ema.`, `optimizer.`); counters and history are JSON in the file's
metadata, beside a digest of the tensors. No state of a random generator is in it: all randomness is a function of
(seed, epoch, step).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from dualtoken.errors import ModelError
from dualtoken.model_folder import write_tensors
from dualtoken.readers import judged, parse_json
from dualtoken.training.folder import STATE, STATE_BEFORE
from dualtoken.training.sharding import part, whole

_MOST = 10**12  # of any counter


@dataclass
class Counters:
    """Where a run stands; saved with its state."""

    total_steps: int = 0
    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    loss_sum: float = 0.0  # of those batches
    seconds: float = 0.0  # of training, resumed or not
    fingerprint: str = ""  # of the images
    content: str = ""  # of their files
    best: list[float] = field(default_factory=list)  # the task's score of it
    best_epoch: int = 0  # counted from 1; the one under way where a limit of time ended it
    history: list[dict[str, int | float]] = field(default_factory=list)

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "allow_inf_nan": False}

    def __post_init__(self) -> None:
        for name in ("total_steps", "step", "epoch", "batch", "seconds", "best_epoch"):
            if not 0 <= getattr(self, name) <= _MOST:
                raise ValueError(f"{name} is {getattr(self, name)}, which no run reaches")
        if self.step > self.total_steps:
            raise ValueError(f"step is {self.step}, but the run has {self.total_steps}")
        if len(self.history) > self.epoch:
            raise ValueError(f"history has {len(self.history)} rows, but epoch is {self.epoch}")


Parts = dict[str, dict[str, Tensor]]


def state_tensors(model: nn.Module, ema: nn.Module | None, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that the next step depends on, by where it belongs, whole; all processes that share it call it."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in ema.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    return {name: whole(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}


def save_state(folder: Path, tensors: dict[str, Tensor], counters: Counters) -> None:
    """Write `state_tensors` and counters, whole or not at all; the state before it stays beside it.

    Raises:
        OutputError: the place cannot be written; the states that are there stay.
    """
    path, fresh = folder / STATE, (folder / STATE).with_name("state.new.safetensors")
    write_tensors(fresh, tensors, {"counters": json.dumps(asdict(counters)), "sha256": _digest(tensors)})
    if path.is_file():
        path.replace(folder / STATE_BEFORE)
    fresh.replace(path)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put whole weights into a model, which may share them with other processes.

    Raises:
        RuntimeError: they are of another model.
    """
    own = model.state_dict()
    model.load_state_dict({name: part(value, own[name]) if name in own else value for name, value in weights.items()})


def load_state(
    folder: Path, model: nn.Module, ema: nn.Module | None, optimizer: torch.optim.Optimizer
) -> tuple[Counters, str]:
    """Read the state back into model, averaged model and optimiser.

    Returns:
        The counters, and what a person should know: that the last state is damaged and the one before was taken.

    Raises:
        ModelError: there is no state, or both are damaged or of another model.
    """
    path, (counters, parts), note = _last(folder, whole=True)
    try:
        load_weights(model, parts["model"])
        if ema is not None:
            load_weights(ema, parts["ema"])
        _load_moments(optimizer, parts["optimizer"])
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise ModelError(f"{str(path)!r} cannot be continued from: {error}") from error
    return counters, note


def run_counters(folder: Path) -> Counters:
    """Where the run in `folder` stands.

    Raises:
        ModelError: there is no state, or it is damaged.
    """
    return _last(folder, whole=False)[1][0]


def _last(folder: Path, *, whole: bool) -> tuple[Path, tuple[Counters, Parts], str]:
    """The last state that can be read: its file, its content, and a note if it is not the very last."""
    errors = []
    for path in (folder / STATE, folder / STATE_BEFORE):
        if not path.is_file():
            continue
        try:
            found = _read(path, whole=whole)
        except ModelError as error:
            errors.append(error)
            continue
        note = f"{errors[0].message} The state before it is used, of step {found[0].step:,}." if errors else ""
        return path, found, note
    if errors:
        raise errors[0]
    raise ModelError(f"{str(folder)!r} has no {STATE} to continue from.", "Start it anew without --resume.")


def _read(path: Path, *, whole: bool) -> tuple[Counters, Parts]:
    """Counters and, if `whole`, tensors of a state, which must be as they were written."""
    from safetensors import SafetensorError, safe_open

    parts: Parts = {"model": {}, "ema": {}, "optimizer": {}}
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()} if whole else {}  # noqa: SIM118
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = tensor
    except (SafetensorError, KeyError, OSError) as error:
        raise ModelError(f"{str(path)!r} is damaged: {error}.", "Start it anew without --resume.") from error
    if whole and metadata.get("sha256", "") not in ("", _digest(tensors)):
        raise ModelError(f"{str(path)!r} is damaged: its numbers are not those that were written.")
    content = parse_json(metadata.get("counters", ""), str(path), error=ModelError)
    return judged(content, Counters, str(path), error=ModelError), parts


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, kinds and bytes of tensors on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        like = parameters[int(index)]
        if tensor.shape == like.shape:  # fused steps need the parameter's own memory layout, such as channels last
            tensor = torch.empty_like(like).copy_(part(tensor, like))
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
