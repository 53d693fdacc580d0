"""A model without weights: red, green or blue, whatever a picture has most of. It needs neither torch nor a file."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dualtoken.engines import ENGINES, MAIN, EngineKind
from dualtoken.model_folder import ModelConfig
from dualtoken.prediction import Predictor
from dualtoken.prediction.exported import ExportInfo, sidecar, to_json_text
from dualtoken.preprocess import Preprocessing

CLASSES = ("red", "green", "blue")
CONFIG = ModelConfig("colours", CLASSES, Preprocessing((8, 8), 1.0, "squash", mean=(0.0,) * 3, std=(1.0,) * 3))


@dataclass
class Colours:
    """An engine that can be held: runs wait for `free`, and `held` says that one does."""

    free: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free.set()

    def run(self, part: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.held.set()
        assert self.free.wait(30)
        (images,) = inputs
        self.batches.append(len(images))
        if (images.mean((1, 2, 3)) > 0.99).any():
            raise RuntimeError("secret: white is too bright")
        return [10 * images.mean((2, 3))]

    def model(self) -> Predictor:
        return Predictor(self, CONFIG, name="colours")


def picture(colour: str, size: tuple[int, int] = (20, 10), kind: str = "PNG") -> bytes:
    """The file of a picture in one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def write_export(folder: Path, name: str = "colours") -> Path:
    """The model as an exported file, for processes that import this module as a plug-in."""
    path = folder / f"{name}.colours"
    path.write_bytes(b"")
    sidecar(path).write_text(to_json_text(CONFIG, ExportInfo("colours", "by hand")), "utf-8")
    return path


@dataclass
class Gated(Colours):
    """Its runs wait while there is a pipe beside the file; who writes to it lets them go."""

    gate: Path = Path()

    def run(self, part: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert "torch" not in sys.modules
        with suppress(FileNotFoundError):
            self.gate.read_bytes()
        return super().run(part, inputs)


ENGINES["colours"] = EngineKind(
    (".colours",), "json", "", lambda files, threads=None: Gated(gate=files[MAIN].with_name("gate"))
)
