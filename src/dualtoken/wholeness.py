"""Whether a file holds as many pixels as its header says: decoders fill what is missing, and say nothing.

What they fill with is looked for first, so that nearly every image costs one look at its last pixel.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

_GREY, _BLACK = 128, 0  # what is made of a JPEG's missing blocks, and of a PNG's missing rows
_ROWS = 256  # compared at once
_MORE = bytes(range(1, 128)) * 8  # goes on where a JPEG's data end; no byte of it is a marker
# First column, first row, step to the next column and row, of the seven passes of an interlaced PNG.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by a PNG's colour type


def is_cut_off(image: Image.Image, file: BinaryIO) -> bool:
    """Whether the decoded `image`, perhaps decoded smaller, has pixels that are not in the `file` that it is from."""
    if image.format in ("JPEG", "MPO") and _ends_in(image, _GREY):
        return _grows(file)
    return image.format == "PNG" and _ends_in(image, _BLACK) and _png_rows_missing(file)


def _ends_in(image: Image.Image, value: int) -> bool:
    last = image.getpixel((image.width - 1, image.height - 1))
    return all(part == value for part in (last if isinstance(last, tuple) else (last,)))


def _grows(file: BinaryIO) -> bool:
    """Whether more data before a JPEG's end make other pixels: of a whole one everything is decoded by then."""
    file.seek(0)
    content = file.read()
    end = content.rfind(b"\xff\xd9")
    if end < 0:
        return False
    longer = content[:end] + _MORE + content[end:]
    with JpegImageFile(io.BytesIO(content)) as one, JpegImageFile(io.BytesIO(longer)) as other:
        strips = ((0, top, one.width, min(one.height, top + _ROWS)) for top in range(0, one.height, _ROWS))
        return any(one.crop(strip).tobytes() != other.crop(strip).tobytes() for strip in strips)


def _png_rows_missing(file: BinaryIO) -> bool:
    """Whether a PNG's data unpack to fewer bytes than its size needs."""
    file.seek(8)
    inflate, unpacked, needed = zlib.decompressobj(), 0, 0
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        content = file.read(length)
        file.seek(4, io.SEEK_CUR)
        if kind == b"IHDR":
            needed = _bytes_of(*struct.unpack(">IIBBBBB", content))
        elif kind == b"IDAT":  # never unpacked further than is asked: it may be a bomb
            while content and unpacked < needed:
                unpacked += len(inflate.decompress(content, needed - unpacked))
                content = inflate.unconsumed_tail
        if kind == b"IEND" or unpacked >= needed > 0:
            break
    return unpacked < needed


def _bytes_of(width: int, height: int, bits: int, colour: int, _packed: int, _filter: int, interlaced: int) -> int:
    """Bytes of all rows of a PNG, each with the one that names its filter."""
    total = 0
    for left, top, right, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits * _SAMPLES.get(colour, 1) // 8))
    return total
