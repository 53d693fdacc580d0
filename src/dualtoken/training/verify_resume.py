"""A run that is killed and continued, beside one that is left alone: are they the same? `dualtoken verify-resume`."""

from __future__ import annotations

import csv
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dualtoken.errors import ConfigError, UserError
from dualtoken.model_folder import WEIGHTS, read_weights
from dualtoken.training.folder import STATE, has_state
from dualtoken.training.logs import HISTORY
from dualtoken.training.reproduce import difference
from dualtoken.training.run import rehearsed, train
from dualtoken.training.state import run_counters
from dualtoken.words import counted

SAVES = 20  # states that a run saves within its time, so that it is killed within epochs too
LOOK = 0.01  # seconds
TIMED = "images_per_second"  # the one column of a run's figures that follows the clock


@dataclass(frozen=True)
class Resumed:
    """How a run that was killed and continued compares with one that was not.

    Attributes:
        steps: of each of both runs.
        killed: for each kill the step of the saved state that the run was continued from.
        weights: largest difference of a weight of the model, as a share of the largest one of its tensor.
        state: the same of the last state: weights, their average and the optimiser's moments.
        figures: whether losses and metrics of all epochs are the same, bit for bit, in metrics.csv too.
    """

    steps: int
    killed: tuple[int, ...]
    weights: float
    state: float
    figures: bool

    @property
    def shown(self) -> bool:
        """Whether a kill left steps to take; after the last one a run only measures and reports."""
        return any(step < self.steps for step in self.killed)

    @property
    def passed(self) -> bool:
        """Whether it was killed before its last step and nothing differs."""
        return self.shown and self.weights == 0 and self.state == 0 and self.figures

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the sentence."""
        return asdict(self) | {"passed": self.passed, "sentence": self.summary()}

    def summary(self) -> str:
        """What was done and found."""
        steps = counted(self.steps, "step")
        if not self.shown:
            return f"Nothing is shown: the run of {steps} ended before it could be killed. Give it more --epochs."
        places = ", ".join(f"{step:,}" for step in self.killed)
        done = f"Killed {counted(len(self.killed), 'time')} and continued from step {places} of {self.steps:,}"
        if self.passed:
            return f"{done}: equal to the run that was left alone, bit for bit: weights, optimiser, losses and metrics."
        figures = "the same" if self.figures else "others"
        return (
            f"{done}: not equal to the run that was left alone. A weight differs by {self.weights:.1e} of the largest"
            f" of its tensor, the last state by {self.state:.1e}; losses and metrics are {figures}."
        )


def verify_resume(
    data: str | Path,
    *,
    kills: int = 3,
    recipe: str | Path | None = None,
    from_scratch: bool = False,
    **settings: Any,
) -> Resumed:
    """Train twice, once killed at random moments and continued each time, and compare all that the runs left.

    Both run in processes of their own, into a temporary folder that is removed. A kill is SIGKILL: nothing can be
    saved any more.

    Args:
        data: labelled images, as for `train`.
        kills: how often the second run is killed, at least once; fewer where it ends before.
        recipe: as for `train`.
        from_scratch: as for `train`: a network with random weights.
        **settings: as for `train`, on one device.

    Raises:
        UserError: data, settings or model cannot be used, or a run failed by itself.
    """
    if kills < 1:
        raise ConfigError(f"--kills is {kills}: a run that is not killed shows nothing.", "Give 1 or more.")
    for name in ("devices", "nodes"):
        if settings.get(name, 1) != 1:
            raise ConfigError(f"{name} is {settings[name]}: resuming is verified with one process.", "Leave it out.")
    settings |= {"devices": 1, "nodes": 1}
    config = rehearsed(data, recipe=recipe, from_scratch=from_scratch, **settings).config  # mistakes are said here
    if config.limit_minutes is not None:
        raise ConfigError("With limit_minutes the clock decides how many steps a run takes.", "Give epochs or steps.")
    start = {"recipe": recipe, "from_scratch": from_scratch, **settings}
    with tempfile.TemporaryDirectory(prefix="dualtoken-") as place:
        alone, killed = Path(place, "alone"), Path(place, "killed")
        _end(_process(data, alone, start))
        counters = run_counters(alone)
        often = start | {"save_minutes": max(counters.seconds / 60 / SAVES, 1e-6)}
        steps = tuple(_killed(data, killed, often, kills, counters.seconds / kills / 2))
        states = (read_weights(folder / STATE) for folder in (alone, killed))
        return Resumed(
            steps=counters.step,
            killed=steps,
            weights=difference(read_weights(alone / WEIGHTS), read_weights(killed / WEIGHTS)),
            state=difference(*states),
            figures=_figures(alone) == _figures(killed),
        )


def _killed(data: str | Path, folder: Path, start: Mapping[str, Any], kills: int, longest: float) -> Iterator[int]:
    """A run from start to end, killed on its way; yields the step of the state that each kill left.

    Args:
        longest: seconds that a kill waits at most, once a new state is saved.
    """
    process = _process(data, folder, start)
    for _ in range(kills):
        before = _age(folder)
        while process.is_alive() and _age(folder) == before:
            time.sleep(LOOK)
        process.join(random.uniform(0, longest))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        yield run_counters(folder).step
        process = _process(data, folder, {"resume": folder})
    _end(process)


def _age(folder: Path) -> int:
    """When the last state was written; 0 where there is none, or it is just changing its name."""
    try:
        return (folder / STATE).stat().st_mtime_ns if has_state(folder) else 0
    except FileNotFoundError:
        return 0


def _process(data: str | Path, folder: Path, start: Mapping[str, Any]) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(data, folder, dict(start)))
    process.start()
    return process


def _end(process: BaseProcess) -> None:
    try:
        process.join()
    finally:
        process.kill()
    if process.exitcode:
        raise UserError(f"A run ended by itself with exit code {process.exitcode}; its words stand above.")


def _train(data: str | Path, folder: Path, start: dict[str, Any]) -> None:
    """`train`, in a process of its own, with its words in a file beside its folder."""
    with (
        folder.with_suffix(".log").open("a", encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        try:
            train(data, folder, **start)
        except UserError as error:
            print(error.message, error.hint, sep="\n", file=sys.__stderr__)
            sys.exit(2)


def _figures(folder: Path) -> tuple[list[dict[str, Any]], ...]:
    """Losses and metrics of all epochs, as the state has them and as the table has them."""
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    return tuple(
        [{name: value for name, value in row.items() if name != TIMED} for row in rows]
        for rows in (run_counters(folder).history, table)
    )
