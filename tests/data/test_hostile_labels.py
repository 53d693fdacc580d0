"""Label files that are hostile, absurd or of the wrong types: one error that names the file, and never a traceback."""

import json

import pytest

from conftest import invent_image
from dualtoken.data import find_data
from dualtoken.errors import UserError

DEEP = "[" * 5_000 + "]" * 5_000
COCO = {
    "images": [{"id": 1, "file_name": "1.jpg", "height": 40, "width": 50}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 20, 20], "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat"}],
}
ODD = [None, True, -1, 10**30, 1e308, "", "x", "\x1b[2J", [], {}, [[]], [None], {"a": 1}, "9" * 5_000]


def coco(part: str, key: str, value: object) -> str:
    changed = {name: [dict(entry) for entry in entries] for name, entries in COCO.items()}
    changed[part][0][key] = value
    return json.dumps(changed)


def folder(tmp_path, name: str, content: str | bytes):
    root = tmp_path / "data"
    for place in ("images", "labels", "annotations"):
        (root / place).mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        invent_image(0, number, (50, 40)).save(root / "images" / f"{number}.jpg")
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return root


def judged(root) -> str:
    """What is said where the data are refused; empty where they are taken."""
    try:
        find_data(root, task="detection", progress=False)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "text",
    ["", "null", "3", "[]", "{}", DEEP, '{"images":' * 300, "1" * 5_000, "NaN", '{"images": [], "annotations": 3}',
     b"\xff\xfe", json.dumps(COCO | {"images": [1]}), json.dumps(COCO | {"annotations": [None]}),
     json.dumps(COCO | {"categories": ["cat"]}), json.dumps(COCO | {"categories": []}),
     json.dumps(COCO | {"images": {"a": 1}}), json.dumps(COCO).replace("20", "1" * 5_000)],
    ids=range(17),
)  # fmt: skip
def test_coco(tmp_path, text):
    assert judged(folder(tmp_path, "annotations/instances.json", text))


@pytest.mark.parametrize("part", COCO)
def test_any_value_in_any_place_of_coco(tmp_path, part):
    for key in COCO[part][0]:
        refused = 0
        for value in ODD:
            refused += bool(judged(folder(tmp_path, "annotations/instances.json", coco(part, key, value))))
        assert refused >= (
            0 if key in ("iscrowd", "height", "width", "name") or (part, key) == ("annotations", "id") else 5
        ), key


YOLO_YAML = {
    "names are a number": "names: 3\ntrain: images",
    "names are null": "names:\ntrain: images",
    "names are deep": f"names: {'[' * 100}{']' * 100}",
    "names hold truth values": "names: [yes, no]\ntrain: images",
    "names hold lists": "names: [[a], [b]]\ntrain: images",
    "keys are null": "names: {null: a, 1: b}\ntrain: images",
    "an alias of itself": "names: &a [*a]\ntrain: images",
    "laughs": "a: &a [x, x]\n"
    + "\n".join(
        f"b{i}: &b{i} [*{'a' if i == 0 else f'b{i - 1}'}, *{'a' if i == 0 else f'b{i - 1}'}]" for i in range(40)
    )
    + "\nnames: [cat]",
    "digits": f"names: [cat]\nnc: {'1' * 5_000}",
    "no UTF-8": b"names: [\xff\xfe]",
}


@pytest.mark.parametrize("case", YOLO_YAML)
def test_yolo_yaml(tmp_path, case):
    root = folder(tmp_path, "data.yaml", YOLO_YAML[case])
    (root / "labels" / "1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert judged(root)


@pytest.mark.parametrize(
    "line",
    ["0", "a b c d e", "0 nan 0.5 0.2 0.2", "0 inf 0.5 0.2 0.2", "-1 0.5 0.5 0.2 0.2",
     f"{'9' * 5_000} 0.5 0.5 0.2 0.2", "0 0.5 0.5 0.2 " + "1" * 5_000, "0 1e308 1e308 1e308 1e308",
     "0.5 0.5 0.5 0.2 0.2", "\x1b[2J 0.5 0.5 0.2 0.2", "0 " * 50_000],
    ids=range(11),
)  # fmt: skip
def test_yolo_lines(tmp_path, line):
    root = folder(tmp_path, "data.yaml", "names: [cat]\ntrain: images\nval: images")
    (root / "labels" / "1.txt").write_text(line + "\n")
    assert "1.txt" in judged(root)


VOC = "<annotation><filename>1.jpg</filename><object><name>{}</name><bndbox>{}</bndbox></object></annotation>"
SIDES = "<xmin>{0}</xmin><ymin>{0}</ymin><xmax>20</xmax><ymax>20</ymax>"


@pytest.mark.parametrize(
    "text",
    ["", "<annotation>", "<a>" * 5_000, '<!DOCTYPE a [<!ENTITY b "bb">]><annotation>&b;</annotation>', b"\xff\xfe<a/>",
     VOC.format("", SIDES.format(1)), VOC.format("cat", SIDES.format("x")), VOC.format("cat", SIDES.format("nan")),
     VOC.format("cat", SIDES.format("1" * 5_000)), VOC.format("cat", "")],
    ids=range(10),
)  # fmt: skip
def test_voc(tmp_path, text):
    assert "1.xml" in judged(folder(tmp_path, "annotations/1.xml", text))


@pytest.mark.parametrize(
    "text",
    ["path,label\n1.jpg", "path,label\n" + "a" * 200_000 + ",cat", 'path,label\n"1.jpg,cat\n',
     "path;label\n\x00;cat", b"path,label\n\xff,cat", "path,label\n../../etc/passwd,cat\n1.jpg,dog", "label\ncat"],
    ids=range(7),
)  # fmt: skip
def test_csv(tmp_path, text):
    root = folder(tmp_path, "images/labels.csv", text)
    with pytest.raises(UserError):
        find_data(root / "images" / "labels.csv", progress=False)
