"""By which names the official code of a paper keeps the tensors that we have, so that its checkpoints can serve here.

A family says it in its file, beside its network:

    OFFICIAL["mine"] = Official(((r"^stem\\.", "patch_embed."), ...))

The rules rewrite our names, one after the other, so that a checkpoint has to hold exactly what they give. There are no
rules for values: our networks are theirs. What timm has is carried across by timm's own filters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from dualtoken.registry import Registry

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class Official:
    """How a family's official code names what we have.

    Attributes:
        rules: patterns and replacements, as `re.sub` takes them, from our names to theirs.
        computed: pattern of what their checkpoints keep and we compute.
        crop_pct: share of the resized image that their evaluation looks at.
    """

    rules: tuple[Rule, ...]
    computed: str = "(?!)"
    crop_pct: float = 0.875

    def name_of(self, own: str) -> str:
        """Their name of the tensor that is `own` here."""
        for pattern, replacement in self.rules:
            own = re.sub(pattern, replacement, own)
        return own


# By family, and by name where a size differs from its family.
OFFICIAL: Registry[Official] = Registry("family", "dualtoken.backbone.mixers")


def numbered(name: str, times: int = 1, plus: int = 0) -> Callable[[re.Match[str]], str]:
    """A replacement that counts otherwise: `name` with `times * n + plus` for its braces, n the pattern's number."""
    return lambda match: name.format(times * int(match[1]) + plus)
