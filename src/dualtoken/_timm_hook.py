"""Register our models in timm on `import dualtoken`, without importing timm (and torch) ourselves.

If timm is already there, they are registered at once; otherwise the moment timm is imported. So
`import dualtoken` costs milliseconds, and `timm.create_model("dualtoken_vit_s")` works in either order.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:  # whose import costs more than all of this package's; nothing of them is needed
    Loader = MetaPathFinder = object

_BACKBONE = "dualtoken.backbone.registry"  # its import runs timm's @register_model


class _ThenRegister(Loader):
    """timm's own loader, followed by the import of our backbone."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # resources, source: as timm's own loader answers

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        importlib.import_module(_BACKBONE)


class _WhenTimmIsImported(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("timm")
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


def install() -> None:
    """Register now if timm is imported, else as soon as it is."""
    if "timm" in sys.modules:
        importlib.import_module(_BACKBONE)
    elif not any(isinstance(finder, _WhenTimmIsImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenTimmIsImported())
