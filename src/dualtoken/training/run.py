"""What `dualtoken train` does, top to bottom."""

from __future__ import annotations

import csv
import io
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning_fabric import Fabric
from torch import nn

from dualtoken.backbone import count_macs, count_parameters, create_model
from dualtoken.data import ImageData, evaluation_loader, find_data, training_loader, training_transform
from dualtoken.errors import ConfigError, DataError, OutputError
from dualtoken.files import writable_folder, write_json, write_text
from dualtoken.images import ImageLimits
from dualtoken.model_folder import CONFIG, WEIGHTS, ModelConfig, load_config, load_weights, save_model, versions
from dualtoken.prediction import choose_device
from dualtoken.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from dualtoken.tasks import TASKS
from dualtoken.training.config import TrainConfig
from dualtoken.training.forecast import Forecast, measure
from dualtoken.training.loop import INTERRUPTED, Loop, seed_all
from dualtoken.training.precision import choose_precision
from dualtoken.training.progress import Progress, duration
from dualtoken.training.recipes import load_recipe
from dualtoken.training.state import STATE

SETTINGS = "train.yaml"
HISTORY = "metrics.csv"
CHANGEABLE = ("workers", "limit_minutes", "device", "save_minutes", "early_stop")  # without changing the steps


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
        **settings: fields of `TrainConfig`, on top of the recipe. With `resume` only those that leave the
            steps as they are: workers, limit_minutes, device, save_minutes, early_stop.

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

    with _Logs(folder, enabled=fabric.is_global_zero) as logs:
        for row in loop.counters.history:
            logs.add(row)
        with Progress(loop.counters.total_steps, loop.counters.step, shown=fabric.is_global_zero) as bar:
            loop.run(bar, on_best, logs.add)

    if loop.stopped == INTERRUPTED:
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
    limits = ImageLimits(max_bytes=config.max_bytes, max_pixels=config.max_pixels)
    images = find_data(
        data, seed=config.seed, val_fraction=config.val_fraction, on_bad_image=config.on_bad_image, limits=limits
    )
    _require_splits(images)
    fabric = _fabric(config)
    fabric.launch()
    fabric.print(images.describe())
    seed_all(config.seed)  # the fresh weights
    model, description = _model(config, images)
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
        write_text(folder / SETTINGS, _settings_text(config))
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


def _require_splits(images: ImageData) -> None:
    if "train" not in images.splits or "val" not in images.splits:
        raise DataError(
            f"{images.source!r} has the splits {', '.join(images.splits)}; training needs train and val.",
            "Add a val folder, or let one be split off: --val-fraction 0.1",
        )


def _fabric(config: TrainConfig) -> Fabric:
    device = choose_device(config.device)
    precision = choose_precision(device) if config.precision == "auto" else config.precision
    devices = [device.index] if device.index is not None and config.devices == 1 else config.devices
    strategy = "ddp" if config.devices > 1 else "auto"
    return Fabric(accelerator=device.type, devices=devices, strategy=strategy, precision=precision)


def _model(config: TrainConfig, images: ImageData) -> tuple[nn.Module, ModelConfig]:
    """The network and its description: by name with fresh weights, or from a model folder with its own."""
    known = load_config(config.model) if Path(config.model).is_dir() else None
    architecture = known.architecture if known else config.model
    args = (known.model_args if known else {}) | config.model_args
    model = _with_rates(architecture, config, {"num_classes": len(images.classes), **args})
    if known:
        same = known.classes == images.classes
        load_weights(model, Path(config.model) / WEIGHTS, skip_classifier=not same)
    preprocessing = Preprocessing(
        image_size=config.image_size,
        crop_pct=config.crop_pct,
        interpolation="bicubic",
        mean=known.preprocessing.mean if known else IMAGENET_MEAN,
        std=known.preprocessing.std if known else IMAGENET_STD,
    )
    provenance = {
        "data": {
            "source": Path(images.source).name,
            "fingerprint": images.fingerprint,
            "images": {name: len(samples) for name, samples in images.splits.items()},
            "bad_images": len(images.bad_images),
        },
        "settings": config.model_dump(mode="json"),
        "seed": config.seed,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions(),
        "fine_tuned_from": str(config.model) if known else None,
    }
    return model, ModelConfig(architecture, images.classes, preprocessing, model_args=args, provenance=provenance)


def _with_rates(architecture: str, config: TrainConfig, args: dict[str, Any]) -> nn.Module:
    """Make the model with its regularisation rates; not every model of timm knows all of them."""
    rates = {"drop_path_rate": config.drop_path, "drop_rate": config.drop_rate}
    rates = {name: rate for name, rate in rates.items() if rate > 0}
    try:
        return create_model(architecture, **rates | args)
    except TypeError as error:
        refused = [name for name in rates if f"'{name}'" in str(error)]
        if not refused:
            raise
        print(f"Note        {architecture} has no {refused[0]}: left out")
        return create_model(architecture, **{k: v for k, v in rates.items() if k not in refused} | args)


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
        counters.total_steps = min(counters.total_steps, within)
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


class _Logs:
    """Each epoch's row into metrics.csv, rewritten whole, and TensorBoard."""

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self.folder, self.enabled = folder, enabled
        self.rows: list[dict[str, float]] = []
        self.writer: Any = None

    def __enter__(self) -> _Logs:
        if self.enabled:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer:
            self.writer.close()

    def add(self, row: dict[str, float]) -> None:
        if not self.enabled:
            return
        self.rows.append(row)
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_text(self.folder / HISTORY, text.getvalue())
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, int(row["step"]))


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
