"""A run again, from what it left behind: with the same data, settings and threads, are its weights the same?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualtoken.data import find_data
from dualtoken.data.dataset import changes
from dualtoken.errors import DataError, ModelError
from dualtoken.machine import machine_name
from dualtoken.model_folder import WEIGHTS, load_config, read_weights, versions
from dualtoken.training.folder import SETTINGS, has_state
from dualtoken.training.recipes import load_recipe
from dualtoken.training.run import train
from dualtoken.training.state import run_counters


@dataclass(frozen=True)
class Reproduced:
    """How a repeated run compares with the first.

    Attributes:
        folder: of the repeated run.
        difference: the largest difference of a weight, as a share of the largest one of its tensor; 0 where all weights
            are the same, bit for bit.
        notes: what is other than it was: versions, machine.
    """

    folder: Path
    difference: float
    notes: tuple[str, ...]

    def summary(self) -> str:
        """A line, and one for each thing that is other than it was."""
        far = f"not equal: a weight differs by {self.difference:.1e} of the largest of its tensor"
        found = far if self.difference else "equal: all weights are the same, bit for bit"
        return "\n".join((f"{self.folder} is {found}.", *self.notes))


def reproduce(run: str | Path, data: str | Path, output: str | Path) -> Reproduced:
    """Train again as a run was trained, and compare the weights.

    Args:
        run: a finished run's folder; its `train.yaml`, `data.csv` and `config.json` say how it was made.
        data: the images that it was trained on.
        output: folder of the new run.

    Returns:
        How far the weights are from each other, and what is other than it was.

    Raises:
        ModelError: `run` is no finished run.
        DataError: the images are others; it names the files.
    """
    run = Path(run)
    if not ((run / SETTINGS).is_file() and (run / WEIGHTS).is_file() and has_state(run)):
        raise ModelError(
            f"{str(run)!r} is no finished run: it needs {SETTINGS}, {WEIGHTS} and a saved state.",
            "Give a folder that `dualtoken train` wrote.",
        )
    config, before = load_recipe(run / SETTINGS), load_config(run).provenance
    found = find_data(data, task=config.task, labels=config.labels, seed=config.seed, val_fraction=config.val_fraction,
                      on_bad_image=config.on_bad_image, on_bad_label=config.on_bad_label,
                      most=config.images_per_split, progress=False)  # fmt: skip
    if other := changes(run, found):
        raise DataError(f"{str(data)!r} holds not the images that {str(run)!r} was trained on. {other}")
    # What a clock chose is taken as it came out; all else decides itself again, early stopping included.
    timed: dict[str, Any] = (
        {"limit_minutes": None, "steps": run_counters(run).step} if config.limit_minutes is not None else {}
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(before.get("threads") or threads)
    try:
        again = train(data, output, recipe=run / SETTINGS, **timed).folder
    finally:
        torch.set_num_threads(threads)
    return Reproduced(again, difference(read_weights(run / WEIGHTS), read_weights(again / WEIGHTS)), _others(before))


def difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest difference of a value, as a share of the largest one of its tensor; infinite for other names."""
    if ours.keys() != theirs.keys():
        return float("inf")
    return max(
        (one - theirs[name]).abs().max().item() / max(one.abs().max().item(), 1e-12)
        for name, one in ((name, tensor.double()) for name, tensor in ours.items() if tensor.numel())
    )


def _others(before: Mapping[str, Any]) -> tuple[str, ...]:
    now = {**versions(), "machine": machine_name()}
    then = {**(before.get("versions") or {}), "machine": before.get("machine")}
    return tuple(f"{name} was {then[name]}, is {value}" for name, value in now.items() if then.get(name) != value)
