"""Pictures of other bands than red, green and blue, and of other numbers than 8 bits without a sign.

`Bands` says which bands of a file the network sees and which of their values become 0 to 255. It is fixed once, by the
training images, and travels with the model, so that every engine sees the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.errors import ImageError, require

MOST_BANDS = 16  # that a network sees
MOST_STORED = 1024  # of a file, of which they are chosen
_SHOWN = 4  # windows of so many bands are written out
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NPY_START = b"\x93NUMPY"
_AS_STORED = frozenset({"L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_PHOTOMETRIC = (1, 2, 6)  # TIFF's numbers for grey with 0 as black, colours, and JPEG's colours

Values = NDArray[Any]
Check = Callable[[int, int, int], None]  # of (width, height, bands), before anything is decoded


class Stored(NamedTuple):
    """Pixels as a file holds them: values (height, width, bands), EXIF's orientation, whether there are more pages."""

    values: Values
    orientation: int = 1
    more_pages: bool = False


@dataclass(frozen=True)
class Bands:
    """What of a file's bands a network sees, and how.

    Attributes:
        stored: bands of every file; 0 where that is not known yet.
        channels: which of them, counted from 0, in the order in which the network sees them; empty for all.
        pages: whether the pages of a TIFF are bands; else its first page is the image.
        low, high: for each channel the stored values that become 0 and 255; what lies outside is cut there. Empty
            as long as they are not fixed: then values are only looked at.
    """

    stored: int = 0
    channels: tuple[int, ...] = ()
    pages: bool = False
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(0 <= channel < (self.stored or MOST_STORED) for channel in self.channels):
            what = f"0 to {self.stored - 1}" if self.stored else "whole numbers from 0"
            raise ValueError(f"channels are {list(self.channels)}, expected {what}")
        if len(self.channels) > MOST_BANDS or (self.stored and not self.channels):
            raise ValueError(f"{len(self.channels)} channels, expected 1 to {MOST_BANDS}")
        if len(self.low) != len(self.high) or any(a >= b for a, b in zip(self.low, self.high, strict=False)):
            raise ValueError(f"the window goes from {list(self.low)} to {list(self.high)}, expected rising numbers")

    def chosen(self, values: Values, name: str) -> Values:
        """The channels of a file's values (height, width, bands).

        Raises:
            ImageError: it has not as many bands as expected.
        """
        if self.stored and values.shape[2] != self.stored:
            raise ImageError(
                f"{name!r} has {values.shape[2]} bands, expected {self.stored}.",
                "All images of a data set, and those that its model is asked about, have the same bands.",
            )
        return values[..., list(self.channels)] if self.channels else values

    def scaled(self, values: Values) -> tuple[NDArray[np.uint8], float]:
        """Values (height, width, channels) as 8 bits, and the share of them that lies outside the window."""
        if values.dtype == np.uint8 and set(self.low) == {0} and set(self.high) == {255}:
            return values, 0.0
        low, high = np.array(self.low), np.array(self.high)
        part = (values.astype(np.float64) - low) / (high - low)
        inside = (part >= 0) & (part <= 1)  # so written, NaN is outside
        part = np.nan_to_num(part, nan=0, posinf=1, neginf=0).clip(0, 1)
        return (255 * part).round().astype(np.uint8), float(1 - inside.mean())

    def words(self, kind: str = "", outside: float | None = None) -> str:
        """What is done to pixels, for people; with the type of the stored values and the share that is cut."""
        which = "all" if self.channels == tuple(range(self.stored)) else ", ".join(map(str, self.channels))
        what = f"{which} of {self.stored} {'pages' if self.pages else 'bands'}" if self.stored > 1 else "one band"
        pairs = [f"{low:,.6g} to {high:,.6g}" for low, high in zip(self.low, self.high, strict=True)]
        same = len(set(pairs)) == 1
        window = pairs[0] if same else ", ".join(pairs[:_SHOWN]) + (", ..." if len(pairs) > _SHOWN else "")
        cut = f", {outside:.2%} of them lie outside and are cut" if outside else ""
        return (
            f"pixels: {what}{f' of {kind}' if kind else ''}; values from {window}{'' if same else ', band by band,'}"
            f" become 0 to 255 in whole steps{cut}"
        )


