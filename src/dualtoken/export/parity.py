"""What a parity check found, for the screen and for the file beside an export."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dualtoken.files import write_json
from dualtoken.words import counted

# Of raw outputs, by precision; None for no verdict.
LIMITS: dict[str, float | None] = {
    "fp32": 1e-4,
    "fp16": 2e-2,
    "int8": None,
}


@dataclass
class Parity:
    """How near an export's answers are to its model's.

    Attributes:
        export, model: file and folder.
        task, format, engine, precision: of the export.
        checked: whether it could be run on this machine at all.
        passed: whether everything is within the limit; False where it was not checked.
        limit: of raw outputs, relative to the largest; None where only figures are wanted.
        images: pictures compared.
        pictures: where they come from.
        input_error: largest difference of the network's input.
        max_error: largest difference of a raw output.
        relative_error: the same, relative to the largest value of that output.
        part_errors: relative, by part and output.
        answers: figures of the final answers, see `agreement`.
        cases: what was changed for the further comparisons: image size, numbers of objects.
        failure: the first thing that is wrong, in words.
        notes: what readers should know.
        machine, versions: where and with what it was found.
    """

    export: str
    model: str
    task: str
    format: str
    engine: str
    precision: str
    checked: bool = True
    passed: bool = False
    limit: float | None = None
    images: int = 0
    pictures: str = ""
    input_error: float = 0.0
    max_error: float = 0.0
    relative_error: float = 0.0
    part_errors: dict[str, float] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
    cases: list[str] = field(default_factory=list)
    failure: str = ""
    notes: list[str] = field(default_factory=list)
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """One line for the screen."""
        if not self.checked:
            return f"Parity not checked: {self.failure}"
        limit = "no limit" if self.limit is None else f"limit {self.limit:.0e}"
        images = counted(self.images, "image")
        found = f"{images}, raw outputs differ by {self.relative_error:.1e} ({limit}), {self.summary}"
        return f"Parity passed: {found}." if self.passed else f"Parity FAILED: {self.failure} ({found})."

    def to_dict(self) -> dict[str, Any]:
        """As JSON-friendly values; numbers that are none become None."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    def write(self, path: Path) -> None:
        """As a JSON file.

        Raises:
            OutputError: the place cannot be written.
        """
        write_json(path, self.to_dict())
