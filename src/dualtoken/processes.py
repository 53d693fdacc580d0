"""Several processes that share one work: how they are started, what they tell each other, and who is named where one is
gone."""

from __future__ import annotations

import itertools
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment

from dualtoken.engines.torch import choose_device
from dualtoken.errors import ConfigError, UserError

PATIENCE = 50.0  # seconds that one process waits for another without a sign of life
_LOOK = 0.02  # seconds between looks for the others
_MEETINGS = itertools.count()
Own = TypeVar("Own")


def as_launched(devices: int, nodes: int) -> tuple[int, int]:
    """Processes a machine, and machines, as `torchrun` or SLURM has started them, or as asked for where neither did.

    Raises:
        ConfigError: other numbers were asked for than were started.
    """
    launched = _launched()
    if launched is None:
        return devices, nodes
    if devices not in (1, launched[0]) or nodes not in (1, launched[1]):
        raise ConfigError(
            f"devices is {devices} and nodes is {nodes}, but {launched[0]} x {launched[1]} processes were started.",
            "Leave both out: they are taken from torchrun or SLURM.",
        )
    return launched


def _launched() -> tuple[int, int] | None:
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        local = int(environment["LOCAL_WORLD_SIZE"])
        return local, int(environment["WORLD_SIZE"]) // local
    with _without_advice():
        under_slurm = SLURMEnvironment.detect()
    if under_slurm:
        nodes = int(environment.get("SLURM_NNODES", "1"))
        return int(environment["SLURM_NTASKS"]) // nodes, nodes
    return None


@contextmanager
def _without_advice() -> Iterator[None]:
    """On every machine that has SLURM, lightning advises its command `srun` to whoever starts a process without."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available")
        yield


def make_fabric(device: str, devices: int, nodes: int, *, precision: Any = "32-true", strategy: Any = "ddp") -> Fabric:
    """What starts the processes and runs each on its device; not launched yet.

    Args:
        device: where to compute: auto, cpu, cuda, cuda:1 or mps.
        devices, nodes: processes a machine, one a device, and machines.
        precision, strategy: as Fabric takes them; a single process has no strategy.
    """
    chosen = choose_device(device)
    # What lightning says where a process that it started ends is worth hearing; its other reports are not.
    logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    logging.getLogger("lightning_fabric.utilities.distributed").setLevel(logging.WARNING)
    with _without_advice():
        return Fabric(
            accelerator=chosen.type,
            devices=[chosen.index] if chosen.index is not None and devices == 1 else devices,
            num_nodes=nodes,
            strategy=strategy if devices * nodes > 1 else "auto",
            precision=precision,
        )


def device_of(fabric: Fabric) -> str:
    """The device of this process, as `--device` names it."""
    return str(fabric.device) if fabric.device.type == "cuda" else fabric.device.type


class Group:
    """The processes that share a work, seen from one of them. What they know of each other is in a common store.

    Attributes:
        rank, size: the place of this process, and how many there are.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self.store = dist.distributed_c10d._get_default_store() if self.size > 1 else None
        self._started = getattr(fabric.strategy.launcher, "procs", [])  # by this process

    @property
    def first(self) -> bool:
        """Whether this process is the one that speaks and writes."""
        return self.rank == 0

    def alive(self) -> None:
        """Let the others know that this process works."""
        if self.store is not None:
            self.store.set(f"dualtoken/{self.rank}", f"{time.time():.3f}")

    def meet(self) -> None:
        """Wait for the others for as long as they work, however much later than this one they come.

        Raises:
            UserError: one has given no sign of life for a minute.
        """
        if self.store is None:
            return
        here = f"dualtoken/meeting/{next(_MEETINGS)}"
        self.store.add(here, 1)
        while self.store.add(here, 0) < self.size:
            self.alive()
            if self._silent()[1] > PATIENCE:
                raise UserError(self.blame())
            time.sleep(_LOOK)

    def gathered(self, own: Own) -> list[Own]:
        """What each process has, by rank, in all of them."""
        if self.size == 1:
            return [own]
        self.meet()
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, own)
        return parts

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Shared work: one process that has gone, or hangs, ends it within a minute and is named.

        Whatever ends the first process ends those that it has started, which may hang.

        Raises:
            UserError: in the others.
        """
        if self.store is not None:
            self.store.set_timeout(timedelta(seconds=PATIENCE))
            set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
            set_timeout(timedelta(seconds=PATIENCE))  # from now on: finding the data may have taken longer
        self.alive()
        try:
            yield
        except BaseException as error:
            others = self.size > 1 and isinstance(error, RuntimeError) and _is_of_others(error)
            words = self.blame() if others else ""
            for process in self._started:
                process.kill()
            if others:
                raise UserError(words) from error
            raise

    def blame(self) -> str:
        """Which process has fallen behind, in words."""
        try:
            assert self.store is not None
            self.store.set_timeout(timedelta(seconds=5))
            late, silent = self._silent()
        except (RuntimeError, dist.DistError):  # process 0 holds the store
            return f"Process 0 of {self.size} has gone, or hangs."
        return f"Process {late} of {self.size} has gone, or hangs: it was silent for {silent:.0f} seconds."

    def _silent(self) -> tuple[int, float]:
        """The process that was silent longest, and for how many seconds."""
        assert self.store is not None
        seen = [float(self.store.get(f"dualtoken/{rank}")) for rank in range(self.size)]
        late = min(range(self.size), key=seen.__getitem__)
        return late, time.time() - seen[late]


def _is_of_others(error: RuntimeError) -> bool:
    words = ("connection closed", "connection reset", "timed out", "timeout", "broken pipe", "socket", "pair closure")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
