"""What several processes that train one model share: steps, batch norms, figures."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from dualtoken import processes
from dualtoken.engines.torch import choose_device
from dualtoken.errors import ConfigError
from dualtoken.heads.together import sum_of_all
from dualtoken.processes import Group
from dualtoken.training.config import TrainConfig
from dualtoken.training.objective import Judge
from dualtoken.training.precision import choose_precision
from dualtoken.training.sharding import Sharded

Config = TypeVar("Config", bound=TrainConfig)


def as_launched(config: Config) -> Config:
    """The config with the processes that `torchrun` or SLURM has started, where they did.

    Raises:
        ConfigError: other numbers were asked for.
    """
    devices, nodes = processes.as_launched(config.devices, config.nodes)
    return config.model_copy(update={"devices": devices, "nodes": nodes})


def make_fabric(config: TrainConfig) -> Fabric:
    """What starts the processes and runs each step on its device; not launched yet.

    Raises:
        ConfigError: a precision that the device has not, or weights that are to be shared by one process.
    """
    device = choose_device(config.device)
    precision = choose_precision(device) if config.precision == "auto" else config.precision
    if precision == "16-mixed" and device.type == "cpu":
        raise ConfigError("precision is '16-mixed', which needs a GPU.", "On a CPU: 32-true or bf16-mixed.")
    if config.shard_weights and config.devices * config.nodes == 1:
        raise ConfigError("shard_weights is true, but there is one process, which has all.", "Type: --devices 2")
    strategy = Sharded() if config.shard_weights else "ddp"
    return processes.make_fabric(config.device, config.devices, config.nodes, precision=precision, strategy=strategy)


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on any device (torch's own needs a GPU)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size()  # every process has as many images
        mean = sum_of_all(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = sum_of_all(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            rate = cast(float, self.momentum)
            cast(Tensor, self.running_mean).lerp_(mean.detach(), rate)
            cast(Tensor, self.running_var).lerp_(variance.detach() * count / max(1, count - 1), rate)
            cast(Tensor, self.num_batches_tracked).add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def synchronise(model: nn.Module, fabric: Fabric) -> None:
    """Let the batch norms of a model see the images of all processes, in place; its tensors stay."""
    if fabric.world_size == 1:
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats and module.momentum:
            module.__class__ = SyncedBatchNorm


def joined(judge: Judge, group: Group, fabric: Fabric) -> dict[str, float]:
    """The figures of all images, of which each process has judged its own; the same in all processes."""
    _, *others = group.gathered(judge.seen())
    if group.first:
        for part in others:
            judge.join(part)
    return dict(fabric.broadcast(judge.figures() if group.first else {}))


def largest_over(fabric: Fabric, value: int) -> int:
    """The largest of a number over the processes."""
    if fabric.world_size == 1:
        return value
    return int(cast(Tensor, fabric.all_reduce(torch.tensor(value), reduce_op="max")))


def mean_over(fabric: Fabric, values: list[float]) -> list[float]:
    """The mean over the processes of each value."""
    if fabric.world_size == 1:
        return values
    return cast(list[float], cast(Tensor, fabric.all_reduce(torch.tensor(values, dtype=torch.float64))).tolist())
