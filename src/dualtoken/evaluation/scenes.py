"""Boxes and masks: a model's answers for a split, compared with the truth image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from dualtoken.data import ImageData, MaskSamples, ObjectSamples, OnBadImage
from dualtoken.errors import DataError, ImageError
from dualtoken.evaluation.sources import split_name
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.metrics.objects import ObjectMeter, compare_objects
from dualtoken.metrics.pairs import SceneComparison
from dualtoken.metrics.regions import RegionMeter, compare_regions
from dualtoken.outputs import DetectionEvaluation, SegmentationEvaluation
from dualtoken.prediction import Predictor
from dualtoken.report.scene_pictures import side_by_side

SceneEvaluation = DetectionEvaluation | SegmentationEvaluation
SceneSamples = ObjectSamples | MaskSamples
Captioned = tuple[str, Image.Image]
SCENE_BATCH = 16  # images at once where each has a map of its own size
_SHOWN = 6  # best and worst images in a report


def measure_scenes(
    predictor: Predictor,
    samples: SceneSamples,
    *,
    batch_size: int = 16,
    workers: int | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    on_bad_image: OnBadImage = "fail",
    progress: bool = True,
) -> tuple[ObjectMeter | RegionMeter, tuple[tuple[str, str], ...]]:
    """A meter that has seen the answers for every image of a split, and what could not be read.

    Images and masks are let go one by one: of each only a few numbers stay.
    """
    bad: list[tuple[str, str]] = []
    meter: ObjectMeter | RegionMeter
    if isinstance(samples, ObjectSamples):
        meter = ObjectMeter(predictor.classes, masks=predictor.config.task == "instance_segmentation")
    else:
        meter = RegionMeter(predictor.classes)
    answers = predictor.answers(
        samples, batch_size=batch_size, workers=workers, limits=limits, on_bad_image=on_bad_image, progress=progress,
        bad_images=bad,
    )  # fmt: skip
    for row, answer in answers:
        truth: Any = samples.objects(row) if isinstance(samples, ObjectSamples) else samples.open_mask(row, limits)
        meter.add(answer, truth, row)
    return meter, tuple(bad)


def evaluate_scenes(
    predictor: Predictor,
    data: ImageData,
    samples: SceneSamples,
    *,
    seed: int = 0,
    resamples: int | None = None,
    **options: Any,
) -> SceneEvaluation:
    """Measure a model on one split of `data`; options as in `measure_scenes`."""
    meter, bad = measure_scenes(predictor, samples, **options)
    more: dict[str, Any] = {} if resamples is None else {"resamples": resamples}
    return meter.evaluation(
        model=predictor.name,
        source=data.source,
        split=split_name(data, samples),
        bad_images=(*data.bad_images, *bad),
        seed=seed,
        **more,
    )


def compare_scenes(
    a: Predictor,
    b: Predictor,
    data: ImageData,
    samples: SceneSamples,
    *,
    seed: int = 0,
    resamples: int | None = None,
    note: str = "",
    **options: Any,
) -> SceneComparison:
    """Whether one of two models is better on one split of `data`; options as in `measure_scenes`.

    Raises:
        DataError: the models have their classes in another order.
    """
    if a.classes != b.classes:
        raise DataError(
            f"{a.name!r} and {b.name!r} have the same classes in another order.",
            "Boxes and masks are compared class by class: train both from the same labels.",
        )
    first, second = (measure_scenes(predictor, samples, **options)[0] for predictor in (a, b))
    more: dict[str, Any] = {} if resamples is None else {"resamples": resamples}
    more |= {"names": (a.name, b.name), "source": data.source, "split": split_name(data, samples)}
    if isinstance(first, ObjectMeter) and isinstance(second, ObjectMeter):
        return compare_objects(first, second, seed=seed, note=note, **more)
    if isinstance(first, RegionMeter) and isinstance(second, RegionMeter):
        return compare_regions(first, second, seed=seed, note=note, **more)
    raise TypeError("a split has either objects or masks")


def scene_pictures(
    predictor: Predictor,
    evaluation: SceneEvaluation,
    samples: SceneSamples,
    limits: ImageLimits = DEFAULT_LIMITS,
    threshold: float | None = None,
) -> list[Captioned]:
    """The worst and the best images, truth beside answer, with a caption each."""
    worst = evaluation.worst()[:_SHOWN].tolist()
    best = [place for place in evaluation.best()[:_SHOWN].tolist() if place not in worst]
    chosen: Sequence[tuple[str, int]] = [*(("worst", place) for place in worst), *(("best", place) for place in best)]
    return list(_pictures(predictor, evaluation, samples, chosen, limits, threshold))


def _pictures(
    predictor: Predictor,
    evaluation: SceneEvaluation,
    samples: SceneSamples,
    chosen: Sequence[tuple[str, int]],
    limits: ImageLimits,
    threshold: float | None,
) -> Iterator[Captioned]:
    for kind, place in chosen:
        row = int(evaluation.images.index[place])
        try:
            image = samples.open(row, limits)
        except ImageError:  # gone since
            continue
        answer = predictor.predict(image, threshold=threshold)
        truth: Any = samples.objects(row) if isinstance(samples, ObjectSamples) else samples.open_mask(row, limits)
        yield f"{kind}: {samples.path(row)}", side_by_side(image, truth, answer)
