"""Looking at every image and mask of a data set with labels: frame, pixels, values."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dualtoken.data.archives import Members
from dualtoken.data.checks import _THREADS, _progress_bar
from dualtoken.data.index import ImageFiles
from dualtoken.data.scene_labels import Frame
from dualtoken.errors import ImageError
from dualtoken.images import (
    _SIDEWAYS,
    FRAMES,
    ImageLimits,
    _check_pixels,
    _opened,
    _orientation,
    check_image,
    explained,
)

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Files(ImageFiles):
    """Image files and nothing else."""

    root: str
    names: NDArray[np.str_]
    members: Members | None

    def content(self, index: int, limits: ImageLimits) -> bytes:
        """The bytes of a file; raises `ImageError`."""
        source = self.source(index, limits)
        if isinstance(source, bytes):
            return source
        path = Path(source)
        try:
            if path.is_file() and path.stat().st_size > limits.max_bytes:
                raise ImageError(f"{source!r} is larger than {limits.max_bytes:,} bytes, the limit.")
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"{source!r} cannot be read: {error.strerror}.") from None


@dataclass
class Frames:
    """What the check found, by index of the image: frames, reasons of bad ones, which have several frames."""

    good: dict[int, Frame] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    animated: list[int] = field(default_factory=list)


def check_frames(files: ImageFiles, *, full: bool, limits: ImageLimits, progress: bool) -> Frames:
    """Read the header of each image, in threads, and its pixels too if `full`."""
    found = Frames()

    def look(index: int) -> tuple[Frame, frozenset[str]]:
        source, name = files.source(index, limits), files.path(index)
        return frame_of(source, name, limits), check_image(source, name=name, limits=limits, full=full)

    for index, result in in_threads(look, len(files), progress=progress):
        if isinstance(result, ImageError):
            found.bad[index] = result.message
        else:
            found.good[index] = result[0]
            found.animated += [index] if FRAMES in result[1] else []
    return found


def frame_of(source: str | bytes, name: str, limits: ImageLimits) -> Frame:
    """The frame of one image, from its header; raises `ImageError`."""
    with explained(name), _opened(source, name, limits) as image:
        _check_pixels(image, name, limits)
        orientation = _orientation(image)
        stored = image.height, image.width
    return Frame(stored[::-1] if orientation in _SIDEWAYS else stored, stored, orientation != 1)


def in_threads(work: Callable[[int], T], count: int, *, progress: bool) -> list[tuple[int, T | ImageError]]:
    """`work(0)` to `work(count - 1)`; where one raises an `ImageError`, that stands in its place."""

    def attempt(index: int) -> T | ImageError:
        try:
            return work(index)
        except ImageError as error:
            return error

    found = []
    with _progress_bar(count, shown=progress) as advance, ThreadPoolExecutor(_THREADS) as pool:
        try:
            for index, result in enumerate(pool.map(attempt, range(count))):
                found.append((index, result))
                advance(1)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return found
