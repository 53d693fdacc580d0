import contextlib
import csv
import io
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from dualtoken.answers import kind_of
from dualtoken.errors import ImageError, OutputError
from dualtoken.outputs import Detections, Segmentation
from dualtoken.report.class_colours import class_colour
from dualtoken.report.tables import prediction_table, print_table

CLASSES = ("cat", 'the "dog", etc', "Vögelchen 猫")
FAILED = ("broken.jpg", ImageError("'broken.jpg' is damaged.", "Leave it out."))
BOXES = np.array([[10, 20, 40, 60], [0, 0, 100, 80]], np.float32)
PARTS = (np.ones((40, 30), bool), np.eye(80, 100, dtype=bool))


def scene_table(path, task, classes, **options):
    return prediction_table(path, kind_of(task), classes, **options)


def found(path="a, b/1.jpg", *, n=2, masks=False) -> Detections:
    own = {"masks": PARTS[:n], "corners": np.array([[10, 20], [0, 0]])[:n]} if masks else {}
    return Detections(CLASSES, (80, 100), BOXES[:n], np.array([0.75, 0.5])[:n], np.array([2, 0])[:n], path=path, **own)


def regions(path="a.jpg") -> Segmentation:
    mask = np.zeros((8, 10), np.uint8)
    mask[:2] = 2
    return Segmentation(CLASSES, mask, np.full((8, 10), 0.5), path)


def write(path, task, answers, classes=CLASSES, **options):
    with scene_table(path, task, classes, **options) as add:
        for answer in answers:
            add(answer)
    return path


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("masks", [False, True])
def test_coco_is_read_by_pycocotools(tmp_path, masks):
    coco = pytest.importorskip("pycocotools.coco")
    answers = [found(masks=masks), FAILED, found("empty.jpg", n=0, masks=masks), found("2.jpg", masks=masks)]
    path = write(tmp_path / "deep" / "found.json", "instance_segmentation", answers)
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO(str(path))
        results = data.loadRes(list(data.anns.values()))
    assert [image["file_name"] for image in data.dataset["images"]] == ["a, b/1.jpg", "empty.jpg", "2.jpg"]
    assert [kind["name"] for kind in data.dataset["categories"]] == list(CLASSES)
    assert data.dataset["errors"] == [{"file_name": "broken.jpg", "error": str(FAILED[1])}]
    first = data.anns[1]
    assert (first["image_id"], first["category_id"], first["bbox"], first["score"]) == (1, 3, [10, 20, 30, 40], 0.75)
    assert data.getAnnIds(imgIds=[2]) == []
    assert len(results.anns) == 4
    if masks:
        assert np.array_equal(data.annToMask(data.anns[2]), PARTS[1])
        assert first["area"] == 1200


@pytest.mark.parametrize("answers", [[], [FAILED], [found(n=0)]])
@pytest.mark.parametrize("form", ["coco", "yolo", "csv", "jsonl", "masks"])
def test_nothing_found_is_no_trouble(tmp_path, answers, form):
    path = write(tmp_path / "out", "instance_segmentation", answers, form=form)
    if form == "coco":
        assert json.loads(path.read_text())["annotations"] == []
    assert path.exists()


def test_yolo(tmp_path):
    answers = [found("x/1.jpg"), found("y/1.jpg", n=1), found(None, n=0), FAILED]
    folder = write(tmp_path / "labels", "detection", answers, form="yolo")
    assert yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"] == dict(enumerate(CLASSES))
    assert sorted(file.name for file in (folder / "labels").iterdir()) == ["000003.txt", "1-2.txt", "1.txt"]
    rows = [list(map(float, line.split())) for line in (folder / "labels" / "1.txt").read_text().splitlines()]
    np.testing.assert_allclose(rows, [[2, 0.25, 0.5, 0.3, 0.5, 0.75], [0, 0.5, 0.5, 1, 1, 0.5]])
    assert (folder / "labels" / "000003.txt").read_text() == ""


def test_frames_of_a_video_keep_their_times(tmp_path):
    names = [f"street.mp4@{time}s" for time in ("00001.000", "00001.480", "00100.040")]
    frames = [found(f"a/{name}", n=0) for name in names]
    folder = write(tmp_path / "labels", "detection", frames, form="yolo")
    assert sorted(file.name for file in (folder / "labels").iterdir()) == [f"{name}.txt" for name in names]


def test_masks(tmp_path):
    folder = write(tmp_path / "masks", "semantic_segmentation", [regions()], form="masks")
    assert (folder / "classes.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)
    image = Image.open(folder / "masks" / "a.png")
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), regions().mask)
    assert image.convert("RGB").getpixel((5, 0)) == class_colour(2)


