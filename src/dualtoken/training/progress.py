"""What a person sees while a model trains: a bar with rate and time left, and a line an epoch."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from dualtoken.words import counted

QUIET_SECONDS = 60.0  # between lines where there is no terminal to draw a bar on


class Progress:
    """A bar on a terminal, plain lines elsewhere (a log file, a pipe).

    Args:
        total: steps of the whole run.
        start: steps already done.
    """

    def __init__(self, total: int, start: int = 0, *, shown: bool = True) -> None:
        self.total, self.shown = total, shown
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.terminal = shown and self.console.is_terminal
        self.recent: deque[tuple[float, int, int]] = deque([(time.monotonic(), start, 0)], maxlen=50)
        self.images = 0
        self.forecast, self.told = total, False
        self.spoken = time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
        self.bar = Bar(*columns, console=self.console, disable=not self.terminal, transient=True)
        self.task = self.bar.add_task("training", total=total, completed=start, rate="")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def step(self, step: int, loss: float, images: int) -> None:
        """After each batch: `step` updates done, mean `loss` of the epoch, `images` in the batch."""
        self.images += images
        now = time.monotonic()
        self.recent.append((now, step, self.images))
        then, then_step, then_images = self.recent[0]
        elapsed = max(now - then, 1e-9)
        left = (self.total - step) * elapsed / max(step - then_step, 1)
        text = f"loss {loss:.3f}  {(self.images - then_images) / elapsed:.0f} img/s  {duration(left)} left"
        self.bar.update(self.task, completed=step, rate=text)
        if self.shown and not self.terminal and now - self.spoken > QUIET_SECONDS:
            self.spoken = now
            self.say(f"  step {step}/{self.total}  {text}")

    def replan(self, total: int) -> None:
        """The run will end after `total` updates, earlier or later than planned.

        Said once, where it is a tenth or more: on a machine whose load changes the plan does too, and the bar shows it.
        """
        if not self.told and abs(total - self.forecast) >= 0.1 * self.forecast:
            self.told = True
            fit = f"at present {counted(total, 'step')} fit into the time"
            self.say(f"The pace is not the forecast one: {fit}, and the schedule follows.")
        self.total = total
        self.bar.update(self.task, total=total)

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        """After each epoch: its row."""
        figures = "  ".join(
            f"{name.removeprefix('val_')} {value:.2%}"
            if name.endswith("top1")
            else f"{name.replace('_', ' ')} {value:.4f}"
            for name, value in row.items()
            if name.startswith(("train_", "val_"))
        )
        rate = f"  {row['images_per_second']:.0f} img/s" if "images_per_second" in row else ""
        self.say(f"epoch {row['epoch']:3d}  {figures}  lr {row['lr']:.1e}{rate}{'  best' if best else ''}")
        self.spoken = time.monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.shown:
            self.console.print(text, markup=False)


def duration(seconds: float) -> str:
    """Seconds as people say them: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
