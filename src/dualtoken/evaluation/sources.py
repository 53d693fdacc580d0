"""Which model and which images: above all, never the images that the model was trained on by mistake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualtoken.data import ImageData, ImageFiles, OnBadImage, OnBadLabel, find_data
from dualtoken.errors import DataError
from dualtoken.images import ImageLimits
from dualtoken.prediction import Predictor, load


@dataclass(frozen=True)
class Draw:
    """How training drew its `val` split from data that have none, and how many images it used: the others are new."""

    fingerprint: str
    seed: int
    val_fraction: float
    most: int | None = None


def open_predictor(model: str | Path | Predictor, device: str, *, trust: bool = False) -> Predictor:
    """A model folder or exported file loaded, or the `Predictor` as it is."""
    return model if isinstance(model, Predictor) else load(model, device=device, trust=trust)


def open_data(
    data: str | Path | ImageData,
    *predictors: Predictor,
    labels: str = "auto",
    on_bad_image: OnBadImage,
    on_bad_label: OnBadLabel = "fail",
    limits: ImageLimits,
    progress: bool,
) -> tuple[ImageData, Draw | None]:
    """The images of `data`, with labels that are indices into the classes of the first predictor.

    They are the labels that its task learns from, and where there are several kinds of them those that it learned.

    Data without a `val` split give one split `all`, unless a model was trained on these very data: then `val` is
    drawn as its training drew it, and the draw is returned too.

    Raises:
        DataError: the data cannot be used, or an `ImageData` has other classes than the model.
    """
    classes = predictors[0].classes
    if isinstance(data, ImageData):
        if data.classes != classes:
            raise DataError(
                f"The data have the classes {data.classes[:5]}, the model {classes[:5]}.",
                "Give the path of the data: its class names are then matched with the model's.",
            )
        return data, None
    shared: dict[str, Any] = {
        "labels": labels if labels != "auto" else _learned_labels(predictors[0]),
        "on_bad_image": on_bad_image, "on_bad_label": on_bad_label, "limits": limits, "progress": progress,
        "classes": classes, "bands": predictors[0].config.preprocessing.bands,
    }  # fmt: skip
    task = predictors[0].config.task
    found = find_data(data, task=task, val_fraction=0, **shared)
    draws = [draw for draw in map(draw_of, predictors) if draw and draw.fingerprint == found.fingerprint]
    if not draws or ("val" in found.splits and draws[0].most is None):
        return found, None
    assert found.redraw is not None
    return found.redraw(draws[0].seed, draws[0].val_fraction, draws[0].most), draws[0]


def draw_of(predictor: Predictor) -> Draw | None:
    """What the model's provenance says about its training data; None where it says nothing."""
    provenance = predictor.config.provenance
    try:
        settings = provenance["settings"]
        return Draw(
            provenance["data"]["fingerprint"], provenance["seed"], settings["val_fraction"],
            settings.get("images_per_split"),
        )  # fmt: skip
    except (KeyError, TypeError):
        return None


def _learned_labels(predictor: Predictor) -> str:
    """Which labels the model was trained on, if its provenance says it; `auto` else."""
    settings = predictor.config.provenance.get("settings") or {}
    return str(settings.get("labels", "auto"))


def split_name(data: ImageData, samples: ImageFiles) -> str:
    """The name of the split that `samples` are."""
    return next(name for name, split in data.splits.items() if split is samples)