def test_masks_of_objects_show_the_surest(tmp_path):
    folder = write(tmp_path / "masks", "instance_segmentation", [found(masks=True)], form="masks")
    values = np.asarray(Image.open(folder / "masks" / "1.png"))
    assert values[30, 30] == 2  # both are there
    assert values[70, 70] == 0
    assert values[0, 50] == 255


def test_csv_of_objects(tmp_path):
    path = write(tmp_path / "t.csv", "detection", [found(), found("empty.jpg", n=0), FAILED])
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    assert list(rows[0]) == ["path", "label", "score", "left", "top", "right", "bottom", "error"]
    assert list(rows[0].values()) == [
        "a, b/1.jpg", "Vögelchen 猫", "0.750000", "10.00", "20.00", "40.00", "60.00", "",
    ]  # fmt: skip
    assert (rows[2]["path"], rows[2]["label"]) == ("empty.jpg", "")
    assert (rows[3]["path"], rows[3]["error"]) == ("broken.jpg", "'broken.jpg' is damaged.")


def test_csv_of_regions(tmp_path):
    path = write(tmp_path / "t.CSV", "semantic_segmentation", [regions(), Segmentation(CLASSES, regions().mask)])
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    assert list(rows[0].values()) == ["a.jpg", "cat", "0.500000", "0.750000", ""]
    assert rows[2]["score"] == ""


def test_json_lines(tmp_path):
    path = write(tmp_path / "t.jsonl", "detection", [found(masks=True), FAILED])
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert first == found(masks=True).to_dict()
    assert second == {"path": "broken.jpg", "error": str(FAILED[1])}


@pytest.mark.parametrize("form", ["coco", "yolo", "csv", "jsonl", "masks"])
def test_an_error_leaves_nothing_behind(tmp_path, form):
    def fail():
        with scene_table(tmp_path / "out", "instance_segmentation", CLASSES, form=form) as add:
            add(found())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "task", "form", "says"),
    [
        ("t.txt", "detection", None, "does not say"),
        ("folder", "detection", None, "--form yolo"),
        ("t.json", "semantic_segmentation", None, "one of masks"),
        ("folder", "detection", "masks", "one of coco"),
    ],
)
def test_what_cannot_be_written_is_said_first(tmp_path, name, task, form, says):
    with pytest.raises(OutputError, match=says):
        scene_table(tmp_path / name, task, CLASSES, form=form)


def test_a_folder_that_is_there_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", "detection", [found()], form="yolo")  # an empty one is taken
    with pytest.raises(OutputError, match="is there already"):
        write(tmp_path / "out", "detection", [], form="yolo")
    assert (tmp_path / "out" / "labels" / "1.txt").exists()


def test_too_many_classes_for_a_mask(tmp_path):
    names = [str(i) for i in range(256)]
    with pytest.raises(OutputError, match="8 bits"):
        write(tmp_path / "m", "instance_segmentation", [], classes=names, form="masks")


def test_in_a_few_words():
    assert found().describe() == "1 Vögelchen 猫, 1 cat"
    assert found(n=0).describe() == "nothing"
    assert regions().describe() == "cat 75 %, Vögelchen 猫 25 %"
    assert regions().describe(1) == "cat 75 %, and 1 more"


def test_on_the_screen():
    console = Console(file=io.StringIO(), width=100)
    answers = [found("[red].jpg"), found("b\x1b[2J.jpg", n=0), FAILED]
    print_table(answers, kind_of("detection"), console=console)
    text = console.file.getvalue()
    for expected in ("[red].jpg", "1 Vögelchen 猫, 1 cat", "nothing", r"b\u001b[2J.jpg", "'broken.jpg' is damaged."):
        assert expected in text
    assert "\x1b" not in text


def test_the_yolo_reader_takes_what_is_written(tmp_path):
    from dualtoken.data import find_data

    (tmp_path / "out").mkdir()
    write(tmp_path / "out", "detection", [found("1.jpg")], form="yolo")
    (tmp_path / "out" / "images").mkdir()
    Image.new("RGB", (100, 80)).save(tmp_path / "out" / "images" / "1.jpg")
    data = find_data(tmp_path / "out", val_fraction=0, progress=False)
    assert data.classes == CLASSES
    np.testing.assert_allclose(data.splits["all"].objects(0).boxes, BOXES, atol=1e-3)
    assert "a score" in data.describe()
