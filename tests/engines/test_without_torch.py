"""The command line on exported models where torch and everything of training is not installed."""

import csv
import json
import tomllib
from pathlib import Path

import pytest
from forbidding import HEAVY, dualtoken_without, run_without
from small_exports import Made

from conftest import invent_image
from dualtoken import cli
from dualtoken.images import open_image
from dualtoken.runtime import ENGINES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(once) -> Made:
    return Made(once)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two pictures, and between them one that is broken."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(50, 70), (64, 96)]):
        invent_image(number, 0, size).save(folder / f"{2 * number}.png")
    (folder / "1.png").write_bytes(b"broken")
    return folder


def test_classes_to_tables_and_sheets(made, photos, tmp_path):
    for name, model in (("with", made() / "model"), ("without", made() / "model.onnx")):
        forbidden = HEAVY if name == "without" else ()
        done = dualtoken_without(
            forbidden,
            "predict",
            model,
            photos,
            "--output",
            tmp_path / f"{name}.csv",
            "--sheet",
            tmp_path / f"{name}.png",
        )
        assert done.returncode == 1, done.stderr  # a picture is broken
        assert "Predictions for 2 images, 1 could not be read" in done.stdout
    rows = [
        list(csv.DictReader((tmp_path / f"{name}.csv").read_text("utf-8").splitlines())) for name in ("with", "without")
    ]
    assert len(rows[0]) == 3
    for row, other in zip(*rows, strict=True):
        for key, value in row.items():
            number = key.startswith("score") and value
            assert float(value) == pytest.approx(float(other[key]), abs=1e-4) if number else value == other[key]
    sheets = [open_image(tmp_path / f"{name}.png") for name in ("with", "without")]
    assert sheets[0].size == sheets[1].size
    assert sheets[1].convert("L").getextrema()[0] < 60  # there is text in it


def test_masks_to_tables_and_pictures(made, photos, tmp_path):
    folder = made("instance_segmentation")
    for name, model in (("with", folder / "model"), ("without", folder / "model.onnx")):
        done = dualtoken_without(
            HEAVY if name == "without" else (), "predict", model, photos / "0.png", photos / "2.png",
            "--output", tmp_path / f"{name}.json", "--pictures", tmp_path / name,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("with", "without"))
    assert len(ours["annotations"]) == len(theirs["annotations"]) > 2
    for one, other in zip(ours["annotations"], theirs["annotations"], strict=True):
        assert one["category_id"] == other["category_id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.01)
    assert sorted(path.name for path in (tmp_path / "without").iterdir()) == ["0.jpg", "2.jpg"]
    assert open_image(tmp_path / "without" / "0.jpg").size == open_image(tmp_path / "with" / "0.jpg").size


def test_json_lines_and_evaluation(made, photos, make_image_folder):
    model = made() / "model.onnx"
    done = dualtoken_without(HEAVY, "predict", model, photos / "0.png", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] in ("cat", "dog", "café")
    data = make_image_folder()
    done = dualtoken_without(HEAVY, "evaluate", model, data, "--workers", 0, "--json")
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["top1"]["value"] <= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "MODEL", "PHOTOS"], "pip install 'dualtoken[train]'"),
        (["evaluate", "MODEL", "PHOTOS"], "pip install 'dualtoken[train]'"),
        (["train", "PHOTOS", "--output", "out"], "pip install 'dualtoken[train]'"),
        (["demo"], "pip install 'dualtoken["),
        (["evaluate", "EXPORT", "DATA", "--output", "out"], "pip install 'dualtoken[train]'"),
    ],
)
def test_what_needs_torch_says_so(made, photos, make_image_folder, tmp_path, arguments, said):
    places = {"MODEL": made() / "model", "EXPORT": made() / "model.onnx", "PHOTOS": photos}
    places["DATA"] = make_image_folder()
    typed = [places.get(argument, argument) for argument in arguments]
    done = dualtoken_without((*HEAVY, "sklearn"), *typed, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_list_of_networks_needs_no_torch():
    done = dualtoken_without(HEAVY, "models", "--json")
    assert done.returncode == 0, done.stderr
    assert "dualtoken_vit_t_mix" in {row["model"] for row in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "Copy or export it again"),
        (lambda path: path.rename(path.with_suffix(".keras")), "Those that do end in"),
        (lambda path: path.unlink(), "There is no file"),
    ],
)
def test_mistakes_end_with_2(made, photos, tmp_path, damage, said):
    path = tmp_path / "model.onnx"
    path.write_bytes((made() / "model.onnx").read_bytes())
    damage(path)
    path = next(tmp_path.iterdir(), path)
    done = dualtoken_without(HEAVY, "predict", path, photos / "0.png")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_missing_engine_says_what_to_type(made, photos):
    done = dualtoken_without((*HEAVY, "onnxruntime", "openvino"), "predict", made() / "model.onnx", photos / "0.png")
    assert done.returncode == 2
    assert "pip install 'dualtoken[runtime]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_package_has_an_extra_that_brings_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {"sklearn": "scikit-learn"}
    for module, extra in cli.EXTRAS.items():
        brought = " ".join(project["optional-dependencies"][extra]).lower().replace("-", "_")
        assert names.get(module, module).lower().replace("-", "_") in brought, module
    from dualtoken.export import FORMATS

    named = {entry.extra for entry in ENGINES.values()} | {form.extra for form in FORMATS.values()}
    assert named - {""} <= set(project["optional-dependencies"])  # some need nothing more
    for package in project["dependencies"]:
        assert package.split(">")[0] in ("numpy", "pillow", "pyyaml", "typer", "rich", "pydantic")


def test_text_in_pictures_without_matplotlib():
    code = (
        "from dualtoken.report import fonts\n"
        "font = fonts.font_for(['cat'], 20)\n"
        "assert font.getlength('cat') > 20\n"
        "assert fonts.drawable('cat') == 'cat'\n"
        "assert fonts.drawable('a\\x07b') == 'a□b', fonts.drawable('a\\x07b')\n"
        "fonts._files.cache_clear(); fonts._FILES = ()\n"
        "assert fonts.drawable('c\\u4e2dt') == 'c□t'\n"
        "assert fonts.font_for(['cat'], 20).getlength('cat') > 20\n"
    )
    done = run_without(HEAVY, code)
    assert done.returncode == 0, done.stderr
