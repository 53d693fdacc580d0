"""`evaluate`: a model and images to what was measured, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualtoken.data import ImageData, OnBadImage, Samples, find_split
from dualtoken.evaluation.scenes import SCENE_BATCH, SceneEvaluation, evaluate_scenes, scene_pictures
from dualtoken.evaluation.sources import open_data, open_predictor, split_name
from dualtoken.files import refuse_others, writable_folder
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.metrics.bootstrap import RESAMPLES, measure
from dualtoken.metrics.classes import confusion_matrix, per_image, reliability
from dualtoken.outputs import Evaluation
from dualtoken.prediction import Logits, Predictor


def evaluate(
    model: str | Path | Predictor,
    data: str | Path | ImageData,
    *,
    split: str | None = None,
    output: str | Path | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    labels: str = "auto",
    seed: int = 0,
    resamples: int | None = None,
    device: str = "auto",
    on_bad_image: OnBadImage = "fail",
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: bool = True,
) -> Evaluation | SceneEvaluation:
    """Measure a model on images, with 95 % intervals.

    Classification: accuracy, F1, confusion, calibration. Boxes and instance masks: COCO's average precision,
    precision and recall, confusion with the background. Masks: intersection over union, boundaries, pixels.

    Args:
        model: a model folder, or a `Predictor` (whose device is kept).
        data: a folder, file or zip archive, or what `find_data` or `find_scenes` found there. Its class names must be
            among the model's. Where the model was trained on this very data and training drew a `val` split from it,
            the same images are drawn again, so that no training image is measured.
        split: name of the split; without it `test`, else `val`, else all images.
        output: folder for `evaluation.json`, `report.html`, plots and a CSV with one row an image; nothing is
            written without it.
        batch_size: images that go through the network at once.
        labels: which labels to read where the data has several kinds; `auto` takes those that the model learned.
        workers: loading processes; 0 loads in this one, None takes one a CPU core, 8 at most.
        seed, resamples: of the bootstrap; `resamples` is by itself 1,000 for classes and fewer for scenes.
        device: `auto`, `cpu`, `cuda`, `mps`; of a model folder.
        on_bad_image: `fail`, or `skip` to leave out and list images that cannot be read.
        limits: what an image may cost.
        progress: show bars, on a terminal.

    Raises:
        DataError: the data cannot be used, or has classes that the model does not know.
        ModelError: the model folder cannot be loaded.
        ImageError: an image cannot be read, and `on_bad_image` is `fail`.
        OutputError: `output` cannot be written; found before the work starts.
    """
    folder = None if output is None else _report_folder(output)
    predictor = open_predictor(model, device)
    found, _ = open_data(data, predictor, labels=labels, on_bad_image=on_bad_image, limits=limits, progress=progress)
    samples: Any = find_split(found, split)
    if predictor.config.task != "classification":
        scenes = evaluate_scenes(
            predictor, found, samples, batch_size=min(batch_size, SCENE_BATCH), workers=workers, limits=limits,
            on_bad_image=on_bad_image, seed=seed, resamples=resamples, progress=progress,
        )  # fmt: skip
        if folder is not None:
            from dualtoken.report import write_scene_evaluation

            write_scene_evaluation(
                folder, scenes, samples, data=found, pictures=scene_pictures(predictor, scenes, samples, limits),
                provenance=predictor.config.provenance, limits=limits,
            )  # fmt: skip
        return scenes
    logits = predictor.logits(
        samples, batch_size=batch_size, workers=workers, limits=limits, on_bad_image=on_bad_image, progress=progress
    )
    evaluation = evaluation_of(
        logits, predictor, found, samples, seed=seed, resamples=RESAMPLES if resamples is None else resamples
    )
    if folder is not None:
        from dualtoken.report import write_evaluation

        write_evaluation(folder, evaluation, samples, provenance=predictor.config.provenance, limits=limits)
    return evaluation


def _report_folder(output: str | Path) -> Path:
    """A folder that reports may be written to; plots need more packages than figures do."""
    from dualtoken.report.results import EVALUATION_FILES

    refuse_others(output, EVALUATION_FILES, "--output")
    return writable_folder(output)


def evaluation_of(
    output: Logits,
    predictor: Predictor,
    data: ImageData,
    samples: Samples,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """An `Evaluation` from logits that are there already: what `evaluate` does after its forward passes.

    Args:
        output: what `predictor.logits(samples)` gave.
        predictor: the model; its classes and its temperature of this moment are used.
        data, samples: where the images come from; `samples` is one of `data.splits`.
        seed, resamples: of the bootstrap.
    """
    classes = predictor.classes
    images = per_image(output.logits, output.labels, output.indices, predictor.config.temperature)
    metrics, per_class = measure(images, classes, seed=seed, resamples=resamples)
    return Evaluation(
        model=predictor.name,
        source=data.source,
        split=split_name(data, samples),
        classes=classes,
        temperature=predictor.config.temperature,
        metrics=metrics,
        per_class=per_class,
        confusion=confusion_matrix(images, len(classes)),
        reliability=reliability(images),
        images=images,
        bad_images=(*data.bad_images, *output.bad_images),
        seed=seed,
        resamples=resamples,
    )
