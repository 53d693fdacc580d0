import numpy as np
import pytest
import torch
from PIL import Image

from dualtoken.errors import ConfigError
from dualtoken.preprocess import Preprocessing


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (97, 33)])
@pytest.mark.parametrize("source", [(64, 64), (300, 50), (50, 300), (1, 1), (97, 33)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_any_image_to_exactly_the_size(size, source, crop_mode, crop_pct):
    preprocessing = Preprocessing(image_size=size, crop_mode=crop_mode, crop_pct=crop_pct)
    pixels = preprocessing(picture(*source))
    assert pixels.shape == (3, *size)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("source", [(300, 200), (200, 300), (64, 64), (32, 32)])
def test_same_pixels_as_timm(source):
    from timm.data import create_transform

    preprocessing = Preprocessing(image_size=(64, 64), crop_pct=0.875)
    theirs = create_transform((3, 64, 64), crop_pct=0.875, interpolation="bicubic")(picture(*source))
    np.testing.assert_allclose(preprocessing(picture(*source)), theirs.numpy(), atol=1e-5)


def test_squash_shows_everything_and_center_does_not():
    image = Image.new("RGB", (200, 100))
    image.paste((255, 255, 255), (0, 0, 20, 100))
    assert np.asarray(Preprocessing((50, 50), 1.0, "squash").resize(image)).max() == 255
    assert np.asarray(Preprocessing((50, 50), 1.0, "center").resize(image)).max() == 0


def test_one_channel_for_one_mean():
    grey = Preprocessing((8, 8), mean=(0.5,), std=(0.25,))
    pixels = grey(Image.new("RGB", (8, 8), (255, 255, 255)))
    assert pixels.shape == (1, 8, 8)
    assert torch.allclose(torch.from_numpy(pixels), torch.tensor(2.0))


def test_round_trip():
    preprocessing = Preprocessing((32, 48), 0.9, "squash", "bilinear", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    "mistake", [{"crop_pct": 0}, {"crop_pct": 2}, {"crop_mode": "x"}, {"interpolation": "x"}, {"mean": (0.5,)}]
)
def test_impossible_values(mistake):
    with pytest.raises(ConfigError):
        Preprocessing(**mistake)


@pytest.mark.parametrize("source", [(300, 100), (100, 300), (64, 64), (7, 5)])
def test_border_shows_everything_where_the_placement_says(source):
    width, height = source
    image = Image.new("RGB", source, "white")
    preprocessing = Preprocessing((64, 96), crop_mode="border")
    placed = preprocessing.placement((height, width))
    pixels = np.asarray(preprocessing.resize(image))
    white = np.argwhere((pixels == 255).all(2))
    assert (white.min(0) == (placed.top, placed.left)).all()
    assert (white.max(0) + 1 == (placed.top + placed.size[0], placed.left + placed.size[1])).all()
    assert pixels[pixels != 255].size == 0 or set(pixels[(pixels != 255).all(2)][0]) == set(preprocessing.fill)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_boxes_go_to_the_input_and_back(crop_mode):
    preprocessing = Preprocessing((64, 96), crop_mode=crop_mode)
    placed = preprocessing.placement((200, 100))
    boxes = np.array([[0, 0, 100, 200], [10, 20, 30, 50]], np.float32)
    np.testing.assert_allclose(placed.to_image(placed.to_input(boxes)), boxes, atol=1e-4)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_box_lies_where_its_pixels_do(crop_mode):
    image = Image.new("RGB", (300, 200))
    image.paste((255, 255, 255), (120, 60, 180, 120))
    preprocessing = Preprocessing((100, 80), crop_pct=1.0, crop_mode=crop_mode, mean=(0.0, 0.0, 0.0))
    white = np.argwhere(np.asarray(preprocessing.resize(image))[..., 0] > 127)
    left, top, right, bottom = preprocessing.placement((200, 300)).to_input(np.array([[120, 60, 180, 120]]))[0]
    np.testing.assert_allclose([*white.min(0), *(white.max(0) + 1)], [top, left, bottom, right], atol=1)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 96), (224, 224)])
@pytest.mark.parametrize("grey", [False, True])
def test_normalising_gives_the_bits_of_the_plain_formula(size, grey):
    preprocessing = Preprocessing(mean=(0.449,), std=(0.226,)) if grey else Preprocessing()
    image = picture(size[1], size[0])
    if size == (64, 96):
        image.paste(Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB"))  # every value
    values = np.asarray(image.convert("L") if grey else image, np.float32).reshape(*size, -1)
    mean, std = np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)
    expected = ((values / np.float32(255) - mean) / std).transpose(2, 0, 1)
    found = preprocessing.normalise(image)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32))


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (3, 60_000), (60_000, 3)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_line_of_pixels_costs_no_more_than_the_input(size, crop_mode, monkeypatch):
    asked = []
    resize = Image.Image.resize

    def watched(self, size, *arguments, **options):
        asked.append(size[0] * size[1])
        return resize(self, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    image = Image.new("RGB", size, (10, 200, 30))
    small = Preprocessing((64, 96), crop_mode=crop_mode).resize(image)
    assert small.size == (96, 64)
    assert max(asked) <= 17 * 64 * 96
    if crop_mode != "border":
        assert small.getextrema() == ((10, 10), (200, 200), (30, 30))


def test_the_part_that_is_seen_is_the_middle_of_the_whole():
    """A gradient along the line tells where the crop was taken from."""
    line = np.repeat(np.linspace(0, 255, 4000, dtype=np.uint8)[None, :, None], 3, 2)
    image = Image.fromarray(np.ascontiguousarray(np.repeat(line, 20, 0)))
    for picture in (image, image.transpose(Image.Transpose.ROTATE_90)):
        fitting = Preprocessing((32, 32))
        rows, columns = fitting.placement((picture.height, picture.width)).size
        assert rows * columns > 16 * 32 * 32
        whole = picture.resize((columns, rows), Image.Resampling.BICUBIC)
        left, top = round((columns - 32) / 2), round((rows - 32) / 2)
        cropped = np.asarray(whole.crop((left, top, left + 32, top + 32)), int)
        assert np.abs(np.asarray(fitting.resize(picture), int) - cropped).max() <= 1
