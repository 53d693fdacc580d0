"""`find_data`: layouts, splits, links, CSV files, and what it says when something is wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import MakeImageFolder, invent_image, write_class_folders
from dualtoken.data import ImageData, find_data, find_split
from dualtoken.errors import ConfigError, DataError
from dualtoken.images import ImageLimits


def names(data: ImageData, split: str) -> list[str]:
    return [str(name) for name in data.splits[split].names]


def sizes(data: ImageData) -> dict[str, int]:
    return {name: len(samples) for name, samples in data.splits.items()}


def test_class_folders_are_split_in_each_class(make_image_folder: MakeImageFolder) -> None:
    root = make_image_folder(classes=("b", "a", "c"), per_class=10)
    data = find_data(root, val_fraction=0.2)
    assert data.classes == ("a", "b", "c")
    assert sizes(data) == {"train": 24, "val": 6}
    assert data.splits["val"].counts(3).tolist() == [2, 2, 2]
    assert not set(names(data, "train")) & set(names(data, "val"))
    for samples in data.splits.values():
        for name, label in zip(samples.names, samples.labels, strict=True):
            assert data.classes[label] == str(name).split("/")[0]


def test_split_is_that_of_the_seed(make_image_folder: MakeImageFolder) -> None:
    root = make_image_folder(per_class=20)
    first, again, other = (names(find_data(root, seed=seed), "val") for seed in (1, 1, 2))
    assert first == again != other


def test_no_split_for_evaluation(image_folder: Path) -> None:
    assert sizes(find_data(image_folder, val_fraction=0)) == {"all": 8}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val"), {"train": 8, "val": 8}),
        (("Train", "VALID", "testing"), {"train": 8, "val": 8, "test": 8}),
        (("training", "validation"), {"train": 8, "val": 8}),
        (("train",), {"train": 6, "val": 2}),
        (("train", "test"), {"train": 6, "val": 2, "test": 8}),
        (("test",), {"test": 8}),
        (("val",), {"val": 8}),
    ],
)
@pytest.mark.parametrize("nested", ["", "one/two"])
def test_split_folders(
    folders: tuple[str, ...], expected: dict[str, int], nested: str, make_image_folder: MakeImageFolder, tmp_path: Path
) -> None:
    make_image_folder(splits=folders, name=f"data/{nested}")
    assert sizes(find_data(tmp_path / "data")) == expected


def test_odd_names_suffixes_and_hidden_files(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "my data", ("Löwe ", "a b\n(c)"), per_class=2)
    image = invent_image(0, 0)
    image.save(root / "a b\n(c)" / "x y.JPEG", "JPEG")
    image.save(root / "a b\n(c)" / 'ü;,".PnG', "PNG")
    for hidden in (".DS_Store", "._x.jpg", "Thumbs.db", "notes.txt"):
        (root / "Löwe " / hidden).write_bytes(b"junk")
    write_class_folders(root / ".git", ("x",), 1)
    write_class_folders(root / "__MACOSX", ("x",), 1)
    data = find_data(root, val_fraction=0)
    assert data.classes == ("Löwe ", "a b\\u000a(c)")  # a name cannot break a line
    assert data.splits["all"].counts(2).tolist() == [2, 4]
    assert [data.splits["all"].open(i).size for i in range(6)] == [(32, 32)] * 6


def test_accents_stored_in_two_ways_are_one_class(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", ("cafe\u0301", "tea"), 1)
    write_class_folders(tmp_path / "val", ("caf\u00e9", "tea"), 1)
    assert find_data(tmp_path).classes == ("caf\u00e9", "tea")


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "data", ("cat", "dog"), 2)
    elsewhere = write_class_folders(tmp_path / "elsewhere", ("bird",), 3)
    (root / "bird").symlink_to(elsewhere / "bird")
    (root / "cat" / "linked.jpg").symlink_to(elsewhere / "bird" / "0000.jpg")
    for number in range(12):  # each way leads to all others: without care, 12! folders
        (root / "dog" / f"loop{number}").symlink_to(root)
        (elsewhere / "bird" / f"loop{number}").symlink_to(elsewhere)
    data = find_data(root, task="classification", val_fraction=0)
    assert data.classes == ("bird", "cat", "dog")
    assert data.splits["all"].counts(3).tolist() == [3, 3, 2]
    assert "read already" in data.describe()


def test_a_folder_keeps_its_own_name_beside_a_link(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "data", ("cat/deep/deeper", "dog"), 2)
    (root / "alias").symlink_to(root / "cat" / "deep" / "deeper")
    assert find_data(root, val_fraction=0).classes == ("cat", "dog")


def test_a_link_to_itself_is_a_bad_image(image_folder: Path) -> None:
    (image_folder / "cat" / "self.jpg").symlink_to(image_folder / "cat" / "self.jpg")
    with pytest.raises(DataError, match=r"self\.jpg"):
        find_data(image_folder)


def test_a_pipe_does_not_block(image_folder: Path) -> None:
    os.mkfifo(image_folder / "cat" / "pipe.jpg")
    assert sizes(find_data(image_folder, val_fraction=0)) == {"all": 8}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_a_bad_image(image_folder: Path) -> None:
    name = os.fsencode(image_folder / "cat") + b"/\xff\xfe.jpg"
    with open(name, "wb") as file:  # noqa: PTH123
        file.write((image_folder / "cat" / "0000.jpg").read_bytes())
    data = find_data(image_folder, val_fraction=0, on_bad_image="skip")
    assert (len(data.splits["all"]), len(data.bad_images)) == (8, 1)
    data.describe().encode("utf-8")


@pytest.mark.parametrize("mode", ["all", "headers"])
def test_bad_images_fail_or_are_left_out(mode: Any, make_image_folder: MakeImageFolder) -> None:
    root = make_image_folder(per_class=10, size=64)
    (root / "cat" / "0001.jpg").write_bytes(b"")
    (root / "cat" / "0002.jpg").write_bytes(b"a text")
    whole = (root / "dog" / "0003.jpg").read_bytes()
    (root / "dog" / "0003.jpg").write_bytes(whole[: len(whole) // 2])
    number = 3 if mode == "all" else 2
    with pytest.raises(DataError, match=f"{number} images or labels") as caught:
        find_data(root, check_images=mode)
    assert "0002.jpg" in str(caught.value)
    assert "--on-bad-image skip" in str(caught.value)
    data = find_data(root, check_images=mode, on_bad_image="skip")
    assert len(data.bad_images) == number
    assert sum(sizes(data).values()) == 20 - number
    assert "0001.jpg" in data.describe()


def test_a_repaired_image_moves_no_other_one(make_image_folder: MakeImageFolder) -> None:
    root = make_image_folder(per_class=20)
    before = set(names(find_data(root), "val"))
    victim = next(name for name in names(find_data(root), "train"))
    (root / victim).write_bytes(b"")
    assert set(names(find_data(root, on_bad_image="skip"), "val")) == before


def test_a_class_left_without_images_is_an_error(make_image_folder: MakeImageFolder) -> None:
    root = make_image_folder(per_class=1, splits=("train", "val"))
    (root / "train" / "cat" / "0000.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="these classes: 'cat'"):
        find_data(root, on_bad_image="skip")


def test_limits_reach_the_check(image_folder: Path) -> None:
    with pytest.raises(DataError, match="8 images or labels"):
        find_data(image_folder, check_images="headers", limits=ImageLimits(max_pixels=1000))


def test_animations_are_noted_and_not_warned_of(image_folder: Path) -> None:
    frames = [invent_image(0, n) for n in range(2)]
    frames[0].save(image_folder / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    data = find_data(image_folder, val_fraction=0)
    assert "moving.gif" in data.describe()
    data.splits["all"].open(names(data, "all").index("cat/moving.gif"))


def test_fingerprint_is_stable_and_sees_changes(make_image_folder: MakeImageFolder) -> None:
    root = make_image_folder(per_class=6)
    first = find_data(root).fingerprint
    assert first == find_data(root, seed=9, val_fraction=0.5).fingerprint
    (root / "cat" / "0000.jpg").rename(root / "cat" / "renamed.jpg")
    second = find_data(root).fingerprint
    (root / "cat" / "renamed.jpg").rename(root / "dog" / "renamed.jpg")
    third = find_data(root).fingerprint
    assert len({first, second, third}) == 3


def test_fingerprint_sees_the_labels_of_a_csv(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("a", "b"), 2)
    rows = "path,label\na/0000.jpg,x\na/0001.jpg,{}\nb/0000.jpg,x\nb/0001.jpg,y\n"
    first, second = (find_data(write_csv(tmp_path, rows.format(label))).fingerprint for label in "xy")
    assert first != second


def test_a_split_never_takes_all_of_a_class(make_image_folder: MakeImageFolder) -> None:
    assert sizes(find_data(make_image_folder(per_class=2), val_fraction=0.95)) == {"train": 2, "val": 2}


def test_one_image_of_a_class_stays_in_train(make_image_folder: MakeImageFolder, tmp_path: Path) -> None:
    root = make_image_folder(per_class=5)
    write_class_folders(root, ("lonely",), 1)
    data = find_data(root, val_fraction=0.5)
    assert data.splits["val"].counts(3)[2] == 0
    assert data.splits["train"].counts(3)[2] == 1
    assert "'lonely'" in data.describe()


def test_no_class_with_two_images_cannot_be_split(make_image_folder: MakeImageFolder) -> None:
    root = make_image_folder(per_class=1)
    with pytest.raises(DataError, match="no class has two images"):
        find_data(root)
    assert sizes(find_data(root, val_fraction=0)) == {"all": 2}


def broken(tmp_path: Path, kind: str) -> Path:
    root = tmp_path / "data"
    if kind == "empty":
        root.mkdir()
    elif kind == "text only":
        (root / "cat").mkdir(parents=True)
        (root / "cat" / "a.txt").write_text("x")
    elif kind == "one class":
        write_class_folders(root, ("cat",), 2)
    elif kind == "flat":
        write_class_folders(tmp_path, ("data",), 2)
    elif kind == "empty class":
        write_class_folders(root, ("cat", "dog"), 2)
        (root / "unicorn").mkdir()
    elif kind == "flat splits":
        write_class_folders(root, ("train", "test"), 2)
    elif kind == "two val":
        for split in ("train", "val", "valid"):
            write_class_folders(root / split, ("cat", "dog"), 1)
    elif kind == "mistyped":
        write_class_folders(root / "train", ("bird", "cat"), 2)
        write_class_folders(root / "val", ("brid", "cat"), 2)
    elif kind == "masks":
        write_class_folders(root, ("images", "masks"), 2)
    elif kind == "tar":
        root = tmp_path / "data.tar"
        root.write_bytes(b"x")
    elif kind == "not a zip":
        root = tmp_path / "data.zip"
        root.write_bytes(b"x")
    elif kind == "no such":
        root.mkdir()
        root = tmp_path / "dta"
    return root


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "no images"),
        ("text only", "no images"),
        ("one class", "one class only: 'cat'"),
        ("flat", "no class folders"),
        ("empty class", "'unicorn'"),
        ("flat splits", "without class folders"),
        ("two val", "two folders for one split"),
        ("mistyped", "Did you mean 'bird'"),
        ("masks", "JPEG"),
        ("tar", "no tar, or a damaged one"),
        ("not a zip", "cannot be read as a zip"),
        ("no such", "Did you mean '.*data'"),
    ],
)
def test_errors_teach(kind: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        find_data(broken(tmp_path, kind))


@pytest.mark.parametrize(
    "options", [{"val_fraction": 1}, {"val_fraction": -0.1}, {"on_bad_image": "ignore"}, {"check_images": "some"}]
)
def test_impossible_options(options: dict[str, Any], image_folder: Path) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        find_data(image_folder, **options)


def test_classes_of_a_model_decide_the_labels(make_image_folder: MakeImageFolder) -> None:
    root = make_image_folder(classes=("cat", "dog"), per_class=3)
    data = find_data(root, val_fraction=0, classes=("zebra", "dog", "cat"))
    assert data.classes == ("zebra", "dog", "cat")
    assert data.splits["all"].labels.tolist() == [2, 2, 2, 1, 1, 1]
    assert "'zebra'" in data.describe()
    with pytest.raises(DataError, match="Did you mean 'cats'"):
        find_data(root, classes=("cats", "dog"))


def test_one_class_is_enough_to_evaluate(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "data", ("cat",), 2)
    assert len(find_data(root, val_fraction=0, classes=("cat", "dog")).splits["all"]) == 2


def test_find_split(make_image_folder: MakeImageFolder) -> None:
    data = find_data(make_image_folder(splits=("train", "val", "test")))
    assert find_split(data) is data.splits["test"]
    assert find_split(data, "train") is data.splits["train"]
    with pytest.raises(DataError, match="Did you mean 'train'"):
        find_split(data, "trian")
    without = find_data(make_image_folder(name="plain"), val_fraction=0)
    assert find_split(without) is without.splits["all"]


def write_csv(root: Path, text: str, encoding: str = "utf-8") -> Path:
    path = root / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_csv_with_byte_order_mark_semicolons_quotes_and_absolute_paths(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "pics", ("a", "b"), 3)
    (root / "a" / "0000.jpg").rename(root / "a" / "x; y.jpg")
    rows = ["Label;Path;Split", 'cat;"a/x; y.jpg";train', f"cat;{root}/a/0001.jpg;val", "", "dog;b\\0000.jpg;train"]
    rows += ['"big ""dog""";b/0001.jpg;Training', 'cat; a/0002.jpg ;"train"']
    data = find_data(write_csv(root, "\r\n".join(rows), "utf-8-sig"))
    assert data.classes == ('big "dog"', "cat", "dog")
    assert sizes(data) == {"train": 4, "val": 1}
    assert data.splits["val"].path(0) == f"{root}/a/0001.jpg"
    for samples in data.splits.values():
        assert all(samples.open(i).size == (32, 32) for i in range(len(samples)))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiters(delimiter: str, tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("a", "b"), 1)
    text = "path,label,split\na/0000.jpg,x,train\nb/0000.jpg,y,train\n".replace(",", delimiter)
    assert find_data(write_csv(tmp_path, text), val_fraction=0).classes == ("x", "y")


