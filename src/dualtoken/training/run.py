"""What `dualtoken train` does, top to bottom."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from lightning_fabric import Fabric
from torch import nn

from dualtoken.answers import CLASSIFIER
from dualtoken.backbone import count_macs, count_parameters
from dualtoken.data import (
    BandFacts,
    EpochSampler,
    ImageData,
    PackedTargets,
    Plan,
    Samples,
    find_data,
    plan_data,
)
from dualtoken.data.dataset import LEFT_OUT, changes, write_left_out, write_manifest
from dualtoken.errors import ConfigError, DataError, OutputError, UserError
from dualtoken.files import alone, atomic_path, explained_place, writable_folder, write_json, write_text
from dualtoken.hub import DEFAULT, find_model
from dualtoken.images import ImageLimits, open_image
from dualtoken.machine import launched, return_memory
from dualtoken.model_folder import CONFIG, ModelConfig, is_model_folder, load_config, save_model
from dualtoken.processes import device_of
from dualtoken.readers import read_text
from dualtoken.tasks import TASKS, Seen, Task, TaskSettings, as_arrays
from dualtoken.training.checks import check_settings
from dualtoken.training.config import TrainConfig
from dualtoken.training.fitting import differences, fitted
from dualtoken.training.folder import FIRST_BATCH, SETTINGS, STATE, has_state, run_folder
from dualtoken.training.forecast import Forecast, measure
from dualtoken.training.frozen import Classifier, begin_solved, feature_batches, fits_memory, solve, whole
from dualtoken.training.logs import Logs
from dualtoken.training.loop import INTERRUPTED, Loop, seed_all, why_it_ends
from dualtoken.training.network import make_network
from dualtoken.training.optimizer import freeze_backbone
from dualtoken.training.processes import as_launched, make_fabric
from dualtoken.training.progress import Progress, duration
from dualtoken.training.recipes import load_recipe, recipe_settings
from dualtoken.training.requirements import crowded, require_space, require_splits, require_truth, require_work
from dualtoken.training.seen_bands import asked_bands, with_fixed_bands
from dualtoken.training.start import starting_point
from dualtoken.training.state import run_counters
from dualtoken.words import counted

SHOWN = 9  # images of the first batch
# On resuming: what does not change what a step does.
CHANGEABLE = ("workers", "limit_minutes", "device", "devices", "nodes", "shard_weights", "save_minutes", "early_stop")
EVALUATION = "evaluation.json"
_HEAD = "# Settings of this run, as resolved; `--recipe` takes this file.\n"
Config = TypeVar("Config", bound=TrainConfig)


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
    recipe: str | Path | None = None,
    resume: str | Path | None = None,
    from_scratch: bool = False,
    **settings: Any,
) -> TrainResult:
    """Train on images with classes, boxes or masks and write a model folder with its report.

    Args:
        data: images and their labels: class folders, a CSV file, COCO, YOLO, VOC or masks; a folder, a file or a zip.
        output: folder of the run, which becomes the model folder. Left out with `resume`: the folder of that run.
        recipe: settings to start from: the name of a recipe or a YAML file. Left out: the usual one of the task.
        from_scratch: start with random weights. Without it, and without a model or recipe, the run starts from the
            weights that come with the package.
        resume: folder of a run to continue where it stopped, with its own settings.
        **settings: fields of `TrainConfig`, on top of the recipe. With `resume` only those that do not
            change what a step does: workers, limit_minutes, device, devices, nodes, shard_weights, save_minutes,
            early_stop.

    Returns:
        The folder, the final metrics and why the run stopped early, if it did.

    Raises:
        UserError: data, settings, model or output cannot be used; the message says why and what to do.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.
    """
    folder = run_folder(output, resume)
    if resume and (recipe is not None or from_scratch):
        name = "from_scratch" if from_scratch else "a recipe"
        raise ConfigError(f"A resumed run keeps its settings: {name} has no effect on it.", "Leave it out.")
    with alone(folder), explained_place(folder):
        with nothing_trained_yet(folder, resuming=resume is not None):
            config, plan = (
                (resumed_config(folder, settings, TrainConfig), None)
                if resume
                else _new_config(data, recipe, settings, from_scratch=from_scratch)
            )
            if resume and (ended := already_finished(folder, config, settings, EVALUATION)):
                return ended
            writable_run(folder, resuming=resume is not None)
            images, limits = _find(plan or data, config)
            del plan
            return_memory()  # before loading processes are made as this one is
            loop, images, model, description = _prepare(
                images, limits, config, folder, settings, resuming=resume is not None
            )
        fabric = loop.fabric

        def save(best: nn.Module) -> None:
            if fabric.is_global_zero:
                save_model(best, description, folder)

        on_best = whole(model, save) if isinstance(loop.bare, Classifier) else save
        if loop.config.solver == "closed":
            with Logs(folder, [], enabled=fabric.is_global_zero) as logs:
                loop.judge(on_best, logs.add)
        else:
            carry_out(loop, on_best, f"dualtoken train {data}")
        fabric.barrier()
        metrics = _finish(folder, images, loop)
        return TrainResult(folder, metrics, loop.stopped)


def carry_out(loop: Loop, on_best: Callable[[nn.Module], None], command: str) -> None:
    """Run a prepared loop with its logs and progress.

    Args:
        loop: the loop.
        on_best: writes a model folder into the loop's folder.
        command: what started the run; it is continued with `--resume` behind it.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the state is saved.
    """
    fabric, folder = loop.fabric, loop.folder
    first = fabric.is_global_zero
    with (
        Logs(folder, loop.counters.history, enabled=first) as logs,
        Progress(loop.counters.total_steps, loop.counters.step, shown=first) as bar,
    ):
        try:
            loop.run(bar, on_best, logs.add)
        except KeyboardInterrupt:  # the second one
            saved = has_state(folder)
            fabric.print(
                f"Ended at once. Continue from the last save: {command} --resume {folder}"
                if saved
                else f"Ended at once: nothing was saved. {folder} can be removed."
            )
            raise
        except UserError as error:
            if has_state(folder) and (fabric.world_size > 1 or isinstance(error, OutputError)):
                error.hint += f" Continue from the last save: {command} --resume {folder}"
            raise
    if first and (bad := dict((*loop.training.bad_images, *loop.validation.bad_images))):
        write_left_out(folder, bad.items())
        many = counted(len(bad), "image")
        fabric.print(f"{many} could not be read meanwhile and are left out: see {folder / LEFT_OUT}")
    if first and loop.config.limit_minutes is not None:
        _note_what_the_clock_chose(loop)
    if loop.stopped == INTERRUPTED:
        averaged = loop.averaged
        if not is_model_folder(folder):
            on_best(averaged)  # not measured yet, but loadable: an hour's work is not hidden in last/
        fabric.print(f"Stopped at step {loop.counters.step:,}. Continue: {command} --resume {folder}")
        if not first and not launched():
            sys.exit()  # whoever started this process would take another code for its failure
        raise loop.interruption
    if loop.stopped:
        fabric.print(f"Stopped early: {loop.stopped}.")


def _note_what_the_clock_chose(loop: Loop) -> None:
    """How far a limit of time let the run come stands in its settings, so that it can be repeated without a clock."""
    steps = loop.counters.step
    note = (
        f"# The limit of time let it take {counted(steps, 'step')}. With limit_minutes=null and steps={steps} a run\n"
        "# takes as many on any machine, and its schedule ends with them.\n"
    )
    text = read_text(loop.folder / SETTINGS)
    kept = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    write_text(loop.folder / SETTINGS, _HEAD + note + "".join(kept))


def writable_run(folder: Path, *, resuming: bool) -> None:
    """Make the folder, or prove that a run can be continued in it; raises `OutputError`."""
    try:
        writable_folder(folder)
    except OutputError as error:
        if resuming:
            error.hint = f"Copy the run to a place that can be written, and continue there: --resume COPY of {folder}"
        raise


def already_finished(
    folder: Path, config: TrainConfig, settings: Mapping[str, Any], last: str, longer: str = ""
) -> TrainResult | None:
    """What a run that has nothing left to do left behind, with a line that says how to go on; None for others.

    Args:
        folder, config: of the run.
        settings: given anew; some may give it more to do.
        last: the file that a run writes last.
        longer: how this run can be made longer, in words.
    """
    state, judged = folder / STATE, folder / last
    if not (state.is_file() and judged.is_file() and state.stat().st_mtime_ns <= judged.stat().st_mtime_ns):
        return None
    metrics = load_config(folder).metrics
    if not metrics or {"limit_minutes", "early_stop"} & set(settings):  # which may give it more to do
        return None
    counters = run_counters(folder)
    if "epochs" in settings and config.epochs > counters.epoch:
        return None
    done = f"{counted(len(counters.history), 'epoch')}, {counted(counters.step, 'step')}"
    print(
        f"{folder} is finished: {done}. Nothing was written.\n"
        f"{longer}To train on from its weights: dualtoken train DATA --model {folder} --output NEW"
    )
    return TrainResult(folder, metrics, why_it_ends(counters, config))


# ---------------------------------------------------------------- before the first step


@contextmanager
def nothing_trained_yet(folder: Path, *, resuming: bool) -> Iterator[None]:
    """What fails or is stopped in this block leaves no empty folder; after Ctrl-C it says that nothing is lost."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # holds something: not ours to remove
            folder.rmdir()
        if isinstance(error, KeyboardInterrupt):
            left = f" {folder} holds {FIRST_BATCH} alone." if (folder / FIRST_BATCH).is_file() else ""
            what = f"{folder} is as it was." if resuming else f"nothing was trained or saved.{left}"
            print(f"\nStopped before the first step: {what}")
        raise


