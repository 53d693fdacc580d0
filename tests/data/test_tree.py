"""Files by name, in a folder and in an archive; what label files call an image."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from conftest import invent_image
from dualtoken.data.tree import open_tree, split_named, split_of
from dualtoken.errors import DataError


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{folder.name}/{file.relative_to(folder)}")
    return path


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        invent_image(0, 0).save(root / name) if name.endswith("jpg") else (root / name).write_text(f"in {name}")
    return root


def test_folder_and_archive_hold_the_same(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "a/1.jpg", "a/1.txt", "table.csv", ".hidden", "__MACOSX/1.txt")
    folder, archive = open_tree(root), open_tree(zipped(root))
    assert folder.names == ["a/1.jpg", "a/1.txt", "table.csv"]
    assert archive.names == [f"data/{name}" for name in folder.names]
    assert folder.text("a/1.txt") == archive.text("data/a/1.txt") == "in a/1.txt"
    assert folder.images == ["a/1.jpg"]


def test_an_image_is_found_by_the_end_of_its_path(tmp_path: Path) -> None:
    tree = open_tree(write(tmp_path, "images/train/1.jpg", "images/val/1.jpg", "images/val/2.jpg"))
    assert tree.find_image("/home/me/old/val/1.jpg") == "images/val/1.jpg"
    assert tree.find_image("C:\\data\\2.jpg") == "images/val/2.jpg"
    assert tree.find_image("1.jpg", split="train") == "images/train/1.jpg"
    assert tree.find_image("1.jpg", near="images/val") == "images/val/1.jpg"
    assert tree.find_image("../../../etc/passwd") is None
    with pytest.raises(DataError, match="any of 2 images"):
        tree.find_image("1.jpg")


@pytest.mark.parametrize(
    ("word", "split"),
    [("train", "train"), ("Val2017", "val"), ("valid", "val"), ("test-2017", "test"), ("trainer", ""), ("cat", "")],
)
def test_names_of_splits(word: str, split: str) -> None:
    assert split_named(word) == split
    assert split_of(f"images/{word}/1.jpg") == split


def test_text_that_is_none_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"a\.txt.*line 2"):
        open_tree(tmp_path).text("a.txt")


def test_two_paths_of_one_file_are_not_the_same_image(tmp_path: Path) -> None:
    tree = open_tree(write(tmp_path, "a/1.jpg"))
    named = dict[str, str]()
    assert tree.find_image("a/1.jpg", others=named) == "a/1.jpg"
    assert tree.find_image("1.jpg", others=named) == tree.find_image("../a/1.jpg", near="x", others=named) == "a/1.jpg"
    with pytest.raises(DataError, match=r"'b/1\.jpg' and 'a/1\.jpg' would both be the image 'a/1\.jpg'"):
        tree.find_image("b/1.jpg", others=named)
    assert tree.find_image("b/1.jpg", others={}) == "a/1.jpg"
