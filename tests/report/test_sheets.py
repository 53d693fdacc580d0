import numpy as np
import pytest
from PIL import Image, ImageDraw

from conftest import invent_image
from dualtoken.bands import BandImage
from dualtoken.errors import OutputError
from dualtoken.outputs import Classification
from dualtoken.report.sheets import contact_sheet, sheet_files

CLASSES = ("cat", "a very long name of a class that cannot fit under a picture 猫", "x")


def item(label: int, truth: str | None = None, image: Image.Image | None = None):
    probabilities = np.full(3, 0.1, np.float32)
    probabilities[label] = 0.8
    return image or invent_image(label, 0, (200, 100)), Classification(CLASSES, probabilities), truth


def drawn_texts(monkeypatch, items, **options) -> list[str]:
    texts = []
    original = ImageDraw.ImageDraw.text

    def text(self, xy, text, *args, **kwargs):
        box = self.textbbox(xy, text, font=args[1])
        assert box[2] <= xy[0] + 192 + 1, "a caption runs into the next one"
        texts.append(text)
        return original(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    contact_sheet(items, **options)
    return texts


def test_captions_say_answer_score_and_truth(monkeypatch):
    items = [item(0), item(0, "cat"), item(0, "x"), item(1), item(2, CLASSES[1])]
    texts = drawn_texts(monkeypatch, items)
    assert texts[:4] == ["cat 80 %", "✓ cat 80 %", "✗ cat 80 %", "truth: x"]
    assert texts[4].startswith("a very")
    assert "…" in texts[4]
    assert texts[5] == "✗ x 80 %"


def test_size_follows_the_items():
    one, six, seven = (contact_sheet([item(0)] * number, columns=3) for number in (1, 6, 7))
    assert one.width < six.width == seven.width
    assert one.height < six.height < seven.height


def test_every_shape_of_image_stays_in_its_tile():
    shapes = [(1, 1), (8, 8), (1000, 10), (10, 1000), (96, 96), (97, 97)]
    sheet = contact_sheet([item(0, image=Image.new("RGB", shape, "red")) for shape in shapes], columns=6)
    pixels = np.asarray(sheet)
    red = (pixels == (255, 0, 0)).all(-1)
    assert red.any(axis=0).sum() > 400
    for column in range(6):
        left = 16 + column * 208
        assert red[:, left : left + 192].any()
        assert not red[:, left + 192 : left + 208].any()


def test_tiny_images_keep_their_pixels_sharp():
    image = Image.fromarray(np.array([[[0, 0, 0], [255, 0, 0]]] * 2, np.uint8))
    tile = np.asarray(contact_sheet([item(0, image=image)]))[16:208, 16:208]
    assert {tuple(colour) for colour in tile.reshape(-1, 3)} == {(0, 0, 0), (255, 0, 0)}


def test_a_further_page_of_somebody_is_not_written_over(tmp_path):
    other = tmp_path / "sheet-2.png"
    other.write_bytes(b"mine")
    (tmp_path / "sheet-old.png").write_bytes(b"no page")
    with pytest.raises(OutputError, match=r"sheet-2\.png"), sheet_files(tmp_path / "sheet.png") as add:
        for _ in range(41):
            add(*item(0)[:2])
    assert other.read_bytes() == b"mine"
    other.unlink()
    with sheet_files(tmp_path / "sheet.png") as add:
        for _ in range(41):
            add(*item(0)[:2])
    assert other.exists()


def test_an_image_of_many_bands_has_a_tile(tmp_path):
    with sheet_files(tmp_path / "sheet.png") as add:
        add(*item(0, image=BandImage.of(np.full((300, 400, 5), 200, np.uint8)))[:2])
    assert Image.open(tmp_path / "sheet.png").getpixel((100, 100)) == (200, 200, 200)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
