"""Shared fixtures: invented image folders, no network, few threads."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
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


# ---------------------------------------------------------------- the processes of the suite


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each process gets a half of the files in their order, so that what a file's tests share is made once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """`once(name, make)`: the folder that `make(folder)` filled, in whichever process of the suite came first."""
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "once"

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder, half = root / name, root / f"{name}.half"
        root.mkdir(exist_ok=True)
        with FileLock(root / f"{name}.lock"):
            if not folder.is_dir():
                shutil.rmtree(half, ignore_errors=True)  # of one that failed
                half.mkdir()
                make(half)
                half.rename(folder)
        return folder

    return get


# ---------------------------------------------------------------- exports, for tests/export


@pytest.fixture(scope="session")
def model_of(once: MakeOnce) -> Callable[[str], Path]:
    """A function from a name in MODELS to its model folder."""

    def get(name: str) -> Path:
        from export_models import make_model

        return once(f"model-{name}", lambda folder: make_model(folder / name, name)) / name

    return get


def copy_graph(source: Path, path: Path) -> None:
    """What was exported, as the exporter left it: without what the model is."""
    import onnx

    model = onnx.load(str(source))
    del model.metadata_props[:]
    onnx.save(model, str(path))


@pytest.fixture(scope="session")
def _exports(once: MakeOnce, model_of: Callable[[str], Path]) -> Callable[[str, str], Path]:
    def get(name: str, suffix: str) -> Path:
        from dualtoken.export import export
        from dualtoken.export.formats import onnx

        def make(folder: Path) -> None:
            with pytest.MonkeyPatch.context() as patch:
                if (name, suffix) == ("classifier", ".xml"):  # OpenVINO converts a graph that takes long to trace
                    graph = get(name, ".onnx")
                    patch.setattr(onnx, "write", lambda piece, path: copy_graph(graph, path))
                export(model_of(name), folder / f"{name}{suffix}", progress=False)

        return once(f"export-{name}{suffix}", make) / f"{name}{suffix}"

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


def draw_labels(folder: Path) -> Path:
    """Images of each combination of three classes, but of one where there is none."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), ["path,labels"]
    for number in range(24):
        pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        names = [name for place, name in enumerate(("red", "green", "blue")) if number >> place & 1]
        for place, name in enumerate(("red", "green", "blue")):
            pixels[10 * place : 10 * place + 10, :, place] += 150 * (name in names)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        rows.append(f"{number:02d}.png,{';'.join(names)}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder / "labels.csv"


@pytest.fixture
def data_of(tmp_path, make_image_folder) -> Callable[[str], Path]:
    """Small invented data of a task, by its name."""

    def get(task: str) -> Path:
        if task == "classification":
            return make_image_folder(classes=("cat", "dog", "emu"), per_class=8)
        if task == "multilabel":
            return draw_labels(tmp_path / "labels")
        from test_train_boxes_and_masks import draw_pictures

        return draw_pictures(tmp_path / "pictures")

    return get
