"""`evaluate` and `compare`: models and images to what was measured, one way for every kind of answer."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualtoken.answers import Comparison, Evaluation, Meter, compare_meters
from dualtoken.data import ImageData, OnBadImage, OnBadLabel, find_split
from dualtoken.data.dataset import LEFT_OUT, write_left_out
from dualtoken.errors import DataError
from dualtoken.evaluation.sources import Draw, draw_of, open_data, open_predictor, split_name
from dualtoken.files import alone, refuse_others, writable_folder
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.machine import launched
from dualtoken.prediction import Predictor

if TYPE_CHECKING:
    from dualtoken.processes import Group

BadImages = tuple[tuple[str, str], ...]


def evaluate(
    model: str | Path | Predictor,
    data: str | Path | ImageData,
    *,
    split: str | None = None,
    output: str | Path | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    labels: str = "auto",
    seed: int = 0,
    resamples: int | None = None,
    max_objects: int | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    on_bad_image: OnBadImage = "fail",
    on_bad_label: OnBadLabel = "fail",
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: bool = True,
    trust: bool = False,
) -> Evaluation:
    """Measure a model on images, with 95 % intervals.

    Classes: accuracy, F1, confusion, calibration. Several labels an image: average precision, F1, calibration. Boxes
    and instance masks: COCO's average precision, precision and recall, confusion with the background. Masks:
    intersection over union, boundaries, pixels.

    Args:
        model: a model folder, an exported file, a model of the package, or hf-hub:USER/NAME. In Python also a
            `Predictor`, whose device is kept.
        data: images and their labels: a folder, a file or a zip archive. Its class names must be
            among the model's. Where the model was trained on this very data and training drew a `val` split from it,
            the same images are drawn again, so that no training image is measured.
        split: split to use. Left out: test, else val, else all images.
        output: folder for `evaluation.json`, `report.html`, plots and a CSV with one row an image. Left out: nothing is
            written.
        batch_size: images in a batch, at most. Left out: on a CPU what its caches hold.
        labels: label format to read where the data has several; auto takes that which the model learned.
        workers: loading processes; 0 loads in this one. Left out: one a core, at most 8.
        seed: decides the resamples of the bootstrap.
        resamples: of the bootstrap. Left out: 1,000, and 200 for boxes and several labels.
        max_objects: for boxes: most objects of an image that are found and counted. Left out: the model's own, which
            is COCO's 100 where training did not set it.
        device: where to compute: auto, cpu, cuda, cuda:1 or mps.
        devices: processes on each machine, one a device, that share the images; torchrun and SLURM say it themselves.
        nodes: machines, each with so many processes.
        on_bad_image: stop at an image that cannot be read, or skip: leave it out and list it.
        on_bad_label: stop at a box or outline that cannot be used; drop: leave it out and list it; clip: and cut it at
            the image's edge.
        limits: what an image may cost.
        progress: show bars, on a terminal.
        trust: open exported files that can run code (.pt2) too, since you know who made them.

    Raises:
        DataError: the data cannot be used, or has classes that the model does not know.
        ModelError: the model folder cannot be loaded.
        ImageError: an image cannot be read, and `on_bad_image` is `fail`.
        OutputError: `output` cannot be written; found before the work starts.
    """
    with ExitStack() as stack:
        if output is not None:
            stack.enter_context(alone(output))
        folder = None if output is None else _report_folder(output)
        device, group = _started(device, devices, nodes)
        first = group is None or group.first
        predictor = open_predictor(model, device, trust=trust).limited(max_objects)
        found, _ = open_data(
            data, predictor, labels=labels, on_bad_image=on_bad_image, on_bad_label=on_bad_label, limits=limits,
            progress=progress and first,
        )  # fmt: skip
        samples = find_split(found, split)
        meter, bad = measure(
            predictor, samples, group=group, batch_size=batch_size, workers=workers, limits=limits,
            on_bad_image=on_bad_image, progress=progress,
        )  # fmt: skip
        evaluation = evaluation_of(meter, predictor, found, samples, bad_images=bad, seed=seed, resamples=resamples)
        if folder is not None and first:
            from dualtoken.evaluation.reports import write_evaluation

            (folder / LEFT_OUT).unlink(missing_ok=True)
            write_left_out(folder, (*found.bad_images, *bad), found.bad_labels)
            write_evaluation(
                folder, evaluation, samples, data=found, answer=predictor.predict,
                provenance=predictor.config.provenance, limits=limits,
            )  # fmt: skip
        return evaluation


def measure(
    predictor: Predictor,
    samples: Any,
    *,
    classes: tuple[str, ...] | None = None,
    group: Group | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    on_bad_image: OnBadImage = "fail",
    progress: bool = True,
) -> tuple[Meter, BadImages]:
    """A meter that has seen the answer for every image of a split, and what could not be read.

    Images and masks are let go one by one: of each only a few numbers stay.

    Args:
        predictor: the model.
        samples: the split; its labels are indices into `classes`.
        classes: those of the model, in the order of the labels; None where it is the model's own.
        group: processes of which each measures every so-many-th image; the meter of all of them is the same in each.
        batch_size, workers, limits, on_bad_image, progress: as in `evaluate`.

    Raises:
        DataError: no image can be read.
        UserError: another process has gone, or hangs.
    """
    rank, size = (group.rank, group.size) if group else (0, 1)
    own = samples.subset(range(rank, len(samples), size)) if size > 1 else samples
    kind, bad = predictor.kind, list[tuple[str, str]]()
    meter = kind.meter(predictor.config)
    meter.classes = classes or predictor.classes
    answers = predictor.answers(
        own, batch_size=batch_size and min(batch_size, kind.batch), workers=workers, limits=limits,
        on_bad_image=on_bad_image, progress=progress and rank == 0, bad_images=bad,
    )  # fmt: skip
    with group.watched() if group else nullcontext():
        for row, answer in answers:
            same = answer if answer.classes == meter.classes else answer.reordered(meter.classes)
            meter.add(same, kind.truth(own, row, limits), rank + size * row)
            if group:
                group.alive()
        if group:
            (meter, bad), *others = group.gathered((meter, bad))
            for theirs, left_out in others:
                meter.join(theirs)
                bad += left_out
    if not len(meter):
        raise DataError(f"No image of {samples.root!r} can be evaluated: none can be read.")
    return meter, tuple(bad)


def _started(device: str, devices: int, nodes: int) -> tuple[str, Group | None]:
    """The device of this process, and the processes that it shares the images with."""
    if devices * nodes == 1 and not launched():
        return device, None
    from dualtoken import processes

    fabric = processes.make_fabric(device, *processes.as_launched(devices, nodes))
    fabric.launch()
    return processes.device_of(fabric), processes.Group(fabric)


def evaluation_of(
    meter: Meter, predictor: Predictor, data: ImageData, samples: Any, *, bad_images: BadImages = (), **options: Any
) -> Evaluation:
    """What a meter that has seen `samples`, one of `data.splits`, says of a model.

    Args:
        meter, bad_images: what `measure` gave.
        predictor: the model.
        data, samples: where the images come from.
        **options: `seed` and `resamples` of the bootstrap.
    """
    return meter.evaluation(
        model=predictor.name, source=data.source, split=split_name(data, samples),
        bad_images=(*data.bad_images, *bad_images), **options,
    )  # fmt: skip


def compare(
    a: str | Path | Predictor,
    b: str | Path | Predictor,
    data: str | Path | ImageData,
    *,
    split: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    seed: int = 0,
    labels: str = "auto",
    resamples: int | None = None,
    device: str = "auto",
    on_bad_image: OnBadImage = "fail",
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: bool = True,
    trust: bool = False,
) -> Comparison:
    """Say whether one of two models is better on the same images, or that they cannot be told apart.

    The models must have the same task and know the same classes, in any order.

    Args:
        a: one model, as for `evaluate`.
        b: the other one.
        data, split, labels, on_bad_image, limits: as for `evaluate`.
        batch_size, workers, seed, resamples, device, progress, trust: as for `evaluate`.

    Raises:
        DataError: tasks or classes differ, or the data cannot be used.
        ModelError: a model folder cannot be loaded.
    """
    first, second = (open_predictor(model, device, trust=trust) for model in (a, b))
    _check_pair(first, second)
    found, draw = open_data(
        data, first, second, labels=labels, on_bad_image=on_bad_image, limits=limits, progress=progress
    )
    samples = find_split(found, split)
    meters = [
        measure(
            predictor, samples, classes=first.classes, batch_size=batch_size, workers=workers, limits=limits,
            on_bad_image=on_bad_image, progress=progress,
        )[0]
        for predictor in (first, second)
    ]  # fmt: skip
    return compare_meters(
        *meters, names=(first.name, second.name), source=found.source, split=split_name(found, samples), seed=seed,
        resamples=resamples, note=_note(draw, first, second),
    )  # fmt: skip


def _report_folder(output: str | Path) -> Path:
    """A folder that reports may be written to; plots need more packages than metrics do."""
    from dualtoken.evaluation.reports import EVALUATION_FILES

    refuse_others(output, EVALUATION_FILES, "--output")
    return writable_folder(output)


def _note(draw: Draw | None, *predictors: Predictor) -> str:
    """A warning where `val` was drawn as one model's training drew it, and the other's drew another one."""
    for name, predictor in zip("AB", predictors, strict=True):
        own = draw_of(predictor)
        if draw and own and own.fingerprint == draw.fingerprint and own != draw:
            return f"{name} was trained on these data with another val split: it has seen some of these images."
    return ""


def _check_pair(a: Predictor, b: Predictor) -> None:
    if a.config.task != b.config.task:
        raise DataError(
            f"{a.name!r} is for {a.config.task}, {b.name!r} for {b.config.task}.",
            "Only models for the same task can be compared.",
        )
    only_a, only_b = sorted(set(a.classes) - set(b.classes)), sorted(set(b.classes) - set(a.classes))
    if only_a or only_b:
        lists = [
            f"only {name} knows {', '.join(map(repr, only[:5]))}"
            for name, only in (("A", only_a), ("B", only_b))
            if only
        ]
        raise DataError(
            f"{a.name!r} and {b.name!r} do not know the same classes: {'; '.join(lists)}.",
            "Only models for the same classes can be compared.",
        )
