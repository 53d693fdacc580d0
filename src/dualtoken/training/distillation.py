"""What `dualtoken distill` does, top to bottom: a small network learns from large ones, labels or not."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lightning_fabric import Fabric
from pydantic import Field
from timm.data import Mixup
from torch import nn

from dualtoken.answers import CLASSIFIER
from dualtoken.data import ImageData, find_data
from dualtoken.data.dataset import write_left_out
from dualtoken.data.loading import ImageLoader
from dualtoken.errors import ConfigError, DataError
from dualtoken.files import alone, explained_place, write_json, write_text
from dualtoken.images import ImageLimits
from dualtoken.model_folder import CONFIG, ModelConfig, load_config, read_weights, save_model, write_tensors
from dualtoken.tasks.classification import ClassificationTask
from dualtoken.training.checks import check_settings
from dualtoken.training.config import TrainConfig
from dualtoken.training.folder import SETTINGS, run_folder
from dualtoken.training.forecast import measure
from dualtoken.training.loop import Loop, seed_all
from dualtoken.training.network import make_network
from dualtoken.training.pool import CENTRE, Pool, PoolSampler, Views, find_pool
from dualtoken.training.probe import Probe
from dualtoken.training.processes import as_launched, make_fabric
from dualtoken.training.recipes import recipe_settings
from dualtoken.training.requirements import require_space
from dualtoken.training.run import (
    CHANGEABLE,
    TrainResult,
    already_finished,
    carry_out,
    describe_model,
    nothing_trained_yet,
    resumed_config,
    say_plan,
    settings_text,
    writable_run,
)
from dualtoken.training.student import LossWeights, Student, Teaching, shared_levels, student_of
from dualtoken.training.taught import Kept, TaughtLoader, crop_digest
from dualtoken.training.teachers import Teacher, open_teacher, shared_classes
from dualtoken.words import counted

STANDARDS = "teachers.safetensors"  # mean and standard deviation of their features
MEASURED = 2048  # images for these
VIEWS = 4  # of each image, where they are kept
MAPS = 3.0  # weight of their loss where there are some: they teach more than all the rest (docs/distill.md)
USELESS = frozenset(
    ("head", "head_args", "freeze", "labels", "zoom", "mosaic", "copy_paste", "dice", "resident", "rand_augment",
     "random_erasing", "val_fraction", "images_per_split", "label_smoothing", "task",
     "channels", "pages", "window", "percentiles")
)  # fmt: skip


class DistillConfig(TrainConfig):
    """Settings of `dualtoken distill`: those of `dualtoken train` that have a meaning here, and these."""

    images: tuple[str, ...] = ()
    """Folders, zip archives or CSV files to learn from."""
    image_weights: tuple[float, ...] = ()
    """How often images of each source come, as shares; none takes the numbers of images."""
    teachers: tuple[str, ...] = ()
    """Model folders, ONNX or OpenVINO files, `hf-hub:USER/NAME` or names of timm's registry; several are averaged."""
    teacher_size: int | None = Field(None, ge=32)
    """Side of the teachers' input in pixels; none takes their own."""
    teacher_mean: tuple[float, float, float] | None = None
    """Mean of the teachers' input, for pixels from 0 to 1; none takes what they say of themselves."""
    teacher_std: tuple[float, float, float] | None = None
    """Standard deviation of the teachers' input, likewise."""
    soft_labels: float = Field(0.5, ge=0)
    """Weight of the cross-entropy to the teachers' probabilities."""
    features: float = Field(2.0, ge=0)
    """Weight of the cosine to the teachers' pooled features."""
    maps: float | None = Field(None, ge=0)
    """Weight of the cosine to the teachers' maps of features, on the way and before they are pooled; none takes 3
    where student and teachers have maps, else 0.
    """
    hard_labels: float = Field(0.0, ge=0)
    """Weight of the cross-entropy to the labels, in a classifier for each labelled source."""
    temperature: float = Field(1.0, gt=0)
    """The teachers' logits are divided by it."""
    views: int | None = Field(None, ge=0)
    """Fixed crops of each image, about which teachers are asked once; 0 for new crops each time, none to choose."""
    view_size: int = Field(128, ge=32)
    """Side of a crop in pixels, from which teachers and student take their own sizes."""
    grow: dict[int, int] = Field(default_factory=dict)
    """Side of the student's input from an epoch on, such as `{0: 64, 20: 96}`; none for `image_size` always."""
    images_per_epoch: int | None = Field(None, ge=1)
    """Images from one validation to the next; none takes all once."""
    held_out: int = Field(1000, ge=2)
    """Images that are kept out, to measure how well the student agrees with the teachers."""
    probe: str | None = None
    """A labelled data set on which the features are judged, by nearest neighbours and a linear classifier."""
    probe_every: int = Field(1, ge=1)
    """Epochs between two such looks."""
    cache: str | None = None
    """Folder for what the teachers said; none takes one in the run's own."""

    @property
    def sizes(self) -> list[int]:
        """The side of the student's input in each epoch."""
        starts = {0: max(self.image_size)} | self.grow
        return [starts[max(start for start in starts if start <= epoch)] for epoch in range(self.epochs)]

    @property
    def loss_weights(self) -> LossWeights:
        """Of the three losses."""
        return LossWeights(self.soft_labels, self.features, self.maps or 0.0, self.hard_labels)


