"""Several processes that train one model: how many there are, what they share, and what is said where one is gone."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment
from torch import Tensor, nn

from dualtoken.engines.torch import choose_device
from dualtoken.errors import ConfigError, UserError
from dualtoken.training.config import TrainConfig
from dualtoken.training.objective import Judge
from dualtoken.training.precision import choose_precision

PATIENCE = 60.0  # seconds that one process waits for another
Config = TypeVar("Config", bound=TrainConfig)


def as_launched(config: Config) -> Config:
    """The config with the processes that `torchrun` or SLURM has started, where they did.

    Raises:
        ConfigError: other numbers were asked for.
    """
    launched = _launched()
    if launched is None:
        return config
    devices, nodes = launched
    if config.devices not in (1, devices) or config.nodes not in (1, nodes):
        raise ConfigError(
            f"devices is {config.devices} and nodes is {config.nodes}, but {devices} x {nodes} processes were started.",
            "Leave both out: they are taken from torchrun or SLURM.",
        )
    return config.model_copy(update={"devices": devices, "nodes": nodes})


def _launched() -> tuple[int, int] | None:
    """Processes a machine, and machines, as a launcher says."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        local = int(environment["LOCAL_WORLD_SIZE"])
        return local, int(environment["WORLD_SIZE"]) // local
    if SLURMEnvironment.detect():
        nodes = int(environment.get("SLURM_NNODES", "1"))
        return int(environment["SLURM_NTASKS"]) // nodes, nodes
    return None


def make_fabric(config: TrainConfig) -> Fabric:
    """What starts the processes and runs each step on its device; not launched yet.

    Raises:
        ConfigError: a precision that the device has not.
    """
    device = choose_device(config.device)
    precision = choose_precision(device) if config.precision == "auto" else config.precision
    if precision == "16-mixed" and device.type == "cpu":
        raise ConfigError("precision is '16-mixed', which needs a GPU.", "On a CPU: 32-true or bf16-mixed.")
    devices = [device.index] if device.index is not None and config.devices == 1 else config.devices
    strategy = "ddp" if config.devices * config.nodes > 1 else "auto"
    # What lightning says where a process that it started ends is worth hearing; its other reports are not.
    logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    logging.getLogger("lightning_fabric.utilities.distributed").setLevel(logging.WARNING)
    return Fabric(
        accelerator=device.type, devices=devices, num_nodes=config.nodes, strategy=strategy, precision=precision
    )


class _SumOfAll(torch.autograd.Function):
    """The sum of a tensor over the processes; so is its gradient, since each process's loss depends on all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on any device (torch's own needs a GPU)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size()  # every process has as many images
        mean = _SumOfAll.apply(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _SumOfAll.apply(centred.square().sum((0, 2, 3))) / count
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


def joined(judge: Judge, fabric: Fabric) -> dict[str, float]:
    """The figures of all images, of which each process has judged its own; the same in all processes."""
    if fabric.world_size == 1:
        return judge.figures()
    first = fabric.is_global_zero
    parts: list[Any] | None = [None] * fabric.world_size if first else None
    dist.gather_object(judge.seen(), parts)
    for part in (parts or [])[1:]:
        judge.join(part)
    return dict(fabric.broadcast(judge.figures() if first else {}))


def mean_over(fabric: Fabric, values: list[float]) -> list[float]:
    """The mean over the processes of each value."""
    if fabric.world_size == 1:
        return values
    return cast(list[float], cast(Tensor, fabric.all_reduce(torch.tensor(values, dtype=torch.float64))).tolist())


@contextmanager
def watched(fabric: Fabric) -> Iterator[Beat]:
    """A run of several processes: one that has gone, or hangs, ends it within a minute and is named.

    Raises:
        UserError: in the others.
    """
    beat = Beat(fabric)
    if fabric.world_size > 1:
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
        set_timeout(timedelta(seconds=PATIENCE))  # from now on: finding the data may have taken longer
    try:
        yield beat
    except RuntimeError as error:
        if fabric.world_size == 1 or not _is_of_others(error):
            raise
        raise UserError(beat.blame()) from error


def _is_of_others(error: RuntimeError) -> bool:
    words = ("Connection closed", "Connection reset", "Timed out", "timed out", "Broken pipe", "Socket")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


class Beat:
    """When each process was last alive, in the store that they share."""

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.world = fabric.global_rank, fabric.world_size
        self.store = dist.distributed_c10d._get_default_store() if self.world > 1 else None
        self()

    def __call__(self) -> None:
        """This process is about to wait for the others."""
        if self.store is not None:
            self.store.set(f"dualtoken/{self.rank}", f"{time.time():.3f}")

    def blame(self) -> str:
        """Which process has fallen behind."""
        try:
            assert self.store is not None
            self.store.set_timeout(timedelta(seconds=5))
            seen = [float(self.store.get(f"dualtoken/{rank}")) for rank in range(self.world)]
        except (RuntimeError, dist.DistError):  # process 0 holds the store
            return f"Process 0 of {self.world} has gone, or hangs."
        late, silent = min(range(self.world), key=seen.__getitem__), time.time() - min(seen)
        return f"Process {late} of {self.world} has gone, or hangs: it was silent for {silent:.0f} seconds."