def _prepare(
    images: ImageData,
    limits: ImageLimits,
    config: TrainConfig,
    folder: Path,
    given: Collection[str],
    *,
    resuming: bool,
) -> tuple[Loop, ImageData, nn.Module, ModelConfig]:
    """Make the model, plan the run and say all of it; nothing is trained yet.

    Args:
        given: names of settings that were asked for, and that a recipe must not fit to the run.
    """
    images, bands = with_fixed_bands(config, images, limits)
    fabric = make_fabric(config)
    fabric.launch()
    fabric.print(images.describe())
    require_truth(images)
    if note := crowded(config, images):
        fabric.print(f"{'Note':<12}{note}")

    def build(config: TrainConfig) -> tuple[Loop, nn.Module, ModelConfig, str]:
        loop, task, model, description = _build(config, images, bands, folder, fabric, limits)
        require_space(folder, model)
        return loop, model, description, describe_model(config, task, model, description, fabric)

    loop, model, description, words = build(config)
    if config.adapt and config.freeze == "none" and not resuming:
        wanted = _fitted(loop, images, given)
        if wanted != config:
            loop, model, description, words = build(wanted)
            fabric.print(f"{'Recipe':<12}fitted to the run: {differences(config, wanted)}")
        config = wanted
    fabric.print(words)
    if config.solver == "both" and not resuming:
        _begin_solved(loop, images, description, limits)
    if resuming:
        loop.restore()
        if loop.counters.fingerprint != images.fingerprint or loop.counters.content not in ("", images.content()):
            other = changes(folder, images)
            raise DataError(
                f"{images.source!r} holds not the images that this run was trained on. {other}".strip(),
                "Give the same data, or start anew: --model RUN --output NEW trains on from its weights.",
            )
        fabric.print(f"{'Continuing':<12}at step {loop.counters.step:,} of {loop.counters.total_steps:,}")
    else:
        loop.counters.fingerprint, loop.counters.content = images.fingerprint, images.content()
        if TASKS[config.task].heads and fabric.is_global_zero:
            _draw_first_batch(loop, description)
        if config.solver != "closed":
            say_plan(loop, measure(loop))
        resolved = config.model_copy(update={"precision": fabric._precision.precision})  # a resumed run keeps it
        write_text(folder / SETTINGS, settings_text(resolved))
        if fabric.is_global_zero:
            write_manifest(folder, images)
        write_left_out(folder, images.bad_images, images.bad_labels)
    return loop, images, model, description


