"""Weights in parts: each process keeps a share of a network's weights, gradients, moments and averages (FSDP).

A block's weights are put together from all processes when it is computed, and dropped again after it. What is measured,
kept and saved is whole, so that model folders and states are those of any other run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.strategies.strategy import _BackwardSyncControl
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


class Sharded(DDPStrategy):  # type: ignore[misc]
    """Processes as for DDP; the network, see `share`, exchanges weights and gradients by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._backward_sync_control = _LastOfSeveral()

    def setup_module(self, module: nn.Module) -> nn.Module:
        """The network as it is."""
        return module

    def get_optimizer_state(self, optimizer: Any) -> dict[str, Tensor]:
        """In every process: each has its part."""
        state: dict[str, Tensor] = optimizer.state_dict()
        return state


class _LastOfSeveral(_BackwardSyncControl):  # type: ignore[misc]
    """Gradients that accumulate are exchanged once, with the last."""

    def no_backward_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        return _alone(module) if enabled else nullcontext()


@contextmanager
def _alone(module: Any) -> Iterator[None]:
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def share(model: nn.Module, mesh: DeviceMesh) -> None:
    """Leave each process its part of the weights, in place: the parameters become others, `DTensor`s."""
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # a part is some rows, which have to lie together
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """What a network has several of in a row, such as its transformer's blocks; none within another."""
    items = [
        item for module in model.modules() if isinstance(module, nn.ModuleList | nn.Sequential)
        for item in module if len(list(item.children())) > 1 and not isinstance(item, nn.ModuleList | nn.Sequential)
    ]  # fmt: skip
    many = Counter(type(item) for item in items)
    found = [item for item in items if many[type(item)] > 1 and any(True for _ in item.parameters())]
    inner = {id(module) for block in found for module in block.modules() if module is not block}
    return [block for block in found if id(block) not in inner]


def gather(model: nn.Module, into: nn.Module) -> None:
    """Put the whole weights of a shared model into another; all processes call it together."""
    with torch.inference_mode(False), torch.no_grad():  # a DTensor cannot be looked at in inference mode
        into.load_state_dict({name: whole(tensor) for name, tensor in model.state_dict().items()})


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that the processes share; others as they are. All processes call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """What this process keeps of a whole tensor, as it does of `like`."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
