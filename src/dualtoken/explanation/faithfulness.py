"""What a heat map is worth: take away what it points at, bring it back, and ask a network that has learned nothing.

Deletion and insertion are those of RISE (Petsiuk et al. 2018), with maps of noise beside them; the other proof is the
sanity check of Adebayo et al. (2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualtoken.explanation.heat import Floats, Heat
from dualtoken.explanation.targets import Scorer
from dualtoken.explanation.views import Part

Baseline = Literal["blur", "grey"]
BASELINES: tuple[Baseline, ...] = ("blur", "grey")

RANDOM_MAPS = 5
FRESH_COPIES = 3
HIGH = 0.5  # rank correlation with a network of fresh weights, from which on a map says little of what was learned
SOME = 0.3
STILL = 0.02  # a score that moves less on all its ways says nothing about the map
_AT_ONCE = 8  # images


def short(score: float) -> str:
    """A score for people: two digits behind the point, more of a small one.

    >>> short(0.524), short(0.1), short(0.00123), short(0.0)
    ('0.52', '0.10', '0.0012', '0.00')
    """
    return f"{score:.2f}" if abs(score) >= 0.095 or score == 0 else f"{score:.2g}"


def numbers(values: Any) -> Any:
    """A number, or nested lists of them, with four significant digits."""
    if isinstance(values, np.ndarray | list | tuple):
        return [numbers(value) for value in values]
    return float(f"{float(values):.4g}")


@dataclass(frozen=True)
class Faithfulness:
    """Deletion and insertion of one map.

    Attributes:
        deletion: mean score while the pixels that the map holds for most important are taken away first, 0 to 1; a
            good map makes it small.
        insertion: mean score while they are brought back first; a good map makes it large.
        random: the same for maps of noise, where both mean the same.
        shares: (n,) of the image's pixels that are taken away, or brought back, from 0 to 1.
        deletion_curve, insertion_curve: (n,) scores at these shares.
        random_curve: (n,) mean score of the maps of noise while pixels are taken away.
        baseline: what stands where pixels are away: `blur` or `grey`.
    """

    deletion: float
    insertion: float
    random: tuple[float, ...]
    shares: tuple[float, ...]
    deletion_curve: tuple[float, ...]
    insertion_curve: tuple[float, ...]
    random_curve: tuple[float, ...]
    baseline: str

    @property
    def better(self) -> tuple[bool, bool]:
        """Whether deletion, and insertion, beat every map of noise."""
        return self.deletion < min(self.random), self.insertion > max(self.random)

    @property
    def moved(self) -> float:
        """How far apart the largest and the smallest score are, of all that were watched."""
        scores = (*self.deletion_curve, *self.insertion_curve, *self.random_curve, *self.random)
        return max(scores) - min(scores)

    def noise(self) -> str:
        """What the maps of noise reached, in words."""
        return f"{len(self.random)} random maps {short(min(self.random))} to {short(max(self.random))}"

    def verdict(self) -> str:
        """In words."""
        if self.moved < STILL:
            return f"too small to say: the score moves by {short(self.moved)} only"
        deletion, insertion = self.better
        if deletion and insertion:
            return "better than every random map, in deletion and insertion"
        if deletion or insertion:
            return f"better than every random map in {'deletion' if deletion else 'insertion'} only"
        return "no better than random maps"

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values."""
        measured = {name: numbers(value) for name, value in asdict(self).items() if name != "baseline"}
        return measured | {"baseline": self.baseline, "verdict": self.verdict()}