def test_csv_in_a_folder_counts_where_there_are_no_class_folders(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("images",), 4)
    lines = [f"images/000{i}.jpg,{'cat' if i % 2 else 'dog'}" for i in range(4)]
    write_csv(tmp_path, "path,label\n" + "\n".join(lines))
    assert find_data(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'path'"),
        ("path,label\n", "lists no images"),
        ("filename,label\na/0000.jpg,x", "Rename 'filename'"),
        ("path,class\na/0000.jpg,x", "no column 'label'"),
        ("path,label\na/0000.jpg,x\na/none.jpg,y", "line 3: there is no file 'a/none.jpg'"),
        ("path,label\na/0000.jpg,", "line 2: the label is empty"),
        ("path,label\na/0000.jpg,x,y", "line 2: 3 fields"),
        ("path,label,split\na/0000.jpg,x,trian", "line 2: .*Did you mean 'train'"),
        ("path,label\na/0000.jpg,x\na/0000.jpg,x", "line 3: 'a/0000.jpg' stands in line 2"),
        ("path,label,split\na/0000.jpg,x,train\nb/0000.jpg,y,", "split of 'b/0000.jpg' is empty"),
    ],
)
def test_csv_errors_name_the_line(text: str, words: str, tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("a", "b"), 1)
    with pytest.raises(DataError, match=words):
        find_data(write_csv(tmp_path, text))


def test_csv_of_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not UTF-8 in line 2"):
        find_data(write_csv(tmp_path, "path,label\nä.jpg,x", "latin-1"))


def test_samples_hold_arrays_only(image_folder: Path) -> None:
    samples = find_data(image_folder, val_fraction=0).splits["all"]
    assert all(isinstance(part, np.ndarray) for part in (samples.names, samples.labels))
    assert samples.names.dtype != object
    part = samples.subset([7, 0])
    assert [part.path(0), part.path(1)] == [samples.path(7), samples.path(0)]


def test_description_tells_the_extremes(make_image_folder: MakeImageFolder) -> None:
    root = make_image_folder(classes=("few", "some"), per_class=3)
    write_class_folders(root, ("many",), 9)
    text = find_data(root, val_fraction=0).describe()
    assert "smallest class 'few' 3, largest 'many' 9" in text
    assert "3: few, many, some" in text


def test_csv_with_one_image_in_two_spellings(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("a",), 1)
    with pytest.raises(DataError, match=r"line 3: './a/0000\.jpg' stands in line 2 already as 'x'"):
        find_data(write_csv(tmp_path, "path,label\na/0000.jpg,x\n./a/0000.jpg,y\n"))
