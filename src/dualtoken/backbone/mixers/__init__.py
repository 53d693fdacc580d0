"""Token mixers. A new one is a file beside these, or of any other package, that adds itself to `MIXERS`.

    MIXERS["mine"] = MyMixer

The contract: `Mixer(config, stage, block, drop_path, device, dtype)`, `stage` and `block` counted from 0, and
`forward(x, g) -> (x, g)` where x are the image tokens (B, H, W, C) and g the global tokens (B, h, w, C), or None where
none travel. Residual connections are the mixer's own; shapes are kept. `--set model_args={mixer: mine}` trains with it.

Most mixers of other papers read the image tokens alone: `branch.register_branch` takes them without norm and residual,
and offers them here as well as to the pyramids, their papers' own networks (docs/add-a-mixer.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dualtoken.registry import Registry

if TYPE_CHECKING:
    from torch import nn

MIXERS: Registry[Callable[..., nn.Module]] = Registry("mixer", __name__)
