"""Masks: pairs of files, class files, values and colours, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import invent_image
from dualtoken.data.finding import find_data, kinds_of
from dualtoken.data.formats.masks import parse_class_file
from dualtoken.data.samples import IGNORE, MaskSamples
from dualtoken.errors import DataError

HEIGHT, WIDTH = 12, 16


def striped(*values: int) -> np.ndarray:
    """A mask with a row of each value, the last one filling the rest."""
    rows = [*values, *[values[-1]] * (HEIGHT - len(values))]
    return np.repeat(np.array(rows, np.uint8)[:, None], WIDTH, 1)


def write(
    root: Path, masks: dict[str, np.ndarray | None], classes: str | None = "a\nb\nc\n", folder: str = "masks"
) -> Path:
    for name, mask in masks.items():
        image = root / "images" / f"{name}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        invent_image(0, len(name), (WIDTH, HEIGHT)).save(image)
        path = root / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if mask is not None:
            Image.fromarray(mask).save(path)
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def found(root: Path, **options: object) -> MaskSamples:
    return find_data(root, val_fraction=0, **options).splits["all"]  # type: ignore


def test_values_are_classes(tmp_path: Path) -> None:
    data = find_data(write(tmp_path, {"1": striped(0, 1, 2, 255), "2": striped(2)}), val_fraction=0)
    samples = data.splits["all"]
    assert data.classes == ("a", "b", "c")
    assert (samples.open_mask(0) == striped(0, 1, 2, IGNORE)).all()
    assert samples.open(0).size == (WIDTH, HEIGHT)
    assert samples.sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    assert data.layout == "masks in masks/"


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}", "masks/{}"),
        ("{}/images", "{}/masks"),
        ("images/{}", "annotations/{}"),
        ("{}/images", "{}/labels"),
        ("JPEGImages/{}", "SegmentationClass/{}"),
    ],
)
def test_layouts(tmp_path: Path, images: str, masks: str) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            for folder, suffix in ((images, ".jpg"), (masks, ".png")):
                (tmp_path / folder.format(split)).mkdir(parents=True, exist_ok=True)
                path = tmp_path / folder.format(split) / f"{number}{suffix}"
                (Image.fromarray(striped(0, 1)) if suffix == ".png" else invent_image(0, number, (WIDTH, HEIGHT))).save(
                    path
                )
    data = find_data(tmp_path, task="semantic_segmentation")
    assert kinds_of(tmp_path) == ("masks",)
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 3, "val": 2}
    assert str(data.splits["val"].masks[1]) == f"{masks.format('val')}/1.png"


def test_lists_of_voc(tmp_path: Path) -> None:
    write(tmp_path, {"1": striped(0, 1), "2": striped(0, 1), "3": None, "4": striped(0, 1)}, folder="SegmentationClass")
    assert len(found(tmp_path)) == 3  # not every image of VOC has a mask
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, stems in (("train", "1\n"), ("val", "4\n")):
        (tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(stems)
    data = find_data(tmp_path)
    assert {split: [str(n) for n in s.names] for split, s in data.splits.items()} == {
        "train": ["images/1.jpg"],
        "val": ["images/4.jpg"],
    }


def test_names_with_an_ending(tmp_path: Path) -> None:
    write(tmp_path, {"1": striped(0, 1)})
    (tmp_path / "masks" / "1.png").rename(tmp_path / "masks" / "1_mask.png")
    assert str(found(tmp_path).masks[0]) == "masks/1_mask.png"


@pytest.mark.parametrize("mode", ["palette", "16 bits", "grey as colour", "with transparency", "one bit"])
def test_modes(tmp_path: Path, mode: str) -> None:
    values = striped(0, 1) if mode == "one bit" else striped(0, 1, 2)
    write(tmp_path, {"1": values})
    image = Image.fromarray(values)
    if mode == "palette":
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    elif mode == "16 bits":
        image = Image.fromarray(values.astype(np.uint16))
    elif mode == "grey as colour":
        image = image.convert("RGB")
    elif mode == "with transparency":
        image = image.convert("RGBA")
    else:
        image = Image.fromarray(values.astype(bool))
    image.save(tmp_path / "masks" / "1.png")
    assert (found(tmp_path).open_mask(0) == values).all()


COLOURS = np.array([[128, 64, 128], [0, 0, 200], [7, 8, 9]], np.uint8)


def test_colours_are_classes(tmp_path: Path) -> None:
    classes = "road 128 64 128\ncar 0 0 200\nvoid 7 8 9\n"
    write(tmp_path, {"1": COLOURS[striped(0, 1, 2)], "2": COLOURS[striped(1)]}, classes)
    data = find_data(tmp_path, val_fraction=0)
    assert data.classes == ("road", "car")
    assert (data.splits["all"].open_mask(0) == striped(0, 1, IGNORE)).all()
    assert "void or ignore" in data.describe()
    write(tmp_path, {"1": COLOURS[striped(0, 1, 2)]}, classes.replace("void 7 8 9\n", ""))
    assert "the colour 7 8 9 has no class" in find_data(tmp_path, val_fraction=0).describe()
    strangers = np.stack([striped(1, 0, 128), striped(2, 0, 64), striped(3, 0, 128)], 2)
    write(tmp_path, {"1": COLOURS[striped(0, 1, 2)], "2": strangers}, classes.replace("void 7 8 9\n", ""))
    with pytest.raises(DataError, match=r"2\.png' has values without a class: 0 0 0, 1 2 3; expected colours"):
        find_data(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match="coloured, and no class file"):
        find_data(tmp_path)


@pytest.mark.parametrize(
    ("text", "classes", "values"),
    [
        ("sky\n\n# more\ntraffic light\n", ("sky", "traffic light"), [0, 1]),
        ("Pixel Value, Class\n0, back ground\n4, car\n", ("back ground", "car"), [0, 4]),
        ("name,r,g,b\nsky,1,2,3\ntraffic light,4,5,6\n", ("sky", "traffic light"), [[1, 2, 3], [4, 5, 6]]),
        ("1 2 3\t\tsky\n4 5 6\t\tcar\n", ("sky", "car"), [[1, 2, 3], [4, 5, 6]]),
        ("sky 1 2 3\ncar 4 5 6", ("sky", "car"), [[1, 2, 3], [4, 5, 6]]),
        ("sky\nignore\ncar\n", ("sky", "car"), [0, 1, 2]),
    ],
)
def test_class_files(text: str, classes: tuple[str, ...], values: list[object]) -> None:
    key = parse_class_file(text, "classes.txt")
    assert key.classes == classes
    assert key.values.tolist() == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\na\n", "'a' stands there twice"),
        ("a 1 2 3\nb 1 2 3\n", "same value or colour"),
        ("0, a\n0, b\n", "same value or colour"),
        ("a 1 2 3\nb 4 5 6\nc 7 8\n", "line 3: 'c 7 8'"),
        ("a 1 2 3\nb 4 5 600\n", "line 2: a colour has parts from 0 to 255"),
        ("a\n", "names 1 class,"),
        ("\n", "names no classes"),
    ],
)
def test_wrong_class_files(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_class_file(text, "classes.txt")


def test_without_a_class_file(tmp_path: Path) -> None:
    data = find_data(write(tmp_path, {"1": striped(0, 7, 255), "2": striped(200)}, None), val_fraction=0)
    assert data.classes == ("class_0", "class_7", "class_200")
    assert (data.splits["all"].open_mask(0) == striped(0, 1, IGNORE)).all()
    assert "no classes.txt" in data.describe()


@pytest.mark.parametrize("classes", [None, "ground\nroad\n"])
def test_black_and_white(tmp_path: Path, classes: str | None) -> None:
    data = find_data(write(tmp_path, {"1": striped(0, 255), "2": striped(255)}, classes), val_fraction=0)
    assert data.classes == (("ground", "road") if classes else ("class_0", "class_255"))
    assert (data.splits["all"].open_mask(0) == striped(0, 1)).all()


def test_a_single_value_beyond_the_classes_is_ignored(tmp_path: Path) -> None:
    data = find_data(write(tmp_path, {"1": striped(0, 1, 2, 11), "2": striped(11, 2)}), val_fraction=0)
    assert (data.splits["all"].open_mask(1) == striped(IGNORE, 2)).all()
    assert "the value 11 has no class" in data.describe()


def test_unknown_values(tmp_path: Path) -> None:
    root = write(tmp_path, {"1": striped(0, 1, 2, 11), "2": striped(12, 2), "3": striped(0)})
    with pytest.raises(
        DataError, match=r"2 images.*\n.*1\.png' has values without a class: 11; expected 3 classes and 255"
    ):
        find_data(root)
    assert [str(name) for name in found(root, on_bad_image="skip").names] == ["images/3.jpg"]


def test_masks_to_be_ignored_altogether(tmp_path: Path) -> None:
    data = find_data(write(tmp_path, {"1": striped(255), "2": striped(0, 1)}), val_fraction=0)
    assert len(data.splits["all"]) == 2
    assert "1 mask is to be ignored altogether" in data.describe()
    with pytest.raises(DataError, match="In no mask"):
        find_data(write(tmp_path, {"1": striped(255), "2": striped(255)}))


def test_another_size(tmp_path: Path) -> None:
    root = write(tmp_path, {"1": striped(0, 1)[:, :10], "2": striped(0, 1)})
    with pytest.raises(DataError, match=r"1\.png' is 10 x 12, its image 16 x 12"):
        find_data(root)
    assert len(found(root, on_bad_image="skip")) == 1


def test_the_mask_of_an_image_on_its_side(tmp_path: Path) -> None:
    write(tmp_path, {"1": striped(0, 1), "2": striped(0, 1)})
    exif = Image.Exif()
    exif[274] = 6
    invent_image(0, 0, (WIDTH, HEIGHT)).save(tmp_path / "images" / "1.jpg", exif=exif)
    with pytest.raises(DataError, match=r"is 16 x 12, its image 12 x 16\. EXIF turns"):
        find_data(tmp_path)
    Image.fromarray(striped(0, 1).T.copy()).save(tmp_path / "masks" / "1.png")
    assert found(tmp_path).open_mask(0).shape == (WIDTH, HEIGHT)


def test_files_that_are_alone(tmp_path: Path) -> None:
    root = write(tmp_path, {"1": striped(0, 1), "2": None})
    with pytest.raises(DataError, match=r"images/2\.jpg' has no mask"):
        find_data(root)
    assert len(found(root, on_bad_image="skip")) == 1
    (root / "images" / "2.jpg").unlink()
    Image.fromarray(striped(0)).save(root / "masks" / "3.png")
    with pytest.raises(DataError, match=r"masks/3\.png' is a mask without its image"):
        find_data(root)


def test_masks_that_cannot_be_read(tmp_path: Path) -> None:
    root = write(tmp_path, {"1": striped(0, 1), "2": striped(0, 1)})
    (root / "masks" / "1.png").write_bytes((root / "masks" / "1.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"1\.png' is not an image that can be read"):
        find_data(root)
    (root / "masks" / "1.png").unlink()
    Image.fromarray(striped(0, 1)).save(root / "masks" / "1.jpg")
    with pytest.raises(DataError, match=r"1\.jpg' is a JPEG, which changes values"):
        find_data(root)
    assert len(found(root, on_bad_image="skip")) == 1


def test_one_value_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 value"):
        find_data(write(tmp_path, {"1": striped(0), "2": striped(0)}, None))


def test_a_class_called_mask_is_no_mask(tmp_path: Path) -> None:
    for folder in ("mask", "no_mask"):
        (tmp_path / folder).mkdir()
        invent_image(0, 0).save(tmp_path / folder / "1.png")
    assert kinds_of(tmp_path) == ()


def test_a_models_classes(tmp_path: Path) -> None:
    root = write(tmp_path, {"1": striped(0, 1), "2": striped(1)})  # c is named, but nowhere
    data = find_data(root, val_fraction=0, classes=("x", "b", "a"))
    assert (data.splits["all"].open_mask(0) == striped(2, 1)).all()
    with pytest.raises(DataError, match=r"Unknown class 'b'\. Known: a, bb, c"):
        find_data(root, classes=("a", "bb", "c"))
    (root / "classes.txt").unlink()
    data = find_data(root, val_fraction=0, classes=("x", "b", "a"))
    assert (data.splits["all"].open_mask(0) == striped(0, 1)).all()
    assert "in their order" in data.describe()


def test_a_jpeg_called_png_is_refused(tmp_path):
    from dualtoken.errors import ImageError
    from dualtoken.images import open_mask_image

    Image.fromarray(striped(0, 1)).save(tmp_path / "mask.png", "JPEG")
    with pytest.raises(ImageError, match="is a JPEG"):
        open_mask_image(tmp_path / "mask.png")


@pytest.mark.parametrize("value", [-1, -9999, 2**16])
def test_values_that_no_class_can_have_are_refused(tmp_path: Path, value: int) -> None:
    mask = striped(0, 1, 2).astype(np.int32)
    root = write(tmp_path, {"1": striped(0, 1), "2": None})
    mask[-1] = value
    Image.fromarray(mask).save(root / "masks" / "2.tif")
    with pytest.raises(DataError, match=rf"2\.tif' has values from .*{abs(value):,}.*, expected 0 to 65,535"):
        find_data(root)


def test_images_and_masks_that_are_both_called_image(tmp_path: Path) -> None:
    assert len(found(write(tmp_path, {"1_image": striped(0, 1), "2_image": striped(2)}))) == 2
