"""What the training loop asks for: batches, and an objective to lower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from dualtoken.preprocess import Preprocessing


class Batches(Protocol):
    """Batches (images, targets, indices) of a data set: `ImageLoader`, or one that asks teachers too."""

    @property
    def batch_sampler(self) -> Any:
        """Which images come when."""

    @property
    def dataset(self) -> Any:
        """Where they come from."""

    @property
    def batch_size(self) -> int | None:
        """Images in a batch."""

    @property
    def bad_images(self) -> tuple[tuple[str, str], ...]:
        """(path, reason) of the images left out so far."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose what the next iteration gives."""

    def __iter__(self) -> Iterator[tuple[Tensor, Any, Tensor]]: ...

    def __len__(self) -> int: ...


class Judge(Protocol):
    """Judges raw outputs, batch by batch."""

    def add(self, raw: Any, targets: Any, indices: Tensor) -> None:
        """Raw outputs of the network for a batch, what the loader gave with it, and the images' rows."""

    def figures(self) -> dict[str, float]:
        """What all batches so far say, by name."""

    def seen(self) -> Any:
        """What it kept of its batches, for the judge of another process."""

    def join(self, seen: Any) -> None:
        """Take what another judge has seen as its own."""


class Objective(Protocol):
    """What training lowers, and how its result is judged: a task, or what teachers say."""

    def loss(self, model: nn.Module, images: Tensor, targets: Any) -> Tensor:
        """A scalar."""

    def meter(self, samples: Any, preprocessing: Preprocessing) -> Judge:
        """Judges raw outputs for the validation images."""

    def score(self, figures: Mapping[str, float]) -> list[float]:
        """What decides which epoch is best: the larger list."""
