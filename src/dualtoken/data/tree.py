"""All files of a data set, in a folder, zip archive or shards, read in place: listed once, asked by all readers."""

from __future__ import annotations

import os
import posixpath
import re
import stat
import zipfile
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.dtypes import StringDType
from numpy.typing import NDArray

from dualtoken.data.archives import Members, read_directory, read_member
from dualtoken.data.shards import Index, are_shards, read_index
from dualtoken.errors import DataError, ImageError, nearest
from dualtoken.images import ARRAY, ImageLimits, is_image_name

SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# COCO's own label file has half a gigabyte; archives are checked against bombs before.
_LABEL_LIMITS = ImageLimits(max_bytes=4 * 2**30)
_HEAD = 4096
_PICTURES_OF_LABELS = frozenset({"masks", "segmentationclass", "segmentationobject"})
_FILLERS = frozenset(
    {"obj", "data", "set", "split", "images", "image", "imgs", "img", "masks", "mask", "labels", "annot"}
)
_SPLIT_WITH_YEAR = re.compile(r"([a-z]+?)[ _-]?\d{0,4}", re.IGNORECASE)
# What systems, file servers and cloud drives put beside people's files, and never a class.
_OF_SYSTEMS = frozenset(
    {"__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "recycler", "lost+found", "__pycache__",
     "system volume information", "found.000", "node_modules", "thumbs.db", "desktop.ini"}
)  # fmt: skip


