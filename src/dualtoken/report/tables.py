"""Predictions as tables: JSON lines, CSV and parquet files, written as they come, and a table on the screen."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dualtoken.errors import OutputError, require, unknown_name
from dualtoken.files import atomic_path
from dualtoken.outputs import Answer, Classification

Write = Callable[[Answer], None]
_PARQUET_ROWS = 10_000
_NOT_SCENES = "These tables are for classes; boxes and masks go to dualtoken.report.scene_tables."


def prediction_table(path: str | Path, *, top: int = 5) -> AbstractContextManager[Write]:
    """Open a table for predictions; the suffix of `path` says which: .jsonl, .csv or .parquet.

        with prediction_table("predictions.csv") as write:
            for answer in predict_stream(model, ["photos/"]):
                write(answer)

    Rows go to the file as they come, so memory stays flat; the file appears under its name when the block ends
    without an error. Every row has the path, the label and its score, then the `top` best, or an error's text.

    Args:
        path: of the table.
        top: how many classes a row lists.

    Raises:
        OutputError: another suffix, or the place cannot be written.
        MissingExtraError: parquet needs pyarrow.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise OutputError(
            f"{str(path)!r} must end in one of {', '.join(_WRITERS)}: its suffix says which table to write.",
            unknown_name("suffix", path.suffix, _WRITERS) if path.suffix else "Add one, such as .csv.",
        )
    return writer(path, top)


def to_json_line(answer: Answer, top: int = 5) -> str:
    """One answer as one line of JSON, without its line break."""
    if isinstance(answer, tuple):
        content = {"path": answer[0], "error": str(answer[1])}
    else:
        content = answer.to_dict(top) if isinstance(answer, Classification) else answer.to_dict()
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def screen_table(answers: list[Answer], *, top: int = 3) -> Table:
    """Answers as a table for a rich console; errors stand in their rows."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    table.add_column("Image", overflow="fold")
    table.add_column("Answer")
    table.add_column("Score", justify="right")
    if top > 1:
        table.add_column("Next", style="dim", overflow="fold")
    for answer in answers:
        if isinstance(answer, Classification):
            others = ", ".join(f"{label} {score:.1%}" for label, score in answer.top(top)[1:])
            cells = (escape(answer.path or "-"), escape(answer.label), f"{answer.score:.1%}", escape(others))
            table.add_row(*cells[: len(table.columns)])
        elif isinstance(answer, tuple):
            table.add_row(escape(answer[0]), f"[red]{escape(answer[1].message)}[/red]")
        else:
            raise TypeError(_NOT_SCENES)
    return table


def print_table(answers: list[Answer], *, top: int = 3, console: Console | None = None) -> None:
    """Print `screen_table` on the terminal."""
    (console or Console()).print(screen_table(answers, top=top))


def _columns(top: int) -> list[str]:
    others = [f"{name}_{place}" for place in range(2, top + 1) for name in ("label", "score")]
    return ["path", "label", "score", *others, "error"]


def _row(answer: Answer, top: int) -> dict[str, str | float | None]:
    if isinstance(answer, tuple):
        return {"path": answer[0], "error": answer[1].message}
    if not isinstance(answer, Classification):
        raise TypeError(_NOT_SCENES)
    row: dict[str, str | float | None] = {"path": answer.path, "label": answer.label, "score": answer.score}
    for place, (label, score) in enumerate(answer.top(top)[1:], start=2):
        row |= {f"label_{place}": label, f"score_{place}": score}
    return row


@contextmanager
def _json_lines(path: Path, top: int) -> Iterator[Write]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield lambda answer: print(to_json_line(answer, top), file=file)


@contextmanager
def _csv(path: Path, top: int) -> Iterator[Write]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, _columns(top), lineterminator="\n")
        table.writeheader()

        def write(answer: Answer) -> None:
            row = _row(answer, top)
            table.writerow({key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()})

        yield write


@contextmanager
def _parquet(path: Path, top: int) -> Iterator[Write]:
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    types = [(name, arrow.float32() if name.startswith("score") else arrow.string()) for name in _columns(top)]
    schema, rows = arrow.schema(types), list[dict[str, Any]]()
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as table:

        def write(answer: Answer) -> None:
            rows.append(_row(answer, top))
            if len(rows) == _PARQUET_ROWS:
                flush()

        def flush() -> None:
            table.write_table(arrow.Table.from_pylist(rows, schema))
            rows.clear()

        yield write
        if rows:
            flush()


_WRITERS: dict[str, Callable[[Path, int], AbstractContextManager[Write]]] = {
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}
