"""Classification: a class for the whole image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Classification:
    """The answer for one image.

    Attributes:
        classes: K class names, in the order of `probabilities`.
        probabilities: (K,) float32, each in [0, 1], summing to 1.
        path: the image's path or name, None for pixels without one.
        logits: (K,) float32, what the network gave, before the temperature; None where it is not known.

    Raises:
        ValueError: the probabilities are none, or not one for each class.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    path: str | None = None
    logits: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        probabilities = np.asarray(self.probabilities, np.float32)
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "probabilities", probabilities)
        if probabilities.shape != (len(self.classes),) or not self.classes:
            raise ValueError(f"probabilities have shape {probabilities.shape}, expected ({len(self.classes)},).")
        if not np.all(probabilities >= 0) or abs(float(probabilities.sum(dtype=np.float64)) - 1) > 1e-3:
            raise ValueError(f"probabilities must be 0 or more and sum to 1, not to {probabilities.sum()}.")

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[int(self.probabilities.argmax())]

    @property
    def score(self) -> float:
        """The probability of `label`."""
        return float(self.probabilities.max())

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, best first; all, if there are fewer."""
        order = np.argsort(-self.probabilities, kind="stable")[: max(k, 0)]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """As JSON-friendly values: `path`, `label`, `score` and so many of the best as `top`."""
        best = [{"label": label, "score": score} for label, score in self.top(top)]
        return {"path": self.path, "label": self.label, "score": self.score, "top": best}

    def reordered(self, classes: tuple[str, ...]) -> Classification:
        """The same answer with its classes in another order."""
        order = [self.classes.index(name) for name in classes]
        logits = None if self.logits is None else self.logits[order]
        return replace(self, classes=classes, probabilities=self.probabilities[order], logits=logits)
