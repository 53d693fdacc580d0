import numpy as np
import pytest
from PIL import Image, ImageDraw

from dualtoken.data import IGNORE, Objects
from dualtoken.outputs import Detections, Segmentation
from dualtoken.report import tags
from dualtoken.report.class_colours import class_colour, palette, text_colour
from dualtoken.report.pictures import draw, draw_truth, side_by_side
from dualtoken.report.tags import place_tags

# pycocotools asks numpy for an array in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

CLASSES = ("cat", "a very long name of a class that cannot fit anywhere 猫", "Vögelchen")
GREY = (90, 90, 90)


def grey(width=640, height=480) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def found(boxes, *, size=(480, 640), labels=None, scores=None, **masks) -> Detections:
    n = len(boxes)
    boxes = np.array(boxes, np.float32).reshape(n, 4)
    labels = np.zeros(n, int) if labels is None else np.array(labels)
    return Detections(CLASSES, size, boxes, np.linspace(1, 0.5, n) if scores is None else scores, labels, **masks)


def true_objects(boxes, crowd=None) -> Objects:
    n = len(boxes)
    outlines = tuple((np.array([[l, t], [r, t], [r, b], [l, b]], np.float32),) for l, t, r, b in boxes)  # noqa: E741
    boxes = np.array(boxes, np.float32).reshape(n, 4)
    crowd = np.zeros(n, bool) if crowd is None else np.array(crowd)
    return Objects((480, 640), boxes, np.zeros(n, np.int64), crowd, np.ones(n, np.float32), outlines, ("",) * n)


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """Texts drawn so far; each must lie inside its picture."""
    texts = []
    original = ImageDraw.ImageDraw.text

    def text(self, xy, text, *args, **kwargs):
        left, top, right, bottom = self.textbbox(xy, text, font=args[1], anchor=kwargs.get("anchor"))
        width, height = self.im.size
        assert left >= 0, text
        assert top >= 0, text
        assert right <= width + 1, text
        assert bottom <= height + 1, text
        texts.append(text)
        return original(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


def colours_of(picture: Image.Image) -> set[tuple[int, ...]]:
    return set(map(tuple, np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()))


def test_a_box_has_its_colour_its_name_and_its_place(written):
    picture = draw(grey(), found([[100, 200, 300, 400]], labels=[2]))
    assert picture.size == (640, 480)
    assert written == ["Vögelchen 100 %"]
    pixels = np.asarray(picture)
    for x, y in ((100, 300), (298, 300), (299, 300), (200, 399), (200, 200)):
        assert tuple(pixels[y, x]) == class_colour(2)
    for x, y in ((200, 300), (50, 50), (310, 300)):
        assert tuple(pixels[y, x]) == GREY


def test_boxes_at_and_over_the_border_stay_visible(written):
    picture = draw(grey(), found([[0, 0, 640, 480], [-50, 300, 80, 500], [600, -20, 700, 60], [320, 0, 320, 0]]))
    pixels = np.asarray(picture)
    for x, y in ((0, 200), (639, 240), (400, 479), (400, 0), (0, 400), (79, 400)):
        assert tuple(pixels[y, x]) == class_colour(0)
    assert len(written) == 4


@pytest.mark.parametrize("size", [(1, 1), (96, 64), (30, 900), (1000, 20), (640, 480), (2500, 1500)])
def test_every_size_of_image(size, written):
    width, height = size
    boxes = np.array([[0, 0, 1, 1], [0.1, 0.2, 0.5, 0.9], [0.5, 0.5, 0.5, 0.5]]) * [width, height, width, height]
    masks = {"masks": (np.ones((height, width), bool),) * 3, "corners": np.zeros((3, 2))}
    for extra in ({}, masks):
        answer = found(boxes, size=(height, width), labels=[0, 1, 2], **extra)
        picture = draw(grey(*size), answer, legend="none")
        assert picture.width % width == 0
        assert picture.height % height == 0
        assert max(picture.size) >= 400
        draw(grey(*size), answer)
    assert written


def test_no_detections_leave_the_image_as_it_is():
    for extra in ({}, {"masks": (), "corners": np.empty((0, 2))}):
        assert colours_of(draw(grey(), found([], **extra))) == {GREY}
    assert colours_of(draw_truth(grey(), true_objects([]), CLASSES)) == {GREY}


def test_masks_are_translucent_with_a_line_around():
    mask = {"masks": (np.ones((100, 100), bool),), "corners": np.array([[200, 100]])}
    pixels = np.asarray(draw(grey(), found([[190, 90, 310, 210]], **mask))).astype(int)
    inside = pixels[150, 250]
    assert (abs(inside - (0.6 * np.array(GREY) + 0.4 * np.array(class_colour(0)))) <= 1).all()
    assert abs(pixels[150, 200] - class_colour(0)).max() < 10  # its outline
    assert tuple(pixels[150, 195]) == GREY


def test_an_empty_mask_is_no_trouble():
    mask = {"masks": (np.zeros((0, 0), bool),), "corners": np.array([[5, 5]])}
    pixels = np.asarray(draw(grey(), found([[190, 90, 310, 210]], **mask)))
    assert tuple(pixels[150, 250]) == GREY
    assert tuple(pixels[150, 190]) == class_colour(0)  # its box


def test_crowded_names_give_way_to_a_legend(written):
    rng = np.random.default_rng(0)
    corners = rng.uniform(100, 160, (60, 2))
    answer = found(np.concatenate([corners, corners + 20], axis=1), labels=rng.integers(0, 3, 60))
    picture = draw(grey(), answer)
    assert picture.height > 480
    counts = {text.rpartition(" ")[2] for text in written[-3:]}
    assert counts == set(map(str, np.bincount(answer.labels)))
    assert "100 %" in " ".join(written)  # the surest is named
    assert draw(grey(), answer, legend="none").size == (640, 480)


def test_tags_never_cover_each_other_much():
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 400, (50, 2))
    boxes = np.concatenate([corners, corners + 50], axis=1).astype(np.float32)
    tags = place_tags(boxes, [[(90, 16), (50, 16)]] * 50, (640, 480))
    assert tags[0][:2] == (0, 0)
    assert 10 < len(tags) < 50
    taken = np.zeros((480, 640), int)
    for tag in tags:
        taken[tag.top : tag.top + 16, tag.left : tag.left + (90, 50)[tag.text]] += 1
    assert taken.sum() == sum(16 * (90, 50)[tag.text] for tag in tags)  # none runs off the picture
    assert (taken > 1).sum() < 0.06 * taken.sum()


