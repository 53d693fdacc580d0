"""DualToken: light-weight vision models from a folder of images to predictions.

The public names below are imported when first used, so that `import dualtoken` and the command line
stay quick and need no torch. The models are registered in timm as soon as both are imported.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from dualtoken import _timm_hook

if TYPE_CHECKING:
    from dualtoken.backbone import create_model
    from dualtoken.evaluation import compare, evaluate
    from dualtoken.images import open_image
    from dualtoken.prediction import load, predict
    from dualtoken.training import train

_HOMES = {
    "create_model": "dualtoken.backbone",
    "compare": "dualtoken.evaluation",
    "evaluate": "dualtoken.evaluation",
    "load": "dualtoken.prediction",
    "open_image": "dualtoken.images",
    "predict": "dualtoken.prediction",
    "train": "dualtoken.training",
}

__version__ = metadata.version("dualtoken")
__all__ = ["__version__", "compare", "create_model", "evaluate", "load", "open_image", "predict", "train"]

_timm_hook.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dualtoken' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