def rehearsed(
    data: str | Path, *, recipe: str | Path | None = None, from_scratch: bool = False, **settings: Any
) -> Loop:
    """The loop that `train` would run with these arguments: nothing is trained, and nothing written.

    Raises:
        UserError: data, settings or model cannot be used.
    """
    config, plan = _new_config(data, recipe, settings, from_scratch=from_scratch)
    images, limits = _find(plan, config)
    images, bands = with_fixed_bands(config, images, limits)
    require_truth(images)
    fabric = make_fabric(config)
    fabric.launch()
    nowhere = Path(os.devnull)  # a loop writes only as it runs
    loop, *_ = _build(config, images, bands, nowhere, fabric, limits)
    if config.adapt and config.freeze == "none" and (wanted := _fitted(loop, images, settings)) != config:
        loop, *_ = _build(wanted, images, bands, nowhere, fabric, limits)
    return loop


def _find(data: str | Path | Plan, config: TrainConfig) -> tuple[ImageData, ImageLimits]:
    """The images that a run asks for, and what one may cost."""
    limits = ImageLimits(max_bytes=config.max_bytes, max_pixels=config.max_pixels)
    images = find_data(
        data, task=config.task, labels=config.labels, seed=config.seed, val_fraction=config.val_fraction,
        on_bad_image=config.on_bad_image, on_bad_label=config.on_bad_label, limits=limits, most=config.images_per_split,
        bands=asked_bands(config),
    )  # fmt: skip
    require_splits(images)
    require_work(config, images)
    return replace(images, redraw=None), limits  # what it would be drawn from takes more memory than the images' names


