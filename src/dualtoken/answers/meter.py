"""What judges answers: images pass through one by one, and only a few numbers of each are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.bootstrap import interval_ends, widened
from dualtoken.answers.evaluation import Evaluation
from dualtoken.answers.kinds import Kind, kind_of
from dualtoken.outputs import Interval, Metric

Weights = NDArray[np.int64]  # (N,) how often each image counts


class Meter(ABC):
    """Judges the answers of one model.

    Args:
        classes: K class names; labels of answers and truth are indices into them.

    Attributes:
        task: key in `KINDS`.
        resamples: how often the images are drawn again for intervals, if not said otherwise.
    """

    task: ClassVar[str]
    resamples: ClassVar[int] = 1000

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._indices: list[int] = []

    @property
    def kind(self) -> Kind:
        """The kind of answers that it judges."""
        return kind_of(self.task)

    def __len__(self) -> int:
        """Number of images that count."""
        return len(self._indices)

    @abstractmethod
    def add(self, answer: Any, truth: Any, index: int) -> None:
        """One image: its answer, its truth as `Kind.truth` gives it, and its place in the samples of the split.

        Raises:
            ValueError: the answer has other classes or another size.
        """

    def join(self, other: Self) -> None:
        """Take the images that another meter has seen, after its own: lists grow, counts and arrays are added.

        A meter whose numbers refer to each other says itself how they are joined.
        """
        for name, theirs in vars(other).items():
            own = getattr(self, name)
            if isinstance(own, list):
                own.extend(theirs)
            elif isinstance(own, np.ndarray):
                own += theirs

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """The main metrics of all images so far: quick, without intervals."""

    @abstractmethod
    def counter(self) -> Callable[[Weights | None], Any]:
        """Made once: counts what the metrics are measured from (`Metric.of`), each image as often as it is told."""

    def scorer(self) -> Callable[[Weights | None], float]:
        """Made once: the leading metric, each image counted as often as it is told; NaN if it cannot be told."""
        counted, of = self.counter(), self.kind.metrics[self.kind.leading].of
        assert of is not None  # a metric without a way to measure it leads nowhere
        return lambda weights: float(of(counted(weights)))

    @abstractmethod
    def image_scores(self) -> NDArray[np.float64]:
        """(N,) how good the answer to each image is, in the order of `indices`."""

    @abstractmethod
    def results(self, seed: int, resamples: int) -> dict[str, Any]:
        """The fields of an `Evaluation` that are measured, with intervals from so many draws of the images."""

    def fit(self) -> dict[str, Any]:
        """What a model's config takes from validation images, such as a temperature; it holds here from now on."""
        return {}

    def truths(self) -> int:
        """How much there was to be found: two models are compared on the same."""
        return len(self)

    def indices(self) -> NDArray[np.int64]:
        """(N,) the places in the split of the images that count, rising."""
        return np.sort(np.array(self._indices, np.int64))

    def order(self) -> NDArray[np.int64]:
        """(N,) which of the images, in the order they came, stands at each place of `indices`."""
        return np.argsort(np.array(self._indices, np.int64), kind="stable")

    def evaluation(
        self,
        *,
        model: str = "",
        source: str = "",
        split: str = "",
        bad_images: Sequence[tuple[str, str]] = (),
        seed: int = 0,
        resamples: int | None = None,
    ) -> Evaluation:
        """All that was measured, with 95 % intervals from drawing the images again (`resamples` times)."""
        resamples = self.resamples if resamples is None else resamples
        return Evaluation(
            task=self.task, model=model, source=source, split=split, classes=self.classes,
            bad_images=tuple(bad_images), seed=seed, resamples=resamples, **self.results(seed, resamples),
        )  # fmt: skip


def measured(
    table: Mapping[str, Metric], point: Any, redrawn: Sequence[Any], trials: int | Mapping[str, int]
) -> dict[str, Interval]:
    """Each metric of a table with its interval.

    A draw cannot tell more than the images do. Of one image it repeats the same value: a share's interval is then 0 to
    1. Where all is right, or nothing, each draw says so too: the exact binomial bound takes the interval's place.

    Args:
        table: metrics that have `of`.
        point: what was counted, as `of` takes it.
        redrawn: the same of each draw of the images.
        trials: images that the values rest on; by key where they differ.
    """
    found = {}
    for name, metric in table.items():
        if metric.of is None:
            continue
        value = float(metric.of(point))
        if value != value:
            if metric.always:
                found[name] = Interval(0.0, 0.0, 1.0)
            continue
        number = trials if isinstance(trials, int) else trials.get(name, trials[""])
        drawn = np.array([metric.of(draw) for draw in redrawn] or [value], np.float64)
        low, high = interval_ends(np.array([value]), drawn[:, None], upper=1.0 if metric.percent else np.inf)
        interval = Interval(value, float(low[0]), float(high[0]))
        if metric.exact:
            interval = Interval(value, 0.0, 1.0) if number < 2 else widened(interval, number)
        found[name] = interval
    return found
