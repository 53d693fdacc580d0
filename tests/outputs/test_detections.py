import json
import sys

import numpy as np
import pytest

from dualtoken.errors import MissingExtraError
from dualtoken.outputs import Detections
from dualtoken.outputs.detections import encode_runs

CLASSES = ("cat", "dog", "Vögelchen 猫")


def found(scores=(0.25, 0.75), masks=False, changes=None) -> Detections:
    n = len(scores)
    fields = {
        "classes": CLASSES,
        "size": (8, 10),
        "boxes": np.array([[1, 2, 4, 5], [0, 0, 10, 8]], np.float32)[:n].reshape(n, 4),
        "scores": np.array(scores, np.float32),
        "labels": np.arange(n),
    }
    if masks:
        fields["masks"] = (np.eye(3, dtype=bool), np.ones((8, 10), bool))[:n]
        fields["corners"] = np.array([[1, 2], [0, 0]])[:n].reshape(n, 2)
    return Detections(**fields | (changes or {}))


def nothing(masks=False) -> Detections:
    return found((), masks=masks)


def test_the_surest_comes_first_with_all_that_belongs_to_it():
    answer = found(masks=True)
    assert answer.scores.tolist() == [0.75, 0.25]
    assert answer.names() == ["dog", "cat"]
    assert answer.boxes[1].tolist() == [1, 2, 4, 5]
    assert answer.corners.tolist() == [[0, 0], [1, 2]]
    assert [mask.shape for mask in answer.masks] == [(8, 10), (3, 3)]


def test_equal_scores_stay_in_their_order():
    answer = found((0.5, 0.5))
    assert answer.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"boxes": np.zeros((1, 4))}, "do not fit"),
        ({"scores": np.array(0.5)}, "do not fit"),
        ({"labels": np.array([0, 3])}, "0 to 2"),
        ({"labels": np.array([0, -1])}, "0 to 2"),
        ({"scores": np.array([0.5, np.nan])}, "0 to 1"),
        ({"scores": np.array([0.5, 1.5])}, "0 to 1"),
        ({"boxes": np.array([[3, 0, 2, 1], [0, 0, 1, 1]])}, "left <= right"),
        ({"boxes": np.array([[np.inf, 0, np.inf, 1], [0, 0, 1, 1]])}, "finite"),
        ({"size": (0, 5)}, "1 or more"),
        ({"corners": None}, "belong together"),
        ({"masks": (np.eye(3, dtype=bool),)}, "1 masks"),
        ({"corners": np.array([[8, 2], [0, 0]])}, "leaves the image"),
        ({"corners": np.array([[1, 6], [0, 0]])}, "leaves the image"),
        ({"corners": np.array([[-1, 2], [0, 0]])}, "leaves the image"),
    ],
)
def test_what_does_not_fit_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        found(masks=True, changes=changes)


def test_masks_in_the_whole_image():
    answer = found(masks=True)
    whole = np.zeros((8, 10), bool)
    whole[[2, 3, 4], [1, 2, 3]] = True
    assert np.array_equal(answer.mask(1), whole)
    assert answer.full_masks().shape == (2, 8, 10)
    assert np.array_equal(answer.full_masks()[1], whole)


def test_a_box_without_mask_fills_its_pixels():
    mask = found().mask(1)
    assert mask.sum() == 9
    assert mask[2:5, 1:4].all()


def test_above_keeps_what_is_as_sure():
    assert found().above(0.75).names() == ["dog"]
    assert len(found(masks=True).above(0.9)) == 0
    assert len(found(masks=True).above(0.0).masks) == 2
    assert len(found((0.1, 0.7)).above(np.float64(0.7))) == 1  # 0.7 in 32 bits is less than in 64


def test_json_survives():
    content = json.loads(json.dumps(found(masks=True, changes={"path": "a.jpg"}).to_dict(), allow_nan=False))
    assert (content["path"], content["height"], content["width"]) == ("a.jpg", 8, 10)
    assert content["objects"][1]["box"] == [1, 2, 4, 5]
    assert content["objects"][0]["label"] == "dog"
    assert "mask" not in found().to_dict()["objects"][0]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # inside pycocotools' decode
def test_runs_are_what_coco_writes_and_reads():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    masks = [rng.random((30, 40)) < share for share in (0, 0.02, 0.5, 0.98, 1)]
    masks += [np.kron(rng.random((3, 4)) < 0.5, np.ones((300, 200), bool))]
    for mask in masks:
        expected = coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
        assert encode_runs(mask, (0, 0), mask.shape) == expected
    part = masks[2][5:30, 7:20]  # a part, down to the last row
    whole = np.zeros((30, 40), bool)
    whole[5:30, 7:20] = part
    runs = {"size": [30, 40], "counts": encode_runs(part, (7, 5), (30, 40))}
    assert np.array_equal(coco.decode(runs).astype(bool), whole)


def test_no_detections_are_an_answer_too():
    for answer in (nothing(), nothing(masks=True)):
        assert len(answer) == 0
        assert answer.names() == []
        assert answer.full_masks().shape == (0, 8, 10)
        assert answer.to_dict()["objects"] == []
        assert len(answer.above(0.5)) == 0
        assert len(answer.take([])) == 0
    assert nothing(masks=True).masks == ()


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_supervision():
    supervision = pytest.importorskip("supervision")
    other = found(masks=True).to_supervision()
    assert isinstance(other, supervision.Detections)
    assert other.xyxy.tolist() == [[0, 0, 10, 8], [1, 2, 4, 5]]
    assert other.mask.shape == (2, 8, 10)
    assert other.class_id.tolist() == [1, 0]
    assert other["class_name"].tolist() == ["dog", "cat"]
    assert other.confidence.tolist() == [0.75, 0.25]
    for empty in (nothing(), nothing(masks=True)):
        assert len(empty.to_supervision()) == 0


def test_without_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"dualtoken\[supervision\]"):
        found().to_supervision()
