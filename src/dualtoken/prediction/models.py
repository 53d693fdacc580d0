"""From a path to a model that answers: a model folder runs in torch, an exported file in an engine of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dualtoken.engines import ENGINES, MAIN, choose_engine
from dualtoken.errors import ConfigError, ModelError, require
from dualtoken.hub import find_model, find_pretrained, missing_model
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.model_folder import load_config, load_model
from dualtoken.outputs import Answer
from dualtoken.prediction.exported import Export, is_export, read_export
from dualtoken.prediction.inputs import collect_inputs
from dualtoken.prediction.predictor import Predictor


def load(
    path: str | Path,
    *,
    device: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
    trust: bool = False,
) -> Predictor:
    """Load a model folder, a model of the package or of the Hub, or an exported model, ready to predict.

    Args:
        path: a folder that `dualtoken train` wrote, a file that `dualtoken export` wrote (files that belong to it lie
            beside it), the name of a model that comes with the package (`dualtoken-vit-t-cifar10`), or
            `hf-hub:USER/NAME` of the Hugging Face Hub.
        device: `auto`, `cpu`, `cuda`, `mps`; exported models run on the CPU.
        engine: for an exported model, a key of `ENGINES`; `auto` takes the first that runs such files and is installed.
        threads: that one run uses; None for as many as the engine thinks best.
        trust: open files of formats that can run code too (.pt2), since you know who made this one.

    Raises:
        ModelError: it is none of these, damaged, a file that belongs to it is missing or another, it can run code and
            is not trusted, or it cannot be fetched.
        ConfigError: no such device, an unknown engine or one that cannot run it, or an impossible number of threads.
        MissingExtraError: what it runs in is not installed.
    """
    return _open(find_model(path), str(path), device, engine, threads, trust)


def from_pretrained(
    model: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    device: str = "auto",
) -> Predictor:
    """Load a model by name: as `load`, and repositories of the Hugging Face Hub also without `hf-hub:` before them.

    Args:
        model: what is a file or folder here is taken from here; else a model of the package, else USER/NAME of the Hub.
        revision: branch, tag or commit of the repository; None for its main branch.
        cache_dir: where downloads are kept; None for the Hub's own place.
        local_files_only: use no network, only what was fetched before.
        device: as for `load`.

    Raises:
        ModelError: no such model, weights that are pickles, or no connection.
        ConfigError: a revision of something that has none, or no such device.
        MissingExtraError: what it needs is not installed.
    """
    place = find_pretrained(model, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    return _open(place, str(model), device, "auto", None, False)


def _open(path: Path, name: str, device: str, engine: str, threads: int | None, trust: bool) -> Predictor:
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}, expected 1 or more.")
    if is_export(path):
        if device not in ("auto", "cpu"):
            raise ConfigError(
                f"The device is {device!r}, but exported models run on the CPU here.", "Type: --device cpu"
            )
        return _open_export(path, engine, threads, trust)
    if not path.exists():
        raise missing_model(name)
    if engine != "auto":
        raise ConfigError(f"The engine is {engine!r}, but a model folder runs in torch.", "Export it first.")
    load_config(path)  # a mistake is answered before torch is imported
    torch: Any = require("torch", "train")
    from dualtoken.engines.torch import choose_device

    if threads is not None:
        torch.set_num_threads(threads)
    model, config = load_model(path)
    return Predictor(model.to(choose_device(device)), config, name=name)


def _open_export(path: Path, engine: str, threads: int | None, trust: bool) -> Predictor:
    config, info = read_export(path)
    chosen = choose_engine(engine, path)
    if (reason := ENGINES[chosen].runs_code) and not trust:
        raise ModelError(
            f"{str(path)!r} is not opened, since it could run code of whoever made it: {reason}.",
            "If you know who made it: --trust (Python: trust=True). Files that run nothing: .onnx, .xml.",
        )
    files = {MAIN: path} | {part: path.with_name(file) for part, file in info.parts.items()}
    made = ENGINES[chosen].open(files, threads=threads)
    return Predictor(made, config, name=str(path), export=Export(path, info, chosen))


def predict(
    model: str | Path | Predictor,
    inputs: Any,
    *,
    batch_size: int | None = None,
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
    batch_size: int | None = None,
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
