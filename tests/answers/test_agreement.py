"""When two answers to one image are the same, when a tie decides, and when they are not."""

from __future__ import annotations

import numpy as np
import pytest

from dualtoken.answers.agreement import ClassAgreement, ObjectAgreement, PixelAgreement
from dualtoken.decode import DetectorSpec
from dualtoken.outputs import Classification, Detections, Segmentation

CLASSES = ("cat", "dog")
LIMIT = 1e-4


def objects(*found, masks=None, size=(100, 100)):
    """Of (left, top, right, bottom, score, label)."""
    table = np.array(found, np.float32).reshape(-1, 6)
    corners = None if masks is None else np.array([[row[0], row[1]] for row in table.tolist()], np.int64).reshape(-1, 2)
    return Detections(CLASSES, size, table[:, :4], table[:, 4], table[:, 5].astype(np.int64), masks, corners)


def agreement(**spec):
    return ObjectAgreement(LIMIT, DetectorSpec.of("retinanet", 2, spec), threshold=0.5)


def both(*found):
    """Both engines had all of these before they left out repetitions."""
    return lambda: (objects(*found), objects(*found))


A, B = (10, 10, 30, 30, 0.9, 0), (50, 50, 80, 90, 0.6, 1)


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("theirs", "same", "ties", "reason"),
    [
        ((0.60005, 0.39995), 1, 0, ""),
        ((0.4, 0.6), 0, 0, "'dog'"),
    ],
)
def test_classes(theirs, same, ties, reason):
    tally = ClassAgreement(LIMIT)
    found = tally.add(Classification(CLASSES, np.array([0.6, 0.4])), Classification(CLASSES, np.array(theirs)))
    assert (tally.same, tally.ties) == (same, ties)
    assert reason in found
    assert bool(found) == bool(reason)


def test_two_classes_that_are_equally_probable_are_a_tie():
    tally = ClassAgreement(LIMIT)
    ours, theirs = np.array([0.50001, 0.49999]), np.array([0.49999, 0.50001])
    assert tally.add(Classification(CLASSES, ours), Classification(CLASSES, theirs)) == ""
    assert tally.figures()["top1_agreement"] == 1
    assert tally.ties == 1
    assert "1 by a tie" in tally.line()


# ---------------------------------------------------------------- pixels


def test_pixels():
    mask, sure = np.zeros((4, 5), np.uint8), np.full((4, 5), 0.9, np.float32)
    other, torn = mask.copy(), sure.copy()
    tally = PixelAgreement(LIMIT)
    assert tally.add(Segmentation(CLASSES, mask, sure), Segmentation(CLASSES, mask, sure)) == ""
    other[0, 0], torn[0, 0] = 1, 0.50001
    halves = sure.copy()
    halves[0, 0] = 0.49999
    assert tally.add(Segmentation(CLASSES, mask, halves), Segmentation(CLASSES, other, torn)) == ""
    assert tally.ties == 1
    assert "1 of its 20 pixels" in tally.add(Segmentation(CLASSES, mask, sure), Segmentation(CLASSES, other, sure))
    assert tally.figures()["pixel_agreement"] == pytest.approx(59 / 60)


# ---------------------------------------------------------------- objects


def test_the_same_objects_in_another_order():
    tally = agreement()
    again = (10.001, 10, 30, 30, 0.90004, 0)
    assert tally.add(objects(A, B), objects(B, again)) == ""
    assert (tally.objects, tally.same, tally.ties) == (2, 2, 0)
    assert tally.figures()["images_by_objects"] == {"none": 0, "one": 0, "many": 1}


def test_images_with_none_one_and_many():
    tally = agreement()
    low = (0, 0, 5, 5, 0.3, 0)  # below the threshold: not shown
    for found in (objects(), objects(low), objects(A, low), objects(A, B)):
        assert tally.add(found, found) == ""
    assert tally.counts == {"none": 2, "one": 1, "many": 1}
    assert tally.box_iou == 1


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ([A, B], [A], "misses a 'dog' with score 0.6"),
        ([A], [A, B], "finds a 'dog' with score 0.6"),
        ([], [A], "finds a 'cat'"),
        ([A], [], "misses a 'cat'"),
        ([A], [(10, 10, 30, 31, 0.9, 0)], "misses a 'cat'"),  # another box
        ([A], [(10, 10, 30, 30, 0.9, 1)], "misses a 'cat'"),  # another class
        ([A], [(10, 10, 30, 30, 0.8998, 0)], "score of a 'cat'"),
    ],
)
def test_other_objects(ours, theirs, reason):
    assert reason in agreement().add(objects(*ours), objects(*theirs))


@pytest.mark.parametrize(
    ("spec", "ours", "theirs", "tie"),
    [
        # at the threshold an object may come or go
        ({"score_threshold": 0.02}, [A, (50, 50, 80, 90, 0.02005, 1)], [A], True),
        ({"score_threshold": 0.02}, [A, (50, 50, 80, 90, 0.0203, 1)], [A], False),
        # so may the last of too many
        ({"max_detections": 2}, [A, B], [A, (0, 0, 9, 9, 0.60005, 0)], True),
        ({"max_detections": 3}, [A, B], [A, (0, 0, 9, 9, 0.60005, 0)], False),
        ({"max_detections": 2}, [A, B], [A, (0, 0, 9, 9, 0.61, 0)], False),
        # and one whose overlap with another is at the limit of repetitions
        ({}, [A, (10, 10 + 20 / 3, 30, 30 + 20 / 3, 0.7, 0)], [A], True),
        ({}, [A, (10, 18, 30, 38, 0.7, 0)], [A], False),
        # of two that repeat each other and are as sure either may stay
        ({}, [A], [(12, 10, 32, 30, 0.90005, 0)], True),
        ({}, [A], [(12, 10, 32, 30, 0.91, 0)], False),
        # and what was left out for its sake stays then too
        ({}, [A], [(15, 10, 35, 30, 0.90005, 0), (6, 10, 24, 30, 0.5, 0)], True),
    ],
)
def test_ties(spec, ours, theirs, tie):
    tally = agreement(**spec)
    reason = tally.add(objects(*ours), objects(*theirs), both(*ours, *theirs))
    assert (reason == "") == tie
    assert tally.ties > 0 or not tie


def test_an_object_that_the_other_engine_never_had_is_no_tie():
    """A box that is moved by a pixel has the same score, and looks like one of two that repeat each other."""
    ours, theirs = objects(A), objects((11, 10, 31, 30, 0.9, 0))
    assert "misses" in agreement().add(ours, theirs, lambda: (ours, theirs))
    assert "misses" in agreement().add(ours, theirs)
    assert agreement().add(ours, theirs, both(A, (11, 10, 31, 30, 0.9, 0))) == ""


# ---------------------------------------------------------------- masks


def test_masks():
    solid = np.ones((20, 20), np.bool_)
    thinner, holed = solid.copy(), solid.copy()
    thinner[0], holed[8:12, 8:12] = False, False
    tally = agreement()
    assert tally.add(objects(A, masks=(solid,)), objects(A, masks=(solid,))) == ""
    assert tally.mask_iou == 1
    assert tally.add(objects(A, masks=(solid,)), objects(A, masks=(thinner,))) == ""  # a row comes or goes
    assert tally.mask_iou == pytest.approx(0.95)
    assert "mask of a 'cat'" in tally.add(objects(A, masks=(solid,)), objects(A, masks=(holed,)))
    assert "has none" in tally.add(objects(A, masks=(solid,)), objects(A))
