"""Pascal VOC's xml: boxes, lists of splits, and what is said of wrong files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from conftest import invent_image
from dualtoken.data.finding import find_data, kinds_of
from dualtoken.errors import DataError

BOX = (5, 6, 20, 15)


def item(name: str = "cat", box: tuple[object, ...] = BOX, more: str = "") -> str:
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False))
    return f"<object>\n<name>{name}</name>{more}\n<bndbox>{sides}</bndbox></object>\n"


def write(
    root: Path, name: str, *items: str, size: tuple[object, object] = (40, 30), image: str = "JPEGImages"
) -> Path:
    (root / image).mkdir(parents=True, exist_ok=True)
    labels = root / "Annotations" if image == "JPEGImages" else root / image
    labels.mkdir(exist_ok=True)
    invent_image(0, len(items), (40, 30)).save(root / image / f"{name}.jpg")
    head = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    text = f"<annotation><filename>{name}.jpg</filename>\n{head}\n{''.join(items)}</annotation>"
    (labels / f"{name}.xml").write_text(text)
    return root


def write_lists(root: Path, **lists: str) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for name, stems in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems.split()) + "\n")


def test_boxes_count_from_one(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    write(
        tmp_path,
        "1",
        item("dog"),
        item("cat", (1, 1, 40, 30), "<difficult>1</difficult>"),
        item("cow", (1.5, 2, 3, 4), part),
    )
    data = find_data(tmp_path, val_fraction=0)
    objects = data.splits["all"].objects(0)
    assert data.classes == ("cat", "cow", "dog")
    assert objects.boxes.tolist() == [[4, 5, 20, 15], [0, 0, 40, 30], [0.5, 1, 3, 4]]
    assert objects.labels.tolist() == [2, 0, 1]
    assert objects.crowd.tolist() == [False, True, False]
    assert kinds_of(tmp_path) == ("voc",)


def test_lists_tell_the_splits(tmp_path: Path) -> None:
    for name in "12345":
        write(tmp_path, name, item())
    write_lists(tmp_path, train="1 2", val="3", trainval="1 2 3", test="4", cat_train="1 2")
    data = find_data(tmp_path)
    found = {split: [Path(str(name)).stem for name in samples.names] for split, samples in data.splits.items()}
    assert found == {"train": ["1", "2"], "val": ["3"], "test": ["4"]}
    assert "1 image without an xml file or in no list" in data.describe()
    for name in ("train", "val"):
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").unlink()
    assert {split: len(samples) for split, samples in find_data(tmp_path).splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }


def test_xml_beside_images(tmp_path: Path) -> None:
    write(tmp_path, "1", item(), image="train")
    write(tmp_path, "1", item(), image="val")
    data = find_data(tmp_path)
    assert [str(samples.names[0]) for samples in data.splits.values()] == ["train/1.jpg", "val/1.jpg"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (item("cat", (5, 6, 42, 15)), "line 6: a box outside the image: x 4 to 42"),
        (item("cat", (5, 6, 4, 15)), "line 6: a box without area"),
        (item("cat", (5, 6, "x", 15)), "line 6: xmax is 'x'"),
        (item("cat", (5, 6, 9)), "line 6: an object without ymax"),
        (item("cat", ("nan", 6, 9, 9)), "line 6: a box with coordinates that are no numbers"),
        (item(""), "line 6: an object without a name"),
        ("<object>", "line 6: mismatched tag"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, wrong: str, message: str) -> None:
    write(tmp_path, "1", item(), wrong)
    write(tmp_path, "2", item())
    with pytest.raises(DataError) as error:
        find_data(tmp_path)
    assert f"1.xml', {message}" in str(error.value)
    data = find_data(tmp_path, on_bad_image="skip", val_fraction=0)
    assert [str(name) for name in data.splits["all"].names] == ["JPEGImages/2.jpg"]


def test_entities_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "1", item())
    path = tmp_path / "Annotations" / "1.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY b "&c;&c;">]>' + path.read_text())
    with pytest.raises(DataError, match=r"1\.xml', line 1: a document type"):
        find_data(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    for name in "12":
        write(tmp_path, name, item())
    write_lists(tmp_path, train="1 2 3")
    with pytest.raises(DataError, match="lists '3', which has no xml file"):
        find_data(tmp_path)
    write_lists(tmp_path, train="1 2")
    (tmp_path / "JPEGImages" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"1\.xml' has no image '1\.jpg'"):
        find_data(tmp_path)


def test_the_frame_is_checked(tmp_path: Path) -> None:
    write(tmp_path, "2", item())
    write(tmp_path, "1", item(), size=(30, 40))
    with pytest.raises(DataError, match="labels for 30 x 40, but the image is 40 x 30"):
        find_data(tmp_path)
    for unclear in (("wide", "30"), ("40.5", "30")):
        with pytest.raises(DataError, match=r"width is '.*', expected a number of pixels"):
            find_data(write(tmp_path, "1", item(), size=unclear))
    with pytest.raises(DataError, match="labels for 30 x 40"):
        find_data(write(tmp_path, "1", item(), size=("30.0", "40.0")))
    write(tmp_path, "1", item(), size=(0, 0))  # some tools do not know
    exif = Image.Exif()
    exif[274] = 8
    invent_image(0, 0, (40, 30)).save(tmp_path / "JPEGImages" / "1.jpg", exif=exif)
    assert find_data(tmp_path, val_fraction=0).splits["all"].sizes.tolist() == [[40, 30], [30, 40]]
    write(tmp_path, "1", item())
    invent_image(0, 0, (40, 30)).save(tmp_path / "JPEGImages" / "1.jpg", exif=exif)
    with pytest.raises(DataError, match="EXIF turns the image to 30 x 40"):
        find_data(tmp_path)


def test_lists_of_names_with_blanks_and_of_one_class(tmp_path: Path) -> None:
    for name in ("my 1", "my 2", "3", "4"):
        write(tmp_path, name, item())
    write_lists(tmp_path, train="", val="")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("my 1\n3  -1\n")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("my 2 \r\n4 1\r\n")
    data = find_data(tmp_path)
    found = {split: [Path(str(name)).stem for name in samples.names] for split, samples in data.splits.items()}
    assert found == {"train": ["3", "my 1"], "val": ["4", "my 2"]}


def test_of_two_images_with_one_stem_the_xml_names_one(tmp_path: Path) -> None:
    write(tmp_path, "1", item())
    invent_image(0, 1, (40, 30)).save(tmp_path / "JPEGImages" / "1.bmp")
    path = tmp_path / "Annotations" / "1.xml"
    for name in ("1.jpg", "1.bmp"):
        path.write_text(path.read_text().replace("1.jpg", name))
        assert find_data(tmp_path, val_fraction=0).splits["all"].names.tolist() == [f"JPEGImages/{name}"]


def test_one_image_is_not_that_of_two_files(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split, "1", item())
    (tmp_path / "train" / "JPEGImages" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"are both for the image 'val/JPEGImages/1\.jpg': is one missing"):
        find_data(tmp_path)