@dataclass(eq=False)
class Tree:
    """Files by name, sorted; names are relative to `root`, with `/` between the parts.

    Attributes:
        root: the folder or archive.
        names: of all files that are neither hidden nor a system's own.
        sizes: bytes of each; 0 where it cannot be read, so that the check of the images tells why.
        folders: every folder, with and without files.
        members: place of each file in an archive; None for a folder.
        notes: what a person should know.
        given: the label file that was named itself, if one was.
        linked: whether some file is a link or has further names.
        listed: whether `names` are all there are; else files are looked up as they are asked for.
        index: what is known of the images in shards; `names` are then those of images, and of masks behind them.
    """

    root: str
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    members: Members | None = None
    notes: list[str] = field(default_factory=list)
    given: Path | None = None
    listed: bool = True
    linked: bool = False
    index: Index | None = None

    @cached_property
    def rows(self) -> dict[str, int]:
        """Name of each file to its place in `names`."""
        return {name: row for row, name in enumerate(self.names)}

    @cached_property
    def images(self) -> list[str]:
        """Names of all image files; numpy's are images where there is no other, since many hold something else."""
        return [name for name in self.names if is_image_name(name)] or self.with_suffix(ARRAY)

    @cached_property
    def image_stems(self) -> dict[str, str]:
        """Names of all image files without their suffixes, to the first file of each."""
        return {posixpath.splitext(name)[0]: name for name in reversed(self.images)}

    @cached_property
    def _images_by_base(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for name in self.images:
            found[posixpath.basename(name)].append(name)
        return found

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Names of all files with one of the suffixes, which are given in lower case."""
        return [name for name in self.names if name.lower().endswith(suffixes)]

    def label_files(self, *suffixes: str) -> list[str]:
        """Those `with_suffix`; where a label file was named itself, that one alone."""
        if self.given is None:
            return self.with_suffix(*suffixes)
        name = self.given.relative_to(self.root).as_posix() if self.given.is_relative_to(self.root) else ""
        return [name] if name.lower().endswith(suffixes) else []

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
            return read_member(self.root, name, self.members[self.rows[name]], _LABEL_LIMITS)
        except (ImageError, OSError) as error:
            raise DataError(f"{path!r} cannot be read: {error}.") from error

    def head(self, name: str) -> bytes:
        """The first 4,096 bytes of a file, to tell what it is; b"" where it cannot be read."""
        if self.members is not None:
            return self.read(name)[:_HEAD]
        try:
            with Path(self.path(name)).open("rb") as file:
                return file.read(_HEAD)
        except OSError:
            return b""

    def text(self, name: str) -> str:
        """The content of a text file, which must be UTF-8.

        Raises:
            DataError: it cannot be read or is something else.
        """
        content = self.read(name)
        try:
            return content.decode("utf-8-sig")  # spreadsheets begin UTF-8 with a byte order mark
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise DataError(f"{self.path(name)!r} is not UTF-8 in line {line}.", "Save it as UTF-8.") from None

    def locate(self, path: str, near: str = "") -> str | None:
        """The name of the file that a table means by `path`, relative to the folder `near` or absolute; None for none.

        Outside of archives that may be a file that was not listed: it then is.
        """
        name = posixpath.normpath(posixpath.join(near, path)) if self.listed else path
        if name in self.rows:
            return name
        if self.members is not None:
            return None
        try:
            status = os.stat(self.path(name))  # noqa: PTH116
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        self.rows[name] = len(self.names)
        self.names.append(name)
        self.sizes.append(status.st_size)
        return name

    def find_image(
        self, path: str, *, near: str = "", split: str = "", others: dict[str, str] | None = None
    ) -> str | None:
        """The image that a label file means by `path`: the one there, else the one whose path ends most like it.

        Of several that end alike, images in folders for masks count last, and so do those of another split, and those
        farther from the folder `near`.

        Args:
            path: as the file says it.
            near: folder of the file.
            split: that the file is for.
            others: images that the same file named before, with their paths; this one is put in.

        Raises:
            DataError: several are equally good, or another path means the same image, as where a folder is missing.
        """
        path = posixpath.normpath(path.replace("\\", "/"))
        if not self.listed:
            return self.locate(path)
        name = self._nearest(path, near, split)
        other = path if name is None or others is None else others.setdefault(name, path)
        if other != path and not all(_is_end(name, part, near) for part in (path, other)):
            raise DataError(
                f"{path!r} and {other!r} would both be the image {name!r} of {self.root!r}.",
                "Is a folder of images missing? Images that are not there must not be in the labels.",
            )
        return name

    def _nearest(self, path: str, near: str, split: str) -> str | None:
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

    def source(self, name: str, limits: ImageLimits) -> str | bytes:
        """What `open_image` takes: the path, or the bytes of an archive's member."""
        if self.members is None:
            return self.path(name)
        return read_member(self.root, name, self.members[self.rows[name]], limits)

    def arrays(self, names: Sequence[str]) -> tuple[NDArray[np.str_], Members | None]:
        """Names and places of files, as samples hold them."""
        # A name that is not UTF-8 cannot be stored or printed; so written, it is found missing by the check.
        plain = all(map(str.isascii, names))
        stored = names if plain else [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in names]
        rows = np.array([self.rows[name] for name in names], np.int64)
        return np.array(stored, StringDType()), None if self.members is None else self.members[rows]

    def not_listed(self, names: Sequence[str]) -> int:
        """How many images lie in the folders of the images `names` without being among them."""
        folders = {posixpath.dirname(name) for name in names}
        known = set(names)
        return sum(posixpath.dirname(name) in folders and name not in known for name in self.images)


def open_tree(source: str | Path, kinds: str = "") -> Tree:
    """All files of a folder, zip archive or shards.

    Args:
        source: the folder or archive, or what `read_index` takes.
        kinds: what else could have been given, for the message.

    Raises:
        DataError: it is neither, or cannot be read.
    """
    if are_shards(source):
        return _of_shards(read_index(str(source)))
    source = Path(source)
    if source.is_dir():
        return _of_folder(source)
    require_there(source)
    if source.suffix.lower() == ".zip" or zipfile.is_zipfile(source):
        return _of_archive(source)
    raise DataError(
        f"{str(source)!r} is neither a folder nor a zip archive{f' nor a label file ({kinds})' if kinds else ''}.",
        "Unpack other archives first.",
    )


def require_there(source: str | Path) -> None:
    """Raise `DataError` where there is no such file or folder, with the nearest name; of shards their index tells."""
    if are_shards(source):
        return
    source = Path(source)
    if not source.exists():
        near = nearest(source.name, [entry.name for entry in source.parent.iterdir()]) if source.parent.is_dir() else ""
        hint = f"Did you mean {str(source.parent / near)!r}?" if near else "Give a folder, a label file or a zip."
        raise DataError(f"There is no {str(source)!r}.", hint)
    if not (source.is_dir() or source.is_file()):  # opening a pipe would wait for its writer
        raise DataError(f"{str(source)!r} is neither a file nor a folder.", "Give a folder, a label file or a zip.")


def around(path: Path) -> Tree:
    """The files around a label file: its folder, or the one above where the images are not in its own."""
    tree = open_tree(path.parent) if path.parent.name.lower() != "annotations" else None
    if tree is None or not tree.images:
        tree = open_tree(path.parent.parent)
    tree.given = path
    return tree


def unlisted(path: Path) -> Tree:
    """The files that a table names, relative to it: looked up one by one, since a table may lie anywhere."""
    return Tree(str(path.parent), [path.name], [path.stat().st_size], given=path, listed=False)


def split_of(name: str) -> str:
    """The split that a path tells, by its last folder that says one: `images/train2017/1.jpg`; "" for none."""
    for part in reversed(posixpath.dirname(name).split("/")):
        if split := split_named(part):
            return split
    return ""


def split_named(word: str) -> str:
    """The split called `word`, perhaps with a year behind it or more around it (obj_train_data); "" for none."""
    match = _SPLIT_WITH_YEAR.fullmatch(word)
    if match and (split := SPLIT_NAMES.get(match[1].lower())):
        return split
    words = [part for part in re.split(r"[ _-]", word.lower()) if part not in _FILLERS]
    return SPLIT_NAMES.get(words[0], "") if len(words) == 1 else ""


def stem_of(name: str) -> str:
    """The last part of a name without its suffix."""
    return posixpath.splitext(posixpath.basename(name))[0]


def splits_of_folders(images: Sequence[str]) -> dict[str, list[int]]:
    """Split to indices of images, by the split that each path tells; {} unless all tell one."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(images):
        found.setdefault(split_of(name), []).append(index)
    return found if "" not in found else {}


def _of_folder(root: Path) -> Tree:
    """Links are followed; a folder is read once, however many ways lead to it."""
    tree, found = Tree(str(root)), list[tuple[str, int]]()
    # Linked folders wait until all others are read: a folder keeps its own name if it also has another.
    folders, linked = deque([""]), deque[str]()
    seen: set[tuple[int, int]] = set()
    while folders or linked:
        folder = (folders or linked).popleft()
        status = os.stat(root / folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            tree.notes.append(f"{folder!r} is a link to a folder that was read already: not followed")
            continue
        seen.add((status.st_dev, status.st_ino))
        tree.folders.add(folder)
        for entry in _entries(root / folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if _is_folder(entry):
                (linked if entry.is_symlink() else folders).append(name)
            elif (size := _size(entry)) is not None:
                found.append((name, size))
                tree.linked = tree.linked or entry.is_symlink() or (size > 0 and entry.stat().st_nlink > 1)
    found.sort()
    tree.names, tree.sizes = [name for name, _ in found], [size for _, size in found]
    return tree


def _of_archive(path: Path) -> Tree:
    names, members, folders, notes = read_directory(path)
    rows = sorted((row for row, name in enumerate(names) if not _hidden(name)), key=names.__getitem__)
    return Tree(
        str(path),
        [names[row] for row in rows],
        members["size"][rows].tolist(),
        # Many archives have no members for folders: a file in one tells of it too.
        {folder for folder in {*folders, *map(posixpath.dirname, names)} if not _hidden(folder)},
        members[rows],
        notes,
    )


def _of_shards(index: Index) -> Tree:
    names, members = index.list("name"), index.members()
    if index.kind == "masks":
        names, members = names + index.list("mask"), np.concatenate([members, index.members("mask_")])
    return Tree(index.root, names, members["size"].tolist(), members=members, index=index)


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
    """Whether a part of `name` is hidden, or put there by a system for itself."""
    return any(part.startswith(".") or part.lower() in _OF_SYSTEMS for part in name.split("/"))


def _is_end(name: str | None, path: str, near: str) -> bool:
    """Whether `path`, from the folder `near` or from any other, is that of the file `name` and of no other one."""
    exact = posixpath.normpath(posixpath.join(near, path))
    return name is not None and (exact == name or f"/{name}".endswith(f"/{path}"))


def _common_end(name: str, path: str) -> int:
    """Number of parts, from the end, in which two paths agree."""
    return len(posixpath.commonprefix([name.split("/")[::-1], path.split("/")[::-1]]))
