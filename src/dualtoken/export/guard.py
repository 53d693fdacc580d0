"""Nothing is written in INT8 unless it was measured, in the exported engine itself, to lose little."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from dualtoken.errors import ConfigError, ExportError, ModelError
from dualtoken.files import together
from dualtoken.words import counted

MAX_DROP = 0.005  # half a point


class Quantizer(Protocol):
    """What has seen calibration images and can write a network with more or fewer layers in integers."""

    layers: Sequence[str]

    def write(self, target: Path, exclude: Collection[str] = ()) -> None:
        """Write all `layers` but `exclude` in integers."""

    def harm(self) -> dict[str, float]:
        """How far each layer, alone in integers, moves the outputs; infinite where they are no numbers."""


@dataclass(frozen=True)
class Attempt:
    """One file that was measured: how many layers stayed in float, and its score."""

    kept: int
    score: float


@dataclass(frozen=True)
class GuardReport:
    """What the guard measured.

    Attributes:
        path: the file that was written.
        float_score: of the float32 export, in [0, 1].
        score: of the file, on the same images in the same engine.
        max_drop: what was allowed.
        layers: how many layers are in integers.
        kept: names of those that were left in float since they hurt most, worst first.
        attempts: all that was measured, in order.
    """

    path: Path
    float_score: float
    score: float
    max_drop: float
    layers: int
    kept: tuple[str, ...]
    attempts: tuple[Attempt, ...]

    @property
    def drop(self) -> float:
        """How much of the score was lost; below 0 where it rose."""
        return self.float_score - self.score

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values."""
        attempts = [{**asdict(a), "score": a.score if math.isfinite(a.score) else None} for a in self.attempts]
        return {
            **asdict(self),
            "path": self.path.name,
            "kept": list(self.kept),
            "attempts": attempts,
            "drop": self.drop,
        }

    def line(self) -> str:
        """One line for the screen."""
        left = f", {len(self.kept)} that hurt most in float" if self.kept else ""
        return (
            f"INT8: {100 * self.score:.2f} % against {100 * self.float_score:.2f} % in float, "
            f"{100 * self.drop:+.2f} points lost; {counted(self.layers, 'layer')} in integers{left}."
        )


def quantize_with_guard(
    quantizer: Quantizer,
    measure: Callable[[Path], float],
    target: str | Path,
    *,
    float_score: float,
    max_drop: float = MAX_DROP,
    beside: Sequence[Path] = (),
) -> tuple[Path, GuardReport]:
    """Write a network in INT8 that loses at most `max_drop`, with as many layers in integers as that allows.

    All layers are tried first. If that loses too much, layers are ranked by the harm that each does alone, and the
    worst 1, 2, 4, 8, ... up to half of them stay in float until it is enough; then the least number that is enough is
    sought by halving.

    Args:
        quantizer: the network.
        measure: the score in [0, 1] of a file, on validation images, in the engine that will run it.
        target: path of the file; OpenVINO's `.bin` goes with it.
        float_score: of the float32 file, by the same `measure`.
        max_drop: how much of the score may be lost, in [0, 1): 0.005 is half a point.
        beside: other files of the model, which are copied beside it unless they are there.

    Raises:
        ExportError: it cannot be met with at least half of the layers in integers, or there are none. Nothing is
            written then.
        ConfigError: an impossible `max_drop`.
        OutputError: the place cannot be written.
    """
    target = Path(target)
    check_drop(max_drop)
    if not quantizer.layers:
        raise ExportError("This network has no layer that is worth computing in INT8.", "Try: --precision fp16")
    with together(target) as folder, TemporaryDirectory(dir=folder) as place:
        trials = _Trials(quantizer, measure, Path(place), target.name, beside)
        kept = _fewest_in_float(trials, float_score - max_drop)
        if kept is None:
            raise ExportError(
                f"INT8 would lose more than {100 * max_drop:g} points of {100 * float_score:.2f} %. The best that was "
                f"found is {_percent(max(trials.scores.values()))}, with up to half of the {len(quantizer.layers)} "
                "layers left in float. Nothing was written.",
                "Calibrate on more images of the kind to come, allow a larger drop, or try --precision fp16.",
            )
        trials.keep(kept, folder, target.parent)
    attempts = tuple(Attempt(count, score) for count, score in trials.scores.items())
    report = GuardReport(
        target, float_score, trials.scores[kept], max_drop, len(quantizer.layers) - kept, trials.worst(kept), attempts
    )
    return target, report


def check_drop(max_drop: float) -> None:
    """Raises ConfigError where it is no share that can be lost."""
    if not 0 <= max_drop < 1:
        raise ConfigError(f"max_drop is {max_drop}, expected a number from 0 to below 1: 0.005 is half a point.")


class _Trials:
    """Files that were written and measured, each in a folder of its own: how many layers stayed in float, to its score.

    Each has the target's name and the model's other files beside it, as it will have them in the end.
    """

    def __init__(
        self, quantizer: Quantizer, measure: Callable[[Path], float], folder: Path, name: str, beside: Sequence[Path]
    ) -> None:
        self.quantizer, self.measure, self.folder = quantizer, measure, folder
        self.name, self.beside = name, beside
        self.scores: dict[int, float] = {}
        self._ranking: list[str] = []

    def score(self, kept: int) -> float:
        """The score with the `kept` worst layers in float; -infinity for what is no number."""
        if kept not in self.scores:
            place = self.folder / str(kept)
            place.mkdir()
            for file in self.beside:
                shutil.copy(file, place)
            self.quantizer.write(place / self.name, self.worst(kept))
            try:
                score = self.measure(place / self.name)
            except ModelError:  # its outputs are no numbers
                score = math.nan
            self.scores[kept] = score if math.isfinite(score) else -math.inf
        return self.scores[kept]

    def worst(self, kept: int) -> tuple[str, ...]:
        """The `kept` layers that do most harm, worst first."""
        if kept and not self._ranking:
            harm = self.quantizer.harm()
            self._ranking = sorted(harm, key=lambda name: -harm[name])
        return tuple(self._ranking[:kept])

    def keep(self, kept: int, folder: Path, parent: Path) -> None:
        """Move one trial's files to a folder, but for those of the model's others that `parent` has already."""
        for file in (self.folder / str(kept)).iterdir():
            if file.name == self.name or not (parent / file.name).exists():
                file.replace(folder / file.name)


def _fewest_in_float(trials: _Trials, least: float) -> int | None:
    """How many of the worst layers must stay in float to score at least `least`; None if half of all do not do."""
    if trials.score(0) >= least:
        return 0
    most = len(trials.quantizer.layers) // 2
    too_few, enough = 0, 1
    while enough <= most and trials.score(enough) < least:
        too_few, enough = enough, 2 * enough if enough == most or 2 * enough <= most else most
    if enough > most:
        return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if trials.score(middle) >= least else (middle, enough)
    return enough


def _percent(score: float) -> str:
    return f"{100 * score:.2f} %" if math.isfinite(score) else "not a number"
