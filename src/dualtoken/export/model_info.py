"""What OpenVINO's Model API wants to know of a model, under its own names.

Model API prepares images and reads outputs by itself: it resizes with another filter than training did, so that its
answers are near ours and not the same. Those that are the same come from `dualtoken.runtime`.
"""

from __future__ import annotations

from dualtoken.answers import CLASSIFIER, kind_of
from dualtoken.decode import HEADS, DetectorSpec
from dualtoken.model_folder import ModelConfig

# Model API cannot read the raw outputs of detectors; a type that it does not know makes it say so.
_RESIZING = {"center": "crop", "squash": "standard", "border": "fit_to_window_letterbox"}


def model_info(config: ModelConfig) -> dict[str, str]:
    """Keys of Model API with their values, all of them text."""
    preprocessing = config.preprocessing
    info = {
        "model_type": kind_of(config.task).model_api or f"dualtoken_{config.head or config.task}",
        "model_name": config.architecture,
        "task_type": config.task,
        "labels": " ".join(name.replace(" ", "_") for name in config.classes),
        "label_ids": " ".join(str(number) for number in range(len(config.classes))),
        "mean_values": _numbers(255 * mean for mean in preprocessing.mean),
        "scale_values": _numbers(255 * std for std in preprocessing.std),
        "resize_type": _RESIZING[preprocessing.crop_mode],
        "pad_value": str(round(sum(preprocessing.fill) / len(preprocessing.fill))),
        "reverse_input_channels": "False",  # it takes RGB as ours do
        "confidence_threshold": str(config.threshold),
    }
    kind = kind_of(config.task)
    if kind.model_api == kind_of(CLASSIFIER).model_api:
        info.update(multilabel=str(not kind.exclusive), hierarchical="False", output_raw_scores="True")
    if config.head in HEADS:
        info["iou_threshold"] = str(DetectorSpec.of(config.head, len(config.classes), config.head_args).iou_threshold)
    return info


def _numbers(values: object) -> str:
    return " ".join(f"{value:.6g}" for value in values)  # type: ignore[attr-defined]