class BandImage(Image.Image):
    """A picture of any number of bands with 8 bits, each a grey picture of pillow's, for which pillow has no mode.

    It does what pictures have to do here (cut, resize, turn, paste), band by band; all else that pillow can do with
    a picture fails.
    """

    def __init__(self, planes: Sequence[Image.Image]) -> None:
        super().__init__()
        self.planes = tuple(planes)
        self._size, self._mode = self.planes[0].size, "bands"

    @classmethod
    def of(cls, values: NDArray[np.uint8]) -> BandImage:
        """From (height, width, bands)."""
        return cls([Image.fromarray(np.ascontiguousarray(values[..., band])) for band in range(values.shape[2])])

    @property
    def __array_interface__(self) -> dict[str, Any]:
        values = np.stack([np.asarray(plane) for plane in self.planes], axis=2)
        return {"shape": values.shape, "typestr": "|u1", "version": 3, "data": values.tobytes()}

    def getbands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return tuple(map(str, range(len(self.planes))))

    def _each(self, change: Callable[[Image.Image], Image.Image]) -> BandImage:
        return BandImage([change(plane) for plane in self.planes])

    def resize(self, size: Any, *args: Any, **options: Any) -> BandImage:
        """As `Image.resize`."""
        return self._each(lambda plane: plane.resize(size, *args, **options))

    def crop(self, box: Any = None) -> BandImage:
        """As `Image.crop`."""
        return self._each(lambda plane: plane.crop(box))

    def transpose(self, method: Image.Transpose) -> BandImage:
        """As `Image.transpose`."""
        return self._each(lambda plane: plane.transpose(method))

    def copy(self) -> BandImage:
        """As `Image.copy`."""
        return self._each(lambda plane: plane.copy())

    def paste(self, im: Any, box: Any = None, mask: Any = None) -> None:
        """As `Image.paste`, of a picture with as many bands."""
        for plane, other in zip(self.planes, im.planes, strict=True):
            plane.paste(other, box, mask)

    def convert(self, mode: str | None = None, *args: Any, **options: Any) -> Image.Image:
        """For people to look at: the first three bands as red, green and blue; of one or two the first as grey."""
        seen = Image.merge("RGB", self.planes[:3]) if len(self.planes) > 2 else self.planes[0]
        return seen.convert(mode, *args, **options)


def coloured(image: Image.Image) -> Image.Image:
    """A picture of one or three bands as an RGB one, any other as it is."""
    return image.convert("RGB") if isinstance(image, BandImage) and len(image.planes) in (1, 3) else image


def canvas(size: tuple[int, int], fill: tuple[int, ...]) -> Image.Image:
    """A picture of (width, height) with one value a band."""
    if len(fill) == 3:
        return Image.new("RGB", size, (fill[0], fill[1], fill[2]))
    return BandImage([Image.new("L", size, value) for value in fill])


# ---------------------------------------------------------------- files


def of_picture(image: Image.Image) -> Values:
    """The values of a picture of pillow's, (height, width, bands); palettes and other colours become RGB."""
    values = np.asarray(image if image.mode in _AS_STORED else image.convert("RGB"))
    return values.reshape(image.height, image.width, -1)


def of_tiff(file: BinaryIO, name: str, *, pages: bool, check: Check) -> Stored:
    """The values of a TIFF.

    Args:
        file: the file.
        name: what messages call it.
        pages: whether its pages are bands.
        check: raises where the image is too large.

    Raises:
        ImageError: the pages differ, or its values are neither grey nor colours.
        MissingExtraError: tifffile is not installed.
    """
    tifffile = require("tifffile", "bands")
    with tifffile.TiffFile(file) as tiff:
        first, count = tiff.pages[0], len(tiff.pages)
        if count > MOST_STORED and pages:
            raise ImageError(f"{name!r} has {count:,} pages, expected {MOST_STORED:,} at most.")
        used = [tiff.pages[number] for number in range(count if pages else 1)]
        if any(page.shape != first.shape or page.dtype != first.dtype for page in used):
            raise ImageError(f"{name!r} has pages of different sizes or types.", "Only equal ones can be bands.")
        if first.photometric not in _PHOTOMETRIC or first.dtype is None or first.imagedepth != 1:
            kind = getattr(first.photometric, "name", first.photometric)
            raise ImageError(f"{name!r} is a TIFF of the kind {kind}, expected grey values or colours, black as 0.")
        check(first.imagewidth, first.imagelength, first.samplesperpixel * len(used))
        values = [_bands_last(page.asarray(maxworkers=1), page.axes) for page in used]
        tag = first.tags.get(274)
        return Stored(np.concatenate(values, axis=2), int(tag.value) if tag else 1, count > len(used))


def _bands_last(values: Values, axes: str) -> Values:
    return values[..., None] if values.ndim == 2 else np.moveaxis(values, axes.index("S"), 2)


def of_npy(file: BinaryIO, name: str, check: Check) -> Values:
    """The values of a numpy file as `of_array` takes them; never a pickle.

    Raises:
        ImageError: it is another array, or too large.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, _ = read(file)
    height, width, bands = _layout(shape, name)
    check(width, height, bands)
    file.seek(0)
    return of_array(np.load(file, allow_pickle=False), name)


def of_array(values: Values, name: str) -> Values:
    """An array (height, width), (height, width, bands) or (bands, height, width) as (height, width, bands).

    Of the first and the last side the shorter one is the bands.
    """
    height, width, bands = _layout(values.shape, name)
    return values if values.shape == (height, width, bands) else np.moveaxis(values.reshape(-1, height, width), 0, 2)


def _layout(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """(height, width, bands) of an array's shape."""
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise ImageError(f"{name!r} has shape {shape}, expected (height, width, bands).")
    first, middle, last = shape
    return (first, middle, last) if last <= first else (middle, last, first)
