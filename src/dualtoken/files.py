"""Writing so that nothing is ever half-written: to a temporary name beside the target, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dualtoken.errors import OutputError, cannot_write


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file name; on success it becomes `path`, on any error it is removed.

    Parents are made as needed. The suffix is kept, so that writers which look at it (matplotlib,
    pillow) do the right thing.

    Raises:
        OutputError: the place cannot be written (full, read-only, not permitted).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # gone, or never there
            temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all; NaN is refused, JSON has none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def refuse_existing(path: str | Path, flag: str) -> None:
    """Refuse to write over what is there: a file, or a folder with something in it.

    Raises:
        OutputError: it says which flag gave the place.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        kind = "is there already" if path.is_file() else "is there already and is not empty"
        raise OutputError(f"{flag} is {str(path)!r}, which {kind}.", "Choose another name, or remove it first.")


def refuse_others(path: str | Path, own: Container[str], flag: str) -> None:
    """Refuse to write into a folder that holds something else than the files named `own`, which may be renewed.

    Raises:
        OutputError: it says which flag gave the place, and names a file of it.
    """
    path = Path(path)
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in own) if path.is_dir() else []
    if others:
        raise OutputError(
            f"{flag} is {str(path)!r}, which holds other things, such as {others[0]!r}.", "Give a new folder."
        )


def writable_folder(path: str | Path) -> Path:
    """Make the folder `path` if needed and prove that a file can be written there.

    Called before long work, so that a read-only or full disk is found at the start and not at the end.

    Raises:
        OutputError: it is a file, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise OutputError(f"{str(path)!r} is a file, but a folder is to be written there.", "Choose another --output.")
    made = not path.exists()
    probe = path / f".probe-{secrets.token_hex(4)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(os.urandom(4096))
    except OSError as error:
        if made and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        raise cannot_write(path, error) from error
    finally:
        if path.is_dir():
            probe.unlink(missing_ok=True)
    return path


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal; of a folder, that of its files' names and digests."""
    path = Path(path)
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        lines = "".join(f"{digest(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