@dataclass(frozen=True, eq=False)
class Sanity:
    """The same map of copies of the network with fresh weights.

    Attributes:
        correlations: rank correlation of the map with each copy's, -1 to 1; None where a copy's map is flat.
        example: the first copy's map.
    """

    correlations: tuple[float | None, ...]
    example: Heat

    @property
    def mean(self) -> float | None:
        """The mean correlation without its sign, which chance gives to fresh weights; None where all maps are flat."""
        known = [abs(value) for value in self.correlations if value is not None]
        return float(np.mean(known)) if known else None

    def verdict(self) -> str:
        """In words."""
        if self.mean is None:
            return "a network with fresh weights gives a flat map: nothing to compare with"
        if self.mean >= HIGH:
            return "high: much of this map does not depend on what was learned"
        if self.mean >= SOME:
            return "moderate: a part of this map does not depend on what was learned"
        return "low: nothing against this map"

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values."""
        return {
            "rank_correlations": [None if value is None else round(value, 4) for value in self.correlations],
            "mean_without_sign": None if self.mean is None else round(self.mean, 4),
            "verdict": self.verdict(),
        }


# ---------------------------------------------------------------- deletion and insertion


def measure(
    heats: Sequence[Heat],
    scorer: Scorer,
    image: Tensor,
    part: Part,
    *,
    baseline: Baseline = "blur",
    steps: int = 16,
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> list[Faithfulness]:
    """Deletion and insertion of the map of each target.

    A map of noise that deletes in one order inserts in the reverse one, which is noise as well: the same images serve
    both, and the maps of noise serve all targets.

    Args:
        heats: one for each of the scorer's questions.
        scorer: what is asked.
        image: (1, 3, H, W), pre-processed.
        part: of it that the image fills; pixels of the border stay.
        baseline: `blur` or `grey`, the mean colour.
        steps: parts that the pixels are taken away in.
        seed: decides the maps of noise.
        step: called after each map, for showing how far it is.
    """
    size = (image.shape[2], image.shape[3])
    shares = np.linspace(0, 1, steps + 1)
    empty = image.clone()
    empty[..., part.rows, part.columns] = without(image, baseline)[..., part.rows, part.columns]
    rng = np.random.default_rng([seed, 1])
    grid = heats[0].values.shape
    noise = []
    for _ in range(RANDOM_MAPS):
        random = Heat(rng.random(grid, np.float32), "random", ())
        noise.append(_scores(scorer, _mixtures(image, empty, ranks(random.over(size), part), shares)))
        step()
    curves = np.stack(noise)  # (maps, shares, T)
    results = []
    for number, heat in enumerate(heats):
        order = ranks(heat.over(size), part)
        deletion = _scores(scorer, _mixtures(image, empty, order, shares))[:, number]
        insertion = _scores(scorer, _mixtures(empty, image, order, shares))[:, number]
        results.append(
            Faithfulness(
                area(deletion, shares), area(insertion, shares),
                tuple(area(curve, shares) for curve in curves[:, :, number]),
                tuple(shares.tolist()), tuple(deletion.tolist()), tuple(insertion.tolist()),
                tuple(curves[:, :, number].mean(axis=0).tolist()), baseline,
            )
        )  # fmt: skip
        step()
    return results


def without(image: Tensor, baseline: Baseline) -> Tensor:
    """The image (1, 3, H, W) with nothing to recognise: strongly blurred, or of the mean colour."""
    if baseline == "grey":
        return torch.zeros_like(image)
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = min(image.shape[2:]) / 8
    kernel = 2 * round(1.9 * sigma) + 1  # its half fits into the image, which is mirrored at its edges
    blurred: Tensor = gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    return blurred


def ranks(heat: Floats, part: Part) -> NDArray[np.float32]:
    """(H, W) which share of the part's pixels is more important than this one, in [0, 1); 1 outside of the part."""
    inside = heat[part.rows, part.columns]
    order = np.argsort(-inside, axis=None, kind="stable")
    places = np.empty(inside.size, np.float32)
    places[order] = np.arange(inside.size, dtype=np.float32) / inside.size
    result = np.ones(heat.shape, np.float32)
    result[part.rows, part.columns] = places.reshape(inside.shape)
    return result


def _mixtures(first: Tensor, then: Tensor, order: NDArray[np.float32], shares: NDArray[np.float64]) -> Iterator[Tensor]:
    """Batches in which a growing share of the pixels is no more `first` but `then`, by `order`."""
    rank = torch.from_numpy(order).to(first.device)
    for start in range(0, len(shares), _AT_ONCE):
        limits = torch.from_numpy(shares[start : start + _AT_ONCE].astype(np.float32)).to(first.device)
        yield torch.where(rank < limits[:, None, None, None], then, first)


@torch.no_grad()
def _scores(scorer: Scorer, batches: Iterable[Tensor]) -> NDArray[np.float64]:
    """(images, T)"""
    return np.concatenate([scorer.scores(batch).double().cpu().numpy() for batch in batches])


def area(curve: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    """Area under a curve over [0, 1], by trapezoids."""
    return float(np.trapezoid(curve, shares))


# ---------------------------------------------------------------- sanity


def compare_with_fresh(heat: Heat, fresh: Sequence[Heat]) -> Sanity:
    """How much a map is like those of copies with fresh weights, on the map's own grid."""
    return Sanity(tuple(rank_correlation(heat.values, other.values) for other in fresh), fresh[0])


def rank_correlation(first: Floats, second: Floats) -> float | None:
    """Spearman's, of two arrays of one shape; equal numbers share their mean rank. None where one is constant."""
    a, b = (_ranked(values.ravel()) for values in (first, second))
    if not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranked(values: Floats) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
