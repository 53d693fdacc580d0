"""The formats that labels come in. A NEW FORMAT GOES HERE: one file that registers itself.

`find` recognises a format in a tree of files and plans the data set in the same breath, before any image is opened;
`write`, where there is one, makes a data set of that format. Training, evaluation, `convert`, the command line's
choices and the messages all read this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dualtoken.data.plans import Plan
from dualtoken.data.tree import Tree, around
from dualtoken.registry import Registry

if TYPE_CHECKING:
    from dualtoken.data.conversion import Writer


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        target: what it knows of an image: `classes` (one), `labels` (any number of classes), `objects` or `masks`.
        find: the plan of the data set in a tree of files; None where it is not of this format. It raises `DataError`
            where it is, and is wrong.
        looked_for: by what it is recognised, in words.
        rank: where several formats are there, the lowest is taken.
        outlines: whether it can have outlines of objects.
        suffixes: of a label file that may be named itself, in place of its folder.
        around: the files that belong to such a label file.
        why_not: for files that look like this format and are not: why, a sentence each.
        write: writes a data set into a folder; see `Writer`.
        holds: which of `crowds`, `outlines` and `runs` survive in what it writes.
    """

    target: str
    find: Callable[[Tree], Plan | None]
    looked_for: str
    rank: int = 50
    outlines: bool = False
    suffixes: tuple[str, ...] = ()
    around: Callable[[Path], Tree] = around
    why_not: Callable[[Tree], list[str]] | None = None
    write: Callable[[Writer, Path], None] | None = None
    holds: frozenset[str] = frozenset()

    @property
    def of_whole_images(self) -> bool:
        """Whether it knows of images alone, and not of what is where in them."""
        return self.target in ("classes", "labels")


FORMATS: Registry[Format] = Registry("label format", "dualtoken.data.formats")


def by_rank() -> dict[str, Format]:
    """All formats, those first that are taken first."""
    return dict(sorted(FORMATS.items(), key=lambda item: item[1].rank))


def writable() -> tuple[str, ...]:
    """Names of the formats that can be written."""
    return tuple(name for name, form in by_rank().items() if form.write)


__all__ = ["FORMATS", "Format", "by_rank", "writable"]