def _build(
    config: TrainConfig, images: ImageData, bands: BandFacts | None, folder: Path, fabric: Fabric, limits: ImageLimits
) -> tuple[Loop, Task, nn.Module, ModelConfig]:
    seed_all(config.seed)  # the fresh weights
    task = make_task(config, images)
    model, description = make_network(config, task, images, bands)
    return _loop(config, task, images, model, description, folder, fabric, limits), task, model, description


def _fitted(loop: Loop, images: ImageData, given: Collection[str]) -> TrainConfig:
    """The settings for as many passes as there are to be, or as a limit of time leaves room for."""
    config, steps = loop.config, loop.counters.total_steps
    if config.limit_minutes is not None:
        within = measure(loop).steps_within(
            config.limit_minutes * 60 * 0.95, loop.batches * config.validate_every, config.accumulate
        )
        steps = min(steps, loop.fabric.broadcast(within))
    wanted = fitted(config, len(images.splits["train"]), steps / loop.steps_per_epoch, given)
    return wanted.model_copy(update={"adapt": False})  # what was chosen stays, also when the run continues


def _new_config(
    data: str | Path, recipe: str | Path | None, settings: dict[str, Any], *, from_scratch: bool = False
) -> tuple[TrainConfig, Plan]:
    """The settings of a new run, with its task: as given, or as the labels say; and what these say, read once."""

    def resolved(task: str, settings: dict[str, Any]) -> TrainConfig:
        fresh, tuned = TASKS[task].recipe, TASKS[task].tuned or TASKS[task].recipe
        start = starting_point(recipe, settings, fresh=fresh, tuned=tuned, from_scratch=from_scratch)
        return as_launched(load_recipe(*start))

    given = resolved(CLASSIFIER, settings)
    check_settings(given)
    plan = plan_data(data, task=given.task, labels=given.labels)
    task = plan.task
    useless = sorted(TASKS[task].unused & set(settings))
    if useless:
        raise ConfigError(f"{', '.join(useless)} has no effect for {task.replace('_', ' ')}.", "Leave it out.")
    config = resolved(task, settings | {"task": task})
    if config.loss not in (losses := TASKS[task].losses):
        raise ConfigError(f"loss is {config.loss!r}, but the task is {task}.", f"It has {', '.join(losses)}.")
    return config, plan


