"""`open_image` over every mode and format pillow can write here, and over files made to break it."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from dualtoken.errors import ImageError
from dualtoken.images import (
    DARK,
    FRAMES,
    IMAGE_SUFFIXES,
    ImageLimits,
    ImageWarning,
    check_image,
    is_image_name,
    open_image,
)

SIZE = (6, 4)
RED, WHITE, HALF = (200, 40, 40), (255, 255, 255), 128


def plain(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, SIZE, colour)


def array(value: float, dtype: Any) -> Image.Image:
    return Image.fromarray(np.full(SIZE[::-1], value, dtype))


def palette(transparent: bool) -> Image.Image:
    image = plain("P", 1)
    image.putpalette([0, 0, 0, *RED])
    if transparent:
        image.info["transparency"] = 1
    return image


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png16(colour: tuple[int, ...], colour_type: int) -> bytes:
    """A PNG with 16 bits a channel, which pillow cannot write in colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(f">{len(colour)}H", *colour) * SIZE[0]
    header = struct.pack(">IIBBBBB", *SIZE, 16, colour_type, 0, 0, 0)
    packed = zlib.compress(row * SIZE[1])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff(value: int, code: str, sample_format: int) -> bytes:
    """A grey TIFF whose every pixel is `value`, packed by `struct` as `code`."""
    pixels = struct.pack(f"<{SIZE[0] * SIZE[1]}{code}", *[value] * (SIZE[0] * SIZE[1]))
    tags = {256: SIZE[0], 257: SIZE[1], 258: struct.calcsize(code) * 8, 259: 1, 262: 1, 273: 8, 277: 1}
    tags |= {278: SIZE[1], 279: len(pixels), 339: sample_format}
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + struct.pack("<I", 0)


