"""From a path to a model that answers: a model folder runs in torch, an exported file in its own engine."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dualtoken.errors import ConfigError, require
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.model_folder import load_config, load_model
from dualtoken.outputs import Answer
from dualtoken.prediction.inputs import collect_inputs
from dualtoken.prediction.predictor import Predictor

_RUNTIME = "dualtoken.runtime.loading"  # stands on this room, so it is called by its name


def load(path: str | Path, *, device: str = "auto") -> Predictor:
    """Load a model folder or an exported model, ready to predict.

    Args:
        path: a folder that `dualtoken train` wrote, or a file that `dualtoken export` wrote.
        device: `auto`, `cpu`, `cuda`, `mps`; exported models run on the CPU.

    Raises:
        ModelError: it is neither, or damaged.
        ConfigError: no such device.
        MissingExtraError: what it runs in is not installed.
    """
    runtime = importlib.import_module(_RUNTIME)
    if runtime.is_export(path):
        if device not in ("auto", "cpu"):
            raise ConfigError(
                f"The device is {device!r}, but exported models run on the CPU here.", "Type: --device cpu"
            )
        exported: Predictor = runtime.load(path)
        return exported
    load_config(path)  # a mistake is answered before torch is imported
    require("torch", "train")
    from dualtoken.prediction.torch_engine import choose_device

    model, config = load_model(path)
    return Predictor(model.to(choose_device(device)), config, name=str(path))


def predict(
    model: str | Path | Predictor,
    inputs: Any,
    *,
    batch_size: int = 32,
    device: str = "auto",
    threshold: float | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Any:
    """The answer for one image, or for several: see `Predictor.predict`. A `Predictor` spares loading it each time."""
    predictor = model if isinstance(model, Predictor) else load(model, device=device)
    return predictor.predict(inputs, batch_size=batch_size, threshold=threshold, limits=limits)


def predict_stream(
    model: str | Path | Predictor,
    inputs: Iterable[str | Path],
    *,
    batch_size: int = 32,
    workers: int | None = None,
    device: str = "auto",
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[Answer]:
    """Answer for files, folders, patterns, zip archives and `-` (standard input), one answer after the other.

    See `collect_inputs` for `inputs` and `Predictor.stream` for what comes out. A file that cannot be read does
    not stop the rest.
    """
    predictor = model if isinstance(model, Predictor) else load(model, device=device)
    yield from predictor.stream(collect_inputs(inputs), batch_size=batch_size, workers=workers, limits=limits)
