"""Each epoch as a row of metrics.csv and as points in TensorBoard."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from dualtoken.files import write_text

HISTORY = "metrics.csv"


class Logs:
    """Each epoch's row into metrics.csv, rewritten whole, and TensorBoard."""

    def __init__(self, folder: Path, before: list[dict[str, float]], *, enabled: bool) -> None:
        self.folder, self.enabled = folder, enabled
        self.rows = list(before)
        self.writer: Any = None

    def __enter__(self) -> Logs:
        if self.enabled:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer:
            self.writer.close()

    def add(self, row: dict[str, float]) -> None:
        if not self.enabled:
            return
        self.rows.append(row)
        text = io.StringIO()
        names = list(dict.fromkeys(name for known in sorted(self.rows, key=len, reverse=True) for name in known))
        table = csv.DictWriter(text, fieldnames=names, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_text(self.folder / HISTORY, text.getvalue())
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, int(row["step"]))
