import numpy as np
import pytest
from PIL import Image

from dualtoken.errors import ConfigError
from dualtoken.outputs import Detections, Segmentation
from dualtoken.prediction.tiles import predict_tiled, tiles

CLASSES = ("red", "blue")
COLOURS = ((255, 0, 0), (0, 0, 255))


def scene(*rectangles, size=(200, 300)) -> Image.Image:
    """A black image with (label, left, top, right, bottom) in the colours of their classes."""
    pixels = np.zeros((*size, 3), np.uint8)
    for label, left, top, right, bottom in rectangles:
        pixels[top:bottom, left:right] = COLOURS[label]
    return Image.fromarray(pixels)


def look(image: Image.Image, masks=False, smallest=0) -> Detections:
    """Finds the one red and the one blue rectangle; the less of the image it fills, the surer."""
    pixels = np.asarray(image)
    boxes, labels, parts = [], [], []
    for label, colour in enumerate(COLOURS):
        rows, columns = np.nonzero((pixels == colour).all(axis=2))
        if len(rows) > smallest:
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            labels.append(label)
            parts.append(np.ones((boxes[-1][3] - boxes[-1][1], boxes[-1][2] - boxes[-1][0]), bool))
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    scores = 1 / (1 + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / 1000)
    own = {"masks": tuple(parts), "corners": boxes[:, :2]} if masks else {}
    return Detections(CLASSES, (image.height, image.width), boxes, scores, labels, **own)


@pytest.mark.parametrize("size", [(10, 10), (64, 64), (65, 200), (1000, 3), (640, 481)])
@pytest.mark.parametrize("tile", [1, 64, (32, 100)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.9])
def test_tiles_cover_the_image_and_overlap(size, tile, overlap):
    if tile == 1 and max(size) > 100:
        pytest.skip("millions of tiles")
    places = tiles(size, tile, overlap)
    sides = (tile, tile) if isinstance(tile, int) else tile
    covered = np.zeros(size, int)
    for left, top, right, bottom in places:
        assert (bottom - top, right - left) == (min(sides[0], size[0]), min(sides[1], size[1]))
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    lefts = sorted({place.left for place in places})
    if tile != 1 and len(lefts) > 1:
        assert max(np.diff(lefts)) <= np.ceil(sides[1] * (1 - overlap))


def test_no_more_tiles_than_needed():
    assert len(tiles((100, 100), 100, 0.5)) == 1
    assert len(tiles((100, 200), 100, 0)) == 2
    assert len(tiles((100, 175), 100, 0.25)) == 2
    assert len(tiles((100, 176), 100, 0.25)) == 3


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0.2), (10, -0.1), (10, 0.95), (10, float("nan")), ((5, 0), 0)])
def test_impossible_tiles_are_refused(tile, overlap):
    with pytest.raises(ConfigError, match="expected"):
        tiles((50, 50), tile, overlap)


def test_the_border_of_the_image_cuts_nothing_off():
    def one_upon_the_other(part: Image.Image) -> Detections:
        boxes = np.array([[0, 0, 80, 80], [0, 20, 20, 40]], np.float32)
        return Detections(CLASSES, (part.height, part.width), boxes, [0.9, 0.8], [0, 0])

    answer = predict_tiled(one_upon_the_other, scene(), 100, 0.2, whole=False)
    assert [0, 20, 20, 40] in answer.boxes.tolist()
    assert [66, 20, 86, 40] not in answer.boxes.tolist()  # the next tile's, at its inner edge


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("masks", [True, False])
def test_an_object_on_the_seam_is_found_once_and_whole(masks, whole):
    image = scene((0, 80, 90, 100, 110), (1, 200, 30, 220, 50))
    answer = predict_tiled(lambda part: look(part, masks), image, 100, 0.3, whole=whole)
    assert answer.size == (200, 300)
    assert sorted(answer.boxes.tolist()) == [[80, 90, 100, 110], [200, 30, 220, 50]]
    if masks:
        expected = (np.asarray(image) == COLOURS[0]).all(axis=2)
        assert np.array_equal(answer.mask(answer.names().index("red")), expected)


def test_an_object_larger_than_a_tile_is_found_in_the_whole():
    image = scene((0, 10, 10, 290, 190))
    assert predict_tiled(look, image, 100, 0.2).boxes.tolist() == [[10, 10, 290, 190]]
    assert len(predict_tiled(look, image, 100, 0.2, whole=False)) > 1


def test_nothing_in_any_tile():
    for masks in (True, False):
        answer = predict_tiled(lambda part, masks=masks: look(part, masks), scene(), 100)
        assert len(answer) == 0
        assert (answer.masks is not None) == masks


def test_one_tile_is_the_image_itself():
    seen = []
    predict_tiled(lambda part: seen.append(part.size) or look(part), scene(), 500)
    assert seen == [(300, 200)]


def sure(image: Image.Image, confidence=True) -> Segmentation:
    """Right in the middle of an image, wrong within 5 pixels of its edges, and less sure there."""
    right = np.asarray(image)[..., 2] > 0
    edge = np.ones(right.shape, bool)
    edge[5:-5, 5:-5] = False
    values = np.where(edge, 0.6, 0.9).astype(np.float32)
    return Segmentation(CLASSES, (right ^ edge).astype(np.uint8), values if confidence else None, "a.png")


@pytest.mark.parametrize("confidence", [True, False])
def test_regions_come_from_the_better_tile(confidence):
    image = scene((1, 50, 20, 250, 130))
    answer = predict_tiled(lambda part: sure(part, confidence), image, 80, 0.4)
    truth = np.asarray(image)[..., 2] > 0
    assert answer.size == (200, 300)
    assert np.array_equal(answer.mask[5:-5, 5:-5], truth[5:-5, 5:-5])
    assert answer.path == "a.png"
    if confidence:
        assert (answer.confidence[5:-5, 5:-5] == np.float32(0.9)).all()
    else:
        assert answer.confidence is None
