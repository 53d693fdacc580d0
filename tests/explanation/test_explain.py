"""From a model and images to figures and numbers, for every task."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from explained_models import CLASSES, make_folder
from PIL import Image
from typer.testing import CliRunner

import dualtoken
from dualtoken.cli import app
from dualtoken.errors import ConfigError, ImageError, ModelError, OutputError
from dualtoken.explanation import explain_each, opening
from dualtoken.explanation.targets import ask
from dualtoken.explanation.views import Part
from dualtoken.files import alone, digest
from dualtoken.model_folder import WEIGHTS, ModelConfig, load_config
from dualtoken.prediction import load
from dualtoken.prediction.exported import ExportInfo
from dualtoken.preprocess import Preprocessing

QUICK = {"steps": 2, "progress": False}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    made = {}

    def get(name, **options):
        key = (name, *options.items())
        if key not in made:
            made[key] = make_folder(tmp_path_factory.mktemp("explained") / name, name, **options)
        return made[key]

    return get


@pytest.fixture
def photo(tmp_path) -> Path:
    """Stripes, a disc and some noise, 120 x 80."""
    rows, columns = np.mgrid[:80, :120]
    pixels = np.stack([60 + columns, 200 - rows, 40 + 60 * (columns // 15 % 2)], axis=2)
    pixels[(rows - 40) ** 2 + (columns - 80) ** 2 < 500] = (240, 30, 60)
    pixels = pixels + np.random.default_rng(0).integers(-20, 21, pixels.shape)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def is_picture(path: Path) -> bool:
    """Readable, and not of one colour."""
    with Image.open(path) as image:
        return min(image.size) > 200 and np.asarray(image.convert("L")).std() > 5


def test_a_classifier_of_ours_is_explained_whole(folder_of, photo, tmp_path):
    output = tmp_path / "why"
    (result,) = dualtoken.explain(folder_of("classifier"), photo, output, most=2, **QUICK)
    assert {path.name for path in output.iterdir()} == {
        "photo.heat.png", "photo.tokens.png", "photo.1.png", "photo.2.png", "explanation.json",
    }  # fmt: skip
    assert all(is_picture(output / name) for name in ("photo.heat.png", "photo.tokens.png", "photo.1.png"))
    written = json.loads((output / "explanation.json").read_text())
    assert written["method"] == "hirescam"
    (image,) = written["images"]
    assert image == json.loads(json.dumps(result.to_dict()))
    assert [part["answered"] for part in image["targets"]] == [True, False]
    assert image["targets"][0]["score"] >= image["targets"][1]["score"]
    answer = load(folder_of("classifier"), device="cpu").predict(photo)
    assert image["targets"][0]["label"] == answer.label
    assert image["pixel"] == image["targets"][0]["peak"]
    assert [block["block"] for block in image["tokens"]["blocks"]] == ["1.1", "2.1", "3.2"]
    assert np.array(image["tokens"]["blocks"][1]["broadcast"]["heads"]).sum(axis=(1, 2)) == pytest.approx(1, abs=0.01)
    assert len(image["tokens"]["path"]) == 4
    assert len(image["targets"][0]["fresh_weights"]["rank_correlations"]) == 3
    assert "random maps" in result.summary()


def test_a_classifiers_score_is_that_of_its_answer(folder_of, photo):
    predictor = load(folder_of("classifier"), device="cpu")
    predictor.config.temperature = 3.0
    answer = predictor.predict(photo)
    (result,) = dualtoken.explain(predictor, photo, most=3, **QUICK)
    for part in result.targets:
        expected = float(answer.probabilities[part.target.label])
        assert part.target.score == pytest.approx(expected, abs=1e-6)
        worth = part.faithfulness
        assert (worth.deletion_curve[0], worth.insertion_curve[-1]) == pytest.approx((expected, expected), abs=1e-5)


@pytest.mark.parametrize("name", ["retinanet", "fcos", "faster_rcnn", "mask_rcnn"])
def test_objects_are_explained_by_the_score_that_found_them(folder_of, photo, name):
    (result,) = dualtoken.explain(folder_of(name), photo, most=2, **QUICK)
    answer = load(folder_of(name), device="cpu").predict(photo)
    assert len(result.targets) == 2
    for number, part in enumerate(result.targets):
        assert part.target.name == CLASSES[answer.labels[number]]
        left, top, right, bottom = part.target.box
        box = (*result.view.to_image((left, top)), *result.view.to_image((right, bottom)))
        np.testing.assert_allclose(np.clip(box, 0, [120, 80] * 2), answer.boxes[number], atol=0.01)
        assert part.target.score == pytest.approx(float(answer.scores[number]), abs=1e-5)
        assert part.faithfulness.deletion_curve[0] == pytest.approx(float(answer.scores[number]), abs=1e-5)
        assert (part.target.region is not None) == (name == "mask_rcnn")
        if name == "mask_rcnn":
            assert part.target.region.mean() == pytest.approx(answer.mask(number).mean(), abs=0.03)
        assert part.heat.method == "hirescam"
        assert len(part.heat.levels) >= 2
        assert np.ptp(part.heat.values) > 0
    assert (result.tokens is not None) == (name == "faster_rcnn")


def test_an_object_that_is_not_sure_enough_is_said_to_be(folder_of, photo, tmp_path):
    (result,) = dualtoken.explain(folder_of("retinanet", threshold=0.9999), photo, tmp_path / "why", **QUICK)
    assert [part.target.answered for part in result.targets] == [False]
    assert "threshold of 1.00" in result.summary()


@pytest.mark.parametrize("thresholds", [(), (0.5, 0.5, 0.2)])
def test_a_label_below_its_threshold_is_no_answer(thresholds):
    config = ModelConfig("any", ("a", "b", "c"), Preprocessing((8, 8)), "multilabel", thresholds=thresholds)
    logits = torch.tensor([[-0.5, -2.0, -1.0]])  # 38, 12 and 27 %
    found = ask(lambda _: logits, config, torch.zeros(1, 3, 8, 8), Part(0, 0, 8, 8), most=3).targets
    assert [(target.name, target.answered) for target in found] == [("a", False), ("c", bool(thresholds)), ("b", False)]


def test_regions_are_explained_by_the_pixels_that_they_have(folder_of, photo, tmp_path):
    output = tmp_path / "why"
    (result,) = dualtoken.explain(folder_of("segmenter"), photo, output, **QUICK)
    answer = load(folder_of("segmenter"), device="cpu").predict(photo)
    assert {part.target.name for part in result.targets} <= {CLASSES[k] for k in answer.present()}
    assert len(result.targets) >= 2
    for part in result.targets:
        shares = result.to_dict()["targets"]
        assert part.target.region.any()
    assert sum(share["region_share"] for share in shares) == pytest.approx(1, abs=0.07)  # less a border
    assert len(list(output.glob("photo.*.png"))) == len(result.targets) + 1


@pytest.mark.parametrize("name", ["segmenter", "retinanet"])
def test_a_class_that_is_not_in_the_image_is_said_to_be(folder_of, photo, tmp_path, name):
    predictor = load(folder_of(name), device="cpu")
    module = predictor.model.network.segmentation_head[0] if name == "segmenter" else None
    with torch.no_grad():
        if module is not None:
            module.bias[2] = -1000
        else:
            predictor.model.network.head.classification_head.cls_logits.bias.view(-1, 3)[:, 2] = -1000
    (result,) = dualtoken.explain(predictor, photo, tmp_path / "why", target="big bird", **QUICK)
    assert not result.targets
    assert "finds no" in result.summary()
    assert "'big bird'" in result.summary()
    assert json.loads((tmp_path / "why" / "explanation.json").read_text())["images"][0]["notes"]


def test_the_same_seed_gives_the_same_bits(folder_of, photo, tmp_path):
    for name in ("one", "two"):
        dualtoken.explain(folder_of("classifier"), photo, tmp_path / name, blocks=["1.1"], **QUICK)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    (other,) = dualtoken.explain(folder_of("classifier"), photo, seed=1, **QUICK)
    first = json.loads((tmp_path / "one" / "explanation.json").read_text())["images"][0]["targets"][0]
    assert other.targets[0].sanity.to_dict() != first["fresh_weights"]


def test_the_model_in_memory_is_left_as_it_was(folder_of, photo):
    predictor = load(folder_of("classifier"), device="cpu")
    before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    answer = predictor.predict(photo).probabilities
    state = torch.random.get_rng_state()
    (result,) = dualtoken.explain(predictor, Image.open(photo), blocks="all", **QUICK)
    assert [block.name for block in result.blocks] == ["1.1", "2.1", "3.1", "3.2"]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in predictor.model.state_dict().items())
    assert not any(module._forward_hooks for module in predictor.model.modules())
    np.testing.assert_array_equal(predictor.predict(photo).probabilities, answer)


def test_a_pixel_is_one_of_the_image(folder_of, photo):
    (result,) = dualtoken.explain(folder_of("classifier"), photo, pixel=(119, 0), blocks=["3.1"], **QUICK)
    assert result.pixel == (119, 0)
    assert result.position == pytest.approx((95.6, 0.4), abs=0.01)  # 120 x 80 pixels in an input of 96 x 64
    assert [block.name for block in result.blocks] == ["3.1"]
    with pytest.raises(ConfigError, match="the image is 120 x 80"):
        dualtoken.explain(folder_of("classifier"), photo, pixel=(120, 0), **QUICK)
    square = Image.new("RGB", (80, 80))
    with pytest.raises(ConfigError, match="cut off") as error:  # the input is wider: rows above and below are lost
        dualtoken.explain(folder_of("classifier"), square, pixel=(40, 1), **QUICK)
    assert "rows 13 to 67" in error.value.hint
    results = list(explain_each(folder_of("classifier"), [str(photo), square], pixel=(119, 0), **QUICK))
    assert [isinstance(result, tuple) for result in results] == [False, True]


def test_one_pixel_is_its_own_strongest(folder_of):
    (result,) = dualtoken.explain(folder_of("resnet"), Image.new("RGB", (1, 1), "red"), **QUICK)
    assert result.targets[0].peak == (0, 0)
    left, top, right, bottom = result.view.part
    for position in ((left + 0.5, top + 0.5), (right - 0.5, bottom - 0.5)):
        assert result.view.pixel_at(position) == (0, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "big brd"}, "Did you mean 'big bird'"),
        ({"method": "gradcm"}, "Did you mean 'gradcam'"),
        ({"blocks": ["3.9"]}, "Unknown block '3.9'"),
        ({"blocks": "first"}, "expected 'last', 'all' or a list"),
        ({"baseline": "black"}, "Unknown baseline"),
        ({"steps": 1}, "expected 2 to 1,000"),
        ({"steps": 100_000}, "expected 2 to 1,000"),
        ({"seed": -1}, "seed is -1"),
        ({"pixel": (-1, 3)}, "pixel is -1,3"),
        ({"most": 0}, "expected 1 or more"),
        ({"stride": 7}, "stride is 7"),
        ({"stride": 8, "method": "integrated_gradients"}, "ask pixels, not a map"),
        ({"method": "gradcam", "target": "dog", "stride": 7}, "stride is 7"),
    ],
)
def test_wrong_settings_teach_and_leave_nothing(folder_of, photo, tmp_path, settings, message):
    with pytest.raises(ConfigError) as error:
        dualtoken.explain(folder_of("classifier"), photo, tmp_path / "new" / "why", **(QUICK | settings))
    assert message in str(error.value)
    assert "--" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_networks_without_tokens_have_heat_maps_only(folder_of, photo, tmp_path):
    (result,) = dualtoken.explain(folder_of("resnet"), photo, tmp_path / "why", **QUICK)
    assert result.tokens is None
    assert result.to_dict()["tokens"] is None
    assert not (tmp_path / "why" / "photo.tokens.png").exists()
    with pytest.raises(ConfigError, match="test_resnet has no global tokens"):
        dualtoken.explain(folder_of("resnet"), photo, pixel=(1, 1), **QUICK)


@pytest.mark.parametrize(
    "args", [{"global_tokens": "normal"}, {"global_tokens": "none"}, {"local_mixer": "window", "token_grid": 3}]
)
def test_every_switch_has_its_figure(photo, tmp_path, args):
    from explained_models import SMALL

    from dualtoken.backbone import create_model
    from dualtoken.model_folder import ModelConfig
    from dualtoken.prediction import Predictor
    from dualtoken.preprocess import Preprocessing

    config = ModelConfig("dualtoken_vit_t_mix", CLASSES, Preprocessing((64, 64)), model_args=SMALL | args)
    model = create_model("dualtoken_vit_t_mix", num_classes=3, **config.model_args)
    (result,) = dualtoken.explain(Predictor(model, config), photo, tmp_path / "why", **QUICK)
    assert is_picture(tmp_path / "why" / "photo.tokens.png")
    assert bool(result.to_dict()["tokens"]["path"]) == (args.get("global_tokens") != "none")


def test_a_name_is_explained_with_fresh_weights_and_says_so(photo, tmp_path):
    (result,) = dualtoken.explain("test_vit", photo, **QUICK)
    assert "fresh weights" in result.notes[0]
    assert result.targets[0].sanity is None
    assert "correlation" not in result.summary()
    assert "too small to say" in result.summary()
    assert "score 0.00," not in result.summary()
    assert result.to_dict()["targets"][0]["fresh_weights"] is None


@pytest.mark.parametrize(
    ("name", "meant"), [("resnet81", "'resnet"), ("dualtoken-vit-cifar10", "'dualtoken-vit-t-cifar10'")]
)
def test_an_unknown_name_has_a_nearest(photo, tmp_path, name, meant):
    with pytest.raises(ModelError, match=f"There is no model '{name}'. Did you mean {meant}"):
        dualtoken.explain(name, photo, tmp_path / "why", **QUICK)
    assert not (tmp_path / "why").exists()


def test_an_export_is_refused_and_its_folder_named(folder_of, photo, tmp_path, monkeypatch):
    folder = folder_of("classifier")
    export = folder.parent / "model.onnx"
    export.touch()
    info = ExportInfo("onnx", "test", weights_sha256=digest(folder / WEIGHTS))
    monkeypatch.setattr(opening, "read_export", lambda path: (load_config(folder), info))
    with pytest.raises(ModelError, match="no gradients") as error:
        dualtoken.explain(export, photo, **QUICK)
    assert f"dualtoken explain {folder} " in error.value.hint
    elsewhere = tmp_path / "model.onnx"
    elsewhere.touch()
    with pytest.raises(ModelError) as error:
        dualtoken.explain(elsewhere, photo, **QUICK)
    assert info.weights_sha256[:12] in error.value.hint


def test_another_file_is_not_to_be_exported_over(photo, tmp_path):
    foreign = tmp_path / "fake.tflite"
    foreign.write_bytes(b"something")
    with pytest.raises(ModelError, match="no gradients") as error:
        dualtoken.explain(foreign, photo, **QUICK)
    assert "a model folder" in error.value.hint
    assert "export" not in str(error.value)


def test_what_is_there_is_not_written_over(folder_of, photo, tmp_path):
    (tmp_path / "why").mkdir()
    (tmp_path / "why" / "mine.txt").touch()
    with pytest.raises(OutputError):
        dualtoken.explain(folder_of("resnet"), photo, tmp_path / "why", **QUICK)


def test_bad_images_do_not_stop_the_rest(folder_of, photo, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    results = list(explain_each(folder_of("resnet"), [bad, photo, photo], tmp_path / "why", **QUICK))
    assert isinstance(results[0][1], ImageError)
    assert [image.files["heat"] for image in results[1:]] == ["photo.heat.png", "photo-2.heat.png"]
    assert len(json.loads((tmp_path / "why" / "explanation.json").read_text())["images"]) == 2
    with pytest.raises(ImageError):
        dualtoken.explain(folder_of("resnet"), [bad, photo], **QUICK)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_steer_are_markup_or_are_not_utf8(folder_of, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # the bar is shown then
    names = [os.fsdecode(b"caf\xe9.png"), "a\x1b[2Jb.png", "b[/red].png"]
    (tmp_path / "b[").mkdir()
    for name in names:
        shutil.copy(photo, tmp_path / name)
    shown = dualtoken.explain(folder_of("resnet"), [str(tmp_path / name) for name in names], tmp_path / "why", steps=2)
    told = [r"caf\xe9.png", r"a\u001b[2Jb.png", "b[/red].png"]
    assert [result.path.removeprefix(f"{tmp_path}/") for result in shown] == told
    held = json.loads((tmp_path / "why" / "explanation.json").read_text(encoding="utf-8"))
    assert all((tmp_path / "why" / image["files"]["heat"]).is_file() for image in held["images"])


def test_an_interruption_leaves_what_is_finished(folder_of, photo, tmp_path):
    results = explain_each(folder_of("resnet"), [photo, photo], tmp_path / "why", **QUICK)
    next(results)
    results.close()
    assert {path.name for path in (tmp_path / "why").iterdir()} == {
        "photo.heat.png", "photo.1.png", "explanation.json",
    }  # fmt: skip


def test_the_command_explains(folder_of, photo, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    run = CliRunner().invoke(
        app,
        ["explain", str(folder_of("classifier")), str(photo), str(bad), "--output", str(tmp_path / "why"),
         "--pixel", "60,40", "--target", "dog", "--steps", "2", "--blocks", "1.1,3.2", "--method", "gradcam"],
    )  # fmt: skip
    assert run.exit_code == 1
    assert "dog 0." in run.stdout
    assert "bad.png" in run.output
    written = json.loads((tmp_path / "why" / "explanation.json").read_text())
    assert written["images"][0]["pixel"] == [60, 40]
    assert [block["block"] for block in written["images"][0]["tokens"]["blocks"]] == ["1.1", "3.2"]
    wrong = CliRunner().invoke(
        app, ["explain", str(folder_of("resnet")), str(photo), "--output", "x", "--pixel", "60"]
    )  # fmt: skip
    assert isinstance(wrong.exception, ConfigError)


def test_the_command_leaves_nothing_where_no_image_can_be_read(folder_of, tmp_path):
    output = tmp_path / "why"
    run = CliRunner().invoke(
        app, ["explain", str(folder_of("resnet")), str(tmp_path / "no.png"), "--output", str(output)]
    )  # fmt: skip
    assert run.exit_code == 2
    assert "nothing was written" in run.output
    assert "Written" not in run.output
    assert not output.exists()


@pytest.mark.parametrize("done", [0, 1])
def test_the_command_says_what_an_interruption_leaves(folder_of, photo, tmp_path, monkeypatch, done):
    from dualtoken.explanation import run as room

    images, explain_one = [], room._explain_one

    def interrupted(*arguments):
        if len(images) == done:
            raise KeyboardInterrupt
        images.append(1)
        return explain_one(*arguments)

    monkeypatch.setattr(room, "_explain_one", interrupted)
    output = tmp_path / "why"
    run = CliRunner().invoke(
        app, ["explain", str(folder_of("resnet")), str(photo), str(photo), "--output", str(output), "--steps", "2"]
    )
    assert run.exit_code == 130 or isinstance(run.exception, KeyboardInterrupt)
    assert ("1 image done" if done else "0 images done") in run.output
    assert ("explanation.json holds them" if done else "nothing was written") in run.output.replace("\n", "")
    assert output.exists() == bool(done)


def test_two_explanations_into_one_folder(folder_of, photo, tmp_path):
    with alone(tmp_path / "seen"), pytest.raises(OutputError, match="being written by process"):
        dualtoken.explain(folder_of("resnet"), photo, tmp_path / "seen", **QUICK)
    assert not (tmp_path / "seen").exists()
