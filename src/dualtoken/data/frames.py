"""Looking at every image before training, so that a bad file is found now and not in the night."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dualtoken.data.samples import ImageFiles
from dualtoken.errors import ImageError
from dualtoken.images import DARK, FRAMES, OUTSIDE, ImageLimits, check_image
from dualtoken.words import counted

_CHUNK = 64
# More than a few only fight for the interpreter: measured on small images, 8 are half as quick as 4.
_THREADS = 4
_TURNED = "turned"
_ONE_FRAME = "several frames, the first is used"
_UPRIGHT = "turned by EXIF, and labels are taken to be for the upright image"
_BLACK = "less than a sixteenth of 16 bits and"
_CUT = "more than a fifth of the values outside the window, where they are cut"
_REMARKS = {
    OUTSIDE: (f"image has {_CUT}", f"images have {_CUT}"),
    _TURNED: (f"image is {_UPRIGHT}", f"images are {_UPRIGHT}"),
    FRAMES: (f"image has {_ONE_FRAME}", f"images have {_ONE_FRAME}"),
    DARK: (
        f"image uses {_BLACK} looks nearly black (--set channels=all fits to the range)",
        f"images use {_BLACK} look nearly black (--set channels=all fits to the range)",
    ),
}
T = TypeVar("T")


@dataclass(eq=False)
class Frames:
    """What the check of N images found.

    Attributes:
        sizes: (N, 2) int64, height and width upright, which is the frame of all boxes and masks; 0 for bad images.
        stored: (N, 2) as in the file, before its EXIF orientation is applied.
        turned: (N,) whether there is such an orientation.
        remarks: which images there is something to know of, by what that is.
        bad: reasons of images that cannot be read, by index.
    """

    sizes: NDArray[np.int64]
    stored: NDArray[np.int64]
    turned: NDArray[np.bool_]
    remarks: dict[str, list[int]] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)

    @property
    def good(self) -> NDArray[np.bool_]:
        """(N,) which images can be read."""
        return self.sizes[:, 0] > 0

    def notes(self, files: ImageFiles) -> list[str]:
        """What a person should know of them."""
        found = {_TURNED: np.flatnonzero(self.turned).tolist()} | self.remarks
        return [
            f"{counted(len(indices), *_REMARKS[remark])}: {files.path(min(indices))!r}{' ...' if indices[1:] else ''}"
            for remark, indices in found.items()
            if indices
        ]


def check_frames(files: ImageFiles, *, full: bool, limits: ImageLimits, progress: bool) -> Frames:
    """Read the header of each image, in threads, and its pixels too if `full`."""
    count = len(files)
    found = Frames(np.zeros((count, 2), np.int64), np.zeros((count, 2), np.int64), np.zeros(count, bool))

    def look(index: int) -> frozenset[str]:
        source = files.source(index, limits)
        facts = check_image(source, name=files.path(index), limits=limits, full=full, bands=files.bands)
        found.sizes[index], found.stored[index], found.turned[index] = facts.size, facts.stored, facts.turned
        return facts.remarks

    for index, remarks in in_threads(look, count, progress=progress):
        if isinstance(remarks, ImageError):
            found.bad[index] = remarks.message
        else:
            for remark in sorted(remarks):
                found.remarks.setdefault(remark, []).append(index)
    return found


def in_threads(work: Callable[[int], T], count: int, *, progress: bool) -> Iterator[tuple[int, T | ImageError]]:
    """`work(0)` to `work(count - 1)` with their numbers; where one raises an `ImageError`, that stands in its place."""

    def some(start: int) -> list[T | ImageError]:
        done: list[T | ImageError] = []
        for index in range(start, min(start + _CHUNK, count)):
            try:
                done.append(work(index))
            except ImageError as error:
                done.append(error)
        return done

    with _progress_bar(count, shown=progress) as advance, ThreadPoolExecutor(_THREADS) as pool:
        try:
            starts = range(0, count, _CHUNK)
            for start, results in zip(starts, pool.map(some, starts), strict=True):
                yield from enumerate(results, start)
                advance(len(results))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """A bar on the terminal's error stream, gone when done; elsewhere nothing."""
    console = Console(stderr=True)
    columns = (TextColumn("Checking images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.advance(task, done)
