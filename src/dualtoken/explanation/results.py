"""What an explanation of one image holds, as objects, as JSON and in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dualtoken.explanation.attention import BlockRecord, TokenRecord
from dualtoken.explanation.faithfulness import Faithfulness, Sanity, numbers, short
from dualtoken.explanation.heat import Heat
from dualtoken.explanation.targets import Target
from dualtoken.explanation.views import View


@dataclass(frozen=True, eq=False)
class TargetExplanation:
    """One part of an answer, explained.

    Attributes:
        target: what was asked about.
        heat: its map.
        faithfulness: deletion and insertion.
        sanity: the comparison with fresh weights; None where the model's own are fresh.
        peak: the pixel of the image, x and y counted from 0, where the map is strongest.
    """

    target: Target
    heat: Heat
    faithfulness: Faithfulness
    sanity: Sanity | None
    peak: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Explanation:
    """One image, explained.

    Attributes:
        path: the image's path or name, None for pixels without one.
        view: what the network saw of it.
        targets: a heat map with its proofs for each part of the answer that was asked about.
        tokens: what the global tokens did; None for architectures without.
        blocks: of the blocks whose attention is drawn.
        pixel: x, y in pixels of the image, counted from 0: whose attention is drawn.
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
            "pixel": [round(value, 2) for value in self.pixel],
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
                {"block": step.block, "change": numbers(step.change), "cosine": numbers(step.cosine)}
                for step in tokens.path()
            ],
            "notes": list(tokens.notes),
        }

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = []
        for part in self.targets:
            worth, sanity = part.faithfulness, part.sanity
            lines += [
                f"{part.target.name} {short(part.target.score)}, strongest at {part.peak[0]},{part.peak[1]}",
                f"  deletion {short(worth.deletion)}, insertion {short(worth.insertion)}, {worth.noise()}:"
                f" {worth.verdict()}",
            ]
            if sanity is not None:
                mean = "not known" if sanity.mean is None else f"{sanity.mean:.2f}"
                lines.append(f"  correlation with fresh weights {mean}, {sanity.verdict()}")
        return "\n".join([*lines, *self.notes])


def _target_dict(part: TargetExplanation, seen: View) -> dict[str, Any]:
    target = part.target
    box = None
    if target.box is not None:
        left, top, right, bottom = target.box
        box = numbers((*seen.to_image((left, top)), *seen.to_image((right, bottom))))
    return {
        "label": target.name,
        "score": numbers(target.score),
        "answered": target.answered,
        "box": box,
        "region_share": None if target.region is None else round(float(target.region.mean()), 4),
        "method": part.heat.method,
        "levels": list(part.heat.levels),
        "map": numbers(part.heat.values),
        "peak": list(part.peak),
        "faithfulness": part.faithfulness.to_dict(),
        "fresh_weights": None if part.sanity is None else part.sanity.to_dict(),
    }


def _block_dict(block: BlockRecord, share: tuple[float, float]) -> dict[str, Any]:
    content: dict[str, Any] = {"block": block.name, "image_grid": list(block.image_grid)}
    for name in ("broadcast", "aggregation", "fusion"):
        attention = getattr(block, name)
        if attention is None:
            content[name] = None
        elif name == "broadcast" or attention.queries[0] > 1:
            content[name] = {"from": "the pixel's token", "heads": numbers(attention.from_position(*share))}
        else:
            mean = attention.weights.mean(axis=1).reshape(-1, *attention.keys)
            content[name] = {"from": "all tokens, mean", "heads": numbers(mean)}
    return content
