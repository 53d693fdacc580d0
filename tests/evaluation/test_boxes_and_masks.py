"""`evaluate` and `compare` for boxes and masks: models that see everything or nothing, and which images they get."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dualtoken import cli
from dualtoken.data import IGNORE, find_data
from dualtoken.errors import DataError, ImageError, OutputError
from dualtoken.evaluation import compare, evaluate
from dualtoken.evaluation.sources import open_data
from dualtoken.images import DEFAULT_LIMITS
from dualtoken.model_folder import ModelConfig, build_model, save_model
from dualtoken.prediction import Predictor
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks import as_arrays

COLOURS = {"red": (230, 30, 30), "blue": (30, 30, 230)}
CLASSES = tuple(COLOURS)
GROUND = (40, 200, 40)
INPUT = Preprocessing((64, 64), 1.0, "border", "nearest", mean=(0, 0, 0), std=(1, 1, 1))
QUIET = {"workers": 0, "progress": False, "resamples": 40}
OBJECTS = 14  # in the twelve pictures
TASKS = ("detection", "instance_segmentation", "semantic_segmentation")


def drawn(number: int) -> tuple[Image.Image, list[tuple[str, tuple[int, int, int, int]]]]:
    """A picture 64 pixels wide with a red, a blue or both rectangles on green, or none in each fifth."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (64, 48 + number % 3 * 8), GROUND)
    found = []
    for place, name in enumerate(CLASSES):
        if number % 5 != 4 and (number % 3 == place or number % 3 == 2):
            left, top = 32 * place + int(rng.integers(1, 9)), int(rng.integers(1, 15))
            box = (left, top, left + int(rng.integers(12, 20)), top + int(rng.integers(16, 30)))
            image.paste(COLOURS[name], box)
            found.append((name, box))
    return image, found


