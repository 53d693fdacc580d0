"""They are data as people would bring them: both kinds are found, and boxes lie around the ink."""

import numpy as np
import pytest
from PIL import Image

from dualtoken.data import find_data
from dualtoken.lab.digit_photos import write_digit_photos


@pytest.fixture(scope="module")
def digit_photos(tmp_path_factory):
    pytest.importorskip("sklearn")
    return write_digit_photos(tmp_path_factory.mktemp("digit-photos"), number=20)


def test_boxes_and_masks_are_found(digit_photos):
    boxes = find_data(digit_photos / "boxes", progress=False)
    masks = find_data(digit_photos / "masks", progress=False)
    assert (boxes.task, boxes.classes) == ("detection", tuple("0123456789"))
    assert (masks.task, masks.classes) == ("semantic_segmentation", ("paper", "ink"))
    assert {split: len(samples) for split, samples in boxes.splits.items()} == {"train": 14, "val": 3, "test": 3}


def test_ink_is_where_boxes_are(digit_photos):
    samples = find_data(digit_photos / "boxes", progress=False).splits["val"]
    for row in range(len(samples)):
        ink = np.array(Image.open(digit_photos / "masks" / "masks" / "val" / f"val-{row:03d}.png"))
        for left, top, right, bottom in samples.objects(row).boxes.astype(int):
            digit = ink[top:bottom, left:right]
            assert digit[0].any() and digit[-1].any() and digit[:, 0].any() and digit[:, -1].any()  # noqa: PT018
            digit[:] = 0
        assert not ink.any()