def test_places_are_looked_for_a_bounded_number_of_times(monkeypatch):
    """Each look takes all other boxes into account: of thousands it would never end."""
    asked = []
    looks = tags._best_place
    monkeypatch.setattr(tags, "_best_place", lambda *args: asked.append(1) or looks(*args))
    corners = np.random.default_rng(0).uniform(0, [600, 440], (3000, 2))
    draw(grey(), found(np.concatenate([corners, corners + 20], axis=1)))
    assert 0 < len(asked) <= 2 * 200  # with its score and without


def test_the_truth_is_dashed_and_white():
    picture = draw(grey(), found([[100, 100, 200, 200]]), truth=true_objects([[300, 300, 400, 400]]))
    line = np.asarray(picture)[350, 290:310]
    column = np.asarray(picture)[300:400, 300]
    assert (255, 255, 255) in {tuple(pixel) for pixel in column}
    assert len({tuple(pixel) for pixel in column}) > 1
    assert tuple(line[0]) == GREY


def test_a_true_crowd_is_said_to_be_one(written):
    draw_truth(grey(), true_objects([[100, 100, 200, 200], [300, 300, 400, 400]], [False, True]), CLASSES)
    assert sorted(written) == ["cat", "cat (crowd)"]


def regions() -> np.ndarray:
    mask = np.zeros((480, 640), np.uint8)
    mask[:, 400:] = 2
    return mask