def distill(
    images: Sequence[str | Path] = (),
    teachers: Sequence[str | Path] = (),
    output: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    resume: str | Path | None = None,
    **settings: Any,
) -> TrainResult:
    """Train a small network to see as larger ones do, and write it as a model folder.

    Args:
        images: folders, zip archives or CSV files of images, with or without labels.
        teachers: model folders, ONNX or OpenVINO files, `hf-hub:USER/NAME`, or names of timm's registry.
        output: folder of the run, which becomes the model folder.
        recipe: name of a recipe or a YAML file. Left out: `distill`.
        resume: folder of a run to continue in place; images and teachers are then its own.
        **settings: fields of `DistillConfig`, on top of the recipe.

    Returns:
        The folder, its metrics and why the run stopped early, if it did.

    Raises:
        UserError: images, teachers, settings or output cannot be used.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.
    """
    folder = run_folder(output, resume)
    with alone(folder), explained_place(folder):
        with nothing_trained_yet(folder, resuming=resume is not None):
            config = _resumed(Path(resume), settings) if resume else _new(images, teachers, recipe, settings)
            if resume and (ended := already_finished(folder, config, settings, CONFIG, _longer(config, folder))):
                return ended
            writable_run(folder, resuming=resume is not None)
            loop, description = _prepare(config, folder, resuming=resume is not None)

        def on_best(best: nn.Module) -> None:
            if loop.fabric.is_global_zero:
                save_model(cast(Student, best).backbone, description, folder)

        try:
            carry_out(loop, on_best, "dualtoken distill")
        finally:
            if loop.fabric.is_global_zero:
                _write_report(folder, description, loop.counters.history)
        loop.fabric.barrier()
        metrics = _finish(folder, loop) if loop.fabric.is_global_zero else {}
        return TrainResult(folder, metrics, loop.stopped)


def _longer(config: DistillConfig, folder: Path) -> str:
    """How a finished run goes on: only a constant rate does not know its end."""
    more = f"--resume {folder} --epochs {2 * config.epochs}"
    return f"To make it longer: dualtoken distill {more}\n" if config.schedule == "constant" else ""


def _new(
    images: Sequence[str | Path], teachers: Sequence[str | Path], recipe: str | Path | None, settings: dict[str, Any]
) -> DistillConfig:
    useless = sorted(USELESS & set(settings))
    if useless:
        raise ConfigError(f"{', '.join(useless)} has no effect on a distillation.", "Leave it out.")
    given = {"images": tuple(map(str, images)), "teachers": tuple(map(str, teachers)), "task": CLASSIFIER}
    named = {key: value for key, value in given.items() if value}
    config = as_launched(DistillConfig.from_settings(recipe_settings(recipe or "distill") | settings | named))
    check_settings(config)
    _check(config)
    return config


