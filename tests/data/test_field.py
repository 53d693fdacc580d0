"""What people really bring: kinds of data sets that are easily read wrongly without a word."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import invent_image
from dualtoken.data import ObjectSamples, convert, find_data, plan_data
from dualtoken.data.dataset import write_left_out
from dualtoken.data.samples import IGNORE
from dualtoken.errors import DataError

WIDTH, HEIGHT = 40, 30


def image(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    invent_image(0, number, (WIDTH, HEIGHT)).save(path)
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def mask(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(np.array(values, np.uint8), (HEIGHT, WIDTH, *np.shape(values)[2:]))).save(path)


def halves(low: int = 0, high: int = 1) -> np.ndarray:
    return np.repeat(np.array([low, high], np.uint8), WIDTH // 2)[None].repeat(HEIGHT, 0)


def coco(root: Path, *annotations: dict[str, Any], images: int = 4) -> Path:
    listed = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(images)]
    for n in range(images):
        image(root / "images" / f"{n}.png", n)
    given = [{"id": n, "image_id": n % images, "category_id": 1, "bbox": [4, 5, 10, 12]} | own
             for n, own in enumerate(annotations)]  # fmt: skip
    content = {
        "images": listed,
        "annotations": given,
        "categories": [{"id": 1, "name": "hen"}, {"id": 2, "name": "cat"}],
    }
    text(root / "labels.json", json.dumps(content, indent=1))
    return root


def yolo(root: Path, *lines: str, names: str = "names: [hen, cat]\n") -> Path:
    for number, line in enumerate(lines):
        image(root / "images" / f"{number}.png", number)
        text(root / "labels" / f"{number}.txt", line + "\n")
    text(root / "data.yaml", names)
    return root


def everything(source: Path, **options: Any) -> Any:
    return find_data(source, val_fraction=0, progress=False, **options)


# ---------------------------------------------------------------- one bad label costs one label


def test_a_bad_label_alone_is_left_out_and_listed(tmp_path: Path) -> None:
    root = coco(tmp_path, {}, {}, {}, {}, {"bbox": [4, 5, 6, 0]}, {"bbox": [30, 5, 20, 5]}, {"category_id": 9})
    with pytest.raises(DataError, match=r"id 4\): a box without area"):
        everything(root)
    data = everything(root, on_bad_label="drop")
    assert len(data.splits["all"]) == 4
    assert len(data.splits["all"].labels) == 4
    assert [label.kind for label in data.bad_labels] == [
        "box without area", "box outside the image", "class that is not there",
    ]  # fmt: skip
    assert all("labels.json', line" in label.message for label in data.bad_labels)
    assert "Left out    3 labels: 1 x box without area, 1 x box outside the image" in data.describe()
    assert len(everything(root, on_bad_image="skip").splits["all"]) == 1  # whole images, where nothing else is said


def test_boxes_over_the_edge_are_cut_on_demand(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.95 0.5 0.2 0.5", "0 0.5 0.5 0.2 0.5", "1 0.5 0.5 nan 0.5")
    with pytest.raises(DataError, match=r"0\.txt', line 1: a box outside the image"):
        everything(root)
    data = everything(root, on_bad_label="clip")
    assert data.splits["all"].boxes[0].tolist() == [34, 7.5, 40, 22.5]
    assert "1 object is cut at the edge" in data.describe()
    assert [label.kind for label in data.bad_labels] == ["box of no numbers"]


def test_what_stands_there_twice_counts_once(tmp_path: Path) -> None:
    data = everything(coco(tmp_path, {}, {"image_id": 0}, {"image_id": 0, "category_id": 2}))
    assert data.splits["all"].objects(0).labels.tolist() == [0, 1]
    assert "1 object is there twice" in data.describe()


def test_a_drawn_val_without_any_label_is_drawn_again(tmp_path: Path) -> None:
    root = coco(tmp_path, {"image_id": 3}, {"image_id": 5, "category_id": 2}, images=12)
    for seed in range(5):
        splits = find_data(root, seed=seed, progress=False).splits
        assert all(len(samples.labels) for samples in splits.values())


# ---------------------------------------------------------------- numbers by value


def test_ids_and_numbers_may_be_text(tmp_path: Path) -> None:
    root = coco(tmp_path, {"image_id": "2", "category_id": "2", "bbox": ["4", "5", "10.0", "12"], "iscrowd": "0"}, {})
    objects = everything(root).splits["all"].objects(2)
    assert (objects.labels.tolist(), objects.boxes.tolist()) == ([1], [[4, 5, 14, 17]])
    assert not objects.crowd.any()
    content = json.loads((root / "labels.json").read_text())
    for one in content["images"]:
        one["id"] = f"img-{one['id']}"
    for one in content["annotations"]:
        one["image_id"] = f"img-{one['image_id']}"
    text(root / "labels.json", json.dumps(content))
    assert len(everything(root).splits["all"].labels) == 2


@pytest.mark.parametrize("named", [True, False])
def test_class_numbers_may_be_floats(tmp_path: Path, named: bool) -> None:
    root = yolo(tmp_path, "1.0e+00 5.0e-01 5.0e-01 2.5e-01 5.0e-01", "0.0 0.5 0.5 0.25 0.5")
    if not named:
        (root / "data.yaml").unlink()
    data = everything(root)
    assert data.classes == (("hen", "cat") if named else ("class_0", "class_1"))
    assert data.splits["all"].boxes[0].tolist() == [15, 7.5, 25, 22.5]


# ---------------------------------------------------------------- keypoints


@pytest.mark.parametrize("shape", ["kpt_shape: [3, 2]\n", ""])
def test_of_keypoints_the_boxes_are_read(tmp_path: Path, shape: str) -> None:
    lines = [f"0 0.5 0.5 0.25 0.5 0.45 0.35 0.55 0.{n} 0.5 0.6" for n in (4, 5, 6)]
    data = everything(yolo(tmp_path, *lines, names=f"names: [hen]\n{shape}"))
    assert data.splits["all"].boxes.tolist() == [[15, 7.5, 25, 22.5]] * 3
    assert not len(data.splits["all"].points)
    assert "keypoints (6 numbers behind each box) are not used" in data.describe()


def test_keypoints_with_visibility(tmp_path: Path) -> None:
    data = everything(yolo(tmp_path, *["0 0.5 0.5 0.25 0.5 0.1 0.9 2 0.5 0.5 0"] * 2))
    assert data.splits["all"].boxes[0].tolist() == [15, 7.5, 25, 22.5]


def test_outlines_of_one_length_stay_outlines(tmp_path: Path) -> None:
    data = everything(yolo(tmp_path, *["0 0.1 0.1 0.6 0.1 0.6 0.6 0.3 0.9 0.1 0.6"] * 2))
    assert data.splits["all"].has_outlines


# ---------------------------------------------------------------- splits that tools ship


def test_lists_of_images_beside_obj_data(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("valid", 2)):
        for number in range(count):
            image(tmp_path / f"obj_{split}_data" / f"{split}{number}.png", number)
            text(tmp_path / f"obj_{split}_data" / f"{split}{number}.txt", f"{number % 2} 0.5 0.5 0.25 0.5\n")
        listed = "".join(f"data/obj_{split}_data/{split}{number}.png\n" for number in range(count))
        text(tmp_path / f"{split}.txt", listed)
    text(tmp_path / "obj.names", "plane\nship\n")
    text(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n")
    data = find_data(tmp_path, progress=False)
    assert data.classes == ("plane", "ship")
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 5, "val": 2}
    (tmp_path / "obj.data").unlink()
    assert {split: len(samples) for split, samples in find_data(tmp_path, progress=False).splits.items()} == {
        "train": 5, "val": 2,
    }  # fmt: skip


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("images", "masks", "end"),
    [
        ("img_dir/{split}", "ann_dir/{split}", ""),
        ("{split}", "{split}annot", ""),
        ("{split}_images", "{split}_masks", ""),
        ("{split}", "{split}", "_mask"),
        ("{split}/images", "{split}/ground_truth", ""),
        ("images/{split}", "masks/{split}", "_segmentation"),
        ("images/{split}", "labels/{split}", "_gt"),
    ],
)
def test_layouts_of_masks(tmp_path: Path, images: str, masks: str, end: str) -> None:
    for split in ("train", "val"):
        for number in range(3):
            image(tmp_path / images.format(split=split) / f"{number}.png", number)
            mask(tmp_path / masks.format(split=split) / f"{number}{end}.png", halves())
    data = find_data(tmp_path, progress=False)
    assert data.task == "semantic_segmentation"
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 3, "val": 3}
    assert all("mask" not in name and "ann" not in name for name in data.splits["train"].names.tolist())


def masked(root: Path, values: Any, count: int = 3) -> Path:
    for number in range(count):
        image(root / "images" / f"{number}.png", number)
        mask(root / "masks" / f"{number}.png", values)
    return root


@pytest.mark.parametrize("names", ["", "background\nlesion\n"])
def test_soft_edges_make_no_classes(tmp_path: Path, names: str) -> None:
    values = halves(0, 255)
    values[5, 18:21] = 64, 128, 191
    masked(tmp_path, values)
    if names:
        text(tmp_path / "classes.txt", names)
    with pytest.raises(DataError, match="look like soft edges"):
        everything(tmp_path)


def test_grey_levels_are_all_classes(tmp_path: Path) -> None:
    values = halves(0, 255)
    values[:10] = 128
    data = everything(masked(tmp_path, values))
    assert data.classes == ("class_0", "class_128", "class_255")
    assert "look like grey levels" in data.describe()


def test_pixels_without_a_class_are_counted_for_each_split(tmp_path: Path) -> None:
    values = halves(0, 1)
    values[:3] = IGNORE
    text = find_data(masked(tmp_path, values), progress=False).describe()
    assert "255 has no class and is ignored: 10.0% of the pixels" in text
    assert "train: 10.0% of the pixels carry no class" in text
    assert "val: 10.0% of the pixels carry no class" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nCat:48,112,32::\nbackground:0,0,0::\n"),
        ("classes.json", json.dumps([{"name": "Cat", "color": "#307020"}, {"name": "background", "color": [0, 0, 0]}])),
        ("classes.json", json.dumps({"Cat": [48, 112, 32], "background": [0, 0, 0]})),
    ],
)
def test_colour_tables_that_tools_ship(tmp_path: Path, name: str, content: str) -> None:
    values = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    values[:10] = 48, 112, 32
    text(masked(tmp_path, values) / name, content)
    data = everything(tmp_path)
    assert data.classes == ("background", "Cat")
    assert data.splits["all"].open_mask(0)[:, 0].tolist() == [1] * 10 + [0] * 20


# ---------------------------------------------------------------- formats that people have


def labelme(root: Path) -> None:
    for number in range(3):
        image(root / f"{number}.png", number)
        shapes = [
            {"label": "cat", "points": [[5, 6], [20, 6], [20, 18]], "shape_type": "polygon"},
            {"label": "hen", "points": [[30, 18], [22, 8]], "shape_type": "rectangle"},
            {"label": "hen", "points": [[3, 3]], "shape_type": "point"},
        ]
        sizes = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        text(root / f"{number}.json", json.dumps({"shapes": shapes, "imagePath": "old.png", **sizes}))


def cvat(root: Path) -> None:
    elements = []
    for number in range(3):
        image(root / "images" / f"{number}.png", number)
        elements.append(
            f'<image id="{number}" name="{number}.png" width="{WIDTH}" height="{HEIGHT}">\n'
            '<polygon label="cat" points="5,6;20,6;20,18"/>\n<box label="hen" xtl="22" ytl="8" xbr="30" ybr="18"/>'
            '<points label="hen" points="3,3"/></image>'
        )
    text(root / "annotations.xml", f"<annotations><version>1.1</version>{''.join(elements)}</annotations>")


def label_studio(root: Path) -> None:
    sides = {"original_width": WIDTH, "original_height": HEIGHT}
    polygon = {"points": [[12.5, 20], [50, 20], [50, 60]], "polygonlabels": ["cat"]}
    box = {"x": 55, "y": 80 / 3, "width": 20, "height": 100 / 3, "rotation": 0, "rectanglelabels": ["hen"]}
    tasks = []
    for number in range(3):
        image(root / "images" / f"{number}.png", number)
        result = [
            {"type": "polygonlabels", "value": polygon, **sides}, {"type": "rectanglelabels", "value": box, **sides},
            {"type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": ["hen"]}, **sides},
        ]  # fmt: skip
        data = {"image": f"/data/upload/1/0123abcd-{number}.png"}
        tasks.append({"id": number, "data": data, "annotations": [{"result": result}]})
    text(root / "project.json", json.dumps(tasks))


@pytest.mark.parametrize("write", [labelme, cvat, label_studio])
def test_tools_of_labelling(tmp_path: Path, write: Any) -> None:
    write(tmp_path)
    data = everything(tmp_path)
    assert (data.task, data.classes, len(data.splits["all"])) == ("detection", ("cat", "hen"), 3)
    objects = data.splits["all"].objects(1)
    assert objects.labels.tolist() == [0, 1]
    assert np.allclose(objects.boxes, [[5, 6, 20, 18], [22, 8, 30, 18]], atol=1e-3)
    assert [len(rings) for rings in objects.outlines] == [1, 0]
    assert "are not used: " in data.describe()


def test_tables_of_boxes(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("valid", 2)):
        lines = [f"{n}.png,{WIDTH},{HEIGHT},{'cat' if n else 'hen'},5,6,20,18" for n in range(count)]
        text(
            tmp_path / split / "_annotations.csv",
            "\n".join(["filename,width,height,class,xmin,ymin,xmax,ymax", *lines]),
        )
        for number in range(count):
            image(tmp_path / split / f"{number}.png", number)
    data = find_data(tmp_path, progress=False)
    assert data.classes == ("cat", "hen")
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 3, "val": 2}
    assert data.splits["val"].objects(0).boxes.tolist() == [[5, 6, 20, 18]]
    with (tmp_path / "train" / "_annotations.csv").open("a") as file:
        file.write("\n1.png,40,30,cat,x,6,20,18")
    with pytest.raises(DataError, match=r"_annotations\.csv', line 5: 'x' is no number"):
        find_data(tmp_path, progress=False)


def test_tracks_of_a_video_are_refused_with_the_way_out(tmp_path: Path) -> None:
    image(tmp_path / "images" / "0.png")
    text(tmp_path / "annotations.xml", '<annotations><track id="0" label="cat"/></annotations>')
    with pytest.raises(DataError, match="tracks of a video"):
        find_data(tmp_path, progress=False)


# ---------------------------------------------------------------- no classifier by mistake


def test_unknown_labels_beside_images_are_no_classes(tmp_path: Path) -> None:
    for name in ("site_a", "site_b"):
        for number in range(3):
            image(tmp_path / name / f"{number}.png", number)
            text(tmp_path / name / f"{number}.json", json.dumps({"regions": [1, 2]}))
    with pytest.raises(DataError, match="a format that is not known"):
        find_data(tmp_path, progress=False)


def test_images_and_ground_truth_of_other_names_are_no_classes(tmp_path: Path) -> None:
    for number in range(3):
        image(tmp_path / "images" / f"{number}.png", number)
        mask(tmp_path / "ground_truth" / f"of_{number}.png", halves())
    with pytest.raises(DataError, match="boxes or masks, but no classes"):
        find_data(tmp_path, progress=False)


@pytest.mark.parametrize("name", ["@eaDir", ".ipynb_checkpoints", "__MACOSX", "$RECYCLE.BIN", "lost+found"])
def test_folders_of_systems_are_no_classes(tmp_path: Path, name: str) -> None:
    for label in ("cat", "dog", name, f"cat/{name}"):
        for number in range(2):
            image(tmp_path / label / f"{number}.png", number)
    data = everything(tmp_path)
    assert data.classes == ("cat", "dog")
    assert len(data.splits["all"]) == 4


@pytest.mark.parametrize("sign", [",", ";", "|"])
def test_several_classes_in_a_cell_are_no_class(tmp_path: Path, sign: str) -> None:
    labels = ["cat", "dog", f"cat{sign}dog", "cat", "dog"]
    lines = [f'{image(tmp_path / f"{n}.png", n).name},"{label}"' for n, label in enumerate(labels)]
    text(tmp_path / "table.csv", "\n".join(["path,label", *lines]))
    with pytest.raises(DataError, match=r"line 4: .* names 2 classes; an image has one class here"):
        find_data(tmp_path / "table.csv", task="classification", progress=False)


def test_a_line_for_each_class_of_an_image_is_told(tmp_path: Path) -> None:
    image(tmp_path / "0.png")
    text(tmp_path / "table.csv", "path,label\n0.png,cat\n0.png,dog\n")
    with pytest.raises(DataError, match=r"line 3: '0\.png' stands in line 2 already as 'cat': an image has one class"):
        find_data(tmp_path / "table.csv", task="classification", progress=False)


# ---------------------------------------------------------------- names in other encodings


@pytest.mark.parametrize(
    ("page", "names"), [("utf-8", ("Käfer", "Biene")), ("cp850", ("Käfer", "Bär")), ("cp866", ("кошка", "собака")),
                        ("gb18030", ("猫咪图片", "小狗图片")), ("cp932", ("ねこ", "いぬ"))]
)  # fmt: skip
def test_names_in_an_archive_are_words(tmp_path: Path, page: str, names: tuple[str, str]) -> None:
    path = tmp_path / "photos.zip"
    picture = image(tmp_path / "0.png").read_bytes()
    path.write_bytes(_archive([f"{name}/{number}.png".encode(page) for name in names for number in range(2)], picture))
    assert set(everything(path).classes) == set(names)


def _archive(names: list[bytes], data: bytes) -> bytes:
    """A zip archive of files of these names, without the mark that says that names are UTF-8."""
    out, directory, crc = io.BytesIO(), b"", zlib.crc32(data)
    for name in names:
        common = struct.pack("<HHHHIIIHH", 0, 0, 0, 33, crc, len(data), len(data), len(name), 0)
        place = struct.pack("<HHHII", 0, 0, 0, 0, out.tell())
        out.write(b"PK\x03\x04" + struct.pack("<H", 20) + common + name + data)
        directory += b"PK\x01\x02" + struct.pack("<HH", 20, 20) + common + place + name
    start = out.tell()
    end = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(directory), start, 0)
    return out.getvalue() + directory + b"PK\x05\x06" + end


# ---------------------------------------------------------------- once is enough


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_a_label_file_is_read_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = coco(tmp_path / "coco", *[{}] * 8, images=8)
    if kind != "coco":
        convert(root, tmp_path / kind, kind, progress=False)
        root = tmp_path / kind
    from dualtoken.data import tree

    seen: list[str] = []
    listed: list[Path] = []
    read, of_folder = tree.Tree.read, tree._of_folder
    monkeypatch.setattr(tree.Tree, "read", lambda self, name: seen.append(name) or read(self, name))
    monkeypatch.setattr(tree, "_of_folder", lambda path: listed.append(path) or of_folder(path))
    data = find_data(plan_data(root), progress=False)
    assert isinstance(data.splits["train"], ObjectSamples)
    labels = [name for name in seen if not name.endswith((".yaml", "classes.txt"))]
    assert len(labels) == len(set(labels)) == (1 if kind == "coco" else 8)
    assert len(listed) == 1
    assert data.redraw is not None
    again = data.redraw(3, 0.25, None)
    assert (len(again.splits["val"]), again.fingerprint) == (2, data.fingerprint)
    assert len(seen) == len(set(seen))


# ---------------------------------------------------------------- tables and splits that tools ship


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("place", ["in each split", "above them"])
def test_metadata_as_datasets_reads_it(tmp_path: Path, form: str, place: str) -> None:
    rows = {split: [(f"{n}.png", ["hen", "cat"][n % 2]) for n in range(4)] for split in ("train", "test")}
    for number, name in enumerate(f"{split}/{file}" for split, own in rows.items() for file, _ in own):
        image(tmp_path / name, number)
    tables = rows if place == "in each split" else {
        "": [(f"{split}/{file}", label) for split, own in rows.items() for file, label in own]
    }  # fmt: skip
    for folder, own in tables.items():
        lines = [f"{file},{label}" if form == "csv" else json.dumps({"file_name": file, "label": label, "x": 1})
                 for file, label in own]  # fmt: skip
        text(tmp_path / folder / f"metadata.{form}", "\n".join((["file_name,label"] if form == "csv" else []) + lines))
    data = everything(tmp_path)
    assert data.classes == ("cat", "hen")
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 4, "test": 4}
    assert data.splits["train"].labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"file_name": "9.png", "label": "hen"}', r"line 2: there is no file '9\.png'"),
        ('{"file_name": "1.png", "label": ["hen", "cat"]}', r"line 2: the label of '1\.png' is \['hen', 'cat'\]"),
        ('{"file_name": "1.png"}', "line 2: expected file_name and a class"),
        ("[1]", "line 2: expected names with their values"),
        ("{", "line 2"),
    ],
)
def test_metadata_that_is_wrong_is_named_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    for number in range(2):
        image(tmp_path / f"{number}.png", number)
    text(tmp_path / "metadata.jsonl", '{"file_name": "0.png", "label": "hen"}\n' + line)
    with pytest.raises(DataError, match=words):
        everything(tmp_path)


def test_captions_beside_class_folders_are_no_classes(tmp_path: Path) -> None:
    for number, name in enumerate(("hen/0.png", "cat/0.png")):
        image(tmp_path / name, number)
    text(tmp_path / "metadata.csv", "file_name,text\nhen/0.png,a hen\ncat/0.png,a cat\n")
    assert everything(tmp_path).classes == ("cat", "hen")


def test_where_val_is_drawn_what_seems_to_name_it_is_said(tmp_path: Path) -> None:
    root = coco(tmp_path, *[{"image_id": n} for n in range(4)])
    text(root / "lists" / "val.txt", "0.png\n")
    assert "though val is drawn, 'lists/val.txt' seems to name a split" in find_data(root, progress=False).notes
    (root / "lists" / "val.txt").unlink()
    (root / "lists").rmdir()
    assert not any("seem" in note for note in find_data(root, progress=False).notes)


FOREIGN = {
    "Datumaro": ("annotations/train.json", '{"info": {}, "categories": {}, "items": []}', "datum convert -if datumaro"),
    "Open Images": ("train.csv", "ImageID,Source,LabelName,Confidence,XMin\n", "-if open_images"),
    "Supervisely": ("ds/ann/0.png.json", "{}", "supervisely.convert.to_coco"),
    "TFRecord": ("train-00000-of-00002", "x", "-if tf_detection_api"),
    "tables": ("data/train-0.parquet", "PAR1", "dualtoken pack"),
}


@pytest.mark.parametrize("title", FOREIGN)
def test_what_converts_other_formats_is_said(tmp_path: Path, title: str) -> None:
    name, content, way = FOREIGN[title]
    text(tmp_path / name, content)
    if title == "Supervisely":
        text(tmp_path / "meta.json", '{"classes": [], "tags": []}')
    if title not in ("TFRecord", "tables"):
        for number, folder in enumerate(("a", "b")):
            image(tmp_path / folder / "0.png", number)
    with pytest.raises(DataError, match=rf"(?s){title}.*{re.escape(way)}"):
        plan_data(tmp_path)


def test_what_was_left_out_is_listed_in_full(tmp_path: Path) -> None:
    bad = [{"bbox": [4, 5, 6, 0]} for _ in range(9)]
    data = everything(coco(tmp_path, {}, *bad), on_bad_label="drop")
    write_left_out(tmp_path, data.bad_images, data.bad_labels)
    write_left_out(tmp_path, data.bad_images, data.bad_labels)  # a resumed run writes nothing twice
    first, *rows = csv.DictReader((tmp_path / "left_out.csv").read_text(encoding="utf-8").splitlines())
    assert len(rows) == 8
    assert (first["what"], first["kind"]) == ("label", "box without area")
    assert "labels.json', line" in first["where"]
    assert first["reason"].startswith("a box without area")


def test_outlines_of_four_corners_are_no_keypoints(tmp_path: Path) -> None:
    corners = "0 0.4 0.4 0.5 0.4 0.5 0.5 0.4 0.5"  # far from the edges, they would fit as points in a box
    data = everything(yolo(tmp_path, *[corners] * 2))
    assert data.splits["all"].has_outlines
    assert data.splits["all"].boxes[0].tolist() == [16, 12, 20, 15]
