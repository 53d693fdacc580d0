"""An engine with its export format from outside: registered, and then known to every verb that opens models."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from small_exports import small_model

from conftest import write_class_folders
from dualtoken import cli
from dualtoken.engines import ENGINES, EngineKind
from dualtoken.errors import ConfigError
from dualtoken.export import FORMATS, Format, export
from dualtoken.prediction import load


class SlowEngine:
    """ONNX's own reference, in plain Python."""

    def __init__(self, files: Mapping[str, Path], *, threads: int | None = None) -> None:
        self.parts = {part: ReferenceEvaluator(str(path)) for part, path in files.items()}

    def run(self, part: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        evaluator = self.parts[part]
        return list(evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=True))))


@pytest.fixture
def slow(monkeypatch) -> None:
    """What the package of somebody else would do once, for the length of a test."""
    monkeypatch.setitem(ENGINES, "slow", EngineKind((".slow",), "onnx", "onnx", SlowEngine))
    write = FORMATS["onnx"].write
    monkeypatch.setitem(FORMATS, "slow", Format("the reference", ".slow", write, "onnx", ("torch", "onnx"), "onnx"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return small_model(tmp_path_factory.mktemp("slow") / "model")


@pytest.fixture
def run(monkeypatch, capsys) -> Iterator:
    """A function that runs the command line, and gives its exit code with what it said."""

    def typed(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["dualtoken", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out + said.err

    return typed


def test_an_engine_of_somebody_else_serves_every_verb(slow, model, run, tmp_path):
    photos = write_class_folders(tmp_path / "photos", ("cat", "dog", "café"), per_class=1)
    path, photo = tmp_path / "new" / "model.slow", next(photos.rglob("*.jpg"))
    code, said = run("export", model, "--format", "slow", "--output", path, "--images", photo)
    assert (code, "Parity passed" in said) == (0, True), said
    assert {file.name for file in path.parent.iterdir()} == {
        "model.slow", "model.slow.json", "model.slow.parity.json",
    }  # fmt: skip
    for arguments, expected in (
        (["verify", path, model, "--images", photo], "Parity passed"),
        (["predict", path, photo], "1 image"),
        (["evaluate", path, photos, "--workers", "0"], "Top-1 accuracy"),
        (["compare", model, path, photos, "--workers", "0"], "not distinguishable"),
        (["runtime-bundle", path, "--output", tmp_path / "bundle"], "requirements.txt"),
    ):
        code, said = run(*arguments)
        assert code == 0, said
        assert expected.lower() in said.lower(), said
    for verb in ("export", "verify"):
        assert "slow" in run(verb, "--help")[1]
    assert load(path).export.engine == "slow"


def test_it_is_in_the_lists_of_messages(slow, model, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'slow'"):
        export(model, tmp_path / "m", format="slwo")
    with pytest.raises(ConfigError, match=r"does not run \.onnx files"):
        (tmp_path / "m.onnx").write_bytes(export(model, tmp_path / "n.onnx", progress=False).path.read_bytes())
        load(tmp_path / "m.onnx", engine="slow")


def test_a_plugin_is_imported_when_a_table_is_first_read(monkeypatch):
    from dualtoken import registry

    class Point:
        def load(self) -> None:
            ENGINES["late"] = EngineKind((".late",), "onnx", "onnx", SlowEngine)

    registry._import_plugins.cache_clear()
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: [Point()] if group == registry.PLUGINS else [])
    monkeypatch.setattr(ENGINES, "_read", False)
    try:
        assert "late" in ENGINES
    finally:
        ENGINES.pop("late", None)
        registry._import_plugins.cache_clear()
