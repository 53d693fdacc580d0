"""Every verb, given what is wrong: it ends with 2, says so in words, and writes nothing."""

import json
import sys
from pathlib import Path

import pytest

from conftest import write_class_folders
from dualtoken import cli
from dualtoken.hub import DEFAULT

MODEL = DEFAULT  # comes with the package


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """An empty folder, texts, files that are not what they are called, class folders, and boxes."""
    root = tmp_path_factory.mktemp("wrong")
    (root / "empty").mkdir()
    (root / "texts").mkdir()
    (root / "texts" / "a.txt").write_text("a")
    write_class_folders(root / "photos", per_class=2)
    photo = next((root / "photos").rglob("*.jpg")).read_bytes()
    (root / "cut.jpg").write_bytes(photo[: len(photo) // 3])
    (root / "text.jpg").write_text("no image\n")
    (root / "void.jpg").write_bytes(b"")
    (root / "text.onnx").write_text("no network\n")
    (root / "broken").mkdir()
    (root / "broken" / "model.json").write_text("{")
    (root / "boxes").mkdir()
    (root / "boxes" / "1.jpg").write_bytes(photo)
    labels = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 32, "height": 32}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "boxes" / "_annotations.coco.json").write_text(json.dumps(labels))
    return root


WRONG = [
    ("train", "Missing argument 'DATA'"),
    ("train photos", "Type: dualtoken train photos --output RUN"),
    ("train nowhere --output out", "There is no 'nowhere'"),
    ("train empty --output out", "'empty' holds no images. Give each class a folder"),
    ("train texts --output out", "'texts' holds no images. Looked for:"),
    ("train cut.jpg --output out", "neither a folder nor a zip archive nor a label file"),
    ("train photos --output cut.jpg", "is there already"),
    ("train photos --output out --task detection", "no labels of a known kind"),
    ("train boxes --output out --task classification", "These labels are for detection"),
    ("train photos --output out --device gpu", "There is no device 'gpu'. Type: --device auto"),
    ("train photos --output out --lr -1", "lr is -1.0, expected a number above 0"),
    ("train photos --resume nowhere", "nowhere"),
    ("distill photos --output out", "There is no teacher"),
    ("distill photos --teacher nowhere --output out", "There is no model 'nowhere'"),
    (f"distill empty --teacher {MODEL} --output out", "'empty' holds no images"),
    ("throughput nowhere", "There is no 'nowhere'"),
    ("throughput photos --set batch_sise=3", "batch_sise"),
    ("verify-resume photos --kills 0", "--kills is 0: a run that is not killed"),
    ("reproduce nowhere photos --output out", "'nowhere' is no finished run"),
    ("evaluate nowhere photos", "There is no model folder 'nowhere'"),
    ("evaluate broken photos", "broken"),
    (f"evaluate {MODEL} nowhere", "There is no 'nowhere'"),
    (f"evaluate {MODEL} empty", "'empty' holds no images"),
    (f"evaluate {MODEL} photos", "class"),
    (f"evaluate {MODEL} boxes", "boxes"),
    (f"compare {MODEL} nowhere photos", "There is no model folder 'nowhere'"),
    ("predict", "INPUT is missing"),
    (f"predict {MODEL}", "is a model"),
    ("predict nowhere.jpg", "There is no file 'nowhere.jpg'"),
    ("predict cut.jpg text.jpg void.jpg", "'text.jpg' is not an image that can be read: it looks like a text"),
    ("predict texts", "The folder 'texts' holds no images"),
    ("predict photos --output found.abc", "Unknown suffix '.abc'. Known: .jsonl, .csv, .parquet"),
    (f"explain {MODEL} cut.jpg", "Missing option '--output'"),
    (f"explain {MODEL} cut.jpg --output out", "'cut.jpg' is damaged"),
    (f"explain {MODEL} empty --output out", "'empty' holds no images"),
    ("app nowhere", "nowhere"),
    ("serve", "MODEL"),
    ("serve nowhere.onnx", "nowhere.onnx"),
    ("serve text.onnx", "text.onnx"),
    ("serve cut.jpg", "'cut.jpg' is no exported model"),
    ("convert-weights nowhere.safetensors --model cas_vit_xs --output new", "There is no file 'nowhere.safetensors'"),
    ("convert-weights photos --model cas_vit_xx --output new", "Did you mean 'cas_vit_xs'"),
    ("convert nowhere --to yolo --output out", "There is no 'nowhere'"),
    ("convert boxes --to yol --output out", "Did you mean 'yolo'"),
    ("convert texts --to coco --output out", "'texts'"),
    ("pack nowhere out", "There is no 'nowhere'"),
    ("pack empty out", "'empty' holds no images"),
    ("export nowhere", "nowhere"),
    (f"export {MODEL}", "--output is missing"),
    (f"export {MODEL} --output out.onx", "Did you mean .onnx?"),
    (f"export {MODEL} --output out.onnx --images nowhere", "There is no file 'nowhere'"),
    (f"verify nowhere.onnx {MODEL}", "nowhere.onnx"),
    (f"verify text.onnx {MODEL}", "text.onnx"),
    ("quantize nowhere.onnx photos --output out.onnx", "nowhere.onnx"),
    ("quantize text.onnx --output out.onnx", "DATA is missing"),
    ("quantize text.onnx photos --output out.onnx", "text.onnx"),
    ("benchmark nowhere", "nowhere"),
    (f"benchmark {MODEL} --engine eagr", "Did you mean 'eager'"),
    (f"benchmark {MODEL} --batch x", "--batch is 'x', expected whole numbers"),
    ("study ablation photos --output out", "Did you mean 'ablations'"),
    ("study ablations nowhere --output out", "nowhere"),
    ("study ablations photos --output out --budget 2q", "2q"),
    ("tables --results nowhere", "nowhere"),
    ("tables --markdown nowhere.md", "There is no file 'nowhere.md'"),
    ("runtime-bundle nowhere.onnx --output out", "nowhere.onnx"),
    ("push nowhere a/b --dry-run", "nowhere"),
    ("models --family nowhere", "nowhere"),
    ("models --max-gmacs -1", "Invalid value for '--max-gmacs'"),
    ("demo --output cut.jpg", "cut.jpg"),
]


def test_each_verb_has_a_mistake():
    assert {typed.split()[0] for typed, _ in WRONG} == set(cli.VERBS)


@pytest.mark.parametrize(("typed", "said"), WRONG, ids=[typed for typed, _ in WRONG])
def test_a_mistake_ends_with_2_and_is_explained(world, monkeypatch, capfd, typed, said):
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "argv", ["dualtoken", *typed.split()])
    before = sorted(world.rglob("*"))
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capfd.readouterr()
    text = " ".join((told.out + told.err).split())
    assert end.value.code == 2, text
    assert said in text
    assert "Traceback" not in text
    assert sorted(world.rglob("*")) == before
