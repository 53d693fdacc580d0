"""`dualtoken predict` for boxes and masks: what is answered, what is written, and what is refused."""

import csv
import io
import json
import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from conftest import invent_image
from dualtoken import cli
from dualtoken.errors import ConfigError, ImageError, OutputError
from dualtoken.images import ImageLimits
from dualtoken.model_folder import ModelConfig, build_model, save_model
from dualtoken.outputs import Detections, Segmentation
from dualtoken.prediction import command, inputs, load
from dualtoken.prediction.command import Options, answer_files
from dualtoken.preprocess import Preprocessing
from dualtoken.report import print_table

CLASSES = ("cat", "dog")
FEW = {"channels": 64, "max_detections": 4}
HEADS = {
    "detection": ("faster_rcnn", FEW),
    "instance_segmentation": ("mask_rcnn", FEW),
    "semantic_segmentation": ("fpn", {}),
    "classification": ("", {}),
}
SCENES = [task for task in HEADS if task != "classification"]
ALL = {"threshold": 0.0, "workers": 0}  # fresh weights are sure of nothing


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A model folder for each task, with fresh weights."""
    made = {}
    for task, (head, args) in HEADS.items():
        torch.manual_seed(0)
        config = ModelConfig(
            "test_resnet", CLASSES, Preprocessing((64, 64), 1.0, "border"), task=task, head=head, head_args=args
        )
        made[task] = tmp_path_factory.mktemp(task)
        save_model(build_model(config), config, made[task])
    return made


@pytest.fixture(scope="module")
def models(folders):
    return {task: load(folder, device="cpu") for task, folder in folders.items()}


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two pictures and one that is broken between them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    invent_image(0, 0, (70, 50)).save(folder / "a.png")
    (folder / "b.jpg").write_bytes(b"broken")
    invent_image(1, 0, (40, 60)).save(folder / "c.jpg")
    return folder


def answered(model, given, **options):
    """The answers, and how many were good and bad."""
    shown = []
    usual = {name: value for name, value in ALL.items() if name == "workers" or name in model.kind.options}
    counts = answer_files(model, [str(place) for place in given], Options(**usual | options), shown.extend)
    return shown, counts


def name_of(answer) -> str:
    return Path(answer[0] if isinstance(answer, tuple) else answer.path).name


@pytest.fixture
def video(tmp_path) -> Path:
    pytest.importorskip("av")
    from dualtoken.prediction.video import VideoWriter

    path = tmp_path / "film.mp4"
    with VideoWriter(path, 10, (48, 64)) as film:
        for number in range(3):
            film.write(invent_image(number, 0, (64, 48)))
    return path


# ---------------------------------------------------------------- what goes in


@pytest.mark.parametrize("task", SCENES)
def test_a_broken_file_does_not_stop_the_rest(models, photos, task):
    shown, counts = answered(models[task], [photos])
    assert counts == (2, 1)
    assert [name_of(answer) for answer in shown] == ["a.png", "b.jpg", "c.jpg"]
    assert isinstance(shown[1][1], ImageError)
    assert [answer.size for answer in (shown[0], shown[2])] == [(50, 70), (60, 40)]
    assert isinstance(shown[0], Segmentation if task == "semantic_segmentation" else Detections)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 2, "workers": 2}])
def test_answers_do_not_depend_on_batches_and_threads(models, photos, options):
    expected, _ = answered(models["detection"], [photos, photos / "a.png"])
    shown, counts = answered(models["detection"], [photos, photos / "a.png"], **options)
    assert counts == (3, 1)
    assert [name_of(answer) for answer in shown] == [name_of(answer) for answer in expected]
    for one, other in zip(shown, expected, strict=True):
        if isinstance(one, Detections):
            assert len(one) > 0
            np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)


def test_zip_archives_are_read_in_place(models, photos, tmp_path):
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(photos.iterdir()):
            file.write(path, f"deep/{path.name}")
    shown, counts = answered(models["detection"], [archive], pictures=tmp_path / "seen")
    assert counts == (2, 1)
    assert shown[0].path == f"{archive}/deep/a.png"
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["a.jpg", "c.jpg"]


def test_standard_input(models, photos, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((photos / "a.png").read_bytes())))
    shown, counts = answered(models["detection"], ["-"], pictures=tmp_path / "seen")
    assert counts == (1, 0)
    assert shown[0].path == "stdin"
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["stdin.jpg"]
    Image.open(photos / "c.jpg").save(file := io.BytesIO(), "JPEG", icc_profile=bytes(3000))
    bare = b"\xff\xd8" + file.getvalue()[20:]  # without JFIF's header: no zero byte in its first sixteen
    assert b"\0" not in bare[:16]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(bare)))
    assert answered(models["detection"], ["-"])[1] == (1, 0)
    lines = f"{photos}/c.jpg\n{photos}/none.jpg\n".encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    shown, counts = answered(models["detection"], ["-"])
    assert counts == (1, 1)


def test_masks_beside_their_images_are_left_out(models, photos, tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "masks").mkdir()
    (photos / "a.png").rename(tmp_path / "set" / "images" / "a.png")
    invent_image(0, 1, (70, 50)).save(tmp_path / "set" / "masks" / "a.png")
    notes = []
    shown = []
    counts = answer_files(models["detection"], [str(tmp_path / "set")], Options(**ALL), shown.extend, notes.append)
    assert counts == (1, 0)
    assert Path(shown[0].path).parent.name == "images"
    assert notes == [f"1 mask beside its image in {str(tmp_path / 'set')!r} left out"]


def test_limits_reach_the_reader(models, photos):
    shown, counts = answered(models["detection"], [photos], limits=ImageLimits(max_pixels=100))
    assert counts == (0, 3)
    assert "--max-pixels" in str(shown[0][1])
    shown, counts = answered(models["detection"], [photos], limits=ImageLimits(max_pixels=100), tile=32)
    assert counts == (0, 3)


def test_nothing_is_an_error_of_its_own(models, tmp_path):
    (tmp_path / "empty").mkdir()
    shown, counts = answered(models["detection"], [tmp_path / "empty", tmp_path / "none.jpg"])
    assert counts == (0, 2)
    assert "holds no images" in str(shown[0][1])


def test_the_threshold(models, photos):
    everything, _ = answered(models["detection"], [photos / "a.png"])
    scores = everything[0].scores
    middle = float(np.sort(scores)[-2])
    some, _ = answered(models["detection"], [photos / "a.png"], threshold=middle)
    assert 0 < len(some[0]) < len(scores)
    assert (some[0].scores >= middle - 1e-6).all()
    own, _ = answered(models["detection"], [photos / "a.png"], threshold=None)
    assert len(own[0]) == (scores >= models["detection"].config.threshold).sum()
    with pytest.raises(ConfigError, match=r"threshold is 1\.5"):
        answered(models["detection"], [photos], threshold=1.5)


# ---------------------------------------------------------------- tables


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("task", SCENES)
def test_json_lines_and_csv(models, photos, tmp_path, task):
    shown, _ = answered(models[task], [photos], output=tmp_path / "found.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["a.png", "b.jpg", "c.jpg"]
    assert lines[0] == json.loads(json.dumps(shown[0].to_dict()))
    assert "error" in lines[1]
    answered(models[task], [photos], output=tmp_path / "found.csv")
    table = rows(tmp_path / "found.csv")
    assert {Path(row["path"]).name for row in table} == {"a.png", "b.jpg", "c.jpg"}
    assert [bool(row["error"]) for row in table].count(True) == 1
    first = [row for row in table if row["path"].endswith("a.png")]
    assert len(first) == len(lines[0]["regions" if task == "semantic_segmentation" else "objects"])


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_coco(models, photos, tmp_path, task):
    shown, _ = answered(models[task], [photos], output=tmp_path / "found.json")
    content = json.loads((tmp_path / "found.json").read_text())
    assert [category["name"] for category in content["categories"]] == list(CLASSES)
    assert [Path(image["file_name"]).name for image in content["images"]] == ["a.png", "c.jpg"]
    assert len(content["annotations"]) == len(shown[0]) + len(shown[2])
    assert all(("segmentation" in found) == (task == "instance_segmentation") for found in content["annotations"])
    assert len(content["errors"]) == 1


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_yolo(models, photos, tmp_path, task):
    shown, _ = answered(models[task], [photos], output=tmp_path / "found", form="yolo")
    assert yaml.safe_load((tmp_path / "found" / "data.yaml").read_text())["names"] == {0: "cat", 1: "dog"}
    assert sorted(path.name for path in (tmp_path / "found" / "labels").iterdir()) == ["a.txt", "c.txt"]
    lines = (tmp_path / "found" / "labels" / "a.txt").read_text().splitlines()
    assert len(lines) == len(shown[0]) > 0
    label, x, *_, score = (float(part) for part in lines[0].split())
    assert label == shown[0].labels[0]
    assert x == pytest.approx(shown[0].boxes[0, [0, 2]].mean() / 70, abs=1e-4)
    assert score == pytest.approx(shown[0].scores[0], abs=1e-5)


@pytest.mark.parametrize("task", ["instance_segmentation", "semantic_segmentation"])
def test_masks(models, photos, tmp_path, task):
    shown, _ = answered(models[task], [photos], output=tmp_path / "found", form="masks")
    assert (tmp_path / "found" / "classes.txt").read_text().split() == list(CLASSES)
    assert sorted(path.name for path in (tmp_path / "found" / "masks").iterdir()) == ["a.png", "c.png"]
    mask = np.asarray(Image.open(tmp_path / "found" / "masks" / "a.png"))
    assert mask.shape == (50, 70)
    if task == "semantic_segmentation":
        np.testing.assert_array_equal(mask, shown[0].mask)
    else:
        np.testing.assert_array_equal(mask != 255, shown[0].full_masks().any(axis=0))


def test_a_form_may_stand_for_the_suffix(models, photos, tmp_path):
    answered(models["detection"], [photos], output=tmp_path / "found.txt", form="csv")
    assert len(rows(tmp_path / "found.txt")) > 2


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("detection", {"output": "found.json"}),
        ("detection", {"output": "found", "form": "yolo", "pictures": "seen"}),
        ("semantic_segmentation", {"output": "found.csv", "pictures": "seen"}),
        ("classification", {"output": "found.jsonl", "sheet": "sheet.png", "threshold": None}),
    ],
)
def test_where_nothing_is_answered_nothing_is_written(models, photos, tmp_path, task, options):
    places = {
        key: tmp_path / value if key in ("output", "pictures", "sheet") else value for key, value in options.items()
    }
    (tmp_path / "empty").mkdir()
    shown, counts = answered(models[task], [tmp_path / "empty", photos / "b.jpg"], **places)
    assert (len(shown), counts) == (2, (0, 2))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "empty", photos]


def test_an_empty_folder_of_yours_stays(models, photos, tmp_path):
    (tmp_path / "seen").mkdir()
    answered(models["detection"], [photos / "b.jpg"], pictures=tmp_path / "seen")
    assert (tmp_path / "seen").is_dir()


@pytest.mark.parametrize("form", ["coco", "yolo", "csv", "jsonl", "masks"])
def test_nothing_found_is_written_too(models, photos, tmp_path, form):
    output = tmp_path / "found"
    shown, counts = answered(models["instance_segmentation"], [photos], threshold=1.0, output=output, form=form,
                             pictures=tmp_path / "seen")  # fmt: skip
    assert counts == (2, 1)
    assert len(shown[0]) == len(shown[2]) == 0
    assert output.exists()
    assert len(list((tmp_path / "seen").iterdir())) == 2
    if form == "coco":
        content = json.loads(output.read_text())
        assert (len(content["images"]), content["annotations"]) == (2, [])
    elif form == "yolo":
        assert (output / "labels" / "a.txt").read_text() == ""
    elif form == "masks":
        assert (np.asarray(Image.open(output / "masks" / "a.png")) == 255).all()
    elif form == "csv":
        assert [row["label"] for row in rows(output)] == ["", "", ""]
    else:
        assert json.loads(output.read_text().splitlines()[0])["objects"] == []


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("task", SCENES)
def test_pictures(models, photos, tmp_path, task):
    answered(models[task], [photos], pictures=tmp_path / "seen")
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["a.jpg", "c.jpg"]
    drawn = np.asarray(Image.open(tmp_path / "seen" / "a.jpg").convert("RGB"))
    assert min(drawn.shape[:2]) >= 50


@pytest.mark.parametrize(("task", "options"), [
    ("detection", {"pictures": "seen"}),
    ("semantic_segmentation", {"pictures": "seen", "tile": 32}),
    ("classification", {"sheet": "sheet.png", "threshold": None}),
])  # fmt: skip
def test_an_image_is_opened_once_for_its_answer_and_its_picture(models, photos, tmp_path, monkeypatch, task, options):
    opened = []
    real = inputs.open_image
    monkeypatch.setattr(
        inputs, "open_image", lambda source, **options: (opened.append(source), real(source, **options))[1]
    )
    places = {name: tmp_path / value if name in ("pictures", "sheet") else value for name, value in options.items()}
    _, counts = answered(models[task], [photos], **places)
    assert counts == (2, 1)
    files = [source for source in opened if isinstance(source, str)]  # tiles are images already
    assert [Path(source).name for source in files] == ["a.png", "b.jpg", "c.jpg"]
    drawn = sorted(path.name for path in tmp_path.rglob("*.*") if path.parent != photos)
    assert drawn == (["sheet.png"] if task == "classification" else ["a.jpg", "c.jpg"])


def test_a_picture_that_there_is_no_memory_for_is_an_error_of_its_image(models, photos, tmp_path, monkeypatch):
    def draw(image, answer, **options):
        if image.size == (70, 50):
            raise MemoryError
        return image

    monkeypatch.setattr("dualtoken.report.pictures.draw", draw)
    shown, counts = answered(models["detection"], [photos], pictures=tmp_path / "seen")
    assert counts == (1, 2)
    assert "more memory" in str(shown[0][1])
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["c.jpg"]


def test_pictures_show_what_was_found(models, photos, tmp_path):
    answered(models["detection"], [photos / "a.png"], pictures=tmp_path / "some")
    answered(models["detection"], [photos / "a.png"], pictures=tmp_path / "none", threshold=1.0)
    some, none = (np.asarray(Image.open(tmp_path / name / "a.jpg"), int) for name in ("some", "none"))
    assert some.shape == none.shape
    assert abs(some - none).max() > 80


def test_images_of_one_name_have_pictures_of_their_own(models, tmp_path):
    for number, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        invent_image(number, 0, (50, 50)).save(tmp_path / folder / "same.png")
    invent_image(2, 0, (50, 50)).save(tmp_path / "a" / "SAME.jpg")
    inputs = [tmp_path / "a" / "same.png", tmp_path / "b", tmp_path / "a" / "SAME.jpg"]
    answered(models["detection"], inputs, pictures=tmp_path / "seen", threshold=1.0)
    found = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert found == ["SAME-3.jpg", "same-2.jpg", "same.jpg"]
    means = [np.asarray(Image.open(tmp_path / "seen" / name)).mean() for name in ("same.jpg", "same-2.jpg")]
    assert abs(means[0] - np.asarray(invent_image(0, 0, (50, 50))).mean()) < 4
    assert abs(means[1] - np.asarray(invent_image(1, 0, (50, 50))).mean()) < 4


# ---------------------------------------------------------------- tiles and videos


@pytest.mark.parametrize("task", SCENES)
def test_tiles(models, photos, tmp_path, task, monkeypatch):
    seen = []
    predict = type(models[task]).predict

    def noting(self, image, **options):
        seen.append(image.size)
        return predict(self, image, **options)

    monkeypatch.setattr(type(models[task]), "predict", noting)
    shown, counts = answered(
        models[task], [photos], tile=32, overlap=0.25, output=tmp_path / "found.jsonl", pictures=tmp_path / "seen"
    )
    assert counts == (2, 1)
    assert [name_of(answer) for answer in shown] == ["a.png", "b.jpg", "c.jpg"]
    assert [answer.size for answer in (shown[0], shown[2])] == [(50, 70), (60, 40)]
    assert seen.count((32, 32)) == 3 * 2 + 2 * 3  # of 70 x 50 and 40 x 60
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["a.jpg", "c.jpg"]
    if task != "semantic_segmentation":
        assert (shown[0].boxes[:, 2] > 40).any()  # beyond the first tile


def test_a_tile_as_large_as_the_image_changes_nothing(models, photos):
    whole, _ = answered(models["detection"], [photos / "a.png"])
    tiled, _ = answered(models["detection"], [photos / "a.png"], tile=100)
    np.testing.assert_array_equal(whole[0].boxes, tiled[0].boxes)
    assert whole[0].path == tiled[0].path


@pytest.mark.parametrize("task", SCENES)
def test_a_video_is_answered_frame_by_frame(models, video, tmp_path, task):
    shown, counts = answered(
        models[task], [video], output=tmp_path / "found.jsonl", pictures=tmp_path / "seen", batch_size=2
    )
    assert counts == (3, 0)
    assert [answer.path for answer in shown] == [f"{video}@{time}s" for time in ("00000.000", "00000.100", "00000.200")]
    assert [answer.size for answer in shown] == [(48, 64)] * 3
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["film.mp4"]
    from dualtoken.prediction.video import frames, video_info

    assert len(list(frames(tmp_path / "seen" / "film.mp4"))) == 3
    assert video_info(tmp_path / "seen" / "film.mp4").size == (48, 64)


def test_videos_and_images_in_turn(models, video, photos, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    inputs = [photos / "a.png", video, photos / "c.jpg", tmp_path / "broken.mp4", tmp_path / "none.mp4"]
    shown, counts = answered(models["detection"], inputs, pictures=tmp_path / "seen")
    assert counts == (5, 2)
    frames = [f"film.mp4@0000{time}s" for time in ("0.000", "0.100", "0.200")]
    names = ["a.png", *frames, "c.jpg", "broken.mp4", "none.mp4"]
    assert [name_of(answer) for answer in shown] == names
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["a.jpg", "c.jpg", "film.mp4"]


def test_frames_of_long_videos_sort_by_their_names(models, monkeypatch):
    times = [9.96, 10.0, 100.04, 3600.0, 36000.5]
    monkeypatch.setattr(command, "frames", lambda *_: ((time, invent_image(0, 0, (32, 32))) for time in times))
    shown, _ = answered(models["semantic_segmentation"], ["film.mp4"])
    assert len(shown) == len(times)
    assert [answer.path for answer in shown] == sorted(answer.path for answer in shown)


def test_tiles_together_find_no_more_objects_than_asked_for(models, photos):
    every, _ = answered(models["detection"], [photos / "a.png"], tile=32)
    few, _ = answered(models["detection"], [photos / "a.png"], tile=32, max_objects=3)
    assert len(every[0]) > len(few[0]) == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("options", [{"tile": 32}, {}])
def test_names_that_steer_or_are_not_utf8(models, tmp_path, options):
    names = [b"caf\xe9.png", b"sum\x1b[2J\xe2\x80\xaeexe.png", b"broken\x1b[2J.png"]
    given = [tmp_path / os.fsdecode(name) for name in names]
    for path in given[:2]:
        invent_image(0, 0, (70, 50)).save(path)
    given[2].write_bytes(b"broken")
    shown, counts = answered(models["detection"], given, output=tmp_path / "found.jsonl", **options)
    assert counts == (2, 1)
    told = [json.loads(line)["path"].rpartition("/")[2] for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert told == [r"caf\xe9.png", r"sum\u001b[2J\u202eexe.png", r"broken\u001b[2J.png"]
    assert [name_of(answer) for answer in shown] == told


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("task", SCENES)
def test_options_of_classes_are_refused_for_scenes(models, photos, tmp_path, task):
    with pytest.raises(ConfigError, match="--sheet has no meaning for a model for") as error:
        answered(models[task], [photos], sheet=tmp_path / "sheet.png")
    assert "--pictures" in error.value.hint
    assert list(tmp_path.iterdir()) == [photos]


def test_an_overlap_of_no_tiles_is_refused(models, photos):
    with pytest.raises(ConfigError, match="--overlap is that of tiles"):
        answered(models["detection"], [photos], overlap=0.5)


def test_a_threshold_is_refused_for_regions(models, photos):
    with pytest.raises(ConfigError, match="--threshold has no meaning for a model for semantic segmentation"):
        answered(models["semantic_segmentation"], [photos], threshold=0.3)


@pytest.mark.parametrize(
    ("options", "flag"),
    [({"form": "csv"}, "--form"), ({"threshold": 0.3}, "--threshold"), ({"tile": 64}, "--tile")],
)
def test_options_of_scenes_are_refused_for_classes(models, photos, options, flag):
    with pytest.raises(ConfigError, match=f"{flag} has no meaning for a model for classification") as error:
        answered(models["classification"], [photos], **{"threshold": None} | options)
    assert "--sheet" in error.value.hint


def test_pictures_are_refused_for_classes_before_anything_is_made(models, photos, tmp_path):
    with pytest.raises(ConfigError, match="--pictures"):
        answered(models["classification"], [photos], threshold=None, pictures=tmp_path / "seen")
    assert not (tmp_path / "seen").exists()


def test_classes_are_still_answered(models, photos, tmp_path):
    shown, counts = answered(
        models["classification"], [photos], threshold=None, output=tmp_path / "found.csv", sheet=tmp_path / "sheet.png"
    )
    assert counts == (2, 1)
    assert shown[0].label in CLASSES
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize(
    ("task", "output", "form", "words"),
    [
        ("detection", "found", None, "does not say what to write"),
        ("detection", "found", "masks", "cannot be written for detection"),
        ("semantic_segmentation", "found.json", None, "cannot be written for semantic segmentation"),
        ("semantic_segmentation", "found", "yolo", "cannot be written for semantic segmentation"),
        ("detection", "found.xlsx", None, "suffix"),
        ("detection", "found", "voc", "cannot be written"),
    ],
)
def test_forms_that_a_task_does_not_have(models, photos, tmp_path, task, output, form, words):
    with pytest.raises(OutputError, match=words):
        answered(models[task], [photos], output=tmp_path / output, form=form)
    assert list(tmp_path.iterdir()) == [photos]


def test_what_is_there_is_not_written_over(models, photos, tmp_path):
    (tmp_path / "found.csv").write_text("mine")
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "mine.txt").write_text("mine")
    before = {path: path.read_bytes() for path in photos.iterdir()}
    for options in ({"output": tmp_path / "found.csv"}, {"output": tmp_path / "found", "form": "yolo"},
                    {"pictures": tmp_path / "found"}, {"pictures": photos}):  # fmt: skip
        with pytest.raises(OutputError, match="already"):
            answered(models["detection"], [photos], **options)
    assert (tmp_path / "found.csv").read_text() == (tmp_path / "found" / "mine.txt").read_text() == "mine"
    assert {path: path.read_bytes() for path in photos.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found", "found.csv", "photos"]


def test_two_things_in_one_place_are_refused(models, photos, tmp_path):
    place = tmp_path / "both.json"
    with pytest.raises(ConfigError, match="--output and --pictures are both"):
        answered(models["detection"], [photos], output=place, pictures=place)
    assert not place.exists()


def test_an_error_in_the_middle_leaves_no_table(models, photos, tmp_path):
    def show(page):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_files(models["detection"], [str(photos)], Options(output=tmp_path / "found.csv", workers=0), show)
    assert list(tmp_path.iterdir()) == [photos]


# ---------------------------------------------------------------- the screen and the command line


def test_the_screen(models, photos, capsys):
    shown, _ = answered(models["detection"], [photos])
    print_table(shown, models["detection"].kind)
    said = capsys.readouterr().out
    assert "a.png" in said
    assert any(f"{number} {name}" in said for number in (1, 2, 3, 4) for name in CLASSES)
    shown, _ = answered(models["semantic_segmentation"], [photos / "a.png"])
    print_table(shown, models["semantic_segmentation"].kind)
    assert "%" in capsys.readouterr().out


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """The command line in this process: exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["dualtoken", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr()
    return end.value.code or 0, told.out, told.err


def test_predict_on_the_command_line(folders, photos, tmp_path, monkeypatch, capsys):
    arguments = ["predict", folders["detection"], photos, "--threshold", "0", "--workers", "0", "--device", "cpu"]
    code, out, _ = run(monkeypatch, capsys, *arguments, "--pictures", tmp_path / "seen")
    assert code == 1  # one cannot be read
    assert "Predictions for 2 images, 1 could not be read" in " ".join(out.split())
    assert f"Written  {tmp_path / 'seen'}" in " ".join(out.split("\n"))
    code, out, _ = run(monkeypatch, capsys, *arguments, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["a.png", "b.jpg", "c.jpg"]
    assert lines[0]["objects"][0].keys() == {"label", "score", "box"}
    code, out, err = run(monkeypatch, capsys, *arguments, "--output", tmp_path / "found.json")
    assert code == 1
    assert "b.jpg" in err
    assert (tmp_path / "found.json").is_file()


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("detection", ["--sheet", "sheet.png"], "--sheet has no meaning for a model for detection"),
        ("detection", ["--output", "found"], "does not say what to write"),
        ("detection", ["--output", "found", "--form", "masks"], "There it is one of coco, yolo, csv, parquet, jsonl"),
        ("detection", ["--threshold", "2"], "--threshold"),
        ("detection", ["--tile", "8"], "--tile"),
        ("semantic_segmentation", ["--output", "found.json"], "cannot be written for semantic segmentation"),
        ("classification", ["--pictures", "seen"], "--pictures has no meaning for a model for classification"),
        ("classification", ["--tile", "64"], "--tile has no meaning"),
    ],
)
def test_mistakes_end_with_2_and_teach(folders, photos, tmp_path, monkeypatch, capsys, task, options, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(monkeypatch, capsys, "predict", folders[task], photos, *options)
    assert code == 2
    assert said in " ".join(err.split())
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == [photos]
