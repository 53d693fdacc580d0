import numpy as np
import pytest
from PIL import Image

from dualtoken.bands import Bands
from dualtoken.data import IGNORE
from dualtoken.preprocess import Preprocessing
from dualtoken.report import batch_mosaic
from dualtoken.report.class_colours import UNLABELLED, class_colour

INPUT = Preprocessing(image_size=(100, 100), crop_mode="border")
CLASSES = ("cat", "dog")
SKIN = (200, 120, 40)


def batch(number: int, preprocessing: Preprocessing = INPUT) -> np.ndarray:
    height, width = preprocessing.image_size
    return np.stack([preprocessing.normalise(Image.new("RGB", (width, height), SKIN))] * number)


def objects(*boxes: tuple[float, ...], label: int = 0) -> dict[str, np.ndarray]:
    return {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "labels": np.full(len(boxes), label)}


def near(pixels: np.ndarray, colour, tolerance: int = 12) -> np.ndarray:
    return (np.abs(pixels.astype(int) - colour) <= tolerance).all(axis=-1)


def test_images_get_their_colours_back_and_stand_three_in_a_row():
    sizes = {number: batch_mosaic(batch(number), [objects()] * number, CLASSES, INPUT).size for number in (1, 2, 4)}
    assert sizes == {1: (400, 400), 2: (812, 400), 4: (1224, 812)}
    pixels = np.asarray(batch_mosaic(batch(2), [objects()] * 2, CLASSES, INPUT))
    assert near(pixels[:, :400], SKIN, 1).all()
    assert near(pixels[:, 400:412], (255, 255, 255), 0).all()
    assert near(pixels[:, 412:], SKIN, 1).all()


def test_only_the_first_images_are_drawn():
    assert batch_mosaic(batch(12), [objects()] * 12, CLASSES, INPUT).size == (1224, 1224)
    assert batch_mosaic(batch(12), [objects()] * 12, CLASSES, INPUT, most=1).size == (400, 400)


def test_boxes_are_drawn_where_they_are():
    pixels = np.asarray(batch_mosaic(batch(1), [objects((20, 40, 60, 80), label=1)], CLASSES, INPUT))
    drawn = near(pixels, class_colour(1))
    columns, rows = np.flatnonzero(drawn.sum(axis=0) > 100), np.flatnonzero(drawn.sum(axis=1) > 100)
    assert abs(columns[0] - 80) <= 3
    assert abs(columns[-1] - 239) <= 3
    assert abs(rows[-1] - 319) <= 3


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, numpy 2
def test_masks_are_drawn_where_they_are():
    pytest.importorskip("pycocotools")
    mask = np.zeros((1, 100, 100), np.uint8)
    mask[0, 50:75, 10:90] = 1
    target = objects((5, 5, 95, 95)) | {"masks": mask}
    pixels = np.asarray(batch_mosaic(batch(1), [target], CLASSES, INPUT)).astype(int)
    assert near(pixels[120:190, 60:340], SKIN, 1).all()
    inside = pixels[210:290, 60:340]
    assert (inside[..., 0] < SKIN[0] - 40).all()  # the class is blue
    assert (inside[..., 2] > SKIN[2] + 20).all()


def test_regions_have_their_colours_and_one_legend():
    masks = np.zeros((2, 100, 100), np.uint8)
    masks[:, 50:], masks[1, :, 60:] = 1, IGNORE
    sheet = batch_mosaic(batch(2), masks, CLASSES, INPUT)
    assert sheet.width == 812
    assert 420 < sheet.height < 450
    pixels = np.asarray(sheet)
    for colour, (row, column) in {
        class_colour(0): (100, 100),
        class_colour(1): (300, 500),
        UNLABELLED: (200, 780),
    }.items():
        mixed = (np.array(colour) + SKIN) / 2
        assert near(pixels[row, column], mixed, 3)
    legend = pixels[400:]
    assert all(near(legend, colour, 2).sum() > 100 for colour in (class_colour(0), class_colour(1), UNLABELLED))


def test_any_shape_and_grey_images():
    wide = Preprocessing(image_size=(50, 200), crop_mode="border")
    assert batch_mosaic(batch(1, wide), [objects((0, 0, 200, 50))], CLASSES, wide).size == (400, 100)
    grey = Preprocessing(image_size=(40, 40), mean=(0.5,), std=(0.5,))
    bands = Preprocessing((40, 40), mean=(0.5,) * 5, std=(0.5,) * 5, bands=Bands(5, tuple(range(5))))
    assert batch_mosaic(np.zeros((1, 5, 40, 40), np.float32), [objects()], CLASSES, bands).mode == "RGB"
    pixels = np.asarray(batch_mosaic(np.zeros((1, 1, 40, 40), np.float32), [objects()], CLASSES, grey))
    assert near(pixels, (128, 128, 128), 1).all()


def test_boxes_outside_and_without_area_do_no_harm():
    odd = objects((-20, -20, 300, 300), (50, 50, 50, 50), (99, 99, 100, 100))
    pixels = np.asarray(batch_mosaic(batch(1), [odd], CLASSES, INPUT))
    assert pixels.shape == (400, 400, 3)
    assert near(pixels[200, (0, -1)], class_colour(0)).all()  # the first box ends where the picture does


def test_what_does_not_fit_together_is_an_error():
    with pytest.raises(ValueError, match="2 images and 1 targets"):
        batch_mosaic(batch(2), [objects()], CLASSES, INPUT)
    with pytest.raises(ValueError, match="at least one"):
        batch_mosaic(batch(2)[:0], [], CLASSES, INPUT)
