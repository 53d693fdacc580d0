"""Token mixers. A new one is a file beside these and a line in `MIXERS`, or from outside `register_mixer`.

The contract: `Mixer(config, stage, drop_path, device, dtype)`, and `forward(x, g) -> (x, g)` where x are the
image tokens (B, H, W, C) and g the global tokens (B, h, w, C), or None where none travel. Residual
connections are the mixer's own; shapes are kept.
"""

from torch import nn

from dualtoken.backbone.config import CHOICES
from dualtoken.backbone.mixers.dual_token import DualTokenMixer
from dualtoken.backbone.mixers.lightvit import LightViTMixer

MIXERS: dict[str, type[nn.Module]] = {
    "dual_token": DualTokenMixer,
    "lightvit": LightViTMixer,
}


def register_mixer(name: str, mixer: type[nn.Module]) -> None:
    """Add a mixer: `--set model_args={mixer: NAME}` takes it then."""
    MIXERS[name] = mixer
    CHOICES["mixer"] = tuple(dict.fromkeys((*CHOICES["mixer"], name)))
