"""Data for runs of every task."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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
        from test_train_boxes_and_masks import draw_scenes

        return draw_scenes(tmp_path / "scenes")

    return get
