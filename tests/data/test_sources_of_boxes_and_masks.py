"""`find_data`: what all label formats share: choice of format, splits, bad images, fingerprint, a model's classes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import invent_image, write_class_folders
from dualtoken.data import ImageData
from dualtoken.data.finding import find_data, kinds_of
from dualtoken.data.samples import MaskSamples, ObjectSamples
from dualtoken.errors import ConfigError, DataError
from dualtoken.images import ImageLimits

RING = [0.1, 0.1, 0.5, 0.1, 0.5, 0.5]


def write_images(root: Path, count: int) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        invent_image(0, number, (20, 20)).save(root / "images" / f"{number}.jpg")
    return root


def write_yolo(root: Path, count: int = 10, outlines: bool = False) -> Path:
    write_images(root, count)
    (root / "labels").mkdir()
    for number in range(count):
        text = f"{number % 2} " + (" ".join(map(str, RING)) if outlines else "0.5 0.5 0.5 0.5")
        (root / "labels" / f"{number}.txt").write_text(text)
    (root / "data.yaml").write_text("names: [cat, dog]\nnc: 2\n")
    return root


def write_coco(root: Path, count: int = 10, outlines: bool = False) -> Path:
    write_images(root, count)
    shape = {"segmentation": [[20 * number for number in RING]]} if outlines else {}
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(count)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [5, 5, 10, 10], **shape} for n in range(count)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (root / "instances.json").write_text(json.dumps(content))
    return root


def write_masks(root: Path, count: int = 10) -> Path:
    write_images(root, count)
    (root / "masks").mkdir()
    for number in range(count):
        mask = np.tile(np.arange(20, dtype=np.uint8) // 10, (20, 1))
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def zipped(root: Path) -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return path


def names(data: ImageData, split: str) -> list[str]:
    return [str(name) for name in data.splits[split].names]


Write = Callable[..., Path]
WRITERS = pytest.mark.parametrize("write", [write_coco, write_yolo, write_masks])


@WRITERS
def test_val_is_drawn_by_the_seed(tmp_path: Path, write: Write) -> None:
    root = write(tmp_path, 20)
    first, again, other = (find_data(root, seed=seed, val_fraction=0.2) for seed in (1, 1, 2))
    assert names(first, "val") == names(again, "val") != names(other, "val")
    assert len(names(first, "val")) == 4
    assert sorted(names(first, "val") + names(first, "train")) == sorted(names(find_data(root, val_fraction=0), "all"))
    assert "val is 20% of the images, drawn with seed 1" in first.describe()


@WRITERS
def test_folder_and_archive_give_the_same(tmp_path: Path, write: Write) -> None:
    root = write(tmp_path / "data")
    folder, archive = (find_data(source, val_fraction=0.3) for source in (root, zipped(root)))
    assert folder.fingerprint == archive.fingerprint
    assert folder.classes == archive.classes
    for split, samples in folder.splits.items():
        other = archive.splits[split]
        assert samples.names.tolist() == other.names.tolist()
        assert (np.asarray(samples.open(1)) == np.asarray(other.open(1))).all()
        if isinstance(samples, MaskSamples) and isinstance(other, MaskSamples):
            assert (samples.open_mask(1) == other.open_mask(1)).all()
        else:
            assert isinstance(samples, ObjectSamples)
            assert isinstance(other, ObjectSamples)
            assert (samples.boxes == other.boxes).all()
            assert (samples.labels == other.labels).all()


@WRITERS
def test_a_bad_image_moves_no_other(tmp_path: Path, write: Write) -> None:
    root = write(tmp_path)
    before = find_data(root)
    bad = names(before, "train")[3]
    (root / bad).write_bytes(b"junk")
    with pytest.raises(DataError, match=f"1 image or label cannot be used:\n.*{bad}"):
        find_data(root)
    after = find_data(root, on_bad_image="skip")
    assert names(after, "val") == names(before, "val")
    assert names(after, "train") == [name for name in names(before, "train") if name != bad]
    assert after.bad_images[0][0] == f"{root}/{bad}"
    assert after.fingerprint != before.fingerprint


@WRITERS
def test_five_are_shown_and_all_counted(tmp_path: Path, write: Write) -> None:
    root = write(tmp_path, 12)
    for number in range(9):
        (root / "images" / f"{number}.jpg").write_bytes(b"junk")
    with pytest.raises(DataError) as error:
        find_data(root)
    assert error.value.message.startswith("9 images")
    assert error.value.message.count("images/") == 5
    assert error.value.message.endswith("and 4 more")


@WRITERS
def test_truncated_images_are_found_by_decoding(tmp_path: Path, write: Write) -> None:
    root = write(tmp_path)
    path = root / "images" / "2.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"2\.jpg"):
        find_data(root)
    find_data(root, check_images="headers")
    with pytest.raises(DataError, match="pixels"):
        find_data(root, check_images="headers", limits=ImageLimits(max_pixels=399))


def test_the_fingerprint_follows_the_labels(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "yolo")
    first = find_data(root).fingerprint
    assert find_data(root, seed=9).fingerprint == first  # what is drawn is no part of the data
    (root / "labels" / "3.txt").write_text("0 0.5 0.5 0.5 0.4")
    boxes = find_data(root).fingerprint
    (root / "labels" / "3.txt").write_text("1 0.5 0.5 0.5 0.4")
    assert len({first, boxes, find_data(root).fingerprint}) == 3
    root = write_masks(tmp_path / "masks")
    first = find_data(root).fingerprint
    Image.fromarray(np.ones((20, 20), np.uint8)).save(root / "masks" / "3.png")
    masks = find_data(root).fingerprint
    (root / "classes.txt").write_text("cat\ndogs\n")
    assert len({first, masks, find_data(root).fingerprint}) == 3


def test_kinds(tmp_path: Path) -> None:
    assert kinds_of(write_class_folders(tmp_path / "classes")) == ()
    assert kinds_of(zipped(tmp_path / "classes")) == ()
    for kind, write in (("coco", write_coco), ("yolo", write_yolo), ("masks", write_masks)):
        assert kinds_of(write(tmp_path / kind)) == (kind,)
    root = write_masks(write_yolo(write_coco(tmp_path / "all")))
    assert kinds_of(root) == ("coco", "yolo", "masks")
    with pytest.raises(DataError, match="Did you mean"):
        kinds_of(tmp_path / "al")


@pytest.mark.parametrize(
    ("task", "labels", "layout"),
    [
        ("detection", "auto", "COCO json"),
        ("detection", "yolo", "YOLO txt"),
        ("semantic_segmentation", "auto", "masks in"),
        ("auto", "auto", "COCO json"),
        ("auto", "masks", "masks in"),
    ],
)
def test_the_choice_between_formats(tmp_path: Path, task: str, labels: str, layout: str) -> None:
    root = write_masks(write_yolo(write_coco(tmp_path)))
    data = find_data(root, task=task, labels=labels)  # type: ignore
    assert data.layout.startswith(layout)
    told = "labels of several kinds: coco is taken, another with --labels yolo" in data.describe()
    assert told == (layout == "COCO json" and labels == "auto")


@pytest.mark.parametrize("outlined", ["coco", "yolo"])
def test_instance_segmentation_takes_what_has_outlines(tmp_path: Path, outlined: str) -> None:
    root = write_yolo(write_coco(tmp_path, outlines=outlined == "coco"), outlines=outlined == "yolo")
    data = find_data(root, task="instance_segmentation")
    assert data.layout.lower().startswith(outlined)
    assert data.splits["train"].has_outlines  # type: ignore


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("semantic_segmentation", "auto", "takes masks"),
        ("semantic_segmentation", "yolo", "cannot learn from 'yolo'"),
        ("detection", "coco", "no labels of the kind 'coco'; found: yolo"),
    ],
)
def test_a_format_that_is_not_there(tmp_path: Path, task: str, labels: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_data(write_yolo(tmp_path), task=task, labels=labels)  # type: ignore


def test_no_labels_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labels of a known kind"):
        find_data(write_images(tmp_path, 3), task="detection")


@pytest.mark.parametrize(
    "options",
    [{"task": "detect"}, {"labels": "cocoo"}, {"on_bad_image": "keep"}, {"check_images": "no"}, {"val_fraction": 1}],
)
def test_impossible_arguments(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        find_data(tmp_path, **options)  # type: ignore


@WRITERS
def test_one_image_makes_no_val(tmp_path: Path, write: Write) -> None:
    with pytest.raises(DataError, match="one image only, but training needs two") as error:
        find_data(write(tmp_path, 1))
    assert "--val-fraction" not in str(error.value)  # training would refuse what it gives
    assert "all         1 image" in find_data(tmp_path, val_fraction=0).describe()


@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_a_models_classes(tmp_path: Path, write: Write) -> None:
    root = write(tmp_path)
    data = find_data(root, classes=("dog", "cow", "cat"), val_fraction=0)
    assert data.classes == ("dog", "cow", "cat")
    samples = data.splits["all"]
    assert samples.labels.tolist() == [2, 0] * 5
    assert "nothing is of 1 of the model's classes: 'cow'" in data.describe()
    assert data.fingerprint == find_data(root).fingerprint
    with pytest.raises(DataError, match="Did you mean 'cats'"):
        find_data(root, classes=("dog", "cats"))


def test_a_class_that_is_named_but_never_used_is_no_stranger(tmp_path: Path) -> None:
    root = write_yolo(tmp_path)
    (root / "data.yaml").write_text("names: [cat, dog, cow]\nnc: 3\n")
    assert find_data(root, classes=("dog", "cat")).classes == ("dog", "cat")
    (root / "data.yaml").unlink()
    data = find_data(root, classes=("dog", "cat"), val_fraction=0)  # nameless: the model's order counts
    assert data.splits["all"].labels.tolist() == [0, 1] * 5


def test_of_very_many_masks_some_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dualtoken.data.reading._MASKS_DECODED", 5)
    root = write_masks(tmp_path)
    data = find_data(root, check_images="headers", val_fraction=0)
    assert "one mask in 2 was decoded" in data.describe()
    assert len(data.splits["all"]) == 10
    Image.fromarray(np.zeros((20, 19), np.uint8)).save(root / "masks" / "1.png")  # of one that is not decoded
    with pytest.raises(DataError, match=r"1\.png' is 19 x 20, its image 20 x 20"):
        find_data(root, check_images="headers")
