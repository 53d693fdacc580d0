"""Video files: their frames as upright images one after the other, and images to a new video. Sound is left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dualtoken.errors import ConfigError, ImageError, OutputError, require, unknown_name
from dualtoken.files import atomic_path
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.words import counted

# What is written, by suffix: the encoders in the order in which they are tried.
_ENCODERS = {
    ".mp4": ("libx264", "mpeg4"),
    ".mov": ("libx264", "mpeg4"),
    ".mkv": ("libx264", "mpeg4"),
    ".webm": ("libvpx-vp9", "libvpx"),
}
_READ = frozenset(
    {*_ENCODERS, ".m4v", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".mjpeg"}
)
# Readers of playlists stay closed: they open other files and addresses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,mjpeg"
_FASTEST = 1000


class VideoInfo(NamedTuple):
    """What a video's header says.

    Attributes:
        size: (height, width) of its upright frames.
        fps: frames a second, on the average.
        seconds: how long it is, None where the header does not say.
    """

    size: tuple[int, int]
    fps: Fraction
    seconds: float | None


def is_video(name: str | Path) -> bool:
    """Whether `name` has the suffix of a video, in upper or lower case."""
    return Path(name).suffix.lower() in _READ


def video_info(path: str | Path, limits: ImageLimits = DEFAULT_LIMITS) -> VideoInfo:
    """Size, speed and length of a video; its first frame is decoded, since that one tells how it is turned.

    Raises:
        ImageError: as `frames`.
        MissingExtraError: the package av is not installed.
    """
    with _opened(path) as (container, stream):
        image = next(_upright_frames(path, container, stream, limits))[1]
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = None if container.duration is None else container.duration / 1_000_000
        return VideoInfo((image.height, image.width), Fraction(rate), seconds)


def frames(path: str | Path, limits: ImageLimits = DEFAULT_LIMITS) -> Iterator[tuple[float, Image.Image]]:
    """The frames of a video, one after the other: memory does not grow with it.

    Args:
        path: of the file.
        limits: `max_pixels` holds for each frame.

    Yields:
        (seconds since its start, upright RGB image).

    Raises:
        ImageError: there is no such file, it is no video or damaged, or its frames are too large. Where it is damaged
            in the middle, the frames before have come.
        MissingExtraError: the package av is not installed.
    """
    with _opened(path) as (container, stream):
        yield from _upright_frames(path, container, stream, limits)


class VideoWriter:
    """Write images as the frames of a video; it appears under its name when the block ends without an error.

        with VideoWriter("found.mp4", fps=25, size=(480, 640)) as video:
            for _, image in frames("street.mp4"):
                video.write(image)

    Args:
        path: ends in .mp4, .mov, .mkv or .webm.
        fps: frames a second.
        size: (height, width) of the images. Most players need even numbers: an odd one gets a last row or column
            twice.

    Raises:
        OutputError: another suffix, the place cannot be written, or no encoder is there.
        ConfigError: an impossible `fps` or `size`.
        MissingExtraError: the package av is not installed.
    """

    def __init__(self, path: str | Path, fps: float | Fraction, size: tuple[int, int]) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in _ENCODERS:
            raise OutputError(
                f"{str(path)!r} must end in one of {', '.join(_ENCODERS)}: its suffix says which video to write.",
                unknown_name("suffix", self.path.suffix, _ENCODERS) if self.path.suffix else "Add one, such as .mp4.",
            )
        if not 0 < fps <= _FASTEST:
            raise ConfigError(f"fps is {fps}, expected a number above 0 and at most {_FASTEST}.")
        if min(size) < 1:
            raise ConfigError(f"size is {size}, expected (height, width), both 1 or more.")
        self.fps = Fraction(fps).limit_denominator(10_000)
        self.size = size
        self.frames = 0
        self._av = require("av", "video")
        self._stack = ExitStack()

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            stack.enter_context(self._explained())
            self._container = stack.enter_context(self._av.open(str(temporary), "w"))
            self._stream = self._add_stream()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        with self._stack:
            if error is not None:
                raise error
            if self.frames == 0:
                raise OutputError(f"{str(self.path)!r} would be a video without frames: none was written.")
            with self._explained():
                self._container.mux(self._stream.encode(None))
        return None

    def write(self, image: Image.Image) -> None:
        """Add a frame.

        Raises:
            ValueError: the image has not the size of the video.
            OutputError: it cannot be written.
        """
        height, width = self.size
        if image.size != (width, height):
            raise ValueError(
                f"the frame is {image.width} x {image.height}, the video {width} x {height} (width x height)."
            )
        with self._explained():
            frame = self._av.VideoFrame.from_image(self._even(image.convert("RGB")))
            self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def _add_stream(self) -> Any:
        known = self._av.codecs_available
        encoders = _ENCODERS[self.path.suffix.lower()]
        encoder = next((name for name in encoders if name in known), None)
        if encoder is None:
            raise OutputError(
                f"The package av has no encoder for {self.path.suffix}: none of {', '.join(encoders)}.",
                "Type: pip install --force-reinstall av",
            )
        stream = self._container.add_stream(encoder, rate=self.fps)
        stream.height, stream.width = (side + side % 2 for side in self.size)
        stream.pix_fmt = "yuv420p"  # what every player knows
        if encoder == "libx264":
            stream.options = {"crf": "20", "preset": "veryfast"}
        elif encoder == "mpeg4":
            stream.options = {"qscale": "3"}
        else:
            stream.options = {"crf": "28", "b": "0", "cpu-used": "5", "deadline": "good"}
        return stream

    def _even(self, image: Image.Image) -> Image.Image:
        odd = ((0, image.height % 2), (0, image.width % 2), (0, 0))
        return Image.fromarray(np.pad(np.asarray(image), odd, "edge"))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            raise  # `atomic_path` says what it means
        except self._av.error.FFmpegError as error:
            raise OutputError(f"{str(self.path)!r} cannot be written as a video: {error.strerror}.") from error


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """The container of a video and its picture stream."""
    av = require("av", "video")
    name = str(path)
    try:
        # A file object, so that no part of the name is taken for a protocol.
        with Path(path).open("rb") as file, av.open(file, options={"format_whitelist": _CONTAINERS}) as container:
            if not container.streams.video:
                raise ImageError(f"{name!r} has no pictures, only sound or text.", "Give a video.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except FileNotFoundError:
        raise ImageError(f"There is no file {name!r}.", "Check the path; a link may point to nothing.") from None
    except av.error.FFmpegError as error:
        raise ImageError(
            f"{name!r} is not a video that can be read: {error.strerror}.",
            f"Known suffixes: {', '.join(sorted(_READ))}. Convert it, for example to .mp4.",
        ) from error
    except OSError as error:  # a folder, no permission; an empty file is an invalid argument to the reader
        reason = "it is empty" if Path(name).is_file() and not Path(name).stat().st_size else error.strerror
        raise ImageError(f"{name!r} cannot be read: {reason}.") from None


def _upright_frames(
    path: str | Path, container: Any, stream: Any, limits: ImageLimits
) -> Iterator[tuple[float, Image.Image]]:
    av = require("av", "video")
    number, start = 0, None
    try:
        for frame in container.decode(stream):
            if (pixels := frame.width * frame.height) > limits.max_pixels:
                raise ImageError(
                    f"{str(path)!r} has frames of {pixels:,} pixels, limit {limits.max_pixels:,} (--max-pixels).",
                    f"If you trust it: --max-pixels {pixels} (Python: limits=ImageLimits(max_pixels={pixels})).",
                )
            start = frame.time if start is None else start
            yield _seconds(frame, start, number, stream), _upright(frame)
            number += 1
    except av.error.FFmpegError as error:
        raise ImageError(
            f"{str(path)!r} is damaged after {counted(number, 'frame')}: {error.strerror}.",
            "Copy or convert it again from its source.",
        ) from error
    if number == 0:
        raise ImageError(f"{str(path)!r} is damaged: not one frame can be decoded.")


def _seconds(frame: Any, start: float | None, number: int, stream: Any) -> float:
    if frame.time is not None and start is not None:
        return float(frame.time - start)
    return float(number / (stream.average_rate or 25))


def _upright(frame: Any) -> Image.Image:
    """Turned as a phone was held: by quarters, counterclockwise, without any loss."""
    image: Image.Image = frame.to_image()
    return image.rotate(90 * round(frame.rotation / 90), expand=True)
