"""Shared fixtures: invented image folders, no network, few threads."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"


@pytest.fixture(autouse=True)
def _few_torch_threads() -> None:
    """Keep torch at two threads in tests that use it, without importing it in those that do not."""
    if "torch" in sys.modules:
        import torch

        if torch.get_num_threads() > 2:
            torch.set_num_threads(2)


def invent_image(label: int, number: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A noisy RGB image of `size` (width, height) whose colour tells `label`: classes can be learned."""
    rng = np.random.default_rng([label, number])
    colour = np.random.default_rng(label + 1000).integers(40, 216, 3)
    pixels = colour + rng.integers(-40, 41, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_class_folders(
    root: Path,
    classes: int | tuple[str, ...] = ("cat", "dog"),
    per_class: int = 4,
    size: int | tuple[int, int] = 32,
    suffix: str = ".jpg",
    first: int = 0,
) -> Path:
    """Write `root/CLASS/NUMBER.jpg`: `per_class` images each, numbered (and invented) from `first` on."""
    if isinstance(classes, int):
        classes = tuple(f"class_{i}" for i in range(classes))
    size = (size, size) if isinstance(size, int) else size
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + per_class):
            invent_image(label, number, size).save(root / name / f"{number:04d}{suffix}")
    return root


MakeImageFolder = Callable[..., Path]


@pytest.fixture
def make_image_folder(tmp_path: Path) -> MakeImageFolder:
    """A function that writes invented class folders under tmp_path and returns their root.

    `make_image_folder(classes=("cat", "dog") or a number, per_class=4, size=32, suffix=".jpg",
    name="images", splits=())`; with `splits=("train", "val")` there are `name/SPLIT/CLASS/*.jpg`
    with other images in each split.
    """

    def make(
        classes: int | tuple[str, ...] = ("cat", "dog"),
        per_class: int = 4,
        size: int | tuple[int, int] = 32,
        suffix: str = ".jpg",
        name: str = "images",
        splits: tuple[str, ...] = (),
    ) -> Path:
        root = tmp_path / name
        if not splits:
            return write_class_folders(root, classes, per_class, size, suffix)
        for number, split in enumerate(splits):
            write_class_folders(root / split, classes, per_class, size, suffix, first=number * per_class)
        return root

    return make


@pytest.fixture
def image_folder(make_image_folder: MakeImageFolder) -> Path:
    """Two classes, four 32-pixel JPEGs each."""
    return make_image_folder()


# ---------------------------------------------------------------- exports, for tests/export


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in MODELS to its model folder."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        from export_models import make_model

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