# Bytes, the colour of every pixel, and by how much a lossy format may miss it.
GOLDEN: dict[str, tuple[Callable[[], bytes], tuple[int, int, int], int]] = {
    "png RGB": (lambda: encoded(plain("RGB", RED), "PNG"), RED, 0),
    "png L": (lambda: encoded(plain("L", 77), "PNG"), (77,) * 3, 0),
    "png 1": (lambda: encoded(plain("1", 1), "PNG"), WHITE, 0),
    "png RGBA clear": (lambda: encoded(plain("RGBA", (*RED, 0)), "PNG"), WHITE, 0),
    "png RGBA half": (lambda: encoded(plain("RGBA", (*RED, HALF)), "PNG"), (227, 147, 147), 1),
    "png RGBA opaque": (lambda: encoded(plain("RGBA", (*RED, 255)), "PNG"), RED, 0),
    "png LA": (lambda: encoded(plain("LA", (0, HALF)), "PNG"), (127,) * 3, 1),
    "png P": (lambda: encoded(palette(False), "PNG"), RED, 0),
    "png P transparent": (lambda: encoded(palette(True), "PNG"), WHITE, 0),
    "png L transparent": (lambda: encoded(plain("L", 77), "PNG", transparency=77), WHITE, 0),
    "png RGB transparent": (lambda: encoded(plain("RGB", RED), "PNG", transparency=RED), WHITE, 0),
    "png 16-bit grey": (lambda: encoded(array(257 * 100, np.uint16), "PNG"), (100,) * 3, 0),
    "png 16-bit grey max": (lambda: png16((65535,), 0), WHITE, 0),
    "png 16-bit RGB": (lambda: png16((257 * 200, 257 * 40, 257 * 40), 2), RED, 0),
    "png 16-bit grey alpha": (lambda: png16((0, 0), 4), WHITE, 0),
    "png 16-bit RGBA": (lambda: png16((257 * 200, 257 * 40, 257 * 40, 65535), 6), RED, 0),
    "jpeg RGB": (lambda: encoded(plain("RGB", RED), "JPEG", quality=95), RED, 3),
    "jpeg progressive": (lambda: encoded(plain("RGB", RED), "JPEG", progressive=True), RED, 3),
    "jpeg L": (lambda: encoded(plain("L", 77), "JPEG"), (77,) * 3, 2),
    "jpeg CMYK": (lambda: encoded(plain("CMYK", (55, 215, 215, 0)), "JPEG", quality=95), RED, 4),
    "gif": (lambda: encoded(palette(False), "GIF"), RED, 0),
    "gif transparent": (lambda: encoded(palette(True), "GIF", transparency=1), WHITE, 0),
    "webp": (lambda: encoded(plain("RGB", RED), "WEBP", lossless=True), RED, 0),
    "webp RGBA": (lambda: encoded(plain("RGBA", (*RED, 0)), "WEBP", lossless=True), WHITE, 0),
    "avif": (lambda: encoded(plain("RGB", RED), "AVIF", quality=95), RED, 6),
    "avif RGBA": (lambda: encoded(plain("RGBA", (*RED, 0)), "AVIF"), WHITE, 0),
    "bmp RGB": (lambda: encoded(plain("RGB", RED), "BMP"), RED, 0),
    "bmp P": (lambda: encoded(palette(False), "BMP"), RED, 0),
    "bmp 1": (lambda: encoded(plain("1", 1), "BMP"), WHITE, 0),
    "ppm": (lambda: encoded(plain("RGB", RED), "PPM"), RED, 0),
    "pgm 16-bit": (lambda: b"P5 6 4 65535 " + struct.pack(">24H", *[257 * 100] * 24), (100,) * 3, 0),
    "jpeg2000": (lambda: encoded(plain("RGB", RED), "JPEG2000"), RED, 1),
    "tiff RGB": (lambda: encoded(plain("RGB", RED), "TIFF"), RED, 0),
    "tiff lzw": (lambda: encoded(plain("RGB", RED), "TIFF", compression="tiff_lzw"), RED, 0),
    "tiff CMYK": (lambda: encoded(plain("CMYK", (55, 215, 215, 0)), "TIFF"), RED, 1),
    "tiff 1": (lambda: encoded(plain("1", 1), "TIFF"), WHITE, 0),
    "tiff uint16": (lambda: tiff(257 * 100, "H", 1), (100,) * 3, 0),
    "tiff int16": (lambda: tiff(32767, "h", 2), WHITE, 0),
    "tiff uint32": (lambda: tiff(2**32 - 1, "I", 1), WHITE, 0),
    "tiff int32": (lambda: tiff(2**31 - 1, "i", 2), WHITE, 0),
    "tiff float": (lambda: encoded(array(100 / 255, np.float32), "TIFF"), (100,) * 3, 0),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_every_format_and_mode_gives_the_right_rgb(case: str) -> None:
    make, colour, tolerance = GOLDEN[case]
    image = open_image(make())
    assert (image.mode, image.size) == ("RGB", SIZE)
    difference = np.abs(np.asarray(image, int) - np.array(colour)).max()
    assert difference <= tolerance, np.asarray(image)[0, 0]
    assert check_image(make()).remarks == frozenset()


MODES: dict[str, tuple[Callable[[], Image.Image], tuple[int, int, int]]] = {
    "RGB": (lambda: plain("RGB", RED), RED),
    "La": (lambda: plain("LA", (0, 0)).convert("La"), WHITE),
    "RGBa": (lambda: plain("RGBA", (*RED, 0)).convert("RGBa"), WHITE),
    "PA": (lambda: palette(False).convert("PA"), RED),
    "YCbCr": (lambda: plain("YCbCr", (100, 128, 128)), (100,) * 3),
    "HSV": (lambda: plain("HSV", (0, 0, 90)), (90,) * 3),
    "I;16": (lambda: array(257 * 90, np.uint16), (90,) * 3),
    "I;16B": (lambda: Image.frombytes("I;16B", SIZE, struct.pack(">24H", *[257 * 90] * 24)), (90,) * 3),
    "I": (lambda: plain("I", 257 * 9), (9,) * 3),
    "F": (lambda: plain("F", 1.0), WHITE),
}


@pytest.mark.parametrize("mode", MODES)
def test_images_of_pillow_of_every_mode(mode: str) -> None:
    make, colour = MODES[mode]
    image = make()
    before = image.tobytes()
    rgb = open_image(image)
    assert rgb.mode == "RGB"
    assert rgb.getpixel((0, 0)) == colour
    assert rgb is not image
    assert image.tobytes() == before


def test_background_shows_through() -> None:
    clear = encoded(plain("RGBA", (*RED, 0)), "PNG")
    assert open_image(clear, background=(1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)


def corner_image() -> Image.Image:
    """Upright: red in the top left corner, blue in the top right."""
    image = Image.new("RGB", (32, 16))
    image.paste((255, 0, 0), (0, 0, 8, 8))
    image.paste((0, 0, 255), (24, 0, 32, 8))
    return image


# How each orientation must be stored so that turning it gives `corner_image` again.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied_once(orientation: int, file_format: str) -> None:
    stored, turn = corner_image(), STORED[orientation]
    stored = stored if turn is None else stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(stored, file_format, exif=exif))
    again = open_image(image)
    for result in (image, again):
        assert result.size == (32, 16)
        np.testing.assert_allclose(np.asarray(result, int)[2, 2], (255, 0, 0), atol=12)
        np.testing.assert_allclose(np.asarray(result, int)[2, -3], (0, 0, 255), atol=12)


def waves(width: int, height: int) -> Image.Image:
    """Something like a photograph: smooth, with edges."""
    y, x = np.mgrid[:height, :width]
    bands = [127 + 90 * np.sin(x / 19 + k) * np.cos(y / 31) + 30 * ((x // 40 + y // 40) % 2) for k in range(3)]
    return Image.fromarray(np.stack(bands, 2).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("at_least", "expected"), [(None, 401), (401, 401), (201, 401), (200, 201), (100, 101), (50, 51), (3, 51)]
)
def test_a_jpeg_is_decoded_as_small_as_will_do(at_least: int | None, expected: int) -> None:
    found = open_image(encoded(waves(640, 401), "JPEG", quality=95), at_least=at_least)
    assert min(found.size) == expected


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_smaller_decoding_shows_the_same(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(waves(640, 400), "JPEG", quality=95, exif=exif)
    small, whole = (open_image(content, at_least=at_least) for at_least in (200, None))
    assert small.size == tuple(side // 2 for side in whole.size)
    size = tuple(side // 4 for side in whole.size)
    differences = [np.asarray(image.resize(size, Image.Resampling.BICUBIC), int) for image in (small, whole)]
    assert np.abs(differences[0] - differences[1]).mean() < 1.5  # of 255


def test_other_files_and_images_stay_whole() -> None:
    assert open_image(encoded(waves(640, 400), "PNG"), at_least=50).size == (640, 400)
    jpeg = Image.open(io.BytesIO(encoded(waves(640, 400), "JPEG")))
    assert open_image(jpeg, at_least=50).size == (640, 400)


def test_damaged_exif_turns_nothing() -> None:
    content = encoded(plain("RGB", RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pillow's own
        assert open_image(content).size == SIZE


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_animation_gives_the_first_frame_and_a_warning(file_format: str) -> None:
    frames = [plain("RGB", RED), plain("RGB", (0, 0, 255))]
    content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.warns(ImageWarning, match="first was read"):
        image = open_image(content, name="moving")
    np.testing.assert_allclose(np.asarray(image, int)[0, 0], RED, atol=20)
    assert check_image(content, full=False).remarks == {FRAMES}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_image(content, warn=False)


def test_second_picture_of_a_phone_is_no_animation() -> None:
    content = encoded(plain("RGB", RED), "MPO", save_all=True, append_images=[plain("RGB", WHITE)])
    assert open_image(content).size == SIZE


def huge_png(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = b"IHDR" + header
    data = zlib.compress(bytes(10_000_000))
    chunk = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + chunk


def test_huge_image_is_refused_by_its_header() -> None:
    content = huge_png(30_000)
    start = time.perf_counter()
    with pytest.raises(ImageError) as caught:
        open_image(content, name="huge.png")
    assert time.perf_counter() - start < 0.5
    text = str(caught.value)
    assert all(part in text for part in ("huge.png", "900,000,000", "100,000,000", "--max-pixels 900000000"))


def test_limit_is_not_that_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    assert open_image(encoded(plain("RGB", RED), "PNG")).size == SIZE
    assert Image.MAX_IMAGE_PIXELS == 4


def test_limit_of_pixels_is_inclusive() -> None:
    content = encoded(plain("RGB", RED), "PNG")
    assert open_image(content, limits=ImageLimits(max_pixels=24)).size == SIZE
    with pytest.raises(ImageError, match="24 pixels"):
        open_image(content, limits=ImageLimits(max_pixels=23))


@pytest.mark.parametrize("kind", ["bytes", "path", "file"])
def test_limit_of_bytes(kind: str, tmp_path: Path) -> None:
    content = encoded(plain("RGB", RED), "BMP")
    path = tmp_path / "a.bmp"
    path.write_bytes(content)
    source: Any = {"bytes": content, "path": path, "file": io.BytesIO(content)}[kind]
    with pytest.raises(ImageError, match="--max-bytes"):
        open_image(source, limits=ImageLimits(max_bytes=len(content) - 1))
    if kind == "file":
        source.seek(0)
    assert open_image(source, limits=ImageLimits(max_bytes=len(content))).size == SIZE


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
def test_truncated_file_is_refused_whatever_others_have_set(
    file_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encoded(Image.fromarray(noise), file_format)
    path = tmp_path / "half.img"
    path.write_bytes(content[: len(content) // 2])
    for full in (open_image, check_image, partial(open_image, at_least=8)):
        with pytest.raises(ImageError, match=r"half\.img"):
            full(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"just a text that was renamed", "a text"),
        (b"<!DOCTYPE html><p>Not found", "HTML"),
        (b"<svg xmlns=", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\x7fELF\x02\x01\x01\0", "starts with"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"GIF89a", "damaged"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "damaged"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "odd name\n.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        open_image(path)
    assert repr(str(path)) in caught.value.message


def test_missing_folder_pipe_and_broken_link(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no file"):
        open_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="not a file"):
        open_image(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="link may point to nothing"):
        open_image(tmp_path / "link.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a file"):
        open_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("value", [255.0, -0.5, float("nan")])
def test_floats_of_unknown_range_are_refused(value: float) -> None:
    with pytest.raises(ImageError, match="expected 0 to 1"):
        open_image(array(value, np.float32))


def test_random_damage_raises_nothing_but_image_error() -> None:
    rng = np.random.default_rng(0)
    for case, (make, _, _) in GOLDEN.items():
        original = np.frombuffer(make(), np.uint8)
        for _ in range(12):
            damaged = original.copy()
            damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(ImageError):
                    assert open_image(damaged.tobytes(), limits=ImageLimits(max_pixels=10**6)).mode == "RGB", case


def test_image_error_survives_the_way_between_processes() -> None:
    error = ImageError("what came", "what to do")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.message, again.hint) == (ImageError, "what came", "what to do")


def test_names_of_images() -> None:
    assert all(is_image_name(f"a/b c{suffix.upper()}") for suffix in IMAGE_SUFFIXES)
    assert not any(map(is_image_name, [".a.jpg", "a/._b.jpg", "jpg", "a.txt", "a.jpg.part", ".jpg", "Thumbs.db"]))


# ---------------------------------------------------------------- values and bands that are no colours


def bands(values: np.ndarray, *, extra: tuple[int, ...], sample_format: int = 1) -> bytes:
    """An uncompressed TIFF of (height, width, bands) 8-bit values, of which the first three are colours."""
    height, width, count = values.shape
    data = np.ascontiguousarray(values).tobytes()
    tags = [(256, 3, (width,)), (257, 3, (height,)), (258, 3, (8,) * count), (259, 3, (1,)),
            (262, 3, (2 if count > 2 else 1,)), (273, 4, (8,)),
            (277, 3, (count,)), (278, 3, (height,)), (279, 4, (len(data),)), (338, 3, extra),
            (339, 3, (sample_format,) * count)]  # fmt: skip
    tags = [tag for tag in tags if tag[2]]
    directory, beyond = b"", b""
    after = 8 + len(data) + 2 + 12 * len(tags) + 4
    for number, kind, numbers in tags:
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            packed, beyond = struct.pack("<I", after + len(beyond)), beyond + packed
        directory += struct.pack("<HHI", number, kind, len(numbers)) + packed.ljust(4, b"\0")
    header = b"II*\0" + struct.pack("<I", 8 + len(data))
    return header + data + struct.pack("<H", len(tags)) + directory + bytes(4) + beyond


NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 6), dtype=np.uint8)
NO_COLOURS = {
    "four bands": (bands(NOISE[..., :4], extra=(0,)), "more bands than colours"),
    "five bands": (bands(NOISE[..., :5], extra=(0, 0)), "more bands than colours"),
    "near infrared as alpha": (bands(NOISE[..., :4], extra=(2,)), "near infrared"),
    "signed bytes": (bands(NOISE[..., :1], extra=(), sample_format=2), "below 0"),
    "signed shorts": (tiff(-5, "h", 2), "from -5 to -5"),
    "floats above one": (encoded(array(3.5, np.float32), "TIFF"), "expected 0 to 1"),
}


@pytest.mark.parametrize("case", NO_COLOURS)
def test_what_is_no_colour_is_refused(case):
    content, said = NO_COLOURS[case]
    for read in (open_image, check_image):
        with pytest.raises(ImageError, match=said):
            read(content)


def test_alpha_of_a_tiff_is_alpha():
    values = NOISE[..., :4].copy()
    values[..., 3] = 255
    values[:3, :, 3] = 0
    image = np.asarray(open_image(bands(values, extra=(2,))))
    assert (image[:3] == 255).all()
    np.testing.assert_array_equal(image[3:], values[3:, :, :3])


def test_sixteen_bits_that_are_hardly_used_are_said():
    content = encoded(array(4000, np.uint16), "PNG")
    with pytest.warns(ImageWarning, match="nearly black"):
        open_image(content)
    assert check_image(content).remarks == {DARK}
    assert check_image(encoded(array(5000, np.uint16), "PNG")).remarks == frozenset()


# ---------------------------------------------------------------- headers that promise too much


def promising(content: bytes, size: tuple[int, int]) -> bytes:
    """A JPEG or PNG whose header says another (width, height)."""
    changed = bytearray(content)
    if content.startswith(b"\x89PNG"):
        changed[16:24] = struct.pack(">II", *size)
        changed[29:33] = struct.pack(">I", zlib.crc32(bytes(changed[12:29])))
        return bytes(changed)
    frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    changed[frame + 5 : frame + 9] = struct.pack(">HH", size[1], size[0])
    return bytes(changed)


def small(kind: str, **options: Any) -> bytes:
    return encoded(Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)), kind, **options)


PROMISES = {
    "jpeg": ({}, (64, 80)),
    "jpeg wide": ({}, (72, 64)),
    "jpeg large": ({}, (3000, 3000)),
    "jpeg progressive": ({"progressive": True}, (64, 80)),
    "png": ({}, (64, 128)),
}


@pytest.mark.parametrize("case", PROMISES)
def test_a_header_that_promises_more_than_there_is_is_truncated(case):
    options, size = PROMISES[case]
    content = small("PNG" if case == "png" else "JPEG", **options)
    assert open_image(content).size == (64, 64)
    for read in (open_image, check_image):
        with pytest.raises(ImageError, match="truncated"):
            read(promising(content, size))


@pytest.mark.slow
def test_nine_thousand_by_nine_thousand_over_few_kilobytes():
    with pytest.raises(ImageError, match="truncated"):
        open_image(promising(small("JPEG"), (9000, 9000)))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}])
def test_grey_and_black_images_are_whole(options):
    for value in ((128, 128, 128), (0, 0, 0)):
        plain = Image.new("RGB", (70, 50), value)
        for content in (encoded(plain, "JPEG", **options), encoded(plain, "PNG"), encoded(plain.convert("1"), "PNG")):
            assert open_image(content).size == (70, 50)
            check_image(content)
            assert open_image(content + b"and more behind its end").size == (70, 50)
    for mode in ("P", "L", "LA", "RGBA", "I;16"):
        assert open_image(encoded(Image.new(mode, (13, 7)), "PNG")).size == (13, 7)


def test_the_shape_has_a_limit_too():
    for size in ((1, 70_000), (70_000, 1)):
        content = encoded(Image.new("L", size), "PNG")
        with pytest.raises(ImageError, match=r"a side of at most 65,535.*\n.*--max-pixels 70000000"):
            open_image(content, limits=ImageLimits(max_pixels=10_000_000))
        assert open_image(content).size == size


def test_memory_that_ends_is_the_fault_of_the_image(monkeypatch):
    for error in (MemoryError, RecursionError):

        def fail(*_: object, error: type[BaseException] = error) -> None:
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        with pytest.raises(ImageError, match=r"'a\.png' needs more memory"):
            open_image(small("PNG"), name="a.png")
