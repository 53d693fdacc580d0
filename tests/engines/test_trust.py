"""Files that are opened cannot run code, and those of formats that can are not opened unless they are trusted."""

import pickle
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from small_exports import Made
from typer.testing import CliRunner

from conftest import invent_image
from dualtoken.cli import app
from dualtoken.engines import ENGINES
from dualtoken.errors import ModelError
from dualtoken.export.bundle import write_bundle
from dualtoken.prediction import load
from dualtoken.prediction.exported import read_export, sidecar, to_json_text


class Payload:
    """What makes a file as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def made(once) -> Made:
    return Made(once)


@pytest.fixture
def program(made, tmp_path):
    """A function that writes a small program of torch.export, with a payload or without."""

    def write(mark: Path | None = None) -> Path:
        class Means(torch.nn.Module):
            def forward(self, images):
                return images.mean((2, 3))

        path = tmp_path / "model.pt2"
        program = torch.export.export(Means(), (torch.rand(1, 3, 96, 64),))
        program.example_inputs = None
        torch.export.save(program, path)
        sidecar(path).write_text(to_json_text(*read_export(made() / "model.onnx")), encoding="utf-8")
        if mark:
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            name = next(name for name in members if "sample_inputs" in name)
            members[name] = pickle.dumps(Payload(mark))
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
        return path

    return write


def test_a_program_of_torch_runs_nothing_unless_it_is_trusted(program, tmp_path):
    mark = tmp_path / "mark"
    path = program(mark)
    with pytest.raises(ModelError, match=r"could run code of whoever made it.*unpickles.*\n.*--trust"):
        load(path)
    assert not mark.exists()
    with suppress(ModelError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        load(path, trust=True)
    assert mark.exists()  # or the test would show nothing


def test_every_verb_that_opens_models_asks_for_trust(program, made, tmp_path):
    path, photo = str(program()), str(tmp_path / "photo.png")
    invent_image(0, 0).save(photo)
    for arguments in (
        ["predict", path, photo], ["evaluate", path, photo], ["compare", path, path, photo],
        ["verify", path, str(made() / "model")],
    ):  # fmt: skip
        refused = CliRunner().invoke(app, arguments)
        assert "--trust" in refused.exception.hint
    assert CliRunner().invoke(app, ["predict", path, photo, "--trust"]).exit_code == 0


def test_a_bundle_says_that_its_own_file_is_trusted(program, tmp_path):
    folder = write_bundle(program(), tmp_path / "bundle")
    assert "load(MODEL, trust=True)" in (folder / "predict.py").read_text()
    assert "--trust" in (folder / "README.md").read_text()


def test_formats_that_run_code_are_known():
    assert [name for name, kind in ENGINES.items() if kind.runs_code] == ["torch"]


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("place", ["../secret.bin", "ABSOLUTE", "link.bin"])
def test_weights_come_from_the_exports_own_folder(tmp_path, engine, place):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(3, dtype=np.float32).tobytes())
    path = tmp_path / "model" / "model.onnx"
    path.parent.mkdir()
    (path.parent / "link.bin").symlink_to(secret)
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": place.replace("ABSOLUTE", str(secret)), "offset": "0", "length": "12"}.items():
        weights.external_data.add(key=key, value=value)
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", shapes[:1], shapes[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="cannot load"):
        ENGINES[engine].open({"network": path})


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_operators_of_a_library_are_refused(tmp_path, engine):
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Run", ["x"], ["y"], domain="evil")], "g", shapes[:1], shapes[1:])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("evil", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="cannot load"):
        ENGINES[engine].open({"network": tmp_path / "m.onnx"})
