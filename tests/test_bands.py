"""Other bands than red, green and blue, and other values than 8 bits: files of every kind, the window, hostile ones."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dualtoken.bands import BandImage, Bands
from dualtoken.errors import ConfigError, ImageError, ModelError
from dualtoken.images import OUTSIDE, ImageLimits, ImageWarning, check_image, open_image, open_values
from dualtoken.model_folder import ModelConfig
from dualtoken.preprocess import Preprocessing

tifffile = pytest.importorskip("tifffile")
HEIGHT, WIDTH = 6, 8


def values(bands: int, dtype: Any = np.uint8, low: float = 0, high: float = 255) -> np.ndarray:
    drawn = np.random.default_rng(bands).uniform(low, high, (HEIGHT, WIDTH, bands))
    return drawn.astype(dtype)


def tiff(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric="minisblack", **options)
    return buffer.getvalue()


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def window(bands: int, low: float = 0, high: float = 255, **options: Any) -> Bands:
    return Bands(bands, tuple(range(bands)), low=(low,) * bands, high=(high,) * bands, **options)


@pytest.mark.parametrize("bands", [1, 2, 4, 5, 16])
@pytest.mark.parametrize("layout", ["contig", "separate", "npy", "npy first"])
def test_eight_bits_stay_as_they_are(bands: int, layout: str) -> None:
    own = values(bands)
    if layout.startswith("npy"):
        content = npy(np.moveaxis(own, 2, 0) if layout == "npy first" and bands < HEIGHT else own)
    elif bands == 1:
        content = tiff(own[..., 0])
    else:
        planar = np.moveaxis(own, 2, 0) if layout == "separate" else own
        content = tiff(np.ascontiguousarray(planar), planarconfig=layout)
    if layout.startswith("npy") and bands > HEIGHT:
        own = np.moveaxis(own, 0, 2)  # the shorter side is the bands
    image = open_image(content, bands=window(own.shape[2]))
    assert np.array_equal(np.asarray(image), own)


def test_channels_are_taken_in_their_order() -> None:
    own = values(5)
    bands = Bands(5, (3, 0, 1), low=(0,) * 3, high=(255,) * 3)
    assert np.array_equal(np.asarray(open_image(tiff(own, planarconfig="contig"), bands=bands)), own[..., [3, 0, 1]])
    with pytest.raises(ImageError, match="has 4 bands, expected 5"):
        open_image(tiff(values(4), planarconfig="contig"), bands=bands)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("form", [tiff, npy])
def test_a_window_makes_black_and_white(dtype: Any, form: Any) -> None:
    own = np.array([[-2000, -1000, -300, 400, 900]] * 3, dtype)
    with pytest.warns(ImageWarning, match=OUTSIDE):
        image = open_image(form(own), bands=window(1, -1000, 400))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert OUTSIDE in check_image(form(own), bands=window(1, -1000, 400)).remarks


def test_what_is_no_number_becomes_black_and_counts_as_cut() -> None:
    own = np.array([[np.nan, np.inf, -np.inf, 5.0]])
    scaled, outside = window(1, 0, 10).scaled(own[..., None])
    assert (scaled[0, :, 0].tolist(), outside) == ([0, 255, 0, 128], 0.75)


def test_near_infrared_in_the_place_of_alpha_is_a_band() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values(4), photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(ImageError, match="--set channels=all"):
        open_image(buffer.getvalue())
    assert np.array_equal(np.asarray(open_image(buffer.getvalue(), bands=window(4))), values(4))


def test_a_tiff_that_is_no_picture_says_how_it_is_read() -> None:
    with pytest.raises(ImageError, match="--set channels=all trains on them"):
        open_image(tiff(values(6), planarconfig="contig"))


def test_pages_are_bands_where_that_is_asked_for() -> None:
    stack = np.moveaxis(values(3), 2, 0)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for page in stack:
            writer.write(page, photometric="minisblack", contiguous=False)
    content = buffer.getvalue()
    assert np.array_equal(np.asarray(open_image(content, bands=window(3, pages=True))), values(3))
    with pytest.warns(ImageWarning, match="several frames, the first"):
        assert np.asarray(open_image(content, bands=window(1)))[..., 0].tolist() == stack[0].tolist()


def test_the_orientation_counts(tmp_path: Path) -> None:
    own = values(5)
    content = tiff(own, planarconfig="contig", extratags=[(274, "H", 1, 6, True)])
    assert np.array_equal(np.asarray(open_image(content, bands=window(5))), np.rot90(own, -1))
    assert check_image(content, bands=window(5)).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
def test_other_formats_give_the_bands_that_they_have(mode: str) -> None:
    image = (
        Image.fromarray(values(3)).convert(mode) if mode != "I;16" else Image.fromarray(values(1, np.uint16)[..., 0])
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    stored = open_values(buffer.getvalue(), Bands())
    assert stored.shape == (HEIGHT, WIDTH, {"L": 1, "I;16": 1, "RGBA": 4}.get(mode, 3))


def test_a_png_whose_bits_pillow_would_drop_is_refused() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(7))) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="16 bits a colour"):
        open_image(content, bands=window(3))


# ---------------------------------------------------------------- the picture


def test_a_picture_of_bands_does_what_pictures_do() -> None:
    own = values(5)
    image = BandImage.of(own)
    assert (image.size, len(image.getbands())) == ((WIDTH, HEIGHT), 5)
    assert np.array_equal(np.asarray(image.crop((1, 2, 5, 6))), own[2:6, 1:5])
    assert np.array_equal(np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), own[:, ::-1])
    small = np.asarray(image.resize((4, 3), Image.Resampling.BICUBIC))
    assert np.array_equal(
        small[..., 4], np.asarray(Image.fromarray(own[..., 4]).resize((4, 3), Image.Resampling.BICUBIC))
    )
    copy = image.copy()
    copy.paste(image.crop((0, 0, 2, 2)), (3, 3))
    assert np.array_equal(np.asarray(copy)[3:5, 3:5], own[:2, :2])
    assert np.array_equal(np.asarray(image), own)
    assert np.array_equal(np.asarray(image.convert("RGB")), own[..., :3])
    with pytest.raises(Exception):  # noqa: B017 - nothing that would do one band and not the others
        image.rotate(5)


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
@pytest.mark.parametrize("crop_mode", ["center", "border"])
def test_the_networks_input_has_as_many_channels(bands: int, crop_mode: Any) -> None:
    mean = tuple(0.1 * (band + 1) for band in range(bands))
    fitting = Preprocessing((16, 16), 1.0, crop_mode, mean=mean, std=(0.5,) * bands, bands=window(bands))
    own = np.full((HEIGHT, WIDTH, bands), 51, np.uint8)
    pixels = fitting(open_image(own, bands=fitting.bands))
    assert pixels.shape == (bands, 16, 16)
    assert np.allclose(pixels[:, 8, 8], (0.2 - np.array(mean)) / 0.5, atol=1e-6)
    if crop_mode == "border":
        assert np.abs(pixels[:, 0, 0]).max() < 0.01  # the mean colour
    config = ModelConfig("dualtoken_vit_t_mix", ("a", "b"), fitting)
    assert ModelConfig.from_json(config.to_json()).preprocessing == fitting
    assert Preprocessing.from_dict(fitting.to_dict()) == fitting


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": [0.0]}, "as many numbers"),
        ({"high": [-1.0] * 4}, "rising numbers"),
        ({"channels": [0, 1, 2, 9]}, "expected 0 to 3"),
        ({"stored": 10**9}, "stored"),
        ({"channels": [0, 1], "low": [0.0] * 2, "high": [1.0] * 2}, "must both have 2 numbers"),
        ({"more": 1}, "more"),
    ],
)
def test_a_config_with_impossible_bands_is_refused(change: dict[str, Any], words: str) -> None:
    fitting = Preprocessing((16, 16), mean=(0.5,) * 4, std=(0.5,) * 4, bands=window(4))
    content = ModelConfig("dualtoken_vit_t_mix", ("a", "b"), fitting).to_json()
    content["dualtoken"]["bands"] |= change
    with pytest.raises((ModelError, ConfigError), match=words):
        ModelConfig.from_json(content)


# ---------------------------------------------------------------- hostile files


def circular() -> bytes:
    """A TIFF whose directory is followed by itself."""
    content = bytearray(tiff(values(1)[..., 0]))
    start = struct.unpack_from("<I", content, 4)[0]
    entries = struct.unpack_from("<H", content, start)[0]
    struct.pack_into("<I", content, start + 2 + 12 * entries, start)
    return bytes(content)


def bomb() -> bytes:
    """A TIFF that unpacks to a thousand times what its size needs."""
    packed = zlib.compress(bytes(50_000_000), 9)
    small = bytearray(tiff(np.zeros((64, 64), np.uint8), compression="zlib", rowsperstrip=64))
    with tifffile.TiffFile(io.BytesIO(small)) as file:
        place, length = file.pages[0].tags[273].valueoffset, file.pages[0].tags[279].valueoffset
    struct.pack_into("<I", small, place, len(small))
    struct.pack_into("<I", small, length, len(packed))
    return bytes(small) + packed


HOSTILE = {
    "truncated": lambda: tiff(values(5), planarconfig="contig")[:-40],
    "header alone": lambda: b"II*\0",
    "far too wide": lambda: npy(np.zeros((1, 1), np.uint8)).replace(b"(1, 1)", b"(9**9,1)"),
    "pickle": lambda: npy(np.array([[{}]], object), allow_pickle=True),
    "text": lambda: npy(np.array([["a", "b"]])),
    "complex": lambda: npy(np.zeros((4, 4), complex)),
    "four dimensions": lambda: npy(np.zeros((2, 2, 2, 2))),
    "no pixels": lambda: npy(np.zeros((0, 4))),
    "too many bands": lambda: npy(np.zeros((40, 40, 30), np.uint8)),
    "short array": lambda: npy(np.zeros((40, 40, 2), np.uint8))[:-9],
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore")
def test_hostile_files_are_errors_by_name(kind: str) -> None:
    with pytest.raises(ImageError, match="its name"):
        open_image(HOSTILE[kind](), name="its name", bands=Bands(channels=(0,), low=(0,), high=(1,)),
                   limits=ImageLimits(max_pixels=10_000))  # fmt: skip


def test_a_circle_of_pages_and_a_bomb_cost_nothing(tmp_path: Path) -> None:
    import tracemalloc

    one = Bands(pages=True)
    assert open_values(circular(), one).shape == (HEIGHT, WIDTH, 1)
    content = bomb()
    tracemalloc.start()
    with contextlib.suppress(ImageError):
        open_values(content, one)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
