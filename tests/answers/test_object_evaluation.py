import json

import numpy as np
import pytest

from dualtoken.answers import KINDS, Evaluation
from dualtoken.answers.box_meter import ObjectCounts, ObjectScores
from dualtoken.answers.evaluation import BACKGROUND
from dualtoken.outputs import Bin, Interval

CLASSES = ("cat", "Hündchen", "bird")


def evaluation(**changes) -> Evaluation:
    curves = np.full((3, 101), 0.5, np.float32)
    curves[2] = np.nan
    fields = {
        "task": "detection",
        "model": "runs/cats",
        "source": "cats",
        "split": "val",
        "classes": CLASSES,
        "metrics": {"ap": Interval(0.412, 0.35, 0.47), "ap50": Interval(0.6, 0.5, 0.7)},
        "per_class": (
            ObjectScores("cat", 6, 5, Interval(0.7, 0.6, 0.8), Interval(0.9, 0.8, 1)),
            ObjectScores("Hündchen", 5, 4, Interval(0.2, 0.1, 0.3), Interval(0.4, 0.2, 0.5)),
            ObjectScores("bird", 0, 1, None, None),
        ),
        "curves": curves,
        "confusion": np.array([[4, 1, 0, 1], [0, 2, 0, 3], [0, 0, 0, 0], [1, 1, 1, 0]]),
        "reliability": (Bin(0.8, 0.9, 7, 0.85, 6 / 7),),
        "settings": {"threshold": 0.375},
        "images": ObjectCounts(
            index=np.array([3, 5, 6, 9]),
            f1=np.array([0.5, 1.0, 0.5, 1.0]),
            objects=np.array([2, 0, 5, 4]),
            found=np.array([1, 0, 3, 4]),
            false=np.array([1, 0, 4, 0]),
        ),
        "bad_images": (("broken.jpg", "truncated"),),
        "seed": 0,
        "resamples": 200,
    }
    return Evaluation(**fields | changes)


def test_best_and_worst_images():
    assert evaluation().best().tolist() == [3, 1, 2, 0]  # the one with objects before the empty one
    assert evaluation().worst().tolist() == [2, 0, 1, 3]  # six mistakes before two


def test_the_background_has_its_part_in_the_confusion():
    pairs = evaluation().confused()
    assert [(pair.truth, pair.predicted, pair.count) for pair in pairs[:2]] == [
        ("Hündchen", BACKGROUND, 3),
        ("cat", "Hündchen", 1),
    ]
    assert pairs[0].share == pytest.approx(3 / 5)
    assert sum(pair.count for pair in pairs) == 8
    assert evaluation().names[-1] == BACKGROUND


def test_the_weakest_class_has_objects_and_the_lowest_ap_of_masks_where_measured():
    assert [scores.name for scores in evaluation().weakest()] == ["Hündchen", "cat"]
    one = Interval(0.05, 0, 0.1)
    masks = (ObjectScores("cat", 6, 5, one, one, Interval(0.9, 0.8, 1), one), *evaluation().per_class[1:])
    assert [scores.name for scores in evaluation(per_class=masks).weakest()] == ["Hündchen", "cat"]


def test_to_dict_is_json_without_nan():
    content = json.loads(json.dumps(evaluation().to_dict(), allow_nan=False))
    assert content["ap"] == {"value": 0.412, "low": 0.35, "high": 0.47}
    assert (content["task"], content["images"], content["threshold"]) == ("detection", 4, 0.375)
    assert list(content["curves"]) == ["cat", "Hündchen"]
    assert content["curves"]["cat"] == [0.5] * 101
    assert content["per_class"][0]["correct"] == 4
    assert content["per_class"][2]["ap"] is None
    assert content["bad_images"] == [{"path": "broken.jpg", "reason": "truncated"}]
    counted = sum(pair["objects"] for pair in content["confused"]) + sum(row["correct"] for row in content["per_class"])
    assert counted == evaluation().confusion.sum()


def test_headline_keeps_split_images_and_metrics():
    assert set(evaluation().headline()) == {"split", "images", "interval", "ap", "ap50"}


def test_summary_says_it_in_words():
    text = evaluation().summary()
    for part in (
        "4 with 11 objects of 3 classes, split 'val' of cats",
        "Box AP             41.2 % (35.0 to 47.0)",
        "Hündchen: 20 % of 5",
        "0.38 and above: 8 objects found, 5 false positives",
        "Hündchen not found: 3 (60 %)",
        "1 that cannot be used",
    ):
        assert part in text
    assert "cat where there is none: 1" in evaluation(confusion=np.eye(4, k=-3, dtype=np.int64)).summary()
    assert "nothing" in evaluation(confusion=np.zeros((4, 4), np.int64)).summary()


def test_every_metric_has_its_own_title():
    metrics = KINDS["instance_segmentation"].metrics
    assert len({metric.title for metric in metrics.values()}) == len(metrics) == 12
    assert metrics["mask_ap_small"].title == "Mask AP small"
