"""Each epoch as a row of metrics.csv and as points in TensorBoard."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

from dualtoken.errors import OutputError
from dualtoken.files import explained_place, write_text

HISTORY = "metrics.csv"
BOARD = "tensorboard"


class Logs:
    """Each epoch's row into metrics.csv, rewritten whole, and TensorBoard."""

    def __init__(self, folder: Path, before: list[dict[str, float]], *, enabled: bool) -> None:
        self.folder, self.enabled = folder, enabled
        self.rows = list(before)
        self.writer: Any = None

    def __enter__(self) -> Logs:
        if self.enabled:
            # The writer of events itself, and not the one that has a thread: its errors are ours, at the next epoch.
            from tensorboardX.event_file_writer import EventsWriter

            with explained_place(self.folder / BOARD):
                (self.folder / BOARD).mkdir(parents=True, exist_ok=True)
                self.writer = EventsWriter(str(self.folder / BOARD / "events"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.writer is None:
            return
        try:
            with explained_place(self.folder / BOARD):
                self.writer.close()
        except OutputError:
            if kind is None:  # else the first error says more
                raise

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
        self._add_points(row)

    def _add_points(self, row: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with explained_place(self.folder / BOARD):
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    point = Event(wall_time=time.time(), step=int(row["step"]), summary=scalar(name, value))
                    self.writer.write_event(point)
            self.writer.flush()
