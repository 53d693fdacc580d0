"""Labels: any number of classes for the whole image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.outputs.common import in_words


@dataclass(frozen=True, eq=False)
class Labels:
    """The answer for one image: the classes whose probability reaches their threshold, often several, perhaps none.

    Attributes:
        classes: K class names, in the order of `probabilities`.
        probabilities: (K,) float32, each in [0, 1], whatever the others are.
        thresholds: (K,) float32 in [0, 1].
        path: the image's path or name, None for pixels without one.
        logits: (K,) float32, what the network gave, before the calibration; None where it is not known.

    Raises:
        ValueError: the numbers are not one for each class, or out of their range.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    thresholds: NDArray[np.float32]
    path: str | None = None
    logits: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        for name in ("probabilities", "thresholds"):
            values = np.asarray(getattr(self, name), np.float32)
            object.__setattr__(self, name, values)
            if values.shape != (len(self.classes),) or not self.classes:
                raise ValueError(f"{name} have shape {values.shape}, expected ({len(self.classes)},).")
            if not np.all((values >= 0) & (values <= 1)):  # so written, NaN fails too
                raise ValueError(f"{name} must lie in 0 to 1.")

    @property
    def found(self) -> NDArray[np.bool_]:
        """(K,) which classes reach their threshold."""
        return self.probabilities >= self.thresholds

    @property
    def labels(self) -> list[tuple[str, float]]:
        """The classes that reach their threshold with their probabilities, best first."""
        order = np.argsort(-self.probabilities, kind="stable")
        return [(self.classes[i], float(self.probabilities[i])) for i in order[self.found[order]]]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, whatever the thresholds, best first."""
        order = np.argsort(-self.probabilities, kind="stable")[: max(k, 0)]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]

    def above(self, threshold: float) -> Labels:
        """The same answer with one threshold for all classes."""
        return replace(self, thresholds=np.full(len(self.classes), threshold, np.float32))

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """As JSON-friendly values: `path`, the `labels` found, and so many of the best as `top`."""
        found, best = (
            [{"label": label, "score": score} for label, score in part] for part in (self.labels, self.top(top))
        )
        return {"path": self.path, "labels": found, "top": best}

    def describe(self, most: int = 5) -> str:
        """In words: `cat 93 %, dog 61 %`."""
        return in_words([f"{label} {score:.0%}" for label, score in self.labels], most)

    def reordered(self, classes: tuple[str, ...]) -> Labels:
        """The same answer with its classes in another order."""
        order = [self.classes.index(name) for name in classes]
        logits = None if self.logits is None else self.logits[order]
        return replace(
            self, classes=classes, probabilities=self.probabilities[order], thresholds=self.thresholds[order],
            logits=logits,
        )  # fmt: skip
