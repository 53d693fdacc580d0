"""Looking at every image before training, so that a bad file is found now and not in the night."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dualtoken.data.index import Samples
from dualtoken.errors import ImageError
from dualtoken.images import FRAMES, ImageLimits, check_image

_CHUNK = 64
# More than a few only fight for the interpreter: measured on small images, 8 are half as quick as 4.
_THREADS = 4


@dataclass
class Findings:
    """What the check found, by index of the image: reasons of bad ones, and which have several frames."""

    bad: dict[int, str] = field(default_factory=dict)
    several_frames: list[int] = field(default_factory=list)


def check(samples: Samples, *, full: bool, limits: ImageLimits, progress: bool) -> Findings:
    """Check each image in threads: its pixels too if `full`, else its header."""
    findings = Findings()
    chunks = [range(start, min(start + _CHUNK, len(samples))) for start in range(0, len(samples), _CHUNK)]
    work = partial(_check_chunk, samples, full, limits)
    with _progress_bar(len(samples), shown=progress) as advance, ThreadPoolExecutor(_THREADS) as pool:
        try:
            for done in pool.map(work, chunks):
                findings.bad.update(done.bad)
                findings.several_frames += done.several_frames
                advance(_CHUNK)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return findings


def _check_chunk(samples: Samples, full: bool, limits: ImageLimits, indices: range) -> Findings:
    findings = Findings()
    for index in indices:
        try:
            source = samples.source(index, limits)
            if FRAMES in check_image(source, name=samples.path(index), limits=limits, full=full):
                findings.several_frames.append(index)
        except ImageError as error:
            findings.bad[index] = error.message
    return findings


@contextmanager
def _progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """A bar on the terminal's error stream, gone when done; elsewhere nothing."""
    console = Console(stderr=True)
    columns = (TextColumn("Checking images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.advance(task, done)
