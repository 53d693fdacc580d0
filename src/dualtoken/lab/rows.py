"""What every measured row carries: command, commit, machine, threads, versions."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dualtoken.answers import KINDS
from dualtoken.errors import DataError
from dualtoken.files import atomic_path
from dualtoken.machine import command_line, machine_name
from dualtoken.model_folder import versions
from dualtoken.readers import parse_json, read_text

Row = dict[str, Any]
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")  # of the clock; most virtual machines hide it
# By task the metrics that results are told in, the one that decides first.
MAIN = {name: kind.headlines for name, kind in KINDS.items()}


def provenance(threads: int | None = None) -> Row:
    """Where and how this process measures: to be merged into each row that it writes.

    Args:
        threads: that are measured with; those of this process's torch if not given.
    """
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    return {
        "command": command_line(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine_name(),
        "governor": _GOVERNOR.read_text(encoding="utf-8").strip() if _GOVERNOR.exists() else None,
        "load_before": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "threads": threads,
        "versions": versions(),
    }


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a JSON lines file.

    Raises:
        DataError: there is no such file, or a line is no row.
    """
    rows = []
    try:
        for number, line in enumerate(read_text(path).split("\n"), 1):
            row = parse_json(line, f"line {number}") if line.strip() else {}
            if not isinstance(row, dict):
                raise DataError(f"line {number} holds {type(row).__name__}.")
            rows += [row] if row else []
    except DataError as error:
        raise DataError(f"{str(path)!r} cannot be read as rows: {error.message}", "Give what --output wrote.") from None
    return rows


def append_rows(path: str | Path, rows: list[Row]) -> None:
    """Add rows to a JSON lines file, whole or not at all."""
    path = Path(path)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    before += "\n" if before and not before.endswith("\n") else ""  # an editor may have taken it
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
