"""Models by name: those that come with the package, and those of the Hugging Face Hub, both ways.

folder = find_model("dualtoken-vit-t-cifar10")
push_to_hub("runs/pets", "me/pets", private=True)
"""

from __future__ import annotations

from dualtoken.hub.bundled import BUNDLED, DEFAULT, bundled_folder
from dualtoken.hub.card import model_card
from dualtoken.hub.download import download
from dualtoken.hub.names import HUB_PREFIX, find_folder, find_model, find_pretrained, is_named, missing_model
from dualtoken.hub.portable import portable
from dualtoken.hub.push import Pushed, push_to_hub

__all__ = [
    "BUNDLED",
    "DEFAULT",
    "HUB_PREFIX",
    "Pushed",
    "bundled_folder",
    "download",
    "find_folder",
    "find_model",
    "find_pretrained",
    "is_named",
    "missing_model",
    "model_card",
    "portable",
    "push_to_hub",
]
