"""What `dualtoken train` does, top to bottom."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning_fabric import Fabric
from torch import nn

from dualtoken.backbone import count_macs, count_parameters, require_known
from dualtoken.data import ImageData, evaluation_loader, find_data, training_loader, training_transform
from dualtoken.errors import ConfigError, DataError, OutputError
from dualtoken.files import writable_folder, write_json, write_text
from dualtoken.images import ImageLimits
from dualtoken.model_folder import CONFIG, ModelConfig, is_model_folder, save_model
from dualtoken.prediction import choose_device
from dualtoken.tasks import TASKS
from dualtoken.training.config import TrainConfig
from dualtoken.training.forecast import Forecast, measure
from dualtoken.training.logs import Logs
from dualtoken.training.loop import INTERRUPTED, Loop, seed_all
from dualtoken.training.network import make_network
from dualtoken.training.precision import choose_precision
from dualtoken.training.progress import Progress, duration
from dualtoken.training.recipes import load_recipe
from dualtoken.training.state import STATE

SETTINGS = "train.yaml"
FILES_AS_WEIGHTS = 10  # the best model; model, averages and two moments in a state that is there twice while replaced
CHANGEABLE = ("workers", "limit_minutes", "device", "save_minutes", "early_stop")  # on resuming: not what a step does


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind: its model folder, the metrics in it, and why it stopped early, if it did."""

    folder: Path
    metrics: dict[str, Any]
    stopped: str = ""


def train(
    data: str | Path,
    output: str | Path | None = None,
    *,
    recipe: str | Path = "small",
    resume: str | Path | None = None,
    **settings: Any,
) -> TrainResult:
    """Train a classifier on images and write a model folder with its report.

    Args:
        data: class folders, a CSV file or a zip archive; see `dualtoken.data.find_data`.
        output: folder of the run, which becomes the model folder.
        recipe: name of a recipe or a YAML file: the settings to start from.
        resume: folder of a run to continue in place, with its own settings.
        **settings: fields of `TrainConfig`, on top of the recipe. With `resume` only those that do not
            change what a step does: workers, limit_minutes, device, save_minutes, early_stop.

    Returns:
        The folder, the final metrics and why the run stopped early, if it did.

    Raises:
        UserError: data, settings, model or output cannot be used; the message says why and what to do.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.
    """
    config = _resumed_config(Path(resume), settings) if resume else load_recipe(recipe, settings)
    folder = _run_folder(output, resume)
    try:
        loop, images, description = _prepare(data, config, folder, resuming=resume is not None)
    except BaseException:
        with suppress(OSError):  # holds something already: not ours to remove
            folder.rmdir()
        raise
    fabric = loop.fabric

    def on_best(best: nn.Module) -> None:
        if fabric.is_global_zero:
            save_model(best, description, folder)

    first = fabric.is_global_zero
    with (
        Logs(folder, loop.counters.history, enabled=first) as logs,
        Progress(loop.counters.total_steps, loop.counters.step, shown=first) as bar,
    ):
        loop.run(bar, on_best, logs.add)

    if loop.stopped == INTERRUPTED:
        if not is_model_folder(folder):
            on_best(loop.averaged)  # not measured yet, but loadable: an hour's work is not hidden in last/
        fabric.print(f"Stopped at step {loop.counters.step:,}. Continue: dualtoken train {data} --resume {folder}")
        raise KeyboardInterrupt
    if loop.stopped:
        fabric.print(f"Stopped early: {loop.stopped}.")
    fabric.barrier()
    metrics = _finish(folder, images, loop) if fabric.is_global_zero else {}
    return TrainResult(folder, metrics, loop.stopped)


# ---------------------------------------------------------------- before the first step


