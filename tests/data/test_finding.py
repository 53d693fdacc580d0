"""What a data set is for: the task that its labels decide, and the labels that a task reads."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import invent_image, write_class_folders
from dualtoken.data import Samples
from dualtoken.data.finding import find_data, plan_data
from dualtoken.data.samples import MaskSamples, ObjectSamples
from dualtoken.errors import DataError

COUNT = 8


def write_images(root: Path, count: int = COUNT) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        invent_image(0, number, (20, 20)).save(root / "images" / f"{number}.png")
    return root


def write_coco(root: Path) -> Path:
    content = {
        "images": [{"id": number, "file_name": f"images/{number}.png"} for number in range(COUNT)],
        "annotations": [{"id": n, "image_id": n, "category_id": n % 2, "bbox": [5, 5, 10, 10]} for n in range(COUNT)],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    write_images(root)
    (root / "instances.json").write_text(json.dumps(content))
    return root


def write_yolo(root: Path) -> Path:
    write_images(root)
    (root / "labels").mkdir()
    for number in range(COUNT):
        (root / "labels" / f"{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.5 0.5")
    (root / "data.yaml").write_text("names: [cat, dog]\n")
    return root


def write_masks(root: Path) -> Path:
    write_images(root)
    (root / "masks").mkdir()
    for number in range(COUNT):
        mask = np.tile(np.arange(20, dtype=np.uint8) // 10, (20, 1))
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def write_classes(root: Path) -> Path:
    return write_class_folders(root, ("cat", "dog"), per_class=COUNT // 2)


def zipped(root: Path) -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return path


TASK_OF = {
    "classification": write_classes,
    "detection": write_coco,
    "semantic_segmentation": write_masks,
}


# ---------------------------------------------------------------- the task


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize(("task", "write"), [*TASK_OF.items(), ("detection", write_yolo)])
def test_the_labels_decide_the_task(tmp_path, task, write, form):
    root = write(tmp_path / "data")
    assert plan_data(zipped(root) if form == "zip" else root).task == task


def test_boxes_beside_masks_are_for_detection(tmp_path):
    root = write_masks(write_coco(tmp_path))
    assert plan_data(root).task == "detection"
    assert plan_data(root, labels="masks").task == "semantic_segmentation"
    assert plan_data(root, labels="coco").task == "detection"
    assert plan_data(write_classes(root / "classes"), labels="folders").task == "classification"


def test_single_files(tmp_path):
    write_yolo(write_coco(tmp_path))
    assert plan_data(tmp_path / "instances.json").task == "detection"
    assert plan_data(tmp_path / "data.yaml").task == "detection"
    (tmp_path / "table.csv").write_text("path,label\nimages/0.png,cat\n")
    assert plan_data(tmp_path / "table.csv").task == "classification"


@pytest.mark.parametrize(("task", "write"), TASK_OF.items())
def test_a_given_task_is_the_answer(tmp_path, task, write):
    assert plan_data(write(tmp_path), task=task).task == task


@pytest.mark.parametrize("labels", ["coco", "yolo", "voc", "masks"])
def test_classification_does_not_learn_from_boxes_or_masks(tmp_path, labels):
    with pytest.raises(DataError, match=f"classification cannot learn from '{labels}'"):
        plan_data(write_masks(write_coco(tmp_path)), task="classification", labels=labels)


def test_a_source_that_is_not_there(tmp_path):
    write_coco(tmp_path / "data")
    with pytest.raises(DataError, match="Did you mean"):
        plan_data(tmp_path / "dat")
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"broken\.zip"):
        plan_data(tmp_path / "broken.zip")


def test_no_image_is_opened(tmp_path):
    root = write_coco(tmp_path)
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image")
    assert plan_data(root).task == "detection"


# ---------------------------------------------------------------- no classes


def write_cut_coco(root: Path) -> Path:
    path = write_coco(root) / "instances.json"
    path.write_text(path.read_text()[:200])
    return root


def in_folders(root: Path) -> Path:
    (root / "annotations").mkdir()
    (root / "instances.json").rename(root / "annotations" / "instances.json")
    return root


def in_years(root: Path) -> Path:
    for split in ("train2017", "val2017"):
        write_images(root / split, 2)
    shutil.rmtree(root / "images")
    return in_folders(root)


@pytest.mark.parametrize("arrange", [lambda root: root, in_folders, in_years, zipped])
def test_a_json_that_should_have_been_coco_is_named(tmp_path, arrange):
    source = arrange(write_cut_coco(tmp_path / "data"))
    with pytest.raises(DataError, match=r"instances\.json' is no JSON in line 1: .*\nSo there are no boxes"):
        find_data(source, progress=False)


def test_a_json_beside_class_folders_is_no_matter(tmp_path):
    root = write_classes(tmp_path)
    (root / "metadata.json").write_text("{")
    assert find_data(root, progress=False).classes == ("cat", "dog")


def test_coco_without_its_images(tmp_path):
    shutil.rmtree(write_coco(tmp_path) / "images")
    with pytest.raises(DataError, match=r"instances\.json' is a COCO json, but its images are not there"):
        find_data(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("write", "kind", "task"),
    [
        (write_coco, "coco", "detection"),
        (write_yolo, "yolo", "detection"),
        (write_masks, "masks", "semantic_segmentation"),
    ],
)
def test_classification_of_other_labels_says_what_they_are_for(tmp_path, write, kind, task):
    with pytest.raises(DataError, match=f"has labels of the kind {kind}, and no images in class folders") as error:
        find_data(write(tmp_path), task="classification", progress=False)
    assert f"--task {task} --output RUN" in error.value.hint


@pytest.mark.parametrize("names", [("train2017", "val2017"), ("train", "valid_2")])
def test_splits_with_a_year_are_no_classes(tmp_path, names):
    with pytest.raises(DataError, match="without class folders"):
        find_data(write_class_folders(tmp_path, names), task="classification", progress=False)


# ---------------------------------------------------------------- the images


@pytest.mark.parametrize(
    ("task", "write", "kind"),
    [
        ("classification", write_classes, Samples),
        ("detection", write_coco, ObjectSamples),
        ("detection", write_yolo, ObjectSamples),
        ("semantic_segmentation", write_masks, MaskSamples),
    ],
)
def test_a_task_gets_the_samples_that_it_learns_from(tmp_path, task, write, kind):
    data = find_data(write(tmp_path), task=task, seed=3, val_fraction=0.25, progress=False)
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": COUNT - 2, "val": 2}
    assert all(type(samples) is kind for samples in data.splits.values())
    assert data.classes == ("cat", "dog")


def test_the_seed_reaches_the_draw(tmp_path):
    root = write_coco(tmp_path)

    def val(seed: int) -> list[str]:
        return find_data(root, task="detection", seed=seed, val_fraction=0.25).splits["val"].names.tolist()

    assert val(1) == val(1)
    assert len({tuple(val(seed)) for seed in range(6)}) > 1


def test_the_labels_can_be_chosen(tmp_path):
    root = write_masks(write_yolo(write_coco(tmp_path)))
    assert find_data(root, task="detection").layout.startswith("COCO")
    assert find_data(root, task="detection", labels="yolo").layout.startswith("YOLO")
    assert find_data(root, task="semantic_segmentation").layout.startswith("masks")


@pytest.mark.parametrize(
    ("task", "write", "words"),
    [
        ("semantic_segmentation", write_coco, "takes masks"),
        ("detection", write_masks, "detection takes coco, yolo, voc"),
        ("instance_segmentation", write_coco, "outline"),
        ("detection", write_classes, "no labels of a known kind"),
    ],
)
def test_labels_that_a_task_cannot_learn_from(tmp_path, task, write, words):
    with pytest.raises(DataError, match=words):
        find_data(write(tmp_path), task=task, progress=False)


# ---------------------------------------------------------------- a few of them


@pytest.mark.parametrize(("task", "write"), TASK_OF.items())
def test_most_keeps_so_many_of_each_split(tmp_path, task, write):
    root = write(tmp_path)
    whole = find_data(root, task=task, val_fraction=0.25, seed=5, progress=False)
    some = find_data(root, task=task, val_fraction=0.25, seed=5, most=3, progress=False)
    assert {name: len(samples) for name, samples in some.splits.items()} == {"train": 3, "val": 2}
    for name, samples in some.splits.items():
        kept, before = samples.names.tolist(), whole.splits[name].names.tolist()
        assert kept == [path for path in before if path in set(kept)]  # in their order
    assert "3 images of each split are used, drawn with seed 5" in some.describe()
    assert whole.fingerprint == some.fingerprint  # still the same data set
    assert "drawn with seed 5" not in find_data(root, task=task, val_fraction=0, most=None).describe()


def test_most_is_drawn_by_the_seed(tmp_path):
    root = write_coco(tmp_path)

    def kept(seed: int) -> tuple[str, ...]:
        return tuple(find_data(root, task="detection", val_fraction=0, most=3, seed=seed).splits["all"].names.tolist())

    assert kept(1) == kept(1)
    assert len({kept(seed) for seed in range(6)}) > 1


def test_objects_stay_with_their_images(tmp_path):
    data = find_data(write_coco(tmp_path), task="detection", val_fraction=0, most=3)
    samples = data.splits["all"]
    for row in range(3):
        number = int(Path(samples.path(row)).stem)
        assert samples.objects(row).labels.tolist() == [number % 2]


def test_one_is_not_many(tmp_path):
    data = find_data(write_coco(tmp_path), task="detection", most=1, val_fraction=0.25)
    assert "train       1 image, 1 object, " in data.describe()
    assert "1 image of each split is used" in data.describe()


def test_a_problem_is_shown_without_its_path_twice(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "labels" / "3.txt").write_text("7 0.5 0.5 0.1 0.1")
    (tmp_path / "labels" / "stray.txt").write_text("0 0.5 0.5 0.1 0.1")
    text = find_data(tmp_path, task="detection", on_bad_image="skip").describe()
    assert "Left out    2 images or labels that cannot be used" in text
    assert text.count("stray.txt") == 1
    assert "images/3.png: " in text
