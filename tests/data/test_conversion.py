"""`convert`: there and back again, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import invent_image
from dualtoken.data import ImageData, runs
from dualtoken.data.conversion import convert
from dualtoken.data.finding import find_data
from dualtoken.data.samples import IGNORE
from dualtoken.errors import ConfigError, DataError, OutputError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, numpy 2

NAMES = ("traffic light", "cat & dog", "Löwe")


def write_coco(root: Path, outlines: bool = True, crowd: bool = True) -> Path:
    """Two splits, names that occur in both, odd sizes, one image without objects."""
    rng = np.random.default_rng(3)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", 5), ("val", 3)):
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(count):
            width, height = 37 + 11 * number, 53 + 7 * number
            invent_image(number, len(split), (width, height)).save(root / split / f"{number}.jpg")
            images.append({"id": 10 * number, "file_name": f"{number}.jpg", "width": width, "height": height})
            for _ in range(0 if number == 2 else 4):
                corners = np.sort(rng.random((2, 2)) * 0.9 + [[0], [0.1]], axis=0) * [width, height]
                (left, top), (right, bottom) = corners.tolist()
                ring = [left, top, right, (top + bottom) / 2, (left + right) / 2, bottom]
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": 10 * number, "category_id": int(rng.choice([4, 9, 17])),
                        "bbox": [left, top, right - left, bottom - top], "area": 5.5, "iscrowd": 0,
                        **({"segmentation": [ring]} if outlines else {}),
                    }
                )  # fmt: skip
        if crowd:
            mask = np.zeros((53, 37), bool)
            mask[10:30, 5:25] = True
            shape = {"size": [53, 37], "counts": runs.lengths_of(mask)}
            one = {"id": 99, "image_id": 0, "category_id": 4, "bbox": [5, 10, 20, 20], "area": 400, "iscrowd": 1}
            annotations.append({**one, "segmentation": shape})
        categories = [{"id": number, "name": name} for number, name in zip((4, 9, 17), NAMES, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def pixels(path: str) -> bytes:
    return Path(path).read_bytes()


def assert_same(first: ImageData, second: ImageData, *, outlines: bool, areas: bool = False) -> None:
    assert set(second.classes) == set(first.classes)
    assert set(second.splits) == set(first.splits)
    for split, samples in first.splits.items():
        other = second.splits[split]
        order = np.argsort([Path(str(name)).name for name in samples.names], kind="stable")
        assert len(samples) == len(other)
        by_content = {pixels(other.path(index)): index for index in range(len(other))}
        for index in order.tolist():
            one, two = samples.objects(index), other.objects(by_content[pixels(samples.path(index))])
            assert one.size == two.size
            np.testing.assert_allclose(two.boxes, one.boxes, atol=1e-3)
            assert [second.classes[label] for label in two.labels] == [first.classes[label] for label in one.labels]
            assert (one.crowd == two.crowd).all()
            assert one.runs == two.runs
            if areas:
                assert (one.areas == two.areas).all()
            assert [len(rings) for rings in two.outlines] == [len(rings) if outlines else 0 for rings in one.outlines]
            for rings, same in zip(one.outlines, two.outlines, strict=True):
                for ring, other_ring in zip(rings, same, strict=False):
                    np.testing.assert_allclose(other_ring, ring, atol=1e-3)


def test_coco_to_coco(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "a")
    done = convert(source, tmp_path / "b", "coco")
    assert (done.images, done.objects) == (8, 26)
    assert_same(find_data(source), find_data(tmp_path / "b"), outlines=True, areas=True)


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_coco_to_yolo_and_back(tmp_path: Path, task: str) -> None:
    source = write_coco(tmp_path / "a", crowd=False)
    convert(source, tmp_path / "b", "yolo", task=task)
    middle = find_data(tmp_path / "b", task=task)
    assert middle.layout == "YOLO txt, data.yaml"
    assert middle.classes == NAMES
    convert(tmp_path / "b", tmp_path / "c", "coco", task=task)
    assert_same(find_data(source), find_data(tmp_path / "c"), outlines=task == "instance_segmentation")


def test_coco_to_voc_and_back(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "a", outlines=False, crowd=False)
    convert(source, tmp_path / "b", "voc")
    assert find_data(tmp_path / "b").layout == "VOC xml"
    convert(tmp_path / "b", tmp_path / "c", "coco")
    assert_same(find_data(source), find_data(tmp_path / "c"), outlines=False)


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "a")
    notes = "\n".join(convert(source, tmp_path / "b", "yolo").notes)
    assert "2 crowds left out" in notes
    notes = "\n".join(convert(source, tmp_path / "c", "voc").notes)
    assert "24 outlines became boxes" in notes
    done = convert(source, tmp_path / "d", "masks")
    assert "2 crowds became 255" in "\n".join(done.notes)
    assert "rectangle" not in "\n".join(done.notes)
    assert done.summary() == "8 images, 26 objects"


def test_boxes_that_become_masks_are_noted_as_rectangles(tmp_path: Path) -> None:
    notes = convert(write_coco(tmp_path / "a", outlines=False), tmp_path / "b", "masks").notes
    assert "24 boxes without outlines became rectangles: no shapes to learn" in notes


def test_rings_are_joined_for_yolo(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.mkdir()
    invent_image(0, 0, (40, 30)).save(source / "1.jpg")
    rings = [[2, 2, 10, 2, 10, 10, 2, 10], [36, 26, 20, 26, 20, 12, 36, 12]]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": rings}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (source / "all.json").write_text(json.dumps(content))
    convert(source, tmp_path / "b", "yolo")
    one, two = (find_data(root, val_fraction=0).splits for root in (source, tmp_path / "b"))
    first, second = one["all"].objects(0), two["train"].objects(0)
    assert first.areas[0] == 64 + 224
    np.testing.assert_allclose(second.areas, first.areas, rtol=1e-5)  # the joint has no width
    assert second.outlines[0][0][2:4].round(3).tolist() == [[10, 10], [20, 12]]  # where they are nearest
    assert (first.masks() != second.masks()).mean() < 0.02


def test_objects_to_masks(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "a")
    convert(source, tmp_path / "b", "masks")
    data = find_data(tmp_path / "b")
    assert data.classes == ("background", *NAMES)
    first = find_data(source).splits["train"].objects(0)
    mask = data.splits["train"].open_mask(0)
    masks, last = first.masks(), int(np.argmin(first.masks().sum((1, 2))))
    assert set(np.unique(mask[masks[last]])) == {first.labels[last] + 1}
    crowd = masks[first.crowd].any(0) & ~masks[~first.crowd].any(0)
    assert (mask[crowd] == IGNORE).all()
    assert (mask[~masks.any(0)] == 0).all()


def test_masks_to_masks(tmp_path: Path) -> None:
    source = tmp_path / "a"
    for folder in ("images", "masks"):
        (source / folder).mkdir(parents=True)
    for number in range(2):
        invent_image(0, number, (8, 6)).save(source / "images" / f"{number}.jpg")
        Image.fromarray(np.array([[3, 9, 255, 3]] * 6, np.uint8).repeat(2, 1)).save(source / "masks" / f"{number}.png")
    (source / "classes.txt").write_text("3, sky\n9, car\n")
    assert convert(source, tmp_path / "b", "masks").summary() == "2 images, 2 masks"
    one, two = (find_data(root, val_fraction=0) for root in (source, tmp_path / "b"))
    assert two.classes == one.classes == ("sky", "car")
    assert (two.splits["all"].open_mask(1) == one.splits["all"].open_mask(1)).all()
    with pytest.raises(DataError, match="do not tell one object from the next"):
        convert(source, tmp_path / "c", "coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_nothing_half_written(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(OutputError, match="is not empty"):
        convert(source, tmp_path / "full", "yolo")
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty", "yolo")
    with pytest.raises(ConfigError, match="Did you mean 'yolo'"):
        convert(source, tmp_path / "new", "yollo")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        convert(source, tmp_path / "file" / "new", "yolo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty", "file", "full"]
