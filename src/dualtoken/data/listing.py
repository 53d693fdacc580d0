"""Which image files a folder or an archive holds, before anything is known about classes."""

from __future__ import annotations

import os
import posixpath
import stat
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dualtoken.data.archives import Members, read_directory
from dualtoken.errors import DataError
from dualtoken.images import is_image_name


@dataclass
class Listing:
    """Image files, sorted by name.

    Attributes:
        root: the folder or archive.
        names: relative to `root`, with `/` between the parts; absolute where a CSV file said so.
        sizes: bytes of each file; 0 where it cannot be read, so that the check of the images tells why.
        folders: every folder, with and without images, but the hidden ones.
        tables: CSV files, by name, to their place in an archive (None in a folder).
        members: (N,) place of each image in an archive; None for a folder.
        notes: what a person should know.
    """

    root: str
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    tables: dict[str, np.void | None] = field(default_factory=dict)
    members: Members | None = None
    notes: list[str] = field(default_factory=list)


def list_folder(root: Path, wanted: Callable[[str], bool] = is_image_name) -> Listing:
    """All images below `root`. Links are followed; a folder is read once, however many ways lead to it.

    Args:
        root: the folder.
        wanted: which files are listed, by their names.

    Raises:
        DataError: a folder cannot be read.
    """
    listing, found = Listing(str(root)), []
    # Linked folders wait until all others are read: a folder keeps its own name if it also has another.
    folders, linked = deque([""]), deque[str]()
    seen: set[tuple[int, int]] = set()
    while folders or linked:
        folder = (folders or linked).popleft()
        status = os.stat(root / folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            listing.notes.append(f"{folder!r} is a link to a folder that was read already: not followed")
            continue
        seen.add((status.st_dev, status.st_ino))
        listing.folders.add(folder)
        for entry in _entries(root / folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if _is_folder(entry):
                (linked if entry.is_symlink() else folders).append(name)
            elif wanted(entry.name) and (size := _size(entry)) is not None:
                found.append((name, size))
            elif entry.name.lower().endswith(".csv"):
                listing.tables[name] = None
    found.sort()
    listing.names, listing.sizes = [name for name, _ in found], [size for _, size in found]
    return listing


def list_archive(path: Path, wanted: Callable[[str], bool] = is_image_name) -> Listing:
    """All images in the zip archive `path`, or what else is `wanted`, by the members' names.

    Raises:
        DataError: it cannot be read or is not safe; see `read_directory`.
    """
    names, members, folders = read_directory(path)
    tables: dict[str, np.void | None] = {
        name: members[i] for i, name in enumerate(names) if name.lower().endswith(".csv") and not _hidden(name)
    }
    images = [i for i, name in enumerate(names) if wanted(name) and not _hidden(name)]
    images.sort(key=names.__getitem__)
    return Listing(
        str(path),
        names=[names[i] for i in images],
        sizes=members["size"][images].tolist(),
        # Many archives have no members for folders: a file in one tells of it too.
        folders={folder for folder in {*folders, *map(posixpath.dirname, names)} if not _hidden(folder)},
        tables=tables,
        members=members[images],
    )


def _entries(folder: Path) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _hidden(entry.name)]
    except OSError as error:
        raise DataError(f"The folder {str(folder)!r} cannot be read: {error.strerror}.") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # a link that leads to itself
        return entry.is_dir()
    return False


def _size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a file, 0 for a link to nothing, None for what is no file (a pipe would block its reader)."""
    try:
        status = entry.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _hidden(name: str) -> bool:
    """Whether a part of `name` is hidden, or put there by macOS for itself."""
    return name.startswith((".", "__MACOSX")) or "/." in name or "/__MACOSX" in name
