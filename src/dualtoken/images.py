"""`open_image`: the one way a file becomes pixels, for training, evaluation and prediction alike.

What comes out is an upright RGB image with 8 bits a channel, or of the bands that a model sees. Files are checked by
their header before any pixel is decoded, so that a hostile or absurd file costs nothing. No global of pillow is read
or set here: two callers with other limits do not disturb each other.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,  # noqa: F401
    ExifTags,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from dualtoken.bands import (
    NPY_START,
    TIFF_STARTS,
    BandImage,
    Bands,
    Check,
    Stored,
    of_array,
    of_npy,
    of_picture,
    of_tiff,
)
from dualtoken.errors import ImageError, UserError
from dualtoken.pixels import Colour, is_dark, to_rgb
from dualtoken.wholeness import is_cut_off

Source = str | Path | bytes | BinaryIO | Image.Image | NDArray[Any]
FRAMES = "has several frames, the first was read"
DARK = "uses less than a sixteenth of its 16 bits and looks nearly black"
OUTSIDE = "has more than a fifth of its values outside the window, where they are cut"
WHITE: Colour = (255, 255, 255)

# Formats whose reader is pillow's own code, with the suffixes that a scan of a folder looks for. Others stay
# closed: EPS starts a subprocess, and rarely used parsers are where the security holes are.
_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
}
ARRAY = ".npy"
IMAGE_SUFFIXES = frozenset(suffix for suffixes in _FORMATS.values() for suffix in suffixes)

Image.preinit()  # registers pillow's common readers; the imports above registered the others
_READERS = {name: Image.OPEN[name] for name in _FORMATS if name in Image.OPEN}

# EXIF orientation, to what makes the image upright (EXIF 2.32, section 4.6.4 A).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})  # orientations that swap width and height
_OTHER_KINDS = {
    b"<!DO": "an HTML page",
    b"<htm": "an HTML page",
    b"<svg": "an SVG drawing",
    b"<?xm": "an XML text",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    NPY_START: "a numpy array, which is read for bands only (--set channels=all)",
}
_START, _PNG = 26, b"\x89PNG"
_VALUES = 4  # times the limit of pixels: so many values an image of many bands may have
_CUT = 0.2  # share of an image's values outside the window that is said


class ImageWarning(UserWarning):
    """An image was read, but not all of it, or not as a person expects: `FRAMES`, `DARK`, `OUTSIDE` say what."""


@dataclass(frozen=True)
class ImageLimits:
    """What an image may cost.

    Attributes:
        max_bytes: refuse files with more bytes than this.
        max_pixels: refuse images with more pixels than this; the header tells, before any pixel is decoded.
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000

    @property
    def max_side(self) -> int:
        """Longest side, in pixels: what no image of a camera exceeds, or more where more pixels are allowed."""
        return max(65_535, self.max_pixels // 1000)


DEFAULT_LIMITS = ImageLimits()


def is_image_name(name: str) -> bool:
    """Whether `name` has the suffix of an image, in upper or lower case, and is not hidden."""
    base = name.rsplit("/", 1)[-1]
    return os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES and not base.startswith(".")  # noqa: PTH122


def open_image(
    source: Source,
    *,
    name: str | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    background: Colour = WHITE,
    warn: bool = True,
    bands: Bands | None = None,
    at_least: int | None = None,
) -> Image.Image:
    """Read one image as 8-bit RGB, upright; or its `bands`.

    EXIF orientation is applied. Transparent pixels are blended with `background`. Grey values of 16 or 32
    bits are scaled by the range that they are stored in, floating-point ones are taken as 0 to 1; values
    outside of that, and bands that are neither colour nor alpha, are refused. Of an animation or a
    multi-page file comes the first frame.

    Args:
        source: a path, the bytes of a file, an open binary file, an image of pillow's, or for bands an array.
        name: what error messages call the image; taken from `source` when that has a name.
        limits: the largest file and image that are accepted.
        background: RGB, 0 to 255.
        warn: say when frames were left out, or 16 bits are hardly used.
        bands: which bands are wanted, and which of their values become 0 to 255; files may be numpy's too then.
        at_least: pixels that the short side needs. A file of JPEG's kind whose short side has twice, four or eight
            times as many is decoded at a half, a quarter or an eighth of its size, which is much quicker.

    Returns:
        An image of mode RGB, or a `BandImage`.

    Raises:
        ImageError: there is no such file, it is not an image, is truncated or damaged, or is over a limit.

    Warns:
        ImageWarning: only the first of several frames was read, the image is nearly black, or much of it was cut.
    """
    name = name or _name_of(source)
    if bands is not None:
        rgb, remarks = _bands(source, name, limits, bands)
    else:
        assert not isinstance(source, np.ndarray)
        with explained(name), _opened(source, name, limits) as image:
            _check_pixels(image.width, image.height, name, limits)
            if at_least is not None and image is not source:
                cast(ImageFile.ImageFile, image).draft(image.mode, (at_least, at_least))
            _load(image, source, name)
            rgb, remarks = _upright(_orientation(image), to_rgb(image, name, background)), _remarks(image)
    if not warn:
        return rgb
    for remark in remarks:
        warnings.warn(ImageWarning(f"{name!r} {remark}."), stacklevel=2)
    return rgb


class ImageFacts(NamedTuple):
    """What an image's header says.

    Attributes:
        size: (height, width) upright, as `open_image` gives it.
        stored: (height, width) as in the file, before its EXIF orientation is applied.
        turned: whether there is an EXIF orientation other than upright.
        remarks: what a person should know: `FRAMES`, `DARK`.
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    turned: bool
    remarks: frozenset[str]


def open_values(
    source: Source, bands: Bands, *, name: str | None = None, limits: ImageLimits = DEFAULT_LIMITS
) -> NDArray[Any]:
    """The channels of `bands` as they are stored, (height, width, channels) and not turned; errors as `open_image`."""
    name = name or _name_of(source)
    return bands.chosen(_stored(source, name, limits, pages=bands.pages).values, name)


def _bands(source: Source, name: str, limits: ImageLimits, bands: Bands) -> tuple[Image.Image, frozenset[str]]:
    """What a network sees of an image, upright, and what a person should know of it."""
    if isinstance(source, BandImage):
        return source, frozenset()
    stored = _stored(source, name, limits, pages=bands.pages)
    values, outside = bands.scaled(bands.chosen(stored.values, name))
    remarks = ([FRAMES] if stored.more_pages else []) + ([OUTSIDE] if outside > _CUT else [])
    return _upright(stored.orientation, BandImage.of(values)), frozenset(remarks)


def _stored(source: Source, name: str, limits: ImageLimits, *, pages: bool) -> Stored:
    """The values of an image as they are stored, of numbers and bands of any kind."""

    def check(width: int, height: int, bands: int) -> None:
        _check_pixels(width, height, name, limits)
        if width * height * bands > _VALUES * limits.max_pixels:
            raise ImageError(
                f"{name!r} has {width} x {height} x {bands} values, more than {_VALUES} times --max-pixels."
            )

    with explained(name):
        if isinstance(source, np.ndarray):
            found = Stored(of_array(source, name))
        elif isinstance(source, Image.Image):
            found = Stored(of_picture(source), _orientation(source))
        else:
            with _file(source, name, limits) as file:
                found = _stored_in(file, name, limits, pages, check)
        if found.values.size == 0:
            raise ImageError(f"{name!r} has no pixels.")
        if found.values.dtype.kind not in "buif":
            raise ImageError(f"{name!r} holds {found.values.dtype}, expected whole numbers or floating point.")
        return found


def _stored_in(file: BinaryIO, name: str, limits: ImageLimits, pages: bool, check: Check) -> Stored:
    start = file.read(_START)
    file.seek(0)
    if start.startswith(TIFF_STARTS):
        return of_tiff(file, name, pages=pages, check=check)
    if start.startswith(NPY_START):
        return Stored(of_npy(file, name, check))
    if start.startswith(_PNG) and start[24] == 16 and start[25] in (2, 4, 6):  # pillow keeps 8 of the bits
        raise ImageError(f"{name!r} has 16 bits a colour, half of which would be lost.", "Save it as a TIFF.")
    with _identified(file, name) as image:
        check(image.width, image.height, 1)
        _load(image, file, name)
        return Stored(of_picture(image), _orientation(image), FRAMES in _remarks(image))


def check_image(
    source: Source,
    *,
    name: str | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    full: bool = True,
    bands: Bands | None = None,
) -> ImageFacts:
    """Find out cheaply whether `open_image` would read `source`, and what its header says.

    Args:
        source, name, limits, bands: as in `open_image`.
        full: decode the pixels too, and so find a truncated file; else only the header is read. Bands are decoded.

    Raises:
        ImageError: as `open_image`.
    """
    name = name or _name_of(source)
    if bands is not None:
        return _check_bands(source, name, limits, bands)
    assert not isinstance(source, np.ndarray)
    with explained(name), _opened(source, name, limits) as image:
        _check_pixels(image.width, image.height, name, limits)
        stored = (image.height, image.width)
        if full:
            # A JPEG's whole stream is parsed, but only one pixel of an 8 x 8 block is computed.
            image.draft("L", (1, 1))
            _load(image, source, name)  # before the orientation, for which a PNG is loaded, and its file forgotten
            if image.mode not in ("RGB", "L") or image.format == "TIFF":
                to_rgb(image, name, WHITE)
        orientation = _orientation(image)
        upright = stored[::-1] if orientation in _SIDEWAYS else stored
        return ImageFacts(upright, stored, orientation != 1, _remarks(image, loaded=full))


def _check_bands(source: Source, name: str, limits: ImageLimits, bands: Bands) -> ImageFacts:
    stored = _stored(source, name, limits, pages=bands.pages)
    values, remarks = bands.chosen(stored.values, name), [FRAMES] if stored.more_pages else []
    if bands.low and bands.scaled(values)[1] > _CUT:
        remarks.append(OUTSIDE)
    rows, columns = values.shape[:2]
    size = (columns, rows) if stored.orientation in _SIDEWAYS else (rows, columns)
    return ImageFacts(size, (rows, columns), stored.orientation in _UPRIGHT, frozenset(remarks))


def open_mask_image(source: Source, *, name: str | None = None, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Read one mask with its values as they are stored: nothing is converted, blended or turned.

    Args:
        source, name, limits: as in `open_image`.

    Returns:
        An image of mode P (palette numbers), L or I;16 (grey values), 1 made L (0 and 1), or RGB.

    Raises:
        ImageError: as `open_image`; or the mask has transparency or floating-point values, which name no class.
    """
    name = name or _name_of(source)
    assert not isinstance(source, np.ndarray)
    with explained(name), _opened(source, name, limits) as image:
        _check_pixels(image.width, image.height, name, limits)
        if image.format == "JPEG":
            raise ImageError(
                f"The mask {name!r} is a JPEG, whatever it is called: its values are no longer exact.",
                "Save the masks as PNG, from their source.",
            )
        _load(image, source, name)
        if image.mode == "1":
            return Image.fromarray(np.asarray(image).astype(np.uint8))
        if image.mode not in ("P", "L", "I;16", "I;16B", "I", "RGB", "RGBA"):
            raise ImageError(
                f"The mask {name!r} has the mode {image.mode}, expected palette numbers, grey or colour.",
                "Save it as PNG with 8 bits and without transparency.",
            )
        if image.mode == "I" and (values := np.asarray(image)).size and not 0 <= values.min() <= values.max() < 2**16:
            raise ImageError(
                f"The mask {name!r} has values from {values.min():,} to {values.max():,}, expected 0 to 65,535.",
                "Save it with 255 where it has no class.",
            )
        return image.convert("RGB") if image.mode == "RGBA" else image.copy()


def _name_of(source: Source) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return str(name) if name else f"<{type(source).__name__}>"


def too_large(name: str) -> ImageError:
    """The error for an image that ends the memory: it ends no run."""
    return ImageError(f"{name!r} needs more memory than there is.", "Make it smaller, or leave it out.")


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn whatever a reader stumbles over into an `ImageError` that names the file."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise ImageError(f"There is no file {name!r}.", "Check the path; a link may point to nothing.") from None
    except (PermissionError, IsADirectoryError) as error:
        raise ImageError(f"{name!r} cannot be read: {error.strerror}.") from None
    except (MemoryError, RecursionError) as error:
        raise too_large(name) from error
    except Exception as error:  # bytes of strangers reach a dozen parsers: each fails in its own way
        reason = str(error).rstrip(".") or type(error).__name__
        raise ImageError(
            f"{name!r} is damaged and cannot be decoded: {reason}.",
            "Save it again from its source, or leave it out.",
        ) from error


@contextmanager
def _opened(source: Source, name: str, limits: ImageLimits) -> Iterator[Image.Image]:
    """The image of `source` with its header read, its pixels not yet."""
    if isinstance(source, Image.Image):
        yield source
    else:
        with _file(source, name, limits) as file:
            yield _identified(file, name)


@contextmanager
def _file(source: Source, name: str, limits: ImageLimits) -> Iterator[BinaryIO]:
    """The bytes of `source`, of a size that is allowed."""
    if isinstance(source, str | Path):
        status = os.stat(source)  # noqa: PTH116 - a Path for each of a million files is not free
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise ImageError(f"{name!r} is not a file.", "Give the path of an image.")
        _check_bytes(status.st_size, name, limits)
        with open(source, "rb") as file:  # noqa: PTH123
            yield file
        return
    assert not isinstance(source, Image.Image | np.ndarray)
    content = source if isinstance(source, bytes) else source.read(limits.max_bytes + 1)
    _check_bytes(len(content), name, limits)
    yield io.BytesIO(content)


def _check_bytes(size: int, name: str, limits: ImageLimits) -> None:
    if size == 0:
        raise ImageError(f"{name!r} is empty: it has 0 bytes.", "Save it again from its source, or leave it out.")
    if size > limits.max_bytes:
        raise ImageError(
            f"{name!r} is larger than {limits.max_bytes:,} bytes, the limit.",
            "If you trust it: --max-bytes N (Python: limits=ImageLimits(max_bytes=N)).",
        )


def _check_pixels(width: int, height: int, name: str, limits: ImageLimits) -> None:
    pixels, longest = width * height, max(width, height)
    if pixels == 0:
        raise ImageError(f"{name!r} has {width} x {height} pixels: nothing to see.")
    if pixels > limits.max_pixels:
        raise ImageError(
            f"{name!r} has {width} x {height} = {pixels:,} pixels, limit {limits.max_pixels:,} (--max-pixels).",
            f"If you trust it: --max-pixels {pixels} (Python: limits=ImageLimits(max_pixels={pixels})).",
        )

    if longest > limits.max_side:
        most = 1000 * longest
        raise ImageError(
            f"{name!r} has {width} x {height} pixels, a side of at most {limits.max_side:,} is expected.",
            f"If you trust it: --max-pixels {most} (Python: limits=ImageLimits(max_pixels={most})).",
        )


def _load(image: Image.Image, source: Source, name: str) -> None:
    """Decode the pixels; raises `ImageError` where the file has fewer than its header says."""
    file = getattr(image, "fp", None)  # forgotten by pillow as soon as it has loaded
    image.load()
    if not isinstance(source, Image.Image) and file is not None and is_cut_off(image, file):
        raise ImageError(
            f"{name!r} is truncated: it holds fewer pixels than it says that it has.",
            "Copy it again from its source, or leave it out.",
        )


def _identified(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """What `PIL.Image.open` does, less its limit on pixels, which is a global and does not name the file."""
    prefix = file.read(16)
    for factory, accept in _READERS.values():
        if accept is None or accept(prefix) is True:
            file.seek(0)
            try:
                return factory(file, name)
            except (SyntaxError, IndexError, TypeError, struct.error) as error:  # as pillow: not this format
                reason = f"its header is damaged ({error})"
                if "pixel mode" in str(error) and prefix.startswith(TIFF_STARTS):
                    reason = "its bands or numbers are none of a colour picture's; --set channels=all trains on them"
                break
    else:
        reason = f"it looks like {_kind(prefix)}"
    raise ImageError(
        f"{name!r} is not an image that can be read: {reason}.",
        f"Known formats: {', '.join(_READERS)}. Convert it, or leave it out.",
    )


def _kind(prefix: bytes) -> str:
    """A guess at what a file without a known header is, for the error message."""
    if prefix[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "a HEIC photo of a phone (convert it to JPEG)"
    for magic, kind in _OTHER_KINDS.items():
        if prefix.lstrip().startswith(magic):
            return kind
    text = prefix.decode("ascii", "replace")
    return "a text" if "".join(text.split()).isprintable() else f"something that starts with {prefix!r}"


def _remarks(image: Image.Image, *, loaded: bool = True) -> frozenset[str]:
    """What a person should know of an image that can be read."""
    # A phone's JPEG may carry a second picture (depth, preview): that is no animation.
    several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return frozenset(([FRAMES] if several else []) + ([DARK] if loaded and is_dark(image) else []))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 for upright; damaged EXIF data turn nothing."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as above: what a stranger's bytes make of the parser cannot be listed
        return 1


def _upright(orientation: int, image: Image.Image) -> Image.Image:
    """`image` turned as EXIF's orientation asks."""
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    image.info = {}  # else whoever opens the result again would turn it twice
    return image
