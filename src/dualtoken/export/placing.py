"""Where the files of an export go: all of them beside each other, and all or none."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dualtoken.engines import MAIN
from dualtoken.errors import cannot_write
from dualtoken.files import alone, refuse_existing


def place_of(path: Path, part: str) -> Path:
    """The file of a part of the export `path`."""
    return path if part == MAIN else path.with_name(f"{path.stem}.{part}{path.suffix}")


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


@contextmanager
def together(path: Path) -> Iterator[Path]:
    """Yield an empty folder; on success all that was put into it goes beside `path`, on any error none of it.

    Raises:
        OutputError: the place cannot be written, holds a file of such a name, or another process is writing there.
    """
    parent = path.parent
    made = not parent.exists()
    folder = parent / f".{path.name}.{secrets.token_hex(4)}"
    moved: list[Path] = []
    try:
        try:
            with alone(path):
                folder.mkdir(parents=True)
                yield folder
                # The main file comes last: who waits for it finds the others there.
                for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
                    target = parent / file.name
                    refuse_existing(target, "--output")
                    file.rename(target)
                    moved.append(target)
        except OSError as error:
            raise cannot_write(path, error) from error
    except BaseException:
        for target in moved:
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            with suppress(OSError):  # something was written
                parent.rmdir()
