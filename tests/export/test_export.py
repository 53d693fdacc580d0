"""From a model folder to files of other engines, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import dualtoken
from conftest import copy_graph
from dualtoken.answers.agreement import _paired
from dualtoken.errors import ConfigError, ExportError, MissingExtraError, ModelError, OutputError
from dualtoken.export import FORMATS, check, export, export_network, formats, run, verify
from dualtoken.files import alone, together
from dualtoken.model_folder import ModelConfig
from dualtoken.outputs import Detections
from dualtoken.prediction.exported import from_json_text
from dualtoken.runtime import load


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.rglob("*")) if folder.exists() else []


def fingerprint(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def near(content):
    """The same to three digits, whatever it is made of."""
    if isinstance(content, dict):
        return {key: near(value) for key, value in content.items()}
    if isinstance(content, list):
        return [near(value) for value in content]
    return pytest.approx(content, abs=1e-3) if isinstance(content, float) else content


@pytest.fixture
def quick(monkeypatch, exported):
    """Exports of the classifier copy a network that was written before."""
    source = exported("classifier")
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=lambda piece, path: copy_graph(source, path)))


# ---------------------------------------------------------------- the same answers


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("classifier", ".onnx"),
        ("classifier", ".xml"),
        ("segmenter", ".onnx"),
        ("retinanet", ".onnx"),
        ("mask_rcnn", ".onnx"),
        pytest.param("segmenter", ".xml", marks=pytest.mark.slow),
        pytest.param("retinanet", ".xml", marks=pytest.mark.slow),
        pytest.param("mask_rcnn", ".xml", marks=pytest.mark.slow),
    ],
)
def test_every_task_answers_the_same(exported, model_of, name, suffix):
    path = exported(name, suffix)
    certificate = json.loads(path.with_name(f"{path.name}.parity.json").read_text())
    assert certificate["passed"]
    assert certificate["relative_error"] < 1e-4
    model, other = dualtoken.load(model_of(name), device="cpu"), load(path)
    picture = np.random.default_rng(1).integers(0, 256, (90, 70, 3), np.uint8)
    for batch in ([picture], [picture, picture[:50], picture[:, :30]]):
        for ours, theirs in zip(model.predict(batch), other.predict(batch), strict=True):
            assert type(ours) is type(theirs)
            if isinstance(ours, Detections):
                pairs = np.array(_paired(ours, theirs), np.int64).reshape(-1, 2)
                assert len(pairs) >= max(len(ours), len(theirs)) - 1  # one may stand at the threshold
                np.testing.assert_allclose(ours.boxes[pairs[:, 0]], theirs.boxes[pairs[:, 1]], atol=1e-2)
                np.testing.assert_allclose(ours.scores[pairs[:, 0]], theirs.scores[pairs[:, 1]], atol=1e-3)
            else:
                assert near(ours.to_dict()) == near(theirs.to_dict())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("name", ["fcos", "faster_rcnn"])
def test_the_other_detectors_answer_the_same(exported, name, suffix):
    assert exported(name, suffix).exists()


@pytest.mark.parametrize("name", ["classifier", pytest.param("mask_rcnn", marks=pytest.mark.slow)])
def test_programs_of_torch_answer_the_same(exported, name):
    path = exported(name, ".pt2")
    assert load(path, trust=True).export.engine == "torch"
    assert path.with_name(f"{path.name}.json").is_file()


def test_one_and_three_images_at_once(exported):
    engine = load(exported("classifier")).engine
    images = np.random.default_rng(0).normal(size=(3, 3, 64, 96)).astype(np.float32)
    (together,) = engine.run("network", [images])
    alone = [engine.run("network", [images[i : i + 1]])[0] for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


@pytest.mark.slow
def test_an_open_size_runs_at_several(model_of, tmp_path):
    result = export(model_of("segmenter"), tmp_path / "m.onnx", dynamic_size=True, progress=False)
    assert result.parity.cases == ["images of 64 x 128", "images of 128 x 64"]
    exported = load(result.path)
    assert exported.export.info.dynamic_size
    for size in ((32, 64), (160, 96)):
        (logits,) = exported.engine.run("network", [np.zeros((1, 3, *size), np.float32)])
        assert logits.shape == (1, 3, *size)


def test_another_size_on_request(model_of, tmp_path):
    result = export(model_of("segmenter"), tmp_path / "m.onnx", image_size=(96, 64), progress=False)
    assert load(result.path).config.preprocessing.image_size == (96, 64)
    assert any("96 x 64" in note for note in verify(result.path, model_of("segmenter")).notes)
    with pytest.raises(ConfigError, match="multiples of 32"):
        export(model_of("segmenter"), tmp_path / "n.onnx", image_size=100)


# ---------------------------------------------------------------- the model stays


def test_the_model_in_memory_stays(model_of):
    predictor = dualtoken.load(model_of("classifier"), device="cpu")
    predictor.model.train()
    before, dtype = fingerprint(predictor.model), next(predictor.model.parameters()).requires_grad
    modules = [type(module) for module in predictor.model.modules()]
    from dualtoken.export.pieces import merged, pieces

    assert fingerprint(merged(predictor.model)) != before  # or the test below says nothing
    for piece in pieces(merged(predictor.model), (64, 96)):
        piece.program()
    assert predictor.model.training
    assert fingerprint(predictor.model) == before
    assert [type(module) for module in predictor.model.modules()] == modules
    assert next(predictor.model.parameters()).requires_grad == dtype


def test_export_leaves_a_loaded_model_as_it_was(model_of, tmp_path, quick):
    predictor = dualtoken.load(model_of("classifier"), device="cpu")
    predictor.model.train()  # batch norms would learn from the pictures
    before, flags = fingerprint(predictor.model), [module.training for module in predictor.model.modules()]
    result = export(predictor, tmp_path / "m.onnx", progress=False)
    assert fingerprint(predictor.model) == before
    assert [module.training for module in predictor.model.modules()] == flags
    assert any(flags)
    assert load(result.path).export.info.weights_sha256  # its folder is known


# ---------------------------------------------------------------- what travels with it


def test_everything_travels(exported, model_of):
    model = onnx.load(str(exported("retinanet")))
    entries = {entry.key: entry.value for entry in model.metadata_props}
    config, info = from_json_text(entries["dualtoken"])
    assert config == ModelConfig.from_json(json.loads((model_of("retinanet") / "config.json").read_text()))
    assert (info.format, info.exporter, info.precision, info.dynamic_batch) == (
        "onnx", "torch.onnx dynamo", "fp32", True,
    )  # fmt: skip
    weights = (model_of("retinanet") / "model.safetensors").read_bytes()
    assert info.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert {"torch", "onnx", "onnxscript", "onnxruntime", "dualtoken"} <= set(info.versions)
    assert entries["model_info labels"] == "cat dog big_bird"
    assert entries["model_info label_ids"] == "0 1 2"
    assert entries["model_info mean_values"] == "102 127.5 114.75"
    assert entries["model_info scale_values"] == "58.395 57.12 57.375"
    assert entries["model_info resize_type"] == "fit_to_window_letterbox"
    assert entries["model_info pad_value"] == "115"
    assert entries["model_info reverse_input_channels"] == "False"
    assert entries["model_info confidence_threshold"] == "0.3"
    assert entries["model_info iou_threshold"] == "0.5"
    assert entries["model_info task_type"] == "detection"
    assert [node.name for node in model.graph.input] == ["images"]
    assert [node.name for node in model.graph.output] == ["scores", "deltas"]


def test_openvino_reads_what_travels_with_its_files(exported):
    import openvino

    path = exported("classifier", ".xml")
    model = openvino.Core().read_model(str(path))
    assert model.get_rt_info(["model_info", "model_type"]).astype(str) == "Classification"
    assert model.get_rt_info(["model_info", "labels"]).astype(str) == "cat dog big_bird"
    config, info = from_json_text(model.get_rt_info(["dualtoken"]).astype(str))
    assert config.classes == ("cat", "dog", "big bird")
    assert set(info.sha256) == {"classifier.bin"}


def test_no_path_of_this_machine_is_in_the_file(exported):
    for suffix in (".onnx", ".xml", ".pt2"):
        content = exported("classifier", suffix).read_bytes()
        assert b"/dualtoken/backbone" not in content
        assert b"site-packages" not in content


def test_what_is_known_of_training_travels_without_its_paths(model_of, tmp_path, quick):
    folder = shutil.copytree(model_of("classifier"), tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    content["dualtoken"]["provenance"] = {
        "command": "dualtoken train /home/anna/photos",
        "data": {"source": "/mnt/a/b"},
    }
    (folder / "config.json").write_text(json.dumps(content))
    file = export(folder, tmp_path / "m.onnx", progress=False).path
    told = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}["dualtoken"]
    assert from_json_text(told)[0].provenance == {"command": "dualtoken train photos", "data": {"source": "b"}}


def test_parts_of_a_two_stage_detector_lie_beside_it(exported):
    path = exported("mask_rcnn")
    assert names(path.parent) == [
        "mask_rcnn.boxes.onnx", "mask_rcnn.masks.onnx", "mask_rcnn.onnx", "mask_rcnn.onnx.parity.json",
    ]  # fmt: skip
    path.with_name("mask_rcnn.masks.onnx").write_bytes(b"another")
    with pytest.raises(ModelError, match=r"mask_rcnn\.masks\.onnx"):
        load(path)


# ---------------------------------------------------------------- whole or not at all


def test_disturbed_weights_are_found_and_nothing_is_written(model_of, exported, tmp_path, monkeypatch):
    source = exported("classifier")

    def disturb(piece, path):
        model = onnx.load(str(source))
        weights = next(entry for entry in model.graph.initializer if entry.name.endswith("head.weight"))
        values = onnx.numpy_helper.to_array(weights) * 1.001
        weights.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), weights.name))
        onnx.save(model, str(path))

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=disturb))
    with pytest.raises(ExportError, match=r"predictions differ.*'invented-.*limit 1e-04.*Nothing was written"):
        export(model_of("classifier"), tmp_path / "new" / "m.onnx", progress=False)
    assert names(tmp_path / "new") == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("settings", ["checked", "not checked"])
def test_other_constants_are_found_and_nothing_is_written(model_of, quick, tmp_path, monkeypatch, settings):
    def text(config, info):
        other = replace(config.preprocessing, mean=(0.4, 0.5, 0.46))
        return real(replace(config, preprocessing=other), info)

    real = run.to_json_text
    monkeypatch.setattr(run, "to_json_text", text)
    if settings == "not checked":
        monkeypatch.setattr(check._Check, "_check_settings", lambda self: None)
    message = "its preprocessing is" if settings == "checked" else "pre-process differently"
    with pytest.raises(ExportError, match=message):
        export(model_of("classifier"), tmp_path / "m.onnx", progress=False)
    assert names(tmp_path) == [name for name in names(tmp_path) if name.startswith(("copy-of", "classifier"))]


@pytest.mark.parametrize("there", ["m.onnx", "m.boxes.onnx", "m.masks.onnx", "m.onnx.json", "m.onnx.parity.json"])
def test_nothing_is_written_over(model_of, tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(OutputError, match=there.replace(".", r"\.")):
        export(model_of("classifier"), tmp_path / "m.onnx", progress=False)
    assert (tmp_path / there).read_text() == "mine"


def test_a_full_disk_is_said_and_leaves_nothing(model_of, tmp_path, monkeypatch):
    def write(piece, path):
        path.write_bytes(b"half")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("the exporter failed") from error

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=write))
    with pytest.raises(OutputError, match="no space is left"):
        export(model_of("classifier"), tmp_path / "new" / "m.onnx", progress=False)
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written(model_of, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        export(model_of("classifier"), tmp_path / "file" / "m.onnx", progress=False)


def test_ctrl_c_leaves_nothing(model_of, tmp_path, monkeypatch):
    def write(piece, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=write))
    with pytest.raises(KeyboardInterrupt):
        export(model_of("classifier"), tmp_path / "m.onnx", progress=False)
    assert names(tmp_path) == []


def test_a_failing_exporter_names_its_reason_and_others(model_of, tmp_path, monkeypatch):
    def write(piece, path):
        try:
            raise ValueError("no operator for aten::gelu\nlong story")
        except ValueError as error:
            raise RuntimeError("step 3 of 3 failed") from error

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=write))
    with pytest.raises(ExportError) as caught:
        export(model_of("classifier"), tmp_path / "m.onnx", progress=False)
    assert caught.value.message == "ONNX cannot hold this model: ValueError: no operator for aten::gelu."
    assert "openvino" in caught.value.hint
    assert "onnx," not in caught.value.hint
    assert "--dynamic-size" not in caught.value.hint
    with pytest.raises(ExportError) as caught:
        export(model_of("classifier"), tmp_path / "m.onnx", dynamic_size=True, progress=False)
    assert "without --dynamic-size" in caught.value.hint


def test_an_engine_that_fails_on_the_file_leaves_nothing(model_of, tmp_path, quick, monkeypatch):
    def fail(self, part, inputs):
        raise RuntimeError("bad node")

    monkeypatch.setattr("dualtoken.engines.onnx.OnnxEngine.run", fail)
    with pytest.raises(ExportError, match="fails to run it: RuntimeError: bad node"):
        export(model_of("classifier"), tmp_path / "m.onnx", progress=False)
    assert not (tmp_path / "m.onnx").exists()


# ---------------------------------------------------------------- what to type


def test_a_missing_package_says_what_to_install(model_of, tmp_path, monkeypatch):
    real = formats.importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    with pytest.raises(MissingExtraError, match="'onnxscript'") as caught:
        export(model_of("classifier"), tmp_path / "m.onnx")
    assert caught.value.hint == "Type: pip install 'dualtoken[onnx]'"


def test_format_and_suffix(model_of, tmp_path):
    assert formats.find_format(None, Path("a/m.xml")) == ("openvino", Path("a/m.xml"))
    assert formats.find_format(None, Path("m")) == ("onnx", Path("m.onnx"))
    assert formats.find_format("openvino", Path("v1.2")) == ("openvino", Path("v1.2.xml"))
    with pytest.raises(ConfigError, match=r"m\.onnx.*\.xml"):
        formats.find_format("openvino", Path("m.onnx"))
    with pytest.raises(ConfigError, match=r"ends in \.onx, which is no format\. Did you mean \.onnx\?"):
        formats.find_format(None, Path("m.onx"))
    with pytest.raises(ConfigError, match="Did you mean 'openvino'"):
        formats.find_format("openvin", Path("m"))
    with pytest.raises(ConfigError, match="Unknown format 'tflite'") as error:
        formats.find_format("tflite", Path("m"))
    assert "--format litert" in error.value.hint
    with pytest.raises(ConfigError, match="one size only"):
        export(model_of("classifier"), tmp_path / "m.tflite", dynamic_size=True)


def test_formats_have_different_suffixes():
    assert len({form.suffix for form in FORMATS.values()}) == len(FORMATS)


def test_an_exported_model_cannot_be_exported(exported, tmp_path):
    with pytest.raises(ModelError, match="not a model in torch"):
        export(load(exported("classifier")), tmp_path / "m.onnx")


# ---------------------------------------------------------------- bare networks


def test_a_bare_network(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 8, 2)).eval()
    path = export_network(network, tmp_path / "new" / "n.onnx", (8, 10))
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    images = torch.randn(5, 3, 8, 10)
    (found,) = session.run(["logits"], {"images": images.numpy()})
    np.testing.assert_allclose(found, network(images).detach().numpy(), atol=1e-5)


def test_mixing_is_spelt_out_for_engines_without_a_word_for_it():
    from dualtoken.export.pieces import pieces

    class Mixed(torch.nn.Module):
        def forward(self, images):
            return torch.lerp(images * 2, images.mean((2, 3), keepdim=True).expand_as(images), 0.3) + 1

    (piece,) = pieces(Mixed(), (8, 8))
    program = piece.program()
    assert "lerp" not in str(program.graph)
    images = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(program.module()(images), Mixed()(images))


def test_attention_within_windows_can_be_exported(tmp_path):
    class Windows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.randn(2, 3, 3))

        def forward(self, x):
            x = x.unflatten(2, (4, 3)).permute(0, 2, 1, 3, 4)  # (B, windows, heads, tokens, channels)
            kept = torch.ones(3, 3, dtype=torch.bool).tril()
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(x, x, x, attn_mask=self.bias) + attend(x, x + 1, x, attn_mask=kept)

    network, images = Windows().eval(), torch.randn(3, 2, 12, 8)
    path = export_network(network, tmp_path / "n.onnx", (12, 8), channels=2)
    import onnxruntime

    (found,) = onnxruntime.InferenceSession(str(path)).run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found, network(images).detach().numpy(), atol=1e-5)


def test_an_export_can_be_moved(tmp_path, exported):
    path = exported("classifier", ".xml")
    moved = shutil.move(path.parent, tmp_path / "moved")
    assert load(Path(moved) / path.name).classes == ("cat", "dog", "big bird")


def test_two_exports_into_one_place(tmp_path):
    place, said = tmp_path / "model.onnx", "being written by process"
    with alone(place), pytest.raises(OutputError, match=said), together(place):
        pass
    with together(tmp_path / "model.onnx") as folder:
        (folder / "model.onnx").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
