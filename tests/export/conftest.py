"""Small trained-looking models of every task, and their exports, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from export_models import make_model


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in MODELS to its model folder."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = make_model(tmp_path_factory.mktemp("model") / name, name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def _exports(tmp_path_factory: pytest.TempPathFactory, model_of: Callable[[str], Path]) -> Callable[[str, str], Path]:
    made: dict[tuple[str, str], Path] = {}

    def get(name: str, suffix: str) -> Path:
        from dualtoken.export import export

        if (name, suffix) not in made:
            output = tmp_path_factory.mktemp("export") / f"{name}{suffix}"
            made[name, suffix] = export(model_of(name), output, progress=False).path
        return made[name, suffix]

    return get


@pytest.fixture
def exported(_exports: Callable[[str, str], Path], tmp_path: Path) -> Callable[..., Path]:
    """`exported("classifier", ".onnx")`: a copy of that export, with all that belongs to it, in a folder of its own."""

    def copy(name: str, suffix: str = ".onnx") -> Path:
        source = _exports(name, suffix)
        folder = tmp_path / f"copy-of-{source.name}"
        if not folder.exists():
            shutil.copytree(source.parent, folder)
        return folder / source.name

    return copy
