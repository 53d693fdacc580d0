"""The rows of studies: JSON lines files that may hold other measurements too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualtoken.errors import DataError
from dualtoken.lab.rows import MAIN, Row, read_rows
from dualtoken.lab.study_plans import SCALES, STUDIES

KEYS = ("study", "scale", "task", "arm", "seed")  # of a row: which run it is of
_NUMBERS = ("mparams", "gmacs")


def read_study_rows(file: Path) -> list[Row]:
    """The rows of studies in a file, none where it is not there; what other measurements wrote is left out.

    Raises:
        DataError: a line is no JSON.
    """
    if not file.exists():
        return []
    try:
        return [row for row in read_rows(file) if is_study_row(row)]
    except DataError as error:
        raise DataError(
            error.message, "Give rows of JSON, a line each, as `dualtoken study --rows` wrote them."
        ) from None


def is_study_row(row: Any) -> bool:
    """Whether it holds what a table needs: which run of which study, its cost, and the figure that decides."""
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in KEYS[:-1]):
        return False
    if row["study"] not in STUDIES or row["scale"] not in SCALES or row["task"] not in MAIN:
        return False
    metrics = row.get("metrics")
    figure = metrics.get(MAIN[row["task"]][0]) if isinstance(metrics, dict) else None
    numbers = [row.get("seed"), *(row.get(name) for name in _NUMBERS)]
    numbers.append(figure.get("value") if isinstance(figure, dict) else None)
    return all(isinstance(number, int | float) for number in numbers)


def study_rows(results: Path) -> list[Row]:
    """The rows of studies in a JSON lines file, or in all `*.jsonl` of a folder; none where nothing is.

    Raises:
        DataError: a file of them is broken.
    """
    files = sorted(results.glob("*.jsonl")) if results.is_dir() else [results]
    return [row for file in files for row in read_study_rows(file)]
