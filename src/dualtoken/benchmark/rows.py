"""What every measured row carries: command, commit, machine, threads, versions."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dualtoken.files import atomic_path
from dualtoken.machine import command_line, machine_name
from dualtoken.model_folder import versions


def provenance() -> dict[str, Any]:
    """Where and how this process measures: to be merged into each row that it writes."""
    import torch

    return {
        "command": command_line(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def append_rows(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a JSON lines file, whole or not at all."""
    path = Path(path)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with atomic_path(path) as temporary:
        temporary.write_text(before + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def commit() -> str | None:
    """The commit of the checkout that this package runs from, marked if it has changes; None where it is installed."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()
