import json

import numpy as np
import pytest

from dualtoken.answers import Evaluation
from dualtoken.answers.region_meter import PixelScores, RegionScores
from dualtoken.outputs import Bin, Interval

CLASSES = ("road", "sky", "tree")


def evaluation(**changes) -> Evaluation:
    fields = {
        "task": "semantic_segmentation",
        "model": "runs/camvid",
        "source": "camvid",
        "split": "val",
        "classes": CLASSES,
        "metrics": {
            "miou": Interval(0.612, 0.58, 0.64),
            "boundary_iou": Interval(0.4, 0.3, 0.5),
            "pixel_accuracy": Interval(0.9, 0.85, 0.95),
        },
        "per_class": (
            RegionScores("road", 800, 0.8, Interval(0.9, 0.8, 1), Interval(0.5, 0.4, 0.6)),
            RegionScores("sky", 200, 0.2, Interval(0.3, 0.2, 0.4), Interval(0.1, 0, 0.2)),
            RegionScores("tree", 0, 0.0, Interval(0, 0, 0.1), None),
        ),
        "confusion": np.array([[750, 20, 30], [100, 100, 0], [0, 0, 0]]),
        "reliability": (Bin(0.8, 0.9, 1000, 0.85, 0.85),),
        "images": PixelScores(np.array([0, 2, 4]), np.array([0.6, 0.2, 0.6]), np.array([0.9, 0.5, 0.8])),
        "bad_images": (),
        "seed": 0,
        "resamples": 1000,
    }
    return Evaluation(**fields | changes)


def test_best_and_worst_images():
    assert evaluation().best().tolist() == [0, 2, 1]
    assert evaluation().worst().tolist() == [1, 0, 2]


def test_confused_classes_come_with_their_share():
    pairs = evaluation().confused()
    assert [(pair.truth, pair.predicted, pair.count) for pair in pairs] == [
        ("sky", "road", 100),
        ("road", "tree", 30),
        ("road", "sky", 20),
    ]
    assert pairs[0].share == pytest.approx(0.5)


def test_the_weakest_class_has_pixels():
    assert [scores.name for scores in evaluation().weakest()] == ["sky", "road"]


def test_to_dict_is_json():
    content = json.loads(json.dumps(evaluation().to_dict(), allow_nan=False))
    assert content["miou"]["value"] == 0.612
    assert (content["task"], content["images"]) == ("semantic_segmentation", 3)
    assert content["per_class"][2]["boundary_iou"] is None
    counted = sum(pair["pixels"] for pair in content["confused"]) + sum(row["correct"] for row in content["per_class"])
    assert counted == evaluation().confusion.sum()


def test_summary_says_it_in_words():
    text = evaluation(bad_images=(("a.jpg", "truncated"),)).summary()
    for part in (
        "3 of 3 classes, split 'val' of camvid",
        "Mean IoU           61.2 % (58.0 to 64.0)",
        "sky: 30 %, 20.0 % of the pixels",
        "sky taken for road: 50 % of its pixels",
        "1 that cannot be used",
    ):
        assert part in text
    assert "every pixel is right" in evaluation(confusion=np.diag([5, 5, 0])).summary()


def test_headline_keeps_split_images_and_metrics():
    assert set(evaluation().headline()) == {"split", "images", "interval", "miou", "boundary_iou", "pixel_accuracy"}