def write_scenes(root: Path, count: int = 12, first: int = 0, folder: str = "") -> Path:
    """COCO json and masks of the same pictures."""
    for name in ("images", "masks"):
        (root / name / folder).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(first, first + count):
        image, found = drawn(number)
        image.save(root / "images" / folder / f"{number}.png")
        mask = np.zeros((image.height, image.width), np.uint8)
        for name, (left, top, right, bottom) in found:
            label = CLASSES.index(name) + 1
            mask[top:bottom, left:right] = label
            ring = [left, top, right, top, right, bottom, left, bottom]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": label, "segmentation": [ring],
                 "bbox": [left, top, right - left, bottom - top]}
            )  # fmt: skip
        Image.fromarray(mask).save(root / "masks" / folder / f"{number}.png")
        images.append({"id": number, "file_name": f"images/{folder}/{number}.png".replace("//", "/"),
                       "width": image.width, "height": image.height})  # fmt: skip
    categories = [{"id": place, "name": name} for place, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir(exist_ok=True)
    name = f"instances_{folder}.json" if folder else "instances.json"
    (root / "annotations" / name).write_text(json.dumps(content))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in ("ground", *CLASSES)))
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def scenes(made, tmp_path) -> Path:
    """The pictures again, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "scenes"))


def classes_of(task: str) -> tuple[str, ...]:
    return ("ground", *CLASSES) if task == "semantic_segmentation" else CLASSES


class Seeing(nn.Module):
    """Finds what `drawn` draws by its colour, in the raw outputs of a task; or nothing at all."""

    def __init__(self, classes: tuple[str, ...], scenes: bool, *, everything: bool = True):
        super().__init__()
        self.classes, self.scenes, self.everything = classes, scenes, everything
        self.weight = nn.Parameter(torch.zeros(1))

    def looks(self, image) -> bool:
        return self.everything

    def where(self, image, name: str):
        colour = torch.tensor(COLOURS.get(name, GROUND)) / 255
        return (image - colour[:, None, None]).abs().amax(0) < (0.2 if self.looks(image) else -1)

    def forward(self, images):
        if self.scenes:
            return [self.objects(image) for image in images]
        found = torch.stack([torch.stack([self.where(image, name) for name in self.classes]) for image in images])
        return 20 * found.float()

    def objects(self, image):
        boxes, labels = [], []
        for label, name in enumerate(self.classes):
            rows, columns = torch.nonzero(self.where(image, name), as_tuple=True)
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(label)
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.full((len(boxes),), 0.8),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.ones(len(boxes), 28, 28),
        }


class SeeingPredictor(Predictor):
    """Its network gives what is in the image at once, without a head that must be decoded."""

    def answer(self, images, sizes):
        raw = as_arrays(self.model(torch.from_numpy(images)))
        return self.kind.read(self.config, raw, sizes)


def model(task: str, classes: tuple[str, ...] | None = None, **options) -> Predictor:
    classes = classes or classes_of(task)
    config = ModelConfig("colours", classes, INPUT, task=task, head="seeing")
    return SeeingPredictor(Seeing(classes, task != "semantic_segmentation", **options), config)


def blind(task: str) -> Predictor:
    return model(task, everything=False)


MAIN = {"detection": "ap", "instance_segmentation": "mask_ap50", "semantic_segmentation": "miou"}


# ---------------------------------------------------------------- evaluate


@pytest.mark.parametrize("task", TASKS)
def test_who_sees_everything_scores_one(made, task):
    evaluation = evaluate(model(task), made, **QUIET)
    assert (evaluation.task, evaluation.split, evaluation.n) == (task, "all", 12)
    assert evaluation.metrics[MAIN[task]].value == pytest.approx(1)
    assert evaluation.metrics[MAIN[task]].high == pytest.approx(1)
    if task == "semantic_segmentation":
        assert evaluation.metrics["pixel_accuracy"].value == evaluation.metrics["boundary_iou"].value == 1
        assert (evaluation.images.miou == 1).all()
    else:
        assert evaluation.metrics["ap75"].value == pytest.approx(1)
        assert (evaluation.images.f1 == 1).all()
        assert evaluation.settings["threshold"] == pytest.approx(0.8)
        assert evaluation.images.objects.sum() == evaluation.images.found.sum() == OBJECTS
    json.dumps(evaluation.to_dict(), allow_nan=False)


@pytest.mark.parametrize("task", TASKS)
def test_who_sees_nothing_scores_nothing(made, task):
    evaluation = evaluate(blind(task), made, **QUIET)
    if task == "semantic_segmentation":
        assert evaluation.metrics["miou"].value < 1 / 3
        assert [evaluation.per_class[place].iou.value for place in (1, 2)] == [0, 0]
    else:
        assert evaluation.metrics["ap"].value == 0
        assert evaluation.settings["threshold"] == 0.5  # no score is better than another
        assert evaluation.images.found.sum() == evaluation.images.false.sum() == 0
    json.dumps(evaluation.to_dict(), allow_nan=False)


@pytest.mark.parametrize("task", TASKS)
def test_files_are_written(made, task, tmp_path):
    evaluation = evaluate(model(task), made, output=tmp_path / "out", **QUIET)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    expected = {"evaluation.json", "report.html", "predictions.csv", "confusion.png", "classes.png", "reliability.png"}
    assert written == expected | ({"curves.png"} if task != "semantic_segmentation" else set())
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content == json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert {Path(row["path"]).stem for row in rows} == {str(number) for number in range(12)}
    assert {row["f1" if task != "semantic_segmentation" else "miou"] for row in rows} == {"1.000000"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "worst: " in page
    assert "<img" in page


def test_an_impossible_output_is_found_before_the_work(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        evaluate("no model", made, output=tmp_path / "file")


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batches_change_nothing(made, batch_size):
    evaluation = evaluate(model("detection"), made, batch_size=batch_size, **QUIET)
    assert evaluation.metrics["ap"].value == pytest.approx(1)
    assert evaluation.images.index.tolist() == list(range(12))


@pytest.mark.parametrize("task", ["detection", "semantic_segmentation"])
def test_the_same_seed_gives_the_same_numbers(made, task):
    half = model(task)
    half.model.looks = lambda image: bool(image[:, 0, 0].any())  # where there is no border above
    first, again, other = (evaluate(half, made, seed=seed, **QUIET).to_dict() for seed in (4, 4, 5))
    assert first == again
    key = MAIN[task]
    assert first[key]["value"] == other[key]["value"]
    assert 0 < first[key]["value"] < 1
    assert (first[key]["low"], first[key]["high"]) != (other[key]["low"], other[key]["high"])


@pytest.mark.parametrize("task", TASKS)
def test_a_path_is_matched_with_the_models_class_names(made, task):
    evaluation = evaluate(model(task, classes_of(task)[::-1]), made, **QUIET)
    assert evaluation.metrics[MAIN[task]].value == pytest.approx(1)
    with pytest.raises(DataError, match="red"):
        evaluate(model(task, tuple("rad" if name == "red" else name for name in classes_of(task))), made, **QUIET)


def test_what_was_found_before_is_taken_as_it_is(made):
    data = find_data(made, task="detection", val_fraction=0)
    assert evaluate(model("detection"), data, **QUIET).metrics["ap"].value == pytest.approx(1)
    with pytest.raises(DataError, match="Give the path"):
        evaluate(model("detection", CLASSES[::-1]), data, **QUIET)


def test_splits(tmp_path):
    write_scenes(tmp_path, 6, folder="train")
    write_scenes(tmp_path, 4, first=6, folder="val")
    assert (evaluate(model("detection"), tmp_path, **QUIET).split) == "val"
    assert evaluate(model("detection"), tmp_path, split="train", **QUIET).n == 6
    with pytest.raises(DataError, match="Known: train, val"):
        evaluate(model("detection"), tmp_path, split="vla", **QUIET)


def provenance(fingerprint: str, seed: int, **settings) -> dict[str, object]:
    return {"data": {"fingerprint": fingerprint}, "seed": seed, "settings": {"val_fraction": 0.25} | settings}


def opened(predictor, data):
    return open_data(data, predictor, on_bad_image="fail", limits=DEFAULT_LIMITS, progress=False)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("most", [None, 2])
def test_images_that_training_saw_are_not_measured(scenes, task, most):
    trained_on = find_data(scenes, task=task, seed=3, val_fraction=0.25, most=most)
    predictor = model(task)
    assert evaluate(predictor, scenes, **QUIET).split == "all"  # nothing says what it was trained on
    predictor.config.provenance = provenance(trained_on.fingerprint, 3, images_per_split=most)
    found, draw = opened(predictor, scenes)
    assert draw.seed == 3
    assert found.splits["val"].names.tolist() == trained_on.splits["val"].names.tolist()
    evaluation = evaluate(predictor, scenes, **QUIET)
    assert (evaluation.split, evaluation.n) == ("val", 2 if most else 3)
    Image.new("RGB", drawn(3)[0].size).save(scenes / "images" / "3.png")  # other data now
    assert evaluate(predictor, scenes, **QUIET).split == "all"


def test_labels_that_the_model_learned_are_read(scenes):
    (scenes / "labels").mkdir()
    for path in (scenes / "images").iterdir():
        (scenes / "labels" / f"{path.stem}.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.2 0.2")
    (scenes / "data.yaml").write_text(f"names: [{', '.join(CLASSES)}]\n")
    predictor = model("detection")
    assert evaluate(predictor, scenes, **QUIET).metrics["ap"].value == pytest.approx(1)
    assert evaluate(predictor, scenes, labels="yolo", **QUIET).images.objects.sum() == 24
    predictor.config.provenance = {"settings": {"labels": "yolo"}}
    assert evaluate(predictor, scenes, **QUIET).images.objects.sum() == 24
    assert evaluate(predictor, scenes, labels="coco", **QUIET).images.objects.sum() == OBJECTS


@pytest.mark.parametrize("task", TASKS)
def test_bad_images_fail_or_are_listed(scenes, task):
    data = find_data(scenes, task=task, val_fraction=0)
    (scenes / "images" / "3.png").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"3\.png"):
        evaluate(model(task), data, **QUIET)
    evaluation = evaluate(model(task), data, on_bad_image="skip", **QUIET)
    assert evaluation.n == 11
    assert [Path(path).name for path, _ in evaluation.bad_images] == ["3.png"]
    assert "Left out           1 that cannot be used" in evaluation.summary()
    evaluation = evaluate(model(task), scenes, on_bad_image="skip", **QUIET)
    assert evaluation.n == 11
    for path in (scenes / "images").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="none can be read"):
        evaluate(model(task), data, on_bad_image="skip", **QUIET)


def test_a_bad_mask_is_left_out_too(scenes):
    data = find_data(scenes, task="semantic_segmentation", val_fraction=0)
    Image.new("L", (3, 3)).save(scenes / "masks" / "3.png")
    with pytest.raises(ImageError, match=r"3\.png"):
        evaluate(model("semantic_segmentation"), data, **QUIET)
    evaluation = evaluate(model("semantic_segmentation"), data, on_bad_image="skip", **QUIET)
    assert (evaluation.n, len(evaluation.bad_images)) == (11, 1)


def test_images_without_a_labelled_pixel_do_not_count(scenes, tmp_path):
    Image.new("L", drawn(3)[0].size, IGNORE).save(scenes / "masks" / "3.png")
    evaluation = evaluate(model("semantic_segmentation"), scenes, output=tmp_path / "out", **QUIET)
    assert evaluation.n == 11
    assert evaluation.metrics["miou"].value == 1


@pytest.mark.parametrize("task", ["detection", "semantic_segmentation"])
def test_a_model_folder(made, task, tmp_path):
    torch.manual_seed(0)
    head = {"detection": "fcos", "semantic_segmentation": "fpn"}[task]
    args = {"channels": 64} if task == "detection" else {}
    config = ModelConfig("test_resnet", classes_of(task), INPUT, task=task, head=head, head_args=args)
    save_model(build_model(config), config, tmp_path / "model")
    evaluation = evaluate(tmp_path / "model", made, device="cpu", **QUIET)
    assert evaluation.model == str(tmp_path / "model")
    assert "split 'all'" in evaluation.summary()


# ---------------------------------------------------------------- compare


@pytest.mark.parametrize("task", TASKS)
def test_a_clearly_better_model_is_named(made, task):
    first, second = compare(model(task), blind(task), made, **QUIET), compare(blind(task), model(task), made, **QUIET)
    assert (first.better, second.better) == ("a", "b")
    assert first.difference.high < 0 < second.difference.low
    assert first.verdict().startswith("A is better by ")
    assert second.verdict() == "B" + first.verdict()[1:]
    assert first.better_a == second.better_b > 0 == first.better_b
    assert first.images == 12
    json.dumps(first.to_dict(), allow_nan=False)


@pytest.mark.parametrize("task", TASKS)
def test_a_model_is_not_better_than_itself(made, task):
    comparison = compare(model(task), model(task), made, **QUIET)
    assert comparison.better is None
    assert comparison.difference.value == 0
    assert "not distinguishable" in comparison.summary()


def test_models_that_cannot_be_compared(made):
    with pytest.raises(DataError, match="for detection, 'colours' for semantic_segmentation"):
        compare(model("detection"), model("semantic_segmentation"), made, **QUIET)
    with pytest.raises(DataError, match="only B knows 'pink'"):
        compare(model("detection"), model("detection", ("red", "blue", "pink")), made, **QUIET)


def test_bad_images_are_left_out_of_both(scenes):
    data = find_data(scenes, task="detection", val_fraction=0)
    (scenes / "images" / "3.png").write_bytes(b"broken")
    comparison = compare(model("detection"), blind("detection"), data, on_bad_image="skip", **QUIET)
    assert (comparison.images, comparison.better) == (11, "a")


def test_a_model_that_has_seen_the_images_is_pointed_out(made):
    found = find_data(made, task="detection", val_fraction=0)
    a, b = model("detection"), blind("detection")
    b.config.provenance = provenance(found.fingerprint, 1)
    assert compare(a, b, made, **QUIET).split == "val"  # as B's training drew it
    a.config.provenance = provenance(found.fingerprint, 2)
    comparison = compare(a, b, made, **QUIET)
    assert "B was trained on these data with another val split" in comparison.summary()
    assert comparison.note in comparison.summary()
    b.config.provenance = provenance(found.fingerprint, 2)
    assert compare(a, b, made, **QUIET).note == ""


# ---------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("model")
    config = ModelConfig("test_resnet", CLASSES, INPUT, task="detection", head="fcos", head_args={"channels": 64})
    save_model(build_model(config), config, made)
    return made


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """The command line in this process: exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["dualtoken", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr()
    return end.value.code or 0, told.out, told.err


def test_evaluate_and_compare_on_the_command_line(made, folder, monkeypatch, capsys):
    options = ["--workers", "0", "--device", "cpu"]
    code, out, _ = run(monkeypatch, capsys, "evaluate", folder, made, *options, "--json")
    assert code == 0
    content = json.loads(out)
    assert (content["task"], content["images"], content["split"]) == ("detection", 12, "all")
    code, out, _ = run(monkeypatch, capsys, "evaluate", folder, made, *options)
    assert "Box AP50" in out
    code, out, _ = run(monkeypatch, capsys, "compare", folder, folder, made, *options)
    assert code == 0
    assert "not distinguishable" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "MODEL", "DATA", "--labels", "masks"], "detection cannot learn from 'masks'"),
        (["evaluate", "MODEL", "DATA", "--labels", "voc"], "no labels of the kind 'voc'"),
        (["evaluate", "MODEL", "DATA", "--split", "vall"], "Unknown split 'vall'"),
        (["evaluate", "MODEL", "DATA/masks"], "no labels of a known kind"),
        (["convert", "DATA", "--to", "yolo", "--output", "DATA"], "is there already"),
        (
            ["convert", "DATA", "--labels", "masks", "--to", "yolo", "--output", "new"],
            "Masks are written as masks only",
        ),
        (["convert", "DATA", "--labels", "folders", "--to", "yolo", "--output", "new"], "nothing to convert"),
        (["convert", "DATA", "--to", "yollo", "--output", "new"], "--to"),
    ],
)
def test_mistakes_end_with_2_and_teach(made, folder, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    places = {"MODEL": str(folder), "DATA": str(made)}
    typed = [argument.replace("DATA", places["DATA"]).replace("MODEL", places["MODEL"]) for argument in arguments]
    code, _, err = run(monkeypatch, capsys, *typed)
    assert code == 2
    assert said in " ".join(err.split())
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_convert_on_the_command_line(made, tmp_path, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "convert", made, "--to", "yolo", "--output", tmp_path / "new")
    assert code == 0
    assert f"12 images, {OBJECTS} objects" in out
    assert evaluate(model("detection"), tmp_path / "new", **QUIET).metrics["ap"].value == pytest.approx(1, abs=1e-3)