def _check(config: DistillConfig) -> None:
    """What can be wrong in the settings is said before anything is opened."""
    usage = "Type: dualtoken distill IMAGES --teacher TEACHER --output RUN"
    if not config.images:
        raise ConfigError("There are no images to learn from.", usage)
    if not config.teachers:
        raise ConfigError("There is no teacher.", usage)
    if config.maps == 0 and not any(vars(config.loss_weights).values()):
        raise ConfigError("soft_labels, features, maps and hard_labels are all 0: nothing would be learned.")
    if config.image_weights and len(config.image_weights) != len(config.images):
        raise ConfigError(
            f"image_weights has {counted(len(config.image_weights), 'number')}, but there are"
            f" {counted(len(config.images), 'source')} of images."
        )
    if (config.mixup or config.cutmix) and config.views:
        raise ConfigError(
            f"views is {config.views}, but mixed images are new each time.", "Type: --set views=0, or leave mixing out."
        )
    if config.grow and config.limit_minutes is not None:
        raise ConfigError("grow names epochs, which limit_minutes would move.", "Give one of them.")
    largest = max(config.sizes)
    if largest > config.view_size:
        raise ConfigError(
            f"The student's input of {largest} pixels is larger than a crop of {config.view_size}.",
            f"Type: --set view_size={largest}",
        )


def _resumed(run: Path, settings: dict[str, Any]) -> DistillConfig:
    changeable = (*CHANGEABLE, "cache", "probe", "probe_every", "epochs", "cooldown", "grow", "min_lr")
    config = resumed_config(run, settings, DistillConfig, changeable)
    if "epochs" in settings and config.schedule != "constant":
        raise ConfigError(
            "epochs can only change with the constant schedule: the cosine of this run knows its end.",
            f"To train on from its weights: --model {run} --output NEW",
        )
    return config


def _prepare(config: DistillConfig, folder: Path, *, resuming: bool) -> tuple[Loop, ModelConfig]:
    limits = ImageLimits(max_bytes=config.max_bytes, max_pixels=config.max_pixels)
    fabric = make_fabric(config)
    fabric.launch()
    teachers = [
        open_teacher(name, size=config.teacher_size, mean=config.teacher_mean, std=config.teacher_std,
                     device=fabric.device)
        for name in config.teachers
    ]  # fmt: skip
    classes = shared_classes(teachers) if config.soft_labels else ()
    pool = find_pool(config.images, limits=limits)
    for one in pool.sets:
        fabric.print(f"{'Images':<12}{one.describe()}")
    for teacher in teachers:
        fabric.print(f"{'Teacher':<12}{teacher.name}: {_describe_teacher(teacher)}")

    seed_all(config.seed)  # the fresh weights
    task = ClassificationTask(classes or ("nothing",))
    data = ImageData(", ".join(config.images), task.classes, {}, _fingerprint(pool), layout="images to distill on")
    backbone, description = make_network(config, task, data)
    if config.maps is None:
        config = config.model_copy(update={"maps": MAPS if shared_levels(backbone, teachers) else 0.0})
    pool.divide(config.held_out, config.seed)  # refused before anything is said
    config = config.model_copy(update={"views": _choose_views(config, pool, teachers)})  # a resumed run keeps both
    description.provenance["teachers"] = [{"name": Path(one.name).name, "key": one.key[:16]} for one in teachers]
    description.provenance["data"]["sets"] = [
        replace(one, source=Path(one.source).name).describe() for one in pool.sets
    ]
    names = [f"labels.{number}" if one.classes and config.hard_labels else None for number, one in enumerate(pool.sets)]
    counts = {name: len(one.classes) for name, one in zip(names, pool.sets, strict=True) if name}
    student = student_of(backbone, teachers, counts, maps=config.loss_weights.maps > 0)
    require_space(folder, student)
    training, validation = _loaders(config, pool, teachers, description, folder, limits, fabric)
    probe = _probe(config, description, limits)
    loop = DistillLoop(config, Teaching(config.loss_weights, names), student, description, training, validation, folder,
                       fabric, probe)  # fmt: skip
    fabric.print(describe_model(config, task, backbone, description, fabric))
    if resuming:
        loop.restore()
        if loop.counters.fingerprint != data.fingerprint:
            raise DataError(f"{data.source!r} holds not the images that this run learns from.", "Give the same images.")
        loop.counters.total_steps = loop.most_steps
        training.standards = validation.standards = read_weights(folder / STANDARDS)
        fabric.print(f"{'Continuing':<12}at step {loop.counters.step:,} of {loop.counters.total_steps:,}")
        return loop, description
    loop.counters.fingerprint = data.fingerprint
    write_left_out(folder, [bad for one in pool.sets for bad in one.bad_images])
    training.standardise(MEASURED, fabric)
    validation.standards = training.standards
    if fabric.is_global_zero:
        write_tensors(folder / STANDARDS, training.standards, {})
    say_plan(loop, measure(loop))
    resolved = config.model_copy(update={"precision": fabric._precision.precision})
    write_text(folder / SETTINGS, settings_text(resolved))
    return loop, description


