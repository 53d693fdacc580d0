"""Images that a network is calibrated on, and how far two runs over them are apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import DataError

# Images (B, 3, H, W), or a tuple of one array for each of the network's inputs.
Feed = NDArray[Any] | Sequence[NDArray[Any]]
Outputs = list[NDArray[Any]]


def one_by_one(calibration: Iterable[Feed]) -> Iterator[Outputs]:
    """A list of inputs for each image; tuples are taken as they are, since their parts belong together.

    Raises:
        DataError: there is none.
    """
    empty = True
    for feed in calibration:
        parts = ([feed[i : i + 1]] for i in range(len(feed))) if isinstance(feed, np.ndarray) else [list(feed)]
        for part in parts:
            empty = False
            yield part
    if empty:
        raise DataError("There are no calibration images.", "INT8 needs a few dozen images of the kind to come.")


def distance(found: Sequence[Outputs], reference: Sequence[Outputs]) -> float:
    """How far the outputs over some images are from others: the relative error of the worst output.

    Infinite where something is no number.
    """
    worst = 0.0
    for output in range(len(reference[0])):
        a = np.concatenate([run[output].ravel() for run in found]).astype(np.float64)
        b = np.concatenate([run[output].ravel() for run in reference]).astype(np.float64)
        error = float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-30)
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return float(worst)
