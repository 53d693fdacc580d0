"""Token mixers. A new one is a file beside these and a line in `MIXERS`.

The contract: `Mixer(config, stage, drop_path, device, dtype)`, and `forward(x, g) -> (x, g)` where x are the
image tokens (B, H, W, C) and g the global tokens (B, h, w, C), or None where none travel. Residual
connections are the mixer's own; shapes are kept.
"""

from torch import nn

from dualtoken.backbone.mixers.dual_token import DualTokenMixer
from dualtoken.backbone.mixers.lightvit import LightViTMixer

MIXERS: dict[str, type[nn.Module]] = {
    "dual_token": DualTokenMixer,
    "lightvit": LightViTMixer,
}