def _describe_teacher(teacher: Teacher) -> str:
    knows = counted(len(teacher.classes), "class", "classes") if teacher.classes else "no classes"
    return f"{knows}, {counted(teacher.width, 'feature')}"


def _fingerprint(pool: Pool) -> str:
    return crop_digest([one.fingerprint for one in pool.sets])


def _loaders(
    config: DistillConfig, pool: Pool, teachers: Sequence[Teacher], description: ModelConfig, folder: Path,
    limits: ImageLimits, fabric: Fabric,
) -> tuple[TaughtLoader, TaughtLoader]:  # fmt: skip
    """Batches to learn from, and of the held-out images: those of this process."""
    learned, held_out = pool.divide(config.held_out, config.seed)
    images = config.images_per_epoch or sum(map(len, learned))
    views, maps = config.views or 0, config.loss_weights.maps > 0
    weights = config.image_weights or [len(rows) for rows in learned]
    rank, world = fabric.global_rank, fabric.world_size
    sampler = PoolSampler(learned, weights, images=images, batch_size=config.batch_size, views=views, seed=config.seed,
                          rank=rank, world_size=world)  # fmt: skip
    crops: dict[str, Any] = {
        "size": config.view_size,
        "scale": config.scale,
        "hflip": config.hflip,
        "color_jitter": config.color_jitter,
    }
    about = crop_digest([one.fingerprint for one in pool.sets], views=views, seed=config.seed, **crops)
    cache = Path(config.cache) if config.cache else folder / "cache"
    central = crop_digest([one.fingerprint for one in pool.sets], size=config.view_size, seed="centre")
    with fabric.rank_zero_first():  # makes the files that the others open
        asked = teachers if views else ()
        kept = [Kept(cache, teacher, len(pool) * views, about, maps=maps) for teacher in asked]
        kept_central = [Kept(cache, teacher, len(pool), central, maps=maps) for teacher in asked]

    options: dict[str, Any] = {"on_bad_image": "skip", "workers": config.workers}
    training = ImageLoader(Views(pool, views=views, limits=limits, **crops), batch_sampler=sampler,
                           persistent_workers=True, **options)  # fmt: skip
    draws = [(int(row), CENTRE) for row in held_out][rank::world]
    fixed = [draws[first : first + config.batch_size] for first in range(0, len(draws), config.batch_size)]
    validation = ImageLoader(Views(pool, config.view_size, limits=limits), batch_sampler=fixed, **options)
    mixer = Mixup(config.mixup, config.cutmix, num_classes=1) if config.mixup or config.cutmix else None
    shared: dict[str, Any] = {
        "mean": description.preprocessing.mean, "std": description.preprocessing.std, "temperature": config.temperature,
        "batch_size": config.batch_size, "maps": maps,
    }  # fmt: skip
    return (
        TaughtLoader(training, teachers, kept, sizes=config.sizes, mixer=mixer, **shared),
        TaughtLoader(validation, teachers, kept_central, sizes=config.sizes, **shared),
    )