def _prepare(
    data: str | Path, config: TrainConfig, folder: Path, *, resuming: bool
) -> tuple[Loop, ImageData, ModelConfig]:
    """Find the images, make the model, plan the run and say all of it; nothing is trained yet."""
    if not Path(config.model).is_dir():
        require_known(config.model)  # before the images are looked through
    limits = ImageLimits(max_bytes=config.max_bytes, max_pixels=config.max_pixels)
    images = find_data(
        data, seed=config.seed, val_fraction=config.val_fraction, on_bad_image=config.on_bad_image, limits=limits
    )
    _require_splits(images)
    fabric = _fabric(config)
    fabric.launch()
    fabric.print(images.describe())
    seed_all(config.seed)  # the fresh weights
    model, description = make_network(config, images)
    _require_space(folder, model)
    loop = _loop(config, images, model, description, folder, fabric, limits)
    fabric.print(_describe_model(config, model, description, fabric))
    if resuming:
        loop.restore()
        if loop.counters.fingerprint != images.fingerprint:
            raise DataError(
                f"{images.source!r} holds not the images that this run was trained on.",
                "Give the same data, or start anew: --model RUN --output NEW trains on from its weights.",
            )
        fabric.print(f"{'Continuing':<12}at step {loop.counters.step:,} of {loop.counters.total_steps:,}")
    else:
        loop.counters.fingerprint = images.fingerprint
        _plan(loop, measure(loop))
        resolved = config.model_copy(update={"precision": fabric._precision.precision})  # a resumed run keeps it
        write_text(folder / SETTINGS, _settings_text(resolved))
    return loop, images, description


def _run_folder(output: str | Path | None, resume: str | Path | None) -> Path:
    if resume and output and Path(output) != Path(resume):
        raise ConfigError(
            f"--output is {str(output)!r} but --resume is {str(resume)!r}: a run continues in its own folder.",
            "Leave --output out.",
        )
    target = resume or output
    if target is None:
        raise ConfigError("There is no output folder.", "Type: dualtoken train DATA --output RUN")
    if not resume and (Path(target) / SETTINGS).exists():
        raise OutputError(
            f"{str(target)!r} already holds a run.",
            f"Continue it with --resume {target}, or choose another --output.",
        )
    return writable_folder(target)


def _resumed_config(run: Path, settings: dict[str, Any]) -> TrainConfig:
    path = run / SETTINGS
    if not path.is_file() or not (run / STATE).is_file():
        missing = SETTINGS if not path.is_file() else STATE
        raise ConfigError(
            f"{str(run)!r} is no run to continue: it has no {missing}.", "Start it anew without --resume."
        )
    before = load_recipe(path)
    after = load_recipe(path, settings)
    changed = [key for key in settings if getattr(before, key) != getattr(after, key) and key not in CHANGEABLE]
    if changed:
        raise ConfigError(
            f"A resumed run keeps its settings, but {', '.join(changed)} would change.",
            f"These may change: {', '.join(CHANGEABLE)}. To train on with others: --model {run} --output NEW",
        )
    return after