def make_task(config: TrainConfig, images: ImageData) -> Task:
    """The task of a run, with its classes and settings."""
    settings = TaskSettings(**{field.name: getattr(config, field.name) for field in fields(TaskSettings)})
    train = images.splits["train"]
    seen = Seen(train.counts(len(images.classes)), len(train)) if isinstance(train, Samples) else None
    return TASKS[config.task](images.classes, settings, seen)


def resumed_config(
    run: Path, settings: dict[str, Any], kind: type[Config], changeable: Sequence[str] = CHANGEABLE
) -> Config:
    """The settings of a run that is continued, with those of `changeable` that are given anew."""
    path = run / SETTINGS
    if not path.is_file() or not has_state(run):
        missing = SETTINGS if not path.is_file() else STATE
        raise ConfigError(
            f"{str(run)!r} is no run to continue: it has no {missing}.",
            "Start one in a new folder: dualtoken train DATA --output NEW",
        )
    kept = recipe_settings(path)
    before, after = kind.from_settings(kept), kind.from_settings(kept | settings)
    if before.task == "auto":  # a run from before there were other tasks
        after = after.model_copy(update={"task": CLASSIFIER})
    changed = [key for key in settings if getattr(before, key) != getattr(after, key) and key not in changeable]
    if changed:
        raise ConfigError(
            f"A resumed run keeps its settings, but {', '.join(changed)} would change.",
            f"These may change: {', '.join(changeable)}. To train on with others: --model {run} --output NEW",
        )
    return _same_batch(before, as_launched(after))


