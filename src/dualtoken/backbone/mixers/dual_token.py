"""The paper's mixer, which stands with the rest of its network in dualtoken.py."""

from dualtoken.backbone.dualtoken import DualTokenMixer
from dualtoken.backbone.mixers import MIXERS

MIXERS["dual_token"] = DualTokenMixer
