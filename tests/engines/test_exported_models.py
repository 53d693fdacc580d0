"""An exported model answers as the one that it came from; whatever is wrong with a file is said."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_exports import CLASSES, HEADS, Made, add_text

import dualtoken
from conftest import invent_image
from dualtoken.data import find_data
from dualtoken.engines import KEY
from dualtoken.errors import ConfigError, MissingExtraError, ModelError
from dualtoken.evaluation import compare, evaluate
from dualtoken.files import digest
from dualtoken.prediction import Predictor
from dualtoken.prediction import load as load_any
from dualtoken.prediction.exported import ExportInfo, from_json_text, read_export, sidecar, to_json_text
from dualtoken.runtime import ENGINES, load

QUICK = ["classification", "instance_segmentation"]
TASKS = [task if task in QUICK else pytest.param(task, marks=pytest.mark.slow) for task in HEADS]
IMAGES = [invent_image(label, 0, size) for label, size in enumerate([(50, 70), (64, 96), (130, 40)])]


@pytest.fixture(scope="module")
def made(once) -> Made:
    return Made(once)


@pytest.fixture
def copied(made, tmp_path):
    """A function that copies an export, with its companions, to where it can be damaged."""

    def copy(task: str = "classification") -> Path:
        for file in made(task).glob("*.onnx"):
            shutil.copy(file, tmp_path)
        return tmp_path / "model.onnx"

    return copy


def rewritten(path: Path, **changes) -> Path:
    """The export with another text in it."""
    config, info = read_export(path)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    content = json.loads(to_json_text(config, info))
    content["export"] |= changes
    add_text(path, json.dumps(content))
    return path


def same(one, other) -> None:
    assert type(one) is type(other)
    if hasattr(one, "probabilities"):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    elif hasattr(one, "mask") and hasattr(one, "confidence"):
        assert (one.mask == other.mask).all()
    else:
        assert one.names() == other.names()
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        assert (one.masks is None) == (other.masks is None)
        for mask, twin in zip(one.masks or (), other.masks or (), strict=True):
            assert (mask != twin).mean() < 0.01


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("task", TASKS)
def test_answers_are_those_of_the_model_folder(made, task, engine):
    folder = made(task)
    exported = load(folder / "model.onnx", engine=engine, threads=1)
    original = load_any(folder / "model", device="cpu")
    assert exported.export.engine == engine
    assert exported.classes == original.classes == CLASSES
    answers, expected = exported.predict(IMAGES), original.predict(IMAGES)
    for answer, truth in zip(answers, expected, strict=True):
        same(answer, truth)
    if task == "classification":
        assert len({round(answer.score, 3) for answer in answers}) == len(IMAGES)  # else anything would agree
    for image, answer in zip(IMAGES, answers, strict=True):  # alone as in a batch
        same(exported.predict(image), answer)


def test_the_same_inputs_give_the_same_bits(made):
    for engine in ("onnx", "openvino"):
        runs = [load(made() / "model.onnx", engine=engine).predict(IMAGES) for _ in range(2)]
        for one, other in zip(*runs, strict=True):
            assert (one.probabilities == other.probabilities).all()


def test_it_is_a_predictor_and_evaluates_without_more_code(made, make_image_folder):
    export, folder = made() / "model.onnx", made() / "model"
    exported = dualtoken.load(export)
    assert isinstance(exported, Predictor)
    assert exported.name == str(export)
    root = make_image_folder(classes=CLASSES, per_class=3)
    options = {"workers": 0, "progress": False, "resamples": 50}
    ours, theirs = evaluate(export, root, **options), evaluate(folder, root, **options)
    assert ours.metrics["top1"].value == theirs.metrics["top1"].value
    np.testing.assert_allclose(ours.images.score, theirs.images.score, atol=1e-5)
    assert compare(folder, export, root, **options).better_a == 0
    samples = find_data(root, val_fraction=0, progress=False).splits["all"]
    for (row, answer), (other_row, other) in zip(
        exported.answers(samples, progress=False), load_any(folder).answers(samples, progress=False), strict=True
    ):
        assert row == other_row
        same(answer, other)


def test_one_image_at_a_time_where_the_batch_is_fixed(copied, monkeypatch):
    path = copied()
    expected = load(path).predict(IMAGES)
    exported = load(rewritten(path, dynamic_batch=False))
    sizes = []
    run = exported.engine.run
    monkeypatch.setattr(
        exported.engine, "run", lambda part, inputs: (sizes.append(len(inputs[0])), run(part, inputs))[1]
    )
    for answer, truth in zip(exported.predict(IMAGES), expected, strict=True):
        same(answer, truth)
    assert sizes == [1, 1, 1]


def test_half_precision_goes_in_and_comes_out_as_float32(tmp_path):
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["logits"]),
        ],
        "half",
        [helper.make_tensor_value_info("images", half, ["b", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", half, ["b", 3])],
    )
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    images = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    for engine in ("onnx", "openvino"):
        made = ENGINES[engine].open({"network": path}, threads=1)
        (logits,) = made.run("network", [images])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, images.mean((2, 3)), atol=2e-3)


# ---------------------------------------------------------------- what a file says about itself


def test_the_text_comes_back_as_it_went_in(made):
    config = load_any(made() / "model").config
    info = ExportInfo(
        "litert", "litert-torch 1", "int8", False, True, {"boxes": "b.x"}, {"b.x": "0"}, {"torch": "2"}, "f"
    )
    read_config, read_info = from_json_text(to_json_text(config, info))
    assert read_info == info
    assert read_config.to_json() == config.to_json()


def test_texts_of_a_later_version_or_of_others_are_refused(made):
    config, info = read_export(made() / "model.onnx")
    later = json.loads(to_json_text(config, info)) | {"format": 2}
    with pytest.raises(ModelError, match=r"m\.onnx' has format 2.*\n.*--upgrade"):
        from_json_text(json.dumps(later), "m.onnx")
    for text in ("", "[]", "{}", '{"format": 1}', '{"format": "1"}'):
        with pytest.raises(ModelError, match=r"^'m\.onnx'"):
            from_json_text(text, "m.onnx")
    for name in ("../b.onnx", "/etc/passwd", "a\\b", ""):
        outside = json.loads(to_json_text(config, info))
        outside["export"]["parts"] = {"boxes": name}
        with pytest.raises(ModelError, match="not the name of a file beside"):
            from_json_text(json.dumps(outside))


def test_openvino_files_carry_it_too(made, tmp_path):
    import openvino

    config, info = read_export(made() / "model.onnx")
    model = openvino.Core().read_model(str(made() / "model.onnx"))
    path = tmp_path / "model.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    info = replace(info, format="openvino", sha256={"model.bin": digest(tmp_path / "model.bin")})
    model.set_rt_info(to_json_text(config, info), KEY)
    openvino.save_model(model, path, compress_to_fp16=False)
    assert read_export(path)[1] == info
    same(load(path).predict(IMAGES[0]), load_any(made() / "model").predict(IMAGES[0]))
    (tmp_path / "model.bin").write_bytes(b"other")
    with pytest.raises(ModelError, match=r"model\.bin.*is not the file that 'model\.xml' was exported with"):
        load(path)
    path.write_text(path.read_text()[:2000])
    with pytest.raises(ModelError, match="not a whole"):
        load(path)


def test_formats_without_a_place_have_a_file_beside(made, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"TFL3")
    with pytest.raises(ModelError, match="was not written by `dualtoken export`"):
        read_export(path)
    (tmp_path / "model.boxes.tflite").write_bytes(b"TFL3")
    with pytest.raises(ModelError, match=r"is one part of an exported model") as error:
        read_export(tmp_path / "model.boxes.tflite")
    assert error.value.hint == f"Give the whole: {path}"
    text = to_json_text(*read_export(made() / "model.onnx"))
    sidecar(path).write_text(text, encoding="utf-8")
    assert sidecar(path).name == "model.tflite.json"
    assert read_export(path)[0].classes == CLASSES


# ---------------------------------------------------------------- what can be wrong


def test_foreign_files_are_refused(made, tmp_path):
    path = tmp_path / "foreign.onnx"
    model = onnx.load(made() / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, path)
    add_text(path, "hello", key="someone")
    with pytest.raises(ModelError, match=r"not written by `dualtoken export`[^\n]*\nType: dualtoken export MODEL"):
        load(path)
    path.write_text("no onnx at all\n" * 20)
    with pytest.raises(ModelError, match=r"not a whole ONNX file|not written by"):
        load(path)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(copied, share):
    path = copied()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match="its end is missing") as caught:
        load(path)
    assert caught.value.hint


def test_damage_inside_is_refused(copied):
    path = copied()
    content = bytearray(path.read_bytes())
    content[200:5000] = bytes(4800)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot load|end is missing"):
        load(path)


def test_companions_must_be_there_and_unchanged(copied):
    path = copied("instance_segmentation")
    boxes = path.with_name("model.boxes.onnx")
    content = boxes.read_bytes()
    boxes.unlink()
    with pytest.raises(ModelError, match=r"needs 'model\.boxes\.onnx' beside it[^\n]*\nCopy all files"):
        load(path)
    boxes.write_bytes(content[:-1] + b"x")
    with pytest.raises(ModelError, match="not the file that"):
        load(path)
    boxes.write_bytes(content)
    assert load(path).predict(IMAGES[0]).masks is not None


def test_a_text_cannot_reach_out_of_its_folder(copied, tmp_path):
    path = rewritten(copied(), sha256={"../../secret": "0"})
    with pytest.raises(ModelError, match="not the name of a file beside the export"):
        load(path)


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("none.onnx", "There is no file 'none.onnx'", "dualtoken export MODEL"),
        ("model.h5", "suffix is '.h5'", r"Those that do end in .*\.onnx, \.xml"),
        ("model.safetensors", "holds the weights of a model folder", "Give its folder"),
        ("model.mlpackage", "cannot be run here", "Core ML"),
        ("folder", "is a folder", "dualtoken.load"),
    ],
)
def test_other_paths_are_explained(tmp_path, monkeypatch, name, said, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for other in ("model.h5", "model.safetensors"):
        (tmp_path / other).write_bytes(b"x")
    with pytest.raises(ModelError, match=said) as caught:
        read_export(name)
    assert caught.match(hint)
    with pytest.raises(ModelError):
        load(name)


def test_engines_and_threads_are_checked(made, monkeypatch):
    path = made() / "model.onnx"
    with pytest.raises(ConfigError, match="Did you mean 'onnx'"):
        load(path, engine="onxx")
    with pytest.raises(ConfigError, match=r"'torch' does not run \.onnx files"):
        load(path, engine="torch")
    with pytest.raises(ConfigError, match="threads is 0"):
        load(path, threads=0)
    with pytest.raises(ConfigError, match="exported models run on the CPU"):
        dualtoken.load(path, device="cuda")
    find = "dualtoken.engines.importlib.util.find_spec"
    monkeypatch.setattr(find, lambda package: None if package == "onnxruntime" else True)
    assert load(path).export.engine == "openvino"  # what is installed
    monkeypatch.setattr(find, lambda package: None)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime' or 'openvino'.*\n.*dualtoken\[runtime\]"):
        load(path)


def test_functions_and_rooms_of_one_name():
    import dualtoken.export.formats
    import dualtoken.lab.rows
    from dualtoken.export import FORMATS

    assert "onnx" in FORMATS
    assert dualtoken.export.__name__ == "export"
    assert dualtoken.benchmark.__name__ == "benchmark"
    assert callable(dualtoken.export)


def test_the_import_is_light():
    code = (
        "import sys; import dualtoken.runtime\n"
        "heavy = {'torch', 'timm', 'onnxruntime', 'openvino', 'onnx', 'matplotlib', 'torchvision', 'pydantic'}\n"
        "from dualtoken.runtime import ENGINES, load, write_bundle\n"
        "from dualtoken.export import FORMATS\n"
        "assert set(FORMATS) == set(ENGINES)\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    start = time.process_time()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
    assert time.process_time() - start < 5  # of the waiting process; that of the other is not ours to measure here
