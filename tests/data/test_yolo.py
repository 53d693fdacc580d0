"""YOLO's text files: layouts, data.yaml, boxes and outlines, and what is said of wrong ones."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from conftest import invent_image
from dualtoken.data import ImageData
from dualtoken.data.finding import find_data, kinds_of
from dualtoken.errors import DataError

BOX = "0 0.5 0.5 0.5 0.2\n"  # of an image of 40 x 30: x 10 to 30, y 12 to 18
YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def write(root: Path, labels: dict[str, str | None], yaml: str | None = None) -> Path:
    """Images of 40 x 30 by name, with the text of their label files."""
    for name, text in labels.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        invent_image(0, len(name), (40, 30)).save(root / name)
        label = (root / name.replace("images", "labels")).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def pair(root: Path, text: str = BOX, yaml: str = YAML) -> Path:
    """Two images: the first of train with `text`, one of val."""
    return write(root, {"images/train/1.jpg": text, "images/val/2.jpg": BOX}, yaml)


def sizes(data: ImageData) -> dict[str, int]:
    return {name: len(samples) for name, samples in data.splits.items()}


def test_boxes_and_outlines(tmp_path: Path) -> None:
    data = find_data(pair(tmp_path, BOX + "\n1 0.1 0.1 0.5 0.1 0.5 0.9\n"))
    objects = data.splits["train"].objects(0)
    assert data.classes == ("cat", "dog")
    assert objects.boxes.round(4).tolist() == [[10, 12, 30, 18], [4, 3, 20, 27]]
    assert objects.labels.tolist() == [0, 1]
    assert objects.areas.round(3).tolist() == [120, 192]
    assert objects.outlines[0] == ()
    assert objects.outlines[1][0].round(4).tolist() == [[4, 3], [20, 3], [20, 27]]


@pytest.mark.parametrize(
    ("images", "yaml"),
    [
        (("images/train/1.jpg", "images/val/2.jpg"), YAML),
        (("images/train/1.jpg", "images/val/2.jpg"), None),
        (("train/images/1.jpg", "valid/images/2.jpg"), None),
        (("train/images/1.jpg", "valid/images/2.jpg"), "train: ../train/images\nval: ../valid/images\nnames: {0: a}"),
        (("images/1.jpg", "images/2.jpg"), "train: train.txt\nval: [val.txt]\nnames: [a]"),
        (("train/1.jpg", "val/2.jpg"), None),
        (
            ("sub/images/train/1.jpg", "sub/images/val/2.jpg"),
            "path: sub\ntrain: images/train\nval: images/val\nnames: [a]",
        ),
        (
            ("images/train/1.jpg", "images/val/2.jpg"),
            "path: /gone/data\ntrain: images/train\nval: images/val\nnames: [a]",
        ),
        (("images/train/1.jpg", "images/val/2.jpg"), "train: /old/images/train\nval: /old/images/val\nnames: [a]"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_layouts(tmp_path: Path, images: tuple[str, str], yaml: str | None, form: str) -> None:
    root = write(tmp_path / "data", dict.fromkeys(images, BOX), yaml)
    for split, name in zip(("train", "val"), images, strict=True):
        if yaml and "txt" in yaml:
            (root / f"{split}.txt").write_text(f"./{name}\n\n")
    source = root
    if form == "zip":
        source = tmp_path / "data.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for file in root.rglob("*"):
                archive.write(file, f"data/{file.relative_to(root)}")
    data = find_data(source)
    assert kinds_of(source) == ("yolo",)
    assert sizes(data) == {"train": 1, "val": 1}
    assert str(data.splits["train"].names[0]).endswith(images[0])
    assert data.splits["val"].objects(0).boxes.round(4).tolist() == [[10, 12, 30, 18]]
    assert data.splits["val"].open(0).size == (40, 30)


def test_data_yaml_itself_and_data_elsewhere(tmp_path: Path) -> None:
    root = pair(tmp_path / "data")
    assert sizes(find_data(root / "data.yaml")) == {"train": 1, "val": 1}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text(f"path: ../data\n{YAML}")
    data = find_data(tmp_path / "configs" / "mine.yaml")
    assert data.splits["train"].path(0) == f"{tmp_path}/configs/../data/images/train/1.jpg"


def test_train_that_is_val_is_noted(tmp_path: Path) -> None:
    data = find_data(pair(tmp_path, yaml="train: images\nval: images\nnames: [a]"))
    assert sizes(data) == {"train": 2, "val": 2}
    assert "2 images of val are in train too" in data.describe()


def test_a_test_split_that_was_not_shipped(tmp_path: Path) -> None:
    data = find_data(pair(tmp_path, yaml=YAML + "test: images/test\n"))
    assert sizes(data) == {"train": 1, "val": 1}
    assert "no test split" in data.describe()
    with pytest.raises(DataError, match=r"data\.yaml': `val` is 'images/vall', and there are no images there"):
        find_data(pair(tmp_path, yaml=YAML.replace("images/val", "images/vall")))


def test_images_without_objects(tmp_path: Path) -> None:
    labels = {"images/1.jpg": BOX, "images/2.jpg": None, "images/3.jpg": "", "images/4.jpg": "\n \n"}
    data = find_data(write(tmp_path, labels), val_fraction=0)
    assert data.splits["all"].offsets.tolist() == [0, 1, 1, 1, 1]
    assert "1 image has no label file" in data.describe()
    assert "3 images have no objects" in data.describe()


def test_names_of_classes(tmp_path: Path) -> None:
    root = write(tmp_path, {"images/1.jpg": BOX, "images/2.jpg": "2 0.5 0.5 0.1 0.1"})
    data = find_data(root)
    assert data.classes == ("class_0", "class_1", "class_2")
    assert "no data.yaml or classes.txt" in data.describe()
    (root / "labels" / "classes.txt").write_text("cat\ndog\n\ncow\n")
    data = find_data(root)
    assert data.classes == ("cat", "dog", "cow")
    assert "nothing is of 1 of the 3 classes: 'dog'" in data.describe()


WRONG = [
    ("2 0.5 0.5 0.1 0.1", "class 2, expected 0 to 1 (data.yaml)"),
    ("-1 0.5 0.5 0.1 0.1", "class -1"),
    ("0.5 0.5 0.5 0.1 0.1", "class 0.5"),
    ("nan 0.5 0.5 0.1 0.1", "class nan"),
    ("cat 0.5 0.5 0.1 0.1", "'cat 0.5 0.5 0.1 0.1', expected numbers"),
    ("0 0.5 0.5 0.1", "4 numbers"),
    ("0 0.5 0.5 0.1 0.1 9", "6 numbers, of which the last, 9, is no score"),
    ("0 0.5 0.5 0.1 0.1 nan", "6 numbers"),
    ("0 0.5 0.5 0.1 0.1 0.1 0.1 0.9", "8 numbers"),
    ("0", "polygon with 0 points"),
    ("0 0.1 0.1", "polygon with 1 point, expected"),
    ("0 0.9 0.5 0.3 0.1", "a box outside the image: x 30 to 42, y 13.5 to 16.5, the image is 40 x 30"),
    ("0 0.5 0.5 0 0.1", "without area"),
    ("0 0.5 0.5 -0.1 0.1", "without area"),
    ("0 0.5 nan 0.1 0.1", "no numbers"),
    ("0 0.5 inf 0.1 0.1", "no numbers"),
    ("0 20 15 10 10", "shares of the image, 0 to 1, not pixels"),
    ("0 0.1 0.1 0.2 0.2 0.3 1.3", "polygon outside"),
    ("0 0.1 0.1 0.2 0.1 0.3 0.1", "polygon without area"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    root = write(tmp_path, {"images/1.jpg": f"{BOX}\n{line}\n", "images/2.jpg": BOX}, "names: [cat, dog]\nnc: 2")
    with pytest.raises(DataError) as error:
        find_data(root)
    assert "labels/1.txt', line 3: " in str(error.value)
    assert message in str(error.value)
    data = find_data(root, on_bad_image="skip", val_fraction=0)
    assert [str(name) for name in data.splits["all"].names] == ["images/2.jpg"]
    assert message in data.bad_images[0][1]


def test_predictions_with_scores_are_read_without_them(tmp_path: Path) -> None:
    root = pair(tmp_path, "0 0.5 0.5 0.5 0.2 0.75\n1 0.5 0.5 0.5 0.2\n0 0.5 0.5 0.5 0.4 1\n")
    objects = find_data(root).splits["train"].objects(0)
    assert objects.boxes.round(4).tolist() == [[10, 12, 30, 18], [10, 12, 30, 18], [10, 9, 30, 21]]
    assert "2 lines have a sixth number, a score" in find_data(root).describe()
    assert "sixth" not in find_data(pair(tmp_path)).describe()


def test_without_any_label_file_it_is_said_where_they_were_looked_for(tmp_path: Path) -> None:
    root = write(tmp_path, {"images/train/1.jpg": None, "images/val/2.jpg": None}, YAML)
    with pytest.raises(DataError, match=r"neither '.*/labels/train/1\.txt' nor '.*/images/train/1\.txt'"):
        find_data(root)
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match="no labels of the kind 'yolo'") as error:
        find_data(root, labels="yolo")
    assert "labels/NAME.txt" in error.value.hint


def test_folders_tell_the_splits_where_data_yaml_names_none(tmp_path: Path) -> None:
    data = find_data(pair(tmp_path, yaml="names: [cat, dog]\n"))
    assert sizes(data) == {"train": 1, "val": 1}
    assert not data.val_drawn


def test_numbers_in_data_yaml_may_be_text(tmp_path: Path) -> None:
    assert find_data(pair(tmp_path, yaml="names: {'0': cat, '1': dog}\nnc: '2'\n")).classes == ("cat", "dog")


def test_a_label_without_an_image(tmp_path: Path) -> None:
    root = pair(tmp_path)
    (root / "labels" / "train" / "gone.txt").write_text(BOX)
    with pytest.raises(DataError, match=r"gone\.txt' is a label file without an image"):
        find_data(root)
    assert len(find_data(root, on_bad_image="skip").bad_images) == 1


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat, cat]", "'cat' stands there twice"),
        ("names: [cat, dog]\nnc: 3", "`nc` is 3, but `names` has 2"),
        ("names: {0: cat, 2: dog}\nnc: 2", "none for class 1"),
        ("names: []\nnc: 0", "expected a list of class names"),
        ("names: [cat\nval: x", r"data\.yaml' is no YAML in line"),
        ("names: [a, b]\ntrain: 5", "`train` is 5"),
        ("names: [a, b]\ntrain: list.txt", r"list\.txt', line 2: there is no image 'x\.jpg'"),
    ],
)
def test_wrong_data_yaml(tmp_path: Path, yaml: str, message: str) -> None:
    root = pair(tmp_path, yaml=yaml)
    (root / "list.txt").write_text("1.jpg\nx.jpg\n")
    with pytest.raises(DataError, match=message):
        find_data(root)


def test_no_object_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no object in any of 2 images"):
        find_data(write(tmp_path, {"images/1.jpg": "", "images/2.jpg": None}, "names: [a]\nnc: 1"))


def test_turned_images_are_counted(tmp_path: Path) -> None:
    root = pair(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    invent_image(0, 0, (40, 30)).save(root / "images" / "train" / "1.jpg", exif=exif)
    data = find_data(root)
    assert "1 image is turned by EXIF" in data.describe()
    assert data.splits["train"].objects(0).boxes.round(4).tolist() == [[7.5, 16, 22.5, 24]]  # of 30 x 40


def test_instance_segmentation_wants_outlines(tmp_path: Path) -> None:
    outline = "0 0.1 0.1 0.5 0.1 0.5 0.9\n"
    with pytest.raises(DataError, match=r"labels/train/1\.txt', line 2: a box without an outline"):
        find_data(pair(tmp_path, outline + BOX), task="instance_segmentation")
    scored = BOX.replace("\n", " 0.9\n")  # six numbers are no outline
    with pytest.raises(DataError, match="no outline anywhere"):
        find_data(pair(tmp_path, scored), task="instance_segmentation")


def test_an_image_may_be_called_like_a_note(tmp_path: Path) -> None:
    data = find_data(write(tmp_path, {"images/notes.jpg": BOX, "images/readme.jpg": BOX}, "train: images\nnames: [a]"))
    assert [len(samples.labels) for samples in data.splits.values()] == [1, 1]
