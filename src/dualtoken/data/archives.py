"""Zip archives and tars, read in place: nothing is ever extracted.

The central directory is read once, into one compact array. A member is then read by its place in the
file, with a file handle of its own: no state is shared, so threads, forks and spawned workers are all safe
and no worker holds an index of its own. Of members that lie in tars (`shards`) an index tells the places.
"""

from __future__ import annotations

import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.addresses import Part, join, read_part
from dualtoken.errors import DataError, ImageError, shown_name
from dualtoken.images import ImageLimits
from dualtoken.words import counted

# Where a member lies and what it must give: enough to read it without the central directory. A `crc` of 0 is not known.
MEMBER = np.dtype([("offset", "<i8"), ("packed", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("method", "<u2")])
Members = NDArray[np.void]
IN_TAR = 0xFFFF  # the method of a member that lies as it is in the tar that its name begins with

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # magic, ..., length of the name, length of the extra field
_ENCRYPTED, _UTF8 = 0x1, 0x800
# Deflate cannot pack more than 1032:1. A whole archive of images stays far below.
_MAX_RATIO, _RATIO_MATTERS_FROM = 200, 2**30
# Of names without a mark: strict encodings first, since they seldom read other bytes as words by chance.
_CODE_PAGES = ("utf-8", "cp932", "gb18030", "cp949", "cp866", "cp850", "cp437", "cp1252", "cp1251")
_EAST_ASIAN = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "IDEOGRAPHIC", "FULLWIDTH"})


def read_directory(path: Path) -> tuple[list[str], Members, list[str], list[str]]:
    """What is in the archive: the files' names, where each lies (N,), the folders' names, and notes.

    Raises:
        DataError: not a zip archive, damaged, with passwords, with members that point outside or that
            unpack to an absurd size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as a zip archive: {error}.",
            "Copy or download it again; `unzip -t` tells whether it is whole.",
        ) from error
    page, notes = _code_page(infos)
    names = [_checked_name(info, path, page) for info in infos]
    _check_total(infos, path)
    folders = [name.rstrip("/") for info, name in zip(infos, names, strict=True) if info.is_dir()]
    # A link's content is a path: links are left out, so that they cannot lead anywhere.
    files = [i for i, info in enumerate(infos) if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)]
    last = {names[i]: i for i in files}  # a file that was added again replaces the one before, as in zipfile and unzip
    if len(last) < len(files):
        again = counted(len(files) - len(last), "file is", "files are")
        notes.append(f"{again} in the archive more than once: the last one counts")
    files = list(last.values())
    members = np.array([_place(infos[i], path) for i in files], MEMBER)
    return [names[i] for i in files], members, folders, notes


def read_member(root: str, name: str, member: np.void, limits: ImageLimits) -> bytes:
    """The bytes of the member `name` of the archive `root`, or of a tar below it: `train-00000.tar/cat/1.jpg`.

    Raises:
        ImageError: it is over `limits.max_bytes`, or the archive is damaged there or was changed since.
    """
    packed, size, crc, method = (int(member[key]) for key in ("packed", "size", "crc", "method"))
    place = shown_name(join(root, name))
    if max(size, packed) > limits.max_bytes:
        raise ImageError(
            f"{place!r} has {size:,} bytes, the limit is {limits.max_bytes:,}.",
            f"If you trust it: --max-bytes {size} (Python: limits=ImageLimits(max_bytes={size})).",
        )
    try:
        content = read_part(part_of(root, name, member)) if method == IN_TAR else _read_packed(root, member)
        if method == zipfile.ZIP_DEFLATED:
            # One byte more than promised is enough to see a lie, and never a bomb.
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    except (OSError, zlib.error, struct.error, ValueError) as error:
        raise ImageError(f"{place!r} cannot be read from its archive: {error}.") from error
    if len(content) != size or (zlib.crc32(content) != crc and not (method == IN_TAR and crc == 0)):
        raise ImageError(
            f"{place!r} is damaged in its archive: its checksum is wrong.",
            "Copy or download the archive again.",
        )
    return content


def part_of(root: str, name: str, member: np.void) -> Part:
    """Where a member of a tar lies."""
    return Part(join(root, name[: name.index(".tar/") + 4]), int(member["offset"]), int(member["size"]))


def _read_packed(path: str, member: np.void) -> bytes:
    with Path(path).open("rb") as file:
        file.seek(int(member["offset"]))
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise ValueError("no member begins where the index says")
        file.seek(name_length + extra_length, 1)
        return file.read(int(member["packed"]))


def _stored(info: zipfile.ZipInfo) -> bytes | None:
    """The bytes of a name that does not say that it is UTF-8; zipfile takes it for the code page of MS-DOS."""
    return None if info.flag_bits & _UTF8 else info.filename.encode("cp437", "replace")


def _code_page(infos: list[zipfile.ZipInfo]) -> tuple[str, list[str]]:
    """The encoding of the names that are not marked as UTF-8: the first in which all of them read as words.

    Many tools write UTF-8 without saying so, and Windows the code page of its country.
    """
    names = b"\n".join(name for info in infos if (name := _stored(info)) is not None)
    if names.isascii():
        return "ascii", []
    # Letters with accents stand alone among others, those of other scripts beside each other.
    alone = all(len(run) == 1 for run in re.findall(rb"[\x80-\xff]+", names))
    for page in ("utf-8", "cp850", "cp437", "cp1252") if alone else _CODE_PAGES:
        with suppress(UnicodeError):
            text = names.decode(page)
            if _reads_well(text):
                example = next(line for line in text.split("\n") if not line.isascii())
                told = f"names in the archive are stored as {page}, by the look of them: {example!r}"
                return page, [] if page == "utf-8" else [told]
    return "cp437", []


def _reads_well(text: str) -> bool:
    """Whether each letter beyond ASCII belongs to one script besides Latin, and none is a sign of another use."""
    beyond = [letter for letter in text if not letter.isascii()]
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in beyond}
    return all(map(str.isalnum, beyond)) and (scripts <= {"LATIN"} or scripts <= _EAST_ASIAN or len(scripts) == 1)


def _checked_name(info: zipfile.ZipInfo, path: Path, page: str) -> str:
    """The member's name with `/` between its parts, refused if it points out of the archive."""
    stored = _stored(info)
    name = (info.filename if stored is None else stored.decode(page)).replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
        raise DataError(
            f"{str(path)!r} holds {name!r}, which points outside the archive.",
            "Such an archive was made by mistake or to do harm. Unpack it with care and give the folder.",
        )
    return "/".join(part for part in name.split("/") if part != ".")  # some packers begin all names with ./


def _check_total(infos: list[zipfile.ZipInfo], path: Path) -> None:
    total, packed = sum(info.file_size for info in infos), path.stat().st_size
    if total > max(_RATIO_MATTERS_FROM, _MAX_RATIO * packed):
        raise DataError(
            f"{str(path)!r} has {packed:,} bytes and would unpack to {total:,}, more than {_MAX_RATIO} times that.",
            "Images do not shrink like that. If you trust it, unpack it and give the folder.",
        )


def _place(info: zipfile.ZipInfo, path: Path) -> tuple[int, int, int, int, int]:
    if info.flag_bits & _ENCRYPTED:
        raise DataError(f"{str(path)!r} is protected by a password.", "Unpack it and give the folder.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{str(path)!r} packs {info.filename!r} by method {info.compress_type}, not stored or deflated.",
            "Unpack it and give the folder, or pack it again with `zip -r`.",
        )
    return info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type
