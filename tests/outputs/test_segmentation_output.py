import json

import numpy as np
import pytest

from dualtoken.outputs import Segmentation

CLASSES = ("road", "sky", "tree")
MASK = np.array([[0, 0, 2, 2], [0, 0, 2, 0]])


def test_shares_are_of_all_pixels():
    answer = Segmentation(CLASSES, MASK)
    assert answer.mask.dtype == np.uint8
    assert answer.size == (2, 4)
    assert answer.shares() == {"road": 5 / 8, "sky": 0, "tree": 3 / 8}
    assert answer.present() == [0, 2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mask": MASK + 1}, "0 to 2"),
        ({"mask": MASK - 1}, "0 to 2"),
        ({"mask": MASK / 2}, "whole numbers"),
        ({"mask": MASK[0]}, "height, width"),
        ({"mask": MASK[:0]}, "height, width"),
        ({"classes": ()}, "1 to 255"),
        ({"confidence": np.ones((4, 2))}, "shape"),
        ({"confidence": np.full((2, 4), 1.5)}, "0 to 1"),
        ({"confidence": np.full((2, 4), np.nan)}, "0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        Segmentation(**{"classes": CLASSES, "mask": MASK} | changes)


def test_json_survives():
    confidence = np.where(MASK == 0, np.float32(0.5), np.float32(1))
    content = json.loads(json.dumps(Segmentation(CLASSES, MASK, confidence, "a.png").to_dict(), allow_nan=False))
    assert content == {
        "path": "a.png", "height": 2, "width": 4,
        "regions": [{"label": "road", "share": 0.625, "score": 0.5}, {"label": "tree", "share": 0.375, "score": 1}],
    }  # fmt: skip
    assert Segmentation(CLASSES, MASK).to_dict()["regions"][0]["score"] is None


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_supervision_has_one_object_a_class():
    pytest.importorskip("supervision")
    other = Segmentation(CLASSES, MASK, np.full((2, 4), 0.5)).to_supervision()
    assert other["class_name"].tolist() == ["road", "tree"]
    assert other.xyxy.tolist() == [[0, 0, 4, 2], [2, 0, 4, 2]]
    assert np.array_equal(other.mask[1], MASK == 2)
    assert other.confidence.tolist() == [0.5, 0.5]
    assert Segmentation(CLASSES, MASK).to_supervision().confidence is None
