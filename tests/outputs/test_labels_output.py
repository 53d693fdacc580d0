import numpy as np
import pytest

from dualtoken.outputs import Labels

ANSWER = Labels(("cat", "dog", "owl"), np.array([0.4, 0.9, 0.7]), np.array([0.3, 0.5, 0.8]), "photo.jpg")


def test_labels_are_those_that_reach_their_own_threshold_the_best_first():
    assert [label for label, _ in ANSWER.labels] == ["dog", "cat"]
    assert ANSWER.found.tolist() == [True, True, False]
    assert [label for label, _ in ANSWER.above(0.6).labels] == ["dog", "owl"]
    assert ANSWER.above(1.0).describe() == "nothing"
    assert ANSWER.describe() == "dog 90%, cat 40%"
    assert ANSWER.top(2) == [("dog", pytest.approx(0.9)), ("owl", pytest.approx(0.7))]


def test_as_json():
    content = ANSWER.to_dict(top=1)
    assert content["path"] == "photo.jpg"
    assert [entry["label"] for entry in content["labels"]] == ["dog", "cat"]
    assert [entry["label"] for entry in content["top"]] == ["dog"]


def test_classes_in_another_order():
    other = ANSWER.reordered(("owl", "cat", "dog"))
    assert other.labels == ANSWER.labels
    assert other.thresholds.tolist() == pytest.approx([0.8, 0.3, 0.5])


@pytest.mark.parametrize(
    ("probabilities", "thresholds"),
    [([0.1], [0.5, 0.5]), ([0.1, 1.1], [0.5, 0.5]), ([0.1, np.nan], [0.5, 0.5]), ([0.1, 0.2], [0.5])],
)
def test_what_does_not_fit_together_is_refused(probabilities, thresholds):
    with pytest.raises(ValueError, match=r"expected|must lie"):
        Labels(("a", "b"), np.array(probabilities), np.array(thresholds))
