"""The one training loop: every task, any number of devices, exact to continue.

All randomness is a function of (seed, epoch, step). A run that was stopped and continued therefore takes the same
steps as one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn

from dualtoken.data.loading import EpochSampler, ImageLoader
from dualtoken.errors import UserError
from dualtoken.tasks import ClassificationTask
from dualtoken.training.config import TrainConfig
from dualtoken.training.progress import Progress
from dualtoken.training.state import load_state, save_state

INTERRUPTED = "interrupted"


@dataclass
class Counters:
    """Where a run stands; saved with its state."""

    total_steps: int = 0
    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    loss_sum: float = 0.0  # of those batches
    seconds: float = 0.0  # of training, over all sessions
    fingerprint: str = ""  # of the images
    best: list[float] = field(default_factory=list)  # the task's score of it
    best_epoch: int = 0  # counted from 1
    history: list[dict[str, float]] = field(default_factory=list)


class Loop:
    """Trains `model` on `training` and judges its averaged weights by `validation`."""

    def __init__(
        self,
        config: TrainConfig,
        task: ClassificationTask,
        model: nn.Module,
        training: ImageLoader,
        validation: ImageLoader,
        folder: Path,
        fabric: Fabric,
    ) -> None:
        self.config, self.task, self.folder, self.fabric = config, task, folder, fabric
        self.training, self.validation = training, validation
        self.batches = cast(EpochSampler, training.batch_sampler).batches  # of a whole epoch, on each rank
        if config.freeze == "backbone":
            freeze_backbone(model)
        if fabric.device.type != "mps":
            model = model.to(memory_format=torch.channels_last)
        self.bare = model.to(fabric.device)
        self.ema = None if config.ema_decay is None else ModelEmaV3(self.bare, config.ema_decay, use_warmup=True)
        optimizer = make_optimizer(config, self.bare)
        runnable = torch.compile(self.bare) if config.compile else self.bare
        self.model, self.optimizer = fabric.setup(runnable, optimizer)
        self.counters = Counters(total_steps=config.epochs * self.steps_per_epoch)
        self.stopped = ""  # why, once it is to stop

    @property
    def steps_per_epoch(self) -> int:
        """Weight updates in an epoch; the last may accumulate fewer batches."""
        return math.ceil(self.batches / self.config.accumulate)

    @property
    def averaged(self) -> nn.Module:
        """The weights that are evaluated and kept."""
        return self.bare if self.ema is None else self.ema.module

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
        with self._stop_on_interrupt():
            while self.counters.step < self.counters.total_steps and not self.stopped:
                finished = self._train_epoch(progress)
                if not finished:
                    break
                figures = self.validate()
                better = self._keep_if_better(figures, on_best)
                row = self._close_epoch(figures)
                if better:
                    self.counters.best_epoch = self.counters.epoch
                self.counters.history.append(row)
                on_epoch(row)
                progress.epoch(row, best=better)
                patience = self.config.early_stop
                if patience is not None and self.counters.epoch - self.counters.best_epoch >= patience:
                    self.stopped = f"no better result in {patience} epochs"
                self.save()
        self.save()
        if self.stopped and self.stopped != INTERRUPTED and self.counters.batch:
            self._keep_if_better(self.validate(), on_best)  # a limit of time came within an epoch

    def _keep_if_better(self, figures: dict[str, float], on_best: Callable[[nn.Module], None]) -> bool:
        score = self.task.score(figures)
        if score <= self.counters.best:
            return False
        self.counters.best = score
        on_best(self.averaged)
        return True

    def _train_epoch(self, progress: Progress) -> bool:
        """The rest of the current epoch; False if it was left early, by a stop."""
        counters, config = self.counters, self.config
        self.training.set_epoch(counters.epoch, counters.batch)
        self.model.train()
        if config.freeze == "backbone":
            self.bare.eval()  # frozen batch norms keep their statistics
        for images, labels, _ in self.training:
            counters.loss_sum += self._batch(images, labels)
            counters.batch += 1
            counters.seconds = self.before + time.monotonic() - self.started
            progress.step(counters.step, counters.loss_sum / counters.batch, len(images) * self.fabric.world_size)
            if self._should_leave():
                return False
            if counters.step >= counters.total_steps:
                break
        return True

    def _batch(self, images: Tensor, labels: Tensor) -> float:
        """Forward, backward and, unless gradients are still accumulating, a step; returns the loss."""
        counters, config = self.counters, self.config
        seed_all(config.seed, counters.epoch, counters.batch, self.fabric.global_rank)
        self.scheduler.step_update(counters.step)
        images = images.to(self.fabric.device, memory_format=torch.channels_last, non_blocking=True)
        images, targets = self.task.prepare(images, labels.to(self.fabric.device, non_blocking=True))
        last = counters.batch + 1 == self.batches
        moves = (counters.batch + 1) % config.accumulate == 0 or last
        with self.fabric.no_backward_sync(self.model, enabled=not moves):
            loss = self.task.loss(self.model(images), targets)
            self.fabric.backward(loss / config.accumulate)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"The loss became {value} in epoch {counters.epoch + 1}, batch {counters.batch + 1}.",
                f"Lower the learning rate: --lr {config.peak_lr / 3:.1e}. The state of the last save is kept.",
            )
        if moves:
            if config.clip_grad is not None:
                dispatch_clip_grad(self.bare.parameters(), config.clip_grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
            counters.step += 1
            if self.ema is not None:
                self.ema.update(self.bare, step=counters.step)
        return value

    def _close_epoch(self, figures: dict[str, float]) -> dict[str, float]:
        """Count the epoch as done and return its row."""
        counters = self.counters
        self.scheduler.step_update(max(counters.step - 1, 0))  # of the last step, also right after a resume
        row = {
            "epoch": counters.epoch + 1,
            "step": counters.step,
            "train_loss": counters.loss_sum / counters.batch,
            **{f"val_{name}": value for name, value in figures.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        counters.epoch, counters.batch, counters.loss_sum = counters.epoch + 1, 0, 0.0
        return row

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights on the validation images; every rank sees all of them."""
        model = self.averaged.eval()
        batches = []
        for images, labels, _ in self.validation:
            images = images.to(self.fabric.device, memory_format=torch.channels_last, non_blocking=True)
            with self.fabric.autocast():
                batches.append((model(images).float().cpu(), labels))
        logits, targets = (torch.cat(part) for part in zip(*batches, strict=True))
        return self.task.figures(logits, targets)

    # ---------------------------------------------------------------- stopping and continuing

    def _should_leave(self) -> bool:
        limit = self.config.limit_minutes
        if limit is not None and self.counters.seconds > limit * 60 and not self.stopped:
            self.stopped = f"the limit of {limit:g} minutes"
        if self.stopped:
            return True
        if time.monotonic() - self.saved > self.config.save_minutes * 60:
            self.save()
        return False

    def save(self) -> None:
        """Write the state that `restore` continues from."""
        self.saved = time.monotonic()
        if self.fabric.is_global_zero:
            ema = None if self.ema is None else self.ema.module
            save_state(self.folder, self.bare, ema, self.optimizer, asdict(self.counters))

    def restore(self) -> None:
        """Continue where the saved state of the folder stands."""
        ema = None if self.ema is None else self.ema.module
        self.counters = Counters(**load_state(self.folder, self.bare, ema, self.optimizer))

    @contextmanager
    def _stop_on_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C ends the run after its step; the second at once."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            self.stopped = INTERRUPTED

        try:
            before = signal.signal(signal.SIGINT, stop)
        except ValueError:  # not the main thread: leave interrupts to whoever owns them
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def seed_all(*numbers: int) -> None:
    """Seed torch, numpy and random by all `numbers` together."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with timm's groups: no decay for norms, biases and what the model names."""
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        model,
        "adamw",
        lr=config.peak_lr,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        fused=next(model.parameters()).device.type in ("cpu", "cuda"),  # one kernel instead of one per parameter
    )
    return optimizer


def make_scheduler(
    config: TrainConfig, optimizer: torch.optim.Optimizer, total_steps: int, steps_per_epoch: int
) -> CosineLRScheduler:
    """Linear warm-up, then a cosine that ends with the run."""
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps // 10)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, total_steps - warmup),
        lr_min=min(config.min_lr, config.peak_lr),
        warmup_t=warmup,
        warmup_lr_init=config.peak_lr / max(1, warmup),
        warmup_prefix=True,
        t_in_epochs=False,
    )


def freeze_backbone(model: nn.Module) -> None:
    """Leave only the classifier trainable."""
    classifier = cast(Any, model).get_classifier()
    model.requires_grad_(False)
    classifier.requires_grad_(True)
