"""What a kind of answer is. `KINDS` has one entry each, put there by the file that defines it.

A new kind is a file in this folder with a subclass of `Kind` under `@register`, and one in `tasks/` that trains it.
Everything else asks the entry and never its name. Nothing here needs torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.agreement import Agreement
from dualtoken.engines import Engine
from dualtoken.errors import ModelError, unknown_name
from dualtoken.postprocess import require_finite
from dualtoken.preprocess import Preprocessing

Size = tuple[int, int]


class Described(Protocol):
    """What a model's config says that answers need; a `ModelConfig` is one."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def head(self) -> str: ...
    @property
    def head_args(self) -> dict[str, Any]: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def temperature(self) -> float: ...
    @property
    def threshold(self) -> float: ...


class Kind(ABC):
    """One kind of answer.

    Attributes:
        name: key in `KINDS`, and of the task that learns it in `tasks.TASKS`.
    """

    name: ClassVar[str]

    # ---------------------------------------------------------------- from raw outputs to answers

    def outputs(self, config: Described, engine: Engine, images: NDArray[np.float32]) -> Any:
        """What `read` reads: here the one output of the part `network`, float32, an image a row.

        Args:
            config: of the model.
            engine: computes its network.
            images: (B, 3, H, W) float32, pre-processed as `config` says.

        Raises:
            ModelError: the network gives something that is no number, or of another shape than `config` says.
        """
        (raw,) = engine.run("network", [images])
        require_finite(raw)
        return raw

    @abstractmethod
    def read(self, config: Described, raw: Any, sizes: Sequence[Size]) -> list[Any]:
        """Raw outputs of a batch to one answer an image, without the threshold.

        Args:
            config: of the model.
            raw: what `outputs` gave, or the network in training.
            sizes: (height, width) of each image before it was pre-processed, in pixels.

        Raises:
            ModelError: something is no number.
        """

    def answer(
        self, config: Described, engine: Engine, images: NDArray[np.float32], sizes: Sequence[Size]
    ) -> list[Any]:
        """`outputs`, read: one answer an image."""
        return self.read(config, self.outputs(config, engine, images), sizes)

    def agreement(self, config: Described, limit: float) -> Agreement:
        """Compares the answers of two engines for the parity check.

        Args:
            config: of the model.
            limit: largest difference of raw outputs, relative to the largest one.
        """
        raise ModelError(f"Answers of the kind {self.name} have no parity check.")


KINDS: dict[str, Kind] = {}


def register(kind: type[Kind]) -> type[Kind]:
    """Put a kind into `KINDS`, under its name."""
    KINDS[kind.name] = kind()
    return kind


def kind_of(name: str) -> Kind:
    """The entry of `KINDS`.

    Raises:
        ModelError: this version has no such kind.
    """
    if name not in KINDS:
        raise ModelError(unknown_name("task", name, KINDS), "Type: pip install --upgrade dualtoken")
    return KINDS[name]


def require_shape(logits: NDArray[Any], expected: tuple[int, int], axes: int) -> None:
    """Logits have (B, K) as `expected` and then the rest of `axes` axes.

    Raises:
        ModelError: they have not.
    """
    if logits.ndim != axes or logits.shape[:2] != expected:
        rest = ", height, width" if axes == 4 else ""
        raise ModelError(f"The network gives {logits.shape}, expected {str(expected)[:-1]}{rest}).")


Registered = Callable[[type[Kind]], type[Kind]]
