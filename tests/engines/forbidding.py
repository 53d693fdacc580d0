"""Run code in a process of its own where some packages cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Not pydantic: newer versions of typer stand on it.
HEAVY = (
    "torch", "torchvision", "timm", "matplotlib", "lightning", "lightning_fabric", "tensorboardX", "jinja2",
    "safetensors", "onnx", "onnxscript", "scipy",
)  # fmt: skip

_HOOK = """
import sys
class _Forbidding:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, _Forbidding())
"""


def run_without(forbidden: tuple[str, ...], code: str, **options) -> subprocess.CompletedProcess:
    """`code` in a new process."""
    environment = os.environ | {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb", "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", _HOOK.format(forbidden=forbidden) + code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


def dualtoken_without(forbidden: tuple[str, ...], *arguments: str | Path, **options) -> subprocess.CompletedProcess:
    """The command line with `arguments`, in a new process."""
    typed = ["dualtoken", *map(str, arguments)]
    return run_without(forbidden, f"sys.argv = {typed!r}\nfrom dualtoken.cli import main\nmain()", **options)
