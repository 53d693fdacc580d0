"""All files of a data set with labels, in a folder or a zip archive read in place."""

from __future__ import annotations

import os
import posixpath
import re
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.dtypes import StringDType
from numpy.typing import NDArray

from dualtoken.data.archives import Members, read_member
from dualtoken.data.layouts import SPLIT_NAMES
from dualtoken.data.listing import Listing, list_archive, list_folder
from dualtoken.errors import DataError, ImageError, nearest
from dualtoken.images import ImageLimits, is_image_name

# COCO's own label file has half a gigabyte; archives are checked against bombs before.
_LABEL_LIMITS = ImageLimits(max_bytes=4 * 2**30)
_PICTURES_OF_LABELS = frozenset({"masks", "segmentationclass", "segmentationobject"})
_SPLIT_WITH_YEAR = re.compile(r"([a-z]+?)[ _-]?\d{0,4}", re.IGNORECASE)


@dataclass(eq=False)
class Tree:
    """Files by name, sorted; names are relative to `root`, with `/` between the parts.

    Attributes:
        root: the folder or archive.
        names: of all files that are not hidden.
        sizes: bytes of each.
        members: place of each in an archive; None for a folder.
        notes: what a person should know.
    """

    root: str
    names: list[str]
    sizes: list[int]
    members: Members | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Name of each file to its place in `names`."""
        return {name: row for row, name in enumerate(self.names)}

    @cached_property
    def images(self) -> list[str]:
        """Names of all image files."""
        return [name for name in self.names if is_image_name(name)]

    @cached_property
    def _images_by_base(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for name in self.images:
            found[posixpath.basename(name)].append(name)
        return found

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Names of all files with one of the suffixes, which are given in lower case."""
        return [name for name in self.names if name.lower().endswith(suffixes)]

    def path(self, name: str) -> str:
        """The file's path as a person would write it."""
        return os.path.join(self.root, name)  # noqa: PTH118

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            DataError: it cannot be read.
        """
        path = self.path(name)
        try:
            if self.members is None:
                return Path(path).read_bytes()
            return read_member(self.root, self.members[self.rows[name]], path, _LABEL_LIMITS)
        except (ImageError, OSError) as error:
            raise DataError(f"{path!r} cannot be read: {error}.") from error

    def text(self, name: str) -> str:
        """The content of a text file, which must be UTF-8.

        Raises:
            DataError: it cannot be read or is something else.
        """
        content = self.read(name)
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise DataError(f"{self.path(name)!r} is not UTF-8 in line {line}.", "Save it as UTF-8.") from None

    def find_image(self, path: str, *, near: str = "", split: str = "") -> str | None:
        """The image that a label file calls `path`, relative to the folder `near` or to anything else.

        Label files are moved and paths in them go stale, so the longest end of `path` that is there counts; of
        several, those of `split`, then those that are no masks, then those nearest to the folder `near`.

        Raises:
            DataError: several are equally good.
        """
        path = posixpath.normpath(path.replace("\\", "/"))
        exact = posixpath.normpath(posixpath.join(near, path))
        if exact in self.rows:
            return exact
        candidates = self._images_by_base.get(posixpath.basename(path), [])
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        for score in (
            lambda name: _common_end(name, path),
            lambda name: bool(split) and split_of(name) == split,
            lambda name: not _PICTURES_OF_LABELS & set(posixpath.dirname(name).lower().split("/")),
            lambda name: len(posixpath.commonprefix([name, f"{near}/" if near else ""])),
        ):
            best = max(map(score, candidates))
            candidates = [name for name in candidates if score(name) == best]
        if len(candidates) > 1:
            raise DataError(
                f"{path!r} may be any of {len(candidates)} images: {', '.join(map(repr, candidates[:3]))}.",
                "Give the folder too where the image is named.",
            )
        return candidates[0]

    def arrays(self, names: list[str]) -> tuple[NDArray[np.str_], Members | None]:
        """Names and places of files, as samples hold them."""
        # A name that is not UTF-8 cannot be stored or printed; so written, it is found missing by the check.
        stored = [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in names]
        rows = np.array([self.rows[name] for name in names], np.int64)
        return np.array(stored, StringDType()), None if self.members is None else self.members[rows]


def open_tree(source: Path) -> Tree:
    """All files of a folder or zip archive.

    Raises:
        DataError: it is neither, or cannot be read.
    """
    if source.is_dir():
        return _tree(list_folder(source, _any))
    if not source.exists():
        near = nearest(source.name, [entry.name for entry in source.parent.iterdir()]) if source.parent.is_dir() else ""
        hint = f"Did you mean {str(source.parent / near)!r}?" if near else "Give a folder or a zip archive."
        raise DataError(f"There is no {str(source)!r}.", hint)
    if source.suffix.lower() == ".zip" or zipfile.is_zipfile(source):
        return _tree(list_archive(source, _any))
    raise DataError(
        f"{str(source)!r} is neither a folder nor a zip archive nor a label file (.json, .yaml).",
        "Unpack other archives first.",
    )


def split_of(name: str) -> str:
    """The split that a path tells, by its last folder that says one: `images/train2017/1.jpg`; "" for none."""
    for part in reversed(posixpath.dirname(name).split("/")):
        if split := split_named(part):
            return split
    return ""


def split_named(word: str) -> str:
    """The split called `word`, perhaps with a year behind it; "" where it is none."""
    match = _SPLIT_WITH_YEAR.fullmatch(word)
    return SPLIT_NAMES.get(match[1].lower(), "") if match else ""


def _any(_: str) -> bool:
    return True


def _tree(listing: Listing) -> Tree:
    return Tree(listing.root, listing.names, listing.sizes, listing.members, listing.notes)


def _common_end(name: str, path: str) -> int:
    """Number of parts, from the end, in which two paths agree."""
    return len(posixpath.commonprefix([name.split("/")[::-1], path.split("/")[::-1]]))
