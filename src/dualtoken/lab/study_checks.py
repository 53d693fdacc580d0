"""What a study refuses, found out before anything is trained or written; `--dry-run` asks the same."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from dualtoken.errors import ConfigError, OutputError
from dualtoken.lab.study_folders import COMPARISONS, LOCK, PLAN, ROWS
from dualtoken.lab.study_plans import STUDIES

_RUN = re.compile(r"seed-\d+")
_OWN = {PLAN, ROWS, COMPARISONS, LOCK}


def check_numbers(seeds: int, budget: float | None) -> None:
    """Refuse impossible numbers.

    Args:
        seeds: at least 1.
        budget: seconds above 0; None for no end.

    Raises:
        ConfigError: one is impossible.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ConfigError(f"seeds is {seeds!r}, expected a whole number of at least 1.")
    if budget is None:
        return
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < math.inf:
        raise ConfigError(
            f"budget is {budget!r}, expected a number of seconds above 0.", "Leave it out for a study without an end."
        )


def check_folder(folder: Path, study: str, data: Path) -> None:
    """Refuse a folder that is not a study's: somebody's images, or anything else.

    New, empty, with a study.json, or with nothing but runs in folders of the study's arms: these are taken.

    Args:
        study: key of `STUDIES`.
        data: what the study trains on.

    Raises:
        OutputError: it is something else.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"output is {str(folder)!r}, which is a file.", "Give a folder, new or of an earlier call.")
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        where = "the folder of the images" if folder.resolve() == data.resolve() else "among the images"
        raise OutputError(f"output is {str(folder)!r}, {where}.", "Give a folder outside of the data.")
    if not folder.is_dir() or (folder / PLAN).is_file():
        return
    arms = {arm.name for arm in STUDIES[study][0]}

    def holds_runs(part: Path) -> bool:
        return part.name in arms and part.is_dir() and all(_RUN.fullmatch(run.name) for run in part.iterdir())

    others = sorted(part.name for part in folder.iterdir() if part.name not in _OWN and not holds_runs(part))
    if others:
        raise OutputError(
            f"output is {str(folder)!r}, which holds other things than a study, such as {others[0]!r}.",
            "Give a new folder, or that of an earlier call.",
        )


def check_file(file: Path, name: str, output: Path) -> None:
    """Refuse a place where no file can be written.

    Args:
        name: of the argument that gave it.
        output: the study's folder, which is made if it is not there.

    Raises:
        OutputError: it is a folder, or is to be in a folder that is not there or may not be written.
    """
    if file.is_dir():
        raise OutputError(f"{name} is {str(file)!r}, which is a folder.", "Give a file.")
    parent = file.parent
    if parent.resolve().is_relative_to(output.resolve()) and not parent.exists():
        return
    if not parent.is_dir():
        raise OutputError(f"{name} is {str(file)!r}, but there is no folder {str(parent)!r}.", "Make it first.")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{name} is {str(file)!r}, which may not be written.", "Choose another place.")
