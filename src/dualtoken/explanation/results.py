"""What an explanation of one image holds, as objects, as JSON and in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dualtoken.explanation.attention import BlockRecord, TokenRecord
from dualtoken.explanation.faithfulness import Faithfulness, Sanity
from dualtoken.explanation.heat import Heat
from dualtoken.explanation.targets import Target
from dualtoken.explanation.views import View


@dataclass(frozen=True, eq=False)
class TargetExplanation:
    """One part of an answer, explained."""

    target: Target
    heat: Heat
    faithfulness: Faithfulness
    sanity: Sanity
    peak: tuple[float, float]  # x, y in pixels of the image


@dataclass(frozen=True, eq=False)
class Explanation:
    """One image, explained.

    Attributes:
        path: the image's path or name, None for pixels without one.
        view: what the network saw of it.
        targets: a heat map with its proofs for each part of the answer that was asked about.
        tokens: what the global tokens did; None for architectures without.
        blocks: of the blocks whose attention is drawn.
        pixel: x, y in pixels of the image: whose attention is drawn.
        position: the same in pixels of the network's input.
        notes: what there is not, in words.
        files: what was written, by kind.
    """

    path: str | None
    view: View
    targets: tuple[TargetExplanation, ...]
    tokens: TokenRecord | None
    blocks: tuple[BlockRecord, ...]
    pixel: tuple[float, float]
    position: tuple[float, float]
    notes: tuple[str, ...] = ()
    files: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values: every number that the figures show."""
        return {
            "path": self.path,
            "height": self.view.size[0],
            "width": self.view.size[1],
            "pixel": _numbers(self.pixel),
            "targets": [_target_dict(part, self.view) for part in self.targets],
            "tokens": None if self.tokens is None else self._tokens_dict(self.tokens),
            "notes": list(self.notes),
            "files": self.files,
        }

    def _tokens_dict(self, tokens: TokenRecord) -> dict[str, Any]:
        height, width = self.view.preprocessing.image_size
        share = self.position[0] / width, self.position[1] / height
        return {
            "blocks": [_block_dict(block, share) for block in self.blocks],
            "path": [
                {"block": step.block, "change": _numbers(step.change), "cosine": _numbers(step.cosine)}
                for step in tokens.path()
            ],
            "notes": list(tokens.notes),
        }

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = []
        for part in self.targets:
            worth, sanity = part.faithfulness, part.sanity
            mean = "not known" if sanity.mean is None else f"{sanity.mean:.2f}"
            random = f"{min(worth.random):.2f} to {max(worth.random):.2f}"
            lines += [
                f"{part.target.name} {part.target.score:.2f}, strongest at {part.peak[0]:.0f},{part.peak[1]:.0f}",
                f"  deletion {worth.deletion:.2f}, insertion {worth.insertion:.2f}, random maps {random}:"
                f" {worth.verdict()}",
                f"  correlation with fresh weights {mean}, {sanity.verdict()}",
            ]
        return "\n".join([*lines, *self.notes])


def _target_dict(part: TargetExplanation, seen: View) -> dict[str, Any]:
    target = part.target
    box = None
    if target.box is not None:
        left, top, right, bottom = target.box
        box = _numbers((*seen.to_image((left, top)), *seen.to_image((right, bottom))))
    return {
        "label": target.name,
        "score": round(target.score, 4),
        "answered": target.answered,
        "box": box,
        "region_share": None if target.region is None else round(float(target.region.mean()), 4),
        "method": part.heat.method,
        "levels": list(part.heat.levels),
        "map": _numbers(part.heat.values),
        "peak": _numbers(part.peak),
        "faithfulness": part.faithfulness.to_dict(),
        "fresh_weights": part.sanity.to_dict(),
    }


def _block_dict(block: BlockRecord, share: tuple[float, float]) -> dict[str, Any]:
    content: dict[str, Any] = {"block": block.name, "image_grid": list(block.image_grid)}
    for name in ("broadcast", "aggregation", "fusion"):
        attention = getattr(block, name)
        if attention is None:
            content[name] = None
        elif name == "broadcast" or attention.queries[0] > 1:
            content[name] = {"from": "the pixel's token", "heads": _numbers(attention.from_position(*share))}
        else:
            mean = attention.weights.mean(axis=1).reshape(-1, *attention.keys)
            content[name] = {"from": "all tokens, mean", "heads": _numbers(mean)}
    return content


def _numbers(values: Any) -> Any:
    """Nested lists with four significant digits."""
    if isinstance(values, np.ndarray | list | tuple):
        return [_numbers(value) for value in values]
    return float(f"{float(values):.4g}")
