"""COCO's json: layouts, ids, shapes, and what is said of wrong ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import invent_image
from dualtoken.data import ImageData, runs
from dualtoken.data.finding import find_data, kinds_of
from dualtoken.errors import DataError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
SQUARE = [4, 4, 20, 4, 20, 12, 4, 12]


def annotation(number: int, image: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 3, "bbox": [4, 4, 16, 8], **more}


def content(images: int = 2, annotations: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in range(1, images + 1)],
        "annotations": [annotation(i, i) for i in range(1, images + 1)] if annotations is None else annotations,
        "categories": CATEGORIES,
        **more,
    }


def write(root: Path, given: dict[str, Any], name: str = "labels.json", images: str = "images") -> Path:
    (root / images).mkdir(parents=True, exist_ok=True)
    for image in given["images"]:
        invent_image(0, image["id"], (40, 30)).save(root / images / image["file_name"])
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(given, indent=1))
    return root


def one(tmp_path: Path, *annotations: dict[str, Any], **options: Any) -> ImageData:
    return find_data(write(tmp_path, content(1, list(annotations))), val_fraction=0, **options)


def test_boxes_labels_and_classes(tmp_path: Path) -> None:
    data = one(
        tmp_path, annotation(1), annotation(2, category_id=7, area=99.5, segmentation=[SQUARE, [0, 0, 9, 0, 9, 9]])
    )
    objects = data.splits["all"].objects(0)
    assert data.classes == ("cat", "dog")  # in the order of the ids
    assert objects.size == (30, 40)
    assert objects.boxes.tolist() == [[4, 4, 20, 12]] * 2
    assert objects.labels.tolist() == [0, 1]
    assert objects.areas.tolist() == [128, 99.5]
    assert [len(rings) for rings in objects.outlines] == [0, 2]
    assert objects.outlines[1][0].ravel().tolist() == SQUARE
    assert data.layout == "COCO json labels.json"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under numpy 2
@pytest.mark.parametrize("packed", [True, False])
def test_run_lengths(tmp_path: Path, packed: bool) -> None:
    mask = np.zeros((30, 40), bool)
    mask[3:9, 5:20] = mask[20:22, 30:] = True
    counts: Any = runs.lengths_of(mask)
    shape = {"size": [30, 40], "counts": runs.pack(counts) if packed else counts}
    given = annotation(1, segmentation=shape, iscrowd=1)
    del given["bbox"]
    objects = one(tmp_path, given, annotation(2)).splits["all"].objects(0)
    assert objects.crowd.tolist() == [True, False]
    assert objects.boxes[0].tolist() == [5, 3, 40, 22]
    assert objects.areas[0] == mask.sum()
    assert (objects.masks()[0] == mask).all()


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("annotations/instances_train2017.json", "annotations/instances_val2017.json"), ("train2017", "val2017")),
        (("train/_annotations.coco.json", "valid/_annotations.coco.json"), ("train", "valid")),
        (("train.json", "val.json"), ("images/train", "images/val")),
    ],
)
def test_layouts_with_splits(tmp_path: Path, names: tuple[str, str], folders: tuple[str, str]) -> None:
    for name, folder, number in zip(names, folders, (3, 2), strict=True):
        write(tmp_path, content(number), name, folder)
    data = find_data(tmp_path)
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 3, "val": 2}
    for samples, folder in zip(data.splits.values(), folders, strict=True):
        assert all(str(name).startswith(f"{folder}/") for name in samples.names)


def test_captions_and_keypoints_beside_instances_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, content(2), "annotations/instances_train2017.json", "train2017")
    write(tmp_path, content(2), "annotations/person_keypoints_train2017.json", "train2017")
    (tmp_path / "annotations" / "captions_train2017.json").write_text('{"images": [], "annotations": []}')
    assert len(find_data(tmp_path, val_fraction=0).splits["train"]) == 2


def test_a_json_itself(tmp_path: Path) -> None:
    write(tmp_path / "a", content(2), "annotations/instances.json")
    write(tmp_path / "b", content(3), "here.json", ".")
    assert len(find_data(tmp_path / "a" / "annotations" / "instances.json", val_fraction=0).splits["all"]) == 2
    assert len(find_data(tmp_path / "b" / "here.json", val_fraction=0).splits["all"]) == 3
    assert kinds_of(tmp_path / "b" / "here.json") == ("coco",)


def test_several_files_for_one_split(tmp_path: Path) -> None:
    write(tmp_path, content(1), "first.json")
    write(tmp_path, content(1), "second.json")
    with pytest.raises(DataError, match=r"first\.json.*second\.json"):
        find_data(tmp_path)


def test_ids_may_differ_between_splits(tmp_path: Path) -> None:
    write(tmp_path, content(2), "train.json", "train")
    other = content(2, categories=[{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}])
    write(tmp_path, other, "val.json", "val")
    data = find_data(tmp_path)
    assert data.splits["train"].labels.tolist() == [0, 0]
    assert data.splits["val"].labels.tolist() == [1, 1]
    write(tmp_path, content(2, categories=[{"id": 3, "name": "catt"}]), "val.json", "val")
    with pytest.raises(DataError, match="Did you mean 'cat'"):
        find_data(tmp_path)


def test_a_group_of_categories_is_no_class(tmp_path: Path) -> None:
    grouped = [{"id": 0, "name": "pets", "supercategory": "none"}]
    grouped += [{**category, "supercategory": "pets"} for category in CATEGORIES]
    data = find_data(write(tmp_path, content(2, categories=grouped)))
    assert data.classes == ("cat", "dog")
    assert "'pets' is only the group" in data.describe()


def test_images_in_no_json_are_noted(tmp_path: Path) -> None:
    write(tmp_path, content(2))
    invent_image(0, 0).save(tmp_path / "images" / "other.jpg")
    assert "1 image stands in no json" in find_data(tmp_path).describe()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"category_id": 5}, "category 5, expected one of the 2 ids from 3 to 7"),
    ({"category_id": "cat"}, "category 'cat'"),
    ({"bbox": [30, 4, 16, 8]}, "outside the image: x 30 to 46, y 4 to 12, the image is 40 x 30"),
    ({"bbox": [-3, 4, 16, 8]}, "outside the image"),
    ({"bbox": [4, 4, 0, 8]}, "without area"),
    ({"bbox": [4, 4, 3, -8]}, "without area"),
    ({"bbox": [4, 4, float("nan"), 8]}, "no numbers"),
    ({"bbox": [4, 4, 10**400, 8]}, "no numbers"),
    ({"bbox": [4, 4, 16]}, "bbox of 3 numbers"),
    ({"bbox": "4 4 16 8"}, "expected a list of numbers"),
    ({"bbox": None}, "neither a bbox nor a segmentation"),
    ({"image_id": 9}, "belongs to the image 9"),
]

# What is wrong with an outline alone, which detection does not need.
WRONG_OUTLINES: list[tuple[dict[str, Any], str]] = [
    ({"segmentation": [[4, 4, 20, 4]]}, "polygon with 2 points"),
    ({"segmentation": [[4, 4, 20, 4, 20]]}, "x and y in turn"),
    ({"segmentation": [[4, 4, 20, 4, 50, 12]]}, "polygon outside the image"),
    ({"segmentation": [[4, 4, 20, 4, 12, 4]]}, "polygon without area"),
    ({"segmentation": [[4, 4, 20, 4, 12, float("inf")]]}, "no numbers"),
    ({"segmentation": {"size": [40, 30], "counts": [600, 600]}}, "run lengths for 30 x 40, the image is 40 x 30"),
    ({"segmentation": {"size": [30, 40], "counts": [1, 2]}}, "make 3 pixels"),
    ({"segmentation": {"size": [30, 40], "counts": "\x01"}}, "no part of compressed"),
    ({"segmentation": {"size": [30, 40], "counts": [1200]}}, "empty mask"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    write(tmp_path, content(2, [annotation(55, 1), annotation(77, 1, **wrong), annotation(3, 2)]))
    line = next(
        number
        for number, text in enumerate((tmp_path / "labels.json").read_text().splitlines(), 1)
        if '"id": 77' in text
    )
    with pytest.raises(DataError) as error:
        find_data(tmp_path)
    assert message in str(error.value)
    assert f"labels.json', line {line}, annotations[1] (id 77)" in str(error.value)
    data = find_data(tmp_path, on_bad_image="skip", val_fraction=0)
    left = 2 if "image_id" in wrong else 1
    assert len(data.splits["all"]) == left
    assert message in data.bad_images[0][1]


@pytest.mark.parametrize(("wrong", "message"), WRONG_OUTLINES)
def test_a_bad_outline_beside_a_good_box(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    outlined = {"segmentation": [SQUARE]}
    write(
        tmp_path, content(2, [annotation(55, 1, **outlined), annotation(77, 1, **wrong), annotation(3, 2, **outlined)])
    )
    data = find_data(tmp_path, task="detection", val_fraction=0)
    assert data.splits["all"].boxes.tolist() == [[4, 4, 20, 12]] * 3
    assert "1 outline cannot be used and is left out: the box is" in data.describe()
    with pytest.raises(DataError) as error:
        find_data(tmp_path, task="instance_segmentation")
    assert message in str(error.value)
    assert "annotations[1] (id 77)" in str(error.value)


def test_up_to_a_pixel_outside_is_cut(tmp_path: Path) -> None:
    ring = [-0.5, 0, 40.6, 0, 40.6, 30.5]
    objects = (
        one(tmp_path, annotation(1, bbox=[-0.9, 4, 41.5, 8]), annotation(2, segmentation=[ring]))
        .splits["all"]
        .objects(0)
    )
    assert objects.boxes[0].tolist() == [0, 4, 40, 12]
    assert objects.outlines[1][0].ravel().tolist() == [0, 0, 40, 0, 40, 30]


def test_a_missing_image(tmp_path: Path) -> None:
    write(tmp_path, content(3))
    (tmp_path / "images" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"labels\.json', images\[1\]: there is no image '2\.jpg'"):
        find_data(tmp_path)
    data = find_data(tmp_path, on_bad_image="skip", val_fraction=0)
    assert [str(name) for name in data.splits["all"].names] == ["images/1.jpg", "images/3.jpg"]
    assert data.bad_images[0][0] == "2.jpg"


def save_turned(path: Path, size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    invent_image(0, 0, size).save(path, exif=exif)


def test_labels_of_an_image_on_its_side(tmp_path: Path) -> None:
    write(tmp_path, content(2))
    save_turned(tmp_path / "images" / "1.jpg", (40, 30), 6)  # the json says 40 x 30, upright it is 30 x 40
    with pytest.raises(DataError, match=r"1\.jpg.*labels for 40 x 30, but EXIF turns the image to 30 x 40"):
        find_data(tmp_path)
    save_turned(tmp_path / "images" / "1.jpg", (30, 40), 6)  # and now it fits
    data = find_data(tmp_path, val_fraction=0)
    assert data.splits["all"].objects(0).size == (30, 40)
    assert data.splits["all"].open(0).size == (40, 30)
    assert "1 image is turned by EXIF" in data.describe()


def test_another_size(tmp_path: Path) -> None:
    write(tmp_path, content(2))
    invent_image(0, 0, (20, 30)).save(tmp_path / "images" / "1.jpg")
    with pytest.raises(DataError, match="labels for 40 x 30, but the image is 20 x 30"):
        find_data(tmp_path)


@pytest.mark.parametrize("form", [str, float, lambda side: f" {side}.0 "])
def test_width_and_height_as_text_are_compared_too(tmp_path: Path, form: Callable[[int], object]) -> None:
    given = content(2)
    for image in given["images"]:
        image |= {"width": form(40), "height": form(30)}
    write(tmp_path, given)
    assert len(find_data(tmp_path, val_fraction=0).splits["all"]) == 2
    save_turned(tmp_path / "images" / "1.jpg", (40, 30), 6)
    with pytest.raises(DataError, match=r"1\.jpg.*labels for 40 x 30, but EXIF turns the image to 30 x 40"):
        find_data(tmp_path)


@pytest.mark.parametrize("wrong", ["wide", [40], True, 40.5, float("inf"), 10**400])
def test_a_width_that_is_no_number_is_an_error(tmp_path: Path, wrong: object) -> None:
    given = content(2)
    given["images"][1]["width"] = wrong
    with pytest.raises(DataError, match=r"images\[1\] .*: width is .*, expected a number of pixels"):
        find_data(write(tmp_path, given))


def test_a_byte_order_mark_hides_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, content(2)) / "labels.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert kinds_of(tmp_path) == ("coco",)
    assert len(find_data(tmp_path, val_fraction=0).splits["all"]) == 2


def test_a_cut_json_beside_a_whole_one_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path, content(3), "train.json", "train")
    path = write(tmp_path, content(2), "val.json", "val") / "val.json"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"val\.json' is no JSON in line"):
        find_data(tmp_path)
    data = find_data(tmp_path, on_bad_image="skip", val_fraction=0)
    assert "val.json' is no JSON" in data.describe()
    (tmp_path / "notes.json").write_text('{"of": "another kind"}')
    path.unlink()
    assert len(find_data(tmp_path, val_fraction=0).splits["train"]) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"version": "5", "layers": []}',
            "no list images and no list annotations .* keys are 'version', 'layers'",
        ),
        ('{"images": [], "annotations": []}', "no list categories; its keys are"),
        ("{}", "it is empty"),
        ("[1, 2]", "it holds list"),
        ('{"images": [{"id"', "is no JSON in line 1"),
    ],
)
def test_a_json_of_another_kind_is_named_where_labels_are_missing(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, content(2))
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match=rf"no labels of a known kind.*\n.*labels\.json.*{words}"):
        find_data(tmp_path, task="detection")
    with pytest.raises(DataError, match=rf"labels\.json.*{words}"):
        find_data(tmp_path / "labels.json")


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"].append({"id": 9, "name": "cat"}), "'cat' stands there twice"),
        (lambda c: c["categories"].append({"id": 3, "name": "cow"}), "same id"),
        (lambda c: c["categories"].append({"name": "cow"}), r"categories\[2\]"),
        (lambda c: c["images"].append(c["images"][0]), "id 1 stands there twice"),
        (lambda c: c["images"].append({"file_name": "x.jpg"}), r"images\[2\]"),
        (lambda c: c["annotations"].clear(), "no object in any"),
        (lambda c: c["annotations"].append(5), r"annotations\[2\]"),
    ],
)
def test_wrong_files(tmp_path: Path, change: Change, message: str) -> None:
    given = content(2, categories=list(CATEGORIES))
    write(tmp_path, given)
    change(given)
    (tmp_path / "labels.json").write_text(json.dumps(given))
    with pytest.raises(DataError, match=message):
        find_data(tmp_path)


def test_a_json_that_is_none(tmp_path: Path) -> None:
    write(tmp_path, content(2))
    text = (tmp_path / "labels.json").read_text()
    (tmp_path / "labels.json").write_text(text + "\n}")
    with pytest.raises(DataError, match=r"labels\.json' is no JSON in line \d+"):
        find_data(tmp_path)
    (tmp_path / "labels.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested"):
        find_data(tmp_path / "labels.json")


def test_instance_segmentation_wants_outlines(tmp_path: Path) -> None:
    write(
        tmp_path, content(2, [annotation(1, 1, segmentation=[SQUARE]), annotation(2, 2), annotation(3, 1, iscrowd=1)])
    )
    assert len(find_data(tmp_path, task="detection", val_fraction=0).splits["all"]) == 2
    with pytest.raises(DataError, match=r"annotations\[1\] \(id 2\): a box without an outline") as error:
        find_data(tmp_path, task="instance_segmentation")
    assert "--task" not in str(error.value)  # evaluate has no such option
    data = find_data(tmp_path, task="instance_segmentation", val_fraction=0, on_bad_image="skip")
    assert data.splits["all"].has_outlines


def test_boxes_alone_are_refused_at_once_for_instance_segmentation(tmp_path: Path) -> None:
    write(tmp_path, content(2))
    for source in (tmp_path, tmp_path / "labels.json"):
        with pytest.raises(DataError, match="no outline anywhere"):
            find_data(source, task="instance_segmentation", on_bad_image="skip")
    with pytest.raises(DataError, match="semantic_segmentation cannot learn from 'coco'"):
        find_data(tmp_path / "labels.json", task="semantic_segmentation")


def test_masks_of_the_same_names_are_not_taken_for_the_images(tmp_path: Path) -> None:
    write(tmp_path, content(2), "train.json", "images/train")
    shutil.copytree(tmp_path / "images", tmp_path / "masks")
    data = find_data(tmp_path, task="detection", val_fraction=0)
    assert data.splits["train"].names.tolist() == ["images/train/1.jpg", "images/train/2.jpg"]


def test_images_of_a_folder_that_is_missing_are_not_taken_for_others_of_their_names(tmp_path: Path) -> None:
    given = content(1, [annotation(1), annotation(2, 2, category_id=7)])
    write(tmp_path, given, images="a")
    given["images"] = [{"id": 1, "file_name": "a/1.jpg"}, {"id": 2, "file_name": "b/1.jpg"}]
    (tmp_path / "labels.json").write_text(json.dumps(given))
    with pytest.raises(DataError, match=r"'b/1\.jpg' and 'a/1\.jpg' would both be the image 'a/1\.jpg'"):
        find_data(tmp_path, val_fraction=0)


def test_an_image_with_two_ids_is_one_image_with_the_objects_of_both(tmp_path: Path) -> None:
    given = content(1, [annotation(1), annotation(2, 2, category_id=7)])
    write(tmp_path, given)
    given["images"].append({"id": 2, "file_name": "1.jpg", "width": 40, "height": 30})
    (tmp_path / "labels.json").write_text(json.dumps(given))
    data = find_data(tmp_path, val_fraction=0)
    assert [data.splits["all"].objects(row).labels.tolist() for row in range(len(data.splits["all"]))] == [[0, 1]]
    assert "1 image stands in labels.json again, under another id" in data.describe()