def _choose_views(config: DistillConfig, pool: Pool, teachers: Sequence[Teacher]) -> int:
    """How many crops of each image there are, and said: kept ones where each would come again and the disk has room."""
    if config.views is not None:
        return config.views
    images = config.images_per_epoch or len(pool) - config.held_out
    passes = config.epochs * images / len(pool)
    needed = Kept.bytes_needed(teachers, VIEWS * len(pool), maps=config.loss_weights.maps > 0)
    place = Path(config.cache) if config.cache else Path()
    free = shutil.disk_usage(place if place.is_dir() else Path()).free
    mixed = config.mixup or config.cutmix
    views = VIEWS if not mixed and passes > VIEWS and needed < free / 2 else 0
    said = (
        f"each of {VIEWS} crops an image is shown to the teachers once and kept ({needed / 2**30:.1f} GiB at most)"
        if views
        else "the teachers look at new crops each time"
    )
    print(f"{'Teaching':<12}{passes:.1f} passes: {said}")
    return views


def _probe(config: DistillConfig, description: ModelConfig, limits: ImageLimits) -> Probe | None:
    if config.probe is None:
        return None
    data = find_data(config.probe, task=CLASSIFIER, seed=0, val_fraction=0.2, on_bad_image="skip", limits=limits)
    return Probe(data, description.preprocessing, workers=config.workers, limits=limits, on_bad_image="skip")


class DistillLoop(Loop):
    """The training loop, which asks a probe now and then when it validates."""

    def __init__(self, config: DistillConfig, task: Teaching, model: Student, description: ModelConfig,
                 training: TaughtLoader, validation: TaughtLoader, folder: Path, fabric: Any, probe: Probe | None,
                 ) -> None:  # fmt: skip
        super().__init__(config, task, model, description.preprocessing, training, validation, folder, fabric)
        self.probe, self.probe_every = probe, config.probe_every

    def _measure(self) -> dict[str, float]:
        self.validation.set_epoch(self.counters.epoch)  # at the size that is trained at
        figures = super()._measure()
        epochs = self.counters.epoch + 1
        if self.probe is not None and (epochs % self.probe_every == 0 or epochs == self.config.epochs):
            size = cast(DistillConfig, self.config).sizes[self.counters.epoch]
            found = self.probe.figures(cast(Student, self.averaged).backbone, size)
            figures |= {f"probe_{name}": value for name, value in found.items()}
        return figures


def _write_report(folder: Path, description: ModelConfig, history: Sequence[Mapping[str, float]]) -> None:
    """One page: what was learned from what, how it went so far."""
    from dualtoken.report.page import Section, table, training_section, write_page

    about = description.provenance
    rows = [
        *(["teacher", one["name"]] for one in about["teachers"]),
        *(["images", one] for one in about["data"]["sets"]),
    ]
    write_page(folder, "Distillation report", None, [Section("", [table(["", "learned from"], rows, names=2)]),
               training_section(history)], about)  # fmt: skip


def _finish(folder: Path, loop: Loop) -> dict[str, Any]:
    """Write what was measured last into the model's config."""
    config = load_config(folder)
    best = loop.counters.history[loop.counters.best_epoch - 1] if loop.counters.history else {}
    config.metrics = {name: value for name, value in best.items() if math.isfinite(value)}
    write_json(folder / CONFIG, config.to_json())
    shown = ", ".join(f"{name.removeprefix('val_')} {value:.4g}" for name, value in best.items() if "val_" in name)
    loop.fabric.print(f"\nThe best epoch was {loop.counters.best_epoch}: {shown}")
    return config.metrics
