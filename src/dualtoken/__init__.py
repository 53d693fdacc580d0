"""DualToken: light-weight vision models from a folder of images to predictions.

The public names below are imported when first used, so that `import dualtoken` and the command line
stay quick and need no torch. The models are registered in timm as soon as both are imported.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dualtoken import _timm_hook

if TYPE_CHECKING:
    from dualtoken.backbone import create_model
    from dualtoken.evaluation import compare, evaluate
    from dualtoken.explanation import explain
    from dualtoken.export import export, verify
    from dualtoken.hub import push_to_hub
    from dualtoken.images import open_image
    from dualtoken.lab.benchmark import benchmark
    from dualtoken.prediction import from_pretrained, load, predict
    from dualtoken.training import train
    from dualtoken.training.distillation import distill

    __version__: str

_HOMES = {
    "benchmark": "dualtoken.lab.benchmark",
    "compare": "dualtoken.evaluation",
    "create_model": "dualtoken.backbone",
    "distill": "dualtoken.training.distillation",
    "evaluate": "dualtoken.evaluation",
    "explain": "dualtoken.explanation",
    "export": "dualtoken.export",
    "from_pretrained": "dualtoken.prediction",
    "load": "dualtoken.prediction",
    "open_image": "dualtoken.images",
    "predict": "dualtoken.prediction",
    "push_to_hub": "dualtoken.hub",
    "train": "dualtoken.training",
    "verify": "dualtoken.export",
}

__all__ = [
    "__version__",
    "benchmark",
    "compare",
    "create_model",
    "distill",
    "evaluate",
    "explain",
    "export",
    "from_pretrained",
    "load",
    "open_image",
    "predict",
    "push_to_hub",
    "train",
    "verify",
]

_timm_hook.install()


class _Package(ModuleType):
    """This package, in which `export` and `benchmark` are functions, though rooms are called so too."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return  # Python would put each room here when it is imported; `from dualtoken.export import ...` needs none
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "__version__":  # looked up when asked for: half of the time of importing this package
        return importlib.import_module("importlib.metadata").version("dualtoken")
    raise AttributeError(f"module 'dualtoken' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
