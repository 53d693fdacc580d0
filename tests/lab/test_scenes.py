"""Scenes are data as people would bring them: both kinds are found, and boxes lie around the ink."""

import numpy as np
import pytest
from PIL import Image

from dualtoken.data import find_data
from dualtoken.lab.scenes import write_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    pytest.importorskip("sklearn")
    return write_scenes(tmp_path_factory.mktemp("scenes"), number=20)


def test_boxes_and_masks_are_found(scenes):
    boxes = find_data(scenes / "boxes", progress=False)
    masks = find_data(scenes / "masks", progress=False)
    assert (boxes.task, boxes.classes) == ("detection", tuple("0123456789"))
    assert (masks.task, masks.classes) == ("semantic_segmentation", ("paper", "ink"))
    assert {split: len(samples) for split, samples in boxes.splits.items()} == {"train": 14, "val": 3, "test": 3}


def test_ink_is_where_boxes_are(scenes):
    samples = find_data(scenes / "boxes", progress=False).splits["val"]
    for row in range(len(samples)):
        ink = np.array(Image.open(scenes / "masks" / "masks" / "val" / f"val-{row:03d}.png"))
        for left, top, right, bottom in samples.objects(row).boxes.astype(int):
            digit = ink[top:bottom, left:right]
            assert digit[0].any() and digit[-1].any() and digit[:, 0].any() and digit[:, -1].any()  # noqa: PT018
            digit[:] = 0
        assert not ink.any()
