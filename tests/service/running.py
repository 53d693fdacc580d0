"""The verbs of the service as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx


class Running:
    """`dualtoken serve` or `app` on a port of its own."""

    def __init__(self, verb: str, *models: Path, options: Sequence[str] = ()) -> None:
        self.folder = models[0].parent
        command = [sys.executable, "-m", "dualtoken.cli", verb, *map(str, models), *options, "--port", "0"]
        (temporary := self.folder / "temporary").mkdir(exist_ok=True)
        warnings = "error" if verb == "serve" else "ignore"  # Gradio has some of its own
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            "PYTHONWARNINGS": warnings,
            "TMPDIR": str(temporary),
        }
        self.process = subprocess.Popen(
            [*command, "--plugin", "served_models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment, cwd=self.folder,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().rpartition(" ")[2].strip()
        assert self.address, self.process.communicate(timeout=20)
        self.client = httpx.Client(base_url=self.address, timeout=30)

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.communicate(timeout=20)