def test_regions_are_coloured_and_told(written):
    picture = draw(grey(), Segmentation(CLASSES, regions()))
    assert written == ["cat 62 %", "Vögelchen 38 %"]
    assert picture.width == 640
    assert picture.height > 480
    pixels = np.asarray(picture).astype(int)
    for x, label in ((100, 0), (500, 2)):
        assert (abs(pixels[240, x] - (np.array(GREY) + class_colour(label)) / 2) <= 1).all()
    assert tuple(pixels[240, 400]) == (255, 255, 255)


def test_a_legend_inside_keeps_the_size(written):
    picture = draw(grey(), Segmentation(CLASSES, regions()), legend="inside")
    assert picture.size == (640, 480)
    assert written == ["cat 62 %", "Vögelchen 38 %"]
    assert draw(grey(), Segmentation(CLASSES, regions()), legend="none").size == (640, 480)


def test_wrong_pixels_are_hatched_unlabelled_ones_not(written):
    truth = regions()
    truth[:, 300:400] = 1  # 100 of 600 labelled columns are wrong
    truth[:, 600:] = IGNORE
    pixels = np.asarray(draw(grey(), Segmentation(CLASSES, regions()), truth=truth))
    assert written[-1] == "wrong 17 %"
    assert len(np.unique(pixels[200, 310:390], axis=0)) == 3
    assert len(np.unique(pixels[200, 610:], axis=0)) == 1


def test_unlabelled_pixels_are_told(written):
    truth = regions()
    truth[:24] = IGNORE
    draw_truth(grey(), truth, CLASSES)
    assert written[-1] == "unlabelled 5 %"


def test_many_classes_make_a_legend_that_ends(written):
    mask = np.arange(480 * 640).reshape(480, 640) % 200
    draw(grey(), Segmentation(tuple(f"class {i}" for i in range(200)), mask))
    assert len(written) == 25
    assert written[-1] == "and 176 more"


def test_side_by_side(written):
    answer, truth = found([[100, 100, 200, 200]]), true_objects([[110, 110, 200, 200]])
    wide = side_by_side(grey(), truth, answer)
    assert wide.width > 2 * 600
    assert {"Ground truth", "Prediction", "cat", "cat 100 %"} == set(written)
    mask = np.zeros((100, 640), np.uint8)
    below = side_by_side(grey(640, 100), mask, Segmentation(CLASSES, mask), captions=("猫", "b"))
    assert below.width == 640
    assert below.height > 200
    assert max(side_by_side(grey(), truth, answer, longest=100).size) < 300


@pytest.mark.parametrize(
    ("image", "answer", "truth"),
    [
        (grey(480, 640), found([]), None),
        (grey(), found([]), regions()),
        (grey(), Segmentation(CLASSES, regions()), true_objects([])),
        (grey(), Segmentation(CLASSES, regions()), regions()[:5]),
    ],
)
def test_what_does_not_belong_together_is_refused(image, answer, truth):
    with pytest.raises(ValueError, match=r"the (image|ground truth)"):
        draw(image, answer, truth=truth)


def test_colours_are_many_and_fixed():
    colours = [class_colour(label) for label in range(100)]
    assert len(set(colours)) == 100
    first = np.array(colours[:12], int)
    apart = np.abs(first[:, None] - first[None]).sum(axis=2) + 1000 * np.eye(12, dtype=int)
    assert apart.min() > 60
    assert len(palette()) == 768
    assert tuple(palette()[3 * 7 : 3 * 7 + 3]) == colours[7]


def test_text_can_be_read():
    assert text_colour((255, 255, 0)) == (0, 0, 0)
    assert text_colour((0, 0, 120)) == (255, 255, 255)