def _same_batch(before: Config, after: Config) -> Config:
    """Other processes than before share the same batch, so that each step is still the same."""
    whole, processes = before.batch_size * before.devices * before.nodes, after.devices * after.nodes
    if whole % processes:
        raise ConfigError(
            f"A batch of {whole} cannot be shared by {processes} processes.",
            "Continue with a number of processes that divides it.",
        )
    return after.model_copy(update={"batch_size": whole // processes})


def _loop(
    config: TrainConfig,
    task: Task,
    images: ImageData,
    model: nn.Module,
    description: ModelConfig,
    folder: Path,
    fabric: Fabric,
    limits: ImageLimits,
) -> Loop:
    shared: dict[str, Any] = {"workers": config.workers, "limits": limits, "on_bad_image": config.on_bad_image,
                              "pin_memory": fabric.device.type == "cuda"}  # fmt: skip
    resident = {"resident_on": fabric.device} if config.resident and "resident" not in task.unused else {}
    training = task.training_loader(
        images.splits["train"], description.preprocessing, batch_size=config.batch_size, seed=config.seed,
        rank=fabric.global_rank, world_size=fabric.world_size, **shared, **resident,
    )  # fmt: skip
    validation = task.evaluation_loader(
        images.splits["val"], description.preprocessing, batch_size=2 * config.batch_size,
        rank=fabric.global_rank, world_size=fabric.world_size, **shared,
    )  # fmt: skip
    if not _features_are_enough(config, task, model, len(images.splits["train"])):
        return Loop(config, task, model, description.preprocessing, training, validation, folder, fabric)
    central = task.evaluation_loader(
        images.splits["train"], description.preprocessing, batch_size=2 * config.batch_size, **shared
    )
    freeze_backbone(model)
    learned, judged = feature_batches(
        model.to(fabric.device), training, validation, central, epochs=config.epochs, seed=config.seed
    )
    layer = copy.deepcopy(cast(Any, model).get_classifier())
    if config.solver == "closed":
        fabric.print(f"{'Classifier':<12}{solve(layer, learned, len(images.classes))}")
    return Loop(config, task, Classifier(layer), description.preprocessing, learned, judged, folder, fabric)


def _begin_solved(loop: Loop, images: ImageData, description: ModelConfig, limits: ImageLimits) -> None:
    """Let a fresh linear classifier begin where the closed form ends; other ones begin as they are."""
    config, task, model = loop.config, cast(Task, loop.task), loop.whole or loop.bare
    layer = cast(Any, model).get_classifier() if hasattr(model, "get_classifier") else None
    linear = isinstance(layer, nn.Linear) and not isinstance(model, Classifier)  # which has no images
    if not linear or task.heads or not task.kind.exclusive or _knows(config, task, images):
        return
    central = task.evaluation_loader(
        images.splits["train"], description.preprocessing, batch_size=2 * config.batch_size, workers=config.workers,
        limits=limits, on_bad_image=config.on_bad_image,
    )  # fmt: skip
    loop.fabric.print(f"{'Classifier':<12}{begin_solved(model, central, len(images.classes), config.seed)}")
    loop.begin_with(model.state_dict())


def _knows(config: TrainConfig, task: Task, images: ImageData) -> bool:
    """Whether the model that the run starts from has these classes already."""
    folder = find_model(config.model)
    known = load_config(folder) if folder.is_dir() else None
    return known is not None and (known.task, known.classes) == (task.name, images.classes)


def _features_are_enough(config: TrainConfig, task: Task, model: nn.Module, images: int) -> bool:
    """Whether the classifier of a frozen backbone can learn from features computed once.

    Raises:
        ConfigError: a closed form is wanted where there is none.
    """
    last = cast(Any, model).get_classifier() if hasattr(model, "get_classifier") else None
    enough = (
        config.freeze == "backbone"
        and not (task.heads or config.mixup or config.cutmix or config.resident)
        and isinstance(last, nn.Linear)
        and fits_memory(images, last.in_features)
    )
    plain = (config.loss, config.class_weights, config.sampling) == ("cross_entropy", "none", "shuffled")
    if config.solver == "closed" and not (enough and plain and task.kind.exclusive):
        raise ConfigError(
            "solver is 'closed', which needs one class an image, a frozen backbone with a linear classifier, no mixing,"
            " nothing for rare classes, and few enough images for their features to stay in memory.",
            "Type: --set solver=steps, or for classes --recipe probe",
        )
    return enough


def describe_model(config: TrainConfig, task: Task, model: nn.Module, description: ModelConfig, fabric: Fabric) -> str:
    height, width = config.image_size
    macs = count_macs(task.dense(model), config.image_size, len(description.preprocessing.mean)) / 1e9
    total = count_parameters(model) / 1e6
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    name = f"{description.head} on {description.architecture}" if description.head else description.architecture
    start = description.provenance["fine_tuned_from"]
    random = ", which comes with the package; random weights: --from-scratch" if start == DEFAULT else ""
    rows = [
        ("Task", config.task.replace("_", " ")),
        *([("Start", f"{start}{random}")] if start else []),
        ("Model", f"{name}, {total:.2f} M parameters ({trained:.2f} M trained),"
                  f" {macs:.3f} G MACs at {height} x {width}"),
        ("Optimiser", f"AdamW, peak rate {config.peak_lr:.2e}, batch {config.batch_size}"
                      + (f" x {config.accumulate} accumulated" if config.accumulate > 1 else "")),
        ("Machine", f"{fabric.device.type}, {counted(fabric.world_size, 'process', 'processes')},"
                    f" {fabric._precision.precision}"),
    ]  # fmt: skip
    return "\n".join(f"{head:<12}{text}" for head, text in rows)


def _draw_first_batch(loop: Loop, description: ModelConfig) -> None:
    """A picture of what the network will see: wrong boxes and masks are found in a moment by looking."""
    from dualtoken.report import batch_mosaic

    dataset, preprocessing = cast(Any, loop.training.dataset), description.preprocessing
    draws = next(iter(cast(EpochSampler, loop.training.batch_sampler)))
    batch = dataset.__getitems__(draws[:SHOWN])
    targets = as_arrays(batch.targets.unpacked() if isinstance(batch.targets, PackedTargets) else batch.targets)
    if len(batch.images):
        picture = batch_mosaic(batch.images.numpy(), targets, description.classes, preprocessing)
        with atomic_path(loop.folder / FIRST_BATCH) as temporary:
            picture.save(temporary, "JPEG", quality=90)
        loop.fabric.print(f"{'First batch':<12}{loop.folder / FIRST_BATCH}: look whether the labels fit the images")


def say_plan(loop: Loop, forecast: Forecast) -> None:
    """Say how long the run will take; with a limit of time, shorten it, schedule included."""
    counters, config = loop.counters, loop.config
    per_epoch, accumulate = loop.batches, config.accumulate
    if config.limit_minutes is not None:
        between = per_epoch * config.validate_every
        within = forecast.steps_within(config.limit_minutes * 60 * 0.95, between, accumulate)
        counters.total_steps = min(counters.total_steps, loop.fabric.broadcast(within))
        loop.validation_seconds = forecast.validation_seconds
    epochs = counters.total_steps * accumulate / per_epoch
    validations = max(1, epochs / config.validate_every)
    seconds = counters.total_steps * accumulate * forecast.batch_seconds + validations * forecast.validation_seconds
    rate = config.batch_size * loop.fabric.world_size / forecast.batch_seconds
    loop.fabric.print(
        f"{'Forecast':<12}{epochs:.1f} epochs, {counted(counters.total_steps, 'step')} in {duration(seconds)}"
        f" ({rate:.0f} images/s measured), {forecast.peak_bytes / 2**30:.1f} GiB at the peak\n"
    )


def settings_text(config: TrainConfig) -> str:
    return _HEAD + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


# ---------------------------------------------------------------- while it runs, and after


def _finish(folder: Path, images: ImageData, loop: Loop) -> dict[str, Any]:
    """Fit on val what the answers need, measure the best weights on test (or val), write config and report.

    Each process measures its share of the images, and all know the figures of all; the first one writes.
    """
    from dualtoken.evaluation import evaluation_of, measure
    from dualtoken.evaluation.reports import write_training_report
    from dualtoken.prediction import load

    config, predictor = loop.config, load(folder, device=device_of(loop.fabric))
    limits = ImageLimits(max_bytes=config.max_bytes, max_pixels=config.max_pixels)
    options: dict[str, Any] = {"workers": config.workers, "limits": limits, "on_bad_image": config.on_bad_image,
                               "group": loop.group}  # fmt: skip
    if loop.fabric.device.type != "cpu":
        options["batch_size"] = 2 * config.batch_size  # without gradients it takes no more memory
    validation, samples = images.splits["val"], images.splits["test" if "test" in images.splits else "val"]
    meter, bad = measure(predictor, validation, **options)
    for name, value in meter.fit().items():
        setattr(predictor.config, name, value)
    if samples is not validation:
        meter, bad = measure(predictor, samples, **options)
    evaluation = evaluation_of(meter, predictor, images, samples, bad_images=bad, seed=config.seed)
    predictor.config.metrics = evaluation.headline()
    if not loop.group.first:
        return predictor.config.metrics
    write_json(folder / CONFIG, predictor.config.to_json())
    batch = folder / FIRST_BATCH
    drawn = TASKS[config.task].heads and batch.is_file()  # and not left by another run
    write_training_report(
        folder, evaluation, samples, history=loop.counters.history, data=images, answer=predictor.predict,
        batches=[open_image(batch)] if drawn else [], provenance=predictor.config.provenance, limits=limits,
    )  # fmt: skip
    write_json(folder / EVALUATION, evaluation.to_dict())
    best = f"The best epoch was {loop.counters.best_epoch}. Its averaged weights:"
    found = best if config.solver != "closed" else "The classifier in closed form:"
    loop.fabric.print(f"\n{found}\n{evaluation.summary()}")
    return predictor.config.metrics