def _require_space(folder: Path, model: nn.Module) -> None:
    """Find a full disk now and not after the first epoch."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    needed, free = FILES_AS_WEIGHTS * weights, shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{str(folder)!r} has {free / 2**20:.0f} MiB free, but the run will write {needed / 2**20:.0f} MiB.",
            "Choose another place with --output, or make room there.",
        )


def _require_splits(images: ImageData) -> None:
    if "train" not in images.splits or "val" not in images.splits:
        raise DataError(
            f"{images.source!r} has the splits {', '.join(images.splits)}; training needs train and val.",
            "Add a val folder, or let one be split off: --val-fraction 0.1",
        )


def _fabric(config: TrainConfig) -> Fabric:
    device = choose_device(config.device)
    precision = choose_precision(device) if config.precision == "auto" else config.precision
    if precision == "16-mixed" and device.type == "cpu":
        raise ConfigError("precision is '16-mixed', which needs a GPU.", "On a CPU: 32-true or bf16-mixed.")
    devices = [device.index] if device.index is not None and config.devices == 1 else config.devices
    strategy = "ddp" if config.devices > 1 else "auto"
    return Fabric(accelerator=device.type, devices=devices, strategy=strategy, precision=precision)


def _loop(
    config: TrainConfig,
    images: ImageData,
    model: nn.Module,
    description: ModelConfig,
    folder: Path,
    fabric: Fabric,
    limits: ImageLimits,
) -> Loop:
    transform = training_transform(
        description.preprocessing,
        scale=config.scale,
        hflip=config.hflip,
        rand_augment=config.rand_augment,
        color_jitter=config.color_jitter,
        random_erasing=config.random_erasing,
    )
    shared: dict[str, Any] = {"workers": config.workers, "limits": limits, "on_bad_image": config.on_bad_image,
                              "pin_memory": fabric.device.type == "cuda"}  # fmt: skip
    training = training_loader(
        images.splits["train"], transform, batch_size=config.batch_size, seed=config.seed,
        rank=fabric.global_rank, world_size=fabric.world_size, **shared,
    )  # fmt: skip
    validation = evaluation_loader(
        images.splits["val"], description.preprocessing, batch_size=2 * config.batch_size, **shared
    )
    task = TASKS[description.task](
        len(images.classes), label_smoothing=config.label_smoothing, mixup=config.mixup, cutmix=config.cutmix
    )
    return Loop(config, task, model, training, validation, folder, fabric)


def _describe_model(config: TrainConfig, model: nn.Module, description: ModelConfig, fabric: Fabric) -> str:
    height, width = config.image_size
    macs = count_macs(model, config.image_size) / 1e9
    total = count_parameters(model) / 1e6
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    rows = [
        ("Model", f"{description.architecture}, {total:.2f} M parameters ({trained:.2f} M trained),"
                  f" {macs:.3f} G MACs at {height} x {width}"),
        ("Optimiser", f"AdamW, peak rate {config.peak_lr:.2e}, batch {config.batch_size}"
                      + (f" x {config.accumulate} accumulated" if config.accumulate > 1 else "")),
        ("Machine", f"{fabric.device.type}, {fabric.world_size} process(es), {fabric._precision.precision}"),
    ]  # fmt: skip
    return "\n".join(f"{head:<12}{text}" for head, text in rows)


def _plan(loop: Loop, forecast: Forecast) -> None:
    """Say how long the run will take; with a limit of time, shorten it, schedule included."""
    counters, config = loop.counters, loop.config
    per_epoch, accumulate = loop.batches, config.accumulate
    if config.limit_minutes is not None:
        within = forecast.steps_within(config.limit_minutes * 60 * 0.95, per_epoch, accumulate)
        counters.total_steps = min(counters.total_steps, loop.fabric.broadcast(within))
        loop.validation_seconds = forecast.validation_seconds
    epochs = counters.total_steps * accumulate / per_epoch
    seconds = counters.total_steps * accumulate * forecast.batch_seconds + max(1, epochs) * forecast.validation_seconds
    rate = config.batch_size * loop.fabric.world_size / forecast.batch_seconds
    loop.fabric.print(
        f"{'Forecast':<12}{epochs:.1f} epochs, {counters.total_steps:,} steps in {duration(seconds)}"
        f" ({rate:.0f} images/s measured), {forecast.peak_bytes / 2**30:.1f} GiB at the peak\n"
    )


def _settings_text(config: TrainConfig) -> str:
    return "# Settings of this run, as resolved; `--recipe` takes this file.\n" + yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True
    )


# ---------------------------------------------------------------- while it runs, and after


def _finish(folder: Path, images: ImageData, loop: Loop) -> dict[str, Any]:
    """Calibrate the best weights on val, measure them on test (or val), write config and report."""
    from dualtoken.evaluation import evaluation_of, fit_temperature
    from dualtoken.prediction import load
    from dualtoken.report import training_report

    config = loop.config
    limits = ImageLimits(max_bytes=config.max_bytes, max_pixels=config.max_pixels)
    options: dict[str, Any] = {"workers": config.workers, "limits": limits, "on_bad_image": config.on_bad_image}
    predictor = load(folder, device=loop.fabric.device.type)
    validation = predictor.logits(images.splits["val"], **options)
    predictor.config.temperature = fit_temperature(validation.logits, validation.labels)
    split = "test" if "test" in images.splits else "val"
    samples = images.splits[split]
    output = validation if split == "val" else predictor.logits(samples, **options)
    evaluation = evaluation_of(output, predictor, images, samples, seed=config.seed)
    predictor.config.metrics = evaluation.headline()
    write_json(folder / CONFIG, predictor.config.to_json())
    write_json(folder / "evaluation.json", evaluation.to_dict())
    training_report(
        folder, history=loop.counters.history, evaluation=evaluation, data=images, samples=samples,
        provenance=predictor.config.provenance, limits=limits,
    )  # fmt: skip
    loop.fabric.print(f"\nThe best epoch was {loop.counters.best_epoch}. Its averaged weights:\n{evaluation.summary()}")
    return predictor.config.metrics
