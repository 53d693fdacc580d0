"""The one training loop: every task, any number of devices, exact to continue.

All randomness is a function of (seed, epoch, step). A run that was stopped and continued therefore takes the same
steps as one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import math
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from dualtoken.errors import ModelError, Terminated, UserError
from dualtoken.preprocess import Preprocessing
from dualtoken.processes import Group
from dualtoken.tasks import moved
from dualtoken.training.config import TrainConfig
from dualtoken.training.folder import has_state
from dualtoken.training.objective import Batches, Judge, Objective
from dualtoken.training.optimizer import freeze_backbone, make_optimizer, make_scheduler
from dualtoken.training.processes import joined, largest_over, mean_over, synchronise
from dualtoken.training.progress import Progress
from dualtoken.training.sharding import gather, share
from dualtoken.training.state import Counters, load_state, load_weights, save_state, state_tensors
from dualtoken.words import counted

INTERRUPTED = "interrupted"
READ_EVERY = 20  # steps between looks at the loss on a GPU, where each look waits for the device
DECIDE_EVERY = 10  # steps between decisions that several ranks take together
LONGER = 1.05  # a plan is lengthened only if there is clearly room
RESERVE = 0.02  # of a limit of time: kept back when the rest of the run is planned anew


class Loop:
    """Trains `model` on `training` and judges its averaged weights by `validation`."""

    def __init__(
        self,
        config: TrainConfig,
        task: Objective,
        model: nn.Module,
        preprocessing: Preprocessing,
        training: Batches,
        validation: Batches,
        folder: Path,
        fabric: Fabric,
    ) -> None:
        self.config, self.task, self.folder, self.fabric = config, task, folder, fabric
        self.group = Group(fabric)
        self.preprocessing = preprocessing
        self.training, self.validation = training, validation
        self.batches = training.batch_sampler.batches  # of a whole epoch, on each rank
        self.frozen = freeze_backbone(model) if config.freeze == "backbone" else None
        if fabric.device.type != "mps":
            model = model.to(memory_format=torch.channels_last)
        self.bare = model.to(fabric.device)
        synchronise(self.bare, fabric)
        self.ema = None if config.ema_decay is None else ModelEmaV3(
            self.bare, config.ema_decay, use_warmup=True, foreach=not config.shard_weights
        )  # fmt: skip
        self.whole: nn.Module | None = None  # of shared weights a copy that is put together where it is looked at
        if config.shard_weights:
            self.whole, self.bare = self.bare, copy.deepcopy(self.bare)
            self.mesh = init_device_mesh(fabric.device.type, (fabric.world_size,))
            for shared in (self.bare, *([self.ema.module] if self.ema else [])):
                share(shared, self.mesh)
        optimizer = make_optimizer(config, self.bare)
        runnable = torch.compile(self.bare) if config.compile else self.bare
        self.model, self.optimizer = fabric.setup(runnable, optimizer)
        self.counters = Counters(total_steps=self.most_steps)
        self.losses: list[Tensor] = []  # of the last batches, not read from the device yet
        self.rate = 0.0  # images a second, loading included, in the epoch so far
        self.validation_seconds = 0.0  # of the last validation, or as forecast
        self.interrupted = 0  # the signal by which somebody here or in another process asks to end
        self.stopped = ""  # why, once all ranks are to stop
        self.to_save = False  # whether it is time to

    @property
    def interruption(self) -> KeyboardInterrupt:
        """What an interrupted run ends with."""
        return Terminated() if self.interrupted == signal.SIGTERM else KeyboardInterrupt()

    @property
    def steps_per_epoch(self) -> int:
        """Weight updates in an epoch; the last may accumulate fewer batches."""
        return math.ceil(self.batches / self.config.accumulate)

    @property
    def most_steps(self) -> int:
        """Weight updates of the whole run, if no limit of time comes before."""
        whole = self.config.epochs * self.steps_per_epoch
        return whole if self.config.steps is None else min(whole, self.config.steps)

    @property
    def averaged(self) -> nn.Module:
        """The weights that are evaluated and kept. Where they are shared, all processes ask together."""
        model = self.bare if self.ema is None else self.ema.module
        if self.whole is None:
            return model
        gather(model, self.whole)
        return self.whole

    def copied(self) -> nn.Module:
        """A network like the one that trains, for trials."""
        if self.whole is None:
            return copy.deepcopy(self.bare)
        model = copy.deepcopy(self.whole)
        share(model, self.mesh)
        return model

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Let the network and its average begin with these weights."""
        for model in (self.bare, *([self.ema.module] if self.ema else [])):
            load_weights(model, weights)

    # ---------------------------------------------------------------- the story

    def run(
        self,
        progress: Progress,
        on_best: Callable[[nn.Module], None],
        on_epoch: Callable[[dict[str, float]], None],
    ) -> None:
        """Train to the end, to a limit, or until interrupted; `stopped` then says why.

        Args:
            progress: told after each batch and epoch.
            on_best: called with the averaged model whenever it is better than ever on the validation images.
            on_epoch: called with the row of each finished epoch.
        """
        self.scheduler = make_scheduler(self.config, self.optimizer, self.counters.total_steps, self.steps_per_epoch)
        self.started, self.before = time.monotonic(), self.counters.seconds
        self.saved = self.started
        counters = self.counters
        with self._stop_on_interrupt(), self.group.watched():
            self._decide(progress)  # a resumed run may have nothing left to do
            while (counters.step < counters.total_steps or counters.batch) and not self.stopped:
                if not self._train_epoch(progress):
                    break
                figures = self.validate() if self._validates() else {}
                better = bool(figures) and self._keep_if_better(figures, on_best)
                row = self._close_epoch(figures)
                on_epoch(row)
                progress.epoch(row, best=better)
                self._decide(progress)
                self.save()
            if self.stopped and self.stopped != INTERRUPTED and counters.batch:
                self._keep_if_better(self.validate(), on_best)  # a limit of time came within an epoch
            self.save()

    def judge(self, on_best: Callable[[nn.Module], None], on_epoch: Callable[[dict[str, float]], None]) -> None:
        """Measure and keep the weights as they are, without a step; arguments as in `run`."""
        figures = self.validate()
        self._keep_if_better(figures, on_best)
        row = {"epoch": 1, "step": 0} | {f"val_{name}": value for name, value in figures.items()}
        self.counters.history.append(row)
        on_epoch(row)

    def _validates(self) -> bool:
        """Whether the epoch that has just ended has its turn, or is the last."""
        counters = self.counters
        return (counters.epoch + 1) % self.config.validate_every == 0 or counters.step >= counters.total_steps

    def _keep_if_better(self, figures: dict[str, float], on_best: Callable[[nn.Module], None]) -> bool:
        score = self.task.score(figures)
        if score <= self.counters.best:
            return False
        self.counters.best, self.counters.best_epoch = score, self.counters.epoch + 1
        on_best(self.averaged)
        return True

    def _train_epoch(self, progress: Progress) -> bool:
        """The rest of the current epoch; False if it was left early, by a stop."""
        counters = self.counters
        self.training.set_epoch(counters.epoch, counters.batch)
        self.model.train()
        if self.frozen is not None:
            self.frozen.eval()
        began, seen = time.monotonic(), 0
        for images, targets, _ in self.training:
            if counters.step >= counters.total_steps:
                break  # planned to end within an epoch
            stepped = self._batch(images, targets)
            counters.batch += 1
            seen += len(images) * self.fabric.world_size
            self.rate = seen / (time.monotonic() - began)
            mean_loss = counters.loss_sum / max(1, counters.batch - len(self.losses))
            progress.step(counters.step, mean_loss, len(images) * self.fabric.world_size)
            if stepped and self._should_leave(progress):  # gradients that still accumulate are in no saved state
                return False
        return True

    def _batch(self, images: Tensor, targets: Any) -> bool:
        """Forward, backward and, unless gradients are still accumulating, a step; whether the weights moved."""
        counters, config = self.counters, self.config
        self.group.alive()
        seed_all(config.seed, counters.epoch, counters.batch, self.fabric.global_rank)
        self.scheduler.step_update(counters.step)
        images = images.to(self.fabric.device, memory_format=torch.channels_last, non_blocking=True)
        place = counters.batch % config.accumulate
        together = min(config.accumulate, self.batches - counters.batch + place)  # fewer at the end of an epoch
        moves = place + 1 == together
        with self.fabric.no_backward_sync(self.model, enabled=not moves):
            loss = self.task.loss(self.model, images, moved(targets, self.fabric.device))
            self.group.alive()
            self.fabric.backward(loss / together)
        self.losses.append(loss.detach())
        if self.fabric.device.type == "cpu" or len(self.losses) == READ_EVERY:
            self._read_losses()
        if moves:
            if config.clip_grad is not None:
                dispatch_clip_grad(self.bare.parameters(), config.clip_grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
            counters.step += 1
            if self.ema is not None:
                self.ema.update(self.bare, step=counters.step)
        return moves

    def _read_losses(self) -> None:
        """Add the losses that are still on the device to the epoch's sum; UserError at one that is not finite."""
        values = torch.stack(self.losses).tolist() if self.losses else []
        self.losses.clear()
        for value in values:
            self._require_finite("loss", value)
            self.counters.loss_sum += value

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"The {name} became {value} in epoch {self.counters.epoch + 1}, by batch {self.counters.batch + 1}.",
                f"Lower the learning rate: --lr {self.config.peak_lr / 3:.1e}."
                + (" The state of the last save is kept." if has_state(self.folder) else " Nothing was saved yet."),
            )

    def _close_epoch(self, figures: dict[str, float]) -> dict[str, float]:
        """Count the epoch as done and return its row."""
        counters = self.counters
        self._read_losses()
        self.scheduler.step_update(max(counters.step - 1, 0))  # of the last step, also right after a resume
        row = {
            "epoch": counters.epoch + 1,
            "step": counters.step,
            "train_loss": mean_over(self.fabric, [counters.loss_sum])[0] / counters.batch,
            **{f"val_{name}": value for name, value in figures.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
            # Continued behind the last batch of an epoch, there is nothing to time.
            **({"images_per_second": round(self.rate, 1)} if self.rate else {}),
        }
        self.rate = 0.0
        counters.epoch, counters.batch, counters.loss_sum = counters.epoch + 1, 0, 0.0
        counters.history.append(row)
        return row

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights on the validation images, of which each process measures its own.

        Raises:
            UserError: a figure is not finite.
        """
        start = time.monotonic()
        figures = self._measure()
        self.validation_seconds = time.monotonic() - start
        for name, value in figures.items():
            self._require_finite(f"validation {name}", value)
        return figures

    @torch.inference_mode()
    def _measure(self) -> dict[str, float]:
        model, meter = self.averaged.eval(), self.new_meter()
        for images, targets, indices in self.validation:
            images = images.to(self.fabric.device, memory_format=torch.channels_last, non_blocking=True)
            with self.fabric.autocast():
                raw = model(images)
            meter.add(raw, targets, indices)
            self.group.alive()
        return joined(meter, self.group, self.fabric)

    def new_meter(self) -> Judge:
        """Judges raw outputs for the validation images."""
        return self.task.meter(self.validation.dataset.samples, self.preprocessing)

    # ---------------------------------------------------------------- stopping and continuing

    def _should_leave(self, progress: Progress) -> bool:
        """After a step: whether to stop; saves the state where it is time to."""
        if self.fabric.world_size == 1 or self.counters.step % DECIDE_EVERY == 0:
            self._decide(progress)
            if self.to_save and not self.stopped:
                self.save()
        return bool(self.stopped)

    def _decide(self, progress: Progress) -> None:
        """Whether to stop, and where the run ends: rank 0 decides, so that no rank waits for another for ever."""
        counters = self.counters
        counters.seconds = self.before + time.monotonic() - self.started
        self.interrupted = largest_over(self.fabric, self.interrupted)
        late = time.monotonic() - self.saved > self.config.save_minutes * 60
        self.stopped, total_steps, self.to_save = self.fabric.broadcast(
            (self._reason_to_stop(), self._affordable_steps(), late)
        )
        if total_steps < counters.total_steps or total_steps > LONGER * counters.total_steps:
            counters.total_steps = total_steps
            self.scheduler = make_scheduler(self.config, self.optimizer, total_steps, self.steps_per_epoch)
            progress.replan(total_steps)

    def _reason_to_stop(self) -> str:
        return INTERRUPTED if self.interrupted else why_it_ends(self.counters, self.config)

    def _affordable_steps(self) -> int:
        """Steps of the whole run that a limit of time leaves room for at the pace so far."""
        counters, limit = self.counters, self.config.limit_minutes
        ends = counters.step + 1 >= counters.total_steps  # a forecast on a busy machine may have been far too low
        if limit is None or counters.step == 0 or (counters.seconds < 6 * limit and not ends):
            return counters.total_steps  # the pace is known after a tenth of the time
        left = limit * 60 * (1 - RESERVE) - counters.seconds - self.validation_seconds
        more = max(0, int(left * counters.step / counters.seconds))
        return min(self.most_steps, counters.step + more)

    def save(self) -> None:
        """Write the state that `restore` continues from."""
        self._read_losses()
        self.saved = time.monotonic()
        if self.fabric.is_global_zero or self.whole is not None:  # of which each process has a part
            ema = None if self.ema is None else self.ema.module
            tensors = state_tensors(self.bare, ema, self.optimizer)
            if self.fabric.is_global_zero:
                save_state(self.folder, tensors, self.counters)

    def restore(self) -> None:
        """Continue where the saved state of the folder stands."""
        ema = None if self.ema is None else self.ema.module
        self.counters, note = load_state(self.folder, self.bare, ema, self.optimizer)
        if self.counters.batch > self.batches:
            raise ModelError(
                f"The state of {str(self.folder)!r} is {self.counters.batch:,} batches into an epoch of"
                f" {self.batches:,}.",
                "It is of another run: start anew without --resume.",
            )
        if note:
            self.fabric.print(f"{'Note':<12}{note}")

    @contextmanager
    def _stop_on_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C, or SIGTERM, ends the run after its step; the second at once."""

        def stop(number: int, _frame: FrameType | None) -> None:
            if self.interrupted:
                raise self.interruption
            self.interrupted = number

        try:
            before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: leave interrupts to whoever owns them
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def why_it_ends(counters: Counters, config: TrainConfig) -> str:
    """Why a run stops before all its steps are done; empty where it does not."""
    limit, patience = config.limit_minutes, config.early_stop
    if limit is not None and counters.seconds > limit * 60 and counters.step < counters.total_steps:
        return f"the limit of {limit:g} minute{'' if limit == 1 else 's'}"
    if patience is not None and counters.batch == 0 and counters.epoch - counters.best_epoch >= patience:
        return f"no better result in {counted(patience, 'epoch')}"
    return ""


def seed_all(*numbers: int) -> None:
    """Seed torch, numpy and random by all `numbers` together."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
