"""Run lengths: equal to pycocotools', and damaged ones are refused."""

from __future__ import annotations

import numpy as np
import pytest

from dualtoken.data import runs

coco = pytest.importorskip("pycocotools.mask")


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    random = [rng.random(shape) < share for shape, share in (((7, 5), 0.5), ((40, 61), 0.02), ((40, 61), 0.98))]
    block = np.zeros((50, 300), bool)
    block[10:20, 3:290] = True
    return [*random, block, np.ones((4, 3), bool), np.zeros((4, 3), bool)]


@pytest.mark.parametrize("mask", masks())
def test_packing_is_that_of_pycocotools(mask: np.ndarray) -> None:
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    lengths = runs.lengths_of(mask)
    assert runs.pack(lengths) == theirs["counts"].decode()
    assert runs.unpack(runs.pack(lengths)) == lengths
    runs.check(lengths, mask.shape)
    area, box = runs.area_and_box(lengths, mask.shape[0])
    left, top, width, height = coco.toBbox(theirs).tolist()
    assert area == mask.sum()
    assert box == ((left, top, left + width, top + height) if area else None)


@pytest.mark.parametrize("text", ["\x00", "o", "\u20ac", "oooooooooooooooooo0"])
def test_damaged_strings_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        runs.unpack(text)


@pytest.mark.parametrize("lengths", [[5, 8], [12, -1, 1], []])
def test_runs_must_fill_the_mask(lengths: list[int]) -> None:
    with pytest.raises(ValueError):
        runs.check(lengths, (4, 3))
