"""The folder of a run: whether it may be written, found out before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from dualtoken.errors import ConfigError, OutputError
from dualtoken.files import refuse_existing

SETTINGS = "train.yaml"
STATE = Path("last") / "state.safetensors"
STATE_BEFORE = Path("last") / "state.before.safetensors"
FIRST_BATCH = "first_batch.jpg"


def has_state(folder: str | Path) -> bool:
    """Whether there is something to continue from."""
    return (Path(folder) / STATE).is_file() or (Path(folder) / STATE_BEFORE).is_file()


def run_folder(output: str | Path | None, resume: str | Path | None) -> Path:
    """Where the run will be written; nothing is made yet.

    Args:
        output: folder of a new run: not there, empty, or left by one that was stopped before its first step.
        resume: folder of a run that is continued.

    Raises:
        ConfigError: none is given, or both are and differ.
        OutputError: `output` holds something.
    """
    if resume and output and Path(output) != Path(resume):
        raise ConfigError(
            f"--output is {str(output)!r} but --resume is {str(resume)!r}: a run continues in its own folder.",
            "Leave --output out.",
        )
    target = resume or output
    if target is None:
        raise ConfigError("There is no output folder.", "Type: dualtoken train DATA --output RUN")
    folder = Path(target)
    if resume:
        return folder
    if has_state(folder):
        raise OutputError(
            f"{str(target)!r} already holds a run.",
            f"Continue it with --resume {target}, or choose another --output.",
        )
    if (folder / SETTINGS).exists():
        raise OutputError(
            f"{str(target)!r} already holds a run, which ended before it saved anything.",
            "Remove the folder, or choose another --output.",
        )
    if not folder.is_dir() or any(entry.name != FIRST_BATCH for entry in folder.iterdir()):
        refuse_existing(folder, "--output")
    return folder
