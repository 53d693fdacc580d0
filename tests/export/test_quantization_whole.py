"""INT8 from a file to a measured file, for every task: the user's labels are the float32 export's own answers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from export_models import CLASSES

from conftest import invent_image
from dualtoken.export.quantization import quantize_export
from dualtoken.outputs import Detections
from dualtoken.prediction.exported import read_export
from dualtoken.report import prediction_table
from dualtoken.runtime import load

pytestmark = pytest.mark.slow
FORMS = {"detection": "coco", "instance_segmentation": "coco", "semantic_segmentation": "masks"}
ALLOWED = 0.4  # random weights are sure of nothing, and rounding turns many answers


def answered_folder(model, root: Path, images: int = 8) -> Path:
    """Images with the model's answers as labels, as COCO json or masks."""
    (root / "images").mkdir(parents=True)
    for number in range(images):
        invent_image(number % 3, number, (96, 64)).save(root / "images" / f"{number}.png")
    form = FORMS[model.config.task]
    labels = root / "labels.json" if form == "coco" else root / "made"
    with prediction_table(labels, model.kind, CLASSES, form=form) as write:
        for path in sorted((root / "images").iterdir()):
            write(_with_something(model.predict(path, threshold=0.0)))
    if form == "masks":
        (labels / "masks").rename(root / "masks")
        (labels / "classes.txt").rename(root / "classes.txt")
        labels.rmdir()
    return root


def _with_something(answer):
    """Without objects whose masks are empty, which are no labels."""
    if not isinstance(answer, Detections) or answer.masks is None:
        return answer
    kept = [place for place, mask in enumerate(answer.masks) if mask.any()]
    parts = {name: getattr(answer, name)[kept] for name in ("boxes", "scores", "labels", "corners")}
    return replace(answer, **parts, masks=tuple(answer.masks[place] for place in kept))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("segmenter", ".onnx"),
        ("segmenter", ".xml"),
        ("retinanet", ".onnx"),
        ("retinanet", ".xml"),
        ("faster_rcnn", ".onnx"),
    ],
)
def test_models_for_boxes_and_masks(exported, tmp_path, name, suffix):
    source, target = exported(name, suffix), tmp_path / "small" / f"int8{suffix}"
    model = load(source)
    data = answered_folder(model, tmp_path / "data")
    report = quantize_export(source, target, data, max_drop=ALLOWED, progress=False, on_bad_image="fail")
    assert report.float_score > 0.8, "labels are its own answers"
    assert report.score >= report.float_score - ALLOWED
    assert report.layers > 0
    json.dumps(report.to_dict(), allow_nan=False)
    (config, before), (same, after) = read_export(source), read_export(target)  # checks digests of all parts
    assert same == config
    assert (before.precision, after.precision) == ("fp32", "int8")
    assert set(before.parts) == set(after.parts)
    small = load(target)
    answer, wanted = (one.predict(data / "images" / "0.png", threshold=0.0) for one in (small, model))
    assert type(answer) is type(wanted)
    if isinstance(answer, Detections):
        assert len(answer) > 0
    else:
        assert (answer.mask == wanted.mask).mean() > 0.5
    heavy = [path.with_suffix(".bin") if suffix == ".xml" else path for path in (source, target)]
    assert heavy[1].stat().st_size < 0.5 * heavy[0].stat().st_size
