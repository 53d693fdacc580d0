import json

import numpy as np
import pytest

from dualtoken.outputs import Classification, Interval

CLASSES = ("cat", "Hündchen", "bird")


def classification(*probabilities: float) -> Classification:
    return Classification(CLASSES, np.array(probabilities, np.float32), path="a.jpg")


def test_label_score_and_top():
    answer = classification(0.2, 0.7, 0.1)
    assert answer.label == "Hündchen"
    assert answer.score == pytest.approx(0.7)
    assert [label for label, _ in answer.top(2)] == ["Hündchen", "cat"]
    assert len(answer.top(99)) == 3


def test_equal_probabilities_keep_the_order_of_the_classes():
    assert [label for label, _ in classification(0.25, 0.5, 0.25).top()] == ["Hündchen", "cat", "bird"]


def test_to_dict_is_json():
    content = json.loads(json.dumps(classification(0.25, 0.5, 0.25).to_dict(2), allow_nan=False))
    assert content == {
        "path": "a.jpg",
        "label": "Hündchen",
        "score": 0.5,
        "top": [{"label": "Hündchen", "score": 0.5}, {"label": "cat", "score": 0.25}],
    }


@pytest.mark.parametrize(
    "wrong", [(0.5, 0.5), (0.5, 0.4, 0.05), (1.5, -0.25, -0.25), (float("nan"), 0.5, 0.5)], ids=str
)
def test_what_are_no_probabilities_is_refused(wrong):
    with pytest.raises(ValueError, match="probabilities"):
        classification(*wrong)


def test_intervals_are_written_with_their_ends():
    assert Interval(0.912, 0.894, 0.928).percent() == "91.2 % (89.4 to 92.8)"
    assert Interval(0.3124, 0.28, 0.35).plain() == "0.312 (0.280 to 0.350)"
