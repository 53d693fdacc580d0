"""Writing so that nothing is ever half-written: to a temporary name beside the target, then renamed.

And so that nobody writes over another: `alone` holds a place while it is written, and clears what a killed run left.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from dualtoken.errors import OutputError, cannot_write, is_about_the_place

_TOKEN = 4  # random bytes in a temporary name
# Ours, the probes of `writable_folder`, and the ones that safetensors writes to before it renames.
_LEFT_BEHIND = re.compile(rf"\..*\.[0-9a-f]{{{2 * _TOKEN}}}(\.[^.]*)?|\.probe-[0-9a-f]+|\.tmp[A-Za-z0-9]{{6}}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file name; on success it becomes `path`, on any error it is removed.

    Parents are made as needed. The suffix is kept, so that writers which look at it (matplotlib,
    pillow) do the right thing.

    Raises:
        OutputError: the place cannot be written (full, read-only, not permitted).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(_TOKEN)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # gone, or never there
            temporary.unlink()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a hidden new folder beside `path`, new or empty; on success it becomes `path`, on any error it is removed.

    Raises:
        OutputError: the place cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():  # not every system renames over an empty folder
            path.rmdir()
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def unique(name: str, taken: set[str]) -> str:
    """`name`, or where it is taken `name-2`, `name-3`, ...; it is taken then. Case tells no names apart.

    >>> taken = set()
    >>> unique("Ant", taken), unique("bee", taken), unique("ant", taken)
    ('Ant', 'bee', 'ant-2')
    """
    chosen, number = name, 1
    while chosen.lower() in taken:
        number += 1
        chosen = f"{name}-{number}"
    taken.add(chosen.lower())
    return chosen


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
        with suppress(OSError):  # where nothing can be written nothing was
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


# ---------------------------------------------------------------- one writer a place


@contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """Hold `path`, a file or folder that is written, while the block runs; clear what a killed writer left there.

    The lock is a file beside it, `.NAME.lock`, that names host and process. The system lets go of it when its process
    ends in whatever way, so that a lock of this host that can be had is a stale one. Other ranks of one run share it.

    Raises:
        OutputError: another process is writing there.
    """
    path = Path(os.path.realpath(path))
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _opened_lock(lock)
    except OSError:  # nothing can be made beside it; whether it can itself be written is found out elsewhere
        yield
        return
    try:
        owner = json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()})
        file.truncate(0)
        file.seek(0)
        file.write(owner.encode())
        file.flush()
        _sweep(path)
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        file.close()


def _opened_lock(lock: Path) -> BinaryIO:
    """The lock, held by this process; raises `OutputError` where another one holds it."""
    while True:
        file = lock.open("ab+")
        file.seek(0)
        text = file.read(1000).decode("utf-8", "replace")
        try:
            _lock(file)
        except OSError:
            file.close()
            raise _taken(lock, text, "Wait for it, or choose another --output.") from None
        if not lock.exists() or lock.stat().st_ino != os.fstat(file.fileno()).st_ino:
            file.close()  # let go of and removed by its owner in this moment
            continue
        if text and f'"host": "{socket.gethostname()}"' not in text:  # another machine: it cannot be asked from here
            file.close()
            raise _taken(lock, text, f"If that process is gone, remove {str(lock)!r}.")
        return file


def _lock(file: BinaryIO) -> None:
    """Take the system's lock on an open file, without waiting; OSError where another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows: what is open there cannot be removed, and the lock's owner is not asked
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _taken(lock: Path, text: str, hint: str) -> OutputError:
    try:
        owner = json.loads(text)
        who = f"process {owner['process']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    place = lock.with_name(lock.name.removeprefix(".").removesuffix(".lock"))
    return OutputError(f"{str(place)!r} is being written by {who}.", hint)


def _sweep(path: Path) -> None:
    """Remove what killed writers left in the folder `path`, or of the file `path`, and folders that would become it."""
    siblings = list(path.parent.iterdir()) if path.parent.is_dir() else []
    for entry in siblings:
        if re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _TOKEN}}}", entry.name) and entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)  # a link is left alone
    if path.is_dir():
        places = [path, *(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())]
        found = [entry for place in places for entry in place.iterdir() if _LEFT_BEHIND.fullmatch(entry.name)]
    else:
        own = re.compile(rf"\.{re.escape(path.stem)}\.[0-9a-f]{{{2 * _TOKEN}}}{re.escape(path.suffix)}")
        found = [entry for entry in siblings if own.fullmatch(entry.name)]
    for entry in found:
        with suppress(OSError):  # a folder, or not ours to remove
            entry.unlink()


@contextmanager
def explained_place(path: str | Path) -> Iterator[None]:
    """A disk that is full, or a place that can no longer be written, as the `OutputError` that says so."""
    try:
        yield
    except OSError as error:
        if is_about_the_place(error):
            raise cannot_write(error.filename or path, error) from error
        raise
