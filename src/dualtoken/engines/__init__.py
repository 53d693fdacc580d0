"""Engines compute networks, part by part, and nothing else. A NEW ENGINE GOES HERE: one file that registers itself.

`torch.py` runs the network of a model folder; all others open exported files. Each imports its package when it opens
one, so that the folder is light to look through. What stands around the network, from the image file to the answer, is
the same for all of them: `prediction`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from dualtoken.errors import ConfigError, MissingExtraError, ModelError
from dualtoken.registry import Registry

KEY = "dualtoken"  # under which a file carries what its model is, as one JSON text
MAIN = "network"  # the part that every model has


class Engine(Protocol):
    """Whatever computes a network, part by part: torch, ONNX Runtime, OpenVINO, ..."""

    def run(self, part: str, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of one part, in its order; B images and R regions may be any number from 1 up.

        Everything is float32 but `labels`, int64. Maps are only handed from one part to the next, so that an engine
        may give them as whatever it takes itself.

        | network | part | inputs | outputs |
        | --- | --- | --- | --- |
        | classifier | network | images (B, 3, H, W) | logits (B, K) |
        | segmenter | network | images | logits (B, K, H, W) |
        | retinanet | network | images | scores (B, N, K) logits, deltas (B, N, 4) |
        | fcos | network | images | scores (B, N, K) logits, deltas (B, N, 4), centerness (B, N, 1) logits |
        | both R-CNNs | network | images | objectness (B, N) logits, deltas (B, N, 4), map0, map1, ... |
        | | boxes | map0, map1, ..., rois (R, 5) | scores (R, K + 1) logits, deltas (R, 4 (K + 1)) |
        | mask_rcnn | masks | map0, map1, ..., rois (R, 5), labels (R,) | masks (R, 28, 28) probabilities |

        The N positions are those of all levels, the finest first; within a level row by row, then column, then
        anchor. `rois` are the number of the image in the batch, then left, top, right, bottom in pixels of the
        input; `labels` are the network's own, where 0 is the background.
        """


class Open(Protocol):
    """What makes an engine of files."""

    def __call__(self, files: Mapping[str, Path], *, threads: int | None = None) -> Engine:
        """Part to its file, and how many threads one run uses; None for what the engine thinks best.

        Raises:
            MissingExtraError: its package is not installed.
            ModelError: a file cannot be loaded.
        """


@dataclass(frozen=True)
class EngineKind:
    """An engine of exported files.

    Attributes:
        suffixes: of the files that it takes, its own first.
        package: that it stands on, by the name that it is imported by.
        extra: of dualtoken, that brings the package.
        open: makes the engine.
        read_text: what a file says under `KEY`, read without any package; None where it stands in a file beside it.
        elsewhere: why such files cannot be run here, and where they can; empty where they can.
        runs_code: why opening a file may run code of whoever wrote it; such files are opened for those who trust
            them only. Empty where a file is data.
        parallel: whether one engine may run in several threads at once.
        also: further packages that it runs with, by the names that they are imported by.
    """

    suffixes: tuple[str, ...]
    package: str
    extra: str
    open: Open
    read_text: Callable[[Path], str | None] | None = None
    elsewhere: str = ""
    runs_code: str = ""
    parallel: bool = False
    also: tuple[str, ...] = ()


ENGINES: Registry[EngineKind] = Registry("engine", __name__)


def outputs_of(
    engine: Engine, part: str, inputs: Sequence[NDArray[Any]], number: int, *, more: bool = False
) -> list[NDArray[Any]]:
    """What a part gives: `number` outputs, or that many and `more`.

    Raises:
        ModelError: it gives another number of outputs.
    """
    found = engine.run(part, inputs)
    if len(found) < number or (len(found) > number and not more):
        shapes = ", ".join(str(tuple(one.shape)) for one in found) or "none"
        expected = f"{number}{' or more' if more else ''}"
        raise ModelError(
            f"The part {part!r} of the network has {len(found)} outputs ({shapes}), expected {expected}.",
            "It is not the network that its config describes: export it again.",
        )
    return found


def out_of_memory(error: Exception) -> bool:
    """Whether there was not enough memory for what an engine, or anybody, was given; each says it in its own words."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "alloc" in words or "out of memory" in words


def runnable() -> list[str]:
    """Names of the engines that run on this machine where they are installed."""
    return [name for name, kind in ENGINES.items() if not kind.elsewhere]


def suffixes() -> tuple[str, ...]:
    """Of all files that some engine takes, those that run elsewhere included."""
    return tuple(dict.fromkeys(suffix for kind in ENGINES.values() for suffix in kind.suffixes))


def engine_of(path: Path) -> EngineKind:
    """The engine whose own files end as this one.

    Raises:
        ModelError: there is none.
    """
    for kind in ENGINES.values():
        if kind.suffixes[0] == path.suffix:
            return kind
    raise _no_engine(path)


def _no_engine(path: Path) -> ModelError:
    here = ", ".join(ENGINES[name].suffixes[0] for name in runnable())
    return ModelError(
        f"{str(path)!r} is no exported model that runs here: its suffix is {path.suffix!r}.",
        f"Those that do end in {here}.",
    )


def choose_engine(name: str, path: Path) -> str:
    """A key of `ENGINES` for a file: `name`, or for `auto` the first installed, that of the file's own kind first.

    Raises:
        ConfigError: an unknown engine, or one that does not run such files.
        MissingExtraError: none is installed.
        ModelError: no engine runs such files.
    """
    if name != "auto":
        ENGINES.find(name, "Type: --engine auto")
    able = [key for key in runnable() if path.suffix in ENGINES[key].suffixes]
    if not able:
        raise _no_engine(path)
    able.sort(key=lambda key: ENGINES[key].suffixes.index(path.suffix))
    if name != "auto":
        if name not in able:
            raise ConfigError(
                f"The engine {name!r} does not run {path.suffix} files.", f"Engines that do: {', '.join(able)}."
            )
        able = [name]
    for key in able:
        if importlib.util.find_spec(ENGINES[key].package) is not None:
            return key
    packages = " or ".join(repr(ENGINES[key].package) for key in able)
    raise MissingExtraError(
        f"{str(path)!r} needs the package {packages}, which is not installed.",
        f"Type: pip install 'dualtoken[{ENGINES[able[0]].extra}]'",
    )
