"""Parts of files on this machine and at any address that fsspec knows (`s3://...`, `https://...`), one or many at once.

An address is a text with `://` in it, or a chain such as `simplecache::s3://...`. Who may read it is decided by the
environment and fsspec's own configuration. A file system is looked up anew each time: fsspec keeps it, and knows
when it has become that of another process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from dualtoken.errors import require

_TRIES, _WAIT = 3, 0.5  # of what fails on the way, and seconds before the second try; twice that before the third
T = TypeVar("T")


class Part(NamedTuple):
    """`size` bytes of the file at `place` from byte `start` on."""

    place: str
    start: int
    size: int


def is_address(source: object) -> bool:
    """Whether `source` is for fsspec, and not a path of this machine."""
    return isinstance(source, str) and "://" in source


def join(root: str, name: str) -> str:
    """The place of `name` below `root`."""
    return f"{root.rstrip('/')}/{name}" if is_address(root) else os.path.join(root, name)  # noqa: PTH118


def system_of(place: str) -> tuple[Any, str]:
    """The file system of a place, and the path that it knows it by.

    Raises:
        MissingExtraError: fsspec, or the package for this kind of address, is not installed.
        OSError: the address cannot be understood.
    """
    require("fsspec", "shards")
    from fsspec.core import url_to_fs

    try:
        found: tuple[Any, str] = url_to_fs(place)
    except ImportError as error:  # it names the package itself
        raise OSError(str(error)) from error
    except ValueError as error:
        raise OSError(f"{place!r} is no address: {error}") from error
    return found


def exists(place: str) -> bool:
    """Whether there is a file; raises `OSError` where that cannot be told."""
    if not is_address(place):
        return Path(place).is_file()
    system, path = system_of(place)
    return bool(_tried(lambda: system.exists(path)))


def opened(place: str) -> BinaryIO:
    """The file at a place, to be read and sought in; raises `OSError`."""
    if not is_address(place):
        return Path(place).open("rb")
    system, path = system_of(place)
    file: BinaryIO = _tried(lambda: system.open(path, "rb"))
    return file


def matching(pattern: str) -> list[str]:
    """The places that match a pattern with `*`, `?` or `[...]`, sorted; raises `OSError`."""
    system, path = system_of(pattern)
    start = pattern[: pattern.index(path)] if path in pattern else ""
    return sorted(start + found for found in _tried(lambda: system.glob(path)))


def read_part(part: Part) -> bytes:
    """The bytes of a part; those that `ahead` has read are not read again.

    Raises:
        OSError: they cannot be read; at an address after three tries.
    """
    place, start, size = part
    if part in _ahead:
        return _ahead[part]
    if not is_address(place):
        with Path(place).open("rb") as file:
            file.seek(start)
            return file.read(size)
    system, path = system_of(place)
    content: bytes = _tried(lambda: system.cat_file(path, start=start, end=start + size))
    if len(content) > size:
        raise OSError(
            f"{len(content):,} bytes came where {size:,} were asked for: the server cannot send parts of files"
        )
    return content


_ahead: dict[Part, bytes] = {}  # of this process: a loading worker makes one batch at a time


@contextmanager
def ahead(parts: Sequence[Part]) -> Iterator[None]:
    """Read the parts that lie at addresses at once, side by side; within the block `read_part` has them.

    One that cannot be read is left for `read_part` to say so.
    """
    far = [part for part in parts if is_address(part.place)]
    read = _side_by_side(far) if far else {}
    _ahead.update(read)
    try:
        yield
    finally:
        for part in read:
            _ahead.pop(part, None)


def _side_by_side(parts: list[Part]) -> dict[Part, bytes]:
    systems: dict[int, tuple[Any, list[tuple[Part, str]]]] = {}
    for part in parts:
        try:
            system, path = system_of(part.place)
        except OSError:
            continue
        systems.setdefault(id(system), (system, []))[1].append((part, path))
    found = {}
    for system, asked in systems.values():
        starts, ends = [part.start for part, _ in asked], [part.start + part.size for part, _ in asked]
        contents = system.cat_ranges([path for _, path in asked], starts, ends, on_error="return")
        for (part, _), content in zip(asked, contents, strict=True):
            if isinstance(content, bytes) and len(content) == part.size:
                found[part] = content
    return found


def _tried(work: Callable[[], T]) -> T:
    """`work()`, again where it failed on the way; every kind of file system has errors of its own."""
    for attempt in range(_TRIES):
        try:
            return work()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:
            if attempt == _TRIES - 1:
                raise OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(_WAIT * 2**attempt)
    raise AssertionError
